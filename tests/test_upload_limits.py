"""A worker token cannot fill the store with uploads that it never records, in a folder or in S3."""

import uuid
from unittest.mock import patch

from odoo.tests import tagged

from ..worker.storage.base import StorageError
from ..worker.storage.parts import PART_SIZE
from . import test_http_uploads
from .s3_server import S3Server
from .test_storage_contract import LATER
from .upload_case import UploadCase

MIB = 1 << 20


class UploadLimits:
    """What an attacker with a token tries; ``UploadCase`` comes behind it."""

    def limits(self, **mebibytes):
        for name, value in mebibytes.items():
            self.set_parameter(f"{name}_limit_mb", str(value))

    def uploads(self):
        return self.db.rows(
            "SELECT artifact_key, upload_id, size_bytes FROM ops_run_upload WHERE run_id = %s"
            " ORDER BY id",
            self.run_id,
        )

    def record(self, key, data):
        stored = self.upload(key, data)
        return self.db.call(
            "add_run_artifact",
            run_id=self.run_id,
            artifact_key=key,
            artifact_url=stored.url,
            content_type="text/plain",
            size_bytes=stored.size_bytes,
            checksum=stored.checksum,
            epoch=self.epoch,
        )

    def end_run(self):
        self.control.complete_workflow_run(
            self.run_id, self.worker_id, self.epoch, 1, None, None, {}
        )

    def clean_up(self, hours):
        """Let time pass, and the scheduled action come."""
        self.db.rows(
            "UPDATE ops_run_upload SET changed_at = changed_at - %s * interval '1 hour'"
            " WHERE run_id = %s",
            hours,
            self.run_id,
        )
        self.env["ops.artifact.keeper"]._expire()

    def next_run(self):
        """End the run and get the next one, with the same token."""
        self.end_run()
        self.run_id = self.queue()
        self.worker_id = f"test-{uuid.uuid4()}"
        self.workers.append(self.worker_id)
        self.control.register_worker(self.worker_id, "build-1", [], 1, "1", "daemon")
        claimed = self.control.claim_next_run(self.worker_id, [], str(uuid.uuid4()))
        self.assertEqual(claimed.run_id, self.run_id)
        self.epoch = claimed.epoch
        self.control.start_workflow_run(self.run_id, self.worker_id, self.epoch)

    def test_bytes_that_are_never_recorded_are_bounded_per_run(self):
        self.limits(run_artifacts=20)
        upload_id = self.begin()
        self.assertTrue(self.sign(upload_id, 1, bytes(PART_SIZE))["success"])
        self.assertTrue(self.sign(upload_id, 1, bytes(PART_SIZE))["success"], "counted once")
        other = self.begin()
        self.assertTrue(self.sign(other, 1, bytes(PART_SIZE))["success"])
        reply = self.sign(self.begin(), 1, bytes(PART_SIZE))
        self.assertRefusal(reply, "upload_limit", "uploads of the run exceed 20 MiB")
        # What is given up makes room.
        self.call("abort_artifact_upload", upload_id=upload_id)
        self.assertTrue(self.sign(self.begin(), 1, bytes(PART_SIZE))["success"])
        # Nothing can be signed for an upload that was given up, or never begun.
        for gone in (upload_id, "0" * 32):
            self.assertRefusal(self.sign(gone, 1, b"x"), "upload_gone")

    def test_files_that_arrive_and_are_never_recorded_are_bounded(self):
        self.limits(run_artifacts=2)
        self.upload("a", bytes(MIB))
        self.upload("b", bytes(MIB))
        with self.assertRaisesRegex(StorageError, "exceed 2 MiB"):
            self.upload("c", b"x")
        # It says why a run failed.
        self.upload("run.log.gz", bytes(3 * MIB))
        self.assertEqual(len(list(self.store.list())), 3)
        self.assertEqual(self.store.abort_uploads(LATER), 0, "no begun upload is left")

    def test_their_number_is_bounded_per_run(self):
        count = self.db.call("max_run_uploads")
        self.db.rows(
            "INSERT INTO ops_run_upload (run_id, artifact_key, upload_id, token_id, place, store,"
            " size_bytes, changed_at) SELECT %s, 'k' || n, '', %s, 'p', 'filesystem', 1, now()"
            " FROM generate_series(2, %s) n",
            self.run_id,
            self.token_ids[0],
            count,
        )
        upload_id = self.begin()
        reply = self.call("begin_artifact_upload")
        self.assertRefusal(reply, "upload_limit", f"The run has {count} uploads")
        self.assertTrue(self.sign(upload_id, 1, b"x")["success"], "what has begun goes on")
        self.assertEqual(self.store.abort_uploads(LATER), 1, "the refused one has left nothing")

    def test_the_next_run_and_another_worker_id_do_not_make_room(self):
        self.limits(worker_uploads=20)
        self.sign(self.begin(), 1, bytes(PART_SIZE))
        self.next_run()
        self.sign(self.begin(), 1, bytes(PART_SIZE))
        self.next_run()
        reply = self.sign(self.begin(), 1, bytes(PART_SIZE))
        self.assertRefusal(reply, "upload_limit", "uploads of the worker exceed 20 MiB")
        self.db.rows(
            "INSERT INTO ops_run_upload (run_id, artifact_key, upload_id, token_id, place, store,"
            " size_bytes, changed_at) SELECT 0, 'k' || n, '', %s, 'p', 'filesystem', 0, now()"
            " FROM generate_series(1, 1000) n",
            self.token_ids[0],
        )
        self.addCleanup(self.db.rows, "DELETE FROM ops_run_upload WHERE run_id = 0")
        reply = self.call("begin_artifact_upload", artifact_key="b")
        self.assertRefusal(reply, "upload_limit", "The worker has 1003 uploads")

    def test_what_is_recorded_is_counted_as_an_artifact(self):
        self.limits(worker_uploads=9, run_artifacts=30)
        for number in range(3):
            self.assertTrue(self.record(f"{number}", bytes(8 * MIB))["success"])
        with self.assertRaisesRegex(StorageError, "artifacts of the run exceed 30 MiB"):
            self.upload("4", bytes(8 * MIB))

    def test_the_rest_is_removed_an_hour_after_the_run(self):
        self.upload("arrived", b"x")
        upload_id = self.begin()
        self.sign(upload_id, 1, b"x")
        self.record("kept", b"x")
        self.clean_up(hours=2)
        self.assertEqual(len(self.uploads()), 3, "nothing goes while the run is at work")
        self.end_run()
        self.db.rows("UPDATE ops_run_upload SET changed_at = now() WHERE run_id = %s", self.run_id)
        self.clean_up(hours=0)
        self.assertEqual(len(self.uploads()), 3, "addresses may be good yet")
        self.clean_up(hours=2)
        self.assertEqual(self.uploads(), [])
        self.assertEqual([info.key for info in self.store.list()], ["kept"])
        self.assertEqual(self.store.abort_uploads(LATER), 0)

    def test_a_store_in_trouble_forgets_nothing(self):
        self.upload("arrived", b"x")
        self.end_run()
        store = type(self.store._inner)
        with (
            patch.object(store, "delete", side_effect=StorageError("trouble")),
            self.assertLogs("odoo.addons.odooops.models.ops_artifact_keeper", "WARNING"),
        ):
            self.clean_up(hours=2)
        self.assertEqual(len(self.uploads()), 1)
        self.clean_up(hours=0)
        self.assertEqual(self.uploads(), [])
        self.assertEqual(list(self.store.list()), [])


@tagged("post_install", "-at_install")
class TestUploadLimitsOfFolder(UploadLimits, UploadCase):
    open_inner = test_http_uploads.TestUploadsToFolder.open_inner


@tagged("post_install", "-at_install")
class TestUploadLimitsOfS3(UploadLimits, UploadCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = S3Server()
        cls.addClassCleanup(cls.server.stop)

    open_inner = test_http_uploads.TestUploadsToS3.open_inner
