"""The limits of a step in the words of Docker and of a shell, and whether the engine keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from docker.types import LogConfig

from .base import ExecutorError, Limits
from .docker_output import ENTRY_OVERHEAD

#: Limit → what the engine says of itself when it can keep it, and the worker's setting. Where the
#: control groups lack something, as they may for an engine without root, it would only warn.
_KEPT_BY = {
    "memory": ("MemoryLimit", "--run-memory-mb"),
    "cpus": ("CpuCfsQuota", "--run-cpus"),
    "processes": ("PidsLimit", "--run-processes"),
}


def require_kept(info: Mapping[str, Any], limits: Limits) -> None:
    """Raise ``ExecutorError`` when the engine would start a container without one of its limits.

    :param info: what the engine tells about itself
    """
    for name, (key, setting) in _KEPT_BY.items():
        if getattr(limits, name) is not None and not info.get(key, True):
            raise ExecutorError(
                f"The Docker engine cannot limit {name}: its control groups (version"
                f" {info.get('CgroupVersion', '1')}) lack the controller. Give it that, or go"
                f" without the limit: {setting}=0, and no {name} in the tool's config."
            )


def ulimit_words(limits: Limits) -> list[str]:
    """The limits as ``ulimit`` takes them: open files, blocks of 512 bytes, kilobytes.

    PID 1 sets them, as far as the engine's own limits let it; the engine would refuse the start.
    """
    wanted = (limits.open_files, limits.file_size, limits.address_space)
    units = (1, 512, 1024)
    return [
        "" if number is None else str(number // unit)
        for number, unit in zip(wanted, units, strict=True)
    ]


def log_config(limit: int | None) -> LogConfig:
    """One file, larger than the executor lets the output become, so that it is never rotated."""
    size = 1 << 50 if limit is None else limit + limit // 8 + (1 << 24) + ENTRY_OVERHEAD
    options = {"max-size": str(size), "max-file": "1", "compress": "false"}
    return LogConfig(type="local", config=options)
