"""From what the tool registry says to one exact image on this host, and what could go wrong.

A tool with a digest is that image and no other. Without one the image the engine has under that
name is taken, else it is pulled; either way the run records what it got.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import docker
import requests

from .base import ExecutorError

#: Registry → {"username": ..., "password": ...}, as ``docker login`` takes them.
Credentials = Mapping[str, Mapping[str, str]]
_HUB = "docker.io"
_FULL = "no space left on device"


@dataclasses.dataclass(frozen=True)
class Image:
    """One image, exactly."""

    #: what was asked for, such as ``odoo:19.0``
    reference: str
    #: id on this host: the digest of the image's configuration
    id: str
    #: digest in the registry; None for an image that never was in one
    digest: str | None

    def to_dict(self) -> dict[str, Any]:
        return {"reference": self.reference, "image_id": self.id, "digest": self.digest}


def explain(error: Exception, what: str) -> ExecutorError:
    """What the engine answered, as a sentence that says what to do."""
    if isinstance(error, docker.errors.APIError):
        words = str(error.explanation or error).strip().rstrip(".")
        if _FULL in words:
            return ExecutorError(
                f"{what}: the disk of the Docker engine is full. Remove images nobody needs"
                " (docker image prune) or give it more room.",
                "disk_full",
            )
        return ExecutorError(f"{what}: {words}.")
    return ExecutorError(
        f"{what}: the Docker engine does not answer. Start it, or set --docker-host to its address."
    )


def resolve(
    client: docker.APIClient,
    reference: str,
    digest: str | None,
    *,
    say: Callable[[str], None],
    check: Callable[[], None],
    credentials: Credentials | None = None,
) -> Image:
    """The image on this host, pulled when it is not there.

    :param say: takes lines for the run's log: the progress of a pull
    :param check: called between them; raises when the work must stop
    :raises ExecutorError: with what to do about it
    """
    name = _repository(reference)
    pinned = f"{name}@{digest}" if digest else reference
    found = _inspect(client, pinned)
    if not found and digest:
        # An image that was imported or loaded has no digest of a registry; its own id is as exact.
        found = _inspect(client, digest)
    if not found:
        say(f"Pulling {pinned}")
        _pull(client, pinned, say, check, _credentials_of(name, credentials))
        found = _inspect(client, pinned)
    if not found:
        raise ExecutorError(f"The image {pinned} was pulled, but the Docker engine has it not.")
    known = [text.rpartition("@") for text in found.get("RepoDigests") or ()]
    digests = [value for repository, _at, value in known if repository == name]
    return Image(reference, found["Id"], digest or (digests or [None])[0])


def _repository(reference: str) -> str:
    """``registry:5000/odoo:19.0`` → ``registry:5000/odoo``."""
    name = reference.partition("@")[0]
    head, slash, tail = name.rpartition("/")
    return head + slash + tail.partition(":")[0]


def _credentials_of(name: str, credentials: Credentials | None) -> dict[str, str] | None:
    """Those of the image's registry: the first part of a name, when it looks like a host."""
    first, slash, _rest = name.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    found = (credentials or {}).get(first if is_host else _HUB)
    return dict(found) if found else None


def _inspect(client: docker.APIClient, reference: str) -> dict[str, Any] | None:
    try:
        return client.inspect_image(reference)
    except docker.errors.NotFound:
        return None
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise explain(error, f"The image {reference} cannot be looked up") from error


def _pull(
    client: docker.APIClient,
    reference: str,
    say: Callable[[str], None],
    check: Callable[[], None],
    credentials: dict[str, str] | None,
) -> None:
    failed = f"The image {reference} is not on this worker and cannot be pulled"
    advice = (
        " Check its name in the tool registry, the credentials of its registry and the network, or"
        " load it on the worker with docker load."
    )
    name, separator, version = reference.partition("@")
    if not separator:
        name = _repository(reference)
        version = reference[len(name) + 1 :] or "latest"
    told: dict[str, str] = {}
    try:
        # Without credentials of ours those of the worker's user are not taken instead.
        for item in client.pull(
            name, tag=version, stream=True, decode=True, auth_config=credentials or {}
        ):
            check()
            if item.get("error"):
                raise ExecutorError(
                    f"{failed}: {item['error'].strip().rstrip('.')}.{advice}",
                    "disk_full" if _FULL in item["error"] else "setup_error",
                )
            # One line per layer and state; the engine repeats them with every few kilobytes.
            layer, status = item.get("id", ""), item.get("status", "")
            if status and told.get(layer) != status:
                told[layer] = status
                say(f"{layer}: {status}" if layer else status)
    except docker.errors.APIError as error:
        problem = explain(error, failed)
        raise ExecutorError(f"{problem}{advice}", problem.code) from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise explain(error, failed) from error
