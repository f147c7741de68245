"""Finding TCP ports on the loopback address."""

import errno
import socket
from pathlib import Path

from .errors import SetupError

LISTENING = "0A"  # state in /proc/net/tcp
SEARCHED = 200


def is_free(port):
    """Whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections that were closed a moment ago do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free(first, preferred=None):
    """The preferred port if it is free, else the first free one from `first` on."""
    if preferred and is_free(preferred):
        return preferred
    for port in range(first, first + SEARCHED):
        if is_free(port):
            return port
    raise SetupError(f"No free port between {first} and {first + SEARCHED}: stop some servers.")


def listens(pid, port):
    """Whether this process itself listens on the port; None where that cannot be known.

    Two clones that start at once may pick the same port; the loser must not take the winner's
    answers for its own.
    """
    try:
        table = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        sockets = {entry.readlink() for entry in _entries(pid)}
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return None
    rows = (line.split() for line in table)
    inodes = {
        row[9] for row in rows if row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port
    }
    return any(str(target) == f"socket:[{inode}]" for inode in inodes for target in sockets)


def _entries(pid):
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if entry.is_symlink():
            yield entry
