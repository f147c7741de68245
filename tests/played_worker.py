"""A worker that the tests of the console play, and the run that fails in them."""

from datetime import datetime, timedelta, timezone

from odoo import SUPERUSER_ID, api

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

    def fail_next_run(self):
        """Claim the next run, log a failing test, and end it so; the run's id."""
        claim = self.start()
        self.log(claim, FAILURE)
        self.complete(
            claim,
            exit_code=1,
            error_code="tests_failed",
            error_message="1 of 9 tests failed: TestBooking.test_overlap_is_refused",
            metadata={"tests": {"passed": 8, "failed": 1}, "failed_tests": [FAILED_TEST]},
        )
        return claim["run_id"]


def make_workflow(env, name):
    """A workflow in a project of that name, the only one whose runs may be claimed."""
    # What waits in other projects must not be claimed here.
    env["ops.project"].search([("paused", "=", False)]).write({"paused": True})
    slug = name.lower().replace(" ", "-")
    project = env["ops.project"].create({"name": name, "slug": slug})
    return env["ops.workflow"].create(
        {"name": "Test all modules", "project_id": project.id, "workflow_type": "test"}
    )
