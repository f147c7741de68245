"""The world broken on purpose: frozen processes, cut networks, a clock that jumps.

Whatever happens, nobody works on a run that the control plane has given up, and what a stale worker
says changes nothing. Leases are real, but shorter than usual: the kernel's own function says so for
the time of a test.
"""

import contextlib
import os
import signal
import socket
import threading
import time
import unittest.mock

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from odoo.tests import tagged

from ..worker import database
from .test_worker_adoption import AdoptionCase
from .test_worker_executor import running
from .test_worker_log_shipping import Proxy
from .worker_common import wait_for

#: Seconds of a lease; the work must have ended a third of it earlier.
LEASE = 15
#: So long a worker is away when its lease is to end, and when it is not.
LONG, SHORT = LEASE + 5, 4


class BlackHole(Proxy):
    """A proxy whose connections can also fall silent, without a word to either side."""

    def __init__(self, host, port):
        self.flows = threading.Event()
        self.flows.set()
        super().__init__(host, port)

    def _pump(self, client, server):
        """Each direction in a thread of its own, as one may have to wait."""
        ways = ((client, server), (server, client))
        threads = [threading.Thread(target=self._pass_on, args=way, daemon=True) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for end in (client, server):
            end.close()

    def _pass_on(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flows.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@tagged("post_install", "-at_install")
class FencingCase(AdoptionCase):
    def setUp(self):
        super().setUp()
        # As in life, that of a claim is the shorter one.
        for name, seconds in (("claim_lease_seconds", LEASE // 2), ("run_lease_seconds", LEASE)):
            function = f"{self.schema}.{name}()"
            ((original,),) = self.query("SELECT pg_get_functiondef(%s::regprocedure)", function)
            self.query(
                f"CREATE OR REPLACE FUNCTION {function} RETURNS integer"
                f" LANGUAGE sql IMMUTABLE RETURN {seconds}"
            )
            self.addCleanup(self.query, original)

    def start_sleeping(self, number, *options, **config):
        script = f"echo ready; trap '' INT TERM; setsid sleep {number} & sleep {number}"
        run_id = self.queue(self.make_workflow(steps=[{"name": "Sleep", "run": script}], **config))
        worker = self.start_worker(*options)
        wait_for(lambda: "ready" in self.messages(run_id))
        return run_id, worker

    def proxy_options(self):
        """Let workers reach the control plane through ``self.proxy``."""
        server = self.connection.info
        self.proxy = BlackHole(server.host, server.port)
        self.addCleanup(self.proxy.cut)
        self.addCleanup(self.proxy.flows.set)
        parts = {"user": server.user, "host": "127.0.0.1", "port": self.proxy.port}
        if server.password:
            parts["password"] = server.password
        return ("--dsn", make_dsn(self.dsn, **parts), "--runs-dsn", self.dsn)

    def assertWorkEndsBeforeLease(self, run_id, number):
        """The last process of the run ends while the control plane still believes in it."""
        wait_for(lambda: not running(number), LONG)
        ((left,),) = self.query(
            "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM ops_run_lease"
            " WHERE run_id = %s",
            run_id,
        )
        self.assertGreater(left, 0)

    def wait_lost(self, run_id):
        """Reap as another worker would, until the run is lost; returns what is known of it."""

        def lost():
            self.call("reap_lost_runs")
            return self.run_row(run_id)["status"] == "failed"

        wait_for(lost, LONG)
        row = self.run_row(run_id)
        self.assertEqual(row["error_code"], "worker_lost", row)
        return self.known(run_id)

    def known(self, run_id):
        counts = [
            self.query(f"SELECT count(*) FROM {table} WHERE run_id = %s", run_id)
            for table in ("ops_run_log", "ops_run_event", "ops_run_artifact")
        ]
        return (self.run_row(run_id), *counts)

    def assertWorks(self):
        """A further run is executed."""
        workflow_id = self.make_workflow(name="Next", steps=[{"name": "x", "run": "true"}])
        self.wait_status(self.queue(workflow_id), "succeeded")


class TestFrozen(FencingCase):
    def test_an_agent_frozen_for_longer_than_a_lease_costs_nothing(self):
        run_id, worker = self.start_counting()
        worker.send_signal(signal.SIGSTOP)
        time.sleep(LONG)
        self.call("reap_lost_runs")
        self.assertEqual(self.run_row(run_id)["status"], "running")
        worker.send_signal(signal.SIGCONT)
        self.wait_lines(run_id, 100)
        self.end()
        self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual(self.run_row(run_id)["status"], "succeeded")
        self.assertLogWhole(run_id)
        self.assertWorks()

    def test_a_runner_frozen_for_longer_than_its_lease_is_dead_and_its_word_counts_no_more(self):
        # Rule: R-03
        # Rule: R-06
        retry = {"max": 1, "on": ["worker_lost"]}
        run_id, worker = self.start_sleeping("71501", retry=retry)
        runner = self.runners()[run_id]
        os.kill(runner, signal.SIGSTOP)
        self.addCleanup(self._continue, runner)
        self.assertWorkEndsBeforeLease(run_id, "71501")
        known = self.wait_lost(run_id)
        ((second,),) = self.query("SELECT id FROM ops_run WHERE retry_of = %s", run_id)
        wait_for(lambda: "ready" in self.messages(second))
        self.assertEqual(len(running("71501")), 2, "of the second attempt alone")
        os.kill(runner, signal.SIGCONT)
        wait_for(lambda: not self._lives(runner), message="It does not give up.")
        self.assertEqual(self.known(run_id), known)
        self.assertEqual(len(running("71501")), 2)
        self.assertIsNone(worker.poll())

    def test_work_that_is_done_when_the_lease_ends_is_no_success_without_its_log(self):
        # Rule: R-06
        # Nobody reaps meanwhile, so that the control plane would still take its word.
        run_id, _worker = self.start_counting("--reap-seconds=300", database=True)
        runner = self.runners()[run_id]
        (folder,) = (self.folder / "work" / ".runners").glob(f"*-{run_id}-1")
        name = f"{database.name_prefix(folder.name.split('-')[0])}{run_id}_1"
        with contextlib.closing(psycopg2.connect(self.dsn)) as holder:
            with holder.cursor() as cursor:
                comment = sql.SQL("COMMENT ON DATABASE {} IS 'not to be dropped yet'")
                cursor.execute(comment.format(sql.Identifier(name)))
            self.end()
            wait_for(
                lambda: self.query("SELECT pid FROM pg_stat_activity WHERE wait_event = 'object'")
            )
            os.kill(runner, signal.SIGSTOP)
            self.addCleanup(self._continue, runner)
            time.sleep(LONG)
            holder.rollback()
        self.assertEqual(self.run_row(run_id)["status"], "running")
        os.kill(runner, signal.SIGCONT)
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual((row["status"], row["error_code"]), ("failed", "lease_lost"))

    @staticmethod
    def _continue(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    @staticmethod
    def _lives(pid):
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] != b"Z"
        except FileNotFoundError:
            return False


class TestCutNetwork(FencingCase):
    def test_connections_that_are_silent_for_less_than_a_lease_cost_nothing(self):
        run_id, _worker = self.start_counting(*self.proxy_options())
        self.proxy.flows.clear()
        time.sleep(SHORT)
        self.proxy.flows.set()
        self.wait_lines(run_id, 100)
        self.end()
        self.assertEqual(self.wait_status(run_id, "succeeded", "failed")["status"], "succeeded")
        self.assertLogWhole(run_id)

    def test_the_server_goes_and_comes_again_within_a_lease(self):
        """Every connection breaks, and new ones are refused, as by a server that is restarted."""
        run_id, _worker = self.start_counting(*self.proxy_options())
        self.proxy.cut()
        self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'odooops worker'"
        )
        time.sleep(SHORT)
        self.proxy.open()
        self.wait_lines(run_id, 100)
        self.end()
        self.assertEqual(self.wait_status(run_id, "succeeded", "failed")["status"], "succeeded")
        self.assertLogWhole(run_id)

    def assertFencesItself(self, number, cut, mend):
        run_id, worker = self.start_sleeping(number, *self.proxy_options())
        cut()
        self.assertWorkEndsBeforeLease(run_id, number)
        known = self.wait_lost(run_id)
        mend()
        self.assertWorks()
        wait_for(lambda: run_id not in self.runners(), message="It does not give up.")
        self.assertEqual(self.known(run_id), known)
        self.assertIsNone(worker.poll())

    def test_connections_that_are_refused_for_longer_than_a_lease(self):
        # Rule: R-06
        self.proxy = None
        self.assertFencesItself("71502", lambda: self.proxy.cut(), lambda: self.proxy.open())

    def test_connections_that_are_silent_for_longer_than_a_lease(self):
        self.proxy = None
        self.assertFencesItself(
            "71503", lambda: self.proxy.flows.clear(), lambda: self.proxy.flows.set()
        )


#: Python loads it at its start: the wall clock of the worker is off by the seconds in a file.
_CLOCK = """
import os, time
_time, _time_ns = time.time, time.time_ns

def _offset():
    try:
        with open({path!r}) as file:
            return float(file.read() or 0)
    except OSError:
        return 0.0

time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + int(_offset() * 1e9)
"""


class TestClock(FencingCase):
    def jump(self, seconds):
        (self.folder / "offset.new").write_text(str(seconds))
        (self.folder / "offset.new").rename(self.folder / "offset")

    def test_a_clock_that_jumps_moves_no_lease_and_no_timeout(self):
        code = _CLOCK.format(path=str(self.folder / "offset"))
        (self.folder / "sitecustomize.py").write_text(code)
        path = os.pathsep.join(filter(None, (str(self.folder), os.environ.get("PYTHONPATH"))))
        with unittest.mock.patch.dict(os.environ, PYTHONPATH=path):
            run_id, _worker = self.start_counting()
            slow = self.queue(
                self.make_workflow(
                    name="Slow", steps=[{"name": "Wait", "run": "sleep 71504", "timeout": LEASE}]
                )
            )
            self.wait_status(slow, "running")
        began = time.monotonic()
        for day in (1, -1, 2, 0.5):
            self.jump(day * 86400)
            self.wait_lines(run_id, 50)
            self.assertEqual(self.run_row(slow)["status"], "running")
        self.wait_status(slow, "failed")
        self.assertGreater(time.monotonic() - began, LEASE - 5)
        self.assertEqual(self.run_row(slow)["error_code"], "timeout")
        self.end()
        self.assertEqual(self.wait_status(run_id, "succeeded", "failed")["status"], "succeeded")
        self.assertLogWhole(run_id)
        # Lines carry the clock as it was where they were made; their numbers are their order.
        ((ahead,),) = self.query(
            "SELECT count(*) FROM ops_run_log WHERE run_id = %s"
            " AND timestamp > now() AT TIME ZONE 'UTC' + interval '11 hours'",
            run_id,
        )
        self.assertGreater(ahead, 0, "the clock did not jump")
