"""What the console's screens read from the models."""

from odoo.tests import Form, TransactionCase, tagged

WORKER = "5b3c9a52-0000-4000-8000-636f6e736f6c"


@tagged("post_install", "-at_install")
class TestConsole(TransactionCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # What waits in other projects must not be claimed here.
        cls.env["ops.project"].search([("paused", "=", False)]).write({"paused": True})
        cls.project = cls.env["ops.project"].create({"name": "Console", "slug": "console"})
        cls.workflow = cls.env["ops.workflow"].create(
            {"name": "Test", "project_id": cls.project.id, "workflow_type": "test"}
        )

    def started_run(self):
        run = self.workflow.queue_run()
        kernel = self.env["ops.kernel"]
        claim = kernel._call("claim_next_run", worker_id=WORKER)
        self.assertEqual(claim["run_id"], run.id)
        self.epoch = claim["epoch"]
        kernel._call("start_workflow_run", run_id=run.id, worker_id=WORKER, epoch=self.epoch)
        return run

    def log(self, run, *lines):
        reply = self.env["ops.kernel"]._call(
            "append_run_logs",
            run_id=run.id,
            epoch=self.epoch,
            first_seq=1,
            lines=[
                {
                    "timestamp": "2026-01-12T10:00:00.123456Z",
                    "level": level,
                    "message": message,
                    "metadata": metadata,
                }
                for level, message, metadata in lines
            ],
        )
        self.assertTrue(reply["success"], reply)

    def test_the_outline_of_a_log_counts_its_levels_and_times_its_steps(self):
        run = self.started_run()
        self.log(
            run,
            ("info", "Install", {"step": "Install", "marker": "start"}),
            ("error", "broken", {"step": "Install"}),
            ("info", "done", {"step": "Install", "marker": "end", "seconds": 1.5}),
            ("info", "Test", {"step": "Test", "marker": "start"}),
        )
        outline = run.read_log_outline()
        self.assertEqual(outline["last_seq"], 4)
        self.assertEqual(outline["levels"], {"info": 3, "error": 1})
        self.assertEqual(
            outline["steps"],
            [
                {"name": "Install", "seq": 1, "seconds": 1.5},
                {"name": "Test", "seq": 4, "seconds": None},
            ],
        )
        self.assertFalse(outline["ended"])
        self.assertEqual(outline["status"], "running")

    def test_the_outline_of_an_empty_log_is_empty(self):
        outline = self.workflow.queue_run().read_log_outline()
        self.assertEqual((outline["last_seq"], outline["levels"], outline["steps"]), (0, {}, []))

    def test_a_page_of_the_log_searches_signs_as_they_stand(self):
        run = self.started_run()
        self.log(run, ("info", "100% of a_b", {}), ("info", "1000 of axb", {}))
        page = run.read_log(search="100% OF A_B")
        self.assertEqual([line["seq"] for line in page["lines"]], [1])
        self.assertEqual(page["lines"][0]["timestamp"], "2026-01-12T10:00:00.123456Z")

    def test_a_failed_test_is_named_with_its_place_and_reason(self):
        run = self.started_run()
        failed = {
            "class": "TestShop",
            "method": "test_sale",
            "file": "tests/test_shop.py",
            "line": 7,
            "message": "AssertionError: 1 != 2",
        }
        self.env["ops.kernel"]._call(
            "complete_workflow_run",
            run_id=run.id,
            worker_id=WORKER,
            epoch=self.epoch,
            exit_code=1,
            error_code="tests_failed",
            metadata={
                "tests": {"passed": 3, "failed": 1},
                "failed_tests": [failed, "by name"],
                "steps": [
                    {"name": "Test", "status": "failed", "seconds": 2, "reason": "Too bad."},
                    {"name": "Odd", "status": None, "seconds": "long"},
                    "odd",
                ],
            },
        )
        self.assertEqual(run.step_lines, "failed           2.0 s  Test (Too bad.)")
        self.assertEqual(run.test_summary, "3 passed, 1 failed")
        self.assertEqual(
            run.failed_tests,
            "TestShop.test_sale  tests/test_shop.py:7  AssertionError: 1 != 2\nby name",
        )

    def test_a_project_card_shows_its_last_runs_oldest_first(self):
        first, second = self.workflow.queue_run(), self.workflow.queue_run()
        second.cancel()
        self.assertEqual(
            [(run["id"], run["status"]) for run in self.project.recent_runs],
            [(first.id, "queued"), (second.id, "canceled")],
        )
        self.assertEqual(self.project.last_run_id, second)

    def test_a_new_project_gets_its_slug_from_its_name(self):
        with Form(self.env["ops.project"]) as form:
            form.name = "Café & Söhne: Web shop"
            self.assertEqual(form.slug, "cafe-sohne-web-shop")
        self.assertEqual(form.record.workspace_key, "cafe_sohne_web_shop_workspace")
