"""Makes the group roles of the SQL door, where Odoo's role may, and grants them their rights.

Without CREATEROLE nothing is lost: a database administrator runs the statements that the
settings page shows, and the grants follow with the next update or a press of its button.
"""

import logging
from contextlib import contextmanager

from psycopg2 import errors
from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED

from odoo import api, models
from odoo.sql_db import db_connect
from odoo.tools import SQL

from .sql_roles import (
    MARK,
    SQL_ROLES,
    VIEWS,
    close_statement,
    connect_statement,
    create_statements,
    grant_statements,
    mark_statement,
    revoke_statements,
)

_logger = logging.getLogger(__name__)


class OpsSqlRole(models.AbstractModel):
    _name = "ops.sql.role"
    _description = "Group roles of the SQL door"

    @api.model
    def _apply(self):
        """Make what is missing, and renew the grants in this database. Idempotent."""
        schema = self.env["ops.kernel"]._get_schema()
        columns = self._view_columns(schema)
        database, is_owner = self._database()
        with self._cluster() as cr:
            self._close_public_schema(cr)
            self._create_missing(cr)
            states = self._read_states(cr, schema)
        for role in SQL_ROLES:
            if states[role.name] in ("ready", "not_granted"):
                statements = revoke_statements(role, schema) + grant_statements(
                    role, schema, columns
                )
                if is_owner:
                    statements.append(connect_statement(role, database))
                for statement in statements:
                    self.env.cr.execute(statement)
            else:
                _logger.info(
                    "The database role %s is %s and was granted nothing; see the settings page.",
                    role.name,
                    states[role.name],
                )
        if self._is_open_to_public():
            _logger.warning(
                "Every login of the PostgreSQL server may connect to this database, the roles of"
                " runs among them; see Settings, OdooOps, Database."
            )

    @api.model
    def _is_open_to_public(self):
        """Whether every login of the server may connect to this database.

        PostgreSQL gives that right to PUBLIC with each new database. It is not taken back here:
        somebody's reports may come in by it.
        """
        return self.env.execute_query(
            SQL(
                "SELECT EXISTS (SELECT FROM pg_database d,"
                " aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a"
                " WHERE d.datname = current_database() AND a.grantee = 0"
                " AND a.privilege_type = 'CONNECT')"
            )
        )[0][0]

    @api.model
    def _close_statement(self):
        """SQL for whoever owns the database that leaves it to those who were named."""
        return f"{close_statement(self._database()[0])};\n"

    @api.model
    def _revoke(self, schema):
        """Take back what was granted in this database; other databases keep their roles."""
        database, is_owner = self._database()
        with self._cluster() as cr:
            states = self._read_states(cr, schema)
        for role in SQL_ROLES:
            if states[role.name] != "missing":
                for statement in revoke_statements(role, schema, is_owner and database):
                    self.env.cr.execute(statement)

    @api.model
    def _drop_unused(self):
        """Drop our roles on which nothing hangs any more, in no database of the server, and which
        nobody else is a member of. A role that Odoo's may not drop stays, too.

        In this transaction, so that a removal that fails leaves them.
        """
        rows = self.env.execute_query(
            SQL(
                "SELECT r.rolname FROM pg_roles r WHERE r.rolname = ANY(%s)"
                " AND starts_with(shobj_description(r.oid, 'pg_authid'), %s)"
                # Since version 16 a membership is such an object itself: looked at below.
                " AND NOT EXISTS (SELECT FROM pg_shdepend d WHERE d.refobjid = r.oid"
                "  AND d.refclassid = 'pg_authid'::regclass"
                "  AND d.classid <> 'pg_auth_members'::regclass)"
                # Since then whoever makes a role is a member by that, too.
                " AND NOT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member"
                "  WHERE m.roleid = r.oid AND u.rolname <> current_user)",
                [role.name for role in SQL_ROLES],
                MARK,
            )
        )
        for (name,) in rows:
            try:
                with self.env.cr.savepoint(flush=False):
                    self.env.cr.execute(
                        SQL("DROP ROLE %s", SQL.identifier(name)), log_exceptions=False
                    )
            except (errors.InsufficientPrivilege, errors.DependentObjectsStillExist) as error:
                _logger.info("The database role %s stays: %s", name, error)

    @api.model
    def _states(self):
        """Per role: ``ready``, or what is in the way.

        ``missing``: there is no such role. ``foreign``: somebody else's, without our comment.
        ``unsafe``: it could put functions of its own into the schema public, where functions of
        the kernel might take them for PostgreSQL's. ``not_granted``: made after the last update.
        """
        with self._cluster() as cr:
            return self._read_states(cr, self.env["ops.kernel"]._get_schema())

    @api.model
    def _statements(self, states):
        """SQL for a database administrator that makes every role ready, as text."""
        schema = self.env["ops.kernel"]._get_schema()
        columns = self._view_columns(schema)
        statements = []
        if "unsafe" in states.values():
            owner = self.env.execute_query(SQL("SELECT quote_ident(session_user)"))[0][0]
            statements += [
                f"GRANT CREATE ON SCHEMA public TO {owner}",
                "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            ]
        for role in SQL_ROLES:
            if states[role.name] == "missing":
                statements += create_statements(role)
            elif states[role.name] == "foreign":
                statements.append(mark_statement(role))
            if states[role.name] != "ready":
                statements += grant_statements(role, schema, columns)
                statements.append(connect_statement(role, self._database()[0]))
        return "".join(f"{statement};\n" for statement in statements)

    def _database(self):
        """The database's name as an SQL identifier, and whether Odoo's role may grant it."""
        return self.env.execute_query(
            SQL(
                "SELECT quote_ident(datname), pg_has_role(current_user, datdba, 'USAGE')"
                " FROM pg_database WHERE datname = current_database()"
            )
        )[0]

    @contextmanager
    def _cluster(self):
        """A READ COMMITTED cursor of its own: roles belong to the cluster, and another database
        may make them at this moment."""
        with db_connect(self.env.cr.dbname).cursor() as cr:
            cr._cnx.set_isolation_level(ISOLATION_LEVEL_READ_COMMITTED)
            yield cr

    @staticmethod
    def _close_public_schema(cr):
        """Let no stranger put functions into the schema public, where Odoo's queries and the
        kernel's functions might take them for PostgreSQL's. PostgreSQL allows it to nobody since
        version 15; Odoo grants it to everybody when it makes a database. Odoo's role goes on as
        the schema's owner; where it is not, a database administrator must decide.
        """
        cr.execute(
            "SELECT FROM pg_namespace n, aclexplode(n.nspacl) a"
            " WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE'"
            " AND pg_has_role(current_user, n.nspowner, 'USAGE')"
        )
        if cr.rowcount:
            cr.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            _logger.info("Only Odoo's role may create objects in the schema public from now on.")

    @staticmethod
    def _create_missing(cr):
        for role in SQL_ROLES:
            cr.execute("SELECT to_regrole(%s) IS NULL", [role.name])
            if not cr.fetchone()[0]:
                continue
            try:
                with cr.savepoint(flush=False):
                    for statement in create_statements(role):
                        cr.execute(statement, log_exceptions=False)
            except (errors.DuplicateObject, errors.UniqueViolation):
                _logger.info("Another database has just made the role %s.", role.name)
            except errors.InsufficientPrivilege:
                _logger.info("Odoo's database role may not create roles.")
                return

    @staticmethod
    def _read_states(cr, schema):
        cr.execute(
            SQL(
                "SELECT name, CASE WHEN r.oid IS NULL THEN 'missing'"
                " WHEN shobj_description(r.oid, 'pg_authid') IS NULL"
                " OR NOT starts_with(shobj_description(r.oid, 'pg_authid'), %s) THEN 'foreign'"
                " WHEN has_schema_privilege(r.oid, 'public', 'CREATE') THEN 'unsafe'"
                " WHEN NOT coalesce("
                "   has_schema_privilege(r.oid, to_regnamespace(%s)::oid, 'USAGE'), false)"
                " THEN 'not_granted' ELSE 'ready' END"
                " FROM unnest(%s) AS name LEFT JOIN pg_roles r ON r.rolname = name",
                MARK,
                schema,
                [role.name for role in SQL_ROLES],
            )
        )
        return dict(cr.fetchall())

    def _view_columns(self, schema):
        """Per table, the columns that its view reads."""
        rows = self.env.execute_query(
            SQL(
                "SELECT table_name::text, array_agg(column_name::text ORDER BY column_name)"
                " FROM information_schema.view_column_usage"
                " WHERE view_schema = %s AND view_name = ANY(%s) AND table_schema = 'public'"
                " GROUP BY 1",
                schema,
                list(VIEWS),
            )
        )
        return dict(rows)
