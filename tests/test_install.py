"""Whoever follows docs/install.md has an Odoo with OdooOps and a run that succeeded.

The commands of the documents run as they stand there; only the names of databases and logins are
others. A program `odoo` in PATH and its configuration file are what such a reader has already.
"""

import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from odoo.sql_db import connection_info_for
from odoo.tests import tagged

from . import document_commands
from .database_case import DatabaseCase, administer
from .document_commands import ROOT
from .recipe_job import odoo_argv
from .sql_door_case import skip_unless_grantable

SECONDS = 120
PROJECT = """
project = env["ops.project"].create({"name": "First", "slug": "first"})
workflow = env["ops.workflow"].create({
    "name": "Test", "project_id": project.id, "workflow_type": "test",
    "config": {"steps": [{"name": "Say", "run": "echo hello"}]},
})
workflow.queue_run()
"""
AGAIN = """env["ops.workflow"].search([]).queue_run()"""
SECRET = """
project = env["ops.project"].search([])
env["ops.secret"].create({"name": "TOKEN", "project_id": project.id, "value": "open sesame"})
"""
RUNS = "SELECT run_number, status FROM ops_run ORDER BY id"
FACTS = (
    RUNS,
    "SELECT run_id, seq, event_type, message, hash FROM ops_run_event ORDER BY run_id, seq",
    "SELECT run_id, seq, message FROM ops_run_log ORDER BY run_id, seq",
)


@tagged("post_install", "-at_install")
class TestInstall(DatabaseCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        addons = cls.folder / "addons"
        addons.mkdir()
        (addons / "odooops").symlink_to(ROOT)
        cls.installed = cls.database("installed", addons)
        cls.words = {"DATABASE": cls.installed.name}
        cls.installed.data_dir.mkdir(parents=True)
        (cls.folder / "odoo.conf").write_text(cls.configuration(), encoding="utf-8")
        cls.passwords = cls.folder / "pgpass"
        cls.passwords.touch(mode=0o600)
        if own := os.environ.get("PGPASSFILE"):
            cls.passwords.write_bytes(Path(own).read_bytes())
        programs = cls.folder / "bin"
        programs.mkdir()
        for name, argv in (("odoo", odoo_argv()), ("python", [sys.executable])):
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
            (programs / name).chmod(0o755)
        cls.variables = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(cls.folder),
            "ODOO_RC": str(cls.folder / "odoo.conf"),
            "PGPASSFILE": str(cls.passwords),
        }
        install, create = document_commands.fences("docs/install.md", "The addon")
        # In this repository, says the document.
        cls.follow(install, ROOT)
        cls.follow(create)

    @classmethod
    def configuration(cls):
        """The odoo.conf of a reader: where addons, files and the server are."""
        _name, server = connection_info_for("postgres")
        lines = {
            "addons_path": cls.installed.addons,
            "data_dir": cls.installed.data_dir,
            "http_enable": False,
            **{f"db_{key}": server[key] for key in ("host", "port", "user") if key in server},
        }
        return "[options]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())

    @classmethod
    def follow(cls, commands, folder=None, said="", words=None):
        folder = folder or cls.folder
        words = words or cls.words
        return document_commands.run(commands, words, folder, said, **cls.variables)

    def work(self, commands, folder, said=""):
        """Run a block that ends in a worker, until no run waits; stop it as people do."""
        for word, value in self.words.items():
            commands = re.sub(rf"(?<![A-Za-z_]){word}(?![A-Za-z_])", str(value), commands)
        log = self.folder / "worker.log"
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                ["bash", "-ec", commands],
                cwd=folder,
                env={**os.environ, **self.variables},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        try:
            process.stdin.write(said)
            process.stdin.close()
            deadline = time.monotonic() + SECONDS
            while {status for _number, status in self.installed.rows(RUNS)} != {"succeeded"}:
                self.assertIsNone(process.poll(), log.read_text(encoding="utf-8"))
                self.assertLess(time.monotonic(), deadline, log.read_text(encoding="utf-8"))
                time.sleep(0.2)
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(SECONDS)
            while self.lives(process.pid):
                self.assertLess(time.monotonic(), deadline + SECONDS)
                time.sleep(0.2)
        finally:
            if self.lives(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(SECONDS)

    @staticmethod
    def lives(group):
        """Whether anything of a group of processes is there; a worker may outlive its shell."""
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        return True

    def test_the_first_worker_executes_the_first_run(self):
        self.installed.odoo(script=PROJECT)
        (worker,) = document_commands.fences("docs/install.md", "The first worker")
        self.work(worker, self.folder)
        self.assertEqual(self.installed.rows(RUNS)[0], (1, "succeeded"))
        said = "SELECT message FROM ops_run_log WHERE message = 'hello'"
        self.assertEqual(self.installed.value(said), "hello")

        self.update()
        self.rotate()
        self.grant_few_rights()

    def update(self):
        """The update of docs/operate.md keeps what was there, and what waits stays queued."""
        self.installed.odoo(script=AGAIN)
        before = [self.installed.rows(statement) for statement in FACTS]
        self.assertEqual(before[0], [(1, "succeeded"), (2, "queued")])
        (update,) = document_commands.fences("docs/operate.md", "Updating")
        self.follow(update)
        self.assertEqual([self.installed.rows(statement) for statement in FACTS], before)

    def rotate(self):
        """The four commands of docs/secrets.md leave one key, with which the secret opens."""
        self.installed.odoo(script=SECRET)
        (commands,) = document_commands.fences("docs/secrets.md", "The key file")
        status, prepare, rotate, prune = commands.splitlines()
        self.assertRegex(self.follow(status), r"\w+ current +1 secrets")
        self.follow(prepare)
        self.assertIn("1 secrets were sealed", self.follow(rotate))
        file = self.installed.data_dir / "odooops" / self.installed.name / "secrets_key"
        os.utime(file, (time.time() - 601,) * 2)
        self.assertIn("1 old keys were removed", self.follow(prune))
        self.assertRegex(self.follow(status), r"\w+ current +1 secrets")

    def grant_few_rights(self):
        """The logins of docs/sql.md: one closes the database, the others work in it."""
        for role in ("ops_worker", "ops_gateway"):
            skip_unless_grantable(self.installed, role)
        logins = ("builder_runs", "builder", "postgrest", "metabase")
        _name, server = connection_info_for("postgres")
        for login in logins:
            self.words[login] = f"{login}_{uuid.uuid4().hex[:8]}"
            self.addCleanup(administer, "DROP ROLE IF EXISTS {}", self.words[login])
        self.words["DATABASE_HOST"] = server.get("host") or os.environ.get("PGHOST", "")
        administer("CREATE ROLE {} LOGIN", self.words["metabase"])
        self.addCleanup(
            administer, "REVOKE ALL ON DATABASE {} FROM {}", self.installed.name,
            self.words["metabase"],
        )  # fmt: skip
        password = secrets.token_urlsafe(16)
        (close,) = document_commands.fences("docs/sql.md", "Close the database")
        # The word stands for a name in quotes only; before it, it is SQL.
        named = {'"DATABASE"': f'"{self.installed.name}"', "metabase": self.words["metabase"]}
        self.follow(close, words=named)
        may = "SELECT has_database_privilege(%s, current_database(), 'CONNECT')"
        self.assertTrue(self.installed.value(may, self.words["metabase"]))
        (gateway,) = document_commands.fences("docs/sql.md", "Gateways")
        self.follow(gateway, said=f"{password}\n" * 2)
        member = "SELECT pg_has_role(%s, 'ops_gateway', 'MEMBER')"
        self.assertTrue(self.installed.value(member, self.words["postgrest"]))
        self.assertTrue(self.installed.value(may, self.words["postgrest"]), "by its role")

        # The first line that fits counts.
        made = "".join(
            f"*:*:*:{self.words[name]}:{password}\n" for name in ("builder", "builder_runs")
        )
        self.passwords.write_text(made + self.passwords.read_text("utf-8"), encoding="utf-8")
        (worker,) = document_commands.fences("docs/sql.md", "A worker of few rights")
        self.work(worker, ROOT, f"{password}\n" * 4)
        self.assertEqual(
            self.installed.rows(RUNS), [(1, "succeeded"), (2, "succeeded")], "by the second login"
        )
