"""The folder in which the runner of a run and the agent that keeps it meet.

``work_dir/.runners/<namespace>-<run>-<epoch>`` holds:

- ``alive``       locked by the runner for as long as it lives.
- ``keeper``      locked by the agent that keeps the runner. Both locks belong to open files: the
                  system takes them away with the process, however it ends, and never confuses it
                  with another one.
- ``facts.json``  written once: the worker that claimed the run.
- ``orders.json`` written by the keeper: the last renewal of the lease; to stop, and why.
- ``awake``       written by the runner all the time: when it last ran, so that nobody renews the
                  lease of one that is frozen; and its process id, for people.

All times are of the monotonic clock, which is one for all processes of a host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .executors.files import write_private

FOLDER = ".runners"
_NAME = re.compile(r"([0-9a-z]+)-(\d+)-(\d+)")
#: How the name of a folder begins that is being made, or being removed.
_NAMELESS = ".nameless-"
#: Seconds after which such a folder is removed by others, when nobody holds it.
NAMELESS_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Orders:
    """What a keeper wants of a runner."""

    #: The last renewal of the lease: when its call was sent, and for how many seconds.
    sent_at: float = 0.0
    lease_seconds: float = 0.0
    #: Begin nothing: give the run back if it has not started.
    is_draining: bool = False
    #: An error code and a sentence, to stop for; empty while there is no reason to.
    code: str = ""
    message: str = ""
    #: Seconds the work gets for ending by itself; None: what the workflow says.
    grace: float | None = None


class RunnerFolder:
    """See the module's docstring. ``path`` need not exist any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        match = _NAME.fullmatch(path.name)
        if not match:
            raise ValueError(f"Not the folder of a runner: {path}")
        self.run_id, self.epoch = int(match[2]), int(match[3])
        self._awake = -1

    @classmethod
    def make(
        cls, work_dir: Path, namespace: str, run_id: int, epoch: int, facts: Mapping[str, Any]
    ) -> tuple[RunnerFolder, int, int]:
        """A new folder with both locks held: of the runner, of the keeper, as open files.

        It gets its name when all is there: nobody finds it half made.
        """
        base = work_dir / FOLDER
        base.mkdir(mode=0o700, exist_ok=True)
        nameless = base / f"{_NAMELESS}{uuid.uuid4().hex}"
        nameless.mkdir(mode=0o700)
        locks: list[int] = []
        try:
            for name in ("alive", "keeper"):
                locks.append(_open(nameless / name, os.O_CREAT))
                fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_private(nameless / "facts.json", json.dumps(facts))
            path = base / f"{namespace}-{run_id}-{epoch}"
            os.rename(nameless, path)
        except BaseException:
            for descriptor in locks:
                os.close(descriptor)
            shutil.rmtree(nameless, ignore_errors=True)
            raise
        return cls(path), locks[0], locks[1]

    @classmethod
    def find(cls, work_dir: Path, namespace: str) -> Iterator[RunnerFolder]:
        """All folders of this control plane, whoever keeps them."""
        try:
            paths = list((work_dir / FOLDER).iterdir())
        except FileNotFoundError:
            return
        for path in paths:
            match = _NAME.fullmatch(path.name)
            if match and match[1] == namespace and path.is_dir():
                yield cls(path)
            elif path.name.startswith(_NAMELESS) and _age(path) > NAMELESS_SECONDS:
                _remove_nameless(path)

    def facts(self) -> Mapping[str, Any]:
        """What was known at the start.

        :raises OSError: the runner has ended and removed its folder
        :raises ValueError: the host lost its power before the file was on the disk
        """
        return json.loads((self.path / "facts.json").read_bytes())

    # For the keeper

    def keep(self) -> int | None:
        """The lock of the keeper as an open file; None when another agent has it or all is over."""
        try:
            return _take(self.path / "keeper")
        except FileNotFoundError:
            return None

    def wait(self) -> None:
        """Return when the runner has ended."""
        try:
            descriptor = _open(self.path / "alive")
        except FileNotFoundError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def is_alive(self) -> bool:
        """Whether the runner has not ended."""
        try:
            descriptor = _take(self.path / "alive")
        except FileNotFoundError:
            return False
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None

    def order(self, orders: Orders) -> None:
        """Tell the runner; nothing when it has ended."""
        try:
            write_private(self.path / "orders.json", json.dumps(dataclasses.asdict(orders)))
        except FileNotFoundError:
            return

    def awake_at(self) -> float:
        """When the runner last ran; 0 when it has not said so yet."""
        try:
            return float((self.path / "awake").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return 0.0

    # For the runner

    def orders(self) -> Orders:
        """The keeper's last orders, without what only a later version would understand.

        :raises ValueError: as ``facts``
        """
        try:
            orders = json.loads((self.path / "orders.json").read_bytes())
        except FileNotFoundError:
            return Orders()
        known = {field.name for field in dataclasses.fields(Orders)}
        return Orders(**{name: value for name, value in orders.items() if name in known})

    def is_kept(self) -> bool:
        """Whether an agent lives that keeps the runner."""
        descriptor = self.keep()
        if descriptor is None:
            return True
        os.close(descriptor)
        return False

    def show_awake(self) -> None:
        """Say that the runner is running now."""
        if self._awake < 0:
            self._awake = _open(self.path / "awake", os.O_CREAT)
        # Always of the same length, so that a reader never sees half of it.
        os.pwrite(self._awake, f"{time.monotonic():020.6f} {os.getpid():10}\n".encode(), 0)

    def remove(self) -> None:
        """All is over. Without its name nobody finds the folder any more, to write another order
        into what is being removed."""
        path = self.path
        with contextlib.suppress(OSError):
            path = path.rename(path.with_name(f"{_NAMELESS}{uuid.uuid4().hex}"))
        shutil.rmtree(path, ignore_errors=True)


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)


def _take(path: Path, flags: int = 0) -> int | None:
    """The file, open, with its lock; None when somebody else has that."""
    descriptor = _open(path, flags)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_nameless(path: Path) -> None:
    """Remove a folder whose maker or remover was killed; a maker holds the lock of what it makes.

    One that was frozen before it took the lock finds that it cannot, and gives its run back.
    """
    try:
        descriptor = _take(path / "alive", os.O_CREAT)
    except OSError:
        return
    if descriptor is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
