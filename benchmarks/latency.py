"""From `queue_run` to started: one idle worker, one run at a time, by the database's clock."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import fill
from .driver import BenchmarkError

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {"steps": [{"name": "Nothing", "run": "true"}]}
WAIT_SECONDS = 60
# So long after the end of one run the next is queued: the worker is idle again.
PAUSE_SECONDS = 0.02


def waits(site, count):
    """Milliseconds that each of ``count`` runs waited for a worker, a real process."""
    db = site.db
    site.fill.set_queued(0)
    ((project, workflow),) = fill.make_projects(db, 1, config=CONFIG, repository_url=None)
    with tempfile.TemporaryDirectory() as folder, worker(db.name, Path(folder)):
        _wait_until(db, f"SELECT count(*) > 0 FROM {db.schema}.live_workers() w WHERE w.host <> ''")
        time.sleep(1)  # a worker that has just begun is still busy with its start
        for _ in range(count):
            run_id = db.value(f"SELECT {db.schema}.queue_run(%s)", workflow)["run_id"]
            _wait_until(
                db, "SELECT status IN ('succeeded', 'failed') FROM ops_run WHERE id = %s", run_id
            )
            time.sleep(PAUSE_SECONDS)
    found = db.rows(
        "SELECT extract(epoch FROM started_at - create_date) * 1000 FROM ops_run"
        " WHERE project_id = %s AND status = 'succeeded'",
        project,
    )
    if len(found) != count:
        raise BenchmarkError(f"{count - len(found)} of {count} runs did not succeed")
    return [float(milliseconds) for (milliseconds,) in found]


@contextlib.contextmanager
def worker(database, folder):
    """A worker process for the block; its files lie in ``folder``."""
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "worker", "--allow-process",
                f"--artifacts={folder / 'artifacts'}", f"--work-dir={folder / 'work'}",
            ],
            cwd=ROOT,
            env={**os.environ, "PGDATABASE": database, "ODOOOPS_DB": database},
            stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_until(db, statement, *values):
    until = time.monotonic() + WAIT_SECONDS
    while not db.value(statement, *values):
        if time.monotonic() > until:
            raise BenchmarkError(f"Nothing happened for {WAIT_SECONDS} s: is the worker alive?")
        time.sleep(0.005)
