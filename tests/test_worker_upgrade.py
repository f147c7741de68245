"""Workers whose installed files are replaced while runs are under way."""

import os
import shlex
import shutil
import subprocess
import sys

from odoo.addons.odooops.devtools import demo_repository, embedded

from .docker_engine import import_program
from .recipe_job import odoo_argv
from .test_worker_adoption import AdoptionCase
from .test_worker_docker import PSQL_IMAGE
from .worker_common import ADDON, DockerCase, KernelCase, wait_for


class UpgradeCase(KernelCase):
    """The worker of a test is a copy, which is taken away while it works."""

    def setUp(self):
        super().setUp()
        self.installed = self.folder / "installed" / "worker"
        shutil.copytree(ADDON / "worker", self.installed)
        self.end_file = self.folder / "end"
        #: A command line that waits for ``end``.
        self.wait = f"while [ ! -e {self.end_file} ]; do sleep 0.05; done"

    def start_old(self, *options):
        """Start the copy; its log is ``self.old_log``."""
        self.old_log = self.folder / "old.log"
        with open(self.old_log, "wb") as output:
            self.old = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "worker",
                    *self.worker_options(),
                    "--on-stop=handover",
                    *options,
                ],
                cwd=self.installed.parent,
                env={**os.environ, "ODOOOPS_DSN": self.dsn},
                stdout=output,
                stderr=output,
            )
        self.addCleanup(self.kill_worker, self.old)

    def upgrade(self, *options):
        """Stop the old worker, remove its files, start the new one on its work directory."""
        self.old.terminate()
        self.assertEqual(self.old.wait(20), 0)
        self.installed.rename(self.installed.with_name("gone"))
        self.start_worker(*options)

    def end(self):
        self.end_file.touch()

    def assertSucceeded(self, run_id, seconds=60):
        row = self.wait_status(run_id, "succeeded", "failed", seconds=seconds)
        known = (row, self.messages(run_id)[-20:], self.old_log.read_text())
        self.assertEqual(row["status"], "succeeded", known)


class TestProcesses(UpgradeCase, AdoptionCase):
    def test_steps_go_on_when_the_files_of_their_worker_are_gone(self):
        steps = [
            {"name": "One", "run": f"echo ready; {self.wait}"},
            {"name": "Two", "run": "echo two"},
        ]
        run_id = self.queue(self.make_workflow(steps=steps))
        self.start_old()
        wait_for(lambda: "ready" in self.messages(run_id), message="It did not start.")
        self.upgrade()
        self.end()
        self.assertSucceeded(run_id)
        self.assertIn("two", self.messages(run_id))

    def test_a_built_in_recipe_goes_on_when_the_files_of_its_worker_are_gone(self):
        demo = demo_repository.build(self.folder / "repository")
        with self.environment() as env:
            env["ops.project"].browse(self.project_id).write(
                {"repository_url": demo["path"], "odoo_version": "19.0"}
            )
        odoo = self.folder / "slow-odoo"
        asked = self.folder / "asked"
        odoo.write_text(
            f'#!/bin/sh\ntouch {asked}\n{self.wait}\nexec {shlex.join(odoo_argv())} "$@"\n'
        )
        odoo.chmod(0o755)
        run_id = self.queue(self.make_workflow(workflow_type="test", modules=["demo_equipment"]))
        self.start_old(f"--odoo={odoo}")
        # The first question to Odoo: nothing has been read of what the recipe brings along.
        wait_for(asked.exists, message="Odoo was not asked.")
        self.upgrade()
        self.end()
        self.assertSucceeded(run_id, 300)
        self.assertTrue(self.run_row(run_id)["metadata"]["tests"]["passed"])


class TestContainers(UpgradeCase, DockerCase):
    def test_containers_are_started_and_reach_their_database_when_the_files_are_gone(self):
        psql = embedded.programs() / "psql"
        if not psql.exists():
            self.skipTest("The server is not the embedded one, whose psql goes into the image.")
        import_program(self.engine.client, PSQL_IMAGE, psql)
        self.make_tool(PSQL_IMAGE)
        steps = [
            {"name": "One", "run": "echo ready; while [ ! -e go ]; do sleep 0.05; done"},
            {"name": "Two", "run": "psql -At -c \"SELECT 'six times seven is ' || 6 * 7\""},
        ]
        run_id = self.queue(self.make_workflow(tool=self.tool, database=True, steps=steps))
        self.start_old()
        wait_for(lambda: "ready" in self.messages(run_id), message="It did not start.")
        self.upgrade()
        (checkout,) = (self.folder / "work").glob("run-*/checkout")
        (checkout / "go").touch()
        self.assertSucceeded(run_id)
        self.assertIn("six times seven is 42", self.messages(run_id))
