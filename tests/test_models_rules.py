"""Constraints, configuration and what the models compute."""

import json

import psycopg2

from odoo.exceptions import UserError, ValidationError
from odoo.tests import TransactionCase, tagged
from odoo.tools import mute_logger


@tagged("post_install", "-at_install")
class TestModelsRules(TransactionCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.project = cls.env["ops.project"].create({"name": "Rules", "slug": "rules-test"})
        cls.workflow = cls.env["ops.workflow"].create(
            {"name": "Test", "project_id": cls.project.id, "workflow_type": "test"}
        )

    def assertViolates(self, model, values):
        with (
            mute_logger("odoo.sql_db"),
            self.assertRaises(psycopg2.IntegrityError),
            self.env.cr.savepoint(),
        ):
            self.env[model].create(values)
            self.env.flush_all()

    def test_names_that_other_systems_rely_on_are_checked(self):
        base = {"name": "X", "slug": "x-project"}
        for wrong in (
            {"slug": "Upper"},
            {"slug": "two--dashes"},
            {"slug": "-front"},
            {"slug": "under_score"},
            {"slug": "rules-test"},
            {"workspace_key": "1abc"},
            {"workspace_key": "a-b"},
            {"workspace_key": self.project.workspace_key},
            {"odoo_version": "19"},
            {"max_running": 0},
        ):
            with self.subTest(wrong=wrong):
                self.assertViolates("ops.project", {**base, **wrong})
        tool = {"tool_name": "odoo", "version": "rules", "docker_image": "odoo:19.0"}
        for wrong in ({"digest": "latest"}, {"tool_name": "Has Space"}):
            with self.subTest(wrong=wrong):
                self.assertViolates("ops.tool", {**tool, **wrong})
        self.env["ops.tool"].create(tool)
        self.assertViolates("ops.tool", tool)
        advisory = {"title": "x", "from_version": "19.0", "to_version": "twenty"}
        self.assertViolates("ops.upgrade.advisory", advisory)
        self.assertViolates(
            "ops.workflow",
            {"name": "Test", "project_id": self.project.id, "workflow_type": "test"},
        )

    def test_a_tool_that_no_worker_would_take_is_refused(self):
        tool = self.env["ops.tool"].create(
            {"tool_name": "odoo", "version": "config", "docker_image": "odoo:19.0"}
        )
        tool.config_text = '{"memory": "2g", "odoo": ["/opt/odoo/odoo-bin"]}'
        self.assertEqual(tool.config, {"memory": "2g", "odoo": ["/opt/odoo/odoo-bin"]})
        auth = {"username": "puller"}
        for wrong, words in (
            ('{"memory": "much"}', "The setting memory of the tool odoo:config"),
            ('{"privileged": true}', "unknown setting privileged"),
            ('{"odoo": "odoo"}', "must be a list of words"),
            ("[1]", "must be an object"),
            ("{", "line 1, column 2"),
            (json.dumps({"registry_auth": auth}), "password_secret, the name of a secret"),
            (
                json.dumps({"registry_auth": auth | {"password": "in-the-clear"}}),
                "must hold username and password_secret",
            ),
            (
                json.dumps({"registry_auth": auth | {"password_secret": "in the clear"}}),
                "no name of a secret",
            ),
        ):
            with self.subTest(wrong=wrong), self.assertRaisesRegex(ValidationError, words):
                tool.config_text = wrong

    def test_a_repository_that_no_worker_would_read_is_refused(self):
        for wrong in ("--upload-pack=x", "ext::sh -c id", "relative/path", "http://a b/c.git"):
            with self.subTest(url=wrong), self.assertRaises(ValidationError):
                self.project.repository_url = wrong
        for right in (
            "https://example.com/team/addons.git",
            "git@example.com:team/addons.git",
            "/srv/git/our addons",
        ):
            self.project.repository_url = right

    def test_the_workspace_key_comes_from_the_slug(self):
        self.assertEqual(self.project.workspace_key, "rules_test_workspace")
        project = self.env["ops.project"].create({"name": "4", "slug": "4-seasons"})
        self.assertEqual(project.workspace_key, "p_4_seasons_workspace")

    def test_a_wrong_config_is_refused_with_path_and_reason(self):
        with self.assertRaises(ValidationError) as caught:
            self.workflow.config = {"timeout": -1, "stepps": []}
        self.assertIn("timeout", str(caught.exception))
        self.assertIn("stepps", str(caught.exception))
        with self.assertRaises(ValidationError) as caught:
            self.workflow.config_text = '{"timeout": 5,\n "x"}'
        self.assertIn("line 2", str(caught.exception))
        self.workflow.config_text = '{"timeout": 5}'
        self.assertEqual(self.workflow.config, {"timeout": 5})

    def test_types_without_a_recipe_need_steps(self):
        with self.assertRaises(ValidationError):
            self.env["ops.workflow"].create(
                {"name": "D", "project_id": self.project.id, "workflow_type": "deploy"}
            )

    def test_a_refusal_of_the_kernel_reaches_the_person(self):
        self.workflow.enabled = False
        with self.assertRaisesRegex(UserError, "disabled"):
            self.workflow.queue_run()

    def test_a_run_is_found_by_its_number(self):
        run = self.workflow.queue_run()
        self.assertEqual(run.display_name, "rules-test #1")
        for text in ("rules-test #1", "#1", "1"):
            found = self.env["ops.run"].search(
                [("display_name", "ilike", text), ("project_id", "=", self.project.id)]
            )
            self.assertEqual(found, run)

    def test_exit_code_zero_is_told_from_no_exit_code(self):
        worker = {"worker_id": "rules-worker"}
        kernel = self.env["ops.kernel"]
        run = self.workflow.queue_run()
        # Runs of other tests may stand in the same queue: this one goes first.
        self.env.cr.execute("UPDATE ops_run SET priority = 1000 WHERE id = %s", [run.id])
        epoch = kernel._call("claim_next_run", **worker)["epoch"]
        kernel._call("start_workflow_run", run_id=run.id, epoch=epoch, **worker)
        self.assertFalse(run.has_exit_code)
        kernel._call("complete_workflow_run", run_id=run.id, epoch=epoch, exit_code=0, **worker)
        self.assertEqual(run.status, "succeeded")
        self.assertTrue(run.has_exit_code)
        self.assertFalse(run.can_cancel)
        self.assertTrue(run.can_restart)

    def test_the_log_is_read_by_page_from_its_own_offset(self):
        kernel = self.env["ops.kernel"]
        run = self.workflow.queue_run()
        self.env.cr.execute("UPDATE ops_run SET priority = 1000 WHERE id = %s", [run.id])
        held = {"run_id": run.id, "epoch": kernel._call("claim_next_run", worker_id="w")["epoch"]}
        kernel._call("start_workflow_run", worker_id="w", **held)
        lines = [
            {"message": f"100% of line_{n}", "level": "error" if n == 7 else "info"}
            for n in range(1, 11)
        ]
        kernel._call("append_run_logs", first_seq=1, lines=lines, **held)
        page = run.read_log(after=0, limit=4)
        self.assertEqual([line["seq"] for line in page["lines"]], [1, 2, 3, 4])
        self.assertTrue(page["more"])
        page = run.read_log(after=page["next_after"], limit=100)
        self.assertEqual([line["seq"] for line in page["lines"]], [5, 6, 7, 8, 9, 10])
        self.assertFalse(page["more"])
        self.assertEqual([li["seq"] for li in run.read_log(levels=["error"])["lines"]], [7])
        self.assertEqual([li["seq"] for li in run.read_log(search="LINE_10")["lines"]], [10])
        self.assertEqual(len(run.read_log(search="0%")["lines"]), 10, "% is no wildcard")
        self.assertEqual(run.read_log(search="line%9")["lines"], [])
        found = self.env["ops.run.log"].search(
            [("run_id", "=", run.id), ("words", "ilike", "line_7")]
        )
        self.assertEqual(found.seq, 7)

    def test_an_advisory_concerns_the_projects_of_its_version(self):
        self.project.odoo_version = "17.0"
        advisory = self.env["ops.upgrade.advisory"].create(
            {"title": "Move", "from_version": "17.0", "to_version": "19.0"}
        )
        self.assertIn(self.project, advisory.project_ids)
        advisory.action_acknowledge()
        self.assertEqual(advisory.open_project_count, 0)
        acknowledgement = advisory.acknowledgement_ids.filtered(
            lambda a: a.project_id == self.project
        )
        self.assertEqual(acknowledgement.acknowledged_by, self.env.user)
