"""All types of workflows in containers and as processes, with a real Odoo.

In containers it is the Odoo of the image; the worker has none.
"""

import gzip
import json
import shlex
import shutil
import sys
import tempfile
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path
from unittest.mock import patch

from odoo.addons.odooops.devtools import demo_repository
from odoo.addons.odooops.worker.storage.filesystem import FilesystemStore

from .docker_engine import IMAGE, need_engine
from .odoo_image import IMAGE_MODULE, PYTHON, make_odoo_image
from .recipe_job import odoo_argv
from .test_worker_checkout import git
from .worker_common import DockerCase, KernelCase, left_in

NO_ODOO = "--odoo=/nonexistent/odoo"
#: Executes a statement in the run's database and prints the first column of what it returns.
ASK = """
import sys, psycopg2
with psycopg2.connect("") as connection, connection.cursor() as cursor:
    cursor.execute(sys.argv[1])
    for row in cursor.fetchall() if cursor.description else []:
        print(row[0])
"""


def sql(statement):
    """A command line that executes a statement."""
    return f'"$PYTHON" -c {shlex.quote(ASK)} {shlex.quote(statement)}'


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

    def enqueue(self, workflow_type, git_ref="main", **config):
        workflow = self.make_workflow(
            f"{workflow_type} {uuid.uuid4()}", workflow_type, tool=self.tool, **config
        )
        return self.call("queue_run", workflow, git_ref)["run_id"]

    def run_recipe(self, workflow_type, git_ref="main", **config):
        run_id = self.enqueue(workflow_type, git_ref, **config)
        self.work(NO_ODOO)
        return run_id, self.run_row(run_id)

    def assertNothingLeft(self, *runs):
        for run_id in runs:
            self.assertEqual(self.containers(run_id), [])
        self.assertEqual(left_in(self.folder / "work"), [])

    def artifact(self, run_id, key):
        rows = self.query(
            "SELECT artifact_url FROM ops_run_artifact WHERE run_id = %s AND artifact_key = %s",
            run_id,
            key,
        )
        with FilesystemStore(self.folder / "artifacts").open(rows[0][0]) as stream:
            return stream.read()

    def run_all_types(self, *options, **config):
        """One run of each type, from the same workflows; return type → (id, row)."""
        runs = {
            "build": self.enqueue("build", modules=["demo_equipment"], **config),
            "test": self.enqueue("test", **config),
            "deploy": self.enqueue(
                "deploy",
                steps=[
                    {"name": "Pack", "run": "cat demo_equipment/__manifest__.py > release"},
                    {"name": "Tell", "run": "echo $ODOOOPS_GIT_COMMIT >> release"},
                ],
                artifacts=[{"path": "release"}],
                **config,
            ),
            "backup": self.enqueue(
                "backup",
                database=True,
                steps=[
                    {"name": "Fill", "run": sql("CREATE TABLE t AS SELECT 42 AS answer")},
                    {"name": "Dump", "run": sql("SELECT answer FROM t") + " > dump"},
                ],
                artifacts=[{"path": "dump"}],
                **config,
            ),
            "upgrade": self.enqueue(
                "upgrade",
                database=True,
                steps=[
                    {"name": "Old", "run": sql("CREATE TABLE t AS SELECT 1 AS version")},
                    {"name": "New", "run": sql("UPDATE t SET version = version + 1")},
                    {"name": "Check", "run": sql("SELECT version FROM t") + "; odoo --version"},
                ],
                **config,
            ),
        }
        self.work("--capacity=2", *options)
        rows = {name: (run_id, self.run_row(run_id)) for name, run_id in runs.items()}
        for name, (run_id, row) in rows.items():
            self.assertEqual(row["status"], "succeeded", (name, row, self.messages(run_id)[-30:]))
        self.assertNothingLeft(*runs.values())
        self.assertEqual(rows["test"][1]["metadata"]["tests"]["passed"], 9)
        self.assertTrue(rows["build"][1]["metadata"]["odoo_version"].startswith("19.0"))
        self.assertIn(self.demo["main"].encode(), self.artifact(rows["deploy"][0], "release"))
        self.assertEqual(self.artifact(rows["backup"][0], "dump"), b"42\n")
        self.assertIn("2", self.messages(rows["upgrade"][0]))
        return rows

    def test_all_types_run_in_containers_without_any_odoo_on_the_worker(self):
        rows = self.run_all_types(NO_ODOO, env={"PYTHON": f"/usr/bin/{PYTHON}"})
        image = self.engine.client.inspect_image(self.image)
        for name, (_run_id, row) in rows.items():
            self.assertEqual(row["metadata"]["image"]["image_id"], image["Id"], name)
        run_id = rows["test"][0]
        log = self.messages(run_id)
        self.assertTrue(any(f"of the image {self.image}" in line for line in log))
        manifest = json.loads(self.artifact(run_id, "manifest.json"))
        self.assertEqual(manifest["image"]["image_id"], image["Id"])
        self.assertEqual(manifest["commit"]["commit"], self.demo["main"])
        complete = gzip.decompress(self.artifact(run_id, "run.log.gz")).decode()
        self.assertIn("odoo.modules.loading", complete)

    def test_all_types_run_as_processes(self):
        odoo = f"--odoo={shlex.join(odoo_argv())}"
        options = KernelCase.worker_options(self)
        with patch.object(self, "worker_options", lambda: options):
            rows = self.run_all_types(odoo, env={"PYTHON": sys.executable})
        for name, (_run_id, row) in rows.items():
            self.assertNotIn("image", row["metadata"], name)

    def test_failing_tests_are_counted_and_named_like_those_of_processes(self):
        names = ["demo_equipment", "demo_equipment_booking", IMAGE_MODULE]
        run_id, row = self.run_recipe("test", "broken-booking", modules=names)
        self.assertEqual((row["status"], row["error_code"]), ("failed", "tests_failed"), row)
        numbers = {"total": 9, "passed": 8, "failed": 1, "errors": 0, "skipped": 0}
        self.assertEqual(row["metadata"]["tests"], numbers)
        (failed,) = row["metadata"]["failed_tests"]
        self.assertEqual(failed["file"], "demo_equipment_booking/tests/test_booking.py")
        junit = ET.fromstring(self.artifact(run_id, "junit.xml"))
        self.assertEqual((junit.get("tests"), junit.get("failures")), ("9", "1"))
        self.assertIn(IMAGE_MODULE, row["metadata"]["modules"], "The image's own addons count.")
        self.assertNothingLeft(run_id)

    def test_an_image_without_odoo_says_which_command_it_lacks(self):
        self.make_tool(IMAGE, version="2")
        _run, row = self.run_recipe("build")
        self.assertEqual((row["status"], row["error_code"]), ("failed", "setup_error"), row)
        self.assertIn("“odoo”", row["error_message"])
        self.assertIn("the image has no such program", row["error_message"])

    def test_what_the_image_lacks_is_asked_in_the_image(self):
        repository = self.folder / "repository"
        module = repository / "trial"
        module.mkdir(parents=True)
        needs = "{'name': 'Trial', 'external_dependencies': {'python': ['no_such_package']}}"
        (module / "__manifest__.py").write_text(needs)
        (module / "__init__.py").write_text("")
        git(repository, "init", "--quiet", "-b", "main")
        self.commit(repository)
        with self.environment() as env:
            env["ops.project"].browse(self.project_id).repository_url = str(repository)
        _run, row = self.run_recipe("build")
        self.assertEqual((row["status"], row["error_code"]), ("failed", "missing_dependency"), row)
        self.assertIn("“no_such_package”, which the Odoo of the image", row["error_message"])
        (repository / "requirements.txt").write_text("requests\nno-such-package\n")
        self.commit(repository)
        run_id, row = self.run_recipe("build", env={"PIP_RETRIES": "0"})
        self.assertEqual((row["status"], row["error_code"]), ("failed", "missing_dependency"), row)
        self.assertIn('"network": true', row["error_message"])
        found = [line for line in self.messages(run_id) if "already satisfied: requests" in line]
        self.assertTrue(found, "The run's environment does not see the packages of the image.")

    def commit(self, repository):
        git(repository, "add", "--all")
        git(repository, "commit", "--quiet", "-m", "A trial")
