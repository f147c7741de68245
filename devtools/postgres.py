"""The PostgreSQL server of the set-up: one given by the usual PG* variables, or our own.

Whichever it is, the rest of the set-up sees a `Server`: the environment by which libpq finds it.
"""

import json
import os
import re
import subprocess
from dataclasses import dataclass, field

from . import embedded, paths, state, venv
from .errors import SetupError

MINIMUM_VERSION = 15  # security_invoker views
# Each of these says which server to use; PGPASSWORD or PGDATABASE alone does not.
CHOOSING_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGSERVICE")
# Passed on to Odoo and the worker, whatever the server.
PASSED_ON = ("PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSERVICEFILE", "PGPASSFILE")
ROLE = "odooops"


class SqlError(Exception):
    """PostgreSQL refused a statement or the connection; the message is its own."""


@dataclass(frozen=True)
class Server:
    """A running server and the role by which Odoo and the worker use it."""

    host: str
    port: int
    user: str
    own: bool  # started and stopped by the set-up
    settings: dict = field(default_factory=dict)  # further libpq variables

    def environment(self, database=None):
        """libpq's variables for this server."""
        values = {"PGPORT": str(self.port), "PGUSER": self.user, **self.settings}
        if self.host:
            values["PGHOST"] = self.host
        if database:
            values["PGDATABASE"] = database
        return values

    def execute(self, *statements, database="postgres"):
        """Run statements, each a text or (text, parameters); return the list of their rows."""
        return run_sql(self.environment(database), statements)


def is_external():
    """Whether the PG* variables name a server to use instead of our own."""
    if os.environ.get("PGPASSFILE") == str(paths.PGPASS):
        # .local/run.env was read into this shell: the variables repeat what was chosen then.
        return bool(state.load().get("external_server"))
    return any(os.environ.get(name) for name in CHOOSING_VARIABLES)


def ensure_running():
    """Start our own server, or check the given one; return it."""
    external = is_external()
    server = _external() if external else _own()
    state.save(external_server=external)
    return server


def run_sql(environment, statements):
    """Run SQL with the given libpq variables; raises SqlError."""
    wanted = [[part, None] if isinstance(part, str) else list(part) for part in statements]
    ended = subprocess.run(
        [str(venv.python()), "-I", str(paths.ROOT / "devtools" / "sql_client.py")],
        input=json.dumps({"statements": wanted}),
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise SqlError(ended.stderr.strip())
    return json.loads(ended.stdout)


def clean_environment():
    """Our environment without what would turn Odoo, Python or libpq another way."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "ODOO_", "ODOOOPS_", "OPENERP_"))
        and name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


def _own():
    port = embedded.ensure_running()
    password = state.secret("database_password")
    server = Server("127.0.0.1", port, ROLE, own=True, settings={"PGPASSFILE": str(paths.PGPASS)})
    _write_pgpass("*", port, ROLE, password)
    if state.load().get("database_role") != embedded.identity():
        administrator = {
            "PGHOST": server.host,
            "PGPORT": str(port),
            "PGUSER": embedded.ADMINISTRATOR,
            "PGPASSWORD": state.secret("postgres_password"),
            "PGDATABASE": "postgres",
        }
        attributes = "LOGIN CREATEDB CREATEROLE NOSUPERUSER"
        exists = run_sql(administrator, [f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'"])[0]
        verb = "ALTER" if exists else "CREATE"
        run_sql(administrator, [(f"{verb} ROLE {ROLE} {attributes} PASSWORD %s", [password])])
        state.save(database_role=embedded.identity())
    return server


def _external():
    settings = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    given = dict(settings)
    for name in (*CHOOSING_VARIABLES, "PGPASSWORD"):
        if os.environ.get(name):
            given[name] = os.environ[name]
    try:
        rows = run_sql(
            {**given, "PGDATABASE": "postgres"},
            [
                "SELECT current_setting('server_version_num')::int / 10000, current_user,"
                " rolcreatedb OR rolsuper, rolcreaterole OR rolsuper,"
                " current_setting('server_version'), current_setting('port')::int"
                " FROM pg_roles WHERE rolname = current_user"
            ],
        )
    except SqlError as error:
        raise SetupError(
            "The PostgreSQL server named by the PG* variables cannot be used: "
            f"{_one_line(str(error))}. Correct them, or unset "
            f"{', '.join(name for name in CHOOSING_VARIABLES if name in given)} to let the set-up "
            "start a server of its own."
        ) from error
    check_server(*rows[0][0][:5])
    user = rows[0][0][1]
    host = given.get("PGHOSTADDR") or given.get("PGHOST", "")
    port = int(given.get("PGPORT") or rows[0][0][5])
    if given.get("PGPASSWORD"):
        _write_pgpass("*", port, user, given["PGPASSWORD"])
        settings["PGPASSFILE"] = str(paths.PGPASS)
    if given.get("PGSERVICE"):
        settings["PGSERVICE"] = given["PGSERVICE"]
    return Server(host, port, user, own=False, settings=settings)


def check_server(version, user, may_create_databases, may_create_roles, version_text):
    """Raise SetupError unless Odoo and the worker can live on this server."""
    if version < MINIMUM_VERSION:
        raise SetupError(
            f"The PostgreSQL server has version {version_text}; OdooOps needs {MINIMUM_VERSION} or "
            "newer. Name another one in PGHOST and PGPORT, or unset the PG* variables."
        )
    if user == "postgres":
        raise SetupError(
            "Odoo refuses to work as the database user `postgres`: make another role "
            "(CREATE ROLE odooops LOGIN CREATEDB CREATEROLE PASSWORD '...') and name it in PGUSER."
        )
    for allowed, right in ((may_create_databases, "CREATEDB"), (may_create_roles, "CREATEROLE")):
        if not allowed:
            raise SetupError(
                f"The database role {user} lacks the right {right}, which runs need for databases "
                f"and roles of their own: let an administrator execute ALTER ROLE {user} {right}."
            )


def _write_pgpass(host, port, user, password):
    parts = [re.sub(r"([\\:])", r"\\\1", part) for part in (host, str(port), "*", user, password)]
    paths.write_private(paths.PGPASS, ":".join(parts) + "\n")


def _one_line(text):
    return " ".join(text.split())
