"""Built-in recipes in containers: a real Odoo in a real image, on a worker that has none itself."""

import gzip
import json
import shutil
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from odoo.addons.odooops.devtools import demo_repository
from odoo.addons.odooops.worker.storage.filesystem import FilesystemStore

from .docker_engine import IMAGE, need_engine
from .odoo_image import IMAGE_MODULE, make_odoo_image
from .worker_common import DockerCase

NO_ODOO = "--odoo=/nonexistent/odoo"


class TestRecipesInContainers(DockerCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image = make_odoo_image(need_engine().client)
        cls.demo_folder = Path(tempfile.mkdtemp(prefix="odooops-demo-"))
        cls.addClassCleanup(shutil.rmtree, cls.demo_folder)
        cls.demo = demo_repository.build(cls.demo_folder / "repository")

    def setUp(self):
        super().setUp()
        self.make_tool(self.image)
        with self.environment() as env:
            env["ops.project"].browse(self.project_id).write(
                {"repository_url": self.demo["path"], "odoo_version": "19.0"}
            )

    def run_recipe(self, workflow_type, git_ref="main", options=(), **config):
        config = {"tool": self.tool, **config}
        workflow = self.make_workflow(workflow_type=workflow_type, **config)
        run_id = self.call("queue_run", workflow, git_ref)["run_id"]
        self.work(NO_ODOO, *options)
        row = self.run_row(run_id)
        self.assertEqual(self.containers(run_id), [])
        self.assertEqual(list((self.folder / "work").iterdir()), [])
        return run_id, row

    def artifact(self, run_id, key):
        rows = self.query(
            "SELECT artifact_url FROM ops_run_artifact WHERE run_id = %s AND artifact_key = %s",
            run_id,
            key,
        )
        with FilesystemStore(self.folder / "artifacts").open(rows[0][0]) as stream:
            return stream.read()

    def test_tests_run_in_the_tools_image_without_any_odoo_on_the_worker(self):
        run_id, row = self.run_recipe("test")
        log = self.messages(run_id)
        self.assertEqual(row["status"], "succeeded", (row, log[-40:]))
        self.assertEqual(row["metadata"]["tests"]["passed"], 9)
        image = self.engine.client.inspect_image(self.image)
        self.assertEqual(row["metadata"]["image"]["image_id"], image["Id"])
        self.assertTrue(row["metadata"]["odoo_version"].startswith("19.0"))
        self.assertTrue(any(f"of the image {self.image}" in line for line in log))
        manifest = json.loads(self.artifact(run_id, "manifest.json"))
        self.assertEqual(manifest["image"]["image_id"], image["Id"])
        self.assertEqual(manifest["commit"]["commit"], self.demo["main"])
        complete = gzip.decompress(self.artifact(run_id, "run.log.gz")).decode()
        self.assertIn("odoo.modules.loading", complete)

    def test_failing_tests_are_counted_and_named_like_those_of_processes(self):
        run_id, row = self.run_recipe("test", "broken-booking")
        self.assertEqual((row["status"], row["error_code"]), ("failed", "tests_failed"), row)
        numbers = {"total": 9, "passed": 8, "failed": 1, "errors": 0, "skipped": 0}
        self.assertEqual(row["metadata"]["tests"], numbers)
        (failed,) = row["metadata"]["failed_tests"]
        self.assertEqual(failed["file"], "demo_equipment_booking/tests/test_booking.py")
        junit = ET.fromstring(self.artifact(run_id, "junit.xml"))
        self.assertEqual((junit.get("tests"), junit.get("failures")), ("9", "1"))

    def test_a_build_uses_the_addons_the_image_itself_names(self):
        _run, row = self.run_recipe("build", modules=["demo_equipment", IMAGE_MODULE])
        self.assertEqual(row["status"], "succeeded", row)
        self.assertEqual(set(row["metadata"]["modules"]), {"demo_equipment", IMAGE_MODULE})

    def test_an_image_without_odoo_says_which_command_it_lacks(self):
        self.make_tool(IMAGE, version="2")
        _run, row = self.run_recipe("build")
        self.assertEqual((row["status"], row["error_code"]), ("failed", "setup_error"), row)
        self.assertIn("odoo", row["error_message"])
        self.assertIn("the image has no such program", row["error_message"])
