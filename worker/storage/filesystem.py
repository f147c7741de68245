"""Artifact store in a directory, which may be a network file system all hosts see.

A file appears under its name only when it is complete and safe on the disk. Nothing is read or
written outside the root, not even when somebody has placed symbolic links below it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from .base import (
    OWN_PREFIX,
    ArtifactStore,
    NotInStore,
    ObjectConflict,
    ObjectInfo,
    ObjectMissing,
    StorageError,
    StoredObject,
    check_key,
    copy_and_hash,
)

SCHEME = "filesystem:"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PART = re.compile(r"\.[0-9a-f]{32}\.part")
#: What an error on the way to a folder means; a link is refused by either of two.
_FOLDER_ERRORS = {
    errno.ENOENT: ObjectMissing,
    errno.ELOOP: NotInStore,
    errno.ENOTDIR: NotInStore,
}
#: A file system without hard links says one of these.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class FilesystemStore(ArtifactStore):
    """``root`` is made (0750) when it is not there."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def put(self, key: str, source: BinaryIO, content_type: str | None = None) -> StoredObject:
        *folders, name = check_key(key).split("/")
        temporary = f".{uuid.uuid4().hex}.part"
        with self._folder(folders, make=True) as folder:
            try:
                with self._new_file(folder, temporary) as target:
                    checksum, size = copy_and_hash(source, target)
                    target.flush()
                    os.fsync(target.fileno())
                is_new = self._publish(folder, temporary, name)
                os.fsync(folder)
            except OSError as error:
                raise StorageError(
                    f"Artifact {key} could not be stored: {error.strerror or error}."
                ) from error
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
        stored = StoredObject(SCHEME + key, size, checksum)
        if not is_new:
            self._check_same(key, stored)
        return stored

    @staticmethod
    def _publish(folder: int, temporary: str, name: str) -> bool:
        """Give a complete file its name; False when the name is taken."""
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if _exists(folder, name):
                return False
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        return True

    def _check_same(self, key: str, stored: StoredObject) -> None:
        with self.open(stored.url) as there:
            checksum, _size = copy_and_hash(there)
        if checksum != stored.checksum:
            raise ObjectConflict(f"The store holds other bytes under {key} already.")

    def open(self, url: str) -> BinaryIO:
        *folders, name = self._key(url).split("/")
        with self._folder(folders, make=False) as folder:
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                return os.fdopen(os.open(name, flags, dir_fd=folder), "rb")
            except FileNotFoundError as error:
                raise ObjectMissing(f"{url} is not there.") from error
            except OSError as error:
                raise StorageError(f"{url} cannot be read: {error.strerror}.") from error

    def stat(self, url: str) -> ObjectInfo:
        *folders, name = self._key(url).split("/")
        # A store that is gone as a whole, perhaps not mounted, says nothing about one file.
        if not self.root.is_dir():
            raise StorageError(f"The folder {self.root} of the artifact store is not there.")
        with self._folder(folders, make=False) as folder:
            try:
                facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError as error:
                raise ObjectMissing(f"{url} is not there.") from error
            except OSError as error:
                raise StorageError(f"{url} cannot be read: {error.strerror}.") from error
        if not stat.S_ISREG(facts.st_mode):
            raise NotInStore(f"{url} is not a regular file.")
        return _info(self._key(url), facts)

    def delete(self, url: str) -> None:
        """Remove the file, and the folders that it leaves empty."""
        *folders, name = self._key(url).split("/")
        try:
            with self._folder(folders, make=False) as folder:
                os.unlink(name, dir_fd=folder)
        except (FileNotFoundError, ObjectMissing):
            return
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

    def list(self) -> Iterator[ObjectInfo]:
        for key, path in self._walk():
            if _PART.fullmatch(path.name) or key.startswith(OWN_PREFIX):
                continue
            with contextlib.suppress(FileNotFoundError):
                facts = path.lstat()
                if stat.S_ISREG(facts.st_mode):
                    yield _info(key, facts)

    def abort_uploads(self, before: datetime) -> int:
        count = 0
        for _key, path in self._walk():
            if _PART.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    if path.lstat().st_mtime < before.timestamp():
                        path.unlink()
                        count += 1
        return count

    def presign(self, url, name, content_type, inline, seconds) -> None:
        return None

    def url_of(self, key: str) -> str:
        return SCHEME + check_key(key)

    def path_of(self, url: str) -> Path:
        """Where the bytes lie, for a server that sends files by itself.

        :raises ObjectMissing: nothing is there
        :raises StorageError: the way there leads through a link, or it is no regular file
        """
        self.stat(url)
        return self.root / self._key(url)

    def _walk(self) -> Iterator[tuple[str, Path]]:
        """Key and path of all files; folders behind links are not entered."""
        for folder, _folders, names in os.walk(self.root):
            for name in names:
                path = Path(folder) / name
                yield path.relative_to(self.root).as_posix(), path

    @staticmethod
    def _key(url: str) -> str:
        if not url.startswith(SCHEME):
            raise NotInStore(f"{url[:80]} is not in the file store.")
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
                kind = _FOLDER_ERRORS.get(error.errno, StorageError)
                raise kind(f"{place} cannot be used: {error.strerror}.") from error
            yield descriptor
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _info(key: str, facts: os.stat_result) -> ObjectInfo:
    modified = datetime.fromtimestamp(facts.st_mtime, timezone.utc)
    return ObjectInfo(SCHEME + key, key, facts.st_size, modified)


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
