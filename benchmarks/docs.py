"""docs/benchmarks.md and its plots, made from the results of one run."""

from pathlib import Path

from . import plot
from .fill import EVENTS_SHARE, HISTORY_DAYS

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
TEMPLATE = HERE / "benchmarks.md.template"
IMAGES = {
    "benchmarks-throughput.svg": (plot.throughput, "Life cycles per second beside other queues"),
    "benchmarks-claim.svg": (plot.claim_latency, "Claim latency by finished and queued runs"),
}


def write(report, folder=DOCS):
    """Write the document and the plots that the report has rows for."""
    images = []
    for name, (draw, title) in IMAGES.items():
        drawing = draw(report)
        if drawing:
            (folder / "images" / name).write_text(drawing, encoding="utf-8")
            images.append(f"![{title}](images/{name})")
    (folder / "benchmarks.md").write_text(markdown(report, images), encoding="utf-8")


def markdown(report, images=()):
    """The document's text."""
    tables = [
        f"## {subject}\n\n| | figure | ratio | |\n|---|---|---|---|\n"
        + "\n".join(
            f"| {row.name} | {row.figure} | {row.ratio_text} | {_remark(row)} |" for row in rows
        )
        + "\n"
        for subject, rows in report.by_subject().items()
    ]
    return TEMPLATE.read_text(encoding="utf-8").format(
        command=report.command,
        date=report.date,
        unfinished=""
        if report.complete
        else "\n**Not all of it was measured: rows are missing.**\n",
        targets="\n".join(f"| {' | '.join(cells)} |" for cells in report.judged()),
        invariants="; ".join(report.problems) or "all hold.",
        images="\n\n".join(images),
        tables="\n".join(tables),
        machine="\n".join(f"| {name} | {value} |" for name, value in report.machine.items()),
        scale="; ".join(f"{name} {value}" for name, value in report.scale.items()),
        history_days=HISTORY_DAYS,
        events_share=EVENTS_SHARE,
    )


def _remark(row):
    return "; ".join(filter(None, (row.verdict, row.note)))
