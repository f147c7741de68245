"""The ORM's door to the kernel: installs the SQL of ``sql/`` and calls its functions.

No rule of a run's life is decided here. ``call`` runs a kernel function inside the
request's transaction (people's actions: queue, cancel, restart; Odoo retries the request
when PostgreSQL asks for it). ``call_committed`` runs it in a READ COMMITTED transaction of
its own, as claims, heartbeats, log batches and completions must be.
"""

import logging
import re
from contextlib import contextmanager
from pathlib import Path

from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED
from psycopg2.extras import Json

from odoo import api, models
from odoo.exceptions import UserError
from odoo.sql_db import db_connect
from odoo.tools import SQL

from .roles import MATRIX

_logger = logging.getLogger(__name__)

SQL_FOLDER = Path(__file__).parent.parent / "sql"
# These name the schema public in full and use nothing of the kernel's.
HISTORY_FILES = ("11_history.sql", "23_history_views.sql")
SCHEMA_COMMENT = "OdooOps kernel: functions and views; made by the addon, do not edit"
# The first that is free and is not the name of Odoo's role: to PostgreSQL, whose search_path begins
# with "$user", that schema would be the one Odoo's tables lie in.
SCHEMA_NAMES = ("ops", "odooops", "odooops_kernel")
FUNCTION_NAME = re.compile(r"^[a-z][a-z_]*$")
# Parameters of type text[]; every other list or dict is jsonb.
ARRAY_PARAMETERS = {"labels", "levels"}


class KernelRefusal(UserError):
    """The kernel said no: its sentence for people, its whole reply (``code``, …) for programs."""

    def __init__(self, reply):
        super().__init__(reply["error"])
        self.reply = reply


class OpsKernel(models.AbstractModel):
    _name = "ops.kernel"
    _description = "Kernel"

    # -- installing ---------------------------------------------------------------------

    @api.model
    def _apply(self):
        """Make or renew the kernel. Idempotent; runs at every install and update."""
        self.env.flush_all()
        schema = self._get_schema() or self._create_schema()
        with self._search_path(schema):
            for path in sorted(SQL_FOLDER.glob("*.sql")):
                # Our own files, not input: nothing is interpolated, and % means itself.
                self.env.cr.execute(path.read_text(encoding="utf-8"))
            self._write_role_matrix()
        self.env["ops.sql.role"]._apply()

    @api.model
    def _make_history(self):
        """Make the tables of events and log lines, and the views that their models read.

        Also part of :meth:`_apply`, which comes too late for Odoo's own look at the tables.
        """
        for name in HISTORY_FILES:
            self.env.cr.execute((SQL_FOLDER / name).read_text(encoding="utf-8"))

    def _write_role_matrix(self):
        """Give the kernel the role matrix of the models, so that the two cannot differ."""
        rows = [(operation, role) for operation, roles in MATRIX.items() for role in sorted(roles)]
        operations, roles = zip(*rows, strict=True)
        self.env.cr.execute("DELETE FROM role_permission")
        self.env.cr.execute(
            SQL(
                "INSERT INTO role_permission (operation, role) SELECT * FROM unnest(%s, %s)",
                list(operations),
                list(roles),
            )
        )

    @api.model
    def _remove(self):
        """Drop the schema, the private tables and those below views; the ORM drops its own."""
        schema = self._get_schema()
        if schema:
            self.env["ops.sql.role"]._revoke(schema)
            self.env.cr.execute(SQL("DROP SCHEMA %s CASCADE", SQL.identifier(schema)))
        self.env.cr.execute(
            SQL(
                "DROP TABLE IF EXISTS ops_run_lease, ops_project_gate, ops_audit_pending,"
                " ops_audit_head, ops_audit_expiry_run, ops_secret_value, ops_run_upload"
            )
        )
        # With their partitions, sequences and the models' views.
        self.env.cr.execute(
            SQL(
                "DROP TABLE IF EXISTS public.ops_run_event_row, public.ops_run_log_line,"
                " public.ops_run_log_words, public.ops_run_log_tail CASCADE"
            )
        )

    @api.model
    def _get_schema(self):
        """Name of the schema that holds our kernel, or None before it is installed."""
        rows = self.env.execute_query(
            SQL(
                "SELECT nspname FROM pg_namespace"
                " WHERE obj_description(oid, 'pg_namespace') LIKE 'OdooOps kernel%%'"
            )
        )
        return rows[0][0] if rows else None

    def _create_schema(self):
        """Create ``ops``, or one of the other names where ``ops`` is somebody else's already."""
        taken = {
            name
            for (name,) in self.env.execute_query(
                SQL(
                    "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY(%s)"
                    " UNION SELECT current_user::text",
                    list(SCHEMA_NAMES),
                )
            )
        }
        schema = next((name for name in SCHEMA_NAMES if name not in taken), None)
        if schema is None:
            raise UserError(
                self.env._(
                    "OdooOps needs a schema of its own named %s, and this database has such schemas"
                    " that OdooOps did not make. Rename one of them and install again.",
                    ", ".join(SCHEMA_NAMES),
                )
            )
        if schema != SCHEMA_NAMES[0]:
            _logger.warning(
                "schema %s belongs to something else and stays as it is; OdooOps uses %s",
                SCHEMA_NAMES[0],
                schema,
            )
        self.env.cr.execute(SQL("CREATE SCHEMA %s", SQL.identifier(schema)))
        self.env.cr.execute(
            SQL("COMMENT ON SCHEMA %s IS %s", SQL.identifier(schema), SCHEMA_COMMENT)
        )
        return schema

    @contextmanager
    def _search_path(self, schema):
        """Create objects in ``schema``, which functions made meanwhile keep as their path."""
        self.env.cr.execute(
            SQL("SET LOCAL search_path = %s, public, pg_temp", SQL.identifier(schema))
        )
        yield
        self.env.cr.execute(SQL("SET LOCAL search_path TO DEFAULT"))

    # -- calling ------------------------------------------------------------------------

    @api.model
    def _call(self, function, **arguments):
        """Call a kernel function in this transaction, in the name of the current user.

        :param function: name as in the contract, without schema
        :param arguments: by name, without the ``p_`` prefix; dicts and lists travel as jsonb
        :return: its reply, a dict with ``success``
        """
        self.env.flush_all()
        reply = self._execute(self.env.cr, function, arguments)
        self.env.invalidate_all(flush=False)
        return reply

    @api.model
    def _call_committed(self, function, **arguments):
        """Like :meth:`_call`, in a READ COMMITTED transaction of its own that is committed.

        It does not see what the current transaction has not committed.
        """
        with self._own_transaction() as cr:
            reply = self._execute(cr, function, arguments)
        self.env.invalidate_all(flush=False)
        return reply

    @contextmanager
    def _own_transaction(self):
        with db_connect(self.env.cr.dbname).cursor() as cr:
            cr._cnx.set_isolation_level(ISOLATION_LEVEL_READ_COMMITTED)
            yield cr

    @api.model
    def _call_or_raise(self, function, **arguments):
        """:meth:`_call` for people: a refusal becomes a KernelRefusal with its sentence."""
        reply = self._call(function, **arguments)
        if not reply["success"]:
            raise KernelRefusal(reply)
        return reply

    @api.model
    def _rows(self, function, **arguments):
        """Rows of a set-returning kernel function, as dicts, in the name of the current user."""
        self.env.flush_all()
        self._set_user(self.env.cr)
        return self.env.execute_query_dict(
            SQL("SELECT * FROM %s", self._invocation(function, arguments))
        )

    @api.model
    def _rows_committed(self, function, **arguments):
        """Like :meth:`_rows`, as others have committed it by now."""
        with self._own_transaction() as cr:
            cr.execute(SQL("SELECT * FROM %s", self._invocation(function, arguments)))
            return cr.dictfetchall()

    @api.model
    def _record_secret_change(self, secret_id, action):
        """Leave a trace of what the current user does to a secret."""
        self.env.flush_all()
        arguments = {"secret_id": secret_id, "action": action}
        self._execute(self.env.cr, "record_secret_change", arguments)
        self.env["ops.secret.change"].invalidate_model()
        self.env["ops.project"].invalidate_model(["secret_change_ids"])

    def _execute(self, cr, function, arguments):
        self._set_user(cr)
        cr.execute(SQL("SELECT %s", self._invocation(function, arguments)))
        return cr.fetchone()[0]

    def _set_user(self, cr):
        cr.execute(SQL("SELECT set_config('odooops.user_id', %s, true)", str(self.env.uid or "")))

    def _invocation(self, function, arguments):
        """``schema.function(p_name => value, …)``"""
        for name in (function, *arguments):
            if not FUNCTION_NAME.match(name):
                raise ValueError(f"{name!r} is no name of the kernel")
        named = [
            SQL("%s => %s", SQL.identifier(f"p_{name}"), self._adapt(name, value))
            for name, value in arguments.items()
        ]
        return SQL("%s(%s)", SQL.identifier(self._get_schema(), function), SQL(", ").join(named))

    @staticmethod
    def _adapt(name, value):
        is_json = isinstance(value, (dict, list)) and name not in ARRAY_PARAMETERS
        return Json(value) if is_json else value
