"""The examples of docs/workflows.md, read out of the document and run as they stand there.

Production is a database that Odoo itself made. It takes minutes, as real Odoo installs modules in
most of them: that is why the examples run together.
"""

import json
import os
import re
import subprocess
import unittest
from pathlib import Path
from unittest.mock import patch

from odoo.tests import tagged

from odoo.addons import odooops
from odoo.addons.odooops.worker.repository_config import Override, merged, parse
from odoo.addons.odooops.worker.workflow import validate_config
from odoo.addons.odooops.worker.workflow_schema import WORKFLOW_TYPES

from ..devtools import demo_repository, embedded
from ..models import secret_key
from ..worker import database
from ..worker.secret_keys import KeyRing
from .odoo_image import make_odoo_image
from .recipe_job import odoo_argv
from .test_worker_checkout import git
from .worker_common import DockerCase, KernelCase

DOCUMENT = Path(odooops.__file__).resolve().parent / "docs" / "workflows.md"
PREFIX = database.name_prefix("test examples")
#: Two examples install Odoo, two restore and update one, on a machine that may be busy.
SECONDS = 900
#: What each example leaves beside its log.
ARTIFACTS = {
    "build": {"manifest.json"},
    "test": {"modules.txt"},
    "deploy": set(),
    "backup": {"production.dump"},
    "upgrade": {"modules.txt"},
}


def blocks(language, text=None):
    """The code blocks of a language in the document."""
    text = DOCUMENT.read_text(encoding="utf-8") if text is None else text
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def example(workflow_type):
    """The config below the heading of a type."""
    text = DOCUMENT.read_text(encoding="utf-8")
    section = text.split(f"\n### {workflow_type.title()}\n", 1)[1].split("\n## ", 1)[0]
    return json.loads(blocks("json", section)[0])


class TestDocument(unittest.TestCase):
    def test_every_configuration_in_the_document_is_valid(self):
        found = blocks("json")
        self.assertGreater(len(found), 7)
        for text in found:
            with self.subTest(text=text):
                self.assertEqual(validate_config("test", json.loads(text)), [])
        for workflow_type in WORKFLOW_TYPES:
            self.assertEqual(validate_config(workflow_type, example(workflow_type)), [])

    def test_the_example_of_a_repositorys_file_is_accepted(self):
        (text,) = blocks("yaml")
        content = parse(text.encode())
        for section, key in (("types", "test"), ("workflows", "Nightly")):
            config = merged("test", {}, Override(key, content[section][key], ""))
            self.assertEqual(config, content[section][key])


class ExamplesCase(KernelCase):
    """Runs the examples; production is a database that Odoo itself made."""

    def setUp(self):
        super().setUp()
        programs = embedded.programs()
        path = f"{programs}:{os.environ['PATH']}" if programs.is_dir() else os.environ["PATH"]
        key_path = self.folder / "secrets_key"
        key_path.write_text(KeyRing.generate().to_text())
        environment = patch.dict(os.environ, {"PATH": path, secret_key.ENVIRONMENT: str(key_path)})
        environment.start()
        self.addCleanup(environment.stop)
        self.repository = Path(demo_repository.build(self.folder / "repository")["path"])
        with self.environment() as env:
            project = env["ops.project"].browse(self.project_id)
            project.repository_url = str(self.repository)

    def _remove_project(self):
        self.query("ALTER TABLE ops_secret_change DISABLE TRIGGER USER")
        self.query("DELETE FROM ops_secret_change WHERE project_id = %s", self.project_id)
        self.query("ALTER TABLE ops_secret_change ENABLE TRIGGER USER")
        return super()._remove_project()

    def make_production(self, **service):
        """A database with a module of the demo, and the secret that says where it is."""
        production = database.create(self.dsn, PREFIX, os.getpid(), 1)
        self.addCleanup(database.drop, self.dsn, production.name)
        subprocess.run(
            [
                *odoo_argv(),
                *("-d", production.name, "-i", "demo_equipment", "--stop-after-init"),
                *("--addons-path", str(self.repository), "--log-level=warn"),
            ],
            env={**os.environ, **production.environment()},
            check=True,
            cwd=self.folder,
            timeout=SECONDS,
        )
        lines = [
            f"{name.removeprefix('PG').lower().replace('database', 'dbname')}={value}"
            for name, value in (production.environment() | service).items()
        ]
        with self.environment() as env:
            env["ops.secret"].create(
                {
                    "project_id": self.project_id,
                    "name": "PGSERVICEFILE",
                    "value": "\n".join(["[production]", *lines, ""]),
                }
            )

    def make_example(self, workflow_type):
        config = self.adapted(example(workflow_type))
        if "DEPLOY_ROOT" in config.get("env", {}):
            config["env"]["DEPLOY_ROOT"] = self.deploy_root()
        return self.make_workflow(f"Example {workflow_type}", workflow_type, **config)

    def work_off(self, *options):
        labels = f"--labels=production,{self.slug}"
        worker = self.start_worker("--until-idle", "--capacity=2", labels, *options)
        self.assertEqual(worker.wait(SECONDS), 0)

    def run_each_type(self):
        """Run all examples, look at what they say and leave; return type → id."""
        runs = {name: self.queue(self.make_example(name)) for name in WORKFLOW_TYPES}
        self.work_off()
        for name, run_id in runs.items():
            with self.subTest(type=name):
                row, messages = self.run_row(run_id), self.messages(run_id)
                self.assertEqual(row["status"], "succeeded", (row, messages[-30:]))
                keys = self.query(
                    "SELECT artifact_key FROM ops_run_artifact WHERE run_id = %s", run_id
                )
                self.assertEqual({key for (key,) in keys}, {"run.log.gz", *ARTIFACTS[name]})
        tested = self.run_row(runs["test"])["metadata"]["steps"]
        self.assertEqual(
            [each["name"] for each in tested if each["status"] == "succeeded"],
            ["Syntax", "Test (MODULE=demo_equipment)", "Test (MODULE=demo_equipment_booking)"]
            + ["Summary"],
        )
        return runs


class TestExamplesInContainers(ExamplesCase, DockerCase):
    def adapted(self, config):
        return {**config, "tool": self.tool}

    def deploy_root(self):
        # Of the host a container sees its run's folders alone.
        return "production"

    def test_each_type_succeeds_in_containers(self):
        self.make_tool(make_odoo_image(self.engine.client))
        # Production lies on the server of the runs' databases, to which a container has a socket.
        self.make_production(PGHOST="/run/odooops/postgres")
        for name, run_id in self.run_each_type().items():
            with self.subTest(type=name):
                self.assertEqual(self.run_row(run_id)["metadata"]["image"]["tool"], self.tool)
                self.assertEqual(self.containers(run_id), [])


@tagged("post_install", "-at_install")
class TestExamples(ExamplesCase):
    def adapted(self, config):
        # This worker has no Docker, where a tool changes nothing; it would have to be registered.
        config.pop("tool", None)
        return config

    def deploy_root(self):
        return str(self.folder / "production")

    def test_each_type_succeeds_as_processes(self):
        self.make_production()
        self.run_each_type()

    def test_a_deployment_that_fails_is_rolled_back(self):
        workflow = self.make_example("deploy")
        first, current = self.queue(workflow), self.folder / "production" / "current"
        self.work_off()
        self.assertEqual(self.run_row(first)["status"], "succeeded")
        good = os.readlink(current)
        (self.repository / "demo_equipment" / "__manifest__.py").write_text("no manifest")
        git(self.repository, "commit", "--quiet", "--all", "-m", "Break the manifest")
        second = self.queue(workflow)
        self.work_off()
        row = self.run_row(second)
        self.assertEqual((row["status"], row["error_code"]), ("failed", "exit_code"))
        self.assertIn("Step Check", row["error_message"])
        statuses = {each["name"]: each["status"] for each in row["metadata"]["steps"]}
        self.assertEqual((statuses["Check"], statuses["Roll back"]), ("failed", "succeeded"))
        self.assertEqual(os.readlink(current), good)
        self.assertEqual(len(list((self.folder / "production").iterdir())), 3)
