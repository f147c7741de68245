"""What a workflow config may hold, as a JSON Schema: plain JSON, which other programs can use.

``docs/workflow.schema.json`` and ``docs/odooops-yml.schema.json`` are these schemas as files, for
editors; ``python3 -m worker.workflow_schema`` writes them anew. What no schema can say (names that
must agree, circles between steps) is judged in ``workflow.py``.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from .errors import ERROR_CODES

WORKFLOW_TYPES = ("build", "test", "deploy", "backup", "upgrade")
#: Types whose pipeline is built in: their config may do without ``steps``.
TYPES_WITH_RECIPE = ("build", "test")
#: Types that change a running deployment: not everybody who may write the others may write these.
GUARDED_TYPES = ("deploy", "backup", "upgrade")

DEFAULT_TIMEOUT = 3600
MAX_TIMEOUT = 86400
MAX_CANCEL_GRACE = 300
SECRET_NAME_LENGTH = 100

# Python's $ also matches before a final line end; the look-ahead closes that gap and means nothing
# in other dialects.
_END = "$(?!\\n)"
_ENV_NAME = "^[A-Z_][A-Z0-9_]*" + _END
_SECRET_NAME = "^[A-Z][A-Z0-9_]*" + _END
EXPIRE_IN = "^([1-9][0-9]{0,4}) (hour|day|week|month|year)s?" + _END
EXPIRE_SECONDS = {
    "hour": 3600,
    "day": 86400,
    "week": 604800,
    "month": 30 * 86400,
    "year": 365 * 86400,
}


def _text(pattern: str, reason: str, max_length: int, min_length: int = 1) -> dict[str, Any]:
    return {
        "type": "string",
        "minLength": min_length,
        "maxLength": max_length,
        "pattern": pattern,
        "x-reason": reason,
    }


#: Servers a run may have beside its steps.
MAX_SERVICES = 10
#: Seconds a service may take until it is ready, when nothing is said, and at most.
READY_SECONDS, MAX_READY_SECONDS = 60, 1800
_TOOL = _text(
    "^[A-Za-z0-9][A-Za-z0-9._/-]*(:[A-Za-z0-9][A-Za-z0-9._-]*)?" + _END,
    "must be the name of a tool, or name:version",
    200,
)
_WORDS = {
    "type": "array",
    "minItems": 1,
    "maxItems": 100,
    "items": _text("^[^\\u0000]*" + _END, "must not hold a NUL character", 8192, 0),
}
SECRET_FORMS = ("env", "file")
_SECRET_TEXT = _text(
    _SECRET_NAME, "is not a name of a secret (capital letters, digits and _)", SECRET_NAME_LENGTH
)
_ENV_NAMES = {
    "pattern": _ENV_NAME,
    "maxLength": 200,
    "x-reason": "is not a name of a variable (capital letters, digits and _)",
}
_ENV = {
    "type": "object",
    "maxProperties": 200,
    "propertyNames": _ENV_NAMES,
    "additionalProperties": _text("^[^\\u0000]*" + _END, "must not hold a NUL character", 32768, 0),
}
_TIMEOUT = {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT, "description": "Seconds."}

# Neither absolute nor with a part that is . or ..
_BELOW = "(?!/)(?!(.*/)?\\.\\.?(/|$))"
_PLAIN = "[^*?\\u0000-\\u001f\\\\]"
# With each further ** the tree is gone through once more for every level of it.
_PATH_PATTERN = _text(
    "^(?!/)(?!(.*/)?\\.\\.(/|$))(?!(.*\\*\\*){3})(?!.*([^/]\\*\\*|\\*\\*[^/]))"
    "[^\\u0000-\\u001f\\\\]+" + _END,
    "must be a path or pattern (* ? **) below the checkout, without ..; ** stands between slashes, "
    "twice at most",
    500,
)

#: Steps of one list after all matrices are unfolded, and those of one matrix.
MAX_STEPS, MAX_COMBINATIONS = 200, 50
MOMENTS = ("on_success", "always", "on_failure")
_STEP_NAME = _text("^[^\\u0000-\\u001f\\u007f]*" + _END, "must be one line of text", 100)
_STEP: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "run"],
    "properties": {
        "name": _STEP_NAME,
        "run": _text("^[^\\u0000]*" + "$", "must not hold a NUL character", 65536),
        "timeout": _TIMEOUT | {"description": "Seconds this step may take."},
        "when": {
            "enum": list(MOMENTS),
            "description": "on_success: when all it needs succeeded; on_failure: when not all did;"
            " always: in either case.",
        },
        "needs": {
            "type": "array",
            "description": "Names of the steps it comes after. Without it: all steps before it.",
            "uniqueItems": True,
            "maxItems": 100,
            "items": _STEP_NAME,
        },
        "matrix": {
            "type": "object",
            "description": "The step is run once for each combination of the values of these"
            f" variables, {MAX_COMBINATIONS} at most.",
            "minProperties": 1,
            "maxProperties": 6,
            "propertyNames": _ENV_NAMES,
            "additionalProperties": {
                "type": "array",
                "uniqueItems": True,
                "minItems": 1,
                "maxItems": MAX_COMBINATIONS,
                "items": _text(
                    "^[^\\u0000-\\u001f\\u007f]*" + _END, "must be one line of text", 200, 0
                ),
            },
        },
        "fail_fast": {
            "type": "boolean",
            "description": "Of a matrix: after the first failure skip the other combinations.",
        },
    },
}

_SERVICE: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": _text(
            "^[a-z]([a-z0-9-]*[a-z0-9])?" + _END,
            "must be the name of a host: small letters, digits and -, beginning with a letter",
            40,
        )
        | {
            "description": "Without a tool postgres, or postgres- and more: a PostgreSQL server"
            " that the worker starts. With one the name under which steps find it.",
        },
        "tool": _TOOL | {"description": "The image it runs in; the workflow has a tool, too."},
        "prefix": _text(
            "^[A-Z][A-Z0-9_]*_" + _END,
            "must be capital letters, digits and _, with _ at its end",
            40,
        )
        | {
            "description": "Of a PostgreSQL server of the worker: OTHER_ sets OTHER_PGHOST and so"
            " on, in place of PGHOST.",
        },
        "env": _ENV | {"description": "Variables of the service; it has none of the steps'."},
        "command": _WORDS
        | {"description": "Words of the command, in place of the image's; its entry point stays."},
        "ready": {
            "type": "object",
            "description": "How it is known that it is ready; the steps wait for that.",
            "additionalProperties": False,
            "properties": {
                "port": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 65535,
                    "description": "When something listens on this TCP port.",
                },
                "command": _WORDS
                | {"description": "When this command succeeds inside the service's container."},
                "timeout": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_READY_SECONDS,
                    "description": f"Seconds until it must be ready, {READY_SECONDS} when absent.",
                },
            },
        },
    },
}

CONFIG_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "OdooOps workflow config, version 1",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "tool": _TOOL,
        "timeout": _TIMEOUT | {"description": "Seconds the whole run may take."},
        "cancel_grace": {
            "type": "number",
            "description": "Seconds from SIGINT to SIGKILL, with SIGTERM half way, when the run is"
            " canceled or too slow. The worker's own setting when left out.",
            "minimum": 0,
            "maximum": MAX_CANCEL_GRACE,
        },
        "retry": {
            "type": "object",
            "description": "Queue a new run by itself when one fails for a cause named here.",
            "additionalProperties": False,
            "properties": {
                "max": {"type": "integer", "minimum": 0, "maximum": 10},
                "backoff": {
                    "type": "integer",
                    "description": "Seconds before the first retry, twice as long before each"
                    " further one, a day at most.",
                    "minimum": 0,
                    "maximum": 86400,
                },
                "on": {
                    "type": "array",
                    "uniqueItems": True,
                    "items": {"enum": sorted(ERROR_CODES)},
                },
            },
        },
        "concurrency_group": _text(
            "^[A-Za-z0-9][A-Za-z0-9 ._:/-]*" + _END,
            "must begin with a letter or digit and hold letters, digits, spaces and . _ : / -",
            100,
        ),
        "labels": {
            "type": "array",
            "description": "A worker must offer all of them.",
            "uniqueItems": True,
            "maxItems": 20,
            "items": _text(
                "^[A-Za-z0-9][A-Za-z0-9._:-]*" + _END,
                "must begin with a letter or digit and hold letters, digits and . _ : -",
                60,
            ),
        },
        "env": _ENV | {"description": "Environment variables of every step."},
        "secrets": {
            "type": "array",
            "description": "The project's secrets that the steps get: a name, or name and as.",
            "uniqueItems": True,
            "maxItems": 100,
            "items": _SECRET_TEXT
            | {
                "type": ["string", "object"],
                "additionalProperties": False,
                "required": ["name"],
                "properties": {
                    "name": _SECRET_TEXT,
                    "as": {
                        "enum": list(SECRET_FORMS),
                        "description": "env: the variable of that name holds the value;"
                        " file: it holds the path of a file with the value.",
                    },
                },
            },
        },
        "database": {
            "type": "boolean",
            "description": "Give the run a PostgreSQL database and role of its own, and set PG*.",
        },
        "network": {
            "type": "boolean",
            "description": "Give the steps' containers, and those of services, a network with a way"
            " out. Without it they reach their database and services only. Steps that run as"
            " processes always have the host's.",
        },
        "modules": {
            "type": "array",
            "description": "Odoo modules to install or test. MODULES in env means the same.",
            "uniqueItems": True,
            "maxItems": 500,
            "items": _text(
                "^[A-Za-z0-9_]+" + _END, "is not a technical name of an Odoo module", 200
            ),
        },
        "steps": {
            "type": "array",
            "description": "Shell commands, each given as it is to /bin/sh -e -c.",
            "minItems": 1,
            "maxItems": 100,
            "items": _STEP,
        },
        "cache": {
            "type": "array",
            "description": "Folders to find as the last run left them that had the same key.",
            "maxItems": 20,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["path", "key"],
                "properties": {
                    "path": _text(
                        "^(~/)?"
                        + _BELOW
                        + "[^/*?\\u0000-\\u001f\\\\][^*?\\u0000-\\u001f\\\\]*"
                        + _END,
                        "must be a folder below the checkout, or below HOME with ~/ before it,"
                        " without .. or * ?",
                        300,
                    ),
                    "key": {
                        "type": "array",
                        "description": "Files of the checkout; a change of one begins a new cache.",
                        "uniqueItems": True,
                        "minItems": 1,
                        "maxItems": 20,
                        "items": _text(
                            f"^{_BELOW}{_PLAIN}+{_END}",
                            "must be a file below the checkout, without .. or * ?",
                            300,
                        ),
                    },
                    "name": _STEP_NAME | {"description": "Shown in the log; the path when absent."},
                },
            },
        },
        "services": {
            "type": "array",
            "description": "Servers of the run's own beside its steps.",
            "maxItems": MAX_SERVICES,
            "items": _SERVICE,
        },
        "junit": _PATH_PATTERN
        | {"description": "JUnit XML files the steps write; failed tests fail the run."},
        "artifacts": {
            "type": "array",
            "description": "Files to keep, found below the checkout when the steps have ended.",
            "maxItems": 100,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["path"],
                "properties": {
                    "path": _PATH_PATTERN,
                    "expire_in": _text(
                        EXPIRE_IN,
                        'must be like "30 days" (hours, days, weeks, months or years)',
                        20,
                    ),
                    "archive": {
                        "type": "boolean",
                        "description": "Keep a folder as one .tar.gz, not its files one by one.",
                    },
                    "optional": {
                        "type": "boolean",
                        "description": "No matching file is no failure.",
                    },
                    "when": {
                        "enum": ["always", "on_failure", "on_success"],
                        "description": "Keep it only of runs that failed, or succeeded.",
                    },
                },
            },
        },
    },
}

#: What ``.odooops.yml`` may change: the rest counts before there is a checkout.
REPOSITORY_KEYS = (
    "artifacts",
    "cache",
    "database",
    "env",
    "junit",
    "modules",
    "network",
    "secrets",
    "services",
    "steps",
    "timeout",
)

REPOSITORY_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "OdooOps .odooops.yml, version 1",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "types": {
            "type": "object",
            "description": "By type: for all workflows of the project that have it.",
            "additionalProperties": False,
            "properties": {name: {"$ref": "#/$defs/config"} for name in WORKFLOW_TYPES},
        },
        "workflows": {
            "type": "object",
            "description": "By name; wins over its type.",
            "additionalProperties": {"$ref": "#/$defs/config"},
        },
    },
    "$defs": {
        "config": {
            "type": "object",
            "description": "Each key takes the place of the same key of the stored configuration.",
            "properties": {key: CONFIG_SCHEMA["properties"][key] for key in REPOSITORY_KEYS},
        }
    },
}


def published() -> dict[str, dict[str, Any]]:
    """The schemas by the names of their files below ``docs``."""
    strict = copy.deepcopy(REPOSITORY_SCHEMA)
    # The worker says more about a key that does not belong there than a schema can.
    strict["$defs"]["config"]["additionalProperties"] = False
    return {"workflow.schema.json": CONFIG_SCHEMA, "odooops-yml.schema.json": strict}


def write(folder: Path) -> None:
    """Write the published schemas into a folder."""
    for name, schema in published().items():
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).resolve().parent.parent / "docs")
