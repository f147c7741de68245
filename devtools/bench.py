"""`make bench`: the measurements of `benchmarks/`, in databases made for them.

They find PGHOST, PGPORT, PGUSER and PGPASSFILE in their environment, and with the prefix
ODOOOPS_BENCH_ the databases (…_DB), where the results go (…_RESULTS), and the programs of the
other queues (…_NODE, …_GRAPHILE, …_PROCRASTINATE). What cannot be installed is not measured.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess

from . import database, lifecycle, paths, processes, typescript, venv
from .errors import SetupError
from .progress import note, step
from .testing import prepared_server

FOLDER = paths.LOCAL / "bench"
RESULTS = paths.LOCAL / "bench.json"
VENV = paths.LOCAL / "venv-bench"
GRAPHILE = paths.ROOT / "benchmarks" / "graphile"
GRAPHILE_NODE = (22, 18)  # what graphile-worker 0.18 takes


def bench(arguments):
    """Install the addon in a database of its own and run benchmarks/run.py."""
    paths.prepare_local()
    if "--render" in arguments:
        return _render()
    busy = "another `make bench` is at work here, waiting for it"
    with (
        processes.exclusive(paths.LOCAL / "lock-bench", lambda: note(busy)),
        prepared_server() as server,
    ):
        venv.ensure(["test"])
        environment = {} if _is_alone(arguments) else _peers()
        try:
            environment |= _databases(server)
            return _run(server, arguments, environment)
        finally:
            for name in lifecycle.bench_database_names():
                database.drop(server, name)


def _render():
    if not RESULTS.exists():
        raise SetupError("There are no results yet: run `make bench` first.")
    return subprocess.run(
        [str(venv.python()), "-m", "benchmarks.run", "--render", f"--results={RESULTS}"],
        cwd=paths.ROOT,
        check=False,
    ).returncode


def _is_alone(arguments):
    return bool({"--quick", "--no-peers", "-h", "--help"} & set(arguments))


def _databases(server):
    name, *others = lifecycle.bench_database_names()
    database.renew(server, name, FOLDER)
    environment = {
        "ODOOOPS_BENCH_DB": name,
        "ODOOOPS_BENCH_RESULTS": str(RESULTS),
    }
    for other in others:
        suffix = other.removeprefix(name)
        database.drop(server, other)
        if suffix in lifecycle.BENCH_PEERS:
            database.ensure(server, other)
        else:
            database.copy(server, name, other)
        environment[f"ODOOOPS_BENCH{suffix.upper()}_DB"] = other
    return environment


def _run(server, arguments, environment):
    """Run the program. Interrupted it says what it has measured, and stops its own children: so
    it hears of Ctrl-C once, from us."""
    process = subprocess.Popen(
        [str(venv.python()), "-m", "benchmarks.run", *arguments],
        cwd=paths.ROOT,
        env={**database.odoo_environment(server, environment["ODOOOPS_BENCH_DB"]), **environment},
        start_new_session=True,
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
        raise
    finally:
        # The group is its own: what it has forked may be waiting for it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _peers():
    """Install the other queues; the variables that say where they are, or why they are not."""
    environment = {}
    for name, install in (
        ("GRAPHILE", _install_graphile),
        ("PROCRASTINATE", _install_procrastinate),
    ):
        try:
            environment |= install()
        except SetupError as error:
            note(f"{name.lower()} is not measured: {error}")
            environment[f"ODOOOPS_BENCH_{name}_MISSING"] = str(error).splitlines()[0]
    return environment


def _install_procrastinate():
    venv.ensure(["bench"], VENV)
    return {"ODOOOPS_BENCH_PROCRASTINATE": str(venv.python(VENV))}


def _install_graphile():
    if not typescript.find_node(GRAPHILE_NODE):
        venv.ensure(["node"])
    found = typescript.find_node(GRAPHILE_NODE)
    if not found:
        raise SetupError("Node.js {}.{} or newer with npm is missing.".format(*GRAPHILE_NODE))
    node, npm = found
    folder = paths.LOCAL / "graphile"
    wanted = hashlib.sha256((GRAPHILE / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "installed"
    folder.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json", "peer.mjs"):
        shutil.copyfile(GRAPHILE / name, folder / name)
    if not stamp.exists() or stamp.read_text(encoding="ascii") != wanted:
        with step("Installing the npm packages of benchmarks/graphile/"):
            processes.run_logged(
                [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                paths.LOGS / "graphile.log",
                env=typescript.environment(node),
                cwd=folder,
                failure="The npm packages of benchmarks/graphile/ could not be installed.",
            )
        stamp.write_text(wanted, encoding="ascii")
    return {"ODOOOPS_BENCH_NODE": str(node[0]), "ODOOOPS_BENCH_GRAPHILE": str(folder)}
