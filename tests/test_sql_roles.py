"""The group roles of the SQL door: made where Odoo's role may, shared by databases, taken back.

Roles belong to the whole cluster, so the tests make theirs under names of their own.
"""

import threading
from contextlib import contextmanager
from unittest.mock import patch

from psycopg2.errors import CheckViolation

from odoo import SUPERUSER_ID, api
from odoo.exceptions import ValidationError
from odoo.modules.registry import Registry
from odoo.tests import TransactionCase, tagged
from odoo.tests.common import BaseCase, get_db_name
from odoo.tools import mute_logger

from ..models import ops_sql_role
from ..models.sql_roles import SQL_ROLES, VIEWS, create_statements
from .document_commands import fences
from .kernel_case import Connection

NAME = "odooops_read"  # of each policy
STATEMENT_SEPARATOR = ";\n"


@tagged("post_install", "-at_install")
class TestSqlRoles(BaseCase):
    def setUp(self):
        super().setUp()
        with self.environment() as roles:
            self.schema = roles.env["ops.kernel"]._get_schema()
        self.db = Connection(self.schema)
        self.addCleanup(self.db.close)
        self.roles = [
            role._replace(name=role.name.replace("ops_", "ops_roletest_")) for role in SQL_ROLES
        ]
        patcher = patch.object(ops_sql_role, "SQL_ROLES", self.roles)
        patcher.start()
        self.addCleanup(patcher.stop)
        self.addCleanup(self._drop_roles)

    def _drop_roles(self):
        with self.environment() as roles:
            roles._revoke(self.schema)
            roles.env.cr.commit()
        for role in self.roles:
            self.db.rows(f"DROP ROLE IF EXISTS {role.name}")

    @contextmanager
    def environment(self):
        with Registry(get_db_name()).cursor() as cr:
            yield api.Environment(cr, SUPERUSER_ID, {})["ops.sql.role"]

    def states(self):
        with self.environment() as roles:
            return set(roles._states().values())

    def apply(self):
        with self.environment() as roles:
            roles._apply()

    def test_an_update_makes_and_grants_them_and_a_second_changes_nothing(self):
        self.assertEqual(self.states(), {"missing"})
        self.apply()
        self.assertEqual(self.states(), {"ready"})
        before = self._privileges()
        self.apply()
        self.assertEqual(self._privileges(), before)

    def test_a_role_made_by_the_statements_of_the_document_is_ours(self):
        (statements,) = fences("docs/sql.md", "Roles")
        name = next(role.name for role in self.roles if role.name.endswith("_reader"))
        made, marked = statements.replace("ops_reader", name).strip().split(STATEMENT_SEPARATOR)
        self.db.rows(made)
        with self.environment() as roles:
            self.assertEqual(roles._states()[name], "foreign")
        self.db.rows(marked)
        with self.environment() as roles:
            self.assertEqual(roles._states()[name], "not_granted")
        self.apply()
        self.assertEqual(self.states(), {"ready"})

    def _privileges(self):
        """Per role the functions, and the columns of tables and views, that it may use."""
        return {
            role.name: (
                {
                    row["name"]
                    for row in self.db.rows(
                        "SELECT p.proname::text AS name FROM pg_proc p"
                        " WHERE p.pronamespace = %s::regnamespace"
                        " AND has_function_privilege(%s, p.oid, 'EXECUTE')",
                        *(self.schema, role.name),
                    )
                },
                {
                    (row["relname"], row["attname"])
                    for row in self.db.rows(
                        "SELECT c.relname, a.attname FROM pg_class c"
                        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
                        " WHERE c.relnamespace IN ('public'::regnamespace, %s::regnamespace)"
                        " AND c.relkind IN ('r', 'p', 'v') AND NOT a.attisdropped"
                        " AND has_column_privilege(%s, c.oid, a.attnum, 'SELECT')"
                        " EXCEPT SELECT c.relname, a.attname FROM pg_class c"
                        " JOIN pg_attribute a ON a.attrelid = c.oid"
                        " WHERE has_column_privilege('public', c.oid, a.attnum, 'SELECT')",
                        *(self.schema, role.name),
                    )
                },
            )
            for role in self.roles
        }

    def test_each_role_has_what_its_line_says_and_no_more(self):
        self.apply()
        for role in self.roles:
            functions, columns = self._privileges()[role.name]
            self.assertEqual(functions, set(role.functions), role.name)
            relations = {relation for relation, _column in columns}
            self.assertEqual(relations, {*VIEWS, *VIEWS.values()} if role.reads else set())
            self.assertNotIn(("ops_run", "event_hash"), columns)
            writable = self.db.rows(
                "SELECT c.oid::regclass::text FROM pg_class c"
                " WHERE c.relnamespace IN ('public'::regnamespace, %s::regnamespace)"
                " AND c.relkind IN ('r', 'p', 'v')"
                " AND has_table_privilege(%s, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')",
                *(self.schema, role.name),
            )
            self.assertEqual(writable, [], role.name)

    def test_functions_for_others_act_as_the_owner_on_a_path_of_their_own(self):
        for row in self.db.rows(
            "SELECT proname, prosecdef, proconfig FROM pg_proc"
            " WHERE pronamespace = %s::regnamespace AND proname = ANY(%s)",
            *(self.schema, [name for role in SQL_ROLES for name in role.functions]),
        ):
            self.assertTrue(row["prosecdef"], row)
            self.assertIn(f"search_path={self.schema}, public, pg_temp", row["proconfig"])

    def test_a_view_shows_what_its_reader_may_see_and_its_table_has_a_policy(self):
        for view, table in VIEWS.items():
            (options,) = self.db.rows(
                "SELECT reloptions FROM pg_class WHERE oid = %s::regclass", f"{self.schema}.{view}"
            )
            self.assertIn("security_invoker=true", options["reloptions"], view)
            self.assertTrue(
                self.db.rows("SELECT policyname FROM pg_policies WHERE tablename = %s", table),
                table,
            )

    def test_every_table_of_the_addon_is_under_row_level_security(self):
        open_tables = self.db.rows(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind IN ('r', 'p') AND relname ~ '^ops_' AND NOT relrowsecurity"
            # Wizards keep nothing.
            " AND relname NOT IN ('ops_api_key', 'ops_registration_token')"
        )
        self.assertEqual(open_tables, [])

    def test_a_role_that_is_somebody_elses_is_given_nothing(self):
        worker = self.roles[-1]
        self.db.rows(create_statements(worker)[0])
        self.apply()
        with self.environment() as roles:
            self.assertEqual(roles._states()[worker.name], "foreign")
        self.assertEqual(self._privileges()[worker.name], (set(), set()))

    def test_without_the_right_to_create_roles_nothing_is_lost(self):
        """The statements that are shown instead do what the update would have done."""
        self.apply()
        granted = self._privileges()
        self._drop_roles()
        self.db.rows("CREATE ROLE ops_roletest_powerless")
        self.addCleanup(self.db.rows, "DROP ROLE ops_roletest_powerless")
        owner = self.db.value("SELECT quote_ident(session_user)")
        self.db.rows(f"GRANT ops_roletest_powerless TO {owner}")
        with self.environment() as roles:
            with roles._cluster() as cr:
                cr.execute("SET ROLE ops_roletest_powerless")
                roles._create_missing(cr)
                cr.execute("RESET ROLE")
            states = roles._states()
            self.assertEqual(set(states.values()), {"missing"})
            statements = roles._statements(states)
        for statement in statements.strip().split(STATEMENT_SEPARATOR):
            self.db.rows(statement)
        self.assertEqual(self.states(), {"ready"})
        self.assertEqual(self._privileges(), granted)

    def test_databases_that_install_at_the_same_time_share_them(self):
        count = 6
        barrier = threading.Barrier(count)
        errors = []

        def install():
            try:
                with self.environment() as roles, roles._cluster() as cr:
                    barrier.wait(timeout=30)
                    roles._create_missing(cr)
            except Exception as error:  # noqa: BLE001 - shown to the test below
                errors.append(error)

        threads = [threading.Thread(target=install) for _number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        self.assertEqual(errors, [])
        self.assertEqual(self.states(), {"not_granted"})

    def test_what_was_granted_is_taken_back(self):
        self.apply()
        with self.environment() as roles:
            roles._revoke(self.schema)
        self.assertEqual(self.states(), {"not_granted"})
        for role, privileges in self._privileges().items():
            self.assertEqual(privileges, (set(), set()), role)
        for role in self.roles:
            # PostgreSQL refuses this while the role holds a right in any database.
            self.db.rows(f"DROP ROLE {role.name}")

    def test_a_role_is_dropped_when_nothing_hangs_on_it(self):
        self.apply()
        reader, operator, gateway, worker = (role.name for role in self.roles)

        def dropped():
            with self.environment() as roles:
                roles._drop_unused()
            return {role.name for role in self.roles} - {
                row["rolname"] for row in self.db.rows("SELECT rolname FROM pg_roles")
            }

        self.assertEqual(dropped(), set(), "they have their rights in this database")
        with self.environment() as roles:
            roles._revoke(self.schema)
        # Somebody's login, a right that somebody gave, and a role without our mark.
        login = f"{reader}_login"
        self.db.rows(f"CREATE ROLE {login} IN ROLE {reader}")
        self.addCleanup(self.db.rows, f"DROP ROLE IF EXISTS {login}")
        self.db.rows(f"GRANT SELECT (id) ON ops_tool TO {gateway}")
        self.db.rows(f"COMMENT ON ROLE {worker} IS 'somebody else''s'")
        self.assertEqual(dropped(), {operator})
        self.db.rows(f"DROP ROLE {login}")
        self.db.rows(f"REVOKE SELECT (id) ON ops_tool FROM {gateway}")
        self.assertEqual(dropped(), {reader, operator, gateway})

    def test_an_open_schema_public_is_closed(self):
        # Odoo does this to every database it makes.
        self.db.rows("GRANT CREATE ON SCHEMA public TO PUBLIC")
        self.apply()
        self.assertFalse(
            self.db.value("SELECT has_schema_privilege(%s, 'public', 'CREATE')", self.roles[0].name)
        )
        self.assertTrue(self.db.value("SELECT has_schema_privilege('public', 'CREATE')"))


@tagged("post_install", "-at_install")
class TestSqlLogins(TransactionCase):
    def test_the_kernel_can_be_applied_once_more(self):
        def policies():
            self.env.cr.execute("SELECT tablename FROM pg_policies WHERE policyname = %s", [NAME])
            return sorted(self.env.cr.fetchall())

        before = policies()
        self.assertEqual(len(before), len(VIEWS))
        self.env["ops.kernel"]._apply()
        self.assertEqual(policies(), before)

    def test_a_login_acts_as_one_user_or_is_a_gateway(self):
        logins = self.env["ops.sql.login"]
        for values in ({}, {"user_id": self.env.uid, "gateway": True}):
            with (
                self.assertRaises(CheckViolation),
                mute_logger("odoo.sql_db"),
                self.env.cr.savepoint(),
            ):
                logins.create({"role_name": "somebody", **values})
                logins.flush_model()

    def test_odoos_own_role_cannot_be_registered(self):
        self.env.cr.execute("SELECT session_user::text")
        (owner,) = self.env.cr.fetchone()
        with self.assertRaises(ValidationError):
            self.env["ops.sql.login"].create({"role_name": owner, "user_id": self.env.uid})

    def test_a_login_shows_what_postgresql_granted_it(self):
        login = self.env["ops.sql.login"].create({"role_name": "nobody-yet", "gateway": True})
        self.assertEqual(login.group_roles, "no such role in PostgreSQL")
        self.env.cr.execute('CREATE ROLE "nobody-yet"')
        login.invalidate_recordset()
        self.assertEqual(login.group_roles, "none granted")
        self.env.cr.execute('GRANT ops_reader, ops_worker TO "nobody-yet"')
        login.invalidate_recordset()
        self.assertEqual(login.group_roles, "ops_reader, ops_worker")

    def test_the_settings_show_the_roles(self):
        settings = self.env["res.config.settings"].create({})
        self.assertIn("ops_reader: ready", settings.odooops_sql_roles)
        self.assertFalse(settings.odooops_sql_statements)
