"""The two programs of a running OdooOps: the Odoo server and a worker."""

import contextlib
import time
import urllib.error
import urllib.request

from . import database, paths, ports, processes, state
from .errors import SetupError
from .progress import step

SERVER = "odoo"
WORKER = "worker"
FIRST_PORT = 8069
READY_SECONDS = 120
SERVER_GRACE = 15
WORKER_GRACE = 30
WORKER_PATIENCE = 3
LOG_FILES = {SERVER: paths.LOGS / "odoo.log", WORKER: paths.LOGS / "worker.log"}
LOG_LIMIT = 20_000_000  # bytes; a longer log is set aside at the next start


def start_server(server, name, data_dir):
    """Start Odoo on a free port of the loopback address; return its URL."""
    preferred = state.load().get("http_port")
    with step("Starting Odoo"):
        for _ in range(5):
            port = ports.free(FIRST_PORT, preferred)
            _write_configuration(server, name, data_dir, port)
            _set_long_log_aside(LOG_FILES[SERVER])
            argv = database.odoo_argv("-c", paths.ODOO_CONF)
            process = processes.spawn(
                SERVER, argv, database.odoo_environment(server, name), LOG_FILES[SERVER]
            )
            if _wait_until_ready(process, port):
                state.save(http_port=port)
                return f"http://127.0.0.1:{port}"
            processes.stop(SERVER, SERVER_GRACE)
            preferred = port + 1  # another program was faster on this one
    raise SetupError(f"Odoo found no free port from {FIRST_PORT} on: stop some servers.")


def server_url():
    """Address of the recorded server."""
    return f"http://127.0.0.1:{state.load().get('http_port', FIRST_PORT)}"


def start_worker(server, name):
    """Start a worker that runs steps as processes of this user."""
    _set_long_log_aside(LOG_FILES[WORKER])
    argv = database.odoo_argv(
        f"--addons-path={paths.ADDONS}",
        "ops_worker",
        "-d", name,
        "-c", paths.ODOO_CONF,
        "--allow-process",
    )  # fmt: skip
    with step("Starting a worker"):
        process = processes.spawn(
            WORKER, argv, database.odoo_environment(server, name), LOG_FILES[WORKER]
        )
        # A worker with wrong settings ends at once.
        if process.wait(2):
            raise processes.failed("The worker did not start.", LOG_FILES[WORKER])


def stop_all():
    """Stop worker and server; return the names of those that ran."""
    # The worker first: it still has something to say to the database.
    stopped = []
    # A worker lets its runs end at the first signal, and ends them at the second.
    for name, grace, patience in (
        (WORKER, WORKER_GRACE, WORKER_PATIENCE),
        (SERVER, SERVER_GRACE, None),
    ):
        if processes.recorded(name):
            with step(f"Stopping the {name if name == WORKER else 'Odoo server'}"):
                processes.stop(name, grace, ask_again_after=patience)
            stopped.append(name)
    return stopped


def _write_configuration(server, name, data_dir, port):
    paths.private_folder(data_dir)
    options = {
        "addons_path": paths.ADDONS,
        "admin_passwd": state.secret("master_password"),
        "data_dir": data_dir,
        "db_name": name,
        "dbfilter": f"^{name}$",
        "db_host": server.host or "False",
        "db_port": server.port,
        "db_user": server.user,
        "http_interface": "127.0.0.1",
        "http_port": port,
        "list_db": "False",
        "proxy_mode": "False",
        "workers": 0,
    }
    lines = ["; Written at every start.", "[options]"]
    lines += [f"{key} = {value}" for key, value in options.items()]
    paths.write_private(paths.ODOO_CONF, "\n".join(lines) + "\n")


def _wait_until_ready(process, port):
    """Wait for the server's first answer; False when another program has the port."""
    log = LOG_FILES[SERVER]
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if not process.is_alive():
            if "Address already in use" in processes.tail(log):
                return False
            raise processes.failed("Odoo ended at its start.", log)
        if _answers(port):
            return ports.listens(process.pid, port) is not False
        time.sleep(0.2)
    raise processes.failed(f"Odoo did not answer within {READY_SECONDS} s.", log)


def _answers(port):
    with contextlib.suppress(urllib.error.URLError, OSError):
        # No proxy: the address is this machine's own.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/web/health", timeout=10) as answer:
            return answer.status == 200
    return False


def _set_long_log_aside(log):
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".old.log"))
