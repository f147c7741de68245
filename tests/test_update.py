"""Updating from the first release keeps every fact, and leaves the kernel of a fresh installation.

``tests/first_release`` names the git revision that is installed first: the tag of the first
release, or, until there is one, the commit that stands for it.
"""

import io
import json
import subprocess
import tarfile
from pathlib import Path

from odoo.tests import tagged
from odoo.tests.common import get_db_name

from .catalog_snapshot import snapshot
from .database_case import ADDONS, DatabaseCase, connect

ROOT = Path(__file__).resolve().parent.parent
FIRST_RELEASE = Path(__file__).with_name("first_release").read_text(encoding="ascii").strip()
# Written for the first release; what it leaves is all that is looked at.
USE = """
from odoo.fields import Command
user = env["res.users"].create({
    "name": "Member", "login": "member",
    "group_ids": [Command.link(env.ref("odooops.group_user").id)],
})
env["ops.tool"].create({"tool_name": "left", "version": "1", "docker_image": "debian:13"})
call = env["ops.kernel"]._call_committed
for slug in ("one", "two"):
    project = env["ops.project"].create({
        "name": slug, "slug": slug, "workspace_key": slug, "max_running": 9,
        "membership_ids": [Command.create({"user_id": user.id, "role": "developer"})],
    })
    workflow = env["ops.workflow"].create({
        "name": "Test", "project_id": project.id, "workflow_type": "test",
        "config": {"steps": [{"name": "Say", "run": "echo hello"}]},
    })
    runs = [workflow.queue_run() for _number in range(4)]
    env.cr.commit()
    call("register_worker", worker_id="worker")
    for exit_code in (0, 1):
        claimed = call("claim_next_run", worker_id="worker")
        held = {"run_id": claimed["run_id"], "epoch": claimed["epoch"]}
        call("start_workflow_run", worker_id="worker", **held)
        for first in (1, 501):
            lines = [
                {"level": "info" if number % 7 else "error", "message": f"line {number} ünïcode",
                 "metadata": {"step": "Say"}}
                for number in range(first, first + 500)
            ]
            assert call("append_run_logs", first_seq=first, lines=lines, **held)["success"]
        call("add_run_event", event_type="warning", message="look", payload={"at": 1}, **held)
        call("add_run_artifact", artifact_key="left.txt", artifact_url="filesystem:left/left.txt",
             content_type="text/plain", size_bytes=1, checksum="0" * 64, **held)
        assert call(
            "complete_workflow_run", exit_code=exit_code, worker_id="worker", **held)["success"]
    claimed = call("claim_next_run", worker_id="worker")
    call("start_workflow_run", worker_id="worker", run_id=claimed["run_id"], epoch=claimed["epoch"])
env["ops.audit.checkpoint"]._cron_make()
"""
# By the doors others read through, with every column the first release had, but ids of log lines,
# which are nobody's, and the times at which rows were written last: updating writes some.
VIEWS = (
    *("projects", "workflows", "runs", "run_events", "run_artifacts", "run_logs"),
    *("tools", "project_memberships"),
)
# What an update may leave of older shapes: columns, which Odoo never drops, and their order.
KERNEL = ("functions", "triggers", "policies", "types", "schemas", "rules")


@tagged("post_install", "-at_install")
class TestUpdate(DatabaseCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.odoo = cls.database("update", addons=cls.folder / "first")
        archive = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "archive", FIRST_RELEASE],
            cwd=ROOT, capture_output=True, check=True,
        ).stdout  # fmt: skip
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(cls.odoo.addons / "odooops", filter="data")
        cls.odoo.odoo("-i", "odooops")
        cls.odoo.odoo(script=USE)
        cls.columns, cls.before = cls.facts()
        cls.odoo.addons = ADDONS
        cls.odoo.odoo("-u", "odooops")

    @classmethod
    def facts(cls, columns=None):
        """Per view its columns and its rows, as JSON texts in order; of ``columns`` if given."""
        columns = columns or {
            view: [
                name
                for (name,) in cls.odoo.rows(
                    "SELECT column_name FROM information_schema.columns"
                    " WHERE table_schema = 'ops' AND table_name = %s"
                    " AND column_name <> 'updated_at'"
                    " AND (column_name <> 'id' OR table_name <> 'run_logs')",
                    view,
                )
            ]
            for view in VIEWS
        }
        rows = {}
        for view, names in columns.items():
            found = cls.odoo.rows(f"SELECT to_jsonb(row) FROM ops.{view} row")
            rows[view] = sorted(
                json.dumps({name: row.get(name, "absent") for name in names}, sort_keys=True)
                for (row,) in found
            )
        return columns, rows

    def test_all_that_was_there_is_there(self):
        _columns, after = self.facts(self.columns)
        self.assertEqual(len(self.before["run_logs"]), 4000)
        self.assertEqual({view for view in VIEWS if not self.before[view]}, set())
        for view in VIEWS:
            self.assertEqual(after[view], self.before[view], view)

    def test_the_trail_holds(self):
        self.assertEqual(
            self.odoo.rows("SELECT r.id, v FROM ops.runs r, ops.verify_events(r.id) v"), []
        )

    def test_the_kernel_is_the_one_of_a_fresh_installation(self):
        fresh, updated = connect(get_db_name()), self.odoo.connect()
        self.addCleanup(fresh.close)
        self.addCleanup(updated.close)
        expected, found = self.kernel(fresh), self.kernel(updated)
        for kind in KERNEL:
            with self.subTest(kind=kind):
                self.assertEqual(found[kind], expected[kind])

    def kernel(self, connection):
        """What an update makes, without what hangs on partitions, which come with time."""
        with connection.cursor() as cr:
            cr.execute("SELECT inhrelid::regclass::text FROM pg_inherits")
            partitions = tuple(name for (name,) in cr.fetchall())
        self.assertTrue(partitions)
        return {
            kind: {line for line in lines if not line.startswith(partitions)}
            for kind, lines in snapshot(connection).items()
        }

    def test_runs_go_on(self):
        """One queued before the update is executed after it."""
        reply = self.odoo.value("SELECT ops.register_worker(p_worker_id => 'after')")
        self.assertTrue(reply["success"], reply)
        claimed = self.odoo.value("SELECT ops.claim_next_run(p_worker_id => 'after')")
        self.assertTrue(claimed["run_id"], claimed)
        for call in (
            "start_workflow_run(p_run_id => %s, p_worker_id => 'after', p_epoch => %s)",
            "complete_workflow_run(p_run_id => %s, p_exit_code => 0, p_worker_id => 'after',"
            " p_epoch => %s)",
        ):
            reply = self.odoo.value(f"SELECT ops.{call}", claimed["run_id"], claimed["epoch"])
            self.assertTrue(reply["success"], reply)
        self.assertEqual(
            self.odoo.rows("SELECT * FROM ops.verify_events(%s)", claimed["run_id"]), []
        )
