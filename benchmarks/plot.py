"""Bar charts as SVG text, without a library: they are small, and a diff shows what changed."""

from html import escape

from .report import number

WIDTH, LABEL, VALUE, BAR, GAP, TOP, BOTTOM = 760, 270, 90, 18, 8, 44, 30
QUEUES = ("OdooOps", "graphile-worker", "procrastinate")
COLOURS = ("#714b67", "#017e84", "#8f8f8f")


def bars(title, rows, marks=(), unit=""):
    """Horizontal bars.

    :param rows: (label, [values], text) each; several values of a row lie below each other
    :param marks: (value, label) of dashed lines, such as a target
    """
    values = [value for _label, row, _text in rows for value in row]
    values += [value for value, _label in marks]
    scale = (WIDTH - LABEL - VALUE) / (max(values, default=1) or 1)
    height = TOP + BOTTOM + sum(len(row) * BAR + GAP for _label, row, _text in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    y = TOP
    for label, row, text in rows:
        middle = y + len(row) * BAR / 2 + 4
        parts.append(
            f'<text x="{LABEL - 8}" y="{middle:.0f}" text-anchor="end">{escape(label)}</text>'
        )
        texts = text if isinstance(text, (list, tuple)) else [text]
        for index, value in enumerate(row):
            width = max(1, value * scale)
            parts.append(
                f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR - 3}"'
                f' fill="{COLOURS[index % len(COLOURS)]}"/>'
                f'<text x="{LABEL + width + 5:.1f}" y="{y + 12}">{escape(texts[index])}</text>'
            )
            y += BAR
        y += GAP
    for value, label in marks:
        x = LABEL + value * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - BOTTOM + 4}"'
            ' stroke="#c0392b" stroke-dasharray="4 3"/>'
            f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle" fill="#c0392b">'
            f"{escape(label)}</text>"
        )
    parts.append(f'<text x="{WIDTH - 10}" y="22" text-anchor="end">{escape(unit)}</text></svg>')
    return "\n".join(parts) + "\n"


def throughput(report):
    """Life cycles per second as shares of graphile-worker's; None without it."""
    queues = [row for row in report.rows if row.subject == "Life cycles" and row.name in QUEUES]
    sizes = [row for row in report.rows if row.subject == "Life cycles by size"]
    rows = [row for row in (*queues, *sizes) if row.value]
    peer = next((row.value for row in rows if row.name.startswith("graphile-worker")), None)
    if not peer:
        return None
    return bars(
        "Life cycles per second, graphile-worker = 1",
        [
            (row.name, [row.value / peer], f"{number(row.value / peer)} ({number(row.value)}/s)")
            for row in rows
        ],
        marks=[(0.3, "target 0.3")],
    )


def claim_latency(report):
    """p50 and p99 of a claim by finished and queued runs; None when not measured."""
    found = {}
    for row in report.rows:
        name, _, quantile = row.name.rpartition(", ")
        if row.subject == "Claim alone" and quantile in ("p50", "p99") and row.value:
            found.setdefault(name, []).append(row.value)
    rows = [(name, values, [number(v) for v in values]) for name, values in found.items()]
    title = "Claim alone, one connection: p50 (upper bar) and p99"
    return bars(title, rows, unit="ms") if rows else None
