"""Uploads into a folder: the parts come to the control plane itself, which writes them into a file.

A part lies at its place in the file, so it makes no difference in which order parts come, nor
whether one comes twice. The file has no name until it is complete; what broken uploads leave is
removed by ``FilesystemStore.abort_uploads``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import uuid
from collections.abc import Sequence
from urllib.parse import quote

from .base import ObjectMissing, StorageError, StoredObject, check_key, copy_and_hash
from .filesystem import SCHEME, FilesystemStore
from .uploads import Part, Request, UploadGone, Uploads

PATH = "/ops/artifacts/uploads"
CHECKSUM_HEADER = "X-Checksum-SHA256"
_UPLOAD_ID = re.compile("[0-9a-f]{32}")


class FilesystemUploads(Uploads):
    """``store`` is a ``FilesystemStore``, whose ways to open folders and to publish are used."""

    store: FilesystemStore

    def is_there(self, key: str) -> bool:
        # The folder is made with the first file.
        if not self.store.root.exists():
            return False
        try:
            self.store.stat(self.store.url_of(key))
        except ObjectMissing:
            return False
        return True

    def begin(self, key: str, content_type: str) -> str:
        *folders, _name = check_key(key).split("/")
        upload_id = uuid.uuid4().hex[:16] + _mark(key)
        with self.store._folder(folders, make=True) as folder, _translating(key):
            self.store._new_file(folder, _part_name(key, upload_id)).close()
        return upload_id

    def at_once(self, key: str, size: int, checksum: str, content_type: str) -> Request | None:
        return None

    def part(self, key: str, upload_id: str, number: int, size: int, checksum: str) -> Request:
        headers = {
            "Content-Length": str(size),
            "Content-Type": "application/octet-stream",
            CHECKSUM_HEADER: checksum,
        }
        return Request(f"{PATH}/{quote(upload_id, safe='')}/{number}", headers)

    def write_part(self, key: str, upload_id: str, offset: int, data: bytes, checksum: str) -> None:
        """Put the bytes of a part at their place.

        :raises StorageError: they are not those of the checksum
        """
        if hashlib.sha256(data).hexdigest() != checksum:
            raise StorageError("Other bytes arrived than were sent.")
        descriptor = self._open(key, upload_id, os.O_WRONLY)
        with os.fdopen(descriptor, "wb") as file, _translating(key):
            file.seek(offset)
            file.write(data)

    def complete(
        self, key: str, upload_id: str, parts: Sequence[Part], size: int, checksum: str
    ) -> StoredObject:
        stored = StoredObject(SCHEME + key, size, checksum)
        try:
            descriptor = self._open(key, upload_id, os.O_RDWR)
        except UploadGone:
            # The answer to a first attempt may have been lost.
            return self.complete_at_once(key, size, checksum, "", False)
        try:
            with os.fdopen(descriptor, "rb+") as file, _translating(key):
                if copy_and_hash(file) != (checksum, size):
                    raise UploadGone(f"Parts of {key} are missing in the store.")
                os.fsync(file.fileno())
            self._publish(key, upload_id, stored)
        finally:
            self.abort(key, upload_id)
        return stored

    def complete_at_once(
        self, key: str, size: int, checksum: str, tag: str, may_remove: bool
    ) -> StoredObject:
        stored = StoredObject(SCHEME + check_key(key), size, checksum)
        try:
            self.store._check_same(key, stored)
        except ObjectMissing as error:
            raise UploadGone(f"{key} has not arrived in the store.") from error
        return stored

    def abort(self, key: str, upload_id: str) -> None:
        *folders, _name = check_key(key).split("/")
        with (
            contextlib.suppress(OSError, ObjectMissing),
            self.store._folder(folders, make=False) as folder,
        ):
            os.unlink(_part_name(key, upload_id), dir_fd=folder)

    def _open(self, key: str, upload_id: str, flags: int) -> int:
        *folders, _name = check_key(key).split("/")
        try:
            with self.store._folder(folders, make=False) as folder:
                flags |= os.O_NOFOLLOW | os.O_CLOEXEC
                return os.open(_part_name(key, upload_id), flags, dir_fd=folder)
        except (FileNotFoundError, ObjectMissing) as error:
            raise UploadGone(f"There is no such upload of {key}.") from error
        except OSError as error:
            raise StorageError(f"{key} could not be stored: {error.strerror}.") from error

    def _publish(self, key: str, upload_id: str, stored: StoredObject) -> None:
        *folders, name = key.split("/")
        with self.store._folder(folders, make=False) as folder, _translating(key):
            is_new = self.store._publish(folder, _part_name(key, upload_id), name)
            os.fsync(folder)
        if not is_new:
            self.store._check_same(key, stored)


def _mark(key: str) -> str:
    """Makes an id good for one key: others of the folder must not be mixed up with it."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _part_name(key: str, upload_id: str) -> str:
    if not _UPLOAD_ID.fullmatch(upload_id) or not upload_id.endswith(_mark(key)):
        raise UploadGone(f"There is no such upload of {key}.")
    return f".{upload_id}.part"


@contextlib.contextmanager
def _translating(key: str):
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError("The disk of the artifact store is full.") from error
        raise StorageError(f"{key} could not be stored: {error.strerror or error}.") from error
