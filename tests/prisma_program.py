"""What the tests of `prisma/` share: the compiled program, and a run of it as some login."""

import contextlib
import functools
import json
import os
import resource
import subprocess
import unittest
from urllib.parse import quote, urlencode

from odoo.sql_db import connection_info_for
from odoo.tests.common import get_db_name

from ..devtools import typescript

SECONDS = 120


@contextlib.contextmanager
def without_memory_limit():
    """Lift, for the processes started in the block, the limit that Odoo's server sets itself.

    It counts addresses, of which Node.js reserves many gigabytes without using them.
    """
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limits[1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@functools.cache
def compiled():
    """Command line of the program, compiled once per test run.

    :raise unittest.SkipTest: where there is no Node.js for it
    """
    if typescript.find_node() is None:
        raise unittest.SkipTest(
            "Node.js {}.{} or newer with npm is missing; `make prisma` fetches one".format(
                *typescript.OLDEST_NODE
            )
        )
    with without_memory_limit():
        return [str(part) for part in typescript.build()]


def database_url(login=None, password=None):
    """URL of the test database for a login; without one, for Odoo's own."""
    _name, info = connection_info_for(get_db_name())
    if login is None:
        login, password = info.get("user"), info.get("password")
    login = login or os.environ.get("PGUSER") or "odoo"
    credentials = quote(login, safe="") + (f":{quote(password, safe='')}" if password else "")
    # As a parameter the host may be the folder of a socket, too.
    place = {
        "host": info.get("host") or os.environ.get("PGHOST") or "localhost",
        "port": info.get("port") or os.environ.get("PGPORT") or 5432,
    }
    return f"postgresql://{credentials}@localhost/{quote(info['database'])}?{urlencode(place)}"


def execute(login=None, password=None):
    """Run the program as a login of the database; return the ended process."""
    program = compiled()
    with without_memory_limit():
        return subprocess.run(
            program,
            env={**os.environ, "DATABASE_URL": database_url(login, password)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


def visible(login=None, password=None):
    """What a login sees through Prisma: ``models``, ``relations``, ``enumerations``.

    See prisma/src/visible.ts. Two logins' answers may be compared.
    """
    ended = execute(login, password)
    if ended.returncode:
        raise AssertionError(f"the program ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return json.loads(ended.stdout)
