"""Prints how long a run waits for an idle worker, and how many life cycles the kernel makes.

Every measured row comes from the database's own clock. Beside the life cycles stands the rate
of the smallest possible write on the same server in the same minute, so that results from
different machines can be compared as ratios. Rates take the time of the whole loop, the
client's part included.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import psycopg2
from psycopg2.extras import Json

ROOT = Path(__file__).resolve().parent.parent


def main():
    options = _options()
    with contextlib.closing(_connect()) as db:
        bench = Bench(db)
        _say(f"{bench.query('SELECT version()')[0][0].split(' on ')[0]}, {os.cpu_count()} CPUs")
        bench.latency(options.runs)
        bench.life_cycles(options.cycles, options.workers)


def _options():
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="runs whose wait is measured")
    parser.add_argument("--cycles", type=int, default=2000, help="life cycles that are counted")
    parser.add_argument("--workers", type=int, default=8, help="connections that claim together")
    return parser.parse_args()


def _connect():
    connection = psycopg2.connect("")
    connection.autocommit = True
    return connection


def _say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Bench:
    """The measurements, in a project of their own in the database that PG* names."""

    def __init__(self, db):
        self.db = db
        self.schema = self.query(
            "SELECT nspname FROM pg_namespace"
            " WHERE obj_description(oid, 'pg_namespace') LIKE 'OdooOps kernel%'"
        )[0][0]
        key = uuid.uuid4().hex[:8]
        self.project_id = self.query(
            "INSERT INTO ops_project (name, slug, workspace_key, odoo_version, default_branch,"
            " active, max_running) VALUES ('Bench', %s, %s, '19.0', 'main', true, 1000)"
            " RETURNING id",
            f"bench-{key}",
            f"bench_{key}",
        )[0][0]
        self.workflow_id = self.query(
            "INSERT INTO ops_workflow (name, project_id, workflow_type, enabled, config)"
            " VALUES ('Nothing', %s, 'test', true, %s) RETURNING id",
            self.project_id,
            Json({"steps": [{"name": "Nothing", "run": "true"}]}),
        )[0][0]

    def query(self, statement, *values, db=None):
        with (db or self.db).cursor() as cr:
            cr.execute(statement, values or None)
            return cr.fetchall() if cr.description else []

    def call(self, function, *values, db=None):
        marks = ", ".join(["%s"] * len(values))
        return self.query(f"SELECT {self.schema}.{function}({marks})", *values, db=db)[0][0]

    # -- enqueue to started ---------------------------------------------------------------

    def latency(self, count):
        """Queue one run at a time for one idle worker process and wait for its end."""
        with tempfile.TemporaryDirectory() as folder, self._worker(Path(folder)):
            self._wait_for_worker()
            for _ in range(count):
                run_id = self.call("queue_run", self.workflow_id)["run_id"]
                self._wait_until(
                    "SELECT status IN ('succeeded', 'failed') FROM ops_run WHERE id = %s", run_id
                )
        waits = [
            float(seconds) * 1000
            for (seconds,) in self.query(
                "SELECT extract(epoch FROM started_at - create_date) FROM ops_run"
                " WHERE project_id = %s AND status = 'succeeded'",
                self.project_id,
            )
        ]
        if len(waits) != count:
            raise SystemExit(f"{count - len(waits)} of {count} runs did not succeed")
        percentiles = statistics.quantiles(waits, n=100, method="inclusive")
        _say(
            f"queue_run to started, one idle worker, {count} runs:"
            f" p50 {percentiles[49]:.1f} ms, p90 {percentiles[89]:.1f} ms,"
            f" p99 {percentiles[98]:.1f} ms"
        )

    @contextlib.contextmanager
    def _worker(self, folder):
        log = (folder / "worker.log").open("wb")
        options = [f"--artifacts={folder / 'artifacts'}", f"--work-dir={folder / 'work'}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "--allow-process", *options],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)
            log.close()

    def _wait_for_worker(self):
        self._wait_until(f"SELECT count(*) > 0 FROM {self.schema}.live_workers()")
        # A worker that has just begun is still busy with its start.
        time.sleep(1)

    def _wait_until(self, statement, *values, seconds=60):
        until = time.monotonic() + seconds
        while not self.query(statement, *values)[0][0]:
            if time.monotonic() > until:
                raise SystemExit(f"Nothing happened for {seconds} s: is the worker alive?")
            time.sleep(0.005)

    # -- life cycles ----------------------------------------------------------------------

    def life_cycles(self, count, workers):
        """Claim, start and complete ``count`` queued runs; four chained events each."""
        for _ in range(count):
            self.call("queue_run", self.workflow_id)
        seconds = self._in_threads(workers, self._work)
        done = self.query(
            "SELECT count(*) FROM ops_run WHERE project_id = %s AND status = 'succeeded'"
            " AND claimed_by LIKE 'bench-%%'",
            self.project_id,
        )[0][0]
        if done != count:
            raise SystemExit(f"{count - done} of {count} runs were not executed")
        rate = count / seconds
        writes = self._write_rate(workers)
        _say(
            f"life cycles (claim, start, complete; audited), {workers} connections:"
            f" {rate:.0f}/s; single-row commits on the same server: {writes:.0f}/s;"
            f" ratio {rate / writes:.3f}"
        )

    def _work(self, db, index):
        worker_id = f"bench-{index}-{uuid.uuid4().hex[:8]}"
        while (claim := self.call("claim_next_run", worker_id, db=db))["run_id"]:
            run_id, epoch = claim["run_id"], claim["epoch"]
            self.call("start_workflow_run", run_id, worker_id, epoch, db=db)
            self.call("complete_workflow_run", run_id, 0, None, worker_id, epoch, db=db)

    def _write_rate(self, workers, seconds=3):
        self.query("CREATE TABLE IF NOT EXISTS bench_counter (id int PRIMARY KEY, n int)")
        self.query(
            "INSERT INTO bench_counter SELECT n, 0 FROM generate_series(0, %s) n"
            " ON CONFLICT DO NOTHING",
            workers,
        )
        until = time.monotonic() + seconds

        def write(db, index):
            while time.monotonic() < until:
                self.query("UPDATE bench_counter SET n = n + 1 WHERE id = %s", index, db=db)

        elapsed = self._in_threads(workers, write)
        total = self.query("SELECT sum(n) FROM bench_counter")[0][0]
        self.query("DROP TABLE bench_counter")
        return total / elapsed

    def _in_threads(self, count, function):
        """Seconds that ``count`` threads with a connection each needed for ``function``."""
        connections = [_connect() for _ in range(count)]
        failures = []

        def body(db, index):
            try:
                function(db, index)
            except psycopg2.Error as error:
                failures.append(error)

        threads = [
            threading.Thread(target=body, args=(db, index)) for index, db in enumerate(connections)
        ]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.monotonic() - begin
        for db in connections:
            db.close()
        if failures:
            raise SystemExit(f"{len(failures)} connections failed, first: {failures[0]}")
        return elapsed


if __name__ == "__main__":
    main()
