"""Artifact store in a directory, which may be a network file system all hosts see.

A file appears under its name only when it is complete and safe on the disk. Nothing is read or
written outside the root, not even when somebody has placed symbolic links below it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .base import ArtifactStore, StorageError, StoredObject, check_key

SCHEME = "filesystem:"
_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FilesystemStore(ArtifactStore):
    """``root`` is made (0750) when it is not there."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def put(self, key: str, source: BinaryIO) -> StoredObject:
        *folders, name = check_key(key).split("/")
        temporary = f".{uuid.uuid4().hex}.part"
        with self._folder(folders, make=True) as folder:
            try:
                with self._new_file(folder, temporary) as target:
                    digest, size = _copy(source, target)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise StorageError(
                    f"Artifact {key} could not be stored: {error.strerror}."
                ) from error
        return StoredObject(SCHEME + key, size, digest)

    def open(self, url: str) -> BinaryIO:
        *folders, name = self._key(url).split("/")
        with self._folder(folders, make=False) as folder:
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                return os.fdopen(os.open(name, flags, dir_fd=folder), "rb")
            except OSError as error:
                raise StorageError(f"{url} cannot be read: {error.strerror}.") from error

    def delete(self, url: str) -> None:
        """Remove the file, and the folders that it leaves empty."""
        *folders, name = self._key(url).split("/")
        try:
            with self._folder(folders, make=False) as folder:
                os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return
            raise
        except OSError as error:
            raise StorageError(f"{url} cannot be removed: {error.strerror}.") from error
        while folders:
            *parents, last = folders
            try:
                with self._folder(parents, make=False) as folder:
                    os.rmdir(last, dir_fd=folder)
            except (OSError, StorageError):
                return
            folders = parents

    @staticmethod
    def _key(url: str) -> str:
        if not url.startswith(SCHEME):
            raise StorageError(f"{url[:80]} is not in the file store.")
        return check_key(url[len(SCHEME) :])

    @staticmethod
    def _new_file(folder: int, name: str) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(name, flags, 0o640, dir_fd=folder), "wb")

    @contextlib.contextmanager
    def _folder(self, folders: list[str], make: bool) -> Iterator[int]:
        """Descriptor of a folder below the root, reached step by step without following a link."""
        descriptor = -1
        try:
            try:
                if make:
                    self.root.mkdir(mode=0o750, parents=True, exist_ok=True)
                descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                for name in folders:
                    if make:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(name, 0o750, dir_fd=descriptor)
                    deeper = os.open(name, _DIRECTORY, dir_fd=descriptor)
                    os.close(descriptor)
                    descriptor = deeper
            except OSError as error:
                place = "/".join([str(self.root), *folders])
                raise StorageError(f"{place} cannot be used: {error.strerror}.") from error
            yield descriptor
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _copy(source: BinaryIO, target: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        target.write(chunk)
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest(), size
