"""What the tests of the audit share: a key, checkpoints, exports, and the verifier as a program.

Checkpoints are committed: they are made through an Odoo environment of their own and deleted
by the kernel's test case.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from odoo.addons import odooops

from ..models import audit_key
from ..models.audit_export import export_bytes
from .kernel_case import KernelCase

VERIFIER = Path(odooops.__file__).resolve().parent / "scripts" / "odooops" / "verify_audit.py"
# What JSON, jsonb and hashing could each spell in their own way.
MESSAGES = ("two\nlines\r\n", 'quote " backslash \\ slash /', "ä € 😀 \u2028 \x7f\x01\t", " ")
PAYLOADS = (
    {"longer": 1, "b": 2, "a": 3, "ä": "€ \u2028 \\u0041 \n"},
    {"n": [1.10, 100000000000000000000000, 1e-7, -0.0, True, None], "": {"": []}},
)


def make_key(folder, name):
    """A new private key in a file; returns its path and fingerprint."""
    path = Path(folder) / name
    private = Ed25519PrivateKey.generate()
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path, audit_key.AuditKey(private).key_id


class AuditCase(KernelCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.key_path, self.key_id = make_key(self.folder, "key.pem")
        named = patch.dict(os.environ, {audit_key.ENVIRONMENT: str(self.key_path)})
        named.start()
        self.addCleanup(named.stop)
        # Keys of checkpoints that were in the database before.
        older = self.db.rows("SELECT DISTINCT key_id FROM ops_audit_checkpoint")
        self.older_keys = [row["key_id"] for row in older]

    def checkpoint(self):
        """Make one and return its number; None when nothing has happened."""
        with self.environment() as env:
            return env["ops.audit.checkpoint"]._make()

    def problems(self, project_id=None):
        """What the server itself finds."""
        with self.environment() as env:
            project = env["ops.project"].browse(project_id) if project_id else None
            return env["ops.audit.checkpoint"]._verify(project)

    def export(self, project_id=None):
        """The lines of an export, as dicts."""
        with self.environment() as env:
            schema = env["ops.kernel"]._get_schema()
            uuid = env["ir.config_parameter"].get_param("database.uuid")
        project = project_id and (project_id, f"project-{project_id}")
        with self.environment() as env:
            data = b"".join(export_bytes(env.cr, schema, uuid, project))
        return [json.loads(line) for line in io.BytesIO(data)]

    def verify(self, export, *options, key=None):
        """Run the verifier on lines or bytes; returns exit code, problems and the last lines."""
        if not isinstance(export, bytes):
            export = "".join(json.dumps(line) + "\n" for line in export).encode()
        keys = [part for name in (key or self.key_id, *self.older_keys) for part in ("--key", name)]
        done = subprocess.run(
            [sys.executable, str(VERIFIER), *keys, *options],
            input=export,
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.assertNotIn(b"Traceback", done.stderr)
        lines = done.stdout.decode().splitlines()
        notes = [line for line in lines if line.startswith("note: ")]
        problems = [line for line in lines[:-1] if line not in notes]
        return done.returncode, problems, notes, lines[-1] if lines else done.stderr.decode()

    def assertFound(self, export, problem, *options, **keywords):
        """The verifier fails and says this."""
        code, problems, _notes, last = self.verify(export, *options, **keywords)
        self.assertEqual(code, 1, problems)
        self.assertTrue(
            any(line.startswith(problem) for line in problems), f"{problem!r} in {problems}"
        )
        self.assertTrue(last.endswith(f"passed, {len(problems)} failed"), last)
        return problems

    def assertHolds(self, export, *options, **keywords):
        code, problems, notes, last = self.verify(export, *options, **keywords)
        self.assertEqual((code, problems), (0, []), last)
        self.assertRegex(last, r"^[1-9]\d* passed, 0 failed$")
        return notes

    def ended_run(self, workflow=None):
        """A run with five events, the fourth of them a warning."""
        worker_id = self.worker()
        run_id = self.queue(workflow)
        epoch = self.claim(worker_id)["epoch"]
        self.db.call("start_workflow_run", run_id=run_id, worker_id=worker_id, epoch=epoch)
        self.add_event(run_id, epoch, "slow disk")
        self.db.call("complete_workflow_run", run_id=run_id, epoch=epoch, exit_code=0)
        self.assertEqual(len(self.events(run_id)), 5)
        return run_id

    def add_event(self, run_id, epoch, message, payload=None):
        reply = self.db.call(
            "add_run_event",
            run_id=run_id,
            epoch=epoch,
            event_type="warning",
            message=message,
            payload=payload or {},
        )
        self.assertTrue(reply["success"], reply)

    def rehash(self, run_id):
        """Make the chain of a run fit its altered content again, as only the owner can."""
        prev, seq = None, 0
        for event in self.events(run_id):
            seq = event["seq"]
            self.db.rows(
                "UPDATE ops_run_event e SET prev_hash = %s,"
                f" hash = {self.db.schema}.event_hash(%s, run_id, seq, event_type, timestamp,"
                " message, payload) WHERE run_id = %s AND seq = %s",
                prev,
                prev,
                run_id,
                seq,
            )
            prev = self.db.value(
                "SELECT hash FROM ops_run_event WHERE run_id = %s AND seq = %s", run_id, seq
            )
        self.db.rows(
            "UPDATE ops_run SET event_seq = %s, event_hash = %s WHERE id = %s", seq, prev, run_id
        )
