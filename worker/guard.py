"""What agent and thread of one run tell each other: the lease, and why the work must stop.

The worker never trusts that it still owns a run: it counts its lease on the host's monotonic clock
from before the renewing call was sent, takes off a margin for killing, and stops by itself when
that moment passes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from .control.base import Claim, ControlPlaneUnavailable
from .errors import RunStopped

T = TypeVar("T")

OVERDUE = "The run did not end within the grace that follows its timeout; its worker gave it up."
LEASE_LOST = "The worker could not renew the lease of the run in time and stopped its work."
MAX_PAUSE = 5.0


class RunGuard:
    """The lease and the stop flag of one claimed run. All methods may be called from any thread."""

    def __init__(self, claim: Claim, claimed_at: float, kill_margin: float) -> None:
        self.run_id = claim.run_id
        self.epoch = claim.epoch
        self._kill_margin = kill_margin
        self._lock = threading.Lock()
        self._stop: RunStopped | None = None
        self._grace = 0.0
        self._woken = threading.Event()
        self._on_renew: Callable[[float], None] | None = None
        self._run_deadline = float("inf")
        self.deadline = 0.0
        #: When the call was sent that renewed the lease last (monotonic).
        self.renewed_at = claimed_at
        self.renew(claimed_at, claim.lease_seconds)

    def renew(self, sent_at: float, lease_seconds: float) -> None:
        """The lease was renewed by a call sent at ``sent_at`` (monotonic) for so many seconds."""
        margin = min(self._kill_margin, lease_seconds / 3)
        with self._lock:
            self.renewed_at = max(self.renewed_at, sent_at)
            until = min(sent_at + lease_seconds - margin, self._run_deadline)
            self.deadline = max(self.deadline, until)
            on_renew = self._on_renew
            deadline = self.deadline
        if on_renew:
            on_renew(deadline)

    def bound(self, sent_at: float, seconds: float) -> None:
        """The control plane ends the run so many seconds after a call sent at ``sent_at``: no
        renewal counts beyond that."""
        with self._lock:
            self._run_deadline = sent_at + seconds - self._kill_margin
            self.deadline = min(self.deadline, self._run_deadline)

    def watch(self, on_renew: Callable[[float], None] | None) -> None:
        """Call ``on_renew(deadline)`` at each renewal from now on; None ends that."""
        with self._lock:
            self._on_renew = on_renew

    def stop(self, code: str, message: str, grace: float) -> None:
        """Ask the run's thread to stop; the first cause stays, a shorter grace counts."""
        with self._lock:
            if self._stop is None:
                self._stop, self._grace = RunStopped(code, message), grace
            else:
                self._grace = min(self._grace, grace)
        self._woken.set()

    @property
    def stopped(self) -> RunStopped | None:
        """Why the work must stop, or None. Notices by itself that the lease or the time is over."""
        if time.monotonic() >= self._run_deadline:
            self.stop("timeout", OVERDUE, 0.0)
        elif time.monotonic() >= self.deadline:
            self.stop("lease_lost", LEASE_LOST, 0.0)
        with self._lock:
            return self._stop

    @property
    def grace(self) -> float:
        """Seconds the processes get for ending by themselves."""
        with self._lock:
            return self._grace

    @property
    def is_lost(self) -> bool:
        """Whether the run is no longer ours: nothing may be written any more."""
        stopped = self.stopped
        return time.monotonic() >= self.deadline or bool(stopped and stopped.code == "lease_lost")

    def check(self) -> None:
        """Raise ``RunStopped`` when the work must stop."""
        stopped = self.stopped
        if stopped:
            raise stopped

    def wait(self, seconds: float) -> None:
        """Sleep, but not past the moment in which a stop is first asked for."""
        if self._woken.is_set():
            time.sleep(seconds)
        else:
            self._woken.wait(seconds)

    def insist(self, call: Callable[[], T], until: float | None = None) -> T:
        """Repeat ``call`` while the control plane is away, as long as the lease or ``until``."""
        pause = 0.25
        while True:
            try:
                return call()
            except ControlPlaneUnavailable:
                if time.monotonic() >= (self.deadline if until is None else until):
                    raise
            time.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(MAX_PAUSE, pause * 2)
