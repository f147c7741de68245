"""The log of a run whose runner was killed: what lies on disk arrives, also as an artifact."""

import gzip
import os
import shutil
import signal
import time

from psycopg2.extensions import make_dsn

from ..worker.log_shipping import CUT, LogLimits, RunLog
from ..worker.logs import LogLine
from ..worker.spool import SEGMENT_BYTES, SPOOL_KEEP_BYTES
from .test_worker_adoption import AdoptionCase
from .test_worker_log_shipping import Proxy, SlowServer
from .worker_common import FolderCase, wait_for

#: Says numbers, twice as many when it is told to, and does not end.
SCRIPT = """
number=0
while [ $number -lt 200 ]; do number=$((number + 1)); echo line $number; done
while [ ! -e {go} ]; do sleep 0.02; done
while [ $number -lt 5000 ]; do number=$((number + 1)); echo line $number; done
touch {said}
printf 'a line without an end'
sleep 600
"""


class TestKilledRunner(AdoptionCase):
    def setUp(self):
        super().setUp()
        server = self.connection.info
        self.proxy = Proxy(server.host, server.port)
        self.addCleanup(self.proxy.cut)
        parts = {"user": server.user, "host": "127.0.0.1", "port": self.proxy.port}
        if server.password:
            parts["password"] = server.password
        self.options = ["--dsn", make_dsn(self.dsn, **parts), "--runs-dsn", self.dsn]

    def start_talking(self):
        """A run that has said more than the control plane, which is away, has heard."""
        go, said = self.folder / "go", self.folder / "said"
        script = SCRIPT.format(go=go, said=said)
        workflow_id = self.make_workflow(
            steps=[{"name": "Talk", "run": script}], retry={"max": 1, "on": ["worker_lost"]}
        )
        run_id = self.queue(workflow_id)
        worker = self.start_worker(*self.options, "--capacity=1")
        wait_for(lambda: "line 200" in self.messages(run_id))
        self.proxy.cut()
        go.touch()
        wait_for(said.exists)
        spools = list((self.folder / "work").glob("run-*/log.spool-*"))
        wait_for(lambda: any(b'"line 5000"' in path.read_bytes() for path in spools))
        return run_id, worker

    def assertBroughtIn(self, run_id):
        row = self.wait_status(run_id, "failed", seconds=40)
        self.assertEqual(row["error_code"], "worker_lost", row)
        messages = self.messages(run_id)
        numbers = [int(text[5:]) for text in messages if text.startswith("line ")]
        self.assertEqual(numbers, list(range(1, 5001)))
        self.assertEqual((messages[-1], messages.count(CUT)), (CUT, 1))
        self.assertEqual(self.complete_messages(run_id), messages)

    def test_what_it_had_not_sent_arrives_before_the_run_ends(self):
        # Rule: R-17
        run_id, _worker = self.start_talking()
        os.kill(self.runners()[run_id], signal.SIGKILL)
        time.sleep(2)
        self.assertNotIn("line 201", self.messages(run_id))
        self.proxy.open()
        self.assertBroughtIn(run_id)

    def test_the_next_agent_brings_it_in_when_the_first_died_too(self):
        run_id, worker = self.start_talking()
        self.kill_worker(worker)
        self.proxy.open()
        self.start_worker("--capacity=1")
        self.assertBroughtIn(run_id)

    def test_a_run_that_is_no_longer_held_is_not_written_to(self):
        run_id, worker = self.start_talking()
        self.kill_worker(worker)
        self.expire_leases()

        def is_reaped():
            self.call("reap_lost_runs")
            return self.run_row(run_id)["status"] == "failed"

        # A server that has just started reaps nothing for one lease.
        wait_for(is_reaped, 90)
        before = self.messages(run_id)
        self.proxy.open()
        self.start_worker("--capacity=1")
        # The folder of the runner goes when nothing is left to be tried.
        wait_for(lambda: run_id not in self.runners())
        self.assertEqual(self.messages(run_id), before)


class TestReopened(FolderCase):
    """``RunLog.reopen`` on what a process that was killed has on disk: a copy of the folder, taken
    while the log is open."""

    def setUp(self):
        super().setUp()
        self.server = SlowServer()
        self.server.away = False
        self.run_folder = self.folder / "run"
        self.run_folder.mkdir()

    def open_log(self, **limits):
        bounds = LogLimits(**{"log_bytes": 1 << 30, "spool_bytes": 1 << 30, **limits})
        log = RunLog(self.server, 1, 1, self.run_folder, 1, limits=bounds)
        log.start()
        self.addCleanup(log.close)
        self.log = log
        return log

    def write(self, log, first, last):
        for start in range(first, last, 500):
            numbers = range(start, min(start + 500, last))
            metadata = {"stream": "stdout", "step": "Say"}
            log.write(
                [
                    LogLine(
                        n, "info", f"\x1b[32mline\x1b[0m {n}" if n % 7 else f"line {n}", metadata
                    )
                    for n in numbers
                ]
            )

    def flush(self, log):
        until = time.monotonic() + 30
        self.assertTrue(log.flush(lambda: time.monotonic() > until))

    def kill(self, name="killed"):
        copy = shutil.copytree(self.run_folder, self.folder / name)
        # The dead send nothing.
        self.log.close()
        return copy

    def recover(self, folder):
        """Bring in what is in the folder; the complete log's lines."""
        self.server.lenient = True
        log = RunLog.reopen(self.server, 1, 1, folder)
        log.start()
        self.flush(log)
        text = gzip.decompress(log.finish().read_bytes()).decode()
        log.close()
        return text.splitlines()

    def messages(self):
        return [row["message"] for row in self.server.rows]

    def expected(self, last):
        return [*(f"line {number}" for number in range(1, last)), CUT]

    def test_a_log_of_which_nothing_was_sent(self):
        self.server.away = True
        log = self.open_log()
        self.write(log, 1, 3000)
        folder = self.kill()
        self.server.away = False
        complete = self.recover(folder)
        self.assertEqual(self.messages(), self.expected(3000))
        texts = [LogLine.from_row(row).to_text().rstrip("\n") for row in self.server.rows]
        self.assertEqual(complete, texts)

    def test_a_long_log_of_which_the_beginning_has_left_the_disk(self):
        log = self.open_log()
        for start in range(1, 120_001, 10_000):
            self.write(log, start, start + 10_000)
            self.flush(log)
        self.server.away = True
        self.write(log, 120_001, 150_001)
        folder = self.kill()
        kept = sum(path.stat().st_size for path in folder.glob("log.spool-*"))
        self.assertLess(kept, SPOOL_KEEP_BYTES + 3 * SEGMENT_BYTES)
        self.server.away = False
        complete = self.recover(folder)
        self.assertEqual(self.messages(), self.expected(150_001))
        self.assertEqual([len(complete), complete[-1].split("\t")[4]], [150_001, CUT])
        plain = [
            line.split("\t")[4].replace("\x1b[32m", "").replace("\x1b[0m", "") for line in complete
        ]
        self.assertEqual(plain, self.messages())

    def test_a_row_that_was_cut_off_is_no_row(self):
        self.server.away = True
        log = self.open_log()
        self.write(log, 1, 101)
        folder = self.kill()
        (spool,) = folder.glob("log.spool-*")
        os.truncate(spool, spool.stat().st_size - 5)
        self.server.away = False
        self.recover(folder)
        self.assertEqual(self.messages(), self.expected(100))

    def test_doing_it_again_changes_nothing(self):
        self.server.away = True
        log = self.open_log()
        self.write(log, 1, 3000)
        folder = self.kill()
        self.server.away = False
        first = self.recover(folder)
        rows = list(self.server.rows)
        self.assertEqual(self.recover(folder), first)
        self.assertEqual(self.server.rows, rows)

    def test_lines_left_out_of_a_full_spool_are_counted_and_stand_in_the_complete_log(self):
        self.server.away = True
        log = self.open_log(spool_bytes=1 << 20)
        self.write(log, 1, 40_001)
        folder = self.kill()
        self.server.away = False
        complete = self.recover(folder)
        (marker,) = [row for row in self.server.rows if row["metadata"].get("marker") == "left_out"]
        known = self.server.rows.index(marker)
        self.assertEqual(self.messages()[:known], [f"line {n}" for n in range(1, known + 1)])
        self.assertEqual(self.messages()[known + 1 :], [CUT])
        # As far as they had left the memory of the compressor, which the marker cannot count.
        self.assertEqual(len(complete) - 1, known + marker["metadata"]["lines"])
        self.assertGreater(len(complete), known + 1000)

    def test_a_log_that_was_finished_stays_as_it_is(self):
        log = self.open_log()
        self.write(log, 1, 101)
        self.flush(log)
        finished = log.finish().read_bytes()
        folder = self.kill()
        self.server.lenient = True
        again = RunLog.reopen(self.server, 1, 1, folder)
        again.start()
        self.flush(again)
        self.assertEqual(again.finish().read_bytes(), finished)
        again.close()
        self.assertEqual(self.messages(), self.expected(101)[:-1])

    def test_where_no_log_was_begun_there_is_none(self):
        self.assertIsNone(RunLog.reopen(self.server, 1, 1, self.folder))
