"""The console in a real browser: a failed run, its failing line, the restart and its end."""

import threading
from datetime import datetime, timedelta, timezone

from odoo import SUPERUSER_ID, api
from odoo.tests import HttpCase, new_test_user, tagged

LOGIN = "tour_developer"
WORKER = "5b3c9a52-0000-4000-8000-746f75720001"
FAILURE = [
    ("info", "odoo.modules.loading: Loading module demo_equipment_booking (13/16)"),
    ("error", "odoo.addons.demo_equipment_booking: FAIL: TestBooking.test_overlap_is_refused"),
    ("error", "Traceback (most recent call last):"),
    ("error", '  File "tests/test_booking.py", line 29, in test_overlap_is_refused'),
    ("error", "AssertionError: ValidationError not raised"),
    ("info", "odoo.modules.loading: 16 modules loaded"),
    ("error", "odoo.tests.result: 1 of 9 tests failed"),
]
FAILED_TEST = {
    "class": "TestBooking",
    "method": "test_overlap_is_refused",
    "file": "tests/test_booking.py",
    "line": 29,
    "message": "AssertionError: ValidationError not raised",
}


class Worker:
    """Plays a worker through the kernel's functions; each call is a transaction of its own."""

    def __init__(self, registry):
        self._registry = registry

    def call(self, function, **arguments):
        with self._registry.cursor() as cr:
            reply = api.Environment(cr, SUPERUSER_ID, {})["ops.kernel"]._call(function, **arguments)
        if not reply["success"]:
            raise AssertionError(f"{function}: {reply}")
        return reply

    def start(self):
        """Claim the next run and start it; return the claim."""
        claim = self.call("claim_next_run", worker_id=WORKER)
        self.call(
            "start_workflow_run",
            run_id=claim["run_id"],
            worker_id=WORKER,
            epoch=claim["epoch"],
        )
        return claim

    def log(self, claim, lines):
        began = datetime.now(timezone.utc)
        self.call(
            "append_run_logs",
            run_id=claim["run_id"],
            epoch=claim["epoch"],
            first_seq=1,
            lines=[
                {
                    "timestamp": (began + timedelta(milliseconds=n)).isoformat(),
                    "level": level,
                    "message": message,
                    "metadata": {"step": "Test"},
                }
                for n, (level, message) in enumerate(lines)
            ],
        )

    def complete(self, claim, **result):
        self.call(
            "complete_workflow_run",
            run_id=claim["run_id"],
            worker_id=WORKER,
            epoch=claim["epoch"],
            **result,
        )


@tagged("post_install", "-at_install")
class TestRunTour(HttpCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.developer = new_test_user(cls.env, login=LOGIN, groups="odooops.group_user")
        # What waits in other projects must not be claimed here.
        cls.env["ops.project"].search([("paused", "=", False)]).write({"paused": True})
        project = cls.env["ops.project"].create({"name": "Tour shop", "slug": "tour-shop"})
        cls.env["ops.project.membership"].create(
            {"project_id": project.id, "user_id": cls.developer.id, "role": "developer"}
        )
        cls.workflow = cls.env["ops.workflow"].create(
            {"name": "Test all modules", "project_id": project.id, "workflow_type": "test"}
        )

    def fail_a_run(self, worker):
        self.workflow.with_user(self.developer).queue_run(git_ref="broken-booking")
        claim = worker.start()
        worker.log(claim, FAILURE)
        worker.complete(
            claim,
            exit_code=1,
            error_code="tests_failed",
            error_message="1 of 9 tests failed: TestBooking.test_overlap_is_refused",
            metadata={"tests": {"passed": 8, "failed": 1}, "failed_tests": [FAILED_TEST]},
        )
        return claim["run_id"]

    def when_looked_at(self, failed_run_id):
        """An event that is set once somebody reads the log of another run than the failed one."""
        looked_at = threading.Event()
        model = type(self.env["ops.run"])
        read_log_outline = model.read_log_outline

        def observed(run):
            outline = read_log_outline(run)
            if run.id != failed_run_id:
                looked_at.set()
            return outline

        self.patch(model, "read_log_outline", observed)
        return looked_at

    def succeed_next_run(self, worker, looked_at, problems):
        try:
            if not looked_at.wait(60):
                raise AssertionError("nobody restarted the run")
            claim = worker.start()
            worker.log(claim, [("info", "9 passed")])
            worker.complete(claim, exit_code=0)
        except Exception as problem:  # shown by the test's own thread
            problems.append(problem)

    def test_a_failed_run_is_understood_restarted_and_watched_to_its_end(self):
        worker = Worker(self.registry)
        failed_run_id = self.fail_a_run(worker)
        looked_at = self.when_looked_at(failed_run_id)
        problems = []
        thread = threading.Thread(
            target=self.succeed_next_run, args=(worker, looked_at, problems), name="tour worker"
        )
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(looked_at.set)
        self.start_tour("/odoo/ops-runs", "odooops_run", login=LOGIN, timeout=90)
        thread.join()
        self.assertFalse(problems)
        self.env.invalidate_all()
        restarted = self.env["ops.run"].search([("retry_of", "=", failed_run_id)])
        self.assertEqual(restarted.status, "succeeded")
        self.assertEqual(restarted.requested_by, self.developer)


@tagged("post_install", "-at_install")
class TestRegistrationTour(HttpCase):
    def test_a_platform_administrator_makes_a_registration_token(self):
        """The token is seen once; the command beside it names this server."""
        login = "tour_platform"
        new_test_user(self.env, login=login, groups="odooops.group_platform_admin")
        self.start_tour("/odoo", "odooops_registration", login=login, timeout=90)
        token = self.env["ops.worker.token"].search([("name", "=", "Tour hosts")])
        self.assertEqual((token.kind, token.state, token.uses_left), ("registration", "valid", 2))
        wizard = self.env["ops.registration.token"].search([], limit=1)
        self.assertFalse(wizard.token, "stored nowhere")
        self.assertIn(
            f"register --control-url {self.env['ops.run'].get_base_url()}", wizard.commands
        )
