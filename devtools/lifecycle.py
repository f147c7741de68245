"""`make run`, `make up`, `make down`, `make clean`: the whole of a running OdooOps.

Everything started is recorded with process number and start time; stopping looks at both, so that
after a crash or a reboot nobody else's process is touched.
"""

import contextlib
import os
import shlex
import shutil
import signal
from dataclasses import dataclass

from . import database, demo, embedded, follow, paths, postgres, processes, services, state, venv
from .errors import SetupError
from .progress import note, say, warn

BENCH_COPIES = ("_work", "_none", "_filled")
BENCH_PEERS = ("_graphile", "_procrastinate", "_procrastinate2")
LOGIN = "admin"
SERVICES = (*services.LOG_FILES, embedded.SERVICE)
DATA_DIR = paths.LOCAL / "data"


@dataclass(frozen=True)
class Site:
    """A running OdooOps."""

    url: str
    server: postgres.Server
    database: str
    already_running: bool


def up(_arguments):
    """Start everything in the background and return when the demo runs have ended."""
    with one_at_a_time():
        before = _running()
        try:
            site = _start()
        except BaseException:
            _stop_all_but(before)
            raise
    _wait_for_demo(site)
    _tell(site)
    say("It runs in the background; `make down` stops it.")
    return 0


def run(_arguments):
    """Start everything, follow the log until Ctrl-C, then stop everything again."""
    site, before = None, _running()
    try:
        with one_at_a_time():
            site = _start()
        follower = follow.Follower(services.LOG_FILES)
        try:
            _wait_for_demo(site)
        except SetupError as error:
            warn(str(error))
        _tell(site)
        say("Ctrl-C ends this.")
        ended = follower.until_one_ends()
        raise SetupError(
            f"The {ended} has ended by itself; its log is {services.LOG_FILES[ended]}."
        )
    except KeyboardInterrupt:
        say()
        return 0
    finally:
        if site and site.already_running:
            note("it ran before in the background and goes on; `make down` stops it")
        else:
            _stop_all_but(before)


def down(_arguments):
    """Stop everything this clone has started."""
    with one_at_a_time():
        stopped = _stop()
    say("Stopped." if stopped else "Nothing was running.")
    return 0


def clean(_arguments):
    """Stop everything and remove `.local`, with the databases in it."""
    if not paths.LOCAL.is_dir():
        say("There is nothing to remove.")
        return 0
    with one_at_a_time():
        services.stop_all()
        embedded.stop(force=True)
        _drop_given_databases()
        embedded.remove()
        shutil.rmtree(paths.LOCAL)
    say("Removed .local.")
    kept = paths.cache_dir()
    note(f"downloads are kept for other clones in {kept}")
    return 0


def database_name():
    """Name of the control plane's database."""
    return os.environ.get("ODOOOPS_DB") or state.load().get("database") or "odooops"


def _start():
    check_tools()
    found = database.ensure_odoo()
    if not postgres.is_external():
        venv.ensure(["postgres"])
    server = postgres.ensure_running()
    name = database_name()
    files = database.files_hash()
    target = [server.host, server.port, name]
    running = processes.recorded(services.SERVER) and processes.recorded(services.WORKER)
    if running and state.load().get("running") == [*target, files]:
        return Site(services.server_url(), server, name, already_running=True)
    services.stop_all()
    say(f"Odoo: {found.origin}")
    _ensure_addon(server, name, files)
    password = _ensure_admin(server, name)
    url = services.start_server(server, name, DATA_DIR)
    services.start_worker(server, name)
    state.save(running=[*target, files], database=name)
    _write_run_env(url, server, name, password)
    return Site(url, server, name, already_running=False)


def _ensure_addon(server, name, files):
    """Database and addon, as the files of this checkout say."""
    paths.private_folder(DATA_DIR)
    created = database.ensure(server, name)
    known = state.load()
    unknown = known.get("installed_database") != name
    if not created and unknown and not database.is_installed(server, name):
        # An installation that never came to its end: nothing in it is worth keeping.
        database.drop(server, name)
        created = database.ensure(server, name)
    if created:
        state.save(installed_database=None, installed_files=None, token=None)
        shutil.rmtree(DATA_DIR / "filestore" / name, ignore_errors=True)
    elif known.get("installed_files") == files:
        return
    demo.build_repository()
    database.install(
        server, name, DATA_DIR, demo=True, update=not created, extra_environment=demo.environment()
    )
    state.save(installed_database=name, installed_files=files)


def _ensure_admin(server, name):
    known = state.load()
    password = state.secret("admin_password")
    if not database.token_is_valid(server, name, known.get("token")):
        # Only a new database gets the password: later it may have been changed on purpose.
        first = known.get("token") is None
        token = database.prepare_admin(server, name, DATA_DIR, password if first else None)
        state.save(token=token)
    return password


def _write_run_env(url, server, name, password):
    values = {
        "ODOOOPS_URL": url,
        "ODOOOPS_DB": name,
        "ODOOOPS_LOGIN": LOGIN,
        "ODOOOPS_PASSWORD": password,
        "ODOOOPS_TOKEN": state.load()["token"],
        **server.environment(name),
    }
    lines = ["# For shells: set -a; . .local/run.env"]
    lines += [f"{key}={shlex.quote(value)}" for key, value in values.items()]
    paths.write_private(paths.RUN_ENV, "\n".join(lines) + "\n")


def _wait_for_demo(site):
    demo.wait_for_runs(site.server, site.database)


def _tell(site):
    say()
    say(f"OdooOps:   {site.url}/odoo")
    say(f"Login:     {LOGIN}")
    say(f"Password:  {state.secret('admin_password')}")
    say(f"For shells and scripts: set -a; . {shlex.quote(str(paths.RUN_ENV))}")


def check_tools():
    """Raise SetupError when a program is missing that nothing here can fetch."""
    if shutil.which("git") is None:
        raise SetupError("git is missing: install it (on Debian and Ubuntu: apt-get install git).")
    if "," in str(paths.ROOT) or "\n" in str(paths.ROOT):
        raise SetupError(
            f"Odoo loads no addons from a path with a comma in it ({paths.ROOT}): move the clone."
        )


@contextlib.contextmanager
def one_at_a_time():
    """Keep two commands in one clone from starting or stopping at the same time."""
    paths.prepare_local()
    lock = paths.LOCAL / "lock"
    with processes.exclusive(lock, lambda: note("another command is at work here, waiting for it")):
        yield


def _stop():
    stopped = services.stop_all()
    if embedded.stop():
        stopped.append(embedded.SERVICE)
    return stopped


def _running():
    """The services that run now."""
    return {name: processes.recorded(name) for name in SERVICES}


def _stop_all_but(before):
    """Stop what runs now and did not run before; a service started anew counts as new."""
    # A second Ctrl-C would leave half of it running.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        now = _running()
        if any(now[name] != before[name] for name in services.LOG_FILES):
            services.stop_all()
        if now[embedded.SERVICE] != before[embedded.SERVICE]:
            embedded.stop()
    finally:
        signal.signal(signal.SIGINT, previous)


def bench_database_names():
    """Databases of `make bench`: the one with the addon, its copies, those of other queues."""
    name = f"{database_name()}_bench"
    return [f"{name}{suffix}" for suffix in ("", *BENCH_COPIES, *BENCH_PEERS)]


def _drop_given_databases():
    """On a given server nothing of ours goes away with `.local`: drop it there."""
    if not postgres.is_external() or not venv.python().exists():
        return
    try:
        server = postgres.ensure_running()
        for name in (database_name(), f"{database_name()}_test", *bench_database_names()):
            database.drop(server, name)
    except (SetupError, postgres.SqlError) as error:
        note(f"the databases on the given server could not be dropped: {error}")
