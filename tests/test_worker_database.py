"""The database of a run, on the real server."""

import contextlib
import secrets
import unittest
from unittest.mock import patch

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor, make_dsn

from ..worker import database
from ..worker.errors import RunError
from .recipe_job import DSN
from .worker_common import wait_for


class DatabaseCase(unittest.TestCase):
    """Names of its own for every test, swept away afterwards."""

    def setUp(self):
        super().setUp()
        self.prefix = database.name_prefix(f"test {secrets.token_hex(8)}")
        self.addCleanup(lambda: database.collect_garbage(DSN, self.prefix, lambda *_: False))

    def query(self, statement, parameters=()):
        """Run a statement as the worker's role; return the rows."""
        with contextlib.closing(psycopg2.connect(DSN)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []

    def exists(self, name):
        """Return whether (a database, a role) of the name exists."""
        return self.query(
            "SELECT EXISTS (SELECT FROM pg_database WHERE datname = %s),"
            " EXISTS (SELECT FROM pg_roles WHERE rolname = %s)",
            (name, name),
        )[0]


class TestRunDatabase(DatabaseCase):
    def test_the_role_owns_its_database_and_may_nothing_else(self):
        # Rule: R-31
        with database.run_database(DSN, self.prefix, 7, 3) as made:
            self.assertEqual(made.name, f"{self.prefix}7_3")
            self.assertNotIn(made.password, repr(made))
            row = self.query(
                "SELECT rolsuper, rolcreatedb, rolcreaterole, rolcanlogin, rolconnlimit > 0"
                " FROM pg_roles WHERE rolname = %s",
                (made.role,),
            )[0]
            self.assertEqual(row, (False, False, False, True, True))
            row = self.query(
                "SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding)"
                " FROM pg_database WHERE datname = %s",
                (made.name,),
            )[0]
            self.assertEqual(row, (made.role, "UTF8"))
            with contextlib.closing(made.connect()) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE TABLE proof (id int)")
                cursor.execute("SELECT current_user, current_database()")
                self.assertEqual(cursor.fetchone(), (made.role, made.name))
        self.assertEqual(self.exists(made.name), (False, False))

    def test_no_other_role_may_connect(self):
        with (
            database.run_database(DSN, self.prefix, 1, 1) as one,
            database.run_database(DSN, self.prefix, 2, 1) as other,
        ):
            allowed = self.query(
                "SELECT has_database_privilege(%s, %s, 'CONNECT')", (other.role, one.name)
            )
            self.assertEqual(allowed, [(False,)])

    def test_it_is_dropped_while_somebody_is_connected(self):
        made = database.create(DSN, self.prefix, 1, 1)
        with contextlib.closing(made.connect()) as connection:
            database.drop(DSN, made.name)
            with self.assertRaises(psycopg2.Error), connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        self.assertEqual(self.exists(made.name), (False, False))

    def test_dropping_twice_and_dropping_half_is_no_error(self):
        made = database.create(DSN, self.prefix, 1, 1)
        database.drop(DSN, made.name)
        database.drop(DSN, made.name)
        self.query(sql.SQL("CREATE ROLE {}").format(sql.Identifier(made.name)))
        database.drop(DSN, made.name)
        self.assertEqual(self.exists(made.name), (False, False))

    def test_leftovers_of_the_same_run_and_epoch_are_replaced(self):
        first = database.create(DSN, self.prefix, 1, 1)
        with contextlib.closing(first.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE old (id int)")
            connection.commit()
        second = database.create(DSN, self.prefix, 1, 1)
        with contextlib.closing(second.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('old')")
            self.assertEqual(cursor.fetchone(), (None,))

    def test_a_failing_run_loses_its_database_too(self):
        with (
            self.assertRaises(ZeroDivisionError),
            database.run_database(DSN, self.prefix, 1, 1) as made,
        ):
            raise ZeroDivisionError
        self.assertEqual(self.exists(made.name), (False, False))

    # An extension that every server has.
    @patch.object(database, "EXTENSIONS", ("plpgsql",))
    def test_a_connection_that_ends_meanwhile_is_what_the_error_names(self):
        for number, words in enumerate(
            ("CREATE ROLE", "CREATE DATABASE", "REVOKE ALL", "CREATE EXTENSION"), start=1
        ):
            with self.subTest(words):
                with cut_off_before(words), self.assertRaises(RunError) as caught:
                    database.create(DSN, self.prefix, number, 1)
                # The words depend on whether libpq has read the server's last ones.
                self.assertRegex(
                    caught.exception.message,
                    rf"^The run's database {self.prefix}{number}_1 could not be made: "
                    r"(server closed the|terminating) connection [^\n]*\.$",
                )
        database.collect_garbage(DSN, self.prefix, lambda *_: False)
        self.assertEqual(self.exists(f"{self.prefix}3_1"), (False, False))


@contextlib.contextmanager
def cut_off_before(words):
    """Connections that the server ends when such a statement is to come, as at its shutdown."""

    class Cursor(cursor):
        def execute(self, query, values=None):
            text = query if isinstance(query, str) else query.as_string(self)
            if words in text:
                with contextlib.closing(connect(DSN)) as other, other.cursor() as killer:
                    pid = self.connection.info.backend_pid
                    killer.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
            return super().execute(query, values)

    connect = psycopg2.connect

    def connect_to_be_cut_off(**parameters):
        return connect(**parameters, cursor_factory=Cursor)

    with patch.object(database.psycopg2, "connect", connect_to_be_cut_off):
        yield


class TestGarbage(DatabaseCase):
    def test_only_what_has_no_lease_is_dropped(self):
        live = database.create(DSN, self.prefix, 1, 2)
        dead = database.create(DSN, self.prefix, 1, 1)
        half = f"{self.prefix}9_9"
        self.query(sql.SQL("CREATE ROLE {}").format(sql.Identifier(half)))
        dropped = database.collect_garbage(DSN, self.prefix, lambda *key: key == (1, 2))
        self.assertEqual(sorted(dropped), sorted([dead.name, half]))
        self.assertEqual(self.exists(live.name), (True, True))

    def test_databases_of_other_control_planes_stay(self):
        other = database.name_prefix(self.prefix)
        made = database.create(DSN, other, 1, 1)
        self.addCleanup(database.drop, DSN, made.name)
        self.assertEqual(database.collect_garbage(DSN, self.prefix, lambda *_: False), [])
        self.assertEqual(self.exists(made.name), (True, True))


class TestMissingPrivilege(DatabaseCase):
    def test_the_error_holds_the_statement_to_run(self):
        role, password = f"{self.prefix}8_8", secrets.token_hex(8)
        self.query(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(role), sql.Literal(password)
            )
        )
        with self.assertRaises(RunError) as caught:
            database.create(make_dsn(DSN, user=role, password=password), self.prefix, 1, 1)
        self.assertEqual(caught.exception.code, "database_error")
        self.assertRegex(caught.exception.message, rf'ALTER ROLE "?{role}"? CREATEDB.*;$')
        self.assertEqual(self.exists(f"{self.prefix}1_1"), (False, False))

    def test_a_server_that_cannot_be_reached_is_a_database_error(self):
        with self.assertRaises(RunError) as caught:
            database.create("host=127.0.0.1 port=1 dbname=x", self.prefix, 1, 1)
        self.assertEqual(caught.exception.code, "database_error")
        self.assertIn("Connection refused", caught.exception.message)


class TestAutovacuum(DatabaseCase):
    """A superuser's process works in the database, which DROP DATABASE WITH (FORCE) may not end."""

    def test_a_database_in_which_an_autovacuum_works_is_dropped(self):
        made = database.create(DSN, self.prefix, 1, 1)
        connection = made.connect()
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            # Its many pages are vacuumed one by one with a pause after each.
            cursor.execute(
                "CREATE TABLE slow (words text) WITH (autovacuum_vacuum_threshold = 0,"
                " autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_limit = 1,"
                " autovacuum_vacuum_cost_delay = 100)"
            )
            cursor.execute("INSERT INTO slow SELECT repeat('x', 800) FROM generate_series(1, 9999)")
            cursor.execute("DELETE FROM slow")
        # It comes to each database once a minute (autovacuum_naptime).
        wait_for(lambda: self.is_vacuumed(made.name), 180)
        database.drop(DSN, made.name)
        self.assertEqual(self.exists(made.name), (False, False))

    def is_vacuumed(self, name):
        """Return whether an autovacuum works in the database."""
        # What kind of process it is stays hidden from a role like ours, not that it is nobody's.
        return self.query(
            "SELECT pid FROM pg_stat_activity WHERE datname = %s AND usesysid IS NULL", (name,)
        )
