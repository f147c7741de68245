"""What the tests of the SQL door share: real login roles, real connections, committed rows.

``own`` is a project with a member of each role; ``foreign`` one with none of them. Each project
has a queued and an ended run of each of two people, with events, a log line and an artifact.
What is committed here is deleted again, and the login roles are dropped.
"""

import secrets
import unittest
import uuid
from contextlib import contextmanager

import psycopg2

from odoo import SUPERUSER_ID, api
from odoo.exceptions import AccessError
from odoo.fields import Command
from odoo.modules.registry import Registry
from odoo.sql_db import connection_info_for
from odoo.tests.common import BaseCase, get_db_name

from ..models.sql_roles import VIEWS
from .kernel_case import Connection

MEMBERS = ("viewer", "developer", "admin", "owner")
PEOPLE = ("stranger", *MEMBERS, "platform")
MODELS = {
    **{view: table.replace("_", ".") for view, table in VIEWS.items()},
    # These read the partitioned tables by views of their own.
    "run_events": "ops.run.event",
    "run_logs": "ops.run.log",
}
STEPS = {"steps": [{"name": "Say", "run": "echo hello"}]}


def skip_unless_grantable(db, role):
    """Skip the test where Odoo's role may not grant that group role.

    Another database's may have made it; since PostgreSQL 16 CREATEROLE alone does not do.
    """
    grantable = db.value(
        "SELECT pg_has_role(%s, 'USAGE WITH ADMIN OPTION') OR rolcreaterole"
        " AND current_setting('server_version_num')::integer < 160000"
        " FROM pg_roles WHERE rolname = current_user",
        role,
    )
    if not grantable:
        raise unittest.SkipTest(
            f"This role did not make {role} and cannot grant it: run the tests as the role"
            " that did, or as a superuser."
        )


class Login(Connection):
    """A connection of a login role that is not Odoo's."""

    def __init__(self, schema, role, password):
        _name, parameters = connection_info_for(get_db_name())
        parameters = {"host": "localhost", **parameters, "user": role, "password": password}
        if not parameters["host"]:
            parameters["host"] = "localhost"
        self.connection = psycopg2.connect(**parameters)
        self.connection.set_session(isolation_level="READ COMMITTED", autocommit=True)
        self.schema = schema
        self.role = role

    def ids(self, view):
        """Ids of all rows the login sees in a view."""
        return {row["id"] for row in self.rows(f"SELECT id FROM {self.schema}.{view}")}

    @contextmanager
    def rolled_back(self):
        """What is done inside has not happened afterwards."""
        self.rows("BEGIN")
        try:
            yield self
        finally:
            self.rows("ROLLBACK")

    def attempt(self, statement, *values):
        """The SQLSTATE with which PostgreSQL refuses a statement; None when it does not."""
        with self.rolled_back():
            try:
                self.rows(statement, *values)
            except psycopg2.Error as error:
                return error.pgcode
        return None


class SqlDoorData:
    """Committed material and logins; mixed into a test class, before Odoo's own base class."""

    @classmethod
    def open_door(cls):
        """Make everything. Call it before the class has a cursor of its own, which would not see
        what is committed after it began."""
        cls.registry_of_door = Registry(get_db_name())
        with cls.registry_of_door.cursor() as cr:
            cls.schema = api.Environment(cr, SUPERUSER_ID, {})["ops.kernel"]._get_schema()
        cls.db = Connection(cls.schema)
        try:
            skip_unless_grantable(cls.db, "ops_reader")
        except unittest.SkipTest:
            cls.db.close()
            raise
        cls.unique = uuid.uuid4().hex[:8]
        cls.logins, cls.roles, cls.project_ids, cls.user_ids = {}, [], [], []
        cls.addClassCleanup(cls.db.close)
        cls.addClassCleanup(cls._delete_everything)
        cls.addClassCleanup(cls._drop_logins)
        with cls.committed() as env:
            cls.user_by_name = {name: cls._make_user(env, name) for name in PEOPLE}
            cls.newcomer = cls._make_user(env, "newcomer")
            cls.own = cls._make_project(env, "own", {name: name for name in MEMBERS})
            cls.foreign = cls._make_project(env, "foreign", {})
            cls.registers = {
                "tools": env["ops.tool"]
                .create(
                    {
                        "tool_name": f"tool-{cls.unique}",
                        "version": "1",
                        "docker_image": "x:1",
                    }
                )
                .id,
                "upgrade_advisories": env["ops.upgrade.advisory"]
                .create({"title": "Look", "to_version": "20.0"})
                .id,
            }
        cls.rows_of = {name: cls._fill(name) for name in ("own", "foreign")}
        for name in PEOPLE:
            cls.logins[name] = cls.make_login(cls.user_by_name[name])

    @classmethod
    @contextmanager
    def committed(cls):
        """An environment of the superuser whose work is committed."""
        with cls.registry_of_door.cursor() as cr:
            yield api.Environment(cr, SUPERUSER_ID, {})

    @classmethod
    @contextmanager
    def orm(cls, user_id):
        """An environment of a user whose work is undone."""
        with cls.registry_of_door.cursor() as cr:
            try:
                yield api.Environment(cr, user_id, {"active_test": False})
            finally:
                cr.rollback()

    # -- material -----------------------------------------------------------------------

    @classmethod
    def _make_user(cls, env, name, groups=None):
        if groups is None:
            platform = name == "platform"
            groups = "odooops.group_platform_admin" if platform else "odooops.group_user"
        # Without a password: to hash one takes longer than all the rest.
        user = env["res.users"].create(
            {
                "name": name,
                "login": f"sql-{cls.unique}-{name}",
                "group_ids": [Command.set([env.ref(groups).id] if groups else [])],
            }
        )
        cls.user_ids.append(user.id)
        return user.id

    @classmethod
    def _make_project(cls, env, name, role_by_person):
        project = env["ops.project"].create(
            {"name": name.title(), "slug": f"{name}-{cls.unique}", "max_running": 1000}
        )
        for person, role in role_by_person.items():
            env["ops.project.membership"].create(
                {"project_id": project.id, "user_id": cls.user_by_name[person], "role": role}
            )
        for workflow_type in ("test", "deploy"):
            env["ops.workflow"].create(
                {
                    "name": workflow_type.title(),
                    "project_id": project.id,
                    "workflow_type": workflow_type,
                    "config": STEPS,
                }
            )
        cls.project_ids.append(project.id)
        return project.id

    @classmethod
    def _fill(cls, name):
        """Runs with what belongs to them; returns the ids of the project's rows per view."""
        project_id = getattr(cls, name)
        cls.db.rows("SET odooops.user_id = %s", str(cls.user_by_name["owner"]))
        runs = {}
        for person in ("developer", "owner"):
            cls.db.rows("SET odooops.user_id = %s", str(cls.user_by_name[person]))
            for state in ("queued", "ended"):
                run_id = cls.db.call("queue_run", workflow_id=cls.workflow(project_id, "test"))[
                    "run_id"
                ]
                runs[person, state] = run_id
                if state == "ended":
                    cls.db.call("cancel_run", run_id=run_id)
                cls.db.rows(
                    "INSERT INTO ops_run_log_line"
                    " (run_id, run_queued_at, seq, log_level, message, timestamp)"
                    " SELECT id, create_date, 1, 'info', 'hello', now() FROM ops_run WHERE id = %s",
                    run_id,
                )
                cls.db.rows(
                    "INSERT INTO ops_run_artifact (run_id, artifact_key, artifact_url, checksum,"
                    " store, status) VALUES (%s, 'a', 'filesystem:a', %s, 'filesystem', 'stored')",
                    run_id,
                    "0" * 64,
                )
        cls.db.rows("RESET odooops.user_id")
        cls.runs = {**getattr(cls, "runs", {}), name: runs}
        in_project = "SELECT id FROM {} WHERE project_id = %s"
        in_run = "SELECT id FROM {} WHERE run_id IN (SELECT id FROM ops_run WHERE project_id = %s)"
        queries = {
            "projects": "SELECT id FROM {} WHERE id = %s",
            **dict.fromkeys(("workflows", "runs", "project_memberships"), in_project),
            **dict.fromkeys(("run_events", "run_logs", "run_artifacts"), in_run),
        }
        return {
            view: {row["id"] for row in cls.db.rows(query.format(VIEWS[view]), project_id)}
            for view, query in queries.items()
        }

    @classmethod
    def workflow(cls, project_id, workflow_type):
        return cls.db.value(
            "SELECT id FROM ops_workflow WHERE project_id = %s AND workflow_type = %s",
            project_id,
            workflow_type,
        )

    # -- logins -------------------------------------------------------------------------

    @classmethod
    def make_login(cls, user_id=None, *, granted="ops_operator", gateway=False, options=""):
        """A login role with a group role, registered for the user or as a gateway."""
        role = f"ops_test_{cls.unique}_{len(cls.roles)}"
        password = secrets.token_hex(16)
        cls.db.rows(f"CREATE ROLE {role} LOGIN {options} PASSWORD '{password}'")
        cls.roles.append(role)
        if granted:
            cls.db.rows(f"GRANT {granted} TO {role}")
        if "NOINHERIT" in options:
            # It comes in by a right of its own, the others by their group role's.
            cls.db.rows(f"GRANT CONNECT ON DATABASE {cls.database()} TO {role}")
        if user_id or gateway:
            with cls.committed() as env:
                env["ops.sql.login"].create(
                    {"role_name": role, "user_id": user_id, "gateway": gateway}
                )
        login = Login(cls.schema, role, password)
        login.password = password
        cls.logins[role] = login
        return login

    @classmethod
    def _drop_logins(cls):
        for login in cls.logins.values():
            login.close()
        for role in cls.roles:
            cls.db.rows("DELETE FROM ops_sql_login WHERE role_name = %s", role)
            cls.db.rows(f"REVOKE CONNECT ON DATABASE {cls.database()} FROM {role}")
            cls.db.rows(f"DROP ROLE {role}")

    @classmethod
    def database(cls):
        return cls.db.value("SELECT quote_ident(current_database())")

    @classmethod
    def _delete_everything(cls):
        runs = "(SELECT id FROM ops_run WHERE project_id = ANY(%s))"
        cls.db.rows("BEGIN")
        tables = ("ops_run_event_row", "ops_run_log_line", "ops_run")
        others = ("ops_run_log_words", "ops_run_log_tail", "ops_run_artifact", "ops_run_lease")
        for table in tables:
            cls.db.rows(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for table in (*tables[:2], *others):
            cls.db.rows(f"DELETE FROM {table} WHERE run_id IN {runs}", cls.project_ids)
        cls.db.rows("DELETE FROM ops_run WHERE project_id = ANY(%s)", cls.project_ids)
        for table in tables:
            cls.db.rows(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        cls.db.rows("COMMIT")
        with cls.committed() as env:
            env["ops.project"].browse(cls.project_ids).unlink()
            env["ops.tool"].browse(cls.registers["tools"]).unlink()
            env["ops.upgrade.advisory"].browse(cls.registers["upgrade_advisories"]).unlink()
            env["res.users"].browse(cls.user_ids).unlink()


class SqlDoorCase(SqlDoorData, BaseCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.open_door()

    def assertRefused(self, reply, code):
        self.assertFalse(reply["success"], reply)
        self.assertEqual(reply["code"], code, reply)

    def assertSameRows(self, user_id, login):
        """The login sees in each view the rows that the user sees in the model."""
        with self.orm(user_id) as env:
            for view, model in MODELS.items():
                try:
                    ids = set(env[model].search([]).ids)
                except AccessError:
                    ids = set()
                self.assertEqual(login.ids(view), ids, view)
