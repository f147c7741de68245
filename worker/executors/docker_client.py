"""The connection to a Docker engine of the same host."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import docker
import requests

from . import docker_images
from .base import ExecutorError

UNIX = "unix://"
DEFAULT_HOST = f"{UNIX}/var/run/docker.sock"
#: Seconds for the engine's first answer, and for all others.
CONNECT_SECONDS, ANSWER_SECONDS = 10, 60
#: How the client says that something went wrong, the engine's absence included.
UNREACHABLE = (docker.errors.DockerException, requests.RequestException)


def address(host: str) -> str:
    """The address of the engine: ``host``, else that of the environment, else the usual one.

    :raises ExecutorError: it is not on this host
    """
    found = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    if not found.startswith(f"{UNIX}/"):
        raise ExecutorError(
            f"The address of the Docker engine must be {UNIX}/path, and {found} is not:"
            " the worker needs an engine on its own host."
        )
    return found


def connect(host: str) -> tuple[docker.APIClient, Mapping[str, Any]]:
    """A client, and what the engine tells about itself.

    :raises EngineUnavailable: it does not answer
    :raises ExecutorError: it cannot serve
    """
    try:
        client = docker.APIClient(host, version="auto", timeout=CONNECT_SECONDS)
        info = client.info()
    except UNREACHABLE as error:
        raise docker_images.explain(error, f"No containers on {host}") from error
    client.timeout = ANSWER_SECONDS
    if info.get("OSType") != "linux" or info.get("KernelVersion") != platform.release():
        raise ExecutorError(
            f"The Docker engine at {host} runs on another machine or in a virtual one;"
            " the worker needs one that shares its folders and its clock."
        )
    return client, info
