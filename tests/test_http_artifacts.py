"""Downloads of artifacts: rights, headers, ranges, and files that are not there."""

import hashlib
import io
import os
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from unittest.mock import patch

from odoo.tests import tagged

from ..models.artifact_store import open_store
from .http_case import DoorCase
from .s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "odooops" / "artifacts.sh"

CONTENT = b"<script>alert(1)</script>\n" * 10_000


@tagged("post_install", "-at_install")
class TestArtifacts(DoorCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name) / "store"
        self.root.mkdir()
        self.env["ir.config_parameter"].set_param("odooops.artifact_root", str(self.root))
        self.artifact = self.make_artifact()

    def make_artifact(self, workflow_type="test", key="reports/run.html", url=None, **values):
        """An artifact of a run that has ended; its file is in the store."""
        run = self.queue(workflow_type)
        path = self.root / "door-test" / str(run.id) / key
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        self.finish(
            run,
            artifacts=[
                {
                    "artifact_key": key,
                    "artifact_url": url or f"filesystem:{path.relative_to(self.root)}",
                    "content_type": "text/html",
                    "size_bytes": len(CONTENT),
                    "checksum": hashlib.sha256(CONTENT).hexdigest(),
                    **values,
                }
            ],
        )
        return run.artifact_ids

    def get(self, artifact, key="viewer", method="GET", **headers):
        if key:
            headers["Authorization"] = f"Bearer {self.keys.get(key, key)}"
        self.env.flush_all()
        artifact_id = artifact if isinstance(artifact, int) else artifact.id
        return self.url_open(
            f"/ops/artifacts/{artifact_id}", headers=headers, method=method, allow_redirects=False
        )

    def assertRefused(self, response, code, status):
        self.assertEqual(response.status_code, status, response.text[:200])
        self.assertEqual(response.json()["code"], code)
        self.assertTrue(response.json()["error"])

    def test_the_bytes_come_with_name_type_and_checksum(self):
        response = self.get(self.artifact)
        self.assertEqual(response.status_code, 200)
        self.assertEqual(response.content, CONTENT)
        headers = response.headers
        self.assertEqual(headers["Content-Disposition"], 'attachment; filename="run.html"')
        self.assertEqual(headers["Content-Type"].partition(";")[0], "text/html")
        self.assertEqual(headers["X-Checksum-SHA256"], hashlib.sha256(CONTENT).hexdigest())
        self.assertEqual(headers["ETag"], f'"{self.artifact.checksum}"')
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(headers["Content-Security-Policy"], "default-src 'none'")
        self.assertIn("private", headers["Cache-Control"])
        self.assertNotIn("Set-Cookie", headers)

    def test_a_part_may_be_asked_for(self):
        response = self.get(self.artifact, Range="bytes=10-19")
        self.assertEqual((response.status_code, response.content), (206, CONTENT[10:20]))
        response = self.get(self.artifact, **{"If-None-Match": f'"{self.artifact.checksum}"'})
        self.assertEqual((response.status_code, response.content), (304, b""))
        response = self.get(self.artifact, method="HEAD")
        self.assertEqual(response.headers["Content-Length"], str(len(CONTENT)))

    def test_who_may_download(self):
        backup = self.make_artifact("backup", key="dump.sql.gz")
        for person in ("viewer", "developer"):
            self.assertEqual(self.get(self.artifact, person).status_code, 200)
            self.assertRefused(self.get(backup, person), "forbidden", 403)
            error = self.request("artifact_url", {"artifact_id": backup.id}, person)
            self.assertError(error, "forbidden", 403)
        for person in ("admin", "owner", "platform"):
            self.assertEqual(self.get(self.artifact, person).status_code, 200)
            self.assertEqual(self.get(backup, person).status_code, 200)

    def test_what_is_foreign_looks_like_what_does_not_exist(self):
        answers = [
            self.get(artifact, "foreign")
            for artifact in (self.artifact, 2**31 - 1, 2**31, 10**30, 0)
        ]
        for response in answers:
            self.assertRefused(response, "forbidden", 403)
        self.assertEqual(len({response.text for response in answers}), 1)

    def test_without_a_key_programs_are_refused_and_browsers_asked_to_log_in(self):
        self.assertRefused(self.get(self.artifact, None), "unauthorized", 401)
        self.assertRefused(self.get(self.artifact, "wrong"), "unauthorized", 401)
        response = self.get(self.artifact, None, Accept="text/html,*/*")
        self.assertEqual(response.status_code, 303)
        self.assertIn(
            f"/web/login?redirect=/ops/artifacts/{self.artifact.id}", response.headers["Location"]
        )

    def test_a_browser_session_downloads_by_its_own_rights(self):
        self.authenticate("door_viewer", "door_viewer")
        self.assertEqual(self.get(self.artifact, None).content, CONTENT)
        response = self.get(self.artifact, None, Authorization="Basic eDp4")
        self.assertEqual(response.content, CONTENT, "a proxy's password is not for us")
        self.authenticate("door_foreign", "door_foreign")
        self.assertRefused(self.get(self.artifact, None), "forbidden", 403)
        self.assertRefused(self.get(self.artifact, "wrong"), "unauthorized", 401)

    def test_a_file_that_is_gone_is_said_to_be_gone(self):
        (self.root / self.artifact.artifact_url.removeprefix("filesystem:")).unlink()
        response = self.get(self.artifact)
        self.assertRefused(response, "not_found", 404)
        self.assertIn("reports/run.html", response.json()["error"])
        self.env.invalidate_all()
        self.assertEqual(self.artifact.status, "missing")
        path = self.root / self.artifact.artifact_url.removeprefix("filesystem:")
        path.write_bytes(CONTENT)
        self.assertEqual(self.get(self.artifact).content, CONTENT)
        self.env.invalidate_all()
        self.assertEqual(self.artifact.status, "stored", "it is there again")

    def test_a_store_that_is_away_as_a_whole_marks_nothing(self):
        self.root.rename(self.root.with_name("unmounted"))
        self.assertRefused(self.get(self.artifact), "not_found", 404)
        self.env.invalidate_all()
        self.assertEqual(self.artifact.status, "stored")

    def test_the_name_is_that_of_the_file_and_only_harmless_types_are_shown(self):
        artifact = self.make_artifact(
            key="_bersicht.txt", content_type="text/plain", metadata={"path": "out/Übersicht.txt"}
        )
        disposition = self.get(artifact).headers["Content-Disposition"]
        self.assertIn("filename*=UTF-8''%C3%9Cbersicht.txt", disposition)
        self.assertTrue(disposition.startswith("attachment"))
        self.authenticate("door_viewer", "door_viewer")
        for shown, kind in ((artifact, "inline"), (self.artifact, "attachment")):
            response = self.url_open(f"/ops/artifacts/{shown.id}?inline=1")
            self.assertTrue(response.headers["Content-Disposition"].startswith(kind))
            self.assertEqual(response.headers["X-Content-Type-Options"], "nosniff")

    def test_nothing_outside_the_store_is_read(self):
        secret = self.root.parent / "secret"
        secret.write_text("secret")
        (self.root / "link").symlink_to(secret)
        for number, place in enumerate(("../secret", str(secret), "link")):
            artifact = self.make_artifact(key=f"{number}.txt", url=f"filesystem:{place}")
            self.assertRefused(self.get(artifact), "forbidden", 403)

    def test_an_odd_content_type_breaks_nothing(self):
        artifact = self.make_artifact(key="x", content_type="text/html\r\nSet-Cookie: a=b")
        response = self.get(artifact)
        self.assertEqual(response.headers["Content-Type"], "application/octet-stream")
        self.assertNotIn("Set-Cookie", response.headers)

    def test_other_stores_and_other_verbs_are_refused(self):
        artifact = self.make_artifact(key="y", url="s3://bucket/y")
        self.assertRefused(self.get(artifact), "not_found", 404)
        self.assertRefused(self.get(self.artifact, method="DELETE"), "method_not_allowed", 405)
        self.assertRefused(self.get(self.artifact, method="POST"), "method_not_allowed", 405)

    def test_the_address_is_listed_and_given(self):
        run_id = self.artifact.run_id.id
        (row,) = self.call("list_artifacts", {"run_id": run_id})["artifacts"]
        self.assertEqual(
            (row["id"], row["path"]), (self.artifact.id, f"/ops/artifacts/{self.artifact.id}")
        )
        reply = self.call("artifact_url", {"artifact_id": self.artifact.id})
        self.assertEqual(reply["url"], f"{self.base_url()}{row['path']}")
        self.assertEqual(reply["checksum"], self.artifact.checksum)
        self.assertEqual(
            self.url_open(
                reply["url"], headers={"Authorization": f"Bearer {self.keys['viewer']}"}
            ).content,
            CONTENT,
        )


@tagged("post_install", "-at_install")
class TestArtifactsInS3(DoorCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = S3Server()
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        super().setUp()
        keys = {"ODOOOPS_S3_ACCESS_KEY": ACCESS_KEY, "ODOOOPS_S3_SECRET_KEY": SECRET_KEY}
        self.enterContext(patch.dict(os.environ, keys))
        values = {"bucket": BUCKET, "endpoint": self.server.endpoint, "path_style": "True"}
        for name, value in values.items():
            self.env["ir.config_parameter"].set_param(f"odooops.s3_{name}", value)
        self.artifact = self.make_artifact()

    def make_artifact(self, workflow_type="test", **values):
        run = self.queue(workflow_type)
        key = "out/data.txt"
        store = open_store(self.env, "s3")
        stored = store.put(f"door-test/{run.id}/{os.urandom(4).hex()}/{key}", io.BytesIO(CONTENT))
        self.finish(
            run,
            artifacts=[
                {
                    "artifact_key": key,
                    "artifact_url": stored.url,
                    "content_type": "text/plain",
                    "size_bytes": stored.size_bytes,
                    "checksum": stored.checksum,
                    **values,
                }
            ],
        )
        return run.artifact_ids

    def get(self, artifact, key="viewer"):
        self.env.flush_all()
        headers = {"Authorization": f"Bearer {self.keys[key]}"}
        path = f"/ops/artifacts/{artifact.id}"
        response = self.url_open(path, headers=headers, allow_redirects=False)
        self.env.invalidate_all()
        return response

    def test_the_answer_is_an_address_that_needs_no_key_for_a_minute(self):
        response = self.get(self.artifact)
        self.assertEqual(response.status_code, 302, response.text[:200])
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertEqual(response.headers["X-Checksum-SHA256"], self.artifact.checksum)
        place = response.headers["Location"]
        self.assertTrue(place.startswith(f"{self.server.endpoint}/{BUCKET}/door-test/"), place)
        self.assertIn("X-Amz-Expires=60&", place)
        self.assertNotIn(SECRET_KEY, place)
        with urllib.request.urlopen(place) as reply:
            self.assertEqual(reply.read(), CONTENT)
            self.assertEqual(reply.headers["Content-Type"], "text/plain; charset=utf-8")
            self.assertEqual(
                reply.headers["Content-Disposition"], 'attachment; filename="data.txt"'
            )

    def test_nobody_gets_an_address_who_may_not_download(self):
        backup = self.make_artifact("backup")
        for artifact, person in ((self.artifact, "foreign"), (backup, "developer")):
            response = self.get(artifact, person)
            self.assertEqual((response.status_code, response.json()["code"]), (403, "forbidden"))
        self.assertEqual(self.get(backup, "admin").status_code, 302)

    def test_no_address_is_made_for_another_bucket(self):
        artifact = self.make_artifact(artifact_url="s3://payroll/secret")
        self.assertEqual(self.get(artifact).status_code, 403)

    def test_an_object_that_is_gone_is_missing_and_a_bucket_that_is_gone_is_not(self):
        open_store(self.env, "s3").delete(self.artifact.artifact_url)
        self.assertEqual(self.get(self.artifact).status_code, 404)
        self.assertEqual(self.artifact.status, "missing")
        other = self.make_artifact()
        self.env["ir.config_parameter"].set_param("odooops.s3_endpoint", "http://127.0.0.1:9")
        response = self.get(other)
        self.assertEqual((response.status_code, response.json()["code"]), (503, "busy"))
        self.assertEqual(other.status, "stored")

    def test_the_script_follows_without_its_key_and_checks_the_sum(self):
        self.env.flush_all()
        with tempfile.TemporaryDirectory() as folder:
            command = [shutil.which("bash"), SCRIPT, str(self.artifact.run_id.id), "out/data.txt"]
            environment = {
                "PATH": os.environ["PATH"],
                "ODOOOPS_URL": self.base_url(),
                "ODOOOPS_TOKEN": self.keys["viewer"],
                "ODOOOPS_DB": self.env.cr.dbname,
                "ODOOOPS_RETRIES": "0",
            }
            before = self.server.trouble()
            with self.allow_requests(all_requests=True):
                process = subprocess.run(
                    command,
                    env=environment,
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    check=False,
                )
            self.assertEqual((process.returncode, process.stderr), (0, ""))
            self.assertEqual((Path(folder) / process.stdout.strip()).read_bytes(), CONTENT)
        after = self.server.trouble()
        self.assertGreater(after["requests"], before["requests"])
        self.assertEqual(after["authorized_downloads"], 0)
