"""`make chaos`: `chaos/` against a PostgreSQL server of its own, which it stops and crashes.

The addon is installed once per state of its files, in a database that each run copies. What the
program needs stands in its environment: the PG* variables, and with the prefix ODOOOPS_CHAOS_ its
folder (…_FOLDER).
"""

import contextlib
import os
import shutil
import signal
import subprocess

from . import cluster, database, lifecycle, needs, paths, processes, state, venv
from .errors import SetupError
from .progress import note

FOLDER = paths.LOCAL / "chaos"
TEMPLATE, NAME = "odooops_chaos_template", "odooops_chaos"
STOP_SECONDS = 60


def chaos(arguments):
    """Install the addon in a server of its own and run `chaos/run.py`; return its exit code."""
    paths.prepare_local()
    busy = "another `make chaos` is at work here, waiting for it"
    with processes.exclusive(paths.LOCAL / "lock-chaos", lambda: note(busy)):
        own = _prepared_cluster()
        try:
            return _run(own, arguments)
        finally:
            own.stop("immediate")


def _prepared_cluster():
    """A running server with the addon in a fresh database."""
    if needs.missing_programs(["docker"]) and "docker" in needs.required():
        raise SetupError("dockerd is missing (ODOOOPS_REQUIRE asks for it): install docker.io.")
    lifecycle.check_tools()
    with lifecycle.one_at_a_time():
        database.ensure_odoo()
        venv.ensure(["test", "postgres"])
        own = cluster.Cluster("chaos")
    files = database.files_hash()
    if own.exists() and state.load().get("chaos_database") == files:
        # Left running by a command that was killed.
        own.stop("immediate")
        own.start()
    else:
        state.save(chaos_database=None)
        own.make()
        database.renew(own.server, TEMPLATE, FOLDER)
        state.save(chaos_database=files)
    database.drop(own.server, NAME)
    database.copy(own.server, TEMPLATE, NAME)
    return own


def _run(own, arguments):
    work = FOLDER / "work"
    shutil.rmtree(work, ignore_errors=True)
    paths.private_folder(work)
    process = subprocess.Popen(
        [str(venv.python()), "-m", "chaos.run", *arguments],
        cwd=paths.ROOT,
        env={
            **database.odoo_environment(own.server, NAME),
            "ODOOOPS_CHAOS_FOLDER": str(work),
            "ODOOOPS_REQUIRE": os.environ.get("ODOOOPS_REQUIRE", ""),
        },
        start_new_session=True,
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
        raise
    finally:
        # Its workers are in its group, frozen ones too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
