"""One server beside the steps of a run: its life, its output, and what its end means for the run.

A thread of its own tends it from its start to its end: it moves the lease, which nobody else does
between two steps, reads the output, of which the last lines are kept, and notices the end. When a
service ends that was ready, the run is stopped: steps would wait for it, or fail with an error that
says nothing.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ..errors import RunError
from ..executors.base import Executor, ExecutorError, Handle, ProcessSpec, ProcessStatus
from ..guard import RunGuard
from ..logs import LogLine, OutputParser
from ..masking import Masker
from ..workflow import cancel_grace

if TYPE_CHECKING:
    from ..execution import Tools
    from ..job import RunJob

_logger = logging.getLogger(__name__)

#: Seconds for the end of a service: half of them until it is killed.
STOP_SECONDS = 10.0
#: Bytes of a service's output that come into the run's log, the last ones; and what a line counts
#: for beside its text.
LOG_BYTES, LINE_BYTES = 1 << 20, 64
#: Lines of it in a message that says why the service failed, and the bytes of one.
MESSAGE_LINES, MESSAGE_LINE = 5, 300
#: Seconds between two looks at it, and between two questions whether it is ready.
TEND_SECONDS, ASK_SECONDS = 0.2, 0.2
#: Chunks of a megabyte taken at each look.
READS = 16
_OVER_LIMIT = {
    "output_limit": "wrote more output than it may and was ended",
    "process_limit": "started more processes than it may and was ended",
}


class RunService(abc.ABC):
    """See the module's docstring. All methods are called by the run's thread."""

    #: Seconds it may take until it is ready.
    ready_seconds: float

    def __init__(
        self,
        job: RunJob,
        tools: Tools,
        executor: Executor,
        guard: RunGuard,
        masker: Masker,
        name: str,
        folder: str = "",
    ) -> None:
        self._job, self._tools, self._executor, self._guard = job, tools, executor, guard
        self.name = name
        #: What people are told of it, the beginning of a sentence.
        self.title = f"Service {name}"
        #: What people are told when it is ready.
        self.title_when_ready = self.title
        #: When it was started (monotonic).
        self.began = 0.0
        self._folder = job.workdir / "processes" / (folder or f"service-{name}")
        self._handle: Handle | None = None
        #: How it ended; written by the thread that tends it.
        self._status: ProcessStatus | None = None
        self._is_ready = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tend, name=self._folder.name, daemon=True)
        self._parser = OutputParser(self.title, masker)
        #: Of the last lines: both threads look at them.
        self._lock = threading.Lock()
        self._lines: deque[LogLine] = deque()
        self._size = self._left_out = 0
        self._offset = 0

    @abc.abstractmethod
    def _spec(self) -> ProcessSpec:
        """What to start; may make what that needs. Raises ``OSError``, ``ExecutorError``."""

    @abc.abstractmethod
    def _ask(self) -> bool:
        """Whether it is ready now; returns within a few seconds."""

    def _introduce(self) -> None:  # noqa: B027 - not every kind has something to do here
        """It has been started: let the steps know of it."""

    def _what_is_missing(self) -> str:
        """The end of a sentence: what was waited for."""
        return "it does not answer"

    def _clear(self) -> None:  # noqa: B027 - the same
        """Remove what ``_spec`` has made."""

    def launch(self) -> None:
        """Start it and return.

        :raises RunError: setup_error
        """
        self.began = time.monotonic()
        try:
            self._handle = self._executor.start(self._spec(), self._folder)
        except (OSError, ExecutorError) as error:
            code = error.code if isinstance(error, ExecutorError) else "setup_error"
            raise RunError(code, f"{self.title} cannot be started: {error}") from error
        self._thread.start()
        self._introduce()

    def wait_ready(self) -> None:
        """Return when it is ready.

        :raises RunError: service_failed and the like, with its last lines
        """
        until = self.began + self.ready_seconds
        while self._status or not self._ask():
            self._job.check()
            if self._status:
                raise RunError(*self._failure(self._status, "before it was ready"))
            if time.monotonic() > until:
                what = f"{self.title} did not get ready within {self.ready_seconds:g} seconds"
                words = f"{what}: {self._what_is_missing()}.{self._last_words()}"
                raise RunError("service_failed", words)
            self._guard.wait(ASK_SECONDS)
        self._is_ready = True
        if self._status:
            self._stop_run(self._status)

    def ask_to_end(self) -> None:
        """Let it end; what it does from now on is no failure."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._handle:
            is_killed = self._guard.stopped and self._guard.grace == 0
            self._executor.stop(self._handle, 0.0 if is_killed else STOP_SECONDS / 2)

    def finish(self) -> None:
        """Wait for its end, write its last lines into the run's log, remove what it had."""
        if self._handle:
            until = time.monotonic() + STOP_SECONDS
            while self._executor.poll(self._handle) is None and time.monotonic() < until:
                self._read()
                time.sleep(0.02)
            self._read_rest()
            with contextlib.suppress(RunError):
                self._write_log()
            self._executor.cleanup(self._handle)
        self._clear()

    def _tend(self) -> None:
        try:
            self._watch()
        except Exception:
            # Nobody would notice its end, nor move its lease.
            _logger.exception("Run %s: %s is not tended", self._job.run_id, self.title)
            self._guard.stop("internal_error", f"{self.title} was not tended any more.", 0.0)

    def _watch(self) -> None:
        while not self._ended.wait(TEND_SECONDS):
            self._executor.renew(self._handle, self._guard.deadline)
            # Not until it is silent: the lease must move, however much it writes.
            rounds = READS
            while rounds and self._read():
                rounds -= 1
            status = self._executor.poll(self._handle)
            if status:
                self._read_rest()
                self._status = status
                if self._is_ready:
                    self._stop_run(status)
                return

    def _stop_run(self, status: ProcessStatus) -> None:
        """It ended while it was needed."""
        if self._guard.is_lost:
            return
        code, message = self._failure(status, "before the steps did")
        default = self._tools.settings.cancel_grace_seconds
        self._guard.stop(code, message, cancel_grace(self._job.snapshot, default))

    def _failure(self, status: ProcessStatus, when: str) -> tuple[str, str]:
        """Error code and sentence of its end."""
        if status.out_of_memory:
            code, what = "out_of_memory", "was killed because its memory ran out"
        elif status.reason in _OVER_LIMIT:
            code, what = "resource_limit", _OVER_LIMIT[status.reason]
        elif status.reason == "lost":
            code, what = "worker_lost", f"was lost: {(status.error or '').rstrip('.')}"
        elif status.reason == "not_started":
            code, what = "setup_error", f"could not be started: {(status.error or '').rstrip('.')}"
        else:
            code = "service_failed"
            how = f"signal {status.signal}" if status.signal else f"exit code {status.exit_code}"
            what = f"ended {when}, with {how}"
        return code, f"{self.title} {what}.{self._last_words()}"

    def _last_words(self) -> str:
        """Its last lines, for a message; nothing when it has said nothing."""
        with self._lock:
            lines = list(self._lines)
        words = [line.message.strip()[:MESSAGE_LINE] for line in lines]
        words = [text for text in words if text][-MESSAGE_LINES:]
        return "".join(["\nIts last lines:", *(f"\n{text}" for text in words)]) if words else ""

    def _read(self) -> bool:
        """Take what it has written; whether there was something."""
        chunks, self._offset = self._executor.read_output(self._handle, self._offset)
        for chunk in chunks:
            self._keep(self._parser.feed(*chunk))
        return bool(chunks)

    def _read_rest(self) -> None:
        while self._read():
            pass
        self._keep(self._parser.flush(time.time_ns() // 1000))

    def _keep(self, lines: list[LogLine]) -> None:
        """Keep the last lines."""
        with self._lock:
            for line in lines:
                self._lines.append(line)
                self._size += len(line.text) + LINE_BYTES
            while self._size > LOG_BYTES:
                self._size -= len(self._lines.popleft().text) + LINE_BYTES
                self._left_out += 1

    def _write_log(self) -> None:
        if self._left_out:
            message = f"The first {self._left_out} lines of {self.title} are left out."
            self._job.log("info", message, step=self.title, marker="limit")
        self._job.write_lines(list(self._lines))
