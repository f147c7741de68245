"""Checkpoints: what they hold, that nothing slips between two of them, and their key."""

import os
import stat
import tempfile
from pathlib import Path
from unittest.mock import patch

import psycopg2

from odoo.exceptions import UserError
from odoo.tests import tagged
from odoo.tools import config

from ..models import audit_key
from .audit_case import AuditCase


@tagged("post_install", "-at_install")
class TestKernelAudit(AuditCase):
    def heads(self, run_id):
        return [
            (row["checkpoint_number"], row["prev_seq"], row["event_seq"])
            for row in self.db.rows(
                "SELECT * FROM ops_audit_head WHERE run_id = %s ORDER BY checkpoint_number", run_id
            )
        ]

    def row(self, number):
        return self.db.rows("SELECT * FROM ops_audit_checkpoint WHERE number = %s", number)[0]

    def test_a_checkpoint_holds_what_has_grown_and_nothing_else(self):
        self.checkpoint()
        run_id = self.ended_run()
        first = self.checkpoint()
        self.assertEqual(self.heads(run_id), [(first, 0, 5)])
        self.assertEqual((self.row(first)["run_count"], self.row(first)["event_count"]), (1, 5))
        self.assertIsNone(self.checkpoint(), "nothing has happened")
        self.queue()
        second = self.checkpoint()
        self.assertEqual(second, first + 1)
        self.assertEqual(self.row(second)["prev_hash"], self.row(first)["hash"])
        self.assertEqual(self.heads(run_id), [(first, 0, 5)])

    def test_an_event_that_is_committed_later_is_in_the_next_checkpoint(self):
        _worker_id, run_id, epoch = self.start()
        slow = self.connect()
        slow.rows("BEGIN")
        slow.call(
            "add_run_event", run_id=run_id, epoch=epoch, event_type="info", message="slow commit"
        )
        first = self.checkpoint()
        slow.rows("COMMIT")
        second = self.checkpoint()
        self.assertEqual(self.heads(run_id), [(first, 0, 3), (second, 3, 4)])
        self.assertEqual(self.problems(self.project), [])
        self.assertHolds(self.export(self.project))

    def test_checkpoints_at_the_same_time_share_out_the_events(self):
        self.checkpoint()

        def work(index, connection):
            if index % 2:
                return self.checkpoint()
            return [
                connection.call("queue_run", workflow_id=self.workflow)["run_id"] for _ in range(10)
            ]

        results = self.in_parallel(6, work)
        self.checkpoint()
        runs = [run_id for result in results[::2] for run_id in result]
        self.assertEqual([len(self.heads(run_id)) for run_id in runs], [1] * 30)
        self.assertEqual(self.problems(), [])
        self.assertHolds(self.export())

    def test_checkpoints_cannot_be_changed_deleted_or_truncated(self):
        self.queue()
        self.checkpoint()
        for table, column in (
            ("ops_audit_checkpoint", "hash"),
            ("ops_audit_checkpoint_project", "root"),
            ("ops_audit_head", "event_hash"),
        ):
            for statement in (
                f"UPDATE {table} SET {column} = 'x'",
                f"DELETE FROM {table}",
                f"TRUNCATE {table} CASCADE",
            ):
                with self.subTest(statement=statement), self.assertRaises(psycopg2.Error):
                    self.db.rows(statement)

    def test_without_its_key_no_checkpoint_is_made_and_nothing_is_lost(self):
        run_id = self.queue()
        with patch.dict(os.environ, {audit_key.ENVIRONMENT: str(self.folder / "missing.pem")}):
            self.assertRaises(UserError, self.checkpoint)
        self.assertEqual(self.heads(run_id), [])
        number = self.checkpoint()
        self.assertEqual(self.heads(run_id), [(number, 0, 1)])

    def test_the_key_is_made_once_and_only_its_owner_reads_it(self):
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ):
            del os.environ[audit_key.ENVIRONMENT]
            with patch.dict(config.options, {"data_dir": folder}):
                with self.assertLogs("odoo.addons.odooops.models.audit_key", "WARNING"):
                    key = audit_key.load("some_database")
                self.assertEqual(audit_key.load("some_database").key_id, key.key_id)
                self.assertNotEqual(audit_key.load("other_database").key_id, key.key_id)
            path = Path(folder) / "odooops" / "some_database" / "audit_key.pem"
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
            self.assertEqual([p.name for p in path.parent.iterdir()], ["audit_key.pem"])
