"""Workers without a store of their own upload through the control plane: to S3 by presigned
addresses, or to the server's folder. The contract of the stores holds there, too."""

import hashlib
import io
import os
from datetime import datetime, timedelta, timezone
from unittest.mock import patch

import requests

from odoo.tests import tagged
from odoo.tools import mute_logger

from ..worker.artifacts import ArtifactRecorder, Limits, make_store
from ..worker.control.base import Artifact, Refused
from ..worker.errors import RunError
from ..worker.settings import Settings
from ..worker.storage.base import NotInStore, ObjectMissing, StorageError, StoreUnavailable
from ..worker.storage.filesystem import FilesystemStore
from ..worker.storage.parts import PART_SIZE
from ..worker.storage.remote import RemoteStore
from ..worker.storage.s3 import S3Settings, S3Store
from .s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from .test_storage_contract import LATER, Contract
from .upload_case import UploadCase


class UploadContract(Contract):
    """What holds for both stores beyond the contract; ``UploadCase`` comes behind it."""

    def test_keys_and_addresses_of_elsewhere_are_refused(self):
        for key in ("../x", "a//b", "a/./b", "ü", "a b", "", "a" * 513):
            with self.assertRaises(NotInStore):
                self.put(key, b"x")
        for key in ("other/1/x", f"{self.place}0/x", self.place, "x"):
            with self.assertRaises(NotInStore):
                self.remote.put(key, io.BytesIO(b"x"))
        for key in ("../x", "/etc/passwd", "a/../../b", "ü", "a b", ".", "x" * 513):
            reply = self.call("begin_artifact_upload", artifact_key=key)
            self.assertRefusal(reply, "invalid_input")
        self.assertNothingLeft()

    def test_a_remote_worker_only_puts(self):
        stored = self.upload("a.txt", b"x")
        for ask in (self.remote.stat, self.remote.open, self.remote.delete, self.remote.url_of):
            with self.assertRaises(StorageError):
                ask(stored.url)
        with self.assertRaises(NotInStore):
            RemoteStore(self.control).put("a/1/x", io.BytesIO(b"x"))

    def test_only_the_holder_uploads(self):
        stranger = self.plane(self.credentials[1], "other")
        upload_id = self.begin()
        good = {"upload_id": upload_id, "size_bytes": 1, "checksum": "0" * 64}
        calls = (
            ("begin_artifact_upload", {}),
            ("sign_artifact_part", {**good, "part_number": 1}),
            ("complete_artifact_upload", good),
            ("abort_artifact_upload", {"upload_id": upload_id}),
        )
        for function, parameters in calls:
            with self.subTest(function=function):
                reply = self.call(function, stranger, **parameters)
                self.assertRefusal(reply, "not_found")
                reply = self.call(function, **{**parameters, "epoch": self.epoch + 1})
                self.assertRefusal(reply, "stale_epoch")
        # A run that nobody holds, and one that has ended.
        self.assertRefusal(self.call("begin_artifact_upload", run_id=2**31 - 1), "not_found")
        self.control.complete_workflow_run(
            self.run_id, self.worker_id, self.epoch, 0, None, None, {}
        )
        for function, parameters in calls:
            self.assertIsInstance(self.call(function, **parameters), Refused, function)

    def test_a_token_revoked_in_the_middle_ends_the_upload(self):
        """At once: not even what is under way is completed."""
        outer = self

        class Revoking(io.RawIOBase):
            left = 3 * PART_SIZE

            def read(self, size=-1):
                if self.left == PART_SIZE:
                    outer.revoke()
                size = min(size, self.left)
                self.left -= size
                return bytes(size)

        # One after the other: the test's own cursor serves its server, too.
        with (
            patch("odoo.addons.odooops.worker.storage.remote.parallel_for", return_value=1),
            self.assertRaisesRegex(StorageError, "revoked"),
        ):
            self.remote.put(f"{self.place}/x", Revoking())
        self.assertEqual(list(self.store.list()), [])
        self.assertEqual(self.store.abort_uploads(LATER), 1, "removed when it is old")

    def revoke(self):
        token = self.env["ops.worker.token"].browse(self.token_ids[0])
        token.action_revoke()
        self.env.flush_all()

    def test_what_is_too_large_is_refused_before_and_after(self):
        self.set_parameter("artifact_limit_mb", "9")
        self.assertEqual(self.upload("fits", bytes(9 << 20)).size_bytes, 9 << 20)
        with self.assertRaisesRegex(StorageError, "exceeds 9 MiB"):
            self.upload("large", bytes((9 << 20) + 1))
        reply = self.call("begin_artifact_upload", size_bytes=1 << 40, checksum="0" * 64)
        self.assertRefusal(reply, "too_large")
        upload_id = self.begin(1)
        reply = self.sign(upload_id, 3, b"x")
        self.assertRefusal(reply, "too_large")
        reply = self.sign(upload_id, 1, bytes(PART_SIZE + 1))
        self.assertRefusal(reply, "invalid_input", "size of a part")
        self.set_parameter("run_artifacts_limit_mb", "10")
        self.record("fits", bytes(9 << 20))
        with self.assertRaisesRegex(StorageError, "artifacts of the run exceed 10 MiB"):
            self.upload("more", bytes(2 << 20))
        # The complete log does not count: it says why a run failed.
        self.assertEqual(self.upload("run.log.gz", bytes(2 << 20)).size_bytes, 2 << 20)

    def record(self, key, data, **changes):
        values = {
            "key": key,
            "url": self.store.url_of(key),
            "content_type": "text/plain",
            "size_bytes": len(data),
            "checksum": hashlib.sha256(data).hexdigest(),
            **changes,
        }
        return self.control.add_run_artifact(self.run_id, self.epoch, Artifact(**values))

    def test_only_what_has_arrived_in_its_place_is_recorded(self):
        data = b"content"
        self.assertRefusal(self.record("a.txt", data), "invalid_input", "not in the store")
        self.upload("a.txt", data)
        self.upload("b.txt", data)
        for url in (
            self.store.url_of("b.txt"),
            "filesystem:../a.txt",
            "filesystem:a.txt",
            "s3://artifacts/other/7/a.txt",
        ):
            self.assertRefusal(self.record("a.txt", data, url=url), "invalid_input", "the place")
        self.assertRefusal(
            self.record("a.txt", data, size_bytes=len(data) + 1), "invalid_input", "not in the"
        )
        self.assertTrue(self.record("a.txt", data)["artifact_id"])

    def test_nothing_is_completed_that_has_not_arrived(self):
        checksum = hashlib.sha256(b"x").hexdigest()
        facts = {"size_bytes": 1, "checksum": checksum}
        self.assertRefusal(self.call("complete_artifact_upload", **facts), "upload_gone")
        for upload_id in ("0" * 32, "../../etc/passwd", "x"):
            reply = self.call(
                "complete_artifact_upload",
                upload_id=upload_id,
                parts=[{"part_number": 1, "checksum": checksum, "tag": "x"}],
                **facts,
            )
            self.assertIsInstance(reply, Refused, upload_id)
            # moto fails where S3 knows no such upload.
            self.assertIn(reply.code, ("upload_gone", "store_unavailable"))
        self.assertNothingLeft()

    def test_the_recorder_of_a_run_uses_it(self):
        store = make_store(Settings(control_url=self.base_url()), self.control)
        limits = Limits(1 << 30, 1 << 30, 0)
        held, slug = (self.run_id, self.epoch), self.claimed.snapshot["project"]["slug"]
        recorder = ArtifactRecorder(store, self.control, held, slug, limits)
        path = self.folder / "report ü.txt"
        path.write_bytes(b"content")
        artifact = recorder.store("out/report_.txt", path)
        recorder.record(artifact)
        row = self.db.rows("SELECT * FROM ops_run_artifact WHERE run_id = %s", self.run_id)[0]
        self.assertEqual(row["artifact_url"], self.store.url_of("out/report_.txt"))
        self.assertEqual(row["checksum"], hashlib.sha256(b"content").hexdigest())
        folder = self.folder / "tree"
        folder.mkdir()
        (folder / "noise").write_bytes(os.urandom(PART_SIZE + 7))
        recorder.record(recorder.store("tree.tar.gz", folder))
        with self.assertRaises(RunError) as caught:
            recorder.store("out/report_.txt", folder / "noise")
        self.assertEqual(caught.exception.code, "setup_error")


@tagged("post_install", "-at_install")
class TestUploadsToFolder(UploadContract, UploadCase):
    def open_inner(self):
        (self.folder / "store").mkdir()
        self.set_parameter("artifact_root", str(self.folder / "store"))
        return FilesystemStore(self.folder / "store")

    def put_part(self, request, data, token="", **headers):
        token = token or self.credentials[0]["token"]
        return requests.put(
            self.base_url() + request["url"],
            data=data,
            headers={**request["headers"], "Authorization": f"Bearer {token}", **headers},
            timeout=30,
        )

    @mute_logger("odoo.http")
    def test_the_address_of_a_part_opens_nothing_by_itself(self):
        data = b"0123456789"
        upload_id = self.begin()
        request = self.sign(upload_id, 1, data)["request"]
        platform = self.env["ops.worker.token"]._make(
            "registration", "x", timedelta(hours=1), uses_left=1
        )[1]
        self.env.flush_all()
        for token, status in (
            ("opwt_guessed", 401),
            (platform, 401),
            (self.credentials[1]["token"], 404),
        ):
            response = self.put_part(request, data, token)
            self.assertEqual(response.status_code, status, response.text)
            self.assertEqual(response.json()["success"], False)
        url = request["url"]
        for change, status in (
            ({"url": url.replace("epoch=", "epoch=9")}, 422),
            ({"url": url.replace("epoch=", "epoch=x")}, 400),
            ({"url": url.replace("a.txt", "..%2F..%2Fa.txt")}, 422),
            ({"url": url.replace("a.txt", "other.txt")}, 422),
            ({"url": url.replace(upload_id, "0" * 32)}, 422),
            ({"url": url.replace(f"{upload_id}/1", f"{upload_id}/99999")}, 400),
            ({"headers": {"X-Checksum-SHA256": "0" * 64}}, 422),
            ({"headers": {"X-Checksum-SHA256": "x"}}, 400),
        ):
            with self.subTest(change=change):
                response = self.put_part({**request, **change}, data)
                self.assertEqual(response.status_code, status, response.text)
                self.assertNotIn("Traceback", response.text)
        self.assertEqual(requests.get(self.base_url() + url, timeout=30).status_code, 405)
        self.assertEqual(self.put_part(request, data).status_code, 204)
        self.assertEqual(self.put_part(request, data).status_code, 204, "repeated")
        reply = self.call(
            "complete_artifact_upload",
            upload_id=upload_id,
            size_bytes=len(data),
            checksum=hashlib.sha256(data).hexdigest(),
        )
        self.assertEqual(reply["artifact_url"], self.store.url_of("a.txt"))

    def test_a_hole_is_not_completed(self):
        """Parts two and one of three: what is missing is not taken for zeros."""
        data = [os.urandom(PART_SIZE), os.urandom(PART_SIZE), b"end"]
        upload_id = self.begin()
        for number in (3, 1):
            request = self.sign(upload_id, number, data[number - 1])["request"]
            self.assertEqual(self.put_part(request, data[number - 1]).status_code, 204)
        whole = b"".join(data)
        facts = {"size_bytes": len(whole), "checksum": hashlib.sha256(whole).hexdigest()}
        reply = self.call("complete_artifact_upload", upload_id=upload_id, **facts)
        self.assertRefusal(reply, "upload_gone", "missing")
        self.assertNothingLeft()

    def test_the_folder_is_made_with_the_first_file(self):
        (self.folder / "store").rmdir()
        self.assertRefusal(self.record("a.txt", b"x"), "invalid_input", "not in the store")
        self.upload("a.txt", b"x")
        self.assertEqual((self.folder / "store" / self.place / "a.txt").read_bytes(), b"x")

    def test_a_full_disk_is_said_to_be_full(self):
        full = OSError(28, "No space left on device")
        with (
            patch("odoo.addons.odooops.worker.storage.filesystem.os.link", side_effect=full),
            self.assertRaisesRegex(StorageError, "disk of the artifact store is full"),
            self.assertLogs("odoo.addons.odooops.models.ops_artifact_upload", "WARNING"),
        ):
            self.upload("a.txt", b"x")
        self.assertNothingLeft()


@tagged("post_install", "-at_install")
class TestUploadsToS3(UploadContract, UploadCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = S3Server()
        cls.addClassCleanup(cls.server.stop)

    def open_inner(self):
        prefix = self.id().rpartition(".")[2]
        for name, value in (
            ("bucket", BUCKET),
            ("prefix", prefix),
            ("endpoint", self.server.endpoint),
            ("path_style", "True"),
        ):
            self.set_parameter(f"s3_{name}", value)
        keys = {"ODOOOPS_S3_ACCESS_KEY": ACCESS_KEY, "ODOOOPS_S3_SECRET_KEY": SECRET_KEY}
        self.enterContext(patch.dict(os.environ, keys))
        self.server.trouble(damage=0, damage_silently=0, cut=0, busy=0)
        return S3Store(
            S3Settings(
                bucket=BUCKET,
                prefix=prefix,
                endpoint=self.server.endpoint,
                path_style=True,
                access_key=ACCESS_KEY,
                secret_key=SECRET_KEY,
            )
        )

    def send(self, request, data, **headers):
        return requests.put(
            request["url"], data=data, headers={**request["headers"], **headers}, timeout=30
        )

    def test_the_store_sees_no_token_and_the_worker_no_key(self):
        before = self.server.trouble()["authorized_downloads"]
        reply = self.call(
            "begin_artifact_upload", size_bytes=1, checksum=hashlib.sha256(b"x").hexdigest()
        )
        self.assertNotIn(SECRET_KEY, str(reply))
        self.upload("small", b"x")
        self.upload("large", bytes(PART_SIZE + 1))
        self.assertEqual(self.server.trouble()["authorized_downloads"], before)

    def test_an_address_is_good_for_its_own_bytes_in_its_own_place(self):
        data = b"0123456789"
        facts = {"size_bytes": len(data), "checksum": hashlib.sha256(data).hexdigest()}
        once = self.call("begin_artifact_upload", **facts)["request"]
        part = self.sign(self.begin(), 1, data)["request"]
        for request in (once, part):
            self.assertIn("X-Amz-Expires=900&", request["url"])
            for change in (
                {"url": request["url"].replace("/a.txt", "/b.txt")},
                {"url": request["url"].replace(f"/{self.run_id}/", "/0/")},
                {"url": request["url"].replace("X-Amz-Expires=900", "X-Amz-Expires=9000")},
                {"headers": {**request["headers"], "x-amz-checksum-sha256": "AAAA"}},
                {"headers": {n: v for n, v in request["headers"].items() if "sha256" not in n}},
            ):
                with self.subTest(change=str(change)[:60]):
                    response = self.send({**request, **change}, data)
                    self.assertEqual(response.status_code, 403, response.text)
            for body in (data + b"x", data[:-1]):
                headers = {"Content-Length": str(len(body))}
                self.assertEqual(self.send(request, body, **headers).status_code, 403)
            self.assertEqual(self.send(request, data[::-1]).status_code, 400, "other bytes")
            self.assertEqual(self.send(request, data).status_code, 200)
        self.assertEqual(self.send(once, data).status_code, 412, "nothing is replaced")

    def test_altered_bytes_are_refused_or_found_out(self):
        for size in (10, 2 * PART_SIZE):
            self.server.trouble(damage=1000)
            with self.assertRaises(StoreUnavailable):
                self.upload("x", os.urandom(size))
            self.server.trouble(damage=0, damage_silently=1)
            with (
                self.assertRaises(StorageError),
                mute_logger("odoo.addons.odooops.models.ops_artifact_upload"),
            ):
                self.upload("x", os.urandom(size))
            self.assertNothingLeft()

    def test_a_short_trouble_is_not_noticed(self):
        for number, trouble in enumerate(({"cut": 2}, {"busy": 2}, {"damage": 2})):
            for size in (10, 2 * PART_SIZE):
                data = os.urandom(size)
                self.server.trouble(**trouble)
                stored = self.upload(f"{number}/{size}", data)
                self.assertEqual(max(self.server.trouble()[name] for name in trouble), 0)
                with self.store.open(stored.url) as stream:
                    self.assertEqual(stream.read(), data)

    def test_what_was_recorded_is_never_removed(self):
        """Not even when its own worker says that it arrived altered."""
        stored = self.upload("a.txt", b"first")
        self.assertTrue(self.record("a.txt", b"first")["artifact_id"])
        tag = self.store._head(stored.url)["ETag"]
        facts = {"size_bytes": 5, "checksum": hashlib.sha256(b"other").hexdigest()}
        with mute_logger("odoo.addons.odooops.models.ops_artifact_upload"):
            reply = self.call("complete_artifact_upload", tag=tag, **facts)
        self.assertIsInstance(reply, Refused)
        with self.store.open(stored.url) as stream:
            self.assertEqual(stream.read(), b"first")

    def test_a_server_that_does_not_know_conditions_gets_parts(self):
        put, asked = self.control.put, []

        def refuse_conditions(url, headers, data):
            asked.append("If-None-Match" in headers)
            return (501, "", "") if asked[-1] else put(url, headers, data)

        with patch.object(self.control, "put", refuse_conditions):
            stored = self.upload("a.txt", b"content")
        self.assertEqual(asked, [True, False])
        self.assertEqual(self.store.stat(stored.url).size_bytes, 7)

    def test_a_store_that_is_away_is_tried_again_by_the_run(self):
        self.set_parameter("s3_endpoint", "http://127.0.0.1:9")
        with self.assertRaises(StoreUnavailable):
            self.upload("a.txt", b"x")
        reply = self.call("begin_artifact_upload")
        self.assertRefusal(reply, "store_unavailable")
        with self.assertRaises(ObjectMissing):
            self.store.stat(self.store.url_of("a.txt"))

    def test_unfinished_uploads_are_removed_when_they_are_old(self):
        self.begin()
        day_ago = datetime.now(timezone.utc) - timedelta(1)
        self.assertEqual(self.store.abort_uploads(day_ago), 0)
        self.assertEqual(self.store.abort_uploads(LATER), 1)
