"""Which executor a run gets, and what its tool says about limits and isolation.

A workflow that names a tool runs in a container of the tool's image where the worker has Docker.
Everything else runs as local processes, where the worker was allowed to.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from ..settings import Settings
from .base import ExecutorError, Limits

#: Labels a worker offers by what it was started with.
LABELS = {"process": "process", "docker": "docker"}
_SIZE = re.compile(r"([1-9]\d{0,15})(k|m|g|)", re.IGNORECASE)
#: As workflows name them, see ``workflow.CONFIG_SCHEMA``.
SECRET_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,99}")
_USER = re.compile(r"[0-9]{1,10}(:[0-9]{1,10})?")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def offered_labels(settings: Settings) -> tuple[str, ...]:
    """The operator's labels and one for each executor of this worker."""
    own = {"process": settings.allow_process, "docker": settings.docker}
    found = [LABELS[name] for name, is_on in own.items() if is_on]
    return tuple(dict.fromkeys((*settings.labels, *found)))


def default_limits(settings: Settings) -> Limits:
    """What the worker's settings allow a step."""
    return Limits(
        memory=settings.run_memory_mb << 20 or None,
        cpus=settings.run_cpus or None,
        processes=settings.run_processes or None,
        output=settings.run_output_mb << 20 or None,
    )


@dataclasses.dataclass(frozen=True)
class RegistryAuth:
    """How a tool's image is had from its registry: the password is a secret of the project."""

    username: str
    #: name of the secret
    password_secret: str


@dataclasses.dataclass(frozen=True)
class Tool:
    """What a row of the tool registry says, checked."""

    name: str
    image: str
    digest: str | None
    limits: Limits
    read_only: bool = True
    tmp_size: int = 256 << 20
    #: the command that starts the image's Odoo
    odoo: tuple[str, ...] = ("odoo",)
    registry_auth: RegistryAuth | None = None
    #: of services: user, or user and group, by number; "" is the worker's own
    user: str = ""


def read_tool(row: Mapping[str, Any], limits: Limits) -> Tool:
    """The tool of a run's snapshot; its ``config`` may change limits and isolation.

    :raises ExecutorError: when the config is wrong, with the name of the setting
    """
    name = f"{row['tool_name']}:{row['version']}"
    config = row.get("config") or {}
    if not isinstance(config, dict):
        raise ExecutorError(f"The config of the tool {name} must be an object.")
    unknown = sorted(set(config) - set(_READERS))
    if unknown:
        raise ExecutorError(
            f"The tool {name} has the unknown setting {unknown[0]}"
            f" (known: {', '.join(sorted(_READERS))})."
        )
    values = {}
    for key, value in config.items():
        try:
            values[key] = _READERS[key](value)
        except ValueError as error:
            raise ExecutorError(f"The setting {key} of the tool {name} {error}.") from error
    own = {key: values.pop(key) for key in _OF_TOOL if key in values}
    changed = dataclasses.replace(limits, **values)
    return Tool(name, row["docker_image"], row.get("digest") or None, changed, **own)


def _size(value: Any) -> int:
    match = _SIZE.fullmatch(str(value))
    if isinstance(value, bool) or not match:
        raise ValueError('must be a number of bytes, or like "512m" or "2g"')
    return int(match[1]) * _UNITS[match[2].lower()]


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("must be a whole number above 0")
    return value


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.01 <= value <= 1024:
        raise ValueError("must be a number from 0.01 to 1024")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _command(value: Any) -> tuple[str, ...]:
    is_list = isinstance(value, list) and 0 < len(value) <= 50
    if not is_list or not all(isinstance(word, str) and word for word in value):
        raise ValueError('must be a list of words, like ["odoo"]')
    return tuple(value)


def _user(value: Any) -> str:
    if not isinstance(value, str) or not _USER.fullmatch(value):
        raise ValueError('must be numbers of a user and a group, like "999:999"')
    return value


def _registry_auth(value: Any) -> RegistryAuth:
    fields = {field.name for field in dataclasses.fields(RegistryAuth)}
    is_whole = isinstance(value, dict) and set(value) == fields
    if not is_whole or not all(isinstance(text, str) and text for text in value.values()):
        raise ValueError("must hold username and password_secret, the name of a secret")
    if not SECRET_NAME.fullmatch(value["password_secret"]):
        raise ValueError(
            "names a password_secret that is no name of a secret (capital letters, digits and _)"
        )
    return RegistryAuth(**value)


#: Settings that are no limits.
_OF_TOOL = ("read_only", "tmp_size", "odoo", "registry_auth", "user")
_READERS: dict[str, Callable[[Any], Any]] = {
    "memory": _size,
    "cpus": _share,
    "processes": _count,
    "output": _size,
    "open_files": _count,
    "file_size": _size,
    "address_space": _size,
    "read_only": _truth,
    "tmp_size": _size,
    "odoo": _command,
    "registry_auth": _registry_auth,
    "user": _user,
}
