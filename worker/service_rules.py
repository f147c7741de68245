"""What is wrong between the services of a config, and between them and the rest of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Names of services without a tool.
PROCESS_NAME = "postgres"
_OF_IMAGES = ("env", "command", "ready")


def problems(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Path and reason of what is wrong, in a config whose services are well-formed one by one."""
    names: list[str] = []
    ports: dict[int, str] = {}
    prefixes = {"": "database"} if config.get("database") is True else {}
    if not config.get("steps"):
        prefixes = {"": "the built-in recipe"}
    for index, service in enumerate(config.get("services") or ()):
        path, name = f"services[{index}]", service["name"]
        if name in names:
            yield f"{path}.name", f"is {name} a second time"
        names.append(name)
        if "tool" in service:
            yield from _image_problems(config, service, path, ports)
        else:
            yield from _process_problems(service, path, prefixes)


def _process_problems(
    service: Mapping[str, Any], path: str, prefixes: dict[str, str]
) -> Iterator[tuple[str, str]]:
    """:param prefixes: those that are taken, by whom; this one's is added"""
    name, prefix = service["name"], service.get("prefix", "")
    if name != PROCESS_NAME and not name.startswith(f"{PROCESS_NAME}-"):
        yield (
            f"{path}.tool",
            f"is missing: without one {name} would have to be a PostgreSQL server, called"
            f" {PROCESS_NAME} or {PROCESS_NAME}-…",
        )
        return
    for key in _OF_IMAGES:
        if key in service:
            yield f"{path}.{key}", "has a meaning only beside tool"
    if prefix.startswith("ODOOOPS_"):
        yield f"{path}.prefix", "is reserved: names beginning with ODOOOPS_ are set by the worker"
    if prefix in prefixes:
        yield path, f"sets {prefix}PG*, as {prefixes[prefix]} does: give it another prefix"
    prefixes.setdefault(prefix, name)


def _image_problems(
    config: Mapping[str, Any], service: Mapping[str, Any], path: str, ports: dict[int, str]
) -> Iterator[tuple[str, str]]:
    """:param ports: those that services wait for, by whom; this one's is added"""
    if not config.get("tool"):
        yield (
            f"{path}.tool",
            "needs a tool of the workflow, too: only steps in containers reach a service in one",
        )
    if "prefix" in service:
        yield f"{path}.prefix", "has a meaning only without tool"
    if service["name"] == "localhost":
        yield f"{path}.name", "cannot be localhost: the steps have that name already"
    ready = service.get("ready")
    if ready is None:
        return
    if ("port" in ready) == ("command" in ready):
        yield f"{path}.ready", "must hold either port or command"
    port = ready.get("port")
    if port in ports:
        yield (
            f"{path}.ready.port",
            f"is {ports[port]}'s already: the services of a run share one network, so let one of"
            " them listen on another port",
        )
    if port is not None:
        ports.setdefault(port, service["name"])
