"""From what the tool registry says to one exact image on this host, and what could go wrong.

A tool with a digest is that image and no other. Without one the image the engine has under that
name is taken, else it is pulled; either way the run records what it got.

The engine pulls and tells in words of its own, and of the registry's, why it could not. They are
told apart here by what Docker's own programs say; what is unknown is a ``setup_error`` that quotes
them.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import docker
import requests

from .base import ExecutorError

#: Asked for when an image must be pulled: {"username": ..., "password": ...} for its registry.
Credentials = Callable[[], Mapping[str, str]]
#: Seconds between two lines about how much of a pull is done.
PROGRESS_SECONDS = 5.0
_FULL = "no space left on device"
_REASONS = (
    (
        "disk_full",
        re.compile(_FULL, re.I),
        "the disk of the Docker engine is full. Remove images nobody needs (docker image prune) or"
        " give it more room",
    ),
    (
        "setup_error",
        re.compile(
            r"no basic auth credentials|unauthorized|authentication required|access denied"
            r"|may require 'docker login'|denied: requested access|incorrect username or password"
            r"|status: 401|status: 403|403 forbidden",
            re.I,
        ),
        "its registry refuses the credentials, or wants some (some registries say so of images that"
        " do not exist, too). The tool's config names them as registry_auth: a username, and as"
        " password_secret a secret of the project",
    ),
    (
        "setup_error",
        re.compile(r"manifest unknown|name unknown|not found: |repository does not exist", re.I),
        "its registry has no such image. Check name, tag and digest in the tool registry",
    ),
    (
        "setup_error",
        re.compile(r"verification failed|digest mismatch|unexpected commit digest", re.I),
        "what its registry sent is not the image of that digest. Check the digest in the tool"
        " registry; when it is right, the registry's copy is damaged or was changed",
    ),
    (
        "registry_unavailable",
        re.compile(
            r"connection refused|connection reset|no such host|i/o timeout|timeout exceeded"
            r"|timeout awaiting|deadline exceeded|network is unreachable|no route to host"
            r"|server misbehaving|temporary failure|unexpected EOF|: EOF|tls: |x509: "
            r"|toomanyrequests|server gave HTTP response"
            r"|(?:status|code):? (?:429|5\d\d)|(?:429|50\d) [A-Z]",
            re.I,
        ),
        "its registry does not answer as it should. Check that it runs and that this worker's host"
        " reaches it, or load the image on the worker with docker load",
    ),
)


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


class Program(NamedTuple):
    """What an image starts when nobody says otherwise."""

    #: comes before every command
    entrypoint: tuple[str, ...]
    #: the command
    command: tuple[str, ...]
    #: folder it is started in
    folder: str


def program(client: docker.APIClient, image: str) -> Program:
    """What the image of that id starts; raises ``ExecutorError``."""
    found = _inspect(client, image)
    if found is None:
        raise ExecutorError(f"The image {image} is no longer on this worker.")
    config = found.get("Config") or {}
    return Program(
        tuple(config.get("Entrypoint") or ()),
        tuple(config.get("Cmd") or ()),
        config.get("WorkingDir") or "/",
    )


def explain(error: Exception, what: str) -> ExecutorError:
    """What the engine answered, as a sentence that says what to do."""
    if isinstance(error, docker.errors.APIError):
        words = str(error.explanation or error).strip().rstrip(".")
        if _FULL in words:
            code, _pattern, reason = _REASONS[0]
            return ExecutorError(f"{what}: {reason}.", code)
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
    :param credentials: asked before a pull; without it none are sent
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
        _pull(client, pinned, say, check, dict(credentials()) if credentials else {})
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
    credentials: dict[str, str],
) -> None:
    failed = f"The image {reference} is not on this worker and cannot be pulled"
    name, separator, version = reference.partition("@")
    if not separator:
        name = _repository(reference)
        version = reference[len(name) + 1 :] or "latest"
    progress = Progress(say)
    try:
        # Without credentials of ours those of the worker's user are not taken instead.
        for item in client.pull(
            name, tag=version, stream=True, decode=True, auth_config=credentials
        ):
            check()
            if item.get("error"):
                raise pull_error(failed, item["error"])
            progress.take(item)
    except docker.errors.APIError as error:
        raise pull_error(failed, str(error.explanation or error)) from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise explain(error, failed) from error


def pull_error(failed: str, words: str) -> ExecutorError:
    """Why a pull failed, by what the engine says about it."""
    words = " ".join(words.split()).rstrip(".")
    for code, pattern, reason in _REASONS:
        if pattern.search(words):
            return ExecutorError(f"{failed}: {reason}. Docker says: {words}.", code)
    return ExecutorError(
        f"{failed}: {words}. Check its name in the tool registry and the network, or load it on the"
        " worker with docker load."
    )


class Progress:
    """Turns what the engine tells of a pull, some thousand items, into lines for a log."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: dict[str, str] = {}
        #: layer → (bytes that are here, bytes it has)
        self._bytes: dict[str, tuple[int, int]] = {}
        self._next = time.monotonic() + PROGRESS_SECONDS

    def take(self, item: Mapping[str, Any]) -> None:
        """Say each new state of a layer once, and now and then how much has come of all."""
        layer, status = item.get("id", ""), item.get("status", "")
        detail = item.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._bytes[layer] = (detail["current"], detail["total"])
        elif status in ("Download complete", "Pull complete") and layer in self._bytes:
            self._bytes[layer] = (self._bytes[layer][1],) * 2
        if status and self._told.get(layer) != status:
            self._told[layer] = status
            self._say(f"{layer}: {status}" if layer else status)
        if self._bytes and time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            here, whole = (
                sum(numbers) / 1e6 for numbers in zip(*self._bytes.values(), strict=True)
            )
            self._say(f"{here:.1f} of {whole:.1f} MB are here")
