"""Starting, recognising and stopping processes.

A process is known by its number *and* its start time: after a crash or a reboot the number may
belong to somebody else, and nobody else's process is ever signalled.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from . import paths
from .errors import SetupError


@dataclass(frozen=True)
class Process:
    """One process, whatever becomes of its number."""

    pid: int
    start_time: str

    def is_alive(self):
        """Whether exactly this process still runs (a zombie does not)."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # reap it when it is our own child
        return start_time(self.pid) == self.start_time

    def signal(self, number):
        """Send a signal, if the process is still the same one."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds):
        """Wait for its end; return whether it ended in time."""
        deadline = time.monotonic() + seconds
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def start_time(pid):
    """When the process with this number started, as an opaque string; None when there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return _start_time_by_ps(pid) if not Path("/proc/self/stat").exists() else None
    # The command's name, in brackets, may hold spaces and brackets: count from its end.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return f"{boot}/{fields[19]}"


def _start_time_by_ps(pid):
    found = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    if not found or found[0].startswith("Z"):
        return None
    return " ".join(found[1:])


def spawn(name, argv, env, log):
    """Start a service in a session of its own, its output appended to `log`, and record it.

    The own session keeps the terminal's Ctrl-C away from it: who started it stops it, in order.
    """
    with open(log, "ab") as output:
        child = subprocess.Popen(
            [str(part) for part in argv],
            env=env,
            cwd=paths.LOCAL,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # is_alive() reaps it; without this Popen would complain when it is collected.
    child.returncode = 0
    process = Process(child.pid, start_time(child.pid) or "ended")
    record(name, process)
    return process


def record(name, process):
    """Remember a service across commands."""
    paths.write_private(paths.SERVICES / f"{name}.json", json.dumps(asdict(process)))


def recorded(name):
    """The live process of a service, or None. A stale record is removed."""
    path = paths.SERVICES / f"{name}.json"
    try:
        process = Process(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        path.unlink()
        return None
    if process.is_alive():
        return process
    path.unlink()
    return None


def stop(name, grace, ask_again_after=None):
    """Stop a recorded service: ask, wait `grace` seconds, then kill. Return whether it ran.

    `ask_again_after`: seconds after which a second SIGTERM says that it shall hurry.
    """
    process = recorded(name)
    if process is None:
        return False
    process.signal(signal.SIGTERM)
    if ask_again_after is not None and not process.wait(ask_again_after):
        process.signal(signal.SIGTERM)
    if not process.wait(grace):
        process.signal(signal.SIGKILL)
        process.wait(5)
    (paths.SERVICES / f"{name}.json").unlink(missing_ok=True)
    return True


def run_logged(argv, log, env=None, cwd=None, failure=None, stdin=None):
    """Run a command to its end with all its output in a log file.

    Raises SetupError with `failure` (a sentence), the last lines and the log's path.
    """
    with open(log, "ab") as output:
        ended = subprocess.run(
            [str(part) for part in argv],
            env=env,
            cwd=cwd or paths.LOCAL,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode:
        sentence = failure or f"The command {argv[0]} failed."
        raise failed(sentence, log)


def failed(sentence, log, lines=8):
    """A SetupError that shows the end of a log, and last what the sentence says of it."""
    return SetupError(f"{tail(log, lines)}\n\n{sentence}\nThe whole log: {log}")


def tail(log, lines=15):
    """The last lines of a log file, indented, to show beside a failure."""
    try:
        with open(log, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 20_000))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return "    (no log)"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


@contextlib.contextmanager
def exclusive(path, busy):
    """Hold a lock file for the block; call `busy()` once when somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
