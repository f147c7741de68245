"""`make test`: a fresh database with the addon, then pytest through Odoo's test machinery.

The tests find in their environment:

- PGHOST, PGPORT, PGUSER, PGPASSFILE, PGDATABASE: the server (the role may create databases and
  roles) and the database in which the addon is installed, without demo data;
- ODOOOPS_ODOO: the command that starts Odoo, to be split like a shell does;
- ODOOOPS_TEST_DIR: a folder of their own, removed at the next start;
- PATH: with the Python of the tests, and PostgreSQL's programs when the server is our own.

`make test ARGS="-k lease"` passes arguments on to pytest; `ARGS="tests/test_x.py"` names files.
`REUSE=1` keeps the database of the last time when the addon's files have not changed.
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import time

from . import (
    database,
    embedded,
    lifecycle,
    needs,
    paths,
    postgres,
    processes,
    services,
    state,
    typescript,
    venv,
)
from .errors import SetupError
from .progress import note, say

FOLDER = paths.LOCAL / "test"
DATA_DIR = FOLDER / "data"
RESULT = FOLDER / "result.json"
TESTS = paths.ADDONS / "odooops" / "tests"
NOTHING_COLLECTED = 5  # pytest's exit code


def test(arguments):
    """Install the addon in a database of its own and run the tests; return the exit code."""
    _check_programs()
    with prepared_database() as (server, name):
        typescript.prepare_tests()
        return _pytest(server, name, arguments)


@contextlib.contextmanager
def prepared_database():
    """The server and the name of a database with the addon, for the block and for nobody else."""
    paths.prepare_local()
    busy = "another command uses the database of the tests, waiting for it"
    with (
        processes.exclusive(paths.LOCAL / "lock-test", lambda: note(busy)),
        prepared_server() as server,
    ):
        venv.ensure(["test"])
        name = f"{lifecycle.database_name()}_test"
        _fresh_database(server, name)
        yield server, name


@contextlib.contextmanager
def prepared_server():
    """A running PostgreSQL for the block, and an Odoo; stopped again unless `make up` uses it."""
    lifecycle.check_tools()
    with lifecycle.one_at_a_time():
        database.ensure_odoo()
        if not postgres.is_external():
            venv.ensure(["postgres"])
        server = postgres.ensure_running()
        using = contextlib.ExitStack()
        using.enter_context(embedded.in_use())
    try:
        yield server
    finally:
        using.close()
        with lifecycle.one_at_a_time():
            if not processes.recorded(services.SERVER):
                embedded.stop()


def _check_programs():
    missing = needs.missing_programs(["chromium"])
    if not missing:
        return
    if "chromium" in needs.required():
        raise SetupError(
            "Chromium is missing (ODOOOPS_REQUIRE asks for it): apt-get install chromium."
        )
    note(
        "Chromium is missing: tests that drive the web client are skipped "
        "(on Debian and Ubuntu: apt-get install chromium)"
    )


def _fresh_database(server, name):
    files = database.files_hash()
    stamp = [server.host, server.port, name, files]
    unchanged = state.load().get("test_database") == stamp
    if os.environ.get("REUSE") and unchanged and database.is_installed(server, name):
        say(f"Using the database {name} of the last time (REUSE).")
        return
    state.save(test_database=None)
    database.renew(server, name, FOLDER)
    state.save(test_database=stamp)


def _pytest(server, name, arguments):
    arguments = [
        str(paths.ADDONS / "odooops" / argument) if argument.startswith("tests/") else argument
        for argument in arguments
    ]
    if not any(argument.startswith(str(TESTS)) for argument in arguments):
        arguments.append(str(TESTS))
    temporary = FOLDER / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    paths.private_folder(temporary)
    RESULT.unlink(missing_ok=True)
    environment = {
        **database.odoo_environment(server, name),
        "ODOOOPS_ODOO": shlex.join(database.odoo_argv()),
        "ODOOOPS_TEST_DIR": str(temporary),
        "ODOOOPS_TEST_RESULT": str(RESULT),
        "ODOOOPS_REQUIRE": os.environ.get("ODOOOPS_REQUIRE", ""),
    }
    argv = [
        str(venv.python()), "-m", "pytest", "-p", "devtools.ops_pytest",
        "-o", f"cache_dir={FOLDER / 'cache'}",
        f"--odoo-database={name}",
        f"--odoo-addons-path={paths.ADDONS}",
        f"--odoo-extra=data-dir={DATA_DIR}",
        "--odoo-extra=http-interface=127.0.0.1",
        "--odoo-http",
        "--odoo-log-level=error",
        *arguments,
    ]  # fmt: skip
    started = time.monotonic()
    code = subprocess.run(argv, cwd=paths.ROOT, env=environment, check=False).returncode
    _tell(code, time.monotonic() - started)
    return 1 if code else 0


def _tell(code, seconds):
    counts = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    if code == NOTHING_COLLECTED:
        say("make test: no test was selected, which proves nothing: a failure")
        return
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    verdict = "ok" if code == 0 else "FAILED"
    say(f"make test: {verdict}: {told or 'no counts'} in {seconds:.0f} s")
