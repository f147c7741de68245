"""The demo project: its git repository, and waiting until its first runs have ended."""

import importlib
import time

from . import paths, processes
from .errors import SetupError
from .postgres import SqlError
from .progress import note, say, step, warn
from .services import LOG_FILES, WORKER

REPOSITORY = paths.LOCAL / "demo-repository"
PROJECT = "demo"
WAIT_SECONDS = 600
EXPECTED_ERRORS = (None, "tests_failed")  # one of the demo's branches is broken on purpose
UNFINISHED = ("queued", "claimed", "running")


def build_repository():
    """Build the git repository of the demo project; return what it holds, None if none."""
    try:
        builder = importlib.import_module("devtools.demo_repository")
    except ModuleNotFoundError:
        note("there is no demo repository in this checkout: the demo runs will fail")
        return None
    with step("Building the demo project's git repository"):
        return builder.build(REPOSITORY)


def environment():
    """What the addon's demo data needs to know at its installation."""
    # As a URL, in which a blank of the path is escaped: workers refuse blanks.
    return {"ODOOOPS_DEMO_REPOSITORY": REPOSITORY.as_uri()}


def wait_for_runs(server, name):
    """Wait until every run of the demo project has ended, then list them.

    Raises SetupError with the end of the worker's log after ten minutes, or when the worker ends.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    with step("Waiting for the demo project's first runs"):
        while True:
            runs = _runs(server, name)
            unfinished = [run for run in runs if run[1] in UNFINISHED]
            if runs and not unfinished:
                break
            if processes.recorded(WORKER) is None:
                raise processes.failed("The worker has ended by itself.", LOG_FILES[WORKER])
            if time.monotonic() > deadline:
                waiting = ", ".join(f"run {run[0]} is {run[1]}" for run in unfinished)
                raise processes.failed(
                    f"After {WAIT_SECONDS // 60} minutes the demo runs have not ended "
                    f"({waiting or 'there are none'}). It all goes on running; `make down` ends "
                    "it.",
                    LOG_FILES[WORKER],
                )
            time.sleep(1)
    for number, status, workflow, error_code, error_message in runs:
        reason = f" ({error_message or error_code})" if error_code else ""
        say(f"  run {number} of {workflow}: {status}{reason}")
    if any(run[3] not in EXPECTED_ERRORS for run in runs):
        warn(f"The demo runs should not end like this; the worker's log is {LOG_FILES[WORKER]}.")


def _runs(server, name):
    try:
        return server.execute(
            "SELECT r.run_number, r.status, w.name, r.error_code, r.error_message"
            " FROM ops_run r"
            " JOIN ops_project p ON p.id = r.project_id JOIN ops_workflow w ON w.id = r.workflow_id"
            f" WHERE p.slug = '{PROJECT}' ORDER BY r.run_number",
            database=name,
        )[0]
    except SqlError as error:
        raise SetupError(f"The demo project's runs cannot be read: {error}") from error
