"""The scheduled action that executes runs on this server when no worker is alive."""

import contextlib
import os
import signal

from .worker_common import KernelCase, wait_for


class TestScheduledWorker(KernelCase):
    def setUp(self):
        super().setUp()
        # A worker that another test has just killed would count as alive for half a minute.
        self.query("UPDATE ops_worker SET state = 'stopped' WHERE state <> 'stopped'")
        self.addCleanup(self.allow, False)

    def allow(self, allowed):
        with self.environment() as env:
            env["ir.config_parameter"].set_param(
                "odooops.execute_on_this_server", "True" if allowed else False
            )
            env["ir.config_parameter"].set_param(
                "odooops.artifact_root", str(self.folder / "artifacts") if allowed else False
            )

    def launch(self):
        with self.environment() as env:
            pid = env["ops.worker"]._cron_launch_worker()
        if pid:
            self.addCleanup(self.kill, pid)
        return pid

    @staticmethod
    def kill(pid):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def test_it_executes_what_is_queued_and_ends(self):
        self.allow(True)
        run_id = self.queue(self.make_workflow(steps=[{"name": "Say", "run": "echo hello"}]))
        pid = self.launch()
        self.assertTrue(pid)
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual(row["status"], "succeeded", row)
        self.assertIn("hello", self.messages(run_id))
        ended, status = wait_for(
            lambda: (result := os.waitpid(pid, os.WNOHANG))[0] and result,
            message="The worker did not end when the queue was empty.",
        )
        self.assertEqual((ended, os.waitstatus_to_exitcode(status)), (pid, 0))
        kind = self.query(
            "SELECT kind FROM ops_worker WHERE worker_id ="
            " (SELECT claimed_by FROM ops_run WHERE id = %s)",
            run_id,
        )
        self.assertEqual(kind, [("scheduled",)])

    def test_it_starts_nothing_unless_allowed_and_needed(self):
        workflow_id = self.make_workflow(steps=[{"name": "Say", "run": "echo hello"}])
        run_id = self.queue(workflow_id)
        self.assertIsNone(self.launch(), "not allowed")
        self.allow(True)
        self.call("register_worker", f"alive-{self.slug}", "host", [self.slug], 1, "1", "daemon")
        self.assertIsNone(self.launch(), "a worker is alive")
        self.call("set_worker_state", f"alive-{self.slug}", "stopped")
        self.call("cancel_run", run_id)
        self.assertIsNone(self.launch(), "nothing is queued")
