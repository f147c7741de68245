"""Into the queue: numbers, keys, snapshots, and what is refused."""

from psycopg2.extras import Json

from odoo.tests import tagged

from .kernel_case import KernelCase


@tagged("post_install", "-at_install")
class TestKernelQueue(KernelCase):
    def test_run_numbers_count_within_their_project(self):
        other = self.make_workflow(self.make_project())
        numbers = [self.run_row(self.queue())["run_number"] for _ in range(3)]
        self.assertEqual(numbers, [1, 2, 3])
        self.assertEqual(self.run_row(self.queue(other))["run_number"], 1)

    def test_an_open_transaction_does_not_hold_up_other_enqueuers(self):
        slow = self.connect()
        slow.rows("BEGIN")
        first = slow.call("queue_run", workflow_id=self.workflow)
        self.db.rows("SET lock_timeout = '2s'")
        second = self.db.call("queue_run", workflow_id=self.workflow)
        slow.rows("COMMIT")
        self.assertTrue(second["success"])
        self.assertNotEqual(first["run_number"], second["run_number"])

    def test_the_same_key_gives_the_same_run(self):
        first = self.db.call("queue_run", workflow_id=self.workflow, idempotency_key="push-1")
        again = self.db.call("queue_run", workflow_id=self.workflow, idempotency_key="push-1")
        self.assertTrue(first["created"])
        self.assertFalse(again["created"])
        self.assertEqual(first["run_id"], again["run_id"])

    def test_the_same_key_at_the_same_time_gives_one_run(self):
        # Rule: R-10
        replies = self.in_parallel(
            8,
            lambda index, db: db.call(
                "queue_run", workflow_id=self.workflow, idempotency_key="push-2"
            ),
        )
        self.assertEqual(len({reply["run_id"] for reply in replies}), 1)
        self.assertEqual(sum(reply["created"] for reply in replies), 1)

    def test_a_key_of_another_workflow_is_a_conflict(self):
        self.queue(idempotency_key="push-3")
        other = self.make_workflow(self.project)
        reply = self.db.call("queue_run", workflow_id=other, idempotency_key="push-3")
        self.assertRefused(reply, "conflict")

    def test_a_queued_run_keeps_the_workflow_as_it_was(self):
        # Rule: R-09
        workflow = self.make_workflow(self.project, {"env": {"MODULES": "sale"}})
        run_id = self.queue(workflow, git_ref="18.0", metadata={"environment": "dev"})
        self.db.rows(
            "UPDATE ops_workflow SET config = %s WHERE id = %s",
            Json({"env": {"MODULES": "purchase"}}),
            workflow,
        )
        snapshot = self.run_row(run_id)["snapshot"]
        self.assertEqual(snapshot["config"], {"env": {"MODULES": "sale"}})
        self.assertEqual(snapshot["git_ref"], "18.0")
        self.assertEqual(snapshot["metadata"], {"environment": "dev"})
        self.assertEqual(snapshot["project"]["id"], self.project)

    def test_the_branch_defaults_to_the_workflows_then_the_projects(self):
        pinned = self.make_workflow(self.project, git_ref="stable", git_commit="a" * 40)
        row = self.run_row(self.queue(pinned))
        self.assertEqual((row["git_ref"], row["git_commit"]), ("stable", "a" * 40))
        row = self.run_row(self.queue(pinned, git_ref="topic"))
        self.assertEqual((row["git_ref"], row["git_commit"]), ("topic", None))
        self.assertEqual(self.run_row(self.queue())["git_ref"], "main")

    def test_bad_input_is_refused_with_a_reason(self):
        before = self.db.value("SELECT count(*) FROM ops_run")
        for arguments in (
            {"git_ref": "--upload-pack=evil"},
            {"git_ref": "a b"},
            {"git_ref": "a..b"},
            {"git_ref": ""},
            {"git_commit": "abc"},
            {"git_commit": "A" * 40},
            {"idempotency_key": ""},
            {"idempotency_key": "x" * 201},
            {"priority": 1001},
            {"metadata": ["no", "object"]},
            {"metadata": {"big": "x" * 70000}},
            {"trigger": "magic"},
            {"available_at": "infinity"},
        ):
            with self.subTest(arguments=arguments):
                reply = self.db.call("queue_run", workflow_id=self.workflow, **arguments)
                self.assertRefused(reply, "invalid_input")
        self.assertRefused(self.db.call("queue_run", workflow_id=-1), "not_found")
        self.assertEqual(self.db.value("SELECT count(*) FROM ops_run"), before)

    def test_disabled_workflows_and_archived_projects_take_no_runs(self):
        disabled = self.make_workflow(self.project, enabled=False)
        self.assertRefused(self.db.call("queue_run", workflow_id=disabled), "disabled")
        archived = self.make_workflow(self.make_project(active=False))
        self.assertRefused(self.db.call("queue_run", workflow_id=archived), "disabled")

    def test_an_unknown_tool_is_refused_and_a_known_one_frozen(self):
        workflow = self.make_workflow(self.project, {"tool": "no-such-tool:1"})
        self.assertRefused(self.db.call("queue_run", workflow_id=workflow), "invalid_input")
        tool_id = self._insert(
            "ops_tool",
            {
                "tool_name": "kernel-test",
                "version": "1",
                "docker_image": "example:1",
                "digest": "sha256:" + "0" * 64,
                "active": True,
            },
        )
        self.addCleanup(self.db.rows, "DELETE FROM ops_tool WHERE id = %s", tool_id)
        run_id = self.queue(self.make_workflow(self.project, {"tool": "kernel-test:1"}))
        self.assertEqual(self.run_row(run_id)["snapshot"]["tool"]["digest"], "sha256:" + "0" * 64)
        self.assertEqual(self.run_row(run_id)["snapshot"]["service_tools"], {})

        def config(*tools):
            return {"services": [{"name": "postgres"}, *({"tool": tool} for tool in tools)]}

        workflow = self.make_workflow(self.project, config("kernel-test:1", "no-such-tool:1"))
        refused = self.db.call("queue_run", workflow_id=workflow)
        self.assertRefused(refused, "invalid_input")
        self.assertIn("no-such-tool:1", refused["error"])
        run_id = self.queue(self.make_workflow(self.project, config(*["kernel-test:1"] * 2)))
        tools = self.run_row(run_id)["snapshot"]["service_tools"]
        self.assertEqual(set(tools), {"kernel-test:1"})
        self.assertEqual(tools["kernel-test:1"]["docker_image"], "example:1")

    def test_a_waiting_run_says_why(self):
        # Rule: R-11
        run_id = self.queue()

        def reason():
            return self.db.call("explain_wait", run_id=run_id)["code"]

        self.db.rows("UPDATE ops_worker SET state = 'stopped' WHERE state <> 'stopped'")
        self.assertEqual(reason(), "no_worker")
        worker_id = self.worker(capacity=1)
        self.assertEqual(reason(), "ready")
        self.db.rows("UPDATE ops_project SET paused = true WHERE id = %s", self.project)
        self.assertEqual(reason(), "project_paused")
        self.db.rows(
            "UPDATE ops_project SET paused = false, max_running = 1 WHERE id = %s", self.project
        )
        self.db.rows("UPDATE ops_run SET available_at = now() WHERE id = %s", run_id)
        first = self.claim(worker_id)["run_id"]
        self.assertEqual(first, run_id)
        run_id = self.queue()
        self.assertEqual(reason(), "limit_reached")
        self.db.rows("UPDATE ops_project SET max_running = 9 WHERE id = %s", self.project)
        self.assertEqual(reason(), "waiting_for_slot")
        run_id = self.queue(self.make_workflow(self.project, {"labels": ["gpu"]}))
        self.assertEqual(reason(), "no_matching_label")
        run_id = self.queue(available_at="2099-01-01T00:00:00+00")
        self.assertEqual(reason(), "scheduled_later")
        listed = {
            row["run_id"]: row
            for row in self.db.rows(f"SELECT * FROM {self.db.schema}.list_queued_runs()")
        }
        self.assertIn("2099-01-01", listed[run_id]["waiting_for"])
        self.assertNotIn(first, listed)

    def test_only_the_owner_may_call_the_kernel(self):
        allowed = self.db.rows(
            "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = %s::regnamespace"
            " AND EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0)"
            " OR p.pronamespace = %s::regnamespace AND p.proacl IS NULL",
            self.db.schema,
            self.db.schema,
        )
        self.assertEqual(allowed, [])
