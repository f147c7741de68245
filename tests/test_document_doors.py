"""The calls that docs/jsonrpc.md and docs/audit.md show, made as they stand, answer as shown."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

from odoo.tests import tagged

from ..models import audit_key
from . import document_commands
from .document_commands import ROOT
from .http_case import DoorCase

VERIFIER = ROOT / "scripts" / "odooops" / "verify_audit.py"


@tagged("post_install", "-at_install")
class TestDocumentDoors(DoorCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def follow(self, commands, key, **words):
        self.env.flush_all()
        environment = {"ODOOOPS_URL": self.base_url(), "ODOOOPS_TOKEN": self.keys[key]}
        with self.allow_requests(all_requests=True):
            said = document_commands.run(commands, words, self.folder, **environment)
        self.env.invalidate_all()
        return said

    def assert_answers_as_shown(self, heading, key, **words):
        """The call of that section has an answer with the keys of the one that is shown."""
        (block,) = document_commands.fences("docs/jsonrpc.md", heading)
        call, shown = block.removeprefix("$ ").rstrip().rsplit("\n", 1)
        answer = json.loads(self.follow(call, key, **words))
        shown = json.loads(shown)
        self.assertEqual(set(answer["result"]), set(shown["result"]))
        return answer["result"], shown["result"]

    def test_a_call_of_a_person_queues_a_run(self):
        answer, shown = self.assert_answers_as_shown("Keys", "developer", demo="door-test")
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
        said = self.follow(export, "owner", **words)
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
