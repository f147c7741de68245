"""The control plane as a worker sees it: one method per kernel function, the same over every door.

A reply is either the facts that were asked for or a ``Refused``: the control plane understood the
call and said no. When it cannot be reached, ``ControlPlaneUnavailable`` is raised; whoever calls
then waits and calls again.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any


class ControlPlaneError(Exception):
    """The control plane gave an answer that no retry mends: missing function, denied login."""


class ControlPlaneUnavailable(ControlPlaneError):
    """The control plane cannot be reached just now."""


@dataclasses.dataclass(frozen=True)
class Refused:
    """The control plane said no.

    ``code`` as in the contract (stale_epoch, log_gap, …), ``error`` is a sentence.
    """

    code: str
    error: str
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.error} ({self.code})"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A run this worker holds.

    ``epoch`` is the fencing token, ``lease_seconds`` how long the claim is good for.
    """

    run_id: int
    epoch: int
    run_number: int
    project_id: int
    workflow_id: int
    lease_seconds: float
    snapshot: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Started:
    """The run is running. ``next_seq`` is the number its next log line must have.

    ``deadline_seconds`` from now on the control plane ends it, whatever the worker says.
    """

    lease_seconds: float
    next_seq: int
    deadline_seconds: float = float("inf")


@dataclasses.dataclass(frozen=True)
class HeartbeatRun:
    """What the control plane says about one of our runs. Not owned: stop its work at once."""

    run_id: int
    epoch: int
    owned: bool
    cancel_requested: bool = False
    cancel_reason: str | None = None
    lease_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Lease:
    """A lease that exists now, whoever holds it."""

    run_id: int
    epoch: int
    worker_id: str


@dataclasses.dataclass(frozen=True)
class Artifact:
    """What is recorded about a stored file. ``checksum`` is SHA-256 in hex."""

    key: str
    url: str
    content_type: str
    size_bytes: int
    checksum: str
    expires_at: datetime | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class JsonRows(Sequence):
    """Rows that are JSON already, as they lie in the spool: a sequence of their dicts for those who
    look at them, one text for those who pass them on."""

    def __init__(self, rows: Sequence[bytes]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return JsonRows(self._rows[index])
        return json.loads(self._rows[index])

    def to_json(self) -> str:
        """All rows as one JSON list."""
        return "[" + ",".join(row.decode() for row in self._rows) + "]"


class ControlPlane(abc.ABC):
    """All methods may be called from any thread and raise ``ControlPlaneUnavailable``."""

    @abc.abstractmethod
    def namespace(self) -> str:
        """A short name (letters and digits) of the control plane, for what several share."""

    @abc.abstractmethod
    def register_worker(
        self,
        worker_id: str,
        host: str,
        labels: Sequence[str],
        capacity: int,
        version: str,
        kind: str,
    ) -> Mapping[str, Any] | Refused:
        """Make this worker known; repeated after the control plane forgot it."""

    @abc.abstractmethod
    def set_worker_state(self, worker_id: str, state: str) -> Mapping[str, Any] | Refused:
        """Tell that this worker is active, draining or stopped."""

    @abc.abstractmethod
    def claim_next_run(
        self, worker_id: str, labels: Sequence[str], claim_token: str
    ) -> Claim | None | Refused:
        """Take the next run, None when there is none. The same token gives the same run again."""

    @abc.abstractmethod
    def start_workflow_run(self, run_id: int, worker_id: str, epoch: int) -> Started | Refused:
        """Turn a claimed run into a running one."""

    @abc.abstractmethod
    def release_run(self, run_id: int, worker_id: str, epoch: int) -> Mapping[str, Any] | Refused:
        """Give a claimed run back to the queue: nothing of it has begun."""

    @abc.abstractmethod
    def heartbeat(
        self, worker_id: str, runs: Iterable[tuple[int, int]]
    ) -> list[HeartbeatRun] | Refused:
        """Renew the leases of all runs (run id, epoch) of this worker in one call."""

    @abc.abstractmethod
    def append_run_logs(
        self, run_id: int, epoch: int, first_seq: int, lines: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any] | Refused:
        """Store log lines; returns ``next_seq``. Repeating a batch changes nothing."""

    @abc.abstractmethod
    def run_secrets(self, run_id: int, worker_id: str, epoch: int) -> Mapping[str, Any] | Refused:
        """The secrets that the run's snapshot names, for its holder only.

        ``secrets``: list of name, environment, key_id, sealed (base64), over HTTP ``value`` in
        place of the last two; ``missing`` and
        ``withheld``: names; ``project_id`` and ``environment`` of the run.
        """

    @abc.abstractmethod
    def add_run_event(
        self, run_id: int, epoch: int, event_type: str, message: str, payload: Mapping[str, Any]
    ) -> Mapping[str, Any] | Refused:
        """Append an event: error, warning or info. Not repeated when the connection is lost."""

    @abc.abstractmethod
    def add_run_artifact(
        self, run_id: int, epoch: int, artifact: Artifact
    ) -> Mapping[str, Any] | Refused:
        """Record a file that is in the store already."""

    @abc.abstractmethod
    def complete_workflow_run(
        self,
        run_id: int,
        worker_id: str,
        epoch: int,
        exit_code: int | None,
        error_code: str | None,
        error_message: str | None,
        metadata: Mapping[str, Any],
    ) -> Mapping[str, Any] | Refused:
        """End the run; a repeat by the same epoch changes nothing."""

    @abc.abstractmethod
    def reap_lost_runs(self) -> Mapping[str, Any] | Refused:
        """Requeue or fail the runs whose leases have ended, whoever held them."""

    @abc.abstractmethod
    def index_run_logs(self) -> Mapping[str, Any] | Refused:
        """Enter words of stored log lines in the search's index; ``lines`` is how many lines it
        took, 0 when there is nothing to do now."""

    @abc.abstractmethod
    def list_leases(self) -> list[Lease]:
        """All leases that exist now."""

    @abc.abstractmethod
    def listen(
        self, stop: threading.Event, queue: threading.Event, cancel: threading.Event
    ) -> None:
        """Set ``queue`` and ``cancel`` when something may be new, until ``stop`` is set.

        Runs in a thread of its own.

        It only makes things faster: the caller polls anyway.
        """

    @abc.abstractmethod
    def prepare(self) -> None:
        """Do in advance what the first call would wait for. Changes nothing.

        Raises ``ControlPlaneError``.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Release all connections."""
