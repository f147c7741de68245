"""The worker process: claims runs, executes them, keeps their leases, cleans up.

The protocol in plain words:

A worker is one process with an identity of its own, a UUID made at its start: a restarted worker is
another worker, so what the old one left behind cannot look alive. It registers with its labels and
its capacity (runs at the same time).

**Claiming.** While a slot is free the worker calls ``claim_next_run``. After a hit it asks again at
once; when there was nothing it waits about a second, or less when PostgreSQL notifies it that
something was queued. Polling is the truth, the notification only makes it faster. Each attempt
carries a fresh claim token, and the same token again after a lost reply: the control plane then
gives the same run, so no run is stranded. A claim comes with an *epoch*. It is the fencing token:
every later write about the run carries it, and the control plane refuses those of an older epoch.

**Executing.** Each run has a process of its own, its *runner* (``runner.py``), and its steps'
processes live under supervisors in sessions of their own. The agent keeps its runners
(``keeper.py``): it renews their leases, passes on who wants them stopped, and sees their end.

**Heartbeat.** One call every ten seconds renews the leases of all runs of the process. The answer
says for each whether it is still ours (if not, its work is killed at once) and whether somebody
wants it canceled (then it is stopped with grace, and its completion confirms the cancel). A
notification makes the worker ask sooner.

**Adopting.** Runners live on without their agent and then renew their leases themselves. Whoever
finds one on its work directory that nobody keeps, keeps it, and counts it among its own. So a
worker that was killed, upgraded or stopped costs no run when only the agent went; and it costs the
time of a step, not of a lease, when a runner was killed: its keeper ends the rest and says so.

**Fencing itself.** A runner counts its lease on the host's monotonic clock. When it was not renewed
until shortly before its end, the runner kills the run's processes. Should the runner itself be dead
or frozen, the supervisors do so: they know the same deadline from a file. So when the control plane
gives up on a run, nobody works on it any more. The lease of a frozen runner is not renewed.

**Reaping.** Every worker calls ``reap_lost_runs`` now and then: a claimed run whose worker vanished
goes back to the queue, a running one fails with the cause ``worker_lost``. Leftover databases and
work directories of dead runs are removed, too.

**Indexing.** Lines are stored without their words in the search's index, which searches make up for
by reading them. Every worker enters such words, each second while it has runs.

**Stopping.** The first SIGTERM or SIGINT drains: nothing new is claimed, a claim that has not begun
is given back, running work goes on to its end (for a bounded time), or is left to the next worker
at once (``--on-stop handover``). The second one stops now: the work is killed and its runs fail as
``worker_lost``, which is what happened to them. With
``--until-idle`` the worker ends by itself when there is nothing to do.

**When the control plane is away** the work goes on: log lines wait on disk, completions are
repeated, until the lease ends.
"""

from __future__ import annotations

import itertools
import logging
import random
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable

from . import database, run_secrets, services
from .artifacts import make_store
from .control.base import (
    Claim,
    ControlPlane,
    ControlPlaneError,
    ControlPlaneUnavailable,
    Refused,
)
from .control.connect import connect
from .errors import RunError
from .execution import parse_workdir_name, remove_tree
from .executors.base import Executor, ExecutorError
from .executors.choice import offered_labels
from .executors.docker import DockerExecutor
from .executors.process import ProcessExecutor, kill_marked
from .keeper import Keeper, Ward, heartbeat
from .nursery import LOG_FORMAT
from .settings import Settings
from .storage.base import StorageError, StoreUnavailable

_logger = logging.getLogger(__name__)

VERSION = "1"
MAX_PAUSE = 15.0
INDEX_SECONDS = 1.0
#: How soon a signal is noticed.
SIGNAL_SECONDS = 0.25
#: Seconds for the last words of killed runs.
STOP_SECONDS = 30.0
STOPPED = "The worker was stopped before the run had ended."


class Agent:
    """One worker process.

    ``run`` returns when it has ended; its loops are the methods below ``run``, one each.
    """

    def __init__(self, settings: Settings, control: ControlPlane | None = None) -> None:
        self.settings = settings
        self.labels = offered_labels(settings)
        self.worker_id = str(uuid.uuid4())
        self.control = control or connect(settings)
        self._namespace = ""
        self._executors: dict[str, Executor] = {}
        self._keeper: Keeper | None = None
        self._active: dict[tuple[int, int], Ward] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._beat = threading.Event()
        self._end = threading.Event()
        self._signals = 0

    def run(self) -> None:
        """Work until a signal or idleness ends it.

        Raises ``ControlPlaneError`` when it cannot even begin.
        """
        settings = self.settings
        # Started here to see that they can be; they end what killed runners leave.
        if settings.docker:
            docker = DockerExecutor(settings.docker_host)
            docker.connect()
            self._executors["docker"] = docker
        self._executors["process"] = ProcessExecutor(settings.allow_process or settings.docker)
        settings.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_store()
        self._register()
        self._namespace = self.control.namespace()
        self._keeper = Keeper(settings, self.control, self.worker_id, self._namespace)
        self._keeper.open_nursery()
        _logger.info("Worker %s has begun", self.worker_id)
        threads = [
            self._thread("heartbeat", self._heartbeat_loop),
            self._thread("maintenance", self._maintenance_loop),
            self._thread("index", self._index_loop),
            self._thread("listen", self._listen),
        ]
        try:
            self._adopt()
            self._claim_loop()
            self._drain()
        finally:
            self._keeper.close()
            self._end.set()
            self._beat.set()
            for thread in threads:
                thread.join(timeout=5)
            self._say_goodbye()

    def _check_store(self) -> None:
        """Find wrong settings of the artifact store now, not when a run has ended.

        :raises StorageError: it cannot be used
        """
        store = make_store(self.settings, self.control)
        if self.settings.s3_bucket:
            try:
                store.check()
            except StoreUnavailable as error:
                _logger.warning("%s Runs need it when they end.", error)

    def stop(self) -> None:
        """Drain at the first call, end now at the second. Safe in a signal handler."""
        # Nothing but the counter: an event's lock may be held by the very code the signal
        # interrupted.
        self._signals += 1

    def _pause(self, seconds: float) -> None:
        """Wait for about ``seconds``, for something to do, or for a signal."""
        until = time.monotonic() + seconds * random.uniform(0.8, 1.2)
        signals = self._signals
        while self._signals == signals and not self._wake.is_set():
            left = until - time.monotonic()
            if left <= 0:
                break
            self._wake.wait(min(left, SIGNAL_SECONDS))

    def _claim_loop(self) -> None:
        """Claim while there is room; wait for a slot, a notification or the next poll."""
        token, pause = str(uuid.uuid4()), 0.25
        while not self._signals:
            self._wake.clear()
            if len(self._active) >= self.settings.capacity:
                self._pause(self.settings.poll_seconds)
                continue
            sent_at = time.monotonic()
            try:
                reply = self.control.claim_next_run(self.worker_id, self.labels, token)
            except ControlPlaneError as error:
                # The reply may have been lost on its way: keep the token.
                _logger.warning("Cannot claim: %s", error)
                pause = min(MAX_PAUSE, pause * 2)
                self._pause(pause)
                continue
            token, pause = str(uuid.uuid4()), 0.25
            if isinstance(reply, Claim):
                self._begin(reply, sent_at)
                continue
            if isinstance(reply, Refused):
                _logger.warning("The control plane refused a claim: %s", reply)
            elif self.settings.until_idle and not self._active:
                return
            self._pause(self.settings.poll_seconds)

    def _begin(self, claim: Claim, sent_at: float) -> None:
        """Give a claimed run its runner, or back when that is impossible."""
        _logger.info("Run %s (epoch %s) claimed", claim.run_id, claim.epoch)
        try:
            ward = self._keeper.start(claim, sent_at)
        except (OSError, ExecutorError) as error:
            _logger.error("Run %s cannot be executed: %s", claim.run_id, error)
            self._quietly(
                "Giving it back",
                lambda: self.control.release_run(claim.run_id, self.worker_id, claim.epoch),
            )
            self._pause(MAX_PAUSE)
            return
        self._keep(ward)

    def _adopt(self) -> None:
        """Keep the runners that nobody keeps; they count like our own."""
        for ward in self._keeper.adopt():
            self._keep(ward)
            self._quietly("Adopting", lambda ward=ward: self._keeper.tell_adopted(ward))
            self._beat.set()

    def _keep(self, ward: Ward) -> None:
        """Follow a runner to its end, in a thread of its own."""
        with self._lock:
            self._active[ward.key] = ward

        def body() -> None:
            try:
                if not ward.wait():
                    self._quietly(
                        "Burying a runner", lambda: self._keeper.bury(ward, self._executors)
                    )
            finally:
                ward.release()
                with self._lock:
                    self._active.pop(ward.key, None)
                self._wake.set()

        self._thread(f"keep-{ward.key[0]}", body)

    def _heartbeat_loop(self) -> None:
        """Renew all leases; stop what is lost or canceled. Fast again after a failure."""
        interval = self.settings.heartbeat_seconds
        while not self._end.is_set():
            self._beat.wait(interval)
            self._beat.clear()
            interval = self.settings.heartbeat_seconds
            try:
                self._heartbeat()
            except ControlPlaneError as error:
                _logger.warning("No heartbeat: %s", error)
                interval = min(1.0, interval)

    def _heartbeat(self) -> None:
        """One call for ourselves and our runs, and one for each dead worker whose runs we keep."""
        with self._lock:
            active = list(self._active.values())
        by_worker: dict[str, list[Ward]] = {self.worker_id: []}
        for ward in active:
            by_worker.setdefault(ward.worker_id, []).append(ward)
        for worker_id, wards in by_worker.items():
            refusal = heartbeat(self.control, worker_id, wards)
            if refusal:
                _logger.warning("The control plane refused a heartbeat: %s", refusal)
                if refusal.code == "not_found" and worker_id == self.worker_id:
                    self._register()

    def _maintenance_loop(self) -> None:
        """Adopt, reap lost runs, and now and then remove what dead runs left on this host."""
        next_collection = 0.0
        while not self._end.wait(self.settings.reap_seconds * random.uniform(0.8, 1.2)):
            if not self._signals:
                self._quietly("Adopting", self._adopt)
            self._quietly("Reaping", self._reap)
            if time.monotonic() >= next_collection:
                next_collection = time.monotonic() + self.settings.garbage_seconds
                self._quietly("Removing leftovers", self.collect_garbage)

    def _reap(self) -> None:
        reply = self.control.reap_lost_runs()
        if not isinstance(reply, Refused) and (reply.get("requeued") or reply.get("failed")):
            _logger.info("Lost runs: %s requeued, %s failed", reply["requeued"], reply["failed"])

    def _index_loop(self) -> None:
        """Enter words of stored log lines in the index; without runs, what others have left."""
        next_call = 0.0
        while not self._end.wait(INDEX_SECONDS):
            if self._active or time.monotonic() >= next_call:
                next_call = time.monotonic() + self.settings.reap_seconds
                self._quietly("Indexing log lines", self._index)

    def _index(self) -> None:
        while not self._end.is_set():
            reply = self.control.index_run_logs()
            if isinstance(reply, Refused) or not reply["lines"]:
                return

    def collect_garbage(self) -> None:
        """Remove containers, work directories and databases of runs that hold no lease."""
        namespace = self._namespace
        if "docker" in self._executors:
            # Before the folders that they still use.
            self._quietly("Removing leftover containers", self._collect_containers)
        places = (self.settings.work_dir.iterdir(), run_secrets.folders(), services.folders())
        found = {
            path: parse_workdir_name(namespace, path.name)
            for path in itertools.chain.from_iterable(places)
        }
        # The leases are read after the names: what is being made just now has its lease already.
        live = {(lease.run_id, lease.epoch) for lease in self.control.list_leases()}
        with self._lock:
            live |= set(self._active)
        for path, key in found.items():
            if key and key not in live:
                _logger.info("Removing the leftovers of run %s", key[0])
                for mark in path.glob("processes/*/mark"):
                    kill_marked(mark.parent)
                remove_tree(path)
        if not self.settings.has_runs_server:
            return
        prefix = database.name_prefix(namespace)
        database.collect_garbage(self.settings.runs_dsn, prefix, self._lease_test())

    def _collect_containers(self) -> None:
        gone = self._executors["docker"].collect_garbage(self._namespace, self._lease_test())
        if gone:
            _logger.info("Removed the leftover containers and networks %s", ", ".join(gone))

    def _lease_test(self) -> Callable[[int, int], bool]:
        """(run id, epoch) → whether it holds a lease; they are read at the first question."""
        fresh: set[tuple[int, int]] = set()

        def is_live(run_id: int, epoch: int) -> bool:
            if not fresh:
                fresh.update((lease.run_id, lease.epoch) for lease in self.control.list_leases())
                with self._lock:
                    fresh.update(self._active)
                fresh.add((0, 0))
            return (run_id, epoch) in fresh

        return is_live

    def _listen(self) -> None:
        self.control.listen(self._end, self._wake, self._beat)

    def _drain(self) -> None:
        """Leave running work to the next worker, or let it end; after the second signal or the
        bound, kill it."""
        with self._lock:
            active = list(self._active.values())
        for ward in active if self._signals else ():
            ward.drain()
        if active and self.settings.on_stop == "handover" and self._signals == 1:
            _logger.info("Handing over %s running runs", len(active))
            return
        if active:
            _logger.info("Waiting for %s running runs", len(active))
            self._quietly(
                "Draining", lambda: self.control.set_worker_state(self.worker_id, "draining")
            )
        until = time.monotonic() + self.settings.drain_seconds
        while self._active and self._signals < 2 and time.monotonic() < until:
            self._wake.clear()
            self._pause(0.5)
        with self._lock:
            left = list(self._active.values())
        for ward in left:
            ward.stop("worker_lost", STOPPED)
        until = time.monotonic() + STOP_SECONDS
        while self._active and time.monotonic() < until:
            time.sleep(0.05)

    def _register(self) -> None:
        settings = self.settings
        reply = self.control.register_worker(
            self.worker_id,
            socket.gethostname(),
            self.labels,
            settings.capacity,
            VERSION,
            settings.kind,
        )
        if isinstance(reply, Refused):
            raise ControlPlaneError(f"The control plane refused this worker: {reply.error}")

    def _say_goodbye(self) -> None:
        self._quietly(
            "Signing off", lambda: self.control.set_worker_state(self.worker_id, "stopped")
        )
        self.control.close()
        _logger.info("Worker %s has ended", self.worker_id)

    def _quietly(self, what: str, call: Callable[[], object]) -> None:
        """Do something that may fail without harm: it comes round again. Failures are logged."""
        try:
            call()
        except (ControlPlaneError, ExecutorError, RunError, OSError) as error:
            _logger.warning("%s failed: %s", what, error)
        except Exception:
            _logger.exception("%s failed", what)

    @staticmethod
    def _thread(name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread


def main(settings: Settings, setup_logging: bool = True) -> int:
    """Run an agent to its end; return the exit code (2 wrong settings, 3 control plane away)."""
    if setup_logging:
        logging.basicConfig(
            level=settings.log_level.upper(),
            stream=sys.stderr,
            format=LOG_FORMAT,
        )
    if not shutil.which("git"):
        _logger.warning("There is no git in PATH: runs cannot check out repositories.")
    try:
        agent = Agent(settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        agent.run()
    except (ExecutorError, StorageError) as error:
        _logger.error("%s", error)
        return 2
    except ControlPlaneUnavailable as error:
        _logger.error("%s", error)
        return 3
    except ControlPlaneError as error:
        _logger.error("%s", error)
        return 3
    return 0
