"""The contract of an artifact store: bytes go in under a key and come out under a URL.

Keys are relative paths of harmless characters, so that the same key works as a file name, in S3 and
in a download. What is stored is never replaced: storing the same bytes again is a success without
effect, other bytes under the same key are refused.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import io
import re
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import BinaryIO
from urllib.parse import quote

_KEY = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
MAX_KEY_LENGTH = 512
CHUNK = 1 << 20
#: Keys of the store's own objects begin so; they are no artifacts.
OWN_PREFIX = ".odooops-"
OWNER_KEY = f"{OWN_PREFIX}owner"
#: What a browser may show instead of saving: nothing that can hold a script.
INLINE_TYPES = frozenset(
    {"text/plain", "application/json", "image/png", "image/jpeg", "image/gif", "image/webp"}
)


class StorageError(Exception):
    """The store refused or failed; the message is a sentence, the cause may be an ``OSError``."""


class StoreUnavailable(StorageError):
    """The store cannot be reached or is overloaded just now; the same call may succeed later."""


class ObjectMissing(StorageError):
    """The store answered, and nothing is there under this URL."""


class NotInStore(StorageError):
    """The key or URL leads to a place that does not belong to the store."""


class ObjectConflict(StorageError):
    """Other bytes are there under this key already."""


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """What was stored: ``url``, ``size_bytes`` and ``checksum`` (SHA-256, hex) as computed."""

    url: str
    size_bytes: int
    checksum: str


@dataclasses.dataclass(frozen=True)
class ObjectInfo:
    """What the store says of an object. ``checksum`` is None where it would have to be computed."""

    url: str
    key: str
    size_bytes: int
    modified: datetime
    checksum: str | None = None


def check_key(key: str) -> str:
    """Return ``key`` when it is a key of a store; raises ``NotInStore`` otherwise."""
    parts = key.split("/")
    if len(key) > MAX_KEY_LENGTH or not _KEY.fullmatch(key) or "." in parts or ".." in parts:
        raise NotInStore(
            f"{key[:80]!r} is not an artifact key: a relative path of letters, digits and . _ -"
            f" of at most {MAX_KEY_LENGTH} characters, without . and .. parts."
        )
    return key


def content_disposition(name: str, inline: bool = False) -> str:
    """The header for a download under ``name``, which may hold any character (RFC 6266, 8187)."""
    name = re.sub(r"[\x00-\x1f\x7f/\\]", "_", name).strip() or "artifact"
    plain = re.sub(r'[^\x20-\x7e]|["%]', "_", name)
    kind = "inline" if inline else "attachment"
    header = f'{kind}; filename="{plain}"'
    if plain != name:
        encoded = quote(name.encode("utf-8", "replace"), safe="!#$&+.^_`|~-")
        header += f"; filename*=UTF-8''{encoded}"
    return header


def copy_and_hash(source: BinaryIO, target: BinaryIO | None = None) -> tuple[str, int]:
    """Read ``source`` to its end, write it to ``target``; return SHA-256 (hex) and size."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest(), size


class ArtifactStore(abc.ABC):
    """All methods raise ``StorageError``."""

    @abc.abstractmethod
    def put(self, key: str, source: BinaryIO, content_type: str | None = None) -> StoredObject:
        """Store the bytes of ``source`` under ``key``, whole or not at all.

        The same bytes under the same key change nothing. What ``source`` raises passes through,
        and leaves nothing behind.

        :raises ObjectConflict: other bytes are there
        """

    def of_run(self, run_id: int, epoch: int) -> ArtifactStore:
        """The store as the holder of that run sees it; a store that asks nobody is the same."""
        return self

    @abc.abstractmethod
    def open(self, url: str) -> BinaryIO:
        """Return a stream of the bytes under ``url``."""

    @abc.abstractmethod
    def stat(self, url: str) -> ObjectInfo:
        """What is under ``url``, without reading its bytes.

        :raises ObjectMissing: the store is there, the object is not
        """

    @abc.abstractmethod
    def delete(self, url: str) -> None:
        """Remove what is under ``url``; nothing happens when it is gone already."""

    @abc.abstractmethod
    def list(self) -> Iterator[ObjectInfo]:
        """All objects of this store but its own."""

    @abc.abstractmethod
    def abort_uploads(self, before: datetime) -> int:
        """Remove what uploads left that were begun before then and never ended; their number."""

    @abc.abstractmethod
    def presign(
        self, url: str, name: str, content_type: str, inline: bool, seconds: int
    ) -> str | None:
        """An address for GET that needs no other key, for so long.

        None when the store has no address.
        """

    def fetch(self, url: str, target: BinaryIO) -> StoredObject:
        """Write the bytes under ``url`` to ``target``, hashing them on the way."""
        with self.open(url) as source:
            checksum, size = copy_and_hash(source, target)
        return StoredObject(url, size, checksum)

    def check(self) -> None:
        """Store, read and remove a few bytes; raises what a real upload would raise."""
        data = uuid.uuid4().hex.encode()
        stored = self.put(f"{OWN_PREFIX}check-{data.decode()}", io.BytesIO(data))
        try:
            with self.open(stored.url) as stream:
                if stream.read() != data:
                    raise StorageError("The store returned other bytes than it was given.")
        finally:
            self.delete(stored.url)

    def owner(self, name: str) -> str:
        """Who may remove objects here: ``name``, unless another one was there before.

        A copy of a database must not remove what its original keeps.
        """
        try:
            self.put(OWNER_KEY, io.BytesIO(name.encode()))
        except ObjectConflict:
            with self.open(self.url_of(OWNER_KEY)) as stream:
                return stream.read(200).decode("ascii", "replace")
        return name

    @abc.abstractmethod
    def url_of(self, key: str) -> str:
        """The URL of an object of this store with that key."""
