"""What a recipe or the steps of a config see of their run: ``recipes.base.Job`` made real.

It joins the executor (processes), the run's log, the artifact store and the guard that says when to
stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .artifacts import LOG_KEY, ArtifactRecorder
from .control.base import Claim, ControlPlane, ControlPlaneUnavailable
from .errors import RunError, RunStopped
from .executors.base import (
    EngineUnavailable,
    Executor,
    ExecutorError,
    Handle,
    Limits,
    ProcessSpec,
    ProcessStatus,
    Sandbox,
)
from .guard import LEASE_LOST, RunGuard
from .log_shipping import DISK_FULL, RunLog
from .logs import LineSplitter, LogLine, OutputParser, clean_json, clean_text
from .recipes.base import Captured, Job
from .workflow import cancel_grace

_logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two looks at a process: short while it writes, longer while it is silent.
MIN_PAUSE, MAX_PAUSE = 0.01, 0.2
#: Seconds between two attempts to reach an engine that is away.
ENGINE_PAUSE = 0.5
#: Seconds that steps have which clear away after a run was stopped or its time was over.
CLEANUP_SECONDS = 60.0
#: Seconds between SIGINT and SIGKILL when a time limit has passed.
TIMEOUT_GRACE = 10.0
MAX_EVENT_BYTES = 4096
OUTPUT_CUT = (
    "The Docker engine was away before the end of the container was seen: what it printed last may"
    " be missing here."
)
_OVER_LIMIT = {
    "output_limit": "wrote more output than it may and was ended",
    "process_limit": "started more processes than it may and was ended",
}


class RunJob(Job):
    """One started run. Used by the run's own thread only."""

    def __init__(
        self,
        claim: Claim,
        config: Mapping[str, Any],
        workdir: Path,
        *,
        guard: RunGuard,
        control: ControlPlane,
        executor: Executor,
        run_log: RunLog,
        recorder: ArtifactRecorder,
        odoo_argv: Sequence[str],
        odoo_addons: Sequence[Path],
        engine_patience: float,
    ) -> None:
        self.run_id, self.epoch, self.run_number = claim.run_id, claim.epoch, claim.run_number
        self.snapshot = claim.snapshot
        self.config = config
        self.workdir = workdir
        self.checkout_dir = workdir / "checkout"
        self.commit: str | None = None
        self.env: dict[str, str] = {}
        self.database: Any = None
        self.odoo_argv = tuple(odoo_argv)
        self.odoo_addons = tuple(odoo_addons)
        self._guard = guard
        self._control = control
        self._executor = executor
        self.limits = Limits()
        #: what its containers have; None when it has none
        self.sandbox: Sandbox | None = None
        self._engine_patience = engine_patience
        self._log = run_log
        self._recorder = recorder
        self._step: str | None = None
        self._processes = 0
        self._began = time.monotonic()
        self._deadline = self._began + config["timeout"]
        self._is_clearing = False
        self._cleared_until = float("inf")

    def configure(self, config: Mapping[str, Any]) -> None:
        """Go on with another config, complete with defaults; its time began with the run."""
        self.config = config
        self._deadline = self._began + config["timeout"]

    def use(self, executor: Executor, limits: Limits, sandbox: Sandbox | None = None) -> None:
        """From now on start processes with this executor, in these bounds."""
        self._executor, self.limits, self.sandbox = executor, limits, sandbox

    def widen(self, **changes: Any) -> None:
        """Let the run's containers from now on have more than that (fields of ``Sandbox``)."""
        if self.sandbox:
            self.sandbox = dataclasses.replace(self.sandbox, **changes)

    def check(self) -> None:
        """Raise ``RunStopped`` when the run must stop or its time is over."""
        stopped = self._stopped()
        if stopped:
            raise stopped
        if time.monotonic() >= self._end:
            raise self._timeout(self._step or "its preparation", None)

    def await_engine(self, call: Callable[[], T]) -> T:
        """Repeat ``call`` while the engine of containers is away, within the worker's patience.

        :raises RunStopped: the run must stop, which is heard meanwhile
        :raises RunError: what else ``call`` complained of, in the end that the engine is away
        """
        until = None
        while True:
            try:
                result = call()
            except EngineUnavailable as error:
                now = time.monotonic()
                if until is None and self._engine_patience:
                    until = now + self._engine_patience
                    self.log(
                        "warn",
                        "The Docker engine does not answer. The run waits for it, for"
                        f" {self._engine_patience:g} seconds at most.",
                    )
                if until is None or now >= until:
                    raise RunError(error.code, str(error)) from error
            except ExecutorError as error:
                raise RunError(error.code, str(error)) from error
            else:
                if until is not None:
                    self.log("info", "The Docker engine answers again.")
                return result
            self.check()
            self._guard.wait(min(ENGINE_PAUSE, max(0.0, until - now)))
            self.check()

    @contextlib.contextmanager
    def clearing_away(self) -> Iterator[None]:
        """Inside, a stop that allows some time and the end of the run's time count
        ``CLEANUP_SECONDS`` later, once for the whole run."""
        self._is_clearing = True
        try:
            yield
        finally:
            self._is_clearing = False

    @property
    def _end(self) -> float:
        """When the time for what is being done now is over, on the monotonic clock."""
        if not self._is_clearing:
            return self._deadline
        return min(self._deadline + CLEANUP_SECONDS, self._cleared_until)

    def _stopped(self) -> RunStopped | None:
        """Why what is being done now must stop, or None."""
        stopped = self._guard.stopped
        if not stopped or not self._is_clearing or self._guard.grace <= 0 or self._guard.is_lost:
            return stopped
        now = time.monotonic()
        if self._cleared_until == float("inf"):
            self._cleared_until = now + CLEANUP_SECONDS
        return stopped if now >= self._cleared_until else None

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.check()
        outer, self._step = self._step, name
        began = time.monotonic()
        self.log("info", name, marker="start")
        try:
            yield
        finally:
            seconds = round(time.monotonic() - began, 3)
            self._write_quietly(f"{name}: {seconds:.1f} s", {"marker": "end", "seconds": seconds})
            self._step = outer

    def execute(
        self,
        argv: Sequence[str],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        cwd: Path | None = None,
        on_line: Callable[[LogLine], None] | None = None,
    ) -> int:
        parser = OutputParser(self._step, self._log.masker)

        def take(lines: list[LogLine]) -> None:
            self._log.write(lines)
            if on_line:
                for line in lines:
                    on_line(line)

        label = name or self._step or Path(argv[0]).name
        status = self._process(
            argv,
            label,
            env=env,
            timeout=timeout,
            cwd=cwd,
            on_chunk=lambda chunk: take(parser.feed(*chunk)),
            on_idle=lambda: take(parser.idle(time.time_ns() // 1000)),
            on_end=lambda: take(parser.flush(time.time_ns() // 1000)),
        )
        return status.shell_code

    def capture(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        cwd: Path | None = None,
        limit: int = 1 << 20,
    ) -> Captured:
        output = {"stdout": bytearray(), "stderr": bytearray()}

        def keep(chunk) -> None:
            target = output[chunk.stream]
            target += chunk.data[: max(0, limit - len(target))]

        label = Path(argv[0]).name
        status = self._process(argv, label, env=env, timeout=timeout, cwd=cwd, on_chunk=keep)
        texts = {stream: data.decode("utf-8", "replace") for stream, data in output.items()}
        return Captured(status.shell_code, **texts)

    def log(self, level: str, message: str, **metadata: Any) -> None:
        if self._step:
            metadata.setdefault("step", self._step)
        metadata = clean_json(metadata)
        # Masked before it is cut into lines and pieces, which may cut a value.
        data = self._log.masker.mask(message).encode("utf-8", "replace")
        splitter = LineSplitter()
        now = time.time_ns() // 1000
        pieces = [*splitter.feed(data, now), *splitter.flush()]
        lines = []
        for _timestamp, text, continued in pieces:
            extra = {"continued": True} if continued else {}
            lines.append(LogLine(now, level, text, {**metadata, **extra}))
        self._log.write(lines)

    def write_lines(self, lines: list[LogLine]) -> None:
        """Lines of a program that runs beside the steps, into the run's log."""
        self._log.write(lines)

    def event(
        self, event_type: str, message: str, payload: Mapping[str, Any] | None = None
    ) -> None:
        text = clean_text(self._log.masker.mask(message).encode("utf-8", "replace"))
        text = text.encode()[:MAX_EVENT_BYTES].decode("utf-8", "ignore") or event_type
        try:
            reply = self._control.add_run_event(
                self.run_id, self.epoch, event_type, text, clean_json(dict(payload or {}))
            )
            _logger.debug("Event of run %s: %s", self.run_id, reply)
        except ControlPlaneUnavailable as error:
            _logger.warning("An event of run %s was not recorded: %s", self.run_id, error)

    def add_artifact(
        self,
        key: str,
        path: Path,
        content_type: str | None = None,
        *,
        expire_in: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        # Of a run that was stopped already the rest is kept; a stop that comes now ends the upload.
        before = self._guard.stopped

        def check() -> None:
            stopped = self._guard.stopped
            if stopped and (self._guard.is_lost or not before):
                raise stopped

        artifact = self._recorder.store(
            key,
            path,
            content_type,
            expire_in,
            clean_json(dict(metadata or {})),
            check=check,
            is_limited=key != LOG_KEY,
        )
        self._guard.insist(lambda: self._recorder.record(artifact))

    def _write_quietly(self, message: str, metadata: dict[str, Any]) -> None:
        """Write a line at the end of a step that may be failing, without covering the cause."""
        try:
            self.log("info", message, **metadata)
        except RunError as error:
            _logger.warning("Run %s: %s", self.run_id, error)

    def _process(
        self,
        argv: Sequence[str],
        label: str,
        *,
        env: Mapping[str, str] | None,
        timeout: float | None,
        cwd: Path | None,
        on_chunk: Callable[[Any], None],
        on_idle: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> ProcessStatus:
        """Start, follow, clear away one process; raises ``RunError`` unless it ended by itself."""
        self.check()
        self._processes += 1
        directory = self.workdir / "processes" / str(self._processes)
        remaining = 0.0

        def start() -> Handle:
            # Lease and time go on while an engine is waited for.
            nonlocal remaining
            remaining = max(0.01, self._end - time.monotonic())
            spec = ProcessSpec(
                argv=[str(part) for part in argv],
                cwd=cwd or self.checkout_dir,
                env={**self.env, **(env or {})},
                lease_deadline=self._guard.deadline,
                timeout=remaining if timeout is None else min(timeout, remaining),
                grace=cancel_grace(self.snapshot, TIMEOUT_GRACE),
                limits=self.limits,
                sandbox=self.sandbox,
            )
            return self._executor.start(spec, directory)

        handle = self.await_engine(start)
        try:
            self._guard.watch(lambda deadline: self._executor.renew(handle, deadline))
            status = self._follow(handle, on_chunk, on_idle)
            on_end()
        finally:
            self._guard.watch(None)
            self._executor.cleanup(handle)
        if status.is_output_cut:
            self.log("warn", OUTPUT_CUT, marker="output_cut")
        self._say_how_it_ended(status, label)
        step_timeout = timeout if timeout is not None and timeout < remaining else None
        self._raise_unless_ended(status, label, step_timeout)
        return status

    def _follow(
        self, handle: Handle, on_chunk: Callable[[Any], None], on_idle: Callable[[], None]
    ) -> ProcessStatus:
        offset, pause, grace_asked = 0, MIN_PAUSE, float("inf")
        while True:
            status = self._executor.poll(handle)
            chunks, offset = self._executor.read_output(handle, offset)
            for chunk in chunks:
                on_chunk(chunk)
            if self._stopped() and self._guard.grace < grace_asked:
                grace_asked = self._guard.grace
                self._executor.stop(handle, grace_asked)
            if chunks:
                pause = MIN_PAUSE
                continue
            if status:
                return status
            if pause >= MAX_PAUSE:
                on_idle()
            self._guard.wait(pause)
            pause = min(MAX_PAUSE, pause * 1.3)

    def _say_how_it_ended(self, status: ProcessStatus, label: str) -> None:
        """Of what was stopped with grace: which signal it took, for the run's trail."""
        if status.reason not in ("stopped", "timeout") or not status.rung or self._guard.is_lost:
            return
        stopped = self._stopped()
        facts = {
            "cause": stopped.code if stopped else "timeout",
            "signal": status.rung,
            "exit_code": status.shell_code,
        }
        self.event("info", f"{label} ended after {status.rung}.", facts)

    def _raise_unless_ended(
        self, status: ProcessStatus, label: str, step_timeout: float | None
    ) -> None:
        stopped = self._stopped()
        if stopped:
            raise stopped
        if status.reason == "timeout":
            raise self._timeout(label, step_timeout)
        if status.reason == "lease":
            raise RunStopped("lease_lost", LEASE_LOST)
        if status.reason == "disk_full":
            raise RunError("disk_full", DISK_FULL)
        if status.reason == "not_started":
            raise RunError("setup_error", status.error or f"{label} could not be started.")
        if status.reason in _OVER_LIMIT:
            raise RunError("resource_limit", f"{label} {_OVER_LIMIT[status.reason]}.")
        if status.reason == "lost" and self.sandbox:
            # The world around the step broke, not the step: the usual cause for another try.
            raise RunError("worker_lost", status.error or "The container was lost.")
        if status.reason in ("lost", "stopped"):
            _logger.error("Run %s, %s: %s", self.run_id, label, status)
            raise RunError(
                "internal_error", f"The process that watched over {label} on the worker was killed."
            )
        if status.out_of_memory:
            raise RunError(
                "out_of_memory",
                f"{label} was killed because the worker's memory ran out.",
                status.shell_code,
            )

    def _timeout(self, label: str, step_timeout: float | None) -> RunStopped:
        if step_timeout is not None:
            return RunStopped("timeout", f"{label} took longer than its {step_timeout:g} seconds.")
        limit = self.config["timeout"]
        return RunStopped(
            "timeout", f"The run took longer than its {limit:g} seconds; it was stopped in {label}."
        )
