"""A worker at the JSON-RPC door: its calls are committed one by one, as those over SQL are."""

import os
import tempfile
import uuid
from pathlib import Path
from unittest.mock import patch

from odoo import SUPERUSER_ID, api
from odoo.sql_db import db_connect
from odoo.tests import HttpCase, tagged
from odoo.tests.common import get_db_name
from odoo.tools import mute_logger

from ..models import secret_key
from ..worker.secret_keys import KeyRing
from .http_case import DoorCase, WorkerTokens
from .kernel_case import KernelCase


@tagged("post_install", "-at_install")
class TestWorkerMethods(WorkerTokens, KernelCase, HttpCase):
    """The project is committed for real; the caller and the key live in the test's transaction."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        platform = DoorCase.make_user.__func__(cls, "platform", "odooops.group_platform_admin")
        cls.keys = {"platform": DoorCase.make_key.__func__(cls, platform)}

    post = DoorCase.post
    request = DoorCase.request
    assertError = DoorCase.assertError

    def rpc(self, method, **params):
        response = self.request(method, params, "platform")
        self.assertIn("result", response.json(), response.text)
        return response.json()["result"]

    def rpc_refused(self, code, method, **params):
        return self.assertError(self.request(method, params, "platform"), code)

    def register(self):
        worker_id = f"test-{uuid.uuid4()}"
        self.workers.append(worker_id)
        self.rpc(
            "register_worker",
            worker_id=worker_id,
            host="build-1",
            labels=["docker"],
            capacity=2,
            version="1",
            kind="daemon",
        )
        return worker_id

    def test_a_run_from_claim_to_completion(self):
        run_id = self.queue()
        worker_id = self.register()
        token = str(uuid.uuid4())
        claimed = self.rpc(
            "claim_next_run", worker_id=worker_id, labels=["docker"], claim_token=token
        )
        self.assertEqual(claimed["run_id"], run_id)
        again = self.rpc("claim_next_run", worker_id=worker_id, claim_token=token)
        self.assertEqual(again["epoch"], claimed["epoch"])
        held = {"run_id": run_id, "epoch": claimed["epoch"]}
        # Read in the request's transaction, which in a test began before the claim.
        self.assertIsInstance(self.rpc("list_leases")["leases"], list)

        self.assertEqual(self.rpc("start_workflow_run", worker_id=worker_id, **held)["next_seq"], 1)
        lines = [
            {
                "level": "info",
                "message": "Zeile ü",
                "metadata": {"step": "Work"},
                "timestamp": "2026-11-23T10:00:00.123456Z",
            }
        ]
        self.assertEqual(
            self.rpc("append_run_logs", first_seq=1, lines=lines, **held)["next_seq"], 2
        )
        gap = self.rpc_refused("log_gap", "append_run_logs", first_seq=9, lines=lines, **held)
        self.assertEqual(gap["data"]["next_seq"], 2)
        self.assertEqual(self.rpc("append_run_log", level="warn", message="", **held)["seq"], 2)
        (beat,) = self.rpc("heartbeat", worker_id=worker_id, runs=[held])["runs"]
        self.assertEqual((beat["owned"], beat["cancel_requested"]), (True, False))
        self.rpc("add_run_event", event_type="info", message="half way", payload={"n": 1}, **held)
        artifact = {
            "artifact_key": "a.txt",
            "artifact_url": "filesystem:p/1/a.txt",
            "content_type": "text/plain",
            "size_bytes": 2**40,
            "checksum": "0" * 64,
        }
        self.assertTrue(self.rpc("add_run_artifact", **artifact, **held)["artifact_id"])
        self.rpc_refused(
            "stale_epoch",
            "complete_workflow_run",
            run_id=run_id,
            epoch=claimed["epoch"] + 1,
            exit_code=0,
        )
        done = self.rpc(
            "complete_workflow_run", exit_code=0, metadata={"tests": {"passed": 1}}, **held
        )
        self.assertEqual(done["status"], "succeeded")
        self.assertEqual(self.run_row(run_id)["status"], "succeeded", "committed, seen outside")
        self.rpc("deregister_worker", worker_id=worker_id)
        self.rpc_refused("not_found", "set_worker_state", worker_id="nobody", state="draining")

    def test_a_run_without_exit_code_is_completed_by_its_error(self):
        worker_id, run_id, epoch = self.start()
        done = self.rpc(
            "complete_workflow_run",
            run_id=run_id,
            worker_id=worker_id,
            epoch=epoch,
            error_code="setup_error",
            error_message="No disk.",
        )
        self.assertEqual(done["status"], "failed")
        self.assertIsNone(self.run_row(run_id)["exit_code"])

    def test_an_unstarted_run_is_given_back(self):
        run_id, worker_id = self.queue(), self.register()
        epoch = self.rpc("claim_next_run", worker_id=worker_id)["epoch"]
        self.rpc("release_run", run_id=run_id, worker_id=worker_id, epoch=epoch)
        self.assertEqual(self.run_row(run_id)["status"], "queued")
        self.assertGreaterEqual(self.rpc("reap_lost_runs")["requeued"], 0)

    def test_an_empty_queue_is_no_error(self):
        self.assertIsNone(self.rpc("claim_next_run", worker_id=self.register())["run_id"])

    @mute_logger("odoo.sql_db", "odoo.addons.odooops.controllers.jsonrpc")
    def test_wrong_values_of_workers_are_refused(self):
        worker_id, run_id, epoch = self.start()
        held = {"run_id": run_id, "epoch": epoch}
        line = {"level": "info", "message": "x"}
        for method, params in (
            ("register_worker", {"worker_id": "a b"}),
            ("register_worker", {"worker_id": worker_id, "labels": "docker"}),
            ("register_worker", {"worker_id": worker_id, "labels": [1]}),
            ("claim_next_run", {"worker_id": worker_id, "claim_token": "x"}),
            ("heartbeat", {"worker_id": worker_id, "runs": [1]}),
            ("heartbeat", {"worker_id": worker_id, "runs": [{"run_id": "1", "epoch": 1}]}),
            ("append_run_logs", {**held, "first_seq": 1, "lines": [{"message": "a\0b"}]}),
            ("append_run_logs", {**held, "first_seq": 1, "lines": [{"message": 5}]}),
            ("append_run_logs", {**held, "first_seq": 1, "lines": [line] * 1001}),
            ("append_run_logs", {**held, "first_seq": 1, "lines": [{**line, "timestamp": "soon"}]}),
            (
                "append_run_logs",
                {
                    **held,
                    "first_seq": 1,
                    "lines": [{**line, "timestamp": "2026-01-01 00:00 No/Where"}],
                },
            ),
            *(
                (
                    "append_run_logs",
                    {**held, "first_seq": 1, "lines": [{**line, "timestamp": timestamp}]},
                )
                for timestamp in ("infinity", "now", "0001-01-01T00:00:00Z", "99999-01-01", 5)
            ),
            ("complete_workflow_run", {**held, "exit_code": 2**31}),
            ("complete_workflow_run", held),
        ):
            with self.subTest(method=method, params=str(params)[:80]):
                self.rpc_refused("invalid_input", method, **params)
        self.assertEqual(self.run_row(run_id)["status"], "running")

    def test_secrets_of_the_run_are_masked_in_what_a_worker_says(self):
        """Also those that the worker itself has not masked, such as one of a few lines of shell."""
        run_id, worker_id = self.queue_with_secret(), self.register()
        claimed = self.rpc("claim_next_run", worker_id=worker_id)
        self.assertEqual(claimed["run_id"], run_id)
        held = {"run_id": run_id, "epoch": claimed["epoch"]}
        self.rpc("start_workflow_run", worker_id=worker_id, **held)
        said = "so hunter2hunter2 it is"
        line = {"level": "info", "message": said, "metadata": {"x": said}}
        self.rpc("append_run_logs", first_seq=1, lines=[line], **held)
        self.rpc("append_run_log", level="info", message=said, worker_id=worker_id, **held)
        self.rpc("add_run_event", event_type="info", message=said, payload={"x": [said]}, **held)
        self.rpc(
            "complete_workflow_run",
            exit_code=1,
            error_message=said,
            metadata={"x": said},
            worker_id=worker_id,
            **held,
        )
        shown = "".join(
            str(self.db.rows(f"SELECT t::text FROM {table} t WHERE {column} = %s", run_id))
            for table, column in (
                ("ops_run", "id"),
                ("ops_run_event", "run_id"),
                ("ops_run_log", "run_id"),
            )
        )
        self.assertNotIn("hunter2hunter2", shown)
        self.assertGreaterEqual(shown.count("so [secret TOKEN] it is"), 7)

    def test_a_worker_token_gets_the_values_of_its_running_run_alone(self):
        run_id = self.queue_with_secret()
        ours, theirs = self.credentials[0]["token"], self.credentials[1]["token"]
        worker_id = f"test-{uuid.uuid4()}"
        self.workers.append(worker_id)

        def ask(key, method="run_secrets", **params):
            return self.request(method, params, key)

        ask(ours, "register_worker", worker_id=worker_id)
        claimed = ask(ours, "claim_next_run", worker_id=worker_id).json()["result"]
        held = {"run_id": run_id, "epoch": claimed["epoch"], "worker_id": worker_id}
        self.assertError(ask(ours, **held), "invalid_state")
        ask(ours, "start_workflow_run", **held)
        with self.assertNoLogs("odoo.addons.odooops", "WARNING"):
            response = ask(ours, **held)
        self.assertEqual(
            response.json()["result"]["secrets"],
            [{"name": "TOKEN", "environment": None, "value": "hunter2hunter2"}],
        )
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertError(ask(theirs, **held), "not_found")
        self.assertError(ask(ours, **{**held, "epoch": held["epoch"] + 1}), "stale_epoch")
        # A person is given none that can be read, whoever it is.
        response = ask("platform", **held)
        self.assertNotIn("hunter2", response.text)
        self.assertIn("sealed", response.json()["result"]["secrets"][0])
        self.db.rows(
            "UPDATE ops_secret_value SET sealed = '\\x00' WHERE secret_id IN"
            " (SELECT id FROM ops_secret WHERE project_id = %s)",
            self.project,
        )
        error = self.assertError(ask(ours, **held), "secret_unreadable")
        self.assertIn("The secret TOKEN is not as it was set", error["message"])
        with patch.dict(os.environ, {secret_key.ENVIRONMENT: "/nowhere"}):
            error = self.assertError(ask(ours, **held), "secret_unreadable")
        self.assertNotIn("/nowhere", error["message"])
        ask(ours, "complete_workflow_run", exit_code=0, **held)
        self.assertIn(
            ask(ours, **held).json()["error"]["data"]["code"], ("stale_epoch", "not_found")
        )

    def queue_with_secret(self):
        """A run whose workflow asks for the secret TOKEN, which is hunter2hunter2."""
        folder = tempfile.TemporaryDirectory(prefix="odooops-test-")
        self.addCleanup(folder.cleanup)
        key_path = Path(folder.name) / "secrets_key"
        key_path.write_text(KeyRing.generate().to_text())
        self.startPatcher(patch.dict(os.environ, {secret_key.ENVIRONMENT: str(key_path)}))
        self.set_secret("TOKEN", "hunter2hunter2")
        self.db.rows(
            'UPDATE ops_workflow SET config = config || \'{"secrets": ["TOKEN"]}\' WHERE id = %s',
            self.workflow,
        )
        return self.queue()

    def set_secret(self, name, value):
        """Committed, with its trace removed at the end, as the triggers forbid to all others."""

        def forget():
            self.db.rows("ALTER TABLE ops_secret_change DISABLE TRIGGER USER")
            self.db.rows("DELETE FROM ops_secret_change WHERE project_id = %s", self.project)
            self.db.rows("ALTER TABLE ops_secret_change ENABLE TRIGGER USER")

        self.addCleanup(forget)
        with db_connect(get_db_name()).cursor() as cr:
            api.Environment(cr, SUPERUSER_ID, {})["ops.secret"].create(
                {"project_id": self.project, "name": name, "value": value}
            )
