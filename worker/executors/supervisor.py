"""Runs one command for the process executor and outlives the worker that asked for it.

Its source comes through stdin of a Python in a session of its own, with one argument: a directory
that holds ``spec.json``. It imports only the standard library and nothing of this package, so that
an upgrade of the worker cannot pull the rug from under it.

Files in the directory:

- ``spec.json``    argv, cwd, env, timeout, grace, limits. Read and removed at once: it holds
                   secrets.
- ``lease``        a number, the monotonic time at which everything is killed; the worker moves it
                   on with each heartbeat.
- ``stop``         when present, a number: stop within so many seconds of grace. The worker also
                   sends SIGTERM to wake us.
- ``output``       frames of 13 bytes head (stream 1|2, microseconds since the epoch, length; big
                   endian) and data. Data may hold anything; at most 64 KiB per frame, so memory is
                   bounded whatever is written.
- ``status.json``  written at the end, atomically: reason, exit_code, signal, out_of_memory, error,
                   rung (the last signal of the ladder).

The supervisor is the "child subreaper" of all it starts: a process that daemonises itself or opens
a session of its own becomes our child when its parent ends, is found there and killed. When the
main process ends, what it left behind ends too.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import selectors
import signal
import struct
import subprocess
import sys
import time

FRAME = struct.Struct(">BQI")
CHUNK = 65536
TICK = 0.25
STATUS_SIZE = 4096
LEFTOVER_GRACE = 2.0
#: Seconds after which a process that cannot even be killed is left to the system.
GIVE_UP = 30.0

#: Limit of ``base.Limits`` → the system's. Core files would hold secrets: there are none at all.
_RLIMITS = {
    "open_files": resource.RLIMIT_NOFILE,
    "file_size": resource.RLIMIT_FSIZE,
    "address_space": resource.RLIMIT_AS,
}

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _children_by_parent() -> dict[int, list[int]]:
    """Parent pid → pids, of all processes that are not zombies."""
    tree: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields and fields[0] not in (b"Z", b"X"):
            tree.setdefault(int(fields[1]), []).append(int(name))
    return tree


def descendants() -> list[int]:
    """All living processes that stem from this one."""
    tree, found, todo = _children_by_parent(), [], [os.getpid()]
    while todo:
        children = tree.get(todo.pop(), [])
        found += children
        todo += children
    return found


def _set_rlimits(limits: dict) -> None:
    """Limit the calling process and what it starts; never above what it is allowed already."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, number in _RLIMITS.items():
        if limits.get(name) is not None:
            _soft, hard = resource.getrlimit(number)
            wanted = limits[name] if hard == resource.RLIM_INFINITY else min(limits[name], hard)
            resource.setrlimit(number, (wanted, wanted))


def _oom_kills() -> int:
    """How many processes of this control group died for want of memory (0 when unknown)."""
    paths: list[list[str]] = []
    with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
        paths = [line.strip().split(":", 2) for line in file]
    for _number, controllers, path in paths:
        if not controllers:
            name = f"/sys/fs/cgroup{path}/memory.events"
        elif "memory" in controllers.split(","):
            name = f"/sys/fs/cgroup/memory{path}/memory.oom_control"
        else:
            continue
        # Where both versions are mounted, only one of them counts.
        with contextlib.suppress(OSError, ValueError), open(name) as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


class Supervisor:
    """The one command: its process, its pipes, its output file, and why it is being stopped."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        with open(self._path("spec.json")) as file:
            self.spec = json.load(file)
        os.unlink(self._path("spec.json"))
        self.limits = self.spec.get("limits") or {}
        self.written = 0
        # The place for the status is taken now, so that a full disk cannot keep us from writing it
        # at the end.
        with open(self._path("status.next"), "wb") as file:
            file.write(b" " * STATUS_SIZE)
            os.fsync(file.fileno())
        self.reason = "exited"
        self.ladder: list[tuple[float, int]] = []
        self.rung: str | None = None
        self.lease = float("inf")
        self.next_tick = 0.0
        self.deadline = float("inf")
        self.selector = selectors.DefaultSelector()
        self._catch_signals()
        # The worker sends SIGTERM only when it sees this file: from here on it wakes us and does
        # not kill us.
        self.output = open(self._path("output"), "ab", buffering=0)  # noqa: SIM115

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _catch_signals(self) -> None:
        """Signals only wake the loop: what is wanted stands in the files."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self.selector.register(wake_read, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Start the command, follow it to its end, write the status."""
        oom_before = _oom_kills()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        try:
            process = self._start()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._write_status(
                {
                    "reason": "not_started",
                    "error": f"{self.spec['argv'][0]} could not be started: {reason}.",
                }
            )
            return
        self._follow(process)
        self._end_leftovers()
        self._drain()
        code = process.returncode
        # A shell reports its killed child as 128 + 9.
        out_of_memory = code in (-9, 137) and self.reason == "exited" and _oom_kills() > oom_before
        self._write_status(
            {
                "reason": self.reason,
                "exit_code": code if code >= 0 else None,
                "signal": -code if code < 0 else None,
                "out_of_memory": out_of_memory,
                "rung": self.rung,
            }
        )

    def _start(self) -> subprocess.Popen[bytes]:
        def prepare() -> None:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _set_rlimits(self.limits)
            # When memory runs out the kernel shall choose the run, not the worker or the
            # database server.
            with (
                contextlib.suppress(OSError),
                open("/proc/self/oom_score_adj", "w") as file,
            ):
                file.write("500")

        # This process has one thread, so a function between fork and exec is safe.
        process = subprocess.Popen(  # noqa: PLW1509
            self.spec["argv"],
            cwd=self.spec["cwd"],
            env=self.spec["env"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            preexec_fn=prepare,
        )
        if self.spec["timeout"] is not None:
            self.deadline = time.monotonic() + self.spec["timeout"]
        for stream, pipe in ((1, process.stdout), (2, process.stderr)):
            os.set_blocking(pipe.fileno(), False)
            self.selector.register(pipe, selectors.EVENT_READ, stream)
        return process

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            self._check(process)
            self._pump(
                min(TICK, max(0.0, self.ladder[0][0] - time.monotonic())) if self.ladder else TICK
            )

    def _check(self, process: subprocess.Popen[bytes]) -> None:
        """Look at the clock and the worker's wishes; signal when the next rung is due."""
        now = time.monotonic()
        if now >= self.next_tick:
            self.next_tick = now + TICK
            self.lease = self._number("lease", self.lease)
            if now >= self.lease and self.reason != "lease":
                self._begin("lease", 0.0)
            elif self.reason == "exited" and now >= self.deadline:
                self._begin("timeout", float(self.spec["grace"]))
            most = self.limits.get("processes")
            if self.reason == "exited" and most is not None and len(descendants()) > most:
                self._begin("process_limit", 0.0)
            grace = self._number("stop", None)
            if grace is not None and (
                self.reason == "exited" or (grace == 0 and len(self.ladder) > 1)
            ):
                self._begin("stopped" if self.reason == "exited" else self.reason, grace)
        while self.ladder and now >= self.ladder[0][0]:
            _due, number = self.ladder.pop(0)
            self.rung = signal.Signals(number).name
            self._signal_all(number)
            if not self.ladder:
                # A process may have been started between the look and the blow.
                self.ladder.append((now + TICK, signal.SIGKILL))

    def _begin(self, reason: str, grace: float) -> None:
        now = time.monotonic()
        self.reason = reason
        self.ladder = [(now + grace, signal.SIGKILL)]
        if grace > 0:
            self.ladder = [(now, signal.SIGINT), (now + grace / 2, signal.SIGTERM), *self.ladder]

    def _number(self, name: str, default: float | None) -> float | None:
        try:
            with open(self._path(name)) as file:
                return float(file.read())
        except (OSError, ValueError):
            return default

    def _signal_all(self, number: int) -> None:
        for pid in descendants():
            # What changed its user (sudo) cannot be signalled by us.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def _pump(self, wait: float) -> bool:
        """Move what the pipes hold into the output file; false when nothing came."""
        moved = False
        for key, _events in self.selector.select(wait):
            if key.data is None:
                self.next_tick = 0.0
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)
                continue
            try:
                data = os.read(key.fd, CHUNK)
            except BlockingIOError:
                continue
            if data:
                moved = True
                self._write(key.data, data)
            else:
                self.selector.unregister(key.fileobj)
        return moved

    def _write(self, stream: int, data: bytes) -> None:
        if self.reason in ("disk_full", "output_limit"):
            return
        self.written += FRAME.size + len(data)
        most = self.limits.get("output")
        if most is not None and self.written > most:
            self._begin("output_limit", 0.0)
            return
        view = memoryview(FRAME.pack(stream, time.time_ns() // 1000, len(data)) + data)
        try:
            while view:
                view = view[self.output.write(view) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._begin("disk_full", 0.0)

    def _end_leftovers(self) -> None:
        """End what the command left behind: SIGTERM, the rest of the grace, SIGKILL."""
        until = self.ladder[-1][0] if self.ladder else time.monotonic() + LEFTOVER_GRACE
        if self._has_children():
            self._signal_all(signal.SIGTERM)
        while self._has_children() and time.monotonic() < until + GIVE_UP:
            if time.monotonic() >= until:
                self._signal_all(signal.SIGKILL)
            pause = time.monotonic() + 0.05
            while time.monotonic() < pause and self._pump(0.05):
                pass

    @staticmethod
    def _has_children() -> bool:
        """Whether anything lives that stems from us, after collecting what has ended.

        Orphans become our children, so "no child" is exact, while a look into /proc may miss a
        process that is being forked just then.
        """
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True

    def _drain(self) -> None:
        while self._pump(0.0):
            pass

    def _write_status(self, status: dict) -> None:
        with open(self._path("status.next"), "r+b") as file:
            file.write(json.dumps(status).encode().ljust(STATUS_SIZE))
            file.flush()
            os.fsync(file.fileno())
        os.rename(self._path("status.next"), self._path("status.json"))


if __name__ == "__main__":
    Supervisor(sys.argv[1]).run()
