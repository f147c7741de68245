"""What the worker's tests share: the database, projects with real runs, real workers."""

import contextlib
import gzip
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import uuid
from pathlib import Path

import psycopg2
from psycopg2.extensions import make_dsn

from odoo import SUPERUSER_ID, api, sql_db
from odoo.tests.common import get_db_name

from odoo.addons import odooops
from odoo.addons.odooops.worker.control.sql import SqlControlPlane
from odoo.addons.odooops.worker.executors.docker import LABEL_RUN
from odoo.addons.odooops.worker.storage.filesystem import FilesystemStore

from .docker_engine import need_engine

ADDON = Path(odooops.__file__).resolve().parent
#: A test that waits longer than this for something has failed.
PATIENCE = 60


def wait_for(condition, seconds=PATIENCE, message="It did not happen in time."):
    """Return the first true value of ``condition()``."""
    until = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(message)
        time.sleep(0.02)


def left_in(work_dir):
    """What runs have left in a work directory, and runners in theirs."""
    return [path for path in work_dir.iterdir() if path.name != ".runners" or any(path.iterdir())]


class FolderCase(unittest.TestCase):
    """A test with a temporary folder of its own, ``self.folder``."""

    def setUp(self):
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(prefix="odooops-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)


class KernelCase(FolderCase):
    """A test against the real kernel.

    It commits, as other processes must see it, and removes what it made.
    """

    max_running = 1000

    def setUp(self):
        super().setUp()
        _name, info = sql_db.connection_info_for(get_db_name())
        self.dsn = make_dsn(**info)
        self.control = SqlControlPlane(self.dsn)
        self.addCleanup(self.control.close)
        self.connection = psycopg2.connect(self.dsn)
        self.connection.autocommit = True
        self.addCleanup(self.connection.close)
        self.schema = self.query(
            "SELECT nspname FROM pg_namespace"
            " WHERE obj_description(oid, 'pg_namespace') LIKE 'OdooOps kernel%'"
        )[0][0]
        self.slug = f"test-{uuid.uuid4().hex[:12]}"
        with self.environment() as env:
            self.project_id = (
                env["ops.project"]
                .create({"name": self.slug, "slug": self.slug, "max_running": self.max_running})
                .id
            )
        self.addCleanup(self._remove_project)

    @contextlib.contextmanager
    def environment(self):
        """An Odoo environment whose changes are committed."""
        with sql_db.db_connect(get_db_name()).cursor() as cr:
            yield api.Environment(cr, SUPERUSER_ID, {})

    def query(self, statement, *parameters):
        with self.connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def call(self, function, *parameters):
        """Call a kernel function by position and return its reply."""
        marks = ", ".join(["%s"] * len(parameters))
        return self.query(f"SELECT {self.schema}.{function}({marks})", *parameters)[0][0]

    def make_workflow(self, name="Workflow", workflow_type="build", **config):
        with self.environment() as env:
            values = {
                "project_id": self.project_id,
                "name": name,
                "workflow_type": workflow_type,
                "config": config,
            }
            return env["ops.workflow"].create(values).id

    def queue(self, workflow_id):
        reply = self.call("queue_run", workflow_id)
        self.assertTrue(reply["success"], reply)
        return reply["run_id"]

    def run_row(self, run_id):
        """The run as a dict."""
        names = ("status", "error_code", "error_message", "exit_code", "epoch", "metadata")
        row = self.query(f"SELECT {', '.join(names)} FROM ops_run WHERE id = %s", run_id)[0]
        return dict(zip(names, row, strict=True))

    def wait_status(self, run_id, *statuses, seconds=PATIENCE):
        return wait_for(
            lambda: (row := self.run_row(run_id))["status"] in statuses and row,
            seconds,
            f"The run did not become {' or '.join(statuses)}.",
        )

    def messages(self, run_id):
        rows = self.query("SELECT message FROM ops_run_log WHERE run_id = %s ORDER BY seq", run_id)
        return [row[0] for row in rows]

    def store(self):
        """Where the test's workers put artifacts."""
        return FilesystemStore(self.folder / "artifacts")

    def complete_log(self, run_id):
        """The text of the run's log as an artifact."""
        ((url,),) = self.query(
            "SELECT artifact_url FROM ops_run_artifact WHERE run_id = %s"
            " AND artifact_key = 'run.log.gz'",
            run_id,
        )
        with self.store().open(url) as stream:
            return gzip.decompress(stream.read()).decode()

    def all_rows_of(self, run_id):
        """All that the database holds about a run, as one text."""
        parts = []
        for table, column in (
            ("ops_run", "id"),
            ("ops_run_event", "run_id"),
            ("ops_run_log", "run_id"),
            ("ops_run_artifact", "run_id"),
        ):
            rows = self.query(f"SELECT t::text FROM {table} t WHERE {column} = %s", run_id)
            parts += [row[0] for row in rows]
        return "\n".join(parts)

    def worker_options(self):
        return [
            "--allow-process",
            f"--artifacts={self.folder / 'artifacts'}",
            f"--work-dir={self.folder / 'work'}",
            "--heartbeat-seconds=0.5",
            "--reap-seconds=0.5",
            "--cancel-grace-seconds=1",
            "--log-level=warning",
            f"--labels={self.slug}",
        ]

    def start_worker(self, *options):
        """Start ``python -m worker``; it is killed at the end of the test."""
        log = open(self.folder / f"worker-{uuid.uuid4().hex[:6]}.log", "wb")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", *self.worker_options(), *options],
            cwd=ADDON,
            env={**os.environ, "ODOOOPS_DSN": self.dsn},
            stdout=log,
            stderr=log,
        )
        log.close()

        self.addCleanup(self.kill_worker, process)
        return process

    def runners(self):
        """Process ids of the runners on this test's work directory, by run id."""
        found = {}
        for path in (self.folder / "work" / ".runners").glob("*-*-*/awake"):
            with contextlib.suppress(FileNotFoundError, IndexError):
                found[int(path.parent.name.split("-")[1])] = int(path.read_text().split()[1])
        return found

    def kill_worker(self, process):
        """``kill -9`` of an agent and of all runners: what a crash of the host does to a worker,
        but for the supervisors."""
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        for pid in self.runners().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def expire_leases(self, workers=None):
        """Let time pass for the control plane: all leases of the project, or those of the
        workers, end now.

        Locked in the order of their runs, as the kernel locks them: in another order this and
        a reaper or a heartbeat at work would wait for each other.
        """
        self.query(
            "UPDATE ops_run_lease SET lease_until = clock_timestamp() - interval '1 second'"
            " WHERE run_id IN (SELECT run_id FROM ops_run_lease l JOIN ops_run r ON r.id = run_id"
            " WHERE r.project_id = %s AND (%s::text[] IS NULL OR l.worker_id = ANY(%s))"
            " ORDER BY run_id FOR NO KEY UPDATE OF l)",
            self.project_id,
            workers,
            workers,
        )

    def _remove_project(self):
        """Remove the project with its history, which the triggers forbid to everybody else."""
        tables = (
            *("ops_run_event_row", "ops_run_log_line", "ops_run_log_words", "ops_run_log_tail"),
            *("ops_run_artifact", "ops_run_lease"),
        )
        with psycopg2.connect(self.dsn) as connection, connection.cursor() as cursor:
            for table in (*tables, "ops_run"):
                cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            runs = "SELECT id FROM ops_run WHERE project_id = %s"
            for table in tables:
                cursor.execute(f"DELETE FROM {table} WHERE run_id IN ({runs})", [self.project_id])
            cursor.execute("DELETE FROM ops_run WHERE project_id = %s", [self.project_id])
            cursor.execute("DELETE FROM ops_worker WHERE labels ? %s", [self.slug])
            for table in (*tables, "ops_run"):
                cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        connection.close()
        with self.environment() as env:
            env["ops.project"].browse(self.project_id).unlink()


class DockerCase(KernelCase):
    """A test of workers that may use containers only; ``self.engine`` is the Docker engine."""

    def setUp(self):
        self.engine = need_engine()
        super().setUp()
        self.tool = None

    def make_tool(self, image, version="1", **values):
        """Register a tool of the test's own; ``self.tool`` is its name from now on."""
        values = {"tool_name": self.slug, "version": version, "docker_image": image} | values
        with self.environment() as env:
            tool_id = env["ops.tool"].create(values).id

        def remove():
            with self.environment() as env:
                env["ops.tool"].browse(tool_id).exists().unlink()

        self.addCleanup(remove)
        self.tool = f"{self.slug}:{version}"
        return tool_id

    def worker_options(self):
        return [
            *(option for option in super().worker_options() if option != "--allow-process"),
            "--docker",
            f"--docker-host={self.engine.host}",
        ]

    def work(self, *options):
        """Let a worker execute what is queued."""
        worker = self.start_worker("--until-idle", *options)
        self.assertEqual(worker.wait(600), 0)

    def containers(self, run_id):
        """The run's containers that are left."""
        filters = {"label": f"{LABEL_RUN}={run_id}"}
        return self.engine.client.containers(all=True, filters=filters)
