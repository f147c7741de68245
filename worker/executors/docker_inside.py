"""A short program inside a container that runs: how a server there is asked whether it is ready.

It has the container's user, environment, limits and isolation, and ends with it. Nobody sees its
output.
"""

from __future__ import annotations

from collections.abc import Sequence

import docker
import requests

#: What a shell says of a program that it could not start.
NOT_STARTED = 126
# Of the two tables of the kernel, column 2 is the local address and port, column 4 the state, in
# hexadecimal digits; 0A is LISTEN. Whose the socket is makes no difference.
_LISTENS = """
for table in /proc/net/tcp /proc/net/tcp6; do
    [ -r "$table" ] || continue
    while read -r _ local _ state _; do
        case "$local $state" in *":$1 0A") exit 0 ;; esac
    done <"$table"
done
exit 1
"""


def listens(port: int) -> list[str]:
    """A program that succeeds when something in the container's network listens on a TCP port."""
    return ["/bin/sh", "-c", _LISTENS, "odooops", f"{port:04X}"]


class Inside:
    """One such program in one container, started when this object is made."""

    def __init__(self, client: docker.APIClient, container: str, argv: Sequence[str]) -> None:
        self._client = client
        self._id = ""
        try:
            self._id = client.exec_create(container, list(argv), stdout=False, stderr=False)["Id"]
            client.exec_start(self._id, detach=True)
        except (docker.errors.DockerException, requests.RequestException):
            # There is no such program, or the container has ended, which others notice.
            self._id = ""

    def poll(self) -> int | None:
        """Its exit code; None while it runs, ``NOT_STARTED`` when it could not be started."""
        if not self._id:
            return NOT_STARTED
        try:
            found = self._client.exec_inspect(self._id)
        except (docker.errors.DockerException, requests.RequestException):
            return NOT_STARTED
        return None if found["Running"] else int(found["ExitCode"] or 0)
