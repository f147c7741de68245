"""Folders that a run finds as an earlier run left them: what its config lists under ``cache``.

A cache is one file below the work directory, named by a key: SHA-256 over its name and path, the
system or image it was made on, and the contents of the files the config names. It is written
beside and renamed, so whoever reads sees all of it or nothing, and never changed; the longest
unused ones go when all together exceed the limit.

Who writes a cache decides what others run. So no two projects share one, and within a project
deploy, backup and upgrade, whose steps not everybody may write, have caches of their own.

Nothing about a cache fails a run: what goes wrong is a warning in its log.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import stat
import tarfile
import time
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
#: Seconds after which an unfinished file belongs to a worker that died.
_UNFINISHED_SECONDS = 86400
_HOME = "~/"
_TROUBLE = (OSError, EOFError, tarfile.TarError, zlib.error)


class _Entry(NamedTuple):
    """One entry of the config in this run."""

    name: str
    #: folder below which the path lies, and the path
    base: Path
    path: str
    file: Path

    @property
    def target(self) -> Path:
        return self.base / self.path


class Caches:
    """The caches of one run, for its one thread.

    :param folder: of all caches of this control plane on this host
    :param limit: bytes of all of them; 0 switches caches off
    :param image: id of the image the steps run in, None for processes
    """

    def __init__(self, job: RunJob, folder: Path, limit: int, image: str | None) -> None:
        self._job, self._folder, self._limit, self._image = job, folder, limit, image
        self._missing: list[_Entry] = []

    def restore(self) -> None:
        """Bring in what is there; of the rest ``save`` will make a cache.

        :raises RunStopped:
        """
        wanted = self._job.config["cache"]
        if not wanted:
            return
        with self._job.step("Cache"):
            if not self._limit or not hasattr(tarfile, "data_filter"):
                why = "too old a Python" if self._limit else "--cache-limit-mb=0"
                self._job.log("info", f"This worker keeps no caches ({why}).")
                return
            for item in wanted:
                entry = self._entry(item)
                if not entry.file.exists():
                    self._job.log("info", f"{entry.name}: nothing is kept for this key yet")
                    self._missing.append(entry)
                    continue
                try:
                    self._restore(entry)
                except _TROUBLE as error:
                    self._warn(entry, "not restored", error)
                    if not entry.file.exists():
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
        parts = json.dumps([1, name, path, place, files], ensure_ascii=False)
        key = hashlib.sha256(parts.encode("utf-8", "surrogateescape")).hexdigest()
        trust = "guarded" if job.snapshot["workflow"]["workflow_type"] in GUARDED_TYPES else "open"
        scope = f"{int(job.snapshot['project']['id'])}-{trust}"
        base = job.workdir / "home" if is_home else job.checkout_dir
        return _Entry(name, base, path.removeprefix(_HOME), self._folder / scope / (key + _SUFFIX))

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

    def _restore(self, entry: _Entry) -> None:
        target = entry.target
        _make_parents(entry)
        if os.path.lexists(target) and not _is_empty_folder(target):
            self._job.log("warn", f"{entry.name}: not restored, as {entry.path} is there already")
            return
        aside = self._job.workdir / f"cache-{uuid.uuid4().hex}"
        aside.mkdir(mode=0o700)
        try:
            with open(entry.file, "rb") as file:
                # The time of its last use decides how long it stays.
                os.utime(entry.file)
                self._extract(file, aside)
            with contextlib.suppress(FileNotFoundError):
                target.rmdir()
            (aside / target.name).rename(target)
        except (EOFError, tarfile.TarError, zlib.error):
            # It would be of no use to the next run either; this one makes it anew.
            entry.file.unlink(missing_ok=True)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._job.log("info", f"{entry.name}: restored {entry.path}")

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
        size = sum(facts.st_size for _path, facts in _files(target))
        if size > self._limit:
            self._job.log(
                "warn",
                f"{entry.name}: not kept, as its {size >> 20} MiB exceed the worker's limit of"
                f" {self._limit >> 20} MiB for all caches",
            )
            return
        entry.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = entry.file.with_name(f"{uuid.uuid4().hex}{_UNFINISHED}")
        try:
            with open(unfinished, "xb") as file:
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
        """Remove the longest unused until all together keep the limit."""
        found = []
        for path, facts in _files(self._folder):
            is_dead = facts.st_mtime < time.time() - _UNFINISHED_SECONDS
            if path.name.endswith(_SUFFIX) or (path.name.endswith(_UNFINISHED) and is_dead):
                found.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _time, size, _path in found)
        for _time, size, path in sorted(found):
            if total <= self._limit:
                break
            path.unlink(missing_ok=True)
            total -= size
            self._job.log("info", "Removed the longest unused cache, as all exceed the limit")

    def _warn(self, entry: _Entry, what: str, error: Exception) -> None:
        words = getattr(error, "strerror", None) or " ".join(str(error).split())
        self._job.log("warn", f"{entry.name}: {what}: {words or type(error).__name__}")


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file, and nothing that a link or a pipe stands for."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


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
