"""What the kernel's tests share: real connections to a real PostgreSQL, real commits.

The tests speak to the kernel as a worker or psql would. What they commit they delete again,
by switching off for a moment the triggers that make the trail append-only.
"""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg2
from psycopg2.extras import Json, RealDictCursor

from odoo import SUPERUSER_ID, api
from odoo.modules.registry import Registry
from odoo.sql_db import connection_info_for
from odoo.tests.common import BaseCase, get_db_name


class Connection:
    """One autocommit READ COMMITTED connection and the kernel's functions on it."""

    def __init__(self, schema):
        _name, parameters = connection_info_for(get_db_name())
        self.connection = psycopg2.connect(**parameters)
        self.connection.set_session(isolation_level="READ COMMITTED", autocommit=True)
        self.schema = schema

    def close(self):
        self.connection.close()

    def rows(self, query, *values):
        """All rows of a query, as dicts; an empty list for statements without rows."""
        with self.connection.cursor(cursor_factory=RealDictCursor) as cr:
            cr.execute(query, values or None)  # pylint: disable=sql-injection
            return [dict(row) for row in cr.fetchall()] if cr.description else []

    def value(self, query, *values):
        """First column of the first row."""
        return next(iter(self.rows(query, *values)[0].values()))

    def call(self, function, **arguments):
        """Call a kernel function with named parameters (no ``p_``) and return its reply."""
        named = ", ".join(f"p_{name} => %s" for name in arguments)
        values = [
            Json(value) if isinstance(value, (dict, list)) and name != "labels" else value
            for name, value in arguments.items()
        ]
        return self.value(f"SELECT {self.schema}.{function}({named})", *values)


class KernelCase(BaseCase):
    """A project with a test workflow, committed, and deleted after each test."""

    def setUp(self):
        super().setUp()
        self.connections = []
        self.db = self.connect()
        self.addCleanup(self.db.close)
        self.projects = []
        self.workers = []
        self.last_checkpoint = self.db.value(
            "SELECT coalesce(max(number), 0) FROM ops_audit_checkpoint"
        )
        self.last_expiry = self.db.value("SELECT coalesce(max(number), 0) FROM ops_audit_expiry")
        self.addCleanup(self._delete_everything)
        # What another test left in the queue must not be claimed here.
        for row in self.db.rows("SELECT id FROM ops_run WHERE status = 'queued'"):
            self.db.call("cancel_run", run_id=row["id"], reason="left behind by another test")
        self.project = self.make_project()
        self.workflow = self.make_workflow(self.project)

    def connect(self):
        _name, parameters = connection_info_for(get_db_name())
        with psycopg2.connect(**parameters) as connection, connection.cursor() as cr:
            cr.execute(
                "SELECT nspname FROM pg_namespace"
                " WHERE obj_description(oid, 'pg_namespace') LIKE 'OdooOps kernel%%'"
            )
            (schema,) = cr.fetchone()
        connection.close()
        self.connections.append(Connection(schema))
        return self.connections[-1]

    def _delete_everything(self):
        # A test that failed may have left a transaction open, and its locks with it.
        for connection in self.connections:
            if connection is not self.db:
                connection.close()
        with self.without_append_only():
            self._delete_checkpoints()
            for table in (
                *("run_event_row", "run_log_line", "run_log_words", "run_log_tail"),
                *("run_artifact", "run_upload", "run_lease"),
            ):
                self.db.rows(
                    f"DELETE FROM ops_{table} WHERE run_id IN"
                    " (SELECT id FROM ops_run WHERE project_id = ANY(%s))",
                    self.projects,
                )
            self.db.rows("DELETE FROM ops_run WHERE project_id = ANY(%s)", self.projects)
            self.db.rows("DELETE FROM ops_workflow WHERE project_id = ANY(%s)", self.projects)
            self.db.rows("DELETE FROM ops_project WHERE id = ANY(%s)", self.projects)
            self.db.rows("DELETE FROM ops_worker WHERE worker_id = ANY(%s)", self.workers)

    def _delete_checkpoints(self):
        """Those made by this test; they hold the runs of other projects, too."""
        for table, column in (("expiry", "number"), ("expiry_run", "expiry_number")):
            self.db.rows(f"DELETE FROM ops_audit_{table} WHERE {column} > %s", self.last_expiry)
        newer = "(SELECT id FROM ops_audit_checkpoint WHERE number > %s)"
        if not self.db.rows(newer.strip("()"), self.last_checkpoint):
            return
        self.db.rows(
            f"DELETE FROM ops_audit_checkpoint_project WHERE checkpoint_id IN {newer}",
            self.last_checkpoint,
        )
        for table, column in (("checkpoint", "number"), ("head", "checkpoint_number")):
            self.db.rows(f"DELETE FROM ops_audit_{table} WHERE {column} > %s", self.last_checkpoint)
        self.db.rows("DELETE FROM ops_audit_pending")
        self.db.rows(
            "INSERT INTO ops_audit_pending SELECT r.id FROM ops_run r"
            " WHERE r.project_id <> ALL(%s) AND NOT EXISTS (SELECT FROM ops_audit_head h"
            "     WHERE h.run_id = r.id AND h.event_seq = r.event_seq)",
            self.projects,
        )

    @contextmanager
    def without_append_only(self):
        """Switch the trail's triggers off, in one transaction: what an intruder with the
        owner's rights would do."""
        tables = (
            "ops_run_event_row",
            "ops_run_log_line",
            "ops_run",
            "ops_audit_checkpoint",
            "ops_audit_checkpoint_project",
            "ops_audit_head",
            "ops_audit_expiry",
            "ops_audit_expiry_run",
        )
        self.db.rows("BEGIN")
        for table in tables:
            self.db.rows(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        try:
            yield
        finally:
            for table in tables:
                self.db.rows(f"ALTER TABLE {table} ENABLE TRIGGER USER")
            self.db.rows("COMMIT")

    @contextmanager
    def environment(self):
        """An Odoo environment whose changes are committed."""
        with Registry(get_db_name()).cursor() as cr:
            yield api.Environment(cr, SUPERUSER_ID, {})

    # -- material -----------------------------------------------------------------------

    def make_project(self, **values):
        unique = uuid.uuid4().hex[:12]
        values = {
            "name": f"Project {unique}",
            "slug": f"p-{unique}",
            "workspace_key": f"p_{unique}",
            "odoo_version": "19.0",
            "default_branch": "main",
            "active": True,
            "max_running": 1000,
            **values,
        }
        project_id = self._insert("ops_project", values)
        self.projects.append(project_id)
        return project_id

    def make_workflow(self, project_id, config=None, **values):
        return self._insert(
            "ops_workflow",
            {
                "name": f"Workflow {uuid.uuid4().hex[:8]}",
                "project_id": project_id,
                "workflow_type": "test",
                "enabled": True,
                "config": Json(config or {}),
                **values,
            },
        )

    def _insert(self, table, values):
        columns = ", ".join(values)
        marks = ", ".join(["%s"] * len(values))
        return self.db.value(
            f"INSERT INTO {table} ({columns}) VALUES ({marks}) RETURNING id", *values.values()
        )

    def worker(self, **arguments):
        worker_id = f"test-{uuid.uuid4()}"
        self.workers.append(worker_id)
        self.db.call("register_worker", worker_id=worker_id, **arguments)
        return worker_id

    def queue(self, workflow=None, **arguments):
        reply = self.db.call("queue_run", workflow_id=workflow or self.workflow, **arguments)
        self.assertTrue(reply["success"], reply)
        return reply["run_id"]

    def claim(self, worker_id, connection=None, **arguments):
        return (connection or self.db).call("claim_next_run", worker_id=worker_id, **arguments)

    def start(self, worker_id=None):
        """Queue, claim and start a run; returns (worker id, run id, epoch)."""
        worker_id = worker_id or self.worker()
        run_id = self.queue()
        claimed = self.claim(worker_id)
        self.assertEqual(claimed["run_id"], run_id)
        reply = self.db.call(
            "start_workflow_run", run_id=run_id, worker_id=worker_id, epoch=claimed["epoch"]
        )
        self.assertTrue(reply["success"], reply)
        return worker_id, run_id, claimed["epoch"]

    def run_row(self, run_id):
        return self.db.rows("SELECT * FROM ops_run WHERE id = %s", run_id)[0]

    def events(self, run_id):
        return self.db.rows("SELECT * FROM ops_run_event WHERE run_id = %s ORDER BY seq", run_id)

    def assertRefused(self, reply, code):
        self.assertFalse(reply["success"], reply)
        self.assertEqual(reply["code"], code, reply)
        self.assertTrue(reply["error"], "a refusal explains itself")

    def expire_lease(self, run_id):
        """Let the lease of a run end now, as if its worker had been silent long enough."""
        self.db.rows(
            "UPDATE ops_run_lease SET lease_until = clock_timestamp() - interval '1 second'"
            " WHERE run_id = %s",
            run_id,
        )

    def reach_deadline(self, run_id):
        """Let the deadline of a run pass now, and with it the lease, which a worker that hangs
        had renewed by heartbeats as far as it goes."""
        self.db.rows(
            "UPDATE ops_run SET deadline = utc.now - interval '1 second'"
            " FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now) utc WHERE id = %s",
            run_id,
        )
        self.db.rows(
            "UPDATE ops_run_lease l SET lease_until = r.deadline AT TIME ZONE 'UTC'"
            " FROM ops_run r WHERE r.id = l.run_id AND r.id = %s",
            run_id,
        )

    def reap(self):
        """Reap, once PostgreSQL has been up for longer than a lease, as the kernel demands."""
        young = self.db.value(
            "SELECT 61 - extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())"
        )
        time.sleep(max(0.0, float(young)))
        return self.db.call("reap_lost_runs")

    def in_background(self, connection, function, **arguments):
        """Begin a call on a connection of its own; ``result()`` of what is returned waits for
        the reply."""
        executor = ThreadPoolExecutor(1)
        self.addCleanup(executor.shutdown)
        return executor.submit(connection.call, function, **arguments)

    def wait_until_blocked(self, connection, by):
        """Return once a statement on one connection waits for a lock of the other's."""
        pids = [each.connection.info.backend_pid for each in (by, connection)]
        until = time.monotonic() + 30
        while not self.db.value("SELECT %s = ANY(pg_blocking_pids(%s))", *pids):
            self.assertLess(time.monotonic(), until, "it does not wait for the other")

    def in_parallel(self, count, function):
        """Call ``function(index, connection)`` in ``count`` threads that begin together."""
        barrier = threading.Barrier(count)
        results, errors = [None] * count, []
        connections = [self.connect() for _ in range(count)]

        def body(index):
            try:
                barrier.wait(timeout=30)
                results[index] = function(index, connections[index])
            except Exception as error:  # noqa: BLE001 - shown to the test by the assertion below
                errors.append(error)

        threads = [threading.Thread(target=body, args=(index,)) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
        self.assertEqual(errors, [])
        return results
