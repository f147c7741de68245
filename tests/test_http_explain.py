"""Why a run waits: every reason, with the same words at all three doors."""

import re

from odoo.tests import tagged
from odoo.tools import SQL

from .http_case import STEPS, DoorCase


@tagged("post_install", "-at_install")
class TestExplainWait(DoorCase):
    def setUp(self):
        super().setUp()
        self.env.cr.execute("UPDATE ops_worker SET state = 'stopped'")
        self.env.cr.execute(
            "UPDATE ops_run SET available_at = '2999-01-01' WHERE status = 'queued'"
        )

    def assertWaits(self, run, code, sentence):
        """All doors give this code and a sentence of this pattern."""
        self.env.flush_all()
        function = SQL.identifier(self.env["ops.kernel"]._get_schema(), "explain_wait")
        ((by_sql,),) = self.env.execute_query(SQL("SELECT %s(%s)", function, run.id))
        self.assertEqual((by_sql["success"], by_sql["code"]), (True, code), by_sql)
        self.assertRegex(by_sql["message"], f"^{sentence}$")
        self.assertEqual(self.call("explain_wait", {"run_id": run.id}, "viewer"), by_sql)
        if code == "not_waiting":
            return
        run.invalidate_recordset()
        self.assertEqual(run.with_user(self.people["viewer"]).waiting_for, by_sql["message"])
        listed = self.env["ops.kernel"]._rows("list_queued_runs")
        by_run = {row["run_id"]: row["waiting_for"] for row in listed}
        self.assertEqual(by_run[run.id], by_sql["message"])
        queue = self.call("list_queued_runs", {"project": "door-test"}, "viewer")["runs"]
        by_run = {row["run_id"]: row["waiting_for"] for row in queue}
        self.assertEqual(by_run[run.id], by_sql["message"])

    def make_worker(self, **arguments):
        self.kernel("register_worker", worker_id="door-test", **arguments)

    def grouped(self, **config):
        """A queued run of a workflow of the group "production"."""
        values = {**STEPS, "concurrency_group": "production", **config}
        name = f"Group {len(self.project.workflow_ids)}"
        workflow = self.make_workflow(self.project, "test", name=name, config=values)
        return workflow.with_user(self.people["owner"]).queue_run().with_user(self.env.user)

    def test_not_waiting(self):
        run = self.queue()
        self.kernel("cancel_run", run_id=run.id)
        run.invalidate_recordset()
        self.assertWaits(run, "not_waiting", r"The run is canceled\.")

    def test_project_archived(self):
        run = self.queue()
        self.project.active = False
        self.assertWaits(run, "project_archived", r"The project is archived\.")

    def test_project_paused(self):
        run = self.queue()
        self.project.paused = True
        self.assertWaits(run, "project_paused", r"The project is paused\.")

    def test_scheduled_later(self):
        run = self.queue(available_at="2099-01-02 03:04:05+00")
        self.assertWaits(run, "scheduled_later", r"Not before 2099-01-02 03:04:05 UTC\.")

    def test_no_worker(self):
        self.assertWaits(self.queue(), "no_worker", r"No worker takes runs\. Start one .*")

    def test_a_worker_that_drains_is_none(self):
        self.make_worker()
        self.kernel("set_worker_state", worker_id="door-test", state="draining")
        self.assertWaits(self.queue(), "no_worker", r"No worker takes runs\. Start one .*")

    def test_no_matching_label(self):
        self.make_worker(labels=["docker"])
        run = self.grouped(labels=["docker", "gpu"])
        self.assertWaits(run, "no_matching_label", r"No worker .* offers the labels docker, gpu\.")

    def test_limit_reached(self):
        self.make_worker(capacity=9)
        self.project.max_running = 1
        self.claim(self.queue())
        run = self.queue()
        self.assertWaits(run, "limit_reached", r"The limit .*: 1 active, 1 allowed\.")

    def test_an_active_run_of_the_group(self):
        self.make_worker(capacity=9)
        self.claim(self.grouped())
        run = self.grouped()
        sentence = r"Another run of the group production is active\."
        self.assertWaits(run, "concurrency_group", sentence)

    def test_an_older_run_of_the_group(self):
        self.make_worker(capacity=9)
        older, run = self.grouped(labels=["gpu"]), self.grouped()
        sentence = rf"Run #{older.run_number} of the group production goes first\."
        self.assertWaits(run, "concurrency_group", sentence)
        self.assertWaits(older, "no_matching_label", r"No worker .* offers the labels gpu\.")

    def test_waiting_for_slot(self):
        self.make_worker(capacity=1)
        self.claim(self.queue())
        self.assertWaits(self.queue(), "waiting_for_slot", r"All workers are busy; .*\.")

    def test_ready(self):
        self.make_worker()
        self.assertWaits(self.queue(), "ready", r"A worker is about to take it\.")

    def test_no_reason_is_left_out_here(self):
        # Rule: R-11
        schema = self.env["ops.kernel"]._get_schema()
        function = SQL("%s::regproc", f"{schema}.wait_reason")
        ((source,),) = self.env.execute_query(
            SQL("SELECT prosrc FROM pg_proc WHERE oid = %s", function)
        )
        codes = set(re.findall(r"^ +\(\d+, .*?, '([a-z_]+)',", source, re.MULTILINE | re.DOTALL))
        tried = {name.removeprefix("test_") for name in dir(self)} | {"concurrency_group"}
        self.assertGreater(len(codes), 8)
        self.assertEqual(codes - tried, set())
