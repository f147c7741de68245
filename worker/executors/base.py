"""The contract of an executor: processes that outlive the worker, and their adoption.

An executor never reads the queue and never raises for what the started program does; its
``ProcessStatus`` tells. Every call takes a handle that can be written down (``Handle.to_dict``) and
adopted by another worker process on the same host.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class ExecutorError(Exception):
    """The process could not be started or reached; the message is a sentence for the user.

    ``code`` is the run's error code (``errors.ERROR_CODES``).
    """

    def __init__(self, message: str, code: str = "setup_error") -> None:
        super().__init__(message)
        self.code = code


class EngineUnavailable(ExecutorError):
    """The engine does not answer; nothing was started, and the same call may succeed later."""


class Chunk(NamedTuple):
    """A piece of output: stdout or stderr, microseconds since the epoch, bytes."""

    stream: str
    timestamp: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a process with all its children may use. None: as much as the system lets it.

    ``memory`` and ``cpus`` need a container; the process executor does not enforce them.
    """

    #: bytes, swap included
    memory: int | None = None
    #: of the host's processors, 0.5 is half of one
    cpus: float | None = None
    #: processes and threads at the same time
    processes: int | None = None
    #: bytes of stdout and stderr together; some bytes per line or write are counted on top
    output: int | None = None
    #: open files of each process
    open_files: int | None = 65536
    #: bytes of each file written (RLIMIT_FSIZE)
    file_size: int | None = None
    #: bytes of address space of each process (RLIMIT_AS)
    address_space: int | None = None


@dataclasses.dataclass(frozen=True)
class Relay:
    """A PostgreSQL server outside that a container reaches through a socket.

    The container finds it by the variables that lead there: where they say ``host`` and ``port``
    they are made to say where the socket is. A step that names another server there is left alone.
    """

    #: address, or folder of a socket
    host: str
    port: str = "5432"
    #: of the variables' names: ``OTHER_`` of OTHER_PGHOST
    prefix: str = ""


@dataclasses.dataclass(frozen=True)
class Sandbox:
    """What only containers have."""

    #: id of an image on this host, as ``docker_images.resolve`` returns it
    image: str
    #: folders of the host the container sees, writable, under their own paths
    folders: Sequence[Path] = ()
    #: the same, read-only; files, too
    read_only_folders: Sequence[Path] = ()
    #: a network of its own with a way out; without it there is none but the loopback
    network: bool = False
    #: id of the container whose network, such as it is, this one shares
    joined: str = ""
    #: names that stand for the loopback address, for all who share this container's network
    names: Sequence[str] = ()
    #: servers outside that it may reach
    relays: Sequence[Relay] = ()
    #: user, or user and group, by number; "" is the worker's own
    user: str = ""
    #: whether the image's files are read-only; /tmp is writable always
    read_only: bool = True
    #: bytes of /tmp and /dev/shm, which lie in memory and count as such
    tmp_size: int = 256 << 20
    #: labels of the container: whose it is
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ProcessSpec:
    """What to start. ``env`` is the complete environment; ``timeout`` and ``grace`` are seconds.

    ``lease_deadline`` is a value of the host's monotonic clock: when it passes without
    ``Executor.renew``, everything is killed at once, since the worker must be dead and another one
    may start the same work.
    """

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str]
    lease_deadline: float
    timeout: float | None = None
    grace: float = 10.0
    limits: Limits = Limits()
    #: needed by the Docker executor, ignored by others
    sandbox: Sandbox | None = None


@dataclasses.dataclass(frozen=True)
class Handle:
    """How to find a process again.

    Its directory; and its supervisor's pid and start time, or its container's id.
    """

    executor: str
    directory: Path
    pid: int = 0
    start_time: str = ""
    container: str = ""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"directory": str(self.directory)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Handle:
        return cls(
            str(data["executor"]),
            Path(data["directory"]),
            int(data["pid"]),
            str(data["start_time"]),
            str(data.get("container") or ""),
        )


@dataclasses.dataclass(frozen=True)
class ProcessStatus:
    """How a process ended.

    ``reason``: ``exited`` (by itself or by a foreign signal), ``stopped`` (by ``stop``),
    ``timeout``, ``lease`` (deadline passed), ``disk_full`` (its output could not be written),
    ``output_limit`` and ``process_limit`` (it passed its ``Limits``), ``not_started`` (``error``
    says why), ``lost`` (nobody knows; ``error`` says what is known). ``exit_code`` is None when a
    signal ended it. A container that exits with 128 + n counts as ended by signal n: the engine
    does not tell them apart.
    """

    reason: str
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    error: str | None = None
    #: The last signal the executor sent before it ended: SIGINT, SIGTERM or SIGKILL.
    rung: str | None = None
    #: Whether it ended while its output could not be read: the end of it may be missing.
    is_output_cut: bool = False

    @property
    def shell_code(self) -> int:
        """Exit code as a shell shows it: 128 + n for signal n, 127 when nothing was started."""
        if self.exit_code is not None:
            return self.exit_code
        return 128 + self.signal if self.signal else 127


class Executor(abc.ABC):
    """See the module's docstring.

    All methods may be called from any thread; one handle is used by one thread.
    """

    name: str

    @abc.abstractmethod
    def start(self, spec: ProcessSpec, directory: Path) -> Handle:
        """Start ``spec``, keeping records in ``directory`` (made, must not exist).

        Raises ``ExecutorError``, and leaves no ``directory`` then.
        """

    @abc.abstractmethod
    def adopt(self, data: Mapping[str, Any]) -> Handle:
        """Return a usable handle from ``Handle.to_dict``'s result, made by another process.

        Raises ``ExecutorError``.
        """

    @abc.abstractmethod
    def poll(self, handle: Handle) -> ProcessStatus | None:
        """None while the process or its output lives; after the end always the same status."""

    @abc.abstractmethod
    def read_output(
        self, handle: Handle, offset: int, limit: int = 1 << 20
    ) -> tuple[list[Chunk], int]:
        """Chunks since ``offset`` (0 at first), about ``limit`` bytes, and the new offset.

        Offsets are opaque; one read from here serves another executor object after ``adopt``.
        After ``poll`` has returned a status, no chunks means that there are no more.
        """

    @abc.abstractmethod
    def renew(self, handle: Handle, deadline: float) -> None:
        """Move the lease deadline (monotonic clock of this host)."""

    @abc.abstractmethod
    def stop(self, handle: Handle, grace: float) -> None:
        """Ask everything it started to end, by SIGINT, SIGTERM, SIGKILL; returns at once.

        ``grace`` is the time in seconds from the first to the last.

        ``grace`` 0 kills at once. Has no effect on an ended process.
        """

    @abc.abstractmethod
    def cleanup(self, handle: Handle) -> None:
        """Kill whatever is left and remove the records. May be repeated."""
