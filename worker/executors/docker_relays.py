"""Ways out of a container to the PostgreSQL servers its run was given, and to nothing else.

Each is a folder with a Unix socket in the container and a process outside (``relay.py``). Where
they lead is said by the worker (``Sandbox.relays``), never by the environment alone: what a step or
a configuration names would be reached from the worker's host.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from docker.types import Mount

from .base import ProcessSpec, Relay

#: Where a container finds what we give it.
ROOT = "/run/odooops"
_RELAY = Path(__file__).with_name("relay.py")


def open_all(
    spec: ProcessSpec, directory: Path
) -> tuple[dict[str, str], list[Mount], dict[int, subprocess.Popen[bytes]]]:
    """Open those that the environment of ``spec`` leads to.

    :return: the environment as the container gets it, its mounts, the processes by their ids
    """
    env, mounts, processes = dict(spec.env), [], {}
    for number, relay in enumerate(spec.sandbox.relays):
        host, port = f"{relay.prefix}PGHOST", f"{relay.prefix}PGPORT"
        if (env.get(host), env.get(port) or "5432") != (relay.host, relay.port):
            continue
        folder = directory / (f"relay-{number}" if number else "relay")
        inside = f"{ROOT}/postgres-{number}" if number else f"{ROOT}/postgres"
        process = _open(relay, folder)
        processes[process.pid] = process
        mounts.append(Mount(inside, str(folder), "bind"))
        env |= {host: inside, port: relay.port}
        # A socket is never encrypted.
        env.pop(f"{relay.prefix}PGSSLMODE", None)
    return env, mounts, processes


def _open(relay: Relay, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(mode=0o700)
    name = f".s.PGSQL.{relay.port}"
    target = [f"{relay.host}/{name}"] if relay.host.startswith("/") else [relay.host, relay.port]
    with _short_path(folder) as short, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{short}/{name}")
        listener.listen(128)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_RELAY), str(listener.fileno()), str(folder), *target],
            cwd="/",
            env={"PATH": os.defpath},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[listener.fileno()],
        )


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """Another path of a folder: that of a socket may have 107 bytes at most."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
