"""Running the steps of a config: which of them, in which order, and what became of each.

One step at a time. The first failure is the cause of the run's failure; steps that do not need
what failed still run, and so do the steps that are there for failures. When the run is stopped
(canceled, past its time), only steps with ``when`` ``always`` or ``on_failure`` are begun, and
those have ``job.CLEANUP_SECONDS`` altogether, unless the stop allows no time.
"""

from __future__ import annotations

import time
from typing import Any

from .errors import RunError, RunStopped
from .job import RunJob
from .ports import free_port
from .recipes.base import Outcome
from .step_plan import PlannedStep, plan

#: What a step itself can be blamed for; anything else breaks the run off.
OWN_FAILURES = ("exit_code", "timeout", "out_of_memory", "resource_limit", "setup_error")


class StepRunner:
    """Runs the steps of ``job.config``; ``results`` says what became of each, for the metadata.

    A result has ``name``, ``status`` (succeeded, failed, canceled, skipped), ``seconds``,
    ``exit_code`` when the step ended by itself, and ``reason`` when it did not succeed.
    """

    def __init__(self, job: RunJob) -> None:
        self._job = job
        self._plan = plan(job.config["steps"])
        self.results: list[dict[str, Any]] = []
        self._cause: RunError | None = None
        # Entries of the config's list of which not all steps succeeded, and why in few words.
        self._unmet: dict[int, str] = {}
        self._is_broken_off = False

    def run(self) -> Outcome:
        """Run them all; raise ``RunError`` with the first cause when the run did not succeed."""
        for planned in self._plan:
            reason = self._reason_to_skip(planned)
            if reason:
                self._skip(planned, reason)
            else:
                self._run(planned)
        if self._cause:
            raise self._cause
        return Outcome()

    def _reason_to_skip(self, planned: PlannedStep) -> str | None:
        """The end of a sentence, or None when the step is to be run."""
        stopped = self._stopped(planned)
        if stopped:
            self._cause = self._cause or stopped
            return "the run was stopped"
        unmet = [self._unmet[index] for index in sorted(planned.needs) if index in self._unmet]
        if planned.when == "on_failure":
            # The stop of a run is a failure of what it kept from running, which stands before it.
            return None if unmet else "nothing before it failed"
        if planned.when == "always":
            return None
        if self._is_broken_off:
            return "the run was broken off"
        if planned.step.get("fail_fast") and planned.index in self._unmet:
            return self._unmet[planned.index]
        return unmet[0] if unmet else None

    def _stopped(self, planned: PlannedStep) -> RunStopped | None:
        try:
            if planned.when == "on_success":
                self._job.check()
            else:
                with self._job.clearing_away():
                    self._job.check()
        except RunStopped as error:
            return error
        return None

    def _skip(self, planned: PlannedStep, reason: str) -> None:
        self._job.log("info", f"Skipped, because {reason}.", step=planned.name)
        self._record(planned, "skipped", 0.0, reason=reason)
        if planned.when != "on_failure":
            self._unmet.setdefault(planned.index, reason)

    def _run(self, planned: PlannedStep) -> None:
        began = time.monotonic()
        try:
            if planned.when == "on_success":
                code = self._execute(planned)
            else:
                with self._job.clearing_away():
                    code = self._execute(planned)
        except RunError as error:
            self._fail(planned, error, time.monotonic() - began)
            return
        seconds = time.monotonic() - began
        if code:
            message = f"Step {planned.name} ended with exit code {code}."
            self._fail(planned, RunError("exit_code", message, code), seconds, exit_code=code)
        else:
            self._record(planned, "succeeded", seconds, exit_code=0)

    def _execute(self, planned: PlannedStep) -> int:
        argv = ["/bin/sh", "-e", "-c", planned.step["run"]]
        # Where Odoo listens when a step starts it, unless the config or the command line says so.
        address = {"ODOO_HTTP_INTERFACE": "127.0.0.1", "ODOO_HTTP_PORT": str(free_port())}
        env = {name: value for name, value in address.items() if name not in self._job.env}
        with self._job.step(planned.name):
            return self._job.execute(
                argv,
                name=f"Step {planned.name}",
                env={**env, **planned.variables},
                timeout=planned.step.get("timeout"),
            )

    def _fail(
        self, planned: PlannedStep, error: RunError, seconds: float, exit_code: int | None = None
    ) -> None:
        was_taken = isinstance(error, RunStopped) and error.code != "timeout"
        status = "canceled" if was_taken else "failed"
        facts = {} if exit_code is None else {"exit_code": exit_code}
        self._record(planned, status, seconds, reason=error.message, **facts)
        said = "was canceled" if was_taken else "failed"
        self._unmet.setdefault(planned.index, f"{planned.name} {said}")
        self._is_broken_off = self._is_broken_off or error.code not in OWN_FAILURES
        if self._cause is None:
            self._cause = error
        elif self._cause is not error:
            self._job.log("warn", f"{error.message} The run had failed already.", step=planned.name)

    def _record(self, planned: PlannedStep, status: str, seconds: float, **facts: Any) -> None:
        result = {"name": planned.name, "status": status, "seconds": round(seconds, 3)}
        self.results.append({**result, **facts})
