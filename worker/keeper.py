"""The agent's side of its runners: it starts them, keeps them, adopts those of dead agents.

The agent that keeps a runner holds its folder's lock ``keeper`` (``runner_folder.py``). When that
lock is free the agent has died, or handed the runner over, and the next agent on the same work
directory, with another worker id, takes the lock and the runner. For the control plane the run
stays with the worker that claimed it, under its epoch: the keeper heartbeats in its name. So
adoption changes nothing that a write in flight could stumble over.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import run_secrets
from .artifacts import LOG_KEY, LOG_TYPE, ArtifactRecorder, Limits, make_store
from .control.base import (
    Claim,
    ControlPlane,
    ControlPlaneError,
    ControlPlaneUnavailable,
    HeartbeatRun,
    Refused,
)
from .errors import RunError
from .execution import remove_tree, workdir_name
from .executors.base import Executor, ExecutorError
from .log_shipping import RunLog
from .nursery import MAX_MESSAGE, READY
from .runner import LEASE_GIVEN_UP, orders_of
from .runner_folder import RunnerFolder
from .settings import Settings
from .storage.base import StorageError

_logger = logging.getLogger(__name__)

#: Seconds the nursery gets for its imports.
BIRTH_SECONDS = 60.0
#: Seconds after which a runner that did not say that it runs counts as frozen.
FROZEN_SECONDS = 5.0
#: Seconds for the end of what is killed.
END_SECONDS = 10.0
RUNNER_LOST = "The process that executed the run was killed."
#: Loads this package from its folder under a name of its own, wherever it is installed.
_BOOT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location(
    "odooops_worker", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["odooops_worker"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from odooops_worker.nursery import nursery
nursery(int(sys.argv[2]))
"""


class Ward:
    """A runner this agent keeps."""

    def __init__(self, folder: RunnerFolder, worker_id: str, lock: int) -> None:
        self.folder = folder
        #: Under whose name the run was claimed.
        self.worker_id = worker_id
        self.key = (folder.run_id, folder.epoch)
        self._lock = lock
        self._orders = folder.orders()
        self._kept_since = time.monotonic()
        self._is_buried = False

    @property
    def needs_lease(self) -> bool:
        """Whether the runner runs, or is being buried. A frozen one must lose its lease as if it
        were dead."""
        last = self.folder.awake_at() or self._kept_since
        return self._is_buried or time.monotonic() - last < FROZEN_SECONDS

    @property
    def is_given_up(self) -> bool:
        """Whether nothing more shall be done for the run: it is no longer ours, as far as we know,
        or the agent is to end now."""
        return self._orders.code in ("lease_lost", "worker_lost")

    def begin_burial(self) -> None:
        """The runner is dead; what is left to do for the run needs the lease."""
        self._is_buried = True

    def hear(self, item: HeartbeatRun | None, sent_at: float) -> None:
        """Pass on what the control plane said about the run; None: nothing."""
        if item is None:
            self.stop("lease_lost", LEASE_GIVEN_UP)
            return
        heard = dataclasses.asdict(orders_of(item, sent_at))
        for name in ("is_draining", *(() if heard["code"] else ("code", "message", "grace"))):
            heard[name] = getattr(self._orders, name)
        self._order(**heard)

    def drain(self) -> None:
        """Give the run back if it has not started."""
        self._order(is_draining=True)

    def stop(self, code: str, message: str) -> None:
        """End the work at once."""
        self._order(code=code, message=message, grace=0.0)

    def wait(self) -> bool:
        """Wait for the runner's end; returns whether it came to its own end."""
        self.folder.wait()
        return not self.folder.path.exists()

    def release(self) -> None:
        """Keep it no more."""
        os.close(self._lock)

    def _order(self, **orders: Any) -> None:
        self._orders = dataclasses.replace(self._orders, **orders)
        self.folder.order(self._orders)


class Keeper:
    """All runners of one agent."""

    def __init__(
        self, settings: Settings, control: ControlPlane, worker_id: str, namespace: str
    ) -> None:
        self._settings = settings
        self._control = control
        self._worker_id = worker_id
        self._namespace = namespace
        self._socket: socket.socket | None = None
        self._nursery: subprocess.Popen[bytes] | None = None

    def open_nursery(self) -> None:
        """Start the process that starts runners.

        :raises ExecutorError: it ended at once; its own log says why
        """
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        folder = str(Path(__file__).resolve().parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with its:
            self._nursery = subprocess.Popen(
                [sys.executable, "-c", _BOOT, folder, str(its.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[its.fileno()],
            )
        self._socket = mine
        mine.settimeout(BIRTH_SECONDS)
        try:
            mine.send(self._settings.to_json().encode())
            is_ready = mine.recv(MAX_MESSAGE) == READY
        except OSError:
            is_ready = False
        if not is_ready:
            self.close()
            raise ExecutorError("The process that starts runs could not be started.")

    def close(self) -> None:
        """End the nursery; runners live on."""
        if self._socket:
            self._socket.close()
            self._socket = None
        if self._nursery:
            # It ends by itself when the socket does.
            try:
                self._nursery.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._nursery.kill()
                self._nursery.wait()
            self._nursery = None

    def start(self, claim: Claim, sent_at: float) -> Ward:
        """A runner for a claim whose call was sent at ``sent_at`` (monotonic).

        :raises OSError: it could not be started
        :raises ExecutorError: the same
        """
        folder, alive, lock = RunnerFolder.make(
            self._settings.work_dir,
            self._namespace,
            claim.run_id,
            claim.epoch,
            {"worker_id": self._worker_id, "project": claim.snapshot["project"]["slug"]},
        )
        order = {
            "folder": str(folder.path),
            "claim": dataclasses.asdict(claim),
            "worker_id": self._worker_id,
            "namespace": self._namespace,
            "sent_at": sent_at,
        }
        try:
            with os.fdopen(os.memfd_create("order"), "wb") as file:
                file.write(json.dumps(order).encode())
                file.flush()
                self._hand_over(file.fileno(), alive)
        except BaseException:
            folder.remove()
            os.close(lock)
            raise
        finally:
            # From now on the lock is the runner's alone.
            os.close(alive)
        return Ward(folder, self._worker_id, lock)

    def _hand_over(self, *files: int) -> None:
        """Give the nursery a runner's files; a nursery that has died is replaced once."""
        for attempt in (1, 2):
            try:
                if self._socket is None:
                    self.open_nursery()
                socket.send_fds(self._socket, [b"run"], list(files))
            except OSError:
                self.close()
                if attempt == 2:
                    raise
            else:
                return

    def adopt(self) -> list[Ward]:
        """The runners that nobody keeps, and those that died while nobody kept them."""
        wards = []
        for folder in RunnerFolder.find(self._settings.work_dir, self._namespace):
            lock = folder.keep()
            if lock is None:
                continue
            try:
                wards.append(Ward(folder, str(folder.facts()["worker_id"]), lock))
            except OSError:
                os.close(lock)
            except (ValueError, KeyError, TypeError) as error:
                _logger.warning("%s cannot be read: %r", folder.path, error)
                # A host that lost its power never wrote the files to the disk. What else the run
                # left is collected when its lease has ended.
                if not folder.is_alive():
                    folder.remove()
                os.close(lock)
        return wards

    def tell_adopted(self, ward: Ward) -> None:
        """Let the control plane know that a worker is gone, and who keeps its run.

        :raises ControlPlaneError:
        """
        if ward.worker_id == self._worker_id:
            return
        self._control.set_worker_state(ward.worker_id, "stopped")
        message = "The run goes on; another worker on the same host looks after it."
        facts = {"worker_id": self._worker_id, "claimed_by": ward.worker_id}
        reply = self._control.add_run_event(*ward.key, "info", message, facts)
        _logger.info("Run %s of worker %s is adopted", ward.key[0], ward.worker_id)
        _logger.debug("Event of run %s: %s", ward.key[0], reply)

    def bury(self, ward: Ward, executors: Mapping[str, Executor]) -> None:
        """A runner was killed: end what it had started, bring in its log, then say so, so that a
        retry need not wait for the end of the lease.

        When it is not certain that everything has ended, the end is not said: the work ends itself
        before the lease does. When the control plane is away all is left as it is, for another
        burial.

        :raises ControlPlaneError:
        """
        ward.begin_burial()
        name = workdir_name(self._namespace, *ward.key)
        workdir = self._settings.work_dir / name
        certain = end_processes(workdir, executors)
        remove_tree(run_secrets.folder(name))
        try:
            self._bring_in_log(ward, workdir)
            if certain:
                self._say_lost(ward)
        except ControlPlaneUnavailable:
            raise
        except ControlPlaneError:
            # No repetition mends that.
            ward.folder.remove()
            raise
        ward.folder.remove()
        if certain:
            remove_tree(workdir)

    def _say_lost(self, ward: Ward) -> None:
        run_id, epoch = ward.key
        reply = self._control.complete_workflow_run(
            run_id, ward.worker_id, epoch, None, "worker_lost", RUNNER_LOST, {}
        )
        if isinstance(reply, Refused) and reply.code == "invalid_state":
            reply = self._control.release_run(run_id, ward.worker_id, epoch)
        _logger.warning("The runner of run %s was killed: %s", run_id, reply)

    def _bring_in_log(self, ward: Ward, workdir: Path) -> None:
        """Send what the runner had not sent, then store the complete log.

        Neither is worth keeping the run from its end, so all but an absence of the control plane
        is only noted.

        :raises ControlPlaneUnavailable:
        """
        log = None
        try:
            log = RunLog.reopen(self._control, *ward.key, workdir) if workdir.exists() else None
            if log is None:
                return
            log.start()
            if not log.flush(lambda: ward.is_given_up):
                _logger.warning("The log of run %s was not taken: %s", ward.key[0], log.refused)
                return
            self._store_log(ward, log.finish())
        except (OSError, RunError, StorageError, zlib.error, ValueError, KeyError) as error:
            _logger.warning("The log of run %s is not whole: %s", ward.key[0], error)
        finally:
            if log:
                log.close()

    def _store_log(self, ward: Ward, path: Path) -> None:
        recorder = ArtifactRecorder(
            make_store(self._settings, self._control),
            self._control,
            ward.key,
            str(ward.folder.facts()["project"]),
            Limits.of(self._settings),
        )

        def check() -> None:
            if ward.is_given_up:
                raise RunError("lease_lost", LEASE_GIVEN_UP)

        recorder.record(recorder.store(LOG_KEY, path, LOG_TYPE, check=check, is_limited=False))


def end_processes(workdir: Path, executors: Mapping[str, Executor]) -> bool:
    """End all processes of a run whose runner is dead; returns whether that is certain."""
    certain = True
    for folder in workdir.glob("processes/*"):
        try:
            data = json.loads((folder / "handle.json").read_bytes())
            executor = executors[data["executor"]]
            handle = executor.adopt(data)
            executor.stop(handle, 0.0)
            until = time.monotonic() + END_SECONDS
            while executor.poll(handle) is None:
                if time.monotonic() > until:
                    raise ExecutorError("It does not end.")
                time.sleep(0.05)
            executor.cleanup(handle)
        except (OSError, ValueError, KeyError, ExecutorError) as error:
            _logger.warning("What runs in %s may live on: %s", folder, error)
            certain = False
    return certain


def heartbeat(control: ControlPlane, worker_id: str, wards: list[Ward]) -> Refused | None:
    """One call for all wards claimed by this worker id; returns its refusal.

    :raises ControlPlaneError:
    """
    held = [ward for ward in wards if ward.needs_lease]
    sent_at = time.monotonic()
    reply = control.heartbeat(worker_id, [ward.key for ward in held])
    if isinstance(reply, Refused):
        return reply
    answered = {(item.run_id, item.epoch): item for item in reply}
    for ward in held:
        ward.hear(answered.get(ward.key), sent_at)
    return None
