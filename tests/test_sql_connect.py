"""Who may come into the control database at all: not the roles that runs get for themselves."""

import os
import uuid

import psycopg2
from psycopg2.extensions import make_dsn

from odoo import SUPERUSER_ID, api
from odoo.modules.registry import Registry
from odoo.sql_db import connection_info_for
from odoo.tests import TransactionCase, tagged
from odoo.tests.common import get_db_name

from ..worker import database as run_database
from .kernel_case import KernelCase

PREFIX = f"opsrun_{uuid.uuid4().hex[:8]}_"


@tagged("post_install", "-at_install")
class TestRunRole(KernelCase):
    def setUp(self):
        super().setUp()
        _name, info = connection_info_for(get_db_name())
        self.control = {name: info[name] for name in ("host", "port", "database") if info.get(name)}
        run_dsn = make_dsn(**{**info, "database": "postgres"})
        self.run = run_database.create(run_dsn, PREFIX, os.getpid(), 1)
        self.addCleanup(run_database.drop, run_dsn, self.run.name)

    def connect_as_run(self):
        parameters = {"host": "localhost", **self.control}
        connection = psycopg2.connect(
            **parameters, user=self.run.role, password=self.run.password, connect_timeout=10
        )
        connection.autocommit = True
        self.addCleanup(connection.close)
        return connection.cursor()

    def test_a_run_cannot_connect_to_a_closed_control_database(self):
        with Registry(get_db_name()).cursor() as cr:
            roles = api.Environment(cr, SUPERUSER_ID, {})["ops.sql.role"]
            self.assertFalse(roles._is_open_to_public(), "make test closes its database")
        with self.assertRaisesRegex(psycopg2.OperationalError, "permission denied for database"):
            self.connect_as_run()

    def test_in_an_open_one_it_reads_and_calls_nothing(self):
        # Rule: R-31
        """As an Odoo leaves its database that has not been closed; here for this role alone."""
        name = self.db.value("SELECT quote_ident(current_database())")
        self.db.rows(f"GRANT CONNECT ON DATABASE {name} TO {self.run.role}")
        self.addCleanup(self.db.rows, f"REVOKE CONNECT ON DATABASE {name} FROM {self.run.role}")
        cr = self.connect_as_run()
        cr.execute(
            "SELECT c.oid::regclass::text FROM pg_class c"
            " WHERE c.relnamespace IN ('public'::regnamespace, %s::regnamespace)"
            " AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relname <> 'pg_stat_statements'"
            " AND (CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'USAGE, SELECT')"
            " ELSE has_any_column_privilege(c.oid, 'SELECT, INSERT, UPDATE') END)",
            [self.db.schema],
        )
        self.assertEqual(cr.fetchall(), [])
        for statement in (
            f"SELECT {self.db.schema}.explain_wait(1)",
            f"SELECT * FROM {self.db.schema}.runs",
            "SELECT * FROM ops_run",
            "CREATE TABLE public.mine ()",
            f"CREATE FUNCTION {self.db.schema}.mine() RETURNS int LANGUAGE sql RETURN 1",
        ):
            with self.assertRaises(psycopg2.errors.InsufficientPrivilege, msg=statement):
                cr.execute(statement)

    def test_but_it_could_hold_up_the_reaper_there(self):
        """Advisory locks are open to whoever is in: the reason to close the database."""
        name = self.db.value("SELECT quote_ident(current_database())")
        self.db.rows(f"GRANT CONNECT ON DATABASE {name} TO {self.run.role}")
        self.addCleanup(self.db.rows, f"REVOKE CONNECT ON DATABASE {name} FROM {self.run.role}")
        _worker_id, run_id, _epoch = self.start()
        self.expire_lease(run_id)
        cr = self.connect_as_run()
        cr.execute("SELECT pg_advisory_lock(hashtext('odooops.reap_lost_runs'), 0)")
        self.assertEqual(self.reap()["failed"], 0)
        cr.connection.close()


@tagged("post_install", "-at_install")
class TestOpenDatabase(TransactionCase):
    def test_the_settings_show_the_statement_as_long_as_it_is_needed(self):
        settings = self.env["res.config.settings"]
        self.assertFalse(settings.create({}).odooops_close_statement)
        database = self.env["ops.sql.role"]._database()[0]
        self.env.cr.execute(f"GRANT CONNECT ON DATABASE {database} TO PUBLIC")
        statement = settings.create({}).odooops_close_statement
        self.assertIn(f"ON DATABASE {database} FROM PUBLIC", statement)
        with self.assertLogs("odoo.addons.odooops.models.ops_sql_role", "WARNING") as logs:
            self.env["ops.sql.role"]._apply()
        self.assertIn("Every login", logs.output[0])
        self.env.cr.execute(statement)
        self.assertFalse(settings.create({}).odooops_close_statement)
        with self.assertNoLogs("odoo.addons.odooops.models.ops_sql_role", "WARNING"):
            self.env["ops.sql.role"]._apply()
