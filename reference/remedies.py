"""What to do about each code; what it means stands in the code itself, or here where it does not.

A code without a remedy, or a remedy without a code, stops `make docs`.
"""

#: Codes of ``worker/errors.py``.
RUNS = {
    "exit_code": "Read the log where it is marked; the step, its command and its exit code stand there."
    " Try the command by hand in a checkout of the run's commit.",
    "canceled": "Nothing. The run says who canceled it and why; restart it if that was a mistake.",
    "timeout": "See in the log what took so long. Raise `timeout` of the workflow or of the step if"
    " the work is worth it.",
    "worker_lost": "Look at the worker's own log and at its host: was it killed, rebooted, cut off?"
    ' With `"retry": {"max": 1}` in its configuration a workflow is queued again by itself.',
    "setup_error": "The message names what is missing: a key of the configuration, a secret, a program"
    " or a label of the worker. Mend that and restart the run.",
    "repository_unreachable": "Try `git ls-remote URL` on the worker's host as the worker's user:"
    " address, network, credentials.",
    "unknown_ref": "Push the branch or the commit, or correct the reference of the run or workflow.",
    "no_addons": "The checkout needs folders with a `__manifest__.py` that is installable; the message says how"
    " deep it looked. Is it the right repository and branch?",
    "unknown_module": "Correct `modules`, or make the repository that holds the module available to"
    " the worker (`--odoo-addons`).",
    "syntax_error": "The message names file and line. Mend it, commit, queue again.",
    "missing_dependency": "Put a Python package into the repository's `requirements.txt`; give a module"
    " by `--odoo-addons`; install a program on the worker's host or in the tool's image.",
    "install_failed": "The log is marked at Odoo's error. Install the module in a database of your own"
    " to see the same.",
    "tests_failed": "The run's page names the tests that failed; the log is marked at the first.",
    "no_tests": "Name modules that have tests under `modules`, or write some. A run that tests nothing proves nothing.",
    "database_error": "The message has PostgreSQL's reason. The worker's role needs `CREATEDB` and"
    " `CREATEROLE` where `--runs-dsn` points to.",
    "artifact_missing": 'Correct the pattern under `artifacts`, or say `"optional": true`.',
    "store_unavailable": "See the settings of the store ([artifacts](artifacts.md)) and *Test connection*;"
    " the worker's log has the store's answer.",
    "registry_unavailable": "Try `docker pull IMAGE` on the worker's host: address, network, credentials of the tool.",
    "service_failed": "The message ends with the last lines of the service, and the run's log has more of"
    " them. Give it what it misses (`env`, `command`), more `memory` in its tool, or more time (`ready`).",
    "disk_full": "Free space where the worker has its work folder (`--work-dir`) and where PostgreSQL"
    " keeps the databases of runs.",
    "lease_lost": "The worker could not reach the control plane for a minute: network, or a database"
    " that was away. The run may be restarted.",
    "internal_error": "A fault of OdooOps, or an environment nobody thought of. The worker's own log"
    " has the traceback: please report it.",
    "out_of_memory": "Give the step more memory (`memory` of the tool, `--run-memory-mb`), or the host;"
    " or run fewer at a time (`--capacity`).",
    "resource_limit": "Raise the limit of the tool, `--run-processes` or `--run-output-mb`, unless"
    " the step has run wild.",
}

#: Codes by which the kernel refuses: what it means, what to do.
REFUSALS = {
    "busy": (
        "What the call needs is in use by others at this moment.",
        "Repeat it later.",
    ),
    "conflict": (
        "It contradicts what is there: the same key with other contents, a token of another worker, a"
        " file that is on hold or gone.",
        "Do not repeat it as it is; the sentence says what is there.",
    ),
    "disabled": (
        "The project is archived, or the workflow is switched off.",
        "Switch it on in the console, or choose another one.",
    ),
    "forbidden": (
        "The role in this project, or the database role, does not allow it.",
        "Ask an owner of the project for another role; see [the roles of the SQL door](sql.md#roles).",
    ),
    "invalid_input": (
        "A value is wrong; the sentence says which and why.",
        "Correct it. The same call is refused again.",
    ),
    "invalid_state": (
        "The run is not in a state in which that can happen, or has ended.",
        "Read the run anew and decide again.",
    ),
    "log_gap": (
        "Lines between the last stored and the first sent are missing; `next_seq` says which comes next.",
        "Send again from `next_seq` on.",
    ),
    "not_found": (
        "There is no such record, or it is in a project that is not seen.",
        "Check the id, and whose login or key it is.",
    ),
    "not_holder": (
        "Another worker holds the run, or none.",
        "Stop the work; the run is not this worker's.",
    ),
    "stale_epoch": (
        "The run was taken from this worker, and may have been given to another.",
        "Stop the work and throw its results away.",
    ),
    "upload_gone": (
        "The upload was ended or removed, or what was sent is not there.",
        "Begin it anew.",
    ),
    "upload_limit": (
        "The run, or the worker in all its runs, has sent too much that it has not recorded.",
        "What is left of ended runs is removed within two hours; else raise Odoo's"
        " [limits](artifacts.md#where-they-lie), or ask what this worker is doing.",
    ),
}

#: Codes of the JSON-RPC door alone: what it means, what to do.
DOOR = {
    "parse_error": (
        "The body is no JSON in UTF-8; NaN and infinite numbers are none.",
        "Correct it.",
    ),
    "invalid_request": (
        "It is no JSON-RPC request, or a batch that is empty, too long or mixed.",
        "Send an object with `jsonrpc`, `id`, `method` and `params`.",
    ),
    "unknown_method": ("There is no such method.", "See [the methods](methods.md)."),
    "internal_error": (
        "A fault of the server, logged there under `incident`.",
        "Look for the incident in Odoo's log, and report it.",
    ),
    "unauthorized": (
        "No key, an expired or a revoked one, or one of the wrong kind. It never says which.",
        "Make a new one: *Configuration › New API key*; for a worker register the host again.",
    ),
    "method_not_allowed": ("Only POST is answered.", "Send a POST."),
    "too_large": ("The request has more than 16 MiB.", "Send less at a time."),
    "refused": (
        "A rule of Odoo's models refused; the sentence is theirs.",
        "Do what the sentence says.",
    ),
}

#: Codes of uploads alone, see docs/jsonrpc.md: what it means, what to do.
UPLOADS = {
    "store_failed": (
        "The store of Odoo failed: its disk is full, or it refuses Odoo.",
        "Look into Odoo's log, or free space; *Test connection* in the settings tries the store.",
    ),
    "store_unavailable": (
        "The store of Odoo could not be reached.",
        "Repeat it; then see the settings of the store ([artifacts](artifacts.md)).",
    ),
    "too_large": (
        "The file, all files of the run, or this part exceed what Odoo takes.",
        "Keep less, or raise Odoo's [limits](artifacts.md#where-they-lie).",
    ),
}

#: Codes of ``explain_wait``: what to do. Their sentences are made by the kernel.
WAITING = {
    "not_waiting": ("The run is not queued.", "Nothing."),
    "project_archived": ("The project is archived.", "Restore the project, or cancel the run."),
    "project_paused": ("The project is paused.", "Resume it on its page."),
    "scheduled_later": ("Its time has not come.", "Wait, or queue another one without a time."),
    "no_worker": (
        "No worker is alive.",
        "Start one, or switch on *Execute runs on this server*.",
    ),
    "no_matching_label": (
        "No live worker offers the labels that it asks for.",
        "Start one with these `--labels`, or correct `labels` of the workflow.",
    ),
    "limit_reached": (
        "The project has as many active runs as it may.",
        "Wait, or raise the project's limit.",
    ),
    "concurrency_group": (
        "Another run of its concurrency group is active, or goes first.",
        "Wait; cancel the other one if it is not wanted.",
    ),
    "waiting_for_slot": (
        "All workers are busy.",
        "Wait; start another worker, or raise `--capacity`.",
    ),
    "ready": ("A worker is about to take it.", "Nothing."),
}
