"""Finding the files a run shall keep, storing them and recording them.

The patterns come from the workflow's config, the files from the program that ran: neither may reach
outside the checkout.
"""

from __future__ import annotations

import errno
import logging
import mimetypes
import os
import re
import stat
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

from .control.base import Artifact, ControlPlane, Refused
from .errors import RunError
from .storage.base import ArtifactStore, StorageError
from .workflow import expire_seconds

_logger = logging.getLogger(__name__)

#: One run keeps at most so many files found by patterns.
MAX_FILES = 1000
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]+")
_TYPES = {
    ".log": "text/plain",
    ".txt": "text/plain",
    ".po": "text/plain",
    ".dump": "application/octet-stream",
}
_ENCODINGS = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


class FoundFile(NamedTuple):
    """A file to keep: its key, where it lies, after what time it may go (``30 days``) or None."""

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
    """Regular files below ``root`` that match the config's patterns, each once, under unique keys.

    A link is followed only when it stays below ``root``. A pattern that names a folder means all
    files in it.
    """
    root = root.resolve()
    seen: set[Path] = set()
    keys: set[str] = set()
    for pattern in patterns:
        for path in _matches(root, str(pattern["path"])):
            real = path.resolve()
            if real in seen or not real.is_relative_to(root) or not real.is_file():
                continue
            seen.add(real)
            key = _unique(key_of(path.relative_to(root)), keys)
            yield FoundFile(key, real, pattern.get("expire_in"))


def _matches(root: Path, pattern: str) -> Iterator[Path]:
    if pattern.startswith("/") or ".." in pattern.split("/"):
        return
    for path in sorted(root.glob(pattern.rstrip("/"))):
        if path.is_dir() and path.resolve().is_relative_to(root):
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


class ArtifactRecorder:
    """Stores files of one run and records them in the control plane."""

    def __init__(
        self,
        store: ArtifactStore,
        control: ControlPlane,
        project_slug: str,
        run_id: int,
        epoch: int,
    ) -> None:
        self._store = store
        self._control = control
        self._folder = f"{project_slug}/{run_id}"
        self._run_id = run_id
        self._epoch = epoch

    def add(
        self,
        key: str,
        path: Path,
        content_type: str | None = None,
        expire_in: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Store ``path`` under ``key``.

        Raises ``RunError``, and ``ControlPlaneUnavailable`` from the recording.
        """
        stored = None
        try:
            with _open_regular(path) as source:
                stored = self._store.put(f"{self._folder}/{key}", source)
        except StorageError as error:
            raise RunError(_code_of(error.__cause__), str(error)) from error
        except OSError as error:
            message = f"Artifact {key} could not be read: {error.strerror or error}."
            raise RunError("setup_error", message) from error
        expires_at = None
        if expire_in:
            seconds = expire_seconds(expire_in)
            expires_at = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        artifact = Artifact(
            key=key,
            url=stored.url,
            content_type=content_type or guess_content_type(key),
            size_bytes=stored.size_bytes,
            checksum=stored.checksum,
            expires_at=expires_at,
            metadata=metadata or {},
        )
        reply = self._control.add_run_artifact(self._run_id, self._epoch, artifact)
        if isinstance(reply, Refused):
            raise RunError("internal_error", f"Artifact {key} was not recorded: {reply.error}")
        return artifact


def _open_regular(path: Path):
    """Open a regular file for reading; a pipe or device would never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def _code_of(cause: BaseException | None) -> str:
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    return "disk_full" if full else "setup_error"
