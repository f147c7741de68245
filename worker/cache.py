"""Folders that a run finds as an earlier run left them: what its config lists under ``cache``.

A cache is one file below the work directory, named by a key: SHA-256 over the branch or tag, its
name and path, the system or image it was made on, and the contents of the files the config names.
It is written beside and renamed, so whoever reads sees all of it or nothing, and never changed; the
longest unused ones go when those of a project, or all together, exceed a limit.

Who writes a cache decides what others run. So no two projects share one, and within a project
deploy, backup and upgrade, whose steps not everybody may write, have caches of their own. A run
reads the caches of its own branch, then those of the default branch, and writes its own only: who
may push to a branch does not decide what the default branch runs. Which branch a commit is the end
of says the repository, not who queued the run.

Nothing about a cache fails a run: what goes wrong is a warning in its log.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import stat
import tarfile
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .archive import TarGz
from .errors import RunStopped
from .job import RunJob
from .workflow_schema import GUARDED_TYPES

_CHUNK = 1 << 20
_SUFFIX, _UNFINISHED = ".tar.gz", ".part"
#: Bytes that a file takes up besides its content, more or less.
_PER_FILE = 1024
_HOME = "~/"
_TROUBLE = (OSError, EOFError, tarfile.TarError, zlib.error)


class _Entry(NamedTuple):
    """One entry of the config in this run."""

    name: str
    #: folder below which the path lies, and the path
    base: Path
    path: str
    #: what this run may write
    file: Path
    #: the default branch's, to read when there is none of its own
    default: Path

    @property
    def target(self) -> Path:
        return self.base / self.path


class CacheLimits(NamedTuple):
    """In bytes."""

    #: of all caches of the host; 0 switches caches off
    total: int
    #: of those of a project that may read one another
    project: int


class Caches:
    """The caches of one run, for its one thread.

    :param folder: of all caches of this control plane on this host
    :param image: id of the image the steps run in, None for processes
    """

    def __init__(self, job: RunJob, folder: Path, limits: CacheLimits, image: str | None) -> None:
        self._job, self._folder, self._limits, self._image = job, folder, limits, image
        self._missing: list[_Entry] = []

    def restore(self) -> None:
        """Bring in what is there; of the rest ``save`` will make a cache.

        :raises RunStopped:
        """
        wanted = self._job.config["cache"]
        if not wanted:
            return
        with self._job.step("Cache"):
            if not self._limits.total or not hasattr(tarfile, "data_filter"):
                why = "too old a Python" if self._limits.total else "--cache-limit-mb=0"
                self._job.log("info", f"This worker keeps no caches ({why}).")
                return
            for item in wanted:
                entry = self._entry(item)
                source = entry.file if entry.file.exists() else entry.default
                if not source.exists():
                    self._job.log("info", f"{entry.name}: nothing is kept for this key yet")
                    self._missing.append(entry)
                    continue
                try:
                    self._restore(entry, source)
                except _TROUBLE as error:
                    self._warn(entry, "not restored", error)
                    if not source.exists():
                        self._missing.append(entry)

    def save(self) -> None:
        """Keep what was not there before. Only after a success: what failed may be half made."""
        if not self._missing:
            return
        with contextlib.suppress(RunStopped), self._job.step("Cache"):
            for entry in self._missing:
                try:
                    self._save(entry)
                except _TROUBLE as error:
                    self._warn(entry, "not kept", error)
            self._evict()

    def _entry(self, item: Mapping[str, Any]) -> _Entry:
        job, path = self._job, item["path"].rstrip("/")
        is_home = path.startswith(_HOME)
        name = item.get("name") or path
        place = self._image or [platform.system(), platform.machine(), *platform.libc_ver()]
        files = [[name, self._digest(name)] for name in item["key"]]
        trust = "guarded" if job.snapshot["workflow"]["workflow_type"] in GUARDED_TYPES else "open"
        folder = self._folder / f"{int(job.snapshot['project']['id'])}-{trust}"
        own, default = (
            folder / (_hash([2, ref, name, path, place, files]) + _SUFFIX) for ref in self._refs()
        )
        base = job.workdir / "home" if is_home else job.checkout_dir
        return _Entry(name, base, path.removeprefix(_HOME), own, default)

    def _refs(self) -> tuple[str, str]:
        """Whose caches the run writes, and whose it reads if it has none."""
        source = self._job.source
        default = f"refs/heads/{self._job.snapshot['project'].get('default_branch') or 'main'}"
        if source is None:
            # No repository takes part, so nobody who pushes to one does.
            return default, default
        # A commit that is the end of no branch has caches for itself: its next attempt finds them.
        return self._job.source_ref or source.commit, default

    def _digest(self, name: str) -> str | None:
        """SHA-256 of a file of the checkout; None when there is no such regular file."""
        path = self._job.checkout_dir / name
        if not path.resolve().is_relative_to(self._job.checkout_dir.resolve()):
            return None
        digest = hashlib.sha256()
        try:
            with _open_regular(path.resolve()) as file:
                while data := file.read(_CHUNK):
                    digest.update(data)
        except OSError:
            self._job.log("warn", f"{name}, which is to be a key of a cache, cannot be read")
            return None
        return digest.hexdigest()

    def _restore(self, entry: _Entry, source: Path) -> None:
        target = entry.target
        _make_parents(entry)
        if os.path.lexists(target) and not _is_empty_folder(target):
            self._job.log("warn", f"{entry.name}: not restored, as {entry.path} is there already")
            return
        aside = self._job.workdir / f"cache-{uuid.uuid4().hex}"
        aside.mkdir(mode=0o700)
        try:
            with open(source, "rb") as file:
                # The time of its last use decides how long it stays.
                os.utime(source)
                self._extract(file, aside)
            with contextlib.suppress(FileNotFoundError):
                target.rmdir()
            (aside / target.name).rename(target)
        except (EOFError, tarfile.TarError, zlib.error):
            # It would be of no use to the next run either; this one makes it anew.
            source.unlink(missing_ok=True)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        whose = "" if source == entry.file else ", of the default branch"
        self._job.log("info", f"{entry.name}: restored {entry.path}{whose}")

    def _extract(self, file: BinaryIO, aside: Path) -> None:
        with tarfile.open(fileobj=file, mode="r|gz") as archive:
            for member in archive:
                self._job.check()
                # Refuses what leads out of the folder, and devices; a link is judged by where it
                # leads at that moment.
                archive.extract(member, aside, filter="data")

    def _save(self, entry: _Entry) -> None:
        target = entry.target
        if not _is_plain(entry) or not target.is_dir():
            self._job.log("warn", f"{entry.name}: not kept, as {entry.path} is no folder")
            return
        # A million empty files fill a disk, too.
        size = sum(facts.st_size + _PER_FILE for _path, facts in _files(target))
        limit = min(self._limits)
        if size > limit:
            self._job.log(
                "warn",
                f"{entry.name}: not kept, as its {size >> 20} MiB exceed the worker's limit of"
                f" {limit >> 20} MiB for all caches of a project",
            )
            return
        entry.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = entry.file.with_name(f"{uuid.uuid4().hex}{_UNFINISHED}")
        try:
            with open(unfinished, "xb") as file:
                # It goes with the process: what nobody holds is what a killed one has left.
                fcntl.flock(file, fcntl.LOCK_EX)
                source = TarGz(target, _open_regular)
                while data := source.read(_CHUNK):
                    self._job.check()
                    file.write(data)
            # Another run may have been faster; its cache has the same key.
            unfinished.rename(entry.file)
        finally:
            unfinished.unlink(missing_ok=True)
        self._job.log("info", f"{entry.name}: kept {entry.path} ({size >> 10} KiB)")

    def _evict(self) -> None:
        """Remove the longest unused until those of each project, and all together, keep the limits.

        What exceeds the limit of all goes where the most is: a project that fills it does not push
        the others out.
        """
        found: dict[Path, list[tuple[float, int, Path]]] = {}
        for path, facts in _files(self._folder):
            if path.name.endswith(_UNFINISHED):
                _remove_dead(path)
            elif path.name.endswith(_SUFFIX):
                found.setdefault(path.parent, []).append((facts.st_mtime, facts.st_size, path))
        sizes = {folder: sum(size for _, size, _ in files) for folder, files in found.items()}
        for files in found.values():
            files.sort(reverse=True)

        def remove_from(folder: Path, why: str) -> None:
            _time, size, path = found[folder].pop()
            path.unlink(missing_ok=True)
            sizes[folder] -= size
            self._job.log("info", f"Removed the longest unused cache, as {why} the limit")

        for folder in found:
            while sizes[folder] > self._limits.project:
                remove_from(folder, "those of the project exceed")
        while sum(sizes.values()) > self._limits.total:
            remove_from(max(sizes, key=lambda folder: sizes[folder]), "all exceed")

    def _warn(self, entry: _Entry, what: str, error: Exception) -> None:
        words = getattr(error, "strerror", None) or " ".join(str(error).split())
        self._job.log("warn", f"{entry.name}: {what}: {words or type(error).__name__}")


def _hash(facts: list[Any]) -> str:
    text = json.dumps(facts, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file, and nothing that a link or a pipe stands for."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def _remove_dead(unfinished: Path) -> None:
    """Remove a file that no process writes any more."""
    with contextlib.suppress(OSError), _open_regular(unfinished) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unfinished.unlink()


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files below a folder; one that goes away meanwhile is left out."""
    for place, _folders, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(FileNotFoundError):
                facts = path.lstat()
                if stat.S_ISREG(facts.st_mode):
                    yield path, facts


def _is_plain(entry: _Entry) -> bool:
    """Whether no part of the path is a link: the repository could lead us anywhere with one."""
    path = entry.base
    for part in Path(entry.path).parts:
        path = path / part
        if path.is_symlink():
            return False
    return True


def _make_parents(entry: _Entry) -> None:
    if not _is_plain(entry):
        raise OSError(errno.ELOOP, f"{entry.path} leads through a link")
    entry.target.parent.mkdir(parents=True, exist_ok=True)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
