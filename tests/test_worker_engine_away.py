"""Runs that need a container while the engine is away, or while a registry keeps it waiting."""

import contextlib
import os
import socket
import threading

from odoo.addons.odooops.worker.control.base import Claim
from odoo.addons.odooops.worker.errors import RunError, RunStopped
from odoo.addons.odooops.worker.executors.base import EngineUnavailable
from odoo.addons.odooops.worker.executors.process import ProcessExecutor
from odoo.addons.odooops.worker.job import RunJob
from odoo.addons.odooops.worker.log_shipping import RunLog
from odoo.addons.odooops.worker.workflow import with_defaults

from .docker_engine import IMAGE
from .executor_contract import running
from .test_worker_guard import make_guard
from .test_worker_log_shipping import SlowServer
from .worker_common import DockerCase, FolderCase, wait_for


class TestEngineAway(DockerCase):
    def setUp(self):
        super().setUp()
        if not self.engine.own:
            self.skipTest("The engine is somebody else's: it cannot be stopped.")
        self.make_tool(IMAGE)

    def start_engine(self):
        if self.engine.own.process.poll() is not None:
            self.engine.own.start()

    def queue_without_engine(self, *options, script="echo here"):
        """A run that was claimed after the engine went; returns its id."""
        first = self.make_workflow(steps=[{"name": "Say", "run": script}], tool=self.tool)
        self.start_worker(*options)
        self.wait_status(self.queue(first), "succeeded")
        self.addCleanup(self.start_engine)
        self.engine.own.stop()
        return self.queue(first)

    def wait_until_told(self, run_id):
        text = "The run waits for it, for 60 seconds at most."
        wait_for(lambda: any(text in message for message in self.messages(run_id)))

    def test_a_run_waits_for_the_engine_and_says_so(self):
        run_id = self.queue_without_engine()
        self.wait_until_told(run_id)
        self.start_engine()
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual(row["status"], "succeeded", row)
        messages = self.messages(run_id)
        self.assertEqual(sum("does not answer" in text for text in messages), 1)
        self.assertIn("The Docker engine answers again.", messages)
        self.assertIn("here", messages)

    def test_it_waits_no_longer_than_it_was_told_to(self):
        run_id = self.queue_without_engine("--docker-wait-seconds=2")
        row = self.wait_status(run_id, "failed", seconds=30)
        self.assertEqual(row["error_code"], "setup_error")
        self.assertIn("Docker engine does not answer", row["error_message"])

    def test_a_cancel_is_heard_meanwhile(self):
        run_id = self.queue_without_engine()
        self.wait_until_told(run_id)
        self.assertTrue(self.call("cancel_run", run_id, "enough")["success"])
        self.wait_status(run_id, "canceled", seconds=20)

    def test_the_loss_of_its_lease_is_heard_meanwhile(self):
        run_id = self.queue_without_engine("--on-stop=handover")
        self.wait_until_told(run_id)
        self.query("UPDATE ops_run_lease SET epoch = epoch + 1 WHERE run_id = %s", run_id)
        wait_for(lambda: run_id not in self.runners(), 20)


class SilentRegistry:
    """Takes requests of the engine and answers none, but that it speaks no TLS."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.waiting = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _address = self._listener.accept()
                if client.recv(1, socket.MSG_PEEK) == b"G":
                    self.waiting.append(client)
                else:
                    client.close()

    def is_given_up(self):
        """Whether all who asked have gone."""
        for client in self.waiting:
            client.settimeout(0.1)
            with contextlib.suppress(ConnectionError):
                try:
                    while client.recv(65536):
                        pass
                except TimeoutError:
                    return False
        return True

    def close(self):
        self._listener.close()
        for client in self.waiting:
            client.close()


class TestSilentRegistry(DockerCase):
    def test_a_pull_that_stands_still_hears_a_cancel(self):
        registry = SilentRegistry()
        self.addCleanup(registry.close)
        self.make_tool(f"{registry.host}/silent:1")
        steps = [{"name": "Never", "run": "sleep 71290"}]
        run_id = self.queue(self.make_workflow(steps=steps, tool=self.tool))
        self.start_worker()
        wait_for(lambda: registry.waiting, message="Nobody asked the registry.")
        self.assertTrue(self.call("cancel_run", run_id, "enough")["success"])
        # The engine itself says nothing for a minute.
        row = self.wait_status(run_id, "canceled", seconds=20)
        self.assertEqual(row["error_code"], "canceled")
        wait_for(registry.is_given_up, 30, "The engine goes on pulling.")
        self.assertFalse(running("71290"))


class ComingBack(ProcessExecutor):
    """An engine that is away so many times, and real processes behind it."""

    def __init__(self, times):
        super().__init__(allow=True)
        self.times = times
        self.asked = []

    def start(self, spec, directory):
        self.asked.append(spec)
        if len(self.asked) <= self.times:
            raise EngineUnavailable("The engine does not answer.")
        return super().start(spec, directory)


class TestStartOfAStep(FolderCase):
    """The engine can go away between two steps as well."""

    def make_job(self, executor, patience=60.0):
        server = SlowServer()
        server.away = False
        self.log = RunLog(server, 1, 1, self.folder, 1)
        self.addCleanup(self.log.close)
        self.log.start()
        self.guard = make_guard()
        job = RunJob(
            Claim(1, 1, 1, 1, 1, 60.0, {}),
            with_defaults({}),
            self.folder,
            guard=self.guard,
            control=None,
            executor=executor,
            run_log=self.log,
            recorder=None,
            odoo_argv=(),
            odoo_addons=(),
            engine_patience=patience,
        )
        job.env = {"PATH": os.environ["PATH"]}
        self.server = server
        return job

    def messages(self):
        self.assertTrue(self.log.flush(lambda: False))
        return [row["message"] for row in self.server.rows]

    def test_it_is_started_once_when_the_engine_is_back(self):
        executor = ComingBack(2)
        job = self.make_job(executor)
        code = job.execute(["sh", "-c", "echo here; exit 4"], cwd=self.folder)
        self.assertEqual((code, len(executor.asked)), (4, 3))
        waits, back, here = self.messages()
        self.assertIn("waits for it, for 60 seconds at most", waits)
        self.assertEqual((back, here), ("The Docker engine answers again.", "here"))
        times = [spec.timeout for spec in executor.asked]
        self.assertEqual(times, sorted(times, reverse=True))
        self.assertLess(times[-1], times[0], "The time of the run goes on.")

    def test_without_patience_it_fails_at_once(self):
        executor = ComingBack(1)
        job = self.make_job(executor, patience=0)
        with self.assertRaises(RunError) as caught:
            job.execute(["true"], cwd=self.folder)
        self.assertEqual((caught.exception.code, len(executor.asked)), ("setup_error", 1))
        self.assertEqual(self.messages(), [])

    def test_what_stops_the_run_ends_the_waiting(self):
        job = self.make_job(ComingBack(10**6))
        timer = threading.Timer(0.5, self.guard.stop, ("canceled", "Enough.", 0.0))
        timer.start()
        self.addCleanup(timer.join)
        with self.assertRaises(RunStopped) as caught:
            job.execute(["true"], cwd=self.folder)
        self.assertEqual(caught.exception.code, "canceled")
