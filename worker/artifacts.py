"""Finding the files a run shall keep, storing them and recording them.

The patterns come from the workflow's config, the files from the program that ran: neither may reach
outside the checkout.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mimetypes
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .archive import TarGz
from .control.base import Artifact, ControlPlane, Refused
from .errors import RunError
from .settings import Settings
from .storage.base import ArtifactStore, StorageError, StoredObject, StoreUnavailable
from .storage.filesystem import FilesystemStore
from .storage.remote import RemoteStore
from .workflow import expire_seconds

_logger = logging.getLogger(__name__)

#: One run keeps at most so many files found by patterns.
MAX_FILES = 1000
#: Seconds between two attempts to reach a store.
MAX_PAUSE = 10.0
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]+")
_TYPES = {
    ".log": "text/plain",
    ".txt": "text/plain",
    ".po": "text/plain",
    ".dump": "application/octet-stream",
}
#: Key of the complete log among a run's artifacts.
LOG_KEY = "run.log.gz"
LOG_TYPE = "application/gzip"
_ENCODINGS = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


class FoundFile(NamedTuple):
    """A file to keep, or a folder to keep as one archive: its key, where it lies, after what time
    it may go (``30 days``) or None."""

    key: str
    path: Path
    expire_in: str | None


def guess_content_type(name: str) -> str:
    """Media type by the end of the name; compressed files are named by their compression."""
    content_type, encoding = mimetypes.guess_type(name)
    if encoding:
        return _ENCODINGS.get(encoding, "application/octet-stream")
    return _TYPES.get(Path(name).suffix) or content_type or "application/octet-stream"


def key_of(relative_path: Path) -> str:
    """An artifact key for a file of that path; characters a key may not hold become ``_``."""
    parts = [_FORBIDDEN.sub("_", part) for part in relative_path.parts]
    return "/".join("_" if set(part) == {"."} else part for part in parts)[-512:].lstrip("/")


def find_files(root: Path, patterns: list[Mapping[str, Any]]) -> Iterator[FoundFile]:
    """What the config's patterns find below ``root``, see ``Finder``."""
    finder = Finder(root)
    for pattern in patterns:
        yield from finder.find(pattern)


class Finder:
    """Finds files below ``root`` by patterns of the config, each file once, under unique keys.

    A link is followed only when it stays below ``root``. A pattern that names a folder means all
    files in it, or with ``archive`` the folder as one file.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._seen: set[Path] = set()
        self._keys: set[str] = set()
        #: Whether the last pattern found anything, something found before included.
        self.has_matched = False

    def find(self, pattern: Mapping[str, Any]) -> Iterator[FoundFile]:
        """What this entry of the config finds, and no entry before it has found."""
        self.has_matched = False
        is_archive = bool(pattern.get("archive"))
        for path in self._matches(str(pattern["path"]), is_archive):
            real = path.resolve()
            if not real.is_relative_to(self._root):
                continue
            is_folder = is_archive and real.is_dir()
            if not is_folder and not real.is_file():
                continue
            self.has_matched = True
            if real in self._seen:
                continue
            self._seen.add(real)
            relative = path.relative_to(self._root)
            name = relative.parent / f"{relative.name or 'checkout'}.tar.gz"
            key = _unique(key_of(name if is_folder else relative), self._keys)
            yield FoundFile(key, real, pattern.get("expire_in"))

    def _matches(self, pattern: str, is_archive: bool) -> Iterator[Path]:
        if pattern.startswith("/") or ".." in pattern.split("/"):
            return
        # Path.glob() takes no pattern that is empty: the checkout itself.
        parts = [part for part in pattern.split("/") if part not in ("", ".")]
        paths = sorted(self._root.glob("/".join(parts))) if parts else [self._root]
        for path in paths:
            if parts[-1:] == ["**"] and not path.is_dir():
                continue  # Since Python 3.13 it means files, too.
            is_inside = path.resolve().is_relative_to(self._root)
            if path.is_dir() and is_inside and not is_archive:
                yield from sorted(item for item in path.rglob("*") if not item.is_dir())
            else:
                yield path


def _unique(key: str, keys: set[str]) -> str:
    candidate, number = key, 1
    while candidate in keys:
        number += 1
        candidate = f"{key}-{number}"
    keys.add(candidate)
    return candidate


class Limits(NamedTuple):
    """What one run may store: bytes of one file, of all together, and how long a store that cannot
    be reached is waited for (seconds)."""

    file_bytes: int
    run_bytes: int
    patience: float

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Those of a worker."""
        return cls(
            settings.artifact_limit_mb << 20,
            settings.run_artifacts_limit_mb << 20,
            settings.store_seconds,
        )


class ArtifactRecorder:
    """Stores files of one run, held as (run id, epoch), and records them in the control plane; for
    one thread."""

    def __init__(
        self,
        store: ArtifactStore,
        control: ControlPlane,
        held: tuple[int, int],
        project_slug: str,
        limits: Limits,
    ) -> None:
        self._run_id, self._epoch = held
        self._store = store.of_run(*held)
        self._control = control
        self._folder = f"{project_slug}/{self._run_id}"
        self._limits = limits
        self._stored_bytes = 0

    def store(
        self,
        key: str,
        path: Path,
        content_type: str | None = None,
        expire_in: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        check: Callable[[], None] = lambda: None,
        is_limited: bool = True,
    ) -> Artifact:
        """Store the file ``path``, or the folder as an archive, under ``key``.

        :param check: called between the parts; what it raises ends the upload without a trace
        :param is_limited: whether the limits of the run concern it
        :raises RunError: it cannot be read, is too large, or cannot be stored
        """
        content_type = content_type or guess_content_type(key)
        limit = self._limit(key) if is_limited else None
        try:
            stored = self._put(key, path, content_type, check, limit)
        except StorageError as error:
            raise RunError(_code_of(error), str(error)) from error
        except OSError as error:
            message = f"Artifact {key} could not be read: {error.strerror or error}."
            raise RunError("setup_error", message) from error
        self._stored_bytes += stored.size_bytes if is_limited else 0
        expires_at = None
        if expire_in:
            seconds = expire_seconds(expire_in)
            expires_at = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        return Artifact(
            key=key,
            url=stored.url,
            content_type=content_type,
            size_bytes=stored.size_bytes,
            checksum=stored.checksum,
            expires_at=expires_at,
            metadata=metadata or {},
        )

    def record(self, artifact: Artifact) -> None:
        """Tell the control plane; may be repeated.

        Raises ``RunError``, and ``ControlPlaneUnavailable``: the bytes are safe meanwhile.
        """
        reply = self._control.add_run_artifact(self._run_id, self._epoch, artifact)
        if isinstance(reply, Refused):
            message = f"Artifact {artifact.key} was not recorded: {reply.error}"
            raise RunError("internal_error", message)

    def _put(
        self,
        key: str,
        path: Path,
        content_type: str,
        check: Callable[[], None],
        limit: tuple[int, str] | None,
    ) -> StoredObject:
        until, pause = time.monotonic() + self._limits.patience, 0.5
        while True:
            try:
                with _open_source(path) as source:
                    watched = _Watched(source, check, limit)
                    return self._store.put(f"{self._folder}/{key}", watched, content_type)
            except StoreUnavailable as error:
                if time.monotonic() + pause >= until:
                    raise
                _logger.warning("Run %s: %s Trying again.", self._run_id, error)
            check()
            time.sleep(pause)
            pause = min(MAX_PAUSE, pause * 2)

    def _limit(self, key: str) -> tuple[int, str]:
        """Bytes this artifact may have, and what is said when it has more."""
        left = self._limits.run_bytes - self._stored_bytes
        if left < self._limits.file_bytes:
            mib = self._limits.run_bytes >> 20
            return (
                left,
                f"With {key} the artifacts of the run exceed {mib} MiB, the worker's limit.",
            )
        mib = self._limits.file_bytes >> 20
        return self._limits.file_bytes, f"Artifact {key} exceeds {mib} MiB, the worker's limit."


class _Watched:
    """A source that asks at every read whether to go on, and gives no more than it may."""

    def __init__(
        self, source: BinaryIO, check: Callable[[], None], limit: tuple[int, str] | None
    ) -> None:
        self._source, self._check = source, check
        self._left, self._too_large = limit or (sys.maxsize, "")
        # Known sizes are refused before the first byte goes out.
        with contextlib.suppress(OSError):
            self._take(os.fstat(source.fileno()).st_size, only_look=True)

    def read(self, size: int = -1) -> bytes:
        self._check()
        data = self._source.read(size)
        self._take(len(data))
        return data

    def fileno(self) -> int:
        return self._source.fileno()

    def _take(self, size: int, only_look: bool = False) -> None:
        if size > self._left:
            raise RunError("setup_error", self._too_large)
        if not only_look:
            self._left -= size


def make_store(settings: Settings, control: ControlPlane | None) -> ArtifactStore:
    """The store that the settings of a worker name: without any, over HTTP the control plane's.

    :raises StorageError: they are wrong
    """
    if not settings.s3_bucket:
        if settings.control_url:
            return RemoteStore(control)
        return FilesystemStore(settings.artifacts)
    # boto3 takes 20 MB, for those who use it.
    from .storage.s3 import S3Settings, S3Store

    names = ("bucket", "prefix", "endpoint", "region", "path_style", "ca_bundle", "profile")
    return S3Store(S3Settings(**{name: getattr(settings, f"s3_{name}") for name in names}))


def _open_source(path: Path) -> BinaryIO:
    return TarGz(path, _open_regular) if path.is_dir() else _open_regular(path)


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe or device would never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def _code_of(error: StorageError) -> str:
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    return "store_unavailable" if isinstance(error, StoreUnavailable) else "setup_error"
