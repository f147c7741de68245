"""A PostgreSQL server of its own, for commands that stop and crash it; programs of `embedded`.

Nobody else is connected to it: it has its own data folder, port and passwords below the home of the
embedded server, and goes with `make clean` like that one.
"""

import contextlib
import secrets

from . import embedded, paths, ports
from .errors import SetupError
from .postgres import ROLE, Server, run_sql

FIRST_PORT = 54420
START_SECONDS = 60


class Cluster:
    """One server in ``folder``; made anew by every ``make``."""

    def __init__(self, name):
        self.owner = embedded.find_owner()
        self.home = embedded.prepare_home(self.owner)
        self.folder = self.home / name
        self.data = self.folder / "data"
        self.pgpass = paths.LOCAL / f"pgpass-{name}"
        self.port = None

    @property
    def server(self):
        """The running server, as the role that Odoo and the worker use."""
        return Server("127.0.0.1", self.port, ROLE, own=True, settings=self._settings)

    @property
    def _settings(self):
        return {"PGPASSFILE": str(self.pgpass)}

    def exists(self):
        """Whether a server was made here."""
        return (self.data / "PG_VERSION").exists() and self.pgpass.exists()

    def make(self):
        """Make the server, its role and its passwords; what was here goes."""
        self.stop("immediate")
        embedded.run_as_owner(["rm", "-rf", self.folder], self.owner)
        self.folder.mkdir()
        self.owner.give(self.folder)
        administrator, password = secrets.token_urlsafe(18), secrets.token_urlsafe(18)
        embedded.initialise(self.home, self.data, self.owner, administrator)
        paths.write_private(self.pgpass, f"*:*:*:{ROLE}:{password}\n")
        self.start()
        by = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": embedded.ADMINISTRATOR,
            "PGPASSWORD": administrator,
            "PGDATABASE": "postgres",
        }
        attributes = "LOGIN CREATEDB CREATEROLE NOSUPERUSER"
        run_sql(by, [(f"CREATE ROLE {ROLE} {attributes} PASSWORD %s", [password])])

    def is_running(self):
        """Whether there is a server, as far as its file says."""
        return (self.data / "postmaster.pid").exists()

    def start(self):
        """Start it, on the port of the last time where there was one."""
        port = self.port or ports.free(FIRST_PORT)
        settings = self.data / "odooops.conf"
        settings.write_text(
            "listen_addresses = '127.0.0.1'\n"
            f"port = {port}\n"
            "unix_socket_directories = ''\n"
            "password_encryption = 'scram-sha-256'\n"
            "max_connections = 200\n",
            encoding="utf-8",
        )
        self.owner.give(settings)
        log = self.folder / "server.log"
        self._control("start", "-l", log, "-w", "-t", str(START_SECONDS))
        self.port = port

    def stop(self, mode="fast"):
        """Stop it: ``fast`` is orderly, ``immediate`` is what a crash leaves."""
        if self.is_running():
            with contextlib.suppress(SetupError):
                self._control("stop", "-m", mode, "-w", "-t", str(START_SECONDS))

    def remove(self):
        """Stop it and remove its files."""
        self.stop("immediate")
        embedded.run_as_owner(["rm", "-rf", self.folder], self.owner)
        self.pgpass.unlink(missing_ok=True)

    def _control(self, command, *options):
        program = embedded.programs(self.home) / "pg_ctl"
        embedded.run_as_owner([program, command, "-D", self.data, *options], self.owner)
