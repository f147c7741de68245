"""docs/benchmarks.md and its plots, made from the results of one run."""

from pathlib import Path

from . import plot

DOCS = Path(__file__).resolve().parent.parent / "docs"
IMAGES = {
    "benchmarks-throughput.svg": (plot.throughput, "Life cycles per second beside other queues"),
    "benchmarks-claim.svg": (plot.claim_latency, "Claim latency by finished and queued runs"),
}

HEAD = """# Benchmarks

Made by `{command}` on {date}; do not edit, `make bench ARGS="--write-docs"` writes it anew. What
each row means stands below the tables. Rates of different machines compare as ratios only.
{unfinished}
## Targets

| target | measured | |
|---|---|---|
{targets}

Invariants: {invariants}

{images}

"""

TAIL = """## The machine

| | |
|---|---|
{machine}

Scale of this run: {scale}.

## What is measured

`make bench` installs the addon in a database of its own, copies that for each part, and drops all of
them in the end. Everything runs on the same server with the settings above, one thing at a time; the
life cycles of the three queues take turns, and each figure is the median of its rounds. A run with the
full scale takes about {minutes} minutes and 15 GB of disk for a while (5 million runs, their
indexes, and WAL).

- **Life cycles**: runs are queued beforehand; 8 connections claim, start and complete them, three
  calls with a commit each, which write three chained events. They are spread over 20 projects. The rate
  counts from the first call to the last reply. *Single-row commits* are prepared one-row updates by
  the same 8 processes: what this server can commit for this client.
- **The clients**: ours is one Python process per connection with psycopg2 and prepared statements, and
  reads every reply whole. graphile-worker's is its own runner in one Node.js process, 8 jobs at once,
  unbatched: `localQueue.size` and `completeJobBatchDelay` are -1. It deletes a finished job and keeps no
  history. procrastinate's is its own asyncio worker, 8 jobs at once; it keeps finished jobs and one
  unchained event per change of state. The jobs of both do nothing. Their rate counts from the first job
  to the last completion.
- **WAL** is what the server's WAL grew by during a life cycle, full-page images included. **Row versions
  left behind** are all updates and deletes (`pg_stat_user_tables`); HOT ones go without a vacuum.
  Autovacuum is on as the server has it.
- **Claim alone**: one connection claims, and each run is started and completed before the next claim,
  unmeasured. The time is the client's around the call, commit included; *in the server* is without commit and
  network. Claims in the filled database take turns with claims in a database without finished
  runs and the smallest queue; the ratio compares the two p99. The row with no finished runs compares that
  database with itself: it shows the noise. What measuring finishes stays: some thousand runs.
- **Finished runs** are copies of runs that went through the kernel, spread over {history_days} days and 20
  projects. One of {events_share} has its four events: events are found by their run alone, so more of them
  would deepen one index and fill the disk. Vacuumed and analyzed after the fill.
- **queue_run to started**: one run at a time for one idle worker process (`python -m worker`), from the
  row's creation to its start, by the database's clock. The peers' figures are from the job's creation to a
  query in its first line.
- **One project, everybody at once**: 8 workers and 8 enqueuers on a project that allows 5 active runs;
  one more connection watches that limit. Errors are those a caller saw.
- **Invariants** are checked after every measurement: each run finished once and with its four events,
  chains verified again (200 per measurement, evenly picked), nothing lost, no lease left, no limit
  exceeded. `make bench` fails when one does not hold, and never for being slow.
"""


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
    from .fill import EVENTS_SHARE, HISTORY_DAYS  # psycopg2 is not needed to read a report

    head = HEAD.format(
        command=report.command,
        date=report.date,
        unfinished="" if report.complete else "\n**This run was interrupted: rows are missing.**\n",
        targets="\n".join(" | ".join(("", *row, "")).strip() for row in report.judged()),
        invariants="; ".join(report.problems) or "all hold.",
        images="\n\n".join(images),
    )
    tables = [
        f"## {subject}\n\n| | figure | ratio | |\n|---|---|---|---|\n"
        + "\n".join(
            f"| {row.name} | {row.figure} | {row.ratio_text} | {_remark(row)} |" for row in rows
        )
        + "\n"
        for subject, rows in report.by_subject().items()
    ]
    tail = TAIL.format(
        machine="\n".join(f"| {name} | {value} |" for name, value in report.machine.items()),
        scale=", ".join(f"{name} {value}" for name, value in report.scale.items()),
        minutes=15,
        history_days=HISTORY_DAYS,
        events_share=EVENTS_SHARE,
    )
    return head + "\n".join(tables) + "\n" + tail


def _remark(row):
    return "; ".join(filter(None, (row.verdict, row.note)))
