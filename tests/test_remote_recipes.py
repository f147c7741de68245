"""A real Odoo test on a host without Odoo: the wheel, HTTP, containers, files in S3."""

import gzip
import hashlib
import shutil
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from psycopg2.extensions import make_dsn, parse_dsn

from odoo.tests import tagged

from odoo.addons.odooops.devtools import demo_repository

from .docker_engine import need_engine
from .odoo_image import PYTHON, make_odoo_image
from .remote_case import RemoteCase
from .worker_common import DockerCase, left_in, wait_for

#: A real installation of Odoo is part of it.
PATIENCE = 600


@tagged("post_install", "-at_install")
class TestRemoteRecipes(DockerCase, RemoteCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image = make_odoo_image(need_engine().client)
        folder = tempfile.mkdtemp(prefix="odooops-demo-")
        cls.addClassCleanup(shutil.rmtree, folder)
        cls.demo = demo_repository.build(Path(folder) / "repository")

    def queue_test(self):
        """The built-in test of the demo project, in the image, for this host only."""
        self.make_tool(self.image)
        with self.environment() as env:
            env["ops.project"].browse(self.project_id).write(
                {"repository_url": self.demo["path"], "odoo_version": "19.0"}
            )
        workflow_id = self.make_workflow(
            "Test",
            "test",
            tool=self.tool,
            labels=[self.slug],
            env={"PYTHON": f"/usr/bin/{PYTHON}"},
        )
        return self.queue(workflow_id)

    def runs_dsn(self):
        """The PostgreSQL of the host; no password in a command line, everybody can read it."""
        parameters = {**parse_dsn(self.dsn), "dbname": "postgres"}
        target = self.folder / "pgpass"
        target.touch(mode=0o600)
        info = self.connection.info
        target.write_text(f"*:*:*:{info.user}:{info.password}\n")
        parameters |= {"host": info.host, "port": info.port, "user": info.user}
        parameters.pop("password", None)
        return make_dsn(**parameters, passfile=str(target))

    def test_the_wheel_tests_a_project_in_a_container_and_its_files_land_in_s3(self):
        run_id = self.queue_test()
        worker = self.start_on_host(
            ["--docker" if word == "--allow-process" else word for word in self.install()],
            f"--docker-host={self.engine.host}",
            f"--runs-dsn={self.runs_dsn()}",
            f"--work-dir={self.folder / 'work'}",
            f"--labels={self.slug}",
            "--odoo=/nonexistent/odoo",
            "--until-idle",
        )
        # It is empty for a moment when a program begins.
        words = wait_for(Path(f"/proc/{worker.pid}/environ").read_bytes)
        environment = words.split(b"\0")
        self.assertIn(f"HOME={self.home}".encode(), environment)
        secrets = (b"PG", b"AWS_", b"ODOOOPS_")
        self.assertEqual([name for name in environment if name.startswith(secrets)], [])
        self.assertEqual(worker.wait(PATIENCE), 0, (self.folder / "worker.log").read_text())

        row = self.run_row(run_id)
        self.assertEqual(row["status"], "succeeded", (row, self.messages(run_id)[-30:]))
        numbers = {"total": 9, "passed": 9, "failed": 0, "errors": 0, "skipped": 0}
        self.assertEqual(row["metadata"]["tests"], numbers)
        image = self.engine.client.inspect_image(self.image)
        self.assertEqual(row["metadata"]["image"]["image_id"], image["Id"])
        files = self.read_from_s3(run_id)
        self.assertEqual(ET.fromstring(files["junit.xml"]).get("tests"), "9")
        complete = gzip.decompress(files["run.log.gz"]).decode()
        self.assertIn("odoo.modules.loading", complete)
        self.assertEqual(
            [line.split("\t")[4] for line in complete.splitlines()], self.messages(run_id)
        )
        self.assertEqual(self.s3.trouble()["authorized_downloads"], 0, "no token goes to S3")
        self.assertEqual(self.containers(run_id), [])
        self.assertEqual(left_in(self.folder / "work"), [])

    def read_from_s3(self, run_id):
        """Key → content of a run's artifacts, each as large as recorded and of its checksum."""
        store, files = self.store(), {}
        for key, (url, size, checksum) in self.artifacts(run_id).items():
            self.assertEqual(url, store.url_of(f"{self.slug}/{run_id}/{key}"))
            with store.open(url) as stream:
                files[key] = stream.read()
            found = (len(files[key]), hashlib.sha256(files[key]).hexdigest())
            self.assertEqual(found, (size, checksum), key)
        return files
