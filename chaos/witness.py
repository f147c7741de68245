"""What really was executed, as the steps themselves wrote it down, past the control plane.

One file per execution, named by run and epoch; each of its lines is a word (begin, tick, end), the
seconds since the machine's boot, and the run's id. The last line of an execution that was killed
says how long it lived, to a tick.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

LOOK_SECONDS = 0.05
#: Seconds between two ticks of a step, at most, on a machine that is not overloaded.
TICK = 0.1


@dataclass
class Execution:
    """One execution of a run. Times are seconds since boot."""

    run_id: int
    epoch: int
    begins: list[float] = field(default_factory=list)
    last: float = 0.0
    ticks: int = 0
    ended: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the step came to its last line."""
        return self.ended == 1


def read(folder: Path) -> list[Execution]:
    """All executions that left a file in ``folder``."""
    return [_execution(path) for path in sorted(folder.iterdir())]


def _execution(path: Path) -> Execution:
    _namespace, run_id, epoch = path.name.rsplit("-", 2)
    execution = Execution(int(run_id), int(epoch))
    for line in path.read_text(encoding="ascii").splitlines():
        word, seconds, owner = line.split()
        if int(owner) != execution.run_id:
            raise ValueError(f"{path.name} holds a line of run {owner}")
        if word == "begin":
            execution.begins.append(float(seconds))
        execution.ticks += word == "tick"
        execution.ended += word == "end"
        execution.last = max(execution.last, float(seconds))
    return execution


class Collector:
    """Takes hold of the files that steps in containers write in their work directories: a second
    link to each, which stays when the directory goes. The step waits for it."""

    def __init__(self, work_folders: list[Path], folder: Path) -> None:
        self._work_folders = work_folders
        self._folder = folder
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="collector", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._end.is_set():
            began = time.monotonic()
            for work in self._work_folders:
                self._collect(work)
            self._end.wait(max(LOOK_SECONDS, time.monotonic() - began))

    def _collect(self, work: Path) -> None:
        try:
            names = os.listdir(work)
        except FileNotFoundError:
            return
        for name in names:
            if not name.startswith("run-"):
                continue
            target = self._folder / name.removeprefix("run-")
            # There already, not there yet, or gone with its folder.
            with contextlib.suppress(FileExistsError, FileNotFoundError, NotADirectoryError):
                os.link(work / name / "checkout" / "witness", target)
