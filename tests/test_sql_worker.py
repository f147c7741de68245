"""A worker that logs in with ``ops_worker`` and nothing else does all of a worker's work."""

import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from psycopg2.extensions import make_dsn

from odoo.tests import tagged

from ..worker.control.base import Artifact, Refused
from ..worker.control.sql import SqlControlPlane
from .kernel_case import KernelCase
from .sql_door_case import Login, skip_unless_grantable

ADDON_FOLDER = Path(__file__).parent.parent


@tagged("post_install", "-at_install")
class TestSqlWorker(KernelCase):
    def setUp(self):
        super().setUp()
        skip_unless_grantable(self.db, "ops_worker")
        self.role = f"ops_test_{uuid.uuid4().hex[:8]}"
        self.password = uuid.uuid4().hex
        self.db.rows(f"CREATE ROLE {self.role} LOGIN PASSWORD '{self.password}'")
        self.addCleanup(self.db.rows, f"DROP ROLE {self.role}")
        self.db.rows(f"GRANT ops_worker TO {self.role}")
        login = Login(self.db.schema, self.role, self.password)
        parameters = login.connection.get_dsn_parameters()
        login.close()
        self.dsn = make_dsn(
            **{name: parameters[name] for name in ("host", "port", "dbname", "user")},
            password=self.password,
        )

    def test_every_call_of_the_control_plane(self):
        plane = SqlControlPlane(self.dsn)
        self.addCleanup(plane.close)
        self.assertEqual(len(plane.namespace()), 8)
        worker_id = f"test-{uuid.uuid4()}"
        self.workers.append(worker_id)

        def call(function, *arguments):
            reply = getattr(plane, function)(*arguments)
            self.assertNotIsInstance(reply, Refused, reply)
            return reply

        call("register_worker", worker_id, "host", ["docker"], 2, "1", "daemon")
        self.assertIsNone(call("claim_next_run", worker_id, [], str(uuid.uuid4())))
        run_id = self.queue()
        claim = call("claim_next_run", worker_id, [], str(uuid.uuid4()))
        call("release_run", run_id, worker_id, claim.epoch)
        claim = call("claim_next_run", worker_id, [], str(uuid.uuid4()))
        held = (run_id, claim.epoch)
        call("start_workflow_run", run_id, worker_id, claim.epoch)
        (beat,) = call("heartbeat", worker_id, [held])
        self.assertTrue(beat.owned)
        call("append_run_logs", *held, 1, [{"level": "info", "message": "hello"}])
        call("add_run_event", *held, "info", "half way", {})
        artifact = Artifact("a", "filesystem:a", "text/plain", 1, "0" * 64, None, {})
        call("add_run_artifact", *held, artifact)
        self.assertIn(run_id, [lease.run_id for lease in plane.list_leases()])
        call("complete_workflow_run", run_id, worker_id, claim.epoch, 0, None, None, {})
        call("reap_lost_runs")
        call("index_run_logs")
        call("set_worker_state", worker_id, "stopped")
        self.assertEqual(self.run_row(run_id)["status"], "succeeded")

    def test_the_program_executes_a_run(self):
        workflow = self.make_workflow(
            self.project, config={"steps": [{"name": "Say", "run": "echo from the worker"}]}
        )
        run_id = self.queue(workflow)
        command = [
            *(sys.executable, "-m", "worker", "--until-idle", "--allow-process"),
            *("--work-dir", self._folder("work"), "--artifacts", self._folder("artifacts")),
        ]
        environment = {**os.environ, "ODOOOPS_DSN": self.dsn}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        done = subprocess.run(
            command, cwd=ADDON_FOLDER, env=environment, capture_output=True, timeout=90, check=False
        )
        row = self.run_row(run_id)
        self.workers.append(row["claimed_by"])
        self.assertEqual(row["status"], "succeeded", done.stderr.decode())

    def _folder(self, name):
        folder = tempfile.TemporaryDirectory(prefix=f"ops-{name}-")
        self.addCleanup(folder.cleanup)
        return folder.name
