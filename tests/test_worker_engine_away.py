"""Runs that need a container while the engine is away, or while a registry keeps it waiting."""

import contextlib
import socket
import threading

from .docker_engine import IMAGE
from .executor_contract import running
from .worker_common import DockerCase, wait_for


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
