"""Downloads of artifacts: rights, headers, ranges, and files that are not there."""

import hashlib
import tempfile
from pathlib import Path

from odoo.tests import tagged

from .http_case import DoorCase

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
