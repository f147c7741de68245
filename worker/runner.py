"""The process that executes one run, and the nursery in which such processes are born.

An agent starts one nursery. It imports everything, opens nothing, has one thread, and forks a
*runner* for each run it is given: that takes a few milliseconds, and what was imported is in memory
once. A runner has a session of its own and asks nobody for anything once it lives, so it survives
agent and nursery: when the agent is killed, upgraded or stopped, the run goes on under the code it
began with, and the next agent on the same work directory keeps it (``keeper.py``).

While it is kept, the keeper renews the lease, together with those of all its other runs. When no
renewal has come for more than two heartbeats, the runner renews by itself. So neither a dead agent
nor a frozen one costs a run, and in quiet times there is one heartbeat per host.

Nothing is kept in arguments or in the environment: settings and claim come through the socket that
the nursery was started with.
"""

from __future__ import annotations

import dataclasses
import encodings.idna  # noqa: F401 - of the first connection; it must not be read after an upgrade
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .artifacts import make_store
from .control.base import Claim, ControlPlaneError, HeartbeatRun, Refused
from .control.connect import connect
from .execution import Execution, Tools
from .executors.docker import DockerExecutor
from .executors.process import ProcessExecutor
from .guard import RunGuard
from .runner_folder import Orders, RunnerFolder
from .settings import Settings
from .storage.base import StorageError
from .workflow import cancel_grace

_logger = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"
#: Seconds between two looks at the keeper's orders.
TICK = 0.25
#: The run's thread, and the one that sends its log.
CONNECTIONS = 2
#: Bytes of one message to the nursery; what may be larger lies in a file that goes with it.
MAX_MESSAGE = 1 << 16
READY = b"ready"
LEASE_GIVEN_UP = "The control plane gave the run up; the worker stopped its work."
RUNNER_STOPPED = "The process that executed the run was stopped."


class Runner:
    """One run: its execution, and beside it a thread that tends the lease."""

    def __init__(self, settings: Settings, order: dict[str, Any]) -> None:
        self.settings = settings
        self.folder = RunnerFolder(Path(order["folder"]))
        self.claim = Claim(**order["claim"])
        self.worker_id: str = order["worker_id"]
        self._namespace: str = order["namespace"]
        self.guard = RunGuard(self.claim, order["sent_at"], settings.kill_margin_seconds)
        self._control = connect(settings, CONNECTIONS)
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


def nursery(descriptor: int) -> None:
    """Serve the agent at the other end of the socket until it goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Ended children need no farewell.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as agent:
        settings = Settings.from_json(agent.recv(MAX_MESSAGE).decode())
        logging.basicConfig(
            level=settings.log_level.upper(), stream=sys.stderr, format=LOG_FORMAT, force=True
        )
        # Whatever an upgrade may take away is read now; no store is used here.
        make_store(settings, None)
        agent.send(READY)
        # Objects that are never looked at by the collector stay shared with the children.
        gc.collect()
        gc.freeze()
        while True:
            # The runner's lock comes along as an open file: there is no moment without it.
            message, files, _flags, _address = socket.recv_fds(
                agent, MAX_MESSAGE, 2, socket.MSG_CMSG_CLOEXEC
            )
            if not message:
                return
            try:
                if os.fork() == 0:
                    agent.close()
                    _live(settings, files[0])
            except OSError as error:
                _logger.error("No runner could be started: %s", error)
            for file in files:
                os.close(file)


def _live(settings: Settings, order_file: int) -> None:
    """The life of a runner; does not return."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with open(order_file, "rb", closefd=False) as file:
            file.seek(0)
            order = json.load(file)
        threading.current_thread().name = f"run-{order['claim']['run_id']}"
        runner = Runner(settings, order)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: runner.stop())
        runner.run()
        code = 0
    except (ControlPlaneError, StorageError) as error:
        _logger.error("A run could not be executed: %s", error)
    except BaseException:
        _logger.exception("A runner failed")
    finally:
        logging.shutdown()
        os._exit(code)
