"""Showing log files as they grow."""

import sys
import time

from . import processes

PAUSE_SECONDS = 0.3


class Follower:
    """Follows the logs of the services from the moment it is made."""

    def __init__(self, logs):
        """`logs`: path of the log by name of the service."""
        self.logs = logs
        self.positions = {name: _size(path) for name, path in logs.items()}

    def until_one_ends(self):
        """Print new lines until a service has ended; return its name."""
        while True:
            for name, path in self.logs.items():
                self._print_new(name, path)
            for name in self.logs:
                if processes.recorded(name) is None:
                    return name
            time.sleep(PAUSE_SECONDS)

    def _print_new(self, name, path):
        if _size(path) <= self.positions[name]:
            return
        with open(path, "rb") as stream:
            stream.seek(self.positions[name])
            data = stream.read()
        complete = data.rfind(b"\n") + 1
        self.positions[name] += complete
        for line in data[:complete].decode("utf-8", "replace").splitlines():
            sys.stdout.write(f"{name:<7}| {line}\n")
        sys.stdout.flush()


def _size(path):
    return path.stat().st_size if path.exists() else 0
