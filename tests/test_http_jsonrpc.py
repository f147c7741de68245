"""The JSON-RPC door at work: what each role may do, and what the methods answer."""

from odoo.tests import tagged

from .http_case import DoorCase

MISSING_ID = 2**31 - 1


@tagged("post_install", "-at_install")
class TestRoles(DoorCase):
    """The role matrix as seen from this door."""

    def test_who_may_queue(self):
        params = {"workflow_id": self.workflows["deploy"].id}
        for person in ("developer", "admin", "owner", "platform"):
            self.assertTrue(self.call("queue_run", params, person)["created"], person)
        for person in ("viewer", "foreign"):
            self.assertRefused("forbidden", "queue_run", params, person, status=403)
        self.assertEqual(
            self.env["ops.run"].search([("project_id", "=", self.project.id)]).mapped("trigger"),
            ["api"] * 4,
        )

    def test_who_may_cancel_and_restart(self):
        for person, user, allowed in (
            ("developer", "developer", True),
            ("developer", "owner", False),
            ("admin", "developer", True),
            ("owner", "admin", True),
            ("viewer", "owner", False),
            ("foreign", "owner", False),
            ("platform", "developer", True),
        ):
            run = self.queue(user=user)
            with self.subTest(person=person, run_of=user):
                params = {"run_id": run.id}
                if allowed:
                    reply = self.call("cancel_run", {**params, "reason": "no need"}, person)
                    self.assertEqual((reply["status"], reply["confirmed"]), ("canceled", True))
                    self.assertEqual(run.cancel_reason, "no need")
                    again = self.call("retry_run", params, person)
                    self.assertEqual(self.env["ops.run"].browse(again["run_id"]).retry_of, run)
                else:
                    self.assertRefused("forbidden", "cancel_run", params, person, status=403)
                    self.kernel("cancel_run", run_id=run.id)
                    self.assertRefused("forbidden", "retry_run", params, person, status=403)

    def test_every_member_reads_and_nobody_else(self):
        run = self.queue()
        for method in (
            "get_run",
            "read_run_logs",
            "list_artifacts",
            "explain_wait",
            "verify_events",
        ):
            for person in ("viewer", "developer", "admin", "owner", "platform"):
                self.call(method, {"run_id": run.id}, person)

    def test_what_is_foreign_looks_like_what_does_not_exist(self):
        # Rule: R-26
        run = self.queue()
        calls = [
            *(
                (method, {"run_id": run.id}, {"run_id": MISSING_ID})
                for method in (
                    "get_run",
                    "read_run_logs",
                    "list_artifacts",
                    "explain_wait",
                    "verify_events",
                    "cancel_run",
                    "retry_run",
                )
            ),
            ("queue_run", {"workflow_id": self.workflows["test"].id}, {"workflow_id": MISSING_ID}),
            (
                "queue_run",
                {"project": "door-test", "workflow_type": "test"},
                {"project": "nowhere", "workflow_type": "test"},
            ),
            *(
                (method, {"project": "door-test"}, {"project": "nowhere"})
                for method in ("list_runs", "list_workflows", "list_queued_runs")
            ),
        ]
        for method, foreign, missing in calls:
            with self.subTest(method=method):
                first = self.request(method, foreign, "foreign")
                second = self.request(method, missing, "foreign")
                self.assertError(first, "forbidden", 403)
                self.assertEqual(first.text, second.text)

    def test_lists_hold_only_what_is_visible(self):
        run = self.queue()
        self.other_workflow.queue_run()
        for person, projects in (("viewer", {"door-test"}), ("foreign", set())):
            lists = {
                method: self.call(method, key=person)
                for method in ("list_projects", "list_workflows", "list_runs", "list_queued_runs")
            }
            self.assertEqual({row["slug"] for row in lists["list_projects"]["projects"]}, projects)
            for method, name in (
                ("list_workflows", "workflows"),
                ("list_runs", "runs"),
                ("list_queued_runs", "runs"),
            ):
                self.assertEqual({row["project"] for row in lists[method][name]}, projects, method)
        everywhere = self.call("list_runs", key="platform")["runs"]
        self.assertGreaterEqual({row["project"] for row in everywhere}, {"door-test", "door-other"})
        self.assertEqual(self.call("list_runs", key="viewer")["runs"][0]["id"], run.id)

    def test_methods_of_workers_are_for_platform_administrators(self):
        for method in (
            "register_worker",
            "claim_next_run",
            "reap_lost_runs",
            "index_run_logs",
            "list_leases",
            "complete_workflow_run",
        ):
            for person in ("owner", "foreign"):
                self.assertRefused("forbidden", method, {}, person, status=403)


@tagged("post_install", "-at_install")
class TestPeople(DoorCase):
    """What members of a project do and read."""

    def test_a_run_is_queued_by_project_and_type(self):
        reply = self.call(
            "queue_run",
            {
                "project": "door-test",
                "workflow_type": "build",
                "git_ref": "main",
                "git_commit": "a" * 40,
                "environment": "dev",
                "priority": 5,
                "metadata": {"ticket": "né"},
                "available_at": "2199-01-01T12:00:00+02:00",
            },
        )
        self.assertEqual((reply["status"], reply["created"]), ("queued", True))
        run = self.call("get_run", {"run_id": reply["run_id"], "artifacts": True})
        expected = {
            "id": reply["run_id"],
            "project_id": self.project.id,
            "project": "door-test",
            "workflow_id": self.workflows["build"].id,
            "workflow": "Build",
            "workflow_type": "build",
            "run_number": reply["run_number"],
            "status": "queued",
            "git_ref": "main",
            "git_commit": "a" * 40,
            "priority": 5,
            "trigger": "api",
            "metadata": {"ticket": "né", "environment": "dev"},
            "available_at": "2199-01-01T10:00:00.000000Z",
            "requested_by": self.people["developer"].id,
            "exit_code": None,
            "error_code": None,
            "claimed_by": None,
            "claimed_at": None,
            "started_at": None,
            "finished_at": None,
            "duration": None,
            "idempotency_key": None,
            "retry_of": None,
            "artifacts": [],
        }
        self.assertEqual({name: run.get(name, "absent") for name in expected}, expected)
        self.assertEqual(run["snapshot"]["project"]["slug"], "door-test")

    def test_a_type_with_several_workflows_wants_the_name(self):
        second = self.make_workflow(self.project, "test", name="Slow tests")
        params = {"project": "door-test", "workflow_type": "test"}
        error = self.assertRefused("invalid_input", "queue_run", params)
        self.assertEqual(error["data"]["field"], "workflow")
        self.assertIn("Slow tests", error["message"])
        reply = self.call("queue_run", {**params, "workflow": "Slow tests"})
        self.assertEqual(self.env["ops.run"].browse(reply["run_id"]).workflow_id, second)
        second.enabled = False
        self.assertTrue(self.call("queue_run", params)["created"])

    def test_the_idempotency_key_gives_the_same_run(self):
        params = {"workflow_id": self.workflows["test"].id}
        first = self.call("queue_run", params, Idempotency_Key="push-1")
        second = self.call("queue_run", params, Idempotency_Key="push-1")
        third = self.call("queue_run", {**params, "idempotency_key": "push-1"}, "admin")
        self.assertTrue(first["created"])
        self.assertEqual([second["created"], third["created"]], [False, False])
        self.assertEqual({first["run_id"], second["run_id"], third["run_id"]}, {first["run_id"]})
        other = {"workflow_id": self.workflows["build"].id}
        self.assertRefused("conflict", "queue_run", other, Idempotency_Key="push-1")
        self.assertRefused(
            "invalid_input",
            "queue_run",
            {**params, "idempotency_key": "push-2"},
            status=400,
            Idempotency_Key="push-1",
        )
        self.assertRefused("invalid_input", "queue_run", params, Idempotency_Key="x" * 201)
        batch = [{"jsonrpc": "2.0", "id": 1, "method": "queue_run", "params": params}]
        self.assertError(self.post(batch, "developer", Idempotency_Key="x"), "invalid_request", 400)

    def test_refusals_of_the_kernel_keep_code_and_sentence(self):
        error = self.assertRefused(
            "invalid_input",
            "queue_run",
            {"workflow_id": self.workflows["test"].id, "git_ref": "--upload-pack=x"},
            status=400,
        )
        self.assertIn("dash", error["message"])
        self.workflows["build"].enabled = False
        error = self.assertRefused(
            "disabled", "queue_run", {"workflow_id": self.workflows["build"].id}, status=200
        )
        self.assertEqual(error["message"], "Workflow Build is disabled.")
        run = self.queue()
        self.assertRefused("invalid_state", "retry_run", {"run_id": run.id}, "owner")

    def test_a_failed_run_tells_how_it_ended(self):
        run = self.queue()
        self.finish(
            run,
            exit_code=7,
            error_code="tests_failed",
            error_message="2 tests failed",
            metadata={"failed_tests": ["test_a"]},
        )
        row = self.call("get_run", {"run_id": run.id})
        self.assertEqual(
            (row["status"], row["exit_code"], row["error_code"], row["error_message"]),
            ("failed", 7, "tests_failed", "2 tests failed"),
        )
        self.assertEqual(row["metadata"]["failed_tests"], ["test_a"])
        self.assertRegex(row["finished_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")

    def test_logs_are_read_by_offset(self):
        run = self.queue()
        self.finish(run, lines=[f"line {n}" for n in range(1, 8)])
        after, lines, pages = 0, [], 0
        while True:
            page = self.call("read_run_logs", {"run_id": run.id, "after": after, "limit": 3})
            lines += [line["message"] for line in page["lines"]]
            after, pages = page["next_after"], pages + 1
            if not page["more"]:
                break
        self.assertEqual(lines, [f"line {n}" for n in range(1, 8)])
        self.assertEqual((pages, after, page["ended"], page["status"]), (3, 7, True, "succeeded"))
        errors = self.call("read_run_logs", {"run_id": run.id, "levels": "error"})
        self.assertEqual(errors["lines"], [])

    def test_lists_come_in_pages(self):
        runs = [self.queue(git_ref=f"ref-{n}", priority=n % 2) for n in range(5)]

        def read(method, **params):
            ids, cursor = [], None
            while True:
                page = self.call(method, {**params, "limit": 2, "cursor": cursor})
                self.assertLessEqual(len(page["runs"]), 2)
                ids += [row.get("run_id") or row["id"] for row in page["runs"]]
                cursor = page["next_cursor"]
                if not cursor:
                    return ids

        self.assertEqual(read("list_runs", project="door-test"), [run.id for run in reversed(runs)])
        self.assertEqual(read("list_queued_runs"), [runs[n].id for n in (1, 3, 0, 2, 4)])
        cursor = self.call("list_runs", {"limit": 2})["next_cursor"]
        self.assertRefused("invalid_input", "list_queued_runs", {"cursor": cursor})
        self.assertNotIn("snapshot", self.call("list_runs", {"limit": 1})["runs"][0])

    def test_runs_are_filtered(self):
        build, test = self.queue("build", git_ref="a"), self.queue(git_ref="b")
        self.kernel("cancel_run", run_id=build.id)
        for params, expected in (
            ({"status": "queued"}, test),
            ({"status": ["canceled", "failed"]}, build),
            ({"workflow_type": "build"}, build),
            ({"git_ref": "b"}, test),
            ({"workflow_id": test.workflow_id.id}, test),
            ({"trigger": "schedule"}, None),
        ):
            found = [row["id"] for row in self.call("list_runs", params)["runs"]]
            self.assertEqual(found, expected.ids if expected else [], params)

    def test_a_queued_run_says_why_it_waits(self):
        run = self.queue()
        self.project.paused = True
        reply = self.call("explain_wait", {"run_id": run.id})
        self.assertEqual(reply["code"], "project_paused")
        (row,) = self.call("list_queued_runs", {"project": "door-test"})["runs"]
        self.assertEqual(row["waiting_for"], reply["message"])

    def test_the_chain_of_events_is_verified(self):
        run = self.queue()
        self.finish(run)
        reply = self.call("verify_events", {"run_id": run.id})
        self.assertEqual((reply["valid"], reply["problems"]), (True, []))
        self.assertEqual(reply["events"], 4)

    def test_archived_projects_are_listed_apart(self):
        self.project.active = False
        self.assertEqual(self.call("list_projects")["projects"], [])
        (row,) = self.call("list_projects", {"status": "archived"})["projects"]
        self.assertEqual((row["slug"], row["status"]), ("door-test", "archived"))
        self.assertRefused("disabled", "queue_run", {"workflow_id": self.workflows["test"].id})
