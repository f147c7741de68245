"""`docs/errors.md`: every code a program can meet, what it means and what to do.

Codes come from where they are made; :mod:`remedies` must know all of them and no others.
"""

import re
from pathlib import Path

from odoo.addons import odooops
from odoo.addons.odooops.controllers.protocol import ERRORS, REFUSAL
from odoo.addons.odooops.models.ops_artifact_upload import CODES
from odoo.addons.odooops.worker.errors import ERROR_CODES

from . import remedies
from .markdown import code, table

ADDON = Path(odooops.__file__).resolve().parent


def sql():
    """The kernel's source as one text."""
    return "\n".join(path.read_text("utf-8") for path in sorted((ADDON / "sql").glob("*.sql")))


def refusals():
    """Codes with which the kernel refuses."""
    return set(re.findall(r"\brefuse\(\s*'([a-z_]+)'", sql()))


def waiting():
    """Codes of ``explain_wait``, in the order in which they are asked."""
    body = sql().partition("CREATE FUNCTION wait_reason")[2].partition("AS reason (")[0]
    found = re.findall(r"'([a-z_]+)',\s*(?:format\(|'[A-Z])", body)
    return list(dict.fromkeys(found))


def door():
    """Codes of the JSON-RPC door that are not the kernel's."""
    return {*ERRORS, "refused"} - refusals()


def uploads():
    """Codes with which an upload is refused, and that are not the kernel's."""
    source = (ADDON / "models" / "ops_artifact_upload.py").read_text("utf-8")
    given = re.findall(r"\b_refuse\(\s*\"([a-z_]+)\"", source)
    return {*given, *CODES.values()} - refusals()


def problems():
    """Sentences about codes that nobody explains, and explanations of codes that nobody makes."""
    found = []
    for what, made, explained in (
        ("error code of runs", set(ERROR_CODES), set(remedies.RUNS)),
        ("refusal of the kernel", refusals(), set(remedies.REFUSALS)),
        ("code of the JSON-RPC door", door(), set(remedies.DOOR)),
        ("code of uploads", uploads(), set(remedies.UPLOADS)),
        ("reason to wait", set(waiting()), set(remedies.WAITING)),
    ):
        found += [f"{what} {name}: write in reference/remedies.py what to do"
                  for name in sorted(made - explained)]  # fmt: skip
        found += [f"{what} {name}: nothing makes it, remove it from reference/remedies.py"
                  for name in sorted(explained - made)]  # fmt: skip
    return found


def render():
    """The document's text."""
    runs = [(code(name), means, remedies.RUNS[name]) for name, means in ERROR_CODES.items()]
    refused = [(code(name), *remedies.REFUSALS[name]) for name in sorted(refusals())]
    uploaded = [(code(name), *remedies.UPLOADS[name]) for name in sorted(uploads())]
    rpc = []
    for name in [*ERRORS, "refused"]:
        number, status = ERRORS.get(name, REFUSAL)
        means, remedy = remedies.DOOR.get(name) or remedies.REFUSALS[name]
        rpc.append((code(name), number, status, means, remedy))
    waits = [(code(name), *remedies.WAITING[name]) for name in waiting()]
    return f"""# Troubleshooting by code

Each code is for programs; a sentence for people stands beside it and names the case. Neither a run, nor a refusal, nor an
answer of the JSON-RPC door has a code that is not listed here. Only who completes a run by a program of their own may give another `error_code`.

## A run failed

`error_code` of a run: the console, `ops.runs`, `get_run`.

{table(("code", "means", "what to do"), runs)}
## A run waits

`code` of `explain_wait`; the first that holds. The console shows its sentence on each queued run.

{table(("code", "means", "what to do"), waits)}
## The kernel refused

`code` of an answer with `"success": false`; by SQL, and as `data.code` by JSON-RPC, there with number {REFUSAL[0]} and HTTP
{REFUSAL[1]} where the next table has no other. A refusal has changed nothing.

{table(("code", "means", "what to do"), refused)}
## The JSON-RPC door refused

`data.code` of an error. A batch is answered with HTTP 200 and its errors one by one.

{table(("code", "number", "HTTP", "means", "what to do"), rpc)}
## An upload was refused

`data.code` of the [methods for uploads](jsonrpc.md#uploads), with number {REFUSAL[0]} and HTTP {REFUSAL[1]}, besides those of the kernel.

{table(("code", "means", "what to do"), uploaded)}"""
