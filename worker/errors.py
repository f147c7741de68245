"""Why a run did not succeed, as data: the error codes of a run and the exceptions that carry them.

Every failed or canceled run has exactly one code of ``ERROR_CODES``. A code is for programs (retry
rules name codes), the message beside it is a sentence for people which names the cause and never
holds a secret or a traceback.
"""

from __future__ import annotations

ERROR_CODES: dict[str, str] = {
    "exit_code": "A step ended with an exit code other than zero.",
    "canceled": "Somebody canceled the run and the worker stopped its work.",
    "timeout": "The run or one of its steps took longer than it may.",
    "worker_lost": "The worker ended, was stopped or lost contact while the run was running.",
    "setup_error": "Something the run needs is missing in its configuration or on the worker.",
    "repository_unreachable": "The git repository could not be read.",
    "unknown_ref": "The git repository has no such branch, tag or commit.",
    "no_addons": "The checkout holds no installable Odoo module.",
    "unknown_module": "A module named by the run is in no addons path.",
    "syntax_error": "A file of a module is not valid Python, XML or CSV.",
    "missing_dependency": "A module needs a module, Python package or program that is missing.",
    "install_failed": "Odoo could not install or update the modules.",
    "tests_failed": "At least one test failed.",
    "no_tests": "No test was run although the run was to run tests.",
    "database_error": "The database of the run could not be made or reached.",
    "artifact_missing": "A file the run was to keep was not there when its steps had ended.",
    "store_unavailable": "The store of artifacts could not be reached, or failed.",
    "registry_unavailable": "The registry of the tool's image could not be reached, or failed.",
    "service_failed": "A service of the run did not get ready, or ended before the steps did.",
    "disk_full": "The worker's disk is full.",
    "lease_lost": "The worker could not renew its lease in time and stopped the work.",
    "internal_error": "The worker itself failed; its own log says how.",
    "out_of_memory": "A process of the run was killed because memory ran out.",
    "resource_limit": "The run started more processes or wrote more output than it may.",
}


class RunError(Exception):
    """The run fails with ``code`` (of ``ERROR_CODES``) and ``message`` (a sentence for people).

    ``exit_code`` is reported beside it; it defaults to 1, since zero means success.
    """

    def __init__(self, code: str, message: str, exit_code: int = 1) -> None:
        if code not in ERROR_CODES:
            raise ValueError(f"Unknown error code of a run: {code!r}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.exit_code = exit_code


class RunStopped(RunError):
    """The work was stopped from outside: canceled, past its time, lease lost, worker stopping.

    Recipes let it pass: nothing they do afterwards counts any more.
    """
