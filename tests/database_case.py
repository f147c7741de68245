"""A database of its own for tests of what lasts: installing, updating, uninstalling, restoring.

Odoo runs as a process, as it does for those who install the addon.
"""

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import psycopg2
from psycopg2 import sql

from odoo.sql_db import connection_info_for
from odoo.tests.common import BaseCase

from odoo.addons import odooops

from ..worker.database import drop_database
from .recipe_job import odoo_argv

#: The folder in which Odoo found this addon, under its name.
ADDONS = Path(odooops.__file__).parent.parent
#: One run of Odoo; installing takes some 20 seconds on a machine with nothing else to do.
TIMEOUT_SECONDS = 600


class OdooDatabase:
    """A database that Odoo makes at its first run, and a data directory for it.

    :param name: of the database
    :param folder: of this database alone
    :param addons: the folder in which the addon lies, under its name
    """

    def __init__(self, name, folder, addons=None):
        self.name = name
        self.data_dir = Path(folder) / "data"
        self.addons = addons or ADDONS

    def odoo(self, *arguments, script=None, environment=None):
        """Run Odoo to its end and return what it printed; raise AssertionError if it failed.

        :param script: source for ``odoo shell``, which commits at its end
        """
        command = [*odoo_argv(), *(["shell"] if script else [])]
        command += ["-d", self.name, f"--data-dir={self.data_dir}", "--no-http"]
        command += [f"--addons-path={self.addons}", "--max-cron-threads=0", "--log-level=warn"]
        command += arguments if script else [*arguments, "--stop-after-init"]
        self.data_dir.mkdir(parents=True, exist_ok=True)
        ended = subprocess.run(
            command,
            input=f"{script}\nenv.cr.commit()\nprint('done:' + 'end')\n" if script else None,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        # The shell prints a traceback and goes on.
        done = "done:end" in ended.stdout if script else not ended.returncode
        if not done:
            raise AssertionError(f"{' '.join(command)} failed:\n{ended.stdout[-6000:]}")
        return ended.stdout

    def connect(self, **parameters):
        """A connection in autocommit, as Odoo's role unless ``parameters`` say otherwise."""
        return connect(self.name, **parameters)

    def rows(self, statement, *values):
        """The rows of one statement on a connection of its own."""
        connection = self.connect()
        try:
            with connection.cursor() as cr:
                cr.execute(statement, values or None)  # pylint: disable=sql-injection
                return cr.fetchall() if cr.description else None
        finally:
            connection.close()

    def value(self, statement, *values):
        """The first value of one statement."""
        return self.rows(statement, *values)[0][0]

    def drop(self):
        """Drop the database, with the connections to it. What is gone is no error."""
        connection = connect("postgres")
        try:
            with connection.cursor() as admin:
                drop_database(admin, self.name)
        finally:
            connection.close()


class DatabaseCase(BaseCase):
    """A folder per class, and databases that are dropped after it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(tempfile.mkdtemp(dir=os.environ.get("ODOOOPS_TEST_DIR")))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)

    @classmethod
    def database(cls, purpose, addons=None):
        """A database that does not exist yet, with a name that no other test uses."""
        name = f"odooops_{purpose}_{uuid.uuid4().hex[:8]}"
        made = OdooDatabase(name, cls.folder / name, addons)
        cls.addClassCleanup(made.drop)
        return made


def connect(database, **parameters):
    """A connection to a database of the tests' server, in autocommit."""
    _name, given = connection_info_for(database)
    connection = psycopg2.connect(**{**given, **parameters})
    connection.autocommit = True
    return connection


def administer(statement, *names):
    """Execute a statement about databases or roles, whose names replace its ``{}``."""
    connection = connect("postgres")
    try:
        with connection.cursor() as cr:
            # pylint: disable-next=sql-injection
            cr.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
    finally:
        connection.close()
