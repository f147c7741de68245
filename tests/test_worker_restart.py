"""A PostgreSQL server that crashes below a running worker, and comes back within the lease.

It is a server of the test's own: nobody else's connections end with it.
"""

import contextlib
import subprocess

import psycopg2
from psycopg2.extensions import make_dsn

from odoo.addons.odooops.devtools import embedded
from odoo.addons.odooops.devtools.cluster import Cluster
from odoo.addons.odooops.devtools.postgres import clean_environment

from .test_worker_adoption import AdoptionCase
from .worker_common import left_in, wait_for

DATABASE = "odooops_restart"


class TestServerRestart(AdoptionCase):
    def queue(self, workflow_id):
        """Queue it in a copy of the control plane on a server that only this test uses."""
        self.move()
        return super().queue(workflow_id)

    def move(self):
        """Copy the database to a server of its own, and go on there."""
        if not embedded.programs().is_dir():
            self.skipTest("The server is not the embedded one, whose programs make another.")
        self.cluster = cluster = Cluster("restart")
        self.addCleanup(cluster.remove)
        cluster.make()
        programs = embedded.programs(cluster.home)
        variables = cluster.server.environment(DATABASE)
        cluster.server.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        archive = self.folder / "archive"
        dump = [programs / "pg_dump", "--format=custom", f"--file={archive}", self.dsn]
        restore = [programs / "pg_restore", "--exit-on-error", "--no-owner", "--no-privileges"]
        subprocess.run(dump, check=True, capture_output=True)
        subprocess.run(
            [*restore, f"--dbname={DATABASE}", archive],
            env={**clean_environment(), **variables},
            check=True,
            capture_output=True,
        )
        # What was made before is removed where it was made.
        self.addCleanup(setattr, self, "connection", self.connection)
        self.addCleanup(setattr, self, "dsn", self.dsn)
        self.dsn = make_dsn(
            host=variables["PGHOST"],
            port=variables["PGPORT"],
            user=variables["PGUSER"],
            dbname=DATABASE,
            passfile=variables["PGPASSFILE"],
        )
        self.connect()

    def connect(self):
        self.connection = psycopg2.connect(self.dsn)
        self.connection.autocommit = True
        self.addCleanup(self.connection.close)

    def written(self):
        """Bytes in the files of the run, the lines that wait for the server among them."""
        size = 0
        for path in (self.folder / "work").rglob("*"):
            # Some are there for a moment only.
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
        return size

    def test_a_crash_of_the_server_within_the_lease_costs_neither_run_nor_line(self):
        run_id, worker = self.start_counting("--capacity=1")
        self.cluster.stop("immediate")
        with self.assertRaises(psycopg2.OperationalError):
            self.connect()
        before = self.written()
        wait_for(lambda: self.written() > before + 20_000, message="The work did not go on.")
        self.cluster.start()
        self.connect()
        self.wait_lines(run_id, 100)
        self.end()
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual((row["status"], row["epoch"]), ("succeeded", 1), row)
        self.assertLogWhole(run_id)
        wait_for(lambda: not left_in(self.folder / "work"))
        self.assertIsNone(worker.poll(), "The worker must go on.")
        self.assertEqual([state for _id, state in self.worker_ids()], ["active"])
