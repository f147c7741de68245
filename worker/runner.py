"""The process that executes one run: a child of the nursery (``nursery.py``).

A runner has a session of its own and asks nobody for anything once it has its run, so it survives
agent and nursery: when the agent is killed, upgraded or stopped, the run goes on under the code it
began with, and the next agent on the same work directory keeps it (``keeper.py``).

While it is kept, the keeper renews the lease, together with those of all its other runs. When no
renewal has come for more than two heartbeats, the runner renews by itself. So neither a dead agent
nor a frozen one costs a run, and in quiet times there is one heartbeat per host.
"""

from __future__ import annotations

import dataclasses
import encodings.idna  # noqa: F401 - of the first connection; it must not be read after an upgrade
import logging
import threading
import time
from pathlib import Path
from typing import Any

from .artifacts import make_store
from .control.base import Claim, ControlPlane, ControlPlaneError, HeartbeatRun, Refused
from .control.connect import connect
from .execution import Execution, Tools
from .executors.docker import DockerExecutor
from .executors.process import ProcessExecutor
from .guard import RunGuard
from .runner_folder import Orders, RunnerFolder
from .settings import Settings
from .workflow import cancel_grace

_logger = logging.getLogger(__name__)

#: Seconds between two looks at the keeper's orders.
TICK = 0.25
#: The run's thread, and the one that sends its log.
CONNECTIONS = 2
LEASE_GIVEN_UP = "The control plane gave the run up; the worker stopped its work."
RUNNER_STOPPED = "The process that executed the run was stopped."


class Runner:
    """One run: its execution, and beside it a thread that tends the lease.

    ``control`` is the runner's to close; None: it connects by itself.
    """

    def __init__(
        self, settings: Settings, order: dict[str, Any], control: ControlPlane | None = None
    ) -> None:
        self.settings = settings
        self.folder = RunnerFolder(Path(order["folder"]))
        self.claim = Claim(**order["claim"])
        self.worker_id: str = order["worker_id"]
        self._namespace: str = order["namespace"]
        self.guard = RunGuard(self.claim, order["sent_at"], settings.kill_margin_seconds)
        self._control = control or connect(settings, CONNECTIONS)
        self._ended = threading.Event()
        self._orders = Orders()
        self._try_at = 0.0
        self._signals = 0

    def run(self) -> None:
        """Execute the run to its end; then nothing is left of it on this host."""
        settings = self.settings
        tools = Tools(
            settings,
            self._control,
            # With Docker alone, processes serve the worker's own programs and no step.
            ProcessExecutor(settings.allow_process or settings.docker),
            make_store(settings, self._control),
            self.worker_id,
            self._namespace,
            is_stopping=lambda: self.folder.orders().is_draining,
            docker=DockerExecutor(settings.docker_host) if settings.docker else None,
        )
        self.folder.show_awake()
        thread = threading.Thread(target=self._tend, name="tend", daemon=True)
        thread.start()
        Execution(tools, self.claim, self.guard).run()
        self._ended.set()
        thread.join(timeout=5)
        self._control.close()
        self.folder.remove()

    def stop(self) -> None:
        """End the work now. Safe in a signal handler."""
        self._signals += 1

    def _tend(self) -> None:
        """Say that we live, obey, and renew the lease when nobody else does."""
        while not self._ended.wait(TICK):
            try:
                orders = self.folder.orders()
                if orders != self._orders:
                    self._orders = orders
                    self._obey(orders)
                if self._signals:
                    self.guard.stop("worker_lost", RUNNER_STOPPED, 0.0)
                self._renew_if_alone()
                self.folder.show_awake()
            except Exception:
                # Whatever it was: without renewals the work ends before the lease.
                _logger.exception("Run %s: its lease is not tended", self.claim.run_id)

    def _obey(self, orders: Orders) -> None:
        if orders.sent_at:
            self.guard.renew(orders.sent_at, orders.lease_seconds)
        if orders.code:
            self.guard.stop(orders.code, orders.message, self._grace(orders.grace))

    def _grace(self, grace: float | None) -> float:
        if grace is None:
            return cancel_grace(self.claim.snapshot, self.settings.cancel_grace_seconds)
        return grace

    def _renew_if_alone(self) -> None:
        interval, now = self.settings.heartbeat_seconds, time.monotonic()
        alone = now - self.guard.renewed_at > 2 * interval + 2
        if not alone or now < self._try_at or self.guard.is_lost:
            return
        self._try_at = now + interval
        held = (self.claim.run_id, self.claim.epoch)
        try:
            if not self.folder.is_kept():
                # Our heartbeats must not make the dead one look alive.
                self._control.set_worker_state(self.worker_id, "stopped")
            reply = self._control.heartbeat(self.worker_id, [held])
        except ControlPlaneError as error:
            _logger.warning("Run %s: no heartbeat: %s", self.claim.run_id, error)
            self._try_at = time.monotonic() + min(1.0, interval)
            return
        if isinstance(reply, Refused):
            _logger.warning("Run %s: a heartbeat was refused: %s", self.claim.run_id, reply)
        else:
            self._obey(orders_of(reply[0], now))


def orders_of(item: HeartbeatRun, sent_at: float) -> Orders:
    """What follows for a runner from the answer to a heartbeat that was sent at ``sent_at``."""
    if not item.owned:
        return Orders(code="lease_lost", message=LEASE_GIVEN_UP, grace=0.0)
    orders = Orders(sent_at, item.lease_seconds)
    if not item.cancel_requested:
        return orders
    reason = f": {item.cancel_reason}" if item.cancel_reason else "."
    return dataclasses.replace(orders, code="canceled", message=f"The run was canceled{reason}")
