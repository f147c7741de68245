"""`docs/methods.md`: the methods of the JSON-RPC door with their parameters, from its own table."""

import inspect
import re
from pathlib import Path

from odoo.addons import odooops
from odoo.addons.odooops.controllers.methods import PEOPLE, TOKENS, WORKERS
from odoo.addons.odooops.models.ops_api import OpsApi

from .markdown import code, table

ADDON = Path(odooops.__file__).resolve().parent


def render():
    """The document's text."""
    people = [_section(name, parameters, _of_people(name)) for name, parameters in PEOPLE.items()]
    workers = [_section(name, parameters, _of_kernel(name)) for name, parameters in WORKERS.items()]
    tokens = [
        _section(name, parameters, f"With a {kind} token.")
        for name, (_method, kind, parameters) in TOKENS.items()
    ]
    return f"""# Methods of the JSON-RPC door

What each takes. How to call them, what they answer and how they refuse: [jsonrpc.md](jsonrpc.md); codes: [errors.md](errors.md).
Parameters go by name; one that may be left out may also be null. An unknown one is refused.

## For people and CI

With an API key, by the role of its user.

{"".join(people)}
## For workers

With a worker token, or the key of a platform administrator. Functions of the kernel, each committed by itself.

{"".join(workers)}
## For hosts

{"".join(tokens)}"""


def _section(name, parameters, means):
    rows = [
        (code(each), "yes" if parameter.is_required else "", parameter.check.means)
        for each, parameter in parameters.items()
    ]
    listed = table(("parameter", "required", "value"), rows) if rows else "No parameters.\n"
    return f"### {name}\n\n{means}\n\n{listed}\n".replace("\n\n\n\n", "\n\n")


def _of_people(name):
    return " ".join((inspect.getdoc(getattr(OpsApi, f"_{name}")) or "").split())


def _of_kernel(name):
    """The comment above the function in the kernel's source."""
    for path in sorted((ADDON / "sql").glob("*.sql")):
        found = re.search(
            rf"((?:^--[^\n]*\n)+)CREATE (?:OR REPLACE )?FUNCTION {name}\(",
            path.read_text(encoding="utf-8"), re.M,
        )  # fmt: skip
        if found:
            return " ".join(line.removeprefix("--").strip() for line in found[1].splitlines())
    return ""
