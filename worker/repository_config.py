"""The file ``.odooops.yml`` of a checkout, where the project lets it change a run's config.

Who may push is not who may configure: the file comes from whoever wrote the commit. So it changes
only what the worker alone decides when the checkout is there, asks for no secret and no network
that the stored config does not name, and is read with bounds on size, depth and what its aliases
stand for.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from .errors import RunError
from .workflow import ConfigProblem, problems_by, secret_names, validate_config, with_defaults
from .workflow_schema import (
    CONFIG_SCHEMA,
    DEFAULT_TIMEOUT,
    GUARDED_TYPES,
    REPOSITORY_KEYS,
    REPOSITORY_SCHEMA,
)

if TYPE_CHECKING:
    from .job import RunJob

FILE_NAME = ".odooops.yml"
MAX_BYTES = 256 << 10
#: Characters of the file when every alias is written out, and how deep values may lie.
MAX_EXPANDED, MAX_DEPTH = 512 << 10, 50

_KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


class Override(NamedTuple):
    """What the file says about one workflow."""

    #: where in the file, ``types.test``
    path: str
    #: the keys it sets
    config: Mapping[str, Any]
    #: SHA-256 of the file, hex
    checksum: str


def apply(job: RunJob) -> dict[str, Any] | None:
    """Let the checkout's file change the config of a run, and record that; the config from now on.

    None when there is no such file, the project does not allow it, or it says nothing about the
    workflow.

    :raises RunError: setup_error
    """
    workflow = job.snapshot["workflow"]
    if not os.path.lexists(job.checkout_dir / FILE_NAME):
        return None
    if not is_allowed(job.snapshot):
        job.log("info", f"{FILE_NAME} is not read: the project does not allow that here.")
        return None
    override = read(job.checkout_dir, workflow)
    if not override or not override.config:
        job.log("info", f"{FILE_NAME} says nothing about this workflow.")
        return None
    config = merged(workflow["workflow_type"], job.snapshot.get("config") or {}, override)
    keys = ", ".join(sorted(override.config))
    facts = {"file": FILE_NAME, "path": override.path, "sha256": override.checksum}
    job.event("info", f"{FILE_NAME} of the commit sets {keys}.", facts)
    job.log("info", f"{FILE_NAME} ({override.path}) sets {keys}")
    job.configure(with_defaults(config))
    return config


def is_allowed(snapshot: Mapping[str, Any]) -> bool:
    """Whether the project lets the file change runs of this workflow's type."""
    setting = snapshot["project"].get("repository_config")
    is_guarded = snapshot["workflow"]["workflow_type"] in GUARDED_TYPES
    return setting == "all" or (setting == "build_test" and not is_guarded)


def read(checkout: Path, workflow: Mapping[str, Any]) -> Override | None:
    """What the file of a checkout says about this workflow (``workflow_type``, ``name``).

    What it says about the workflow's name wins over what it says about its type, as a whole.

    :raises RunError: setup_error, with file, path and reason
    """
    data = _read_file(checkout / FILE_NAME)
    content = parse(data)
    _refuse(problems_by(REPOSITORY_SCHEMA, content))
    name, kind = workflow.get("name"), workflow["workflow_type"]
    for section, key in (("workflows", name), ("types", kind)):
        if key in (content.get(section) or {}):
            checksum = hashlib.sha256(data).hexdigest()
            return Override(f"{section}.{key}", content[section][key], checksum)
    return None


def merged(workflow_type: str, stored: Mapping[str, Any], override: Override) -> dict[str, Any]:
    """The stored config with the keys of the file in place of its own.

    :raises RunError: setup_error, with file, path and reason
    """
    problems = list(_withheld(stored, override.config))
    config = {**stored, **override.config}
    problems += [] if problems else validate_config(workflow_type, config)
    _refuse([_below(override.path, problem) for problem in problems])
    return config


def parse(data: bytes) -> Any:
    """The value of a YAML document, of JSON's types alone; an empty one is an empty mapping.

    :raises RunError: setup_error, with the line
    """
    try:
        loader = yaml.SafeLoader(data.decode("utf-8"))
        try:
            node = loader.get_single_node()
            if node is None:
                return {}
            _measure(node, {}, 0)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise _error(f"is not UTF-8 (byte {error.start + 1})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _error(f"is not valid YAML: {where}{error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        # The loader lets through what happens to it with a value that does not fit its tag.
        raise _error(f"is not valid YAML: {' '.join(str(error).split())[:200]}") from error
    except RecursionError as error:
        raise _error("is nested too deeply") from error


def _read_file(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _error("is not a regular file")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _error("cannot be read: it must be a regular file, not a link") from error
    if len(data) > MAX_BYTES:
        raise _error(f"is larger than {MAX_BYTES >> 10} KiB")
    return data


def _measure(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Characters a node stands for, aliases written out; refuses what no config needs.

    A few lines of aliases of aliases stand for more than any memory holds, and a merge key writes
    them out.
    """
    size = known.get(id(node))
    if size is not None:
        if size == 0:
            raise _at(node, "an alias stands inside of what it names")
        return size
    if depth > MAX_DEPTH:
        raise _at(node, "is nested too deeply")
    known[id(node)], size = 0, 1
    if isinstance(node, yaml.ScalarNode):
        size += len(node.value)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_measure(item, known, depth + 1) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            if key.tag not in _KEY_TAGS:
                raise _at(key, "the key must be a text (put it in quotes)")
            if key.value in keys:
                raise _at(key, f"the key {key.value} stands there twice")
            keys.add(key.value)
            size += 1 + len(key.value) + _measure(value, known, depth + 1)
    if size > MAX_EXPANDED:
        raise _at(node, f"stands for more than {MAX_EXPANDED >> 10} KiB with its aliases")
    known[id(node)] = size
    return size


def _withheld(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[ConfigProblem]:
    """What the file asks for and only the stored config may give."""
    problems = []
    for key in wanted:
        if key in CONFIG_SCHEMA["properties"] and key not in REPOSITORY_KEYS:
            reason = (
                "cannot be set in the repository: it counts when the run is queued, before there"
                " is a checkout"
            )
            problems.append(ConfigProblem(key, reason))
    limit = stored.get("timeout") or DEFAULT_TIMEOUT
    if isinstance(wanted.get("timeout"), (int, float)) and wanted["timeout"] > limit:
        reason = f"must not exceed the {limit} seconds of the workflow's own configuration"
        problems.append(ConfigProblem("timeout", reason))
    if wanted.get("network") is True and not stored.get("network"):
        reason = "cannot be allowed in the repository: the workflow's own configuration must do it"
        problems.append(ConfigProblem("network", reason))
    problems += _withheld_tools(stored, wanted)
    known = secret_names(stored)
    for index, name in enumerate(secret_names(wanted)):
        if name not in known:
            reason = (
                f"names {name}, which the workflow's own configuration does not name: who may push"
                " is not who may hand out secrets"
            )
            problems.append(ConfigProblem(f"secrets[{index}]", reason))
    return problems


def _withheld_tools(
    stored: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[ConfigProblem]:
    """A service's image counts when the run is queued: only those named there are known."""
    known = {each.get("tool") for each in stored.get("services") or ()}
    services = wanted.get("services")
    for index, each in enumerate(services if isinstance(services, list) else ()):
        tool = each.get("tool") if isinstance(each, Mapping) else None
        if tool is not None and tool not in known:
            reason = (
                f"names {tool}, which no service of the workflow's own configuration names: images"
                " count when the run is queued, before there is a checkout"
            )
            yield ConfigProblem(f"services[{index}].tool", reason)


def _below(path: str, problem: ConfigProblem) -> ConfigProblem:
    return ConfigProblem(f"{path}.{problem.path}".rstrip("."), problem.reason)


def _refuse(problems: list[ConfigProblem]) -> None:
    if problems:
        reasons = "; ".join(f"{problem.path} {problem.reason}".strip() for problem in problems[:3])
        raise RunError("setup_error", f"{FILE_NAME}: {reasons}.")


def _at(node: yaml.Node, reason: str) -> RunError:
    return _error(f"cannot be used: line {node.start_mark.line + 1}: {reason}")


def _error(reason: str) -> RunError:
    return RunError("setup_error", f"{FILE_NAME} {reason}.")
