"""Executor of plain local processes, each under a small supervisor of its own (``supervisor.py``).

There is no isolation: what runs here may do whatever the worker's user may do. The worker therefore
uses it only when it was started with that choice (``--allow-process``).

Of the limits it keeps those of open files, file size, address space and output. The number of
processes is looked at four times a second: RLIMIT_NPROC would count all processes of the worker's
user. Memory and processors are not limited; a process the kernel kills for want of memory is told
as such when the control group says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Chunk, Executor, ExecutorError, Handle, ProcessSpec, ProcessStatus
from .files import write_private
from .supervisor import FRAME

#: Set in the environment of everything an executor starts; finds processes whose supervisor was
#: killed.
MARK = "ODOOOPS_MARK"
#: Read once: after an upgrade the file is another one, or gone.
_SUPERVISOR = Path(__file__).with_name("supervisor.py").read_bytes()
_STREAMS = {1: "stdout", 2: "stderr"}


class ProcessExecutor(Executor):
    """Local processes without isolation.

    ``allow`` must be given as true: it is the operator's explicit choice.
    """

    name = "process"

    def __init__(self, allow: bool) -> None:
        if not allow:
            raise ExecutorError(
                "This worker may not start local processes: they are not isolated."
                " Start it with --allow-process to allow them, or with --docker to use containers."
            )
        self._own: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def start(self, spec: ProcessSpec, directory: Path) -> Handle:
        directory.mkdir(mode=0o700, parents=True)
        mark = uuid.uuid4().hex
        write_private(directory / "mark", mark)
        write_private(directory / "lease", repr(spec.lease_deadline))
        content = {
            "argv": list(spec.argv),
            "cwd": str(spec.cwd),
            "env": {**spec.env, MARK: mark},
            "timeout": spec.timeout,
            "grace": spec.grace,
            "limits": dataclasses.asdict(spec.limits),
        }
        write_private(directory / "spec.json", json.dumps(content))
        with open(directory / "supervisor.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-", str(directory)],
                cwd="/",
                env={"PATH": os.defpath},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with self._lock:
            self._own[process.pid] = process
        # It fits into the pipe, so nobody waits here. Who died before reading it is seen by poll.
        with contextlib.suppress(BrokenPipeError), process.stdin as program:
            program.write(_SUPERVISOR)
        handle = Handle(self.name, directory, process.pid, _start_time(process.pid) or "")
        write_private(directory / "handle.json", json.dumps(handle.to_dict()))
        return handle

    def adopt(self, data: Mapping[str, Any]) -> Handle:
        handle = Handle.from_dict(data)
        if handle.executor != self.name or not handle.directory.is_dir():
            raise ExecutorError(f"There is no process to adopt in {handle.directory}.")
        return handle

    def poll(self, handle: Handle) -> ProcessStatus | None:
        status = self._read_status(handle)
        if status is None and not self._is_alive(handle):
            # It may have written its last word between the two looks.
            status = self._read_status(handle) or ProcessStatus(
                "lost", error=self._last_words(handle)
            )
        if status is not None:
            self._reap(handle)
        return status

    def read_output(
        self, handle: Handle, offset: int, limit: int = 1 << 20
    ) -> tuple[list[Chunk], int]:
        chunks: list[Chunk] = []
        try:
            file = open(handle.directory / "output", "rb")  # noqa: SIM115 pylint: disable=consider-using-with
        except FileNotFoundError:
            return chunks, offset
        with file:
            file.seek(offset)
            end = offset + limit
            while offset < end:
                head = file.read(FRAME.size)
                if len(head) < FRAME.size:
                    break
                stream, timestamp, length = FRAME.unpack(head)
                data = file.read(length)
                if len(data) < length:
                    break
                chunks.append(Chunk(_STREAMS[stream], timestamp, data))
                offset += FRAME.size + length
        return chunks, offset

    def renew(self, handle: Handle, deadline: float) -> None:
        write_private(handle.directory / "lease", repr(deadline))

    def stop(self, handle: Handle, grace: float) -> None:
        if self._is_alive(handle):
            write_private(handle.directory / "stop", repr(float(grace)))
            # Before the output file is there the supervisor would die of the signal; then it finds
            # the request by itself.
            if (handle.directory / "output").exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(handle.pid, signal.SIGTERM)

    def cleanup(self, handle: Handle) -> None:
        self.stop(handle, 0.0)
        until = time.monotonic() + 10
        while self._is_alive(handle) and time.monotonic() < until:
            time.sleep(0.02)
        if self._is_alive(handle):
            with contextlib.suppress(ProcessLookupError):
                os.kill(handle.pid, signal.SIGKILL)
        self._reap(handle)
        kill_marked(handle.directory)
        shutil.rmtree(handle.directory, ignore_errors=True)

    def _read_status(self, handle: Handle) -> ProcessStatus | None:
        try:
            content = json.loads((handle.directory / "status.json").read_bytes())
        except FileNotFoundError:
            return None
        return ProcessStatus(**content)

    def _last_words(self, handle: Handle) -> str:
        try:
            lines = (
                (handle.directory / "supervisor.log")
                .read_text(errors="replace")
                .strip()
                .splitlines()
            )
        except OSError:
            lines = []
        return lines[-1] if lines else "The supervising process ended without a word."

    def _is_alive(self, handle: Handle) -> bool:
        with self._lock:
            own = self._own.get(handle.pid)
        if own is not None:
            return own.poll() is None
        return bool(handle.start_time) and _start_time(handle.pid) == handle.start_time

    def _reap(self, handle: Handle) -> None:
        with self._lock:
            own = self._own.get(handle.pid)
        if own is not None and own.poll() is not None:
            with self._lock:
                self._own.pop(handle.pid, None)


def kill_marked(directory: Path) -> int:
    """Kill every process whose environment has the mark of ``directory``; return their number.

    Only needed when a supervisor itself was killed: otherwise it leaves nobody behind.
    """
    try:
        needle = f"{MARK}={(directory / 'mark').read_text()}".encode()
    except OSError:
        return 0
    killed = 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if needle in file.read().split(b"\0"):
                    os.kill(int(name), signal.SIGKILL)
                    killed += 1
        except OSError:
            continue
    return killed


def _start_time(pid: int) -> str | None:
    """When the process was started, in ticks since boot: with the pid it names a process for good.

    None when it is gone.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()
