"""Calls of the doors that documents show, made as they stand, answer as shown."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest.mock import patch

from odoo.tests import tagged

from ..models import audit_key
from . import document_commands
from .document_blocks import Block, blocks, commands
from .document_commands import ROOT
from .http_case import DoorCase

GIT = ("git", "rev-parse", "HEAD")
VERIFIER = ROOT / "scripts" / "odooops" / "verify_audit.py"


@tagged("post_install", "-at_install")
class TestDocumentDoors(DoorCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def follow(self, commands, key, words=None, **variables):
        self.env.flush_all()
        environment = {"ODOOOPS_URL": self.base_url(), "ODOOOPS_TOKEN": self.keys[key], **variables}
        with self.allow_requests(all_requests=True):
            said = document_commands.run(commands, words or {}, self.folder, **environment)
        self.env.invalidate_all()
        return said

    def assert_answers_as_shown(self, heading, key, words=None):
        """The call of that section has an answer with the keys of the one that is shown."""
        (block,) = document_commands.fences("docs/jsonrpc.md", heading)
        call, shown = block.removeprefix("$ ").rstrip().rsplit("\n", 1)
        answer = json.loads(self.follow(call, key, words))
        shown = json.loads(shown)
        self.assertEqual(set(answer["result"]), set(shown["result"]))
        return answer["result"], shown["result"]

    def test_a_call_of_a_person_queues_a_run(self):
        answer, shown = self.assert_answers_as_shown("Keys", "developer", {"demo": "door-test"})
        run = self.env["ops.run"].browse(answer["run_id"])
        self.assertEqual(run.project_id, self.project)
        self.assertEqual((answer["status"], answer["created"]), (shown["status"], True))

    def test_a_call_of_a_worker_finds_nothing_to_do(self):
        # Other tests may have left something that waits.
        self.env["ops.project"].search([("paused", "=", False)]).write({"paused": True})
        answer, shown = self.assert_answers_as_shown("Methods for workers", "platform")
        self.assertEqual(answer, shown)

    def test_an_auditor_exports_the_trail_and_verifies_it(self):
        self.finish(self.queue())
        shutil.copy(VERIFIER, self.folder)
        # A database that has seen other tests may hold checkpoints of other keys.
        keys = {audit_key.load(self.env.cr.dbname).key_id}
        keys.update(self.env["ops.audit.checkpoint"].search([]).mapped("key_id"))
        export, _problems = document_commands.fences("docs/audit.md", "For the auditor")
        words = {"web-shop": "door-test", "3f0c…": " --key ".join(keys)}
        said = self.follow(export, "owner", words)
        self.assertRegex(said, r"\n\d+ passed, 0 failed\n$")
        trail = (self.folder / "trail.jsonl").read_text(encoding="utf-8")
        kinds = [json.loads(line)["kind"] for line in trail.splitlines()]
        self.assertEqual((kinds.count("run"), kinds.count("event")), (1, 4))

    def test_a_key_of_ones_own_has_the_fingerprint_that_is_shown(self):
        (make,) = document_commands.fences("docs/audit.md", "The key")
        said = self.follow(make, "owner")
        (fingerprint,) = [line.split()[0] for line in said.splitlines() if line.endswith(" -")]
        named = {audit_key.ENVIRONMENT: str(self.folder / "audit_key.pem")}
        with patch.dict(os.environ, named):
            self.assertEqual(audit_key.load(self.env.cr.dbname).key_id, fingerprint)

    # -- the scripts ----------------------------------------------------------------------

    def assert_run_is_queued_and_waited_for(self, queue, wait, **variables):
        """Two commands of a document: one queues a run, one follows it to its end."""
        (self.folder / "scripts").symlink_to(ROOT / "scripts")
        said = self.follow(
            f"{queue}\necho run:$run", "developer", {"demo": "door-test"}, **variables
        )
        run = self.env["ops.run"].browse(int(said.rpartition("run:")[2]))
        self.assertEqual((run.project_id, run.status), (self.project, "queued"))
        self.finish(run, lines=["line of the log"])
        said = self.follow(wait, "developer", run=str(run.id))
        self.assertIn("line of the log", said)
        self.assertEqual(said.splitlines()[-1], "success")
        return run

    def test_the_scripts_queue_a_run_and_wait_for_it(self):
        (block,) = document_commands.fences("docs/scripts.md", "Shell scripts")
        queue, wait = commands(Block("docs/scripts.md", "", "console", 1, block))
        self.project.repository_url = str(self.repository())
        sha = subprocess.run(GIT, cwd=self.folder, check=True, capture_output=True, text=True)
        run = self.assert_run_is_queued_and_waited_for(queue, wait, GITHUB_SHA=sha.stdout.strip())
        self.assertEqual(run.idempotency_key, sha.stdout.strip())

    def test_the_first_page_queues_a_run_and_waits_for_it(self):
        text = (ROOT / "README.rst").read_text(encoding="utf-8")
        ours = [each for each in blocks("README.rst", text)
                if each.heading == "Your own repository" and each.language != "json"]  # fmt: skip
        (block,) = ours
        export, queue, wait = commands(block)
        self.repository()
        # The reader's address and key stand in the place of those of the page.
        self.assertRegex(export, r"^export ODOOOPS_URL=\S+ ODOOOPS_TOKEN=\S+$")
        run = self.assert_run_is_queued_and_waited_for(queue, wait)
        head = subprocess.run(GIT, cwd=self.folder, check=True, capture_output=True, text=True)
        self.assertEqual(run.git_commit, head.stdout.strip())

    def repository(self):
        """A repository of one commit in the folder."""
        for argv in (
            ("git", "init", "-q", "-b", "main"),
            ("git", "-c", "user.name=T", "-c", "user.email=t@example.com", "commit", "-q")
            + ("--allow-empty", "-m", "First"),
        ):
            subprocess.run(argv, cwd=self.folder, check=True)
        return self.folder
