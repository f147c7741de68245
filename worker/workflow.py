"""The configuration of a workflow, version 1: JSON Schema, defaults, and what is wrong.

The control plane refuses a wrong configuration when it is saved, the worker reads it from a run's
snapshot. Both use this module, so it may depend on nothing but jsonschema.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jsonschema

from . import service_rules, step_plan
from .workflow_schema import (
    CONFIG_SCHEMA,
    DEFAULT_TIMEOUT,
    EXPIRE_IN,
    EXPIRE_SECONDS,
    MAX_CANCEL_GRACE,
    TYPES_WITH_RECIPE,
    WORKFLOW_TYPES,
)

RESERVED = "is reserved: names beginning with ODOOOPS_ are set by the worker"
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
    problems = set(problems_by(CONFIG_SCHEMA, config))
    if workflow_type not in WORKFLOW_TYPES:
        problems.add(ConfigProblem("", f"is of the unknown type {workflow_type!r}"))
    if isinstance(config, Mapping):
        problems.update(_cross_problems(workflow_type, config))
        if not any(p.path.startswith("services") for p in problems):
            problems.update(
                ConfigProblem(path, reason) for path, reason in service_rules.problems(config)
            )
        if "steps" in config and not any(p.path.startswith("steps") for p in problems):
            problems.update(_step_problems(config))
        problems.update(
            ConfigProblem(path, "holds half of a character (a lone surrogate)")
            for path in _surrogates(config)
        )
    return sorted(problems)


def problems_by(schema: Mapping[str, Any], value: Any) -> list[ConfigProblem]:
    """What is wrong with ``value`` by a JSON Schema of ``workflow_schema``, sorted by path."""
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    return sorted({problem for error in errors for problem in _problems_of(error)})


def with_defaults(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a deep copy of a valid config in which every optional setting is present."""
    full = copy.deepcopy(dict(config or {}))
    full["timeout"] = int(full.get("timeout") or DEFAULT_TIMEOUT)
    retry = full.get("retry") or {}
    full["retry"] = {"max": int(retry.get("max", 0)), "on": list(retry.get("on", ["worker_lost"]))}
    for key in ("tool", "concurrency_group", "junit", "cancel_grace"):
        full.setdefault(key, None)
    for key in ("labels", "steps", "artifacts", "cache", "services"):
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
    match = re.match(EXPIRE_IN, expire_in)
    if not match:
        raise ValueError(f"Not a duration: {expire_in!r}")
    return int(match[1]) * EXPIRE_SECONDS[match[2]]


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
                RESERVED,
            )
        if name in secrets[:index]:
            yield ConfigProblem(f"secrets[{index}]", f"names {name} a second time")
    if isinstance(env, Mapping):
        for name in env:
            if isinstance(name, str) and name.startswith("ODOOOPS_"):
                yield ConfigProblem(
                    f"env.{name}",
                    RESERVED,
                )
            if name in secrets:
                yield ConfigProblem(f"env.{name}", "is also named in secrets")
        if "MODULES" in env and config.get("modules"):
            yield ConfigProblem("modules", "is given twice: here and as MODULES in env")


def _step_problems(config: Mapping[str, Any]) -> Iterator[ConfigProblem]:
    """What is wrong between steps, each of which is well-formed."""
    for path, reason in step_plan.problems(config["steps"]):
        yield ConfigProblem(path, reason)
    secrets = secret_names(config)
    for index, step in enumerate(config["steps"]):
        for name in step.get("matrix", ()):
            path = f"steps[{index}].matrix.{name}"
            if name.startswith("ODOOOPS_"):
                yield ConfigProblem(path, RESERVED)
            if name in secrets:
                yield ConfigProblem(path, "is also named in secrets")


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
        # 3.10 is a number, and the same as 3.1: what was meant only quotes can say.
        is_scalar = value is not None and not isinstance(value, (list, Mapping))
        hint = " (put it in quotes)" if limit == "string" and is_scalar else ""
        return f"must be {' or '.join(_TYPE_NAMES[kind] for kind in kinds)}{hint}"
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
    if kind in ("minItems", "maxItems", "minProperties", "maxProperties"):
        return f"must hold {'at least' if kind.startswith('min') else 'at most'} {limit} entries"
    if kind == "uniqueItems":
        return "must not name the same entry twice"
    return "is not valid"
