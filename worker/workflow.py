"""The configuration of a workflow, version 1: JSON Schema, defaults, and what is wrong.

The control plane refuses a wrong configuration when it is saved, the worker reads it from a run's
snapshot. Both use this module, so it may depend on nothing but jsonschema. ``CONFIG_SCHEMA`` is
plain JSON: editors and other programs can use it.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jsonschema

from .errors import ERROR_CODES

WORKFLOW_TYPES = ("build", "test", "deploy", "backup", "upgrade")
#: Types whose pipeline is built in: their config may do without ``steps``.
TYPES_WITH_RECIPE = ("build", "test")

DEFAULT_TIMEOUT = 3600
MAX_TIMEOUT = 86400
MAX_CANCEL_GRACE = 300
SECRET_NAME_LENGTH = 100

# Python's $ also matches before a final line end; the look-ahead closes that gap and means nothing
# in other dialects.
_END = "$(?!\\n)"
_ENV_NAME = "^[A-Z_][A-Z0-9_]*" + _END
_SECRET_NAME = "^[A-Z][A-Z0-9_]*" + _END
_EXPIRE_IN = "^([1-9][0-9]{0,4}) (hour|day|week|month|year)s?" + _END
_EXPIRE_SECONDS = {
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


SECRET_FORMS = ("env", "file")
_SECRET_TEXT = _text(
    _SECRET_NAME, "is not a name of a secret (capital letters, digits and _)", SECRET_NAME_LENGTH
)
_TIMEOUT = {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT, "description": "Seconds."}

_PATH_PATTERN = _text(
    "^(?!/)(?!(.*/)?\\.\\.(/|$))[^\\u0000-\\u001f\\\\]+" + _END,
    "must be a path or pattern (* ? **) below the checkout, without ..",
    500,
)

CONFIG_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "OdooOps workflow config, version 1",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "tool": _text(
            "^[A-Za-z0-9][A-Za-z0-9._/-]*(:[A-Za-z0-9][A-Za-z0-9._-]*)?" + _END,
            "must be the name of a tool, or name:version",
            200,
        ),
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
        "env": {
            "type": "object",
            "description": "Environment variables of every step.",
            "maxProperties": 200,
            "propertyNames": {
                "pattern": _ENV_NAME,
                "maxLength": 200,
                "x-reason": "is not a name of a variable (capital letters, digits and _)",
            },
            "additionalProperties": _text(
                "^[^\\u0000]*" + _END, "must not hold a NUL character", 32768, 0
            ),
        },
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
            "description": "Give the steps' containers a network with a way out. Without it they"
            " reach their database only. Steps that run as processes always have the host's.",
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
            "description": "Shell commands run in order; each is given as it is to /bin/sh -e -c.",
            "minItems": 1,
            "maxItems": 100,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "run"],
                "properties": {
                    "name": _text(
                        "^[^\\u0000-\\u001f\\u007f]*" + _END, "must be one line of text", 100
                    ),
                    "run": _text("^[^\\u0000]*" + "$", "must not hold a NUL character", 65536),
                    "timeout": _TIMEOUT | {"description": "Seconds this step may take."},
                },
            },
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
                        _EXPIRE_IN,
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

_VALIDATOR = jsonschema.Draft202012Validator(CONFIG_SCHEMA)
_TYPE_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


class ConfigProblem(NamedTuple):
    """One thing wrong: where (``steps[0].run``; empty for the whole), why (end of a sentence)."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or 'The configuration'} {self.reason}"


def validate_config(workflow_type: str, config: Any) -> list[ConfigProblem]:
    """Return all problems of ``config``, sorted by path; none when it may be saved and run."""
    problems = set()
    if workflow_type not in WORKFLOW_TYPES:
        problems.add(ConfigProblem("", f"is of the unknown type {workflow_type!r}"))
    for error in _VALIDATOR.iter_errors(config):
        problems.update(_problems_of(error))
    if isinstance(config, Mapping):
        problems.update(_cross_problems(workflow_type, config))
        problems.update(
            ConfigProblem(path, "holds half of a character (a lone surrogate)")
            for path in _surrogates(config)
        )
    return sorted(problems)


def with_defaults(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a deep copy of a valid config in which every optional setting is present."""
    full = copy.deepcopy(dict(config or {}))
    full["timeout"] = int(full.get("timeout") or DEFAULT_TIMEOUT)
    retry = full.get("retry") or {}
    full["retry"] = {"max": int(retry.get("max", 0)), "on": list(retry.get("on", ["worker_lost"]))}
    for key in ("tool", "concurrency_group", "junit", "cancel_grace"):
        full.setdefault(key, None)
    for key in ("labels", "steps", "artifacts"):
        full[key] = list(full.get(key) or [])
    full["secrets"] = [
        {"as": "env", **(item if isinstance(item, Mapping) else {"name": item})}
        for item in full.get("secrets") or []
    ]
    full["env"] = dict(full.get("env") or {})
    for key in ("database", "network"):
        full[key] = bool(full.get(key, False))
    full["modules"] = list(full.get("modules") or []) or _names(full["env"].get("MODULES", ""))
    return full


def secret_names(config: Mapping[str, Any]) -> list[str]:
    """Names of the secrets a config asks for, in its order; what is no name is left out."""
    items = config.get("secrets")
    names = [
        item.get("name") if isinstance(item, Mapping) else item
        for item in (items if isinstance(items, list) else [])
    ]
    return [name for name in names if isinstance(name, str)]


def cancel_grace(snapshot: Mapping[str, Any], default: float) -> float:
    """Seconds of grace of a run's processes by its snapshot; ``default`` when it says nothing."""
    wanted = (snapshot.get("config") or {}).get("cancel_grace")
    is_number = isinstance(wanted, (int, float)) and not isinstance(wanted, bool)
    return min(max(wanted, 0), MAX_CANCEL_GRACE) if is_number else default


def expire_seconds(expire_in: str) -> int:
    """Seconds of a duration like ``30 days``; a month counts 30 days, a year 365.

    Raises ValueError.
    """
    match = re.match(_EXPIRE_IN, expire_in)
    if not match:
        raise ValueError(f"Not a duration: {expire_in!r}")
    return int(match[1]) * _EXPIRE_SECONDS[match[2]]


def _names(value: str) -> list[str]:
    return [name for name in re.split(r"[,\s]+", value) if name]


def _cross_problems(workflow_type: str, config: Mapping[str, Any]) -> Iterator[ConfigProblem]:
    """What no single part of the config shows: the rules between parts."""
    if (
        workflow_type in WORKFLOW_TYPES
        and workflow_type not in TYPES_WITH_RECIPE
        and "steps" not in config
    ):
        yield ConfigProblem(
            "steps", f"is missing: a workflow of type {workflow_type} has no built-in steps"
        )
    env = config.get("env")
    secrets = secret_names(config)
    for index, name in enumerate(secrets):
        if name.startswith("ODOOOPS_"):
            yield ConfigProblem(
                f"secrets[{index}]",
                "is reserved: names beginning with ODOOOPS_ are set by the worker",
            )
        if name in secrets[:index]:
            yield ConfigProblem(f"secrets[{index}]", f"names {name} a second time")
    if isinstance(env, Mapping):
        for name in env:
            if isinstance(name, str) and name.startswith("ODOOOPS_"):
                yield ConfigProblem(
                    f"env.{name}",
                    "is reserved: names beginning with ODOOOPS_ are set by the worker",
                )
            if name in secrets:
                yield ConfigProblem(f"env.{name}", "is also named in secrets")
        if "MODULES" in env and config.get("modules"):
            yield ConfigProblem("modules", "is given twice: here and as MODULES in env")


def _surrogates(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _surrogates(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _surrogates(item, f"{path}[{index}]")


def _path_of(parts: Any) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _problems_of(error: jsonschema.ValidationError) -> Iterator[ConfigProblem]:
    """Say in plain words what jsonschema found."""
    path, schema, value = _path_of(error.absolute_path), error.schema, error.instance
    kind = error.validator
    if kind == "additionalProperties" and schema["additionalProperties"] is False:
        known = sorted(schema["properties"])
        for key in value:
            if key not in schema["properties"]:
                close = difflib.get_close_matches(str(key), known, 1)
                hint = f", did you mean {close[0]}?" if close else f" (known: {', '.join(known)})"
                yield ConfigProblem(f"{path}.{key}".lstrip("."), "is not a known setting" + hint)
    elif kind == "required":
        for key in error.validator_value:
            if key not in value:
                yield ConfigProblem(f"{path}.{key}".lstrip("."), "is missing")
    elif "propertyNames" in error.absolute_schema_path:
        yield ConfigProblem(f"{path}.{value}".lstrip("."), schema["x-reason"])
    else:
        yield ConfigProblem(path, _reason(kind, error.validator_value, schema, value))


def _reason(kind: str, limit: Any, schema: Mapping[str, Any], value: Any) -> str:
    if kind == "type":
        kinds = [limit] if isinstance(limit, str) else limit
        return f"must be {' or '.join(_TYPE_NAMES[kind] for kind in kinds)}"
    if kind in ("minimum", "maximum"):
        return f"must be between {schema['minimum']} and {schema['maximum']}"
    if kind == "pattern":
        return schema["x-reason"]
    if kind == "enum":
        close = difflib.get_close_matches(str(value), limit, 1)
        return f"must be one of {', '.join(limit)}" + (
            f" (did you mean {close[0]}?)" if close else ""
        )
    if kind == "minLength":
        return "must not be empty"
    if kind == "maxLength":
        return f"must not be longer than {limit} characters"
    if kind in ("minItems", "maxItems", "maxProperties"):
        return f"must hold {'at least' if kind == 'minItems' else 'at most'} {limit} entries"
    if kind == "uniqueItems":
        return "must not name the same entry twice"
    return "is not valid"
