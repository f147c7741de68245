"""Uninstalling by Odoo's own button leaves a database as it was before the addon came."""

from odoo.tests import tagged

from .catalog_snapshot import differences, snapshot
from .database_case import DatabaseCase
from .test_kernel_coexistence import CONTENT, FOREIGN, ROWS, USE

UNINSTALL = """
env["ir.module.module"].search([("name", "=", "odooops")]).button_immediate_uninstall()
env["ir.attachment"]._gc_file_store()
"""
# What people do with it: rows in every table that fills itself, and what Odoo keeps about models.
USE_ODOOOPS = """
import datetime
from odoo.fields import Command
env["res.config.settings"].create({
    "odooops_artifact_root": "", "odooops_s3_prefix": "left", "odooops_s3_region": "somewhere",
    "odooops_execute_on_this_server": True,
}).execute()
user = env.ref("base.user_admin")
project = env["ops.project"].create({
    "name": "Left", "slug": "left", "workspace_key": "left",
    "membership_ids": [Command.create({"user_id": user.id, "role": "owner"})],
})
workflow = env["ops.workflow"].create({
    "name": "Test", "project_id": project.id, "workflow_type": "test",
    "config": {"steps": [{"name": "Say", "run": "echo hello"}]},
})
env["ops.sql.login"].create({"role_name": "left_login", "user_id": user.id})
env["ops.tool"].create({"tool_name": "left", "version": "1", "docker_image": "debian:13"})
env["ops.secret"].create(
    {"name": "TOKEN", "project_id": project.id, "value": "a-long-enough-value"})
env["ir.attachment"].create({
    "name": "note", "res_model": "ops.run", "res_id": 1, "raw": b"about a run"})
env["ir.exports"].create({"name": "Mine", "resource": "ops.run"})
env["ir.filters"].create({"name": "Mine", "model_id": "ops.run", "user_ids": [user.id]})
env["ir.default"].set("ops.workflow", "git_ref", "main")
env["res.users.apikeys"].with_user(user)._generate(
    "odooops", "CI", datetime.datetime.now() + datetime.timedelta(days=1))
run, other = workflow.queue_run(), workflow.queue_run()
env.cr.commit()
kernel = env["ops.kernel"]
call = kernel._call_committed
call("register_worker", worker_id="left-worker")
claimed = call("claim_next_run", worker_id="left-worker")
held = {"run_id": claimed["run_id"], "epoch": claimed["epoch"]}
call("start_workflow_run", worker_id="left-worker", **held)
call("append_run_logs", first_seq=1, lines=[{"level": "info", "message": "hello"}], **held)
call("add_run_artifact", artifact_key="left.txt", artifact_url="filesystem:left/left.txt",
     content_type="text/plain", size_bytes=1, checksum="0" * 64, **held)
call("complete_workflow_run", exit_code=0, worker_id="left-worker", **held)
env["ops.audit.checkpoint"]._cron_make()
env["ops.retention"]._cron_expire()
assert env["ops.run"].search_count([]) == 2
"""


@tagged("post_install", "-at_install")
class TestUninstall(DatabaseCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.odoo = cls.database("uninstall")
        cls.odoo.odoo("-i", "web,bus")
        connection = cls.odoo.connect()
        cls.addClassCleanup(connection.close)
        cls.connection = connection
        with connection.cursor() as cr:
            cr.execute(FOREIGN)
            cr.execute(USE)

    def rows(self, statement):
        with self.connection.cursor() as cr:
            cr.execute(statement)
            return cr.fetchall()

    def stored_files(self):
        """What lies in the filestore, but for the browser's assets, which Odoo makes as it goes."""
        assets = {
            name
            for (name,) in self.rows(
                "SELECT store_fname FROM ir_attachment WHERE url LIKE '/web/assets/%'"
            )
        }
        root = self.odoo.data_dir / "filestore" / self.odoo.name
        found = {str(path.relative_to(root)) for path in root.glob("*/*") if path.is_file()}
        return {name for name in found - assets if not name.startswith("checklist/")}

    def test_everything_is_as_before_and_it_can_come_again(self):
        before, files = snapshot(self.connection), self.stored_files()
        foreign = self.rows(CONTENT.code), self.rows(ROWS.code)
        self.install_and_use(before)
        self.assertNotEqual(self.stored_files(), files)
        keys = self.key_files()
        self.assertEqual(set(keys), {"audit_key.pem", "secrets_key"})

        self.odoo.odoo(script=UNINSTALL)
        # It was open to everybody before; see docs/operate.md.
        self.assertEqual(
            differences(before, snapshot(self.connection)),
            ["rights on schemas: - public CREATE PUBLIC"],
        )
        self.assertEqual(self.stored_files(), files)
        self.assertEqual((self.rows(CONTENT.code), self.rows(ROWS.code)), foreign)
        self.assertEqual(self.key_files(), keys)

        self.install_and_use(before)
        self.assertEqual(self.key_files(), keys)

    def install_and_use(self, before):
        self.odoo.odoo("-i", "odooops")
        self.odoo.odoo(script=USE_ODOOOPS)
        used = {line.partition(": +")[0] for line in differences(before, snapshot(self.connection))}
        for kind in ("functions", "triggers", "policies", "rows of ir_cron", "parameters"):
            self.assertIn(kind, used)

    def key_files(self):
        folder = self.odoo.data_dir / "odooops" / self.odoo.name
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
