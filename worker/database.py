"""A PostgreSQL database and role of its own for one run, and the sweeping up of those left behind.

Database and role have the same name, ``<prefix><run_id>_<epoch>``, so whoever finds one knows whose
it was. The role may log in and owns its database, nothing else: it makes no databases or roles, and
no other role may connect to its database. The worker's own role needs CREATEDB and CREATEROLE, not
superuser. Works on PostgreSQL 15 to 18.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
from psycopg2 import errors, extensions, sql

from .errors import RunError

_logger = logging.getLogger(__name__)

NAME_START = "odooops_run_"
#: Connections a run may hold at the same time; Odoo's pools and HTTP tests stay below.
CONNECTION_LIMIT = 48
#: Extensions Odoo uses when it finds them; their owner need not be superuser (they are "trusted").
EXTENSIONS = ("pg_trgm", "unaccent")
_CONNECT_TIMEOUT = 15


@dataclasses.dataclass(frozen=True)
class RunDatabase:
    """The database of one run and how to reach it. The password never appears in its repr."""

    name: str
    role: str
    password: str = dataclasses.field(repr=False)
    #: host name, address or folder of the socket; "" means libpq's default
    host: str
    port: str
    sslmode: str = ""
    server_version: str = ""

    def environment(self) -> dict[str, str]:
        """Return the PG* variables that make libpq programs use this database."""
        variables = {
            "PGHOST": self.host,
            "PGPORT": self.port,
            "PGUSER": self.role,
            "PGPASSWORD": self.password,
            "PGDATABASE": self.name,
            "PGSSLMODE": self.sslmode,
        }
        return {name: value for name, value in variables.items() if value}

    def connect(self) -> Any:
        """Open a psycopg2 connection as the run's role."""
        return psycopg2.connect(
            dbname=self.name,
            user=self.role,
            password=self.password,
            host=self.host or None,
            port=self.port or None,
            sslmode=self.sslmode or None,
            connect_timeout=_CONNECT_TIMEOUT,
        )


def name_prefix(control_plane: str) -> str:
    """Return what the names of all run databases of one control plane start with.

    :param control_plane: names the control plane, the same for all its workers
        (``ControlPlane.namespace``)
    """
    digest = hashlib.sha256(control_plane.encode()).hexdigest()[:8]
    return f"{NAME_START}{digest}_"


def create(dsn: str, prefix: str, run_id: int, epoch: int) -> RunDatabase:
    """Make the database and role of a run; leftovers of the same run and epoch are dropped first.

    :param dsn: libpq connection string of a role with CREATEDB and CREATEROLE on the server for run
        databases
    :raises RunError: database_error, with the statement a database administrator must run when a
        privilege is missing
    """
    name = f"{prefix}{int(run_id)}_{int(epoch)}"
    try:
        with _administration(dsn) as admin:
            _require_privileges(admin)
            _drop(admin, name)
            try:
                return _create(admin, name)
            except psycopg2.Error:
                # What broke first is the cause; what is left is dropped as garbage.
                with contextlib.suppress(psycopg2.Error):
                    _drop(admin, name)
                raise
    except psycopg2.Error as error:
        raise _database_error("made", name, error) from error


def drop(dsn: str, name: str) -> None:
    """End all connections to a run's database, drop it and its role. What is gone is no error.

    :raises RunError: database_error
    """
    try:
        with _administration(dsn) as admin:
            _drop(admin, name)
    except psycopg2.Error as error:
        raise _database_error("dropped", name, error) from error


@contextlib.contextmanager
def run_database(dsn: str, prefix: str, run_id: int, epoch: int) -> Iterator[RunDatabase]:
    """Context manager: the database exists inside the block and is dropped at its end, whatever
    happens.

    A failure to drop is logged and left to ``collect_garbage``: it must not hide how the run itself
    ended.
    """
    database = create(dsn, prefix, run_id, epoch)
    try:
        yield database
    finally:
        try:
            drop(dsn, database.name)
        except RunError as error:
            _logger.warning("%s It stays until the next collection of garbage.", error.message)


def collect_garbage(dsn: str, prefix: str, is_live: Callable[[int, int], bool]) -> list[str]:
    """Drop the databases and roles of runs that nobody executes any more.

    :param is_live: (run_id, epoch) -> whether a lease of exactly that run and epoch exists; it is
        asked after the names were read, so an answer from fresh data never condemns a database that
        is being made
    :return: the names dropped; one that could not be dropped is logged and tried again next time
    :raises RunError: database_error when the server cannot be asked
    """
    pattern = re.compile(re.escape(prefix) + r"(\d{1,19})_(\d{1,19})")
    dropped = []
    try:
        with _administration(dsn) as admin:
            for name in _leftovers(admin, prefix):
                match = pattern.fullmatch(name)
                if not match or is_live(int(match[1]), int(match[2])):
                    continue
                try:
                    _drop(admin, name)
                except psycopg2.Error as error:
                    _logger.warning("Could not drop %s: %s", name, _first_line(error))
                else:
                    dropped.append(name)
    except psycopg2.Error as error:
        raise _database_error("collected", f"{prefix}*", error) from error
    return dropped


@contextlib.contextmanager
def _administration(dsn: str) -> Iterator[Any]:
    """Connect with autocommit: CREATE and DROP DATABASE refuse transactions."""
    parameters = extensions.parse_dsn(dsn)
    parameters.setdefault("connect_timeout", _CONNECT_TIMEOUT)
    parameters.setdefault("application_name", "odooops worker")
    connection = psycopg2.connect(**parameters)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            # Nothing an administrator set for the role may make us wait or look elsewhere.
            cursor.execute("SET statement_timeout = '120s'; SET lock_timeout = '30s'")
            yield cursor
    finally:
        connection.close()


def _require_privileges(admin: Any) -> None:
    admin.execute(
        "SELECT rolname, rolsuper OR rolcreatedb, rolsuper OR rolcreaterole"
        " FROM pg_roles WHERE rolname = current_user"
    )
    role, may_create_databases, may_create_roles = admin.fetchone()
    missing = [] if may_create_databases else ["CREATEDB"]
    missing += [] if may_create_roles else ["CREATEROLE"]
    if missing:
        statement = f"ALTER ROLE {extensions.quote_ident(role, admin)} {' '.join(missing)};"
        raise RunError(
            "database_error",
            "The worker's PostgreSQL role may not make a database for the run."
            f" A database administrator must run: {statement}",
        )


def _create(admin: Any, name: str) -> RunDatabase:
    """Make role and database; the caller cleans up when this fails half-way."""
    password = secrets.token_urlsafe(32)
    identifier = sql.Identifier(name)
    admin.execute(
        sql.SQL(
            "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
            " CONNECTION LIMIT {} PASSWORD {}"
        ).format(identifier, sql.Literal(CONNECTION_LIMIT), sql.Literal(password))
    )
    _join(admin, name)
    admin.execute(
        sql.SQL(
            "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C'{}"
        ).format(identifier, identifier, sql.SQL(_character_type(admin)))
    )
    with _as_role(admin, name):
        admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(identifier))
    connection = admin.connection.info
    parameters = connection.dsn_parameters
    database = RunDatabase(
        name=name,
        role=name,
        password=password,
        host=connection.host or "",
        port=str(connection.port or ""),
        sslmode=parameters.get("sslmode") or "",
        server_version=connection.parameter_status("server_version") or "",
    )
    _add_extensions(database)
    return database


def _character_type(admin: Any) -> str:
    """Return the LC_CTYPE clause for servers whose own locale has another encoding than UTF-8."""
    admin.execute(
        "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'template0'"
    )
    (encoding,) = admin.fetchone()
    return "" if encoding == "UTF8" else " LC_CTYPE 'C'"


def _add_extensions(database: RunDatabase) -> None:
    """Install what Odoo installs in a database it makes itself, if the server has it."""
    with contextlib.closing(database.connect()) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name FROM pg_available_extensions WHERE name = ANY(%s)", [list(EXTENSIONS)]
            )
            for (extension,) in cursor.fetchall():
                try:
                    cursor.execute(
                        sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(
                            sql.Identifier(extension)
                        )
                    )
                except psycopg2.Error as error:
                    if connection.closed:
                        raise
                    # Odoo works without; searches are slower or less tolerant.
                    _logger.info(
                        "Extension %s is not available to %s: %s",
                        extension,
                        database.name,
                        _first_line(error),
                    )


def _join(admin: Any, role: str) -> None:
    """Make the worker's role a member of the run's role, which owning databases for it needs."""
    # Since PostgreSQL 16 the creator of a role is its administrator, but neither inherits from it
    # nor may become it.
    options = " WITH INHERIT TRUE, SET TRUE" if admin.connection.server_version >= 160000 else ""
    admin.execute(sql.SQL("GRANT {} TO CURRENT_USER" + options).format(sql.Identifier(role)))


@contextlib.contextmanager
def _as_role(admin: Any, role: str) -> Iterator[None]:
    """Act as the run's role, so that an owner's rights work for a NOINHERIT worker too."""
    admin.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
    try:
        yield
    finally:
        # A connection that has ended has no role, and to say so would hide why it ended.
        if not admin.connection.closed:
            admin.execute("RESET ROLE")


def _drop(admin: Any, name: str) -> None:
    """Drop database and role, whichever of them exist."""
    identifier = sql.Identifier(name)
    admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name])
    role_exists = admin.fetchone() is not None
    if role_exists:
        # A process that still runs must not come back while the database is being dropped.
        admin.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(identifier))
        _join(admin, name)
    admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
    if admin.fetchone():
        with _as_role(admin, name) if role_exists else contextlib.nullcontext():
            drop_database(admin, name)
    if role_exists:
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(identifier))


def drop_database(admin: Any, name: str) -> None:
    """End the connections that the role of ``admin`` may end, and drop the database if it exists.

    Plain DROP DATABASE sends a working autovacuum away and waits some seconds for it; WITH (FORCE)
    may not, since autovacuum is a superuser's process. So force comes last.

    :param admin: a cursor in autocommit, outside the database
    :raises psycopg2.Error: when others are connected whom the role may not send away
    """
    statement = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))
    for options in ("", "", " WITH (FORCE)"):
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE %(name)s IN (datname, usename) AND pg_has_role(usesysid, 'USAGE')",
            {"name": name},
        )
        try:
            admin.execute(statement + sql.SQL(options))
        except errors.ObjectInUse:
            if options:
                raise
        else:
            return


def _leftovers(admin: Any, prefix: str) -> list[str]:
    """Return the names of databases and roles that start with the prefix."""
    admin.execute(
        "SELECT datname FROM pg_database WHERE starts_with(datname, %(prefix)s)"
        " UNION SELECT rolname FROM pg_roles WHERE starts_with(rolname, %(prefix)s) ORDER BY 1",
        {"prefix": prefix},
    )
    return [name for (name,) in admin.fetchall()]


def _database_error(what: str, name: str, error: psycopg2.Error) -> RunError:
    return RunError(
        "database_error", f"The run's database {name} could not be {what}: {_first_line(error)}."
    )


def _first_line(error: psycopg2.Error) -> str:
    """Return what PostgreSQL says in one line, without a trailing full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".")
