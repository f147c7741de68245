"""Executor of containers on a Docker engine of the same host; isolates by default.

A container has no network, no capabilities, no way to gain any, the worker's own user and group, a
read-only image, and of the host only the folders of its run. Its memory, processors, processes and
output are limited. PID 1 is a small script (``container_init.sh``): it runs the step, walks the
ladder of signals and ends everything when the lease passes. So a container outlives its worker,
but not its lease. The engine keeps output and exit code until ``cleanup``; another worker on this
host adopts with nothing but the handle.

What it cannot do: a step that kills its own watchdog on purpose lives until the worker, or the next
one's collection of garbage, removes its container. The engine must run on the same kernel, as
folders and the clock are shared: an engine in a virtual machine or on another host is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
from docker.types import Mount, Ulimit

from . import docker_client, docker_images, docker_limits, docker_relays
from .base import (
    Chunk,
    EngineUnavailable,
    Executor,
    ExecutorError,
    Handle,
    ProcessSpec,
    ProcessStatus,
)
from .docker_client import ANSWER_SECONDS, UNIX, UNREACHABLE
from .docker_inside import Inside
from .docker_output import OutputStream, open_log
from .docker_relays import ROOT
from .files import read_word, write_private

_logger = logging.getLogger(__name__)

#: Labels of all that is ours on an engine: whose run it is, and that it may be removed after it.
LABEL = "org.odooops"
LABEL_CONTROL_PLANE, LABEL_RUN, LABEL_EPOCH, LABEL_WORKER = (
    f"{LABEL}.{name}" for name in ("control-plane", "run", "epoch", "worker")
)
#: Seconds between two looks at a container that seems to live.
LOOK_SECONDS = 2.0
#: Seconds an engine may be away before its containers count as lost.
ENGINE_PATIENCE = 60.0
#: Seconds after which the worker itself kills what the container's own watchdog should have.
WATCHDOG_PATIENCE = 5.0
#: Times that the output of an ended container is asked for when the engine breaks off.
MOST_REOPENED = 10
#: Read once: after an upgrade the file is another one, or gone.
_INIT = Path(__file__).with_name("container_init.sh").read_text(encoding="utf-8")
_RUNGS = ("SIGINT", "SIGTERM", "SIGKILL")
_REASONS = ("exited", "stopped", "timeout", "lease", "process_limit", "not_started")


@dataclasses.dataclass
class _State:
    """What one executor object knows of one container; all of it can be found out again."""

    stream: OutputStream | None = None
    status: ProcessStatus | None = None
    looked_at: float = 0.0
    unreachable_since: float | None = None
    #: Whether the engine was away since the container was last seen alive.
    was_away: bool = False
    kill_at: float = float("inf")
    output_limit: int | None = None
    is_over_limit: bool = False
    #: How often the output of a container that had ended was opened again.
    reopened: int = 0


class DockerExecutor(Executor):
    """Containers on the engine at ``host`` (such as ``unix:///var/run/docker.sock``).

    The engine is connected when it is first needed: all methods that need it raise
    ``ExecutorError`` when it cannot serve, ``EngineUnavailable`` when it does not answer.
    """

    name = "docker"

    def __init__(self, host: str = "") -> None:
        self._host = docker_client.address(host)
        self._user = f"{os.getuid()}:{os.getgid()}"
        self._states: dict[str, _State] = {}
        self._relays: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def connect(self) -> None:
        """See whether the engine is there and can serve.

        :raises ExecutorError: it cannot
        :raises EngineUnavailable: it does not answer
        """
        _client_and_info = self._engine

    @functools.cached_property
    def _engine(self) -> tuple[docker.APIClient, Mapping[str, Any]]:
        """The engine's client, and what the engine tells about itself."""
        return docker_client.connect(self._host)

    @property
    def _client(self) -> docker.APIClient:
        return self._engine[0]

    def resolve(
        self,
        reference: str,
        digest: str | None,
        *,
        say: Callable[[str], None] = lambda _line: None,
        check: Callable[[], None] = lambda: None,
        credentials: docker_images.Credentials | None = None,
    ) -> docker_images.Image:
        """See ``docker_images.resolve``."""
        return docker_images.resolve(
            self._client, reference, digest, say=say, check=check, credentials=credentials
        )

    def program(self, image: str) -> docker_images.Program:
        """See ``docker_images.program``."""
        return docker_images.program(self._client, image)

    def run_inside(self, handle: Handle, argv: Sequence[str]) -> Inside:
        """Start a short program beside the container's own."""
        return Inside(self._client, handle.container, argv)

    # The contract

    def start(self, spec: ProcessSpec, directory: Path) -> Handle:
        if spec.sandbox is None:
            raise ExecutorError("The Docker executor was given no image.")
        docker_limits.require_kept(self._engine[1], spec.limits)
        directory.mkdir(mode=0o700, parents=True)
        # Another user's container reads and writes in them; nobody else gets into what is around.
        for name, mode in (("control", 0o755), ("end", 0o777)):
            (directory / name).mkdir()
            (directory / name).chmod(mode if spec.sandbox.user else 0o700)
        _write_lease(directory, spec.lease_deadline)
        content = {"output_limit": spec.limits.output, "network": None, "program": spec.argv[0]}
        container, is_begun = "", False
        try:
            env, mounts, relays = docker_relays.open_all(spec, directory)
            with self._lock:
                self._relays.update(relays)
            if spec.sandbox.network:
                content["network"] = self._make_network(spec)
            write_private(directory / "container.json", json.dumps(content))
            container = self._create(spec, directory, env, mounts, content["network"])
            handle = Handle(self.name, directory, container=container)
            write_private(directory / "handle.json", json.dumps(handle.to_dict()))
            is_begun = True
            self._client.start(container)
        except BaseException as error:
            self._remove(container, content["network"])
            shutil.rmtree(directory, ignore_errors=True)
            if isinstance(error, UNREACHABLE):
                reason = self._start_error(error, spec)
                if is_begun and isinstance(reason, EngineUnavailable):
                    # It may have been started, and must not be a second time.
                    reason = ExecutorError(str(reason))
                raise reason from error
            raise
        self._states[container] = _State(output_limit=spec.limits.output)
        self._state(handle).stream = self._open(handle, 0)
        return handle

    def adopt(self, data: Mapping[str, Any]) -> Handle:
        handle = Handle.from_dict(data)
        if handle.executor != self.name or not handle.directory.is_dir() or not handle.container:
            raise ExecutorError(f"There is no container to adopt in {handle.directory}.")
        try:
            self._client.inspect_container(handle.container)
        except docker.errors.NotFound as error:
            raise ExecutorError("The container to adopt has been removed.") from error
        except UNREACHABLE as error:
            raise docker_images.explain(error, "The container cannot be adopted") from error
        self._state(handle)
        return handle

    def poll(self, handle: Handle) -> ProcessStatus | None:
        state = self._state(handle)
        if state.status:
            return state.status
        stream, now = state.stream, time.monotonic()
        if stream and stream.is_over_limit and not state.is_over_limit:
            state.is_over_limit = True
            self._kill(handle)
        if now >= state.kill_at:
            state.kill_at = now + WATCHDOG_PATIENCE
            self._kill(handle)
        if stream and not stream.ended and now < state.looked_at + LOOK_SECONDS:
            return None
        state.looked_at = now
        try:
            found = self._client.inspect_container(handle.container)
        except docker.errors.NotFound:
            state.status = _lost("The container was removed while it ran, not by this worker.")
            return state.status
        except UNREACHABLE as error:
            return self._unreachable(state, error)
        state.unreachable_since = None
        state.was_away |= bool(stream and stream.is_broken)
        if found["State"]["Running"] or found["State"]["Paused"]:
            if stream and stream.ended and not state.is_over_limit:
                # The engine was restarted under a container that lives on: read_output goes on.
                state.stream = None
            # Of a container that lives on the engine has got all.
            state.was_away = False
            return None
        if stream and not stream.ended:
            return None
        if stream and stream.is_broken and state.reopened < MOST_REOPENED:
            # It ended while the engine was away: the engine may hold lines that nobody has read.
            state.reopened += 1
            state.stream = None
            return None
        status = self._status(handle, state, found["State"])
        # An engine does not take up what a container said that ended while it was away.
        state.status = dataclasses.replace(status, is_output_cut=state.was_away)
        return state.status

    def read_output(
        self, handle: Handle, offset: int, limit: int = 1 << 20
    ) -> tuple[list[Chunk], int]:
        state = self._state(handle)
        stream = state.stream
        if stream is None or stream.position != offset:
            if stream:
                stream.close()
            stream = state.stream = self._open(handle, offset)
        # Of a container that has ended all is there already, it only has to arrive.
        chunks = stream.take(limit, ANSWER_SECONDS if state.status else 0.0)
        return chunks, offset + len(chunks)

    def renew(self, handle: Handle, deadline: float) -> None:
        with contextlib.suppress(FileNotFoundError):
            _write_lease(handle.directory, deadline)

    def stop(self, handle: Handle, grace: float) -> None:
        state = self._state(handle)
        if state.status:
            return
        with contextlib.suppress(FileNotFoundError):
            _tell(handle.directory, "stop", int(grace * 100))
        state.kill_at = min(state.kill_at, time.monotonic() + grace + WATCHDOG_PATIENCE)
        if grace <= 0:
            self._kill(handle)

    def cleanup(self, handle: Handle) -> None:
        state = self._states.pop(handle.container, None)
        if state and state.stream:
            state.stream.close()
        self._remove(handle.container, _read_json(handle.directory / "container.json", "network"))
        shutil.rmtree(handle.directory, ignore_errors=True)
        with self._lock:
            # A relay ends by itself when its folder is gone; this only collects those that have.
            ended = [pid for pid, relay in self._relays.items() if relay.poll() is not None]
            for pid in ended:
                del self._relays[pid]

    # Garbage

    def collect_garbage(self, control_plane: str, is_live: Callable[[int, int], bool]) -> list[str]:
        """Remove containers and networks of runs of this control plane that nobody executes.

        :param is_live: (run id, epoch) → whether that run holds a lease
        :return: ids of what was removed
        :raises ExecutorError: when the engine does not answer
        """
        removed = []
        mine = {"label": [f"{LABEL_CONTROL_PLANE}={control_plane}"]}
        try:
            # All names before the first question: what is made just now must not look dead.
            containers = self._client.containers(all=True, filters=mine)
            networks = self._client.networks(filters=mine)
            for found in containers:
                if _is_over(found["Labels"], is_live):
                    self._remove(found["Id"], None)
                    removed.append(found["Id"])
            for found in networks:
                if _is_over(found["Labels"], is_live):
                    self._remove("", found["Id"])
                    removed.append(found["Id"])
        except UNREACHABLE as error:
            raise docker_images.explain(error, "Leftover containers cannot be removed") from error
        return removed

    # Making

    def _create(
        self,
        spec: ProcessSpec,
        directory: Path,
        env: dict[str, str],
        mounts: list[Mount],
        network: str | None,
    ) -> str:
        sandbox, limits = spec.sandbox, spec.limits
        mounts = [
            Mount(f"{ROOT}/control", str(directory / "control"), "bind", read_only=True),
            Mount(f"{ROOT}/end", str(directory / "end"), "bind"),
            *mounts,
        ]
        mounts += [Mount(str(path), str(path), "bind") for path in sandbox.folders]
        mounts += [
            Mount(str(path), str(path), "bind", read_only=True)
            for path in sandbox.read_only_folders
        ]
        tmp = f"rw,exec,nosuid,nodev,mode=1777,size={sandbox.tmp_size}"
        host_config = self._client.create_host_config(
            network_mode=f"container:{sandbox.joined}" if sandbox.joined else network or "none",
            extra_hosts=dict.fromkeys(sandbox.names, "127.0.0.1"),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            read_only=sandbox.read_only,
            tmpfs={"/tmp": tmp},
            shm_size=min(sandbox.tmp_size, 64 << 20),
            mounts=mounts,
            mem_limit=limits.memory,
            memswap_limit=limits.memory,
            nano_cpus=int(limits.cpus * 1e9) if limits.cpus else None,
            pids_limit=limits.processes,
            ulimits=[Ulimit(name="core", soft=0, hard=0)],
            oom_score_adj=500,
            log_config=docker_limits.log_config(limits.output),
        )
        timeout = "" if spec.timeout is None else str(int(spec.timeout * 100))
        times = [timeout, str(int(spec.grace * 100))]
        script = ["-c", _INIT, "odooops"]
        return self._client.create_container(
            sandbox.image,
            entrypoint=["/bin/sh"],
            command=[*script, *times, *docker_limits.ulimit_words(limits), *spec.argv],
            environment=env,
            working_dir=str(spec.cwd),
            user=sandbox.user or self._user,
            labels=dict(sandbox.labels),
            healthcheck={"test": ["NONE"]},
            host_config=host_config,
            # The worker's own configuration of docker is not the run's.
            use_config_proxy=False,
        )["Id"]

    def _make_network(self, spec: ProcessSpec) -> str:
        return self._client.create_network(
            f"odooops-{uuid.uuid4().hex}",
            driver="bridge",
            labels=dict(spec.sandbox.labels),
        )["Id"]

    def _start_error(self, error: Exception, spec: ProcessSpec) -> ExecutorError:
        words = str(getattr(error, "explanation", "") or "")
        if '"/bin/sh"' in words:
            return ExecutorError("The tool's image has no /bin/sh, which steps and services need.")
        if isinstance(error, docker.errors.ImageNotFound):
            return ExecutorError(f"The image {spec.sandbox.image} is no longer on this worker.")
        return docker_images.explain(error, "The container could not be started")

    # Watching

    def _state(self, handle: Handle) -> _State:
        state = self._states.get(handle.container)
        if state is None:
            limit = _read_json(handle.directory / "container.json", "output_limit")
            state = self._states[handle.container] = _State(output_limit=limit)
        return state

    def _open(self, handle: Handle, skip: int) -> OutputStream:
        path, version = self._host.removeprefix(UNIX), self._client.api_version

        def opened(follow: bool, tail: int | None) -> contextlib.AbstractContextManager[Any]:
            return open_log(path, version, handle.container, follow, tail)

        return OutputStream(opened, skip, self._state(handle).output_limit)

    def _status(self, handle: Handle, state: _State, found: Mapping[str, Any]) -> ProcessStatus:
        """How a container ended, from what PID 1 wrote and what the engine tells."""
        code = int(found["ExitCode"])
        # PID 1 counts for itself, too: an engine may miss what happens just before the end.
        memory_ran_out = found["OOMKilled"] or (handle.directory / "end" / "oom").exists()
        # The step may have written there, too.
        reason, rung = (read_word(handle.directory / "end" / name) for name in ("reason", "rung"))
        if state.is_over_limit:
            reason = "output_limit"
        elif reason not in _REASONS:
            if (handle.directory / "control" / "stop").exists():
                reason = "stopped"
            elif memory_ran_out:
                reason = "exited"
            else:
                words = f" ({found['Error']})" if found.get("Error") else ""
                return _lost(
                    "The container was killed from outside, by a restart of the Docker engine or"
                    f" by somebody; its exit code is {code}{words}."
                )
        if reason == "not_started":
            program = _read_json(handle.directory / "container.json", "program")
            return ProcessStatus(
                reason, error=f"“{program}” could not be started: the image has no such program."
            )
        number = code - 128 if code > 128 and code - 128 in iter(signal.Signals) else None
        return ProcessStatus(
            reason,
            exit_code=None if number else code,
            signal=number,
            out_of_memory=bool(memory_ran_out) and code != 0 and reason == "exited",
            # Without a word of the watchdog it was this executor that killed it.
            rung=rung if rung in _RUNGS else "SIGKILL" if reason == "stopped" else None,
        )

    def _unreachable(self, state: _State, error: Exception) -> ProcessStatus | None:
        """An engine that is away may come back, and its containers may live on; not for ever."""
        now = time.monotonic()
        if state.unreachable_since is None:
            state.unreachable_since = now
            state.was_away = True
            _logger.warning("The Docker engine does not answer: %s", error)
        if now - state.unreachable_since > ENGINE_PATIENCE:
            state.status = _lost(
                f"The Docker engine did not answer for {ENGINE_PATIENCE:g} seconds."
            )
        return state.status

    def _kill(self, handle: Handle) -> None:
        try:
            self._client.kill(handle.container)
        except docker.errors.APIError as error:
            _logger.debug("Not killed: %s", error)
        except UNREACHABLE as error:
            # The container's own watchdog finds the same wish in its folder.
            _logger.warning("A container could not be killed: %s", error)

    def _remove(self, container: str, network: str | None) -> None:
        """Remove both for good; what cannot be removed now is left to the garbage collection."""
        try:
            if container:
                with contextlib.suppress(docker.errors.NotFound):
                    self._client.remove_container(container, force=True, v=True)
            if network:
                with contextlib.suppress(docker.errors.NotFound):
                    self._client.remove_network(network)
        except UNREACHABLE as error:
            _logger.warning("A container could not be removed: %s", error)


def _lost(error: str) -> ProcessStatus:
    return ProcessStatus("lost", error=error)


def _is_over(labels: Mapping[str, str], is_live: Callable[[int, int], bool]) -> bool:
    """Whether labels name a run, and that run is not being executed any more."""
    try:
        return not is_live(int(labels[LABEL_RUN]), int(labels[LABEL_EPOCH]))
    except (KeyError, ValueError):
        return False


def _write_lease(directory: Path, deadline: float) -> None:
    """The deadline on the clock of /proc/uptime, which a shell can read, in its hundredths."""
    uptime = deadline - time.monotonic() + time.clock_gettime(time.CLOCK_BOOTTIME)
    _tell(directory, "lease", max(0, int(uptime * 100)))


def _tell(directory: Path, name: str, hundredths: int) -> None:
    """Something for PID 1; its folder says who may read it."""
    write_private(directory / "control" / name, f"{hundredths}\n", 0o644)


def _read_json(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_bytes()).get(key)
    except FileNotFoundError:
        return None
