"""Output of a run at a steady rate, through a real worker into the kernel: is any lost, who waits?

The same step runs with its output thrown away (``> /dev/null``); the two take turns.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from . import fill, latency
from .driver import BenchmarkError

FULL_RATE, FULL_SECONDS = 50_000, 30
PRINTER = Path(__file__).resolve().with_name("printer.py")
STEP = 'exec "$PYTHON" "$PRINTER" "$RATE" "$SECONDS_LONG" "$REPORT"'
# Of a run beside the seconds in which its step prints.
PATIENCE_FACTOR, PATIENCE_SECONDS = 10, 60


def measure(site, rate, seconds, rounds):
    """Print ``rate`` lines a second for ``seconds``, ``rounds`` times each way.

    :return: a dict of medians: step_seconds and run_seconds, quiet_step_seconds and
        quiet_run_seconds of runs whose output is thrown away, flush_seconds and backlog (lines) at
        the end of the step; lost (lines, of all rounds); problems
    """
    db = site.db
    site.fill.set_queued(0)
    found, problems, lost = {}, [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with latency.worker(db.name, folder):
            for number in range(rounds):
                for redirection in ("", " > /dev/null"):
                    report = folder / f"report-{number}-{len(redirection)}"
                    run = _execute(db, rate, seconds, redirection, report)
                    prefix = "quiet_" if redirection else ""
                    for key, value in run.items():
                        found.setdefault(prefix + key, []).append(value)
                    if not redirection:
                        missing, wrong = _missing(db, run["id"], rate * seconds)
                        lost += missing
                        problems += wrong
    medians = {key: statistics.median(values) for key, values in found.items() if key != "id"}
    return {**medians, "lost": lost, "problems": problems}


def _execute(db, rate, seconds, redirection, report):
    """One run to its end."""
    config = {
        "env": {
            "PYTHON": sys.executable,
            "PRINTER": str(PRINTER),
            "RATE": str(rate),
            "SECONDS_LONG": str(seconds),
            "REPORT": str(report),
        },
        "steps": [{"name": "Print", "run": STEP + redirection}],
    }
    ((_project, workflow),) = fill.make_projects(db, 1, config=config, repository_url=None)
    run_id = db.value(f"SELECT {db.schema}.queue_run(%s)", workflow)["run_id"]
    until = time.monotonic() + PATIENCE_FACTOR * seconds + PATIENCE_SECONDS
    _wait(report.exists, until, "the step did not end")
    stored = db.value(
        "SELECT coalesce((SELECT next_log_seq - 1 FROM ops_run_lease WHERE run_id = %s),"
        " (SELECT max(seq) FROM ops_run_log WHERE run_id = %s), 0)",
        run_id, run_id,
    )  # fmt: skip
    ended = "SELECT finished_at IS NOT NULL FROM ops_run WHERE id = %s"
    _wait(lambda: db.value(ended, run_id), until, "the run did not end")
    status, run_seconds = db.rows(
        "SELECT status, extract(epoch FROM finished_at - started_at)::float FROM ops_run"
        " WHERE id = %s",
        run_id,
    )[0]
    if status != "succeeded":
        raise BenchmarkError(f"a run that prints ended as {status}")
    step_seconds = float(report.read_text(encoding="ascii"))
    return {
        "id": run_id,
        "step_seconds": step_seconds,
        "run_seconds": run_seconds,
        "flush_seconds": run_seconds - step_seconds,
        "backlog": max(0, rate * seconds - stored),
    }


def _missing(db, run_id, count):
    """How many of the printed lines are not in the log; what is wrong with it, in sentences."""
    kept, in_order = db.rows(
        "SELECT count(DISTINCT number), coalesce(bool_and(number = place), true)"
        " FROM (SELECT substring(message FROM 'line (\\d+) of')::int AS number,"
        " row_number() OVER (ORDER BY seq) AS place FROM ops_run_log"
        " WHERE run_id = %s AND metadata ->> 'stream' = 'stdout') printed",
        run_id,
    )[0]
    problems = []
    if kept != count or not in_order:
        problems.append(f"of {count} printed lines {kept} were stored, in order: {in_order}")
    total, last = db.rows("SELECT count(*), max(seq) FROM ops_run_log WHERE run_id = %s", run_id)[0]
    if total != last:
        problems.append(f"the log has {total} lines, and the last one's number is {last}")
    return count - kept, problems


def _wait(condition, until, message):
    while not condition():
        if time.monotonic() > until:
            raise BenchmarkError(message)
        time.sleep(0.02)
