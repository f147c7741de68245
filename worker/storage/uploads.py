"""How somebody without the store's credentials puts a file into it, part by part.

The control plane has the store; a worker on another host has the bytes. The control plane begins an
upload, says for each part where it goes and what it must be (its size and SHA-256), and makes one
object of the parts when they are there. A file of one part may go in one request. The rules are
those of ``ArtifactStore.put``: whole or not at all, and nothing is replaced.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Mapping, Sequence

from .base import ArtifactStore, StorageError, StoredObject

CHECKSUM = re.compile("[0-9a-f]{64}")


class UploadGone(StorageError):
    """There is no such upload, or not all of it: it has to begin anew."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A PUT with exactly these headers, and a body of the size and checksum it was made for.

    ``url`` is an address of the store, or a path of the control plane.
    """

    url: str
    headers: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Part:
    """What the store answered to a part: ``tag`` is its ETag, where it has such things."""

    number: int
    checksum: str
    tag: str = ""


class Uploads(abc.ABC):
    """Uploads into ``store``, by keys as in ``ArtifactStore.put``.

    All checksums are SHA-256 in hex; all methods raise ``StorageError``.
    """

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store

    @abc.abstractmethod
    def is_there(self, key: str) -> bool:
        """Whether the store holds something under ``key`` already."""

    @abc.abstractmethod
    def begin(self, key: str, content_type: str) -> str:
        """The id of a new upload in parts."""

    @abc.abstractmethod
    def at_once(self, key: str, size: int, checksum: str, content_type: str) -> Request | None:
        """Where the whole file goes in one request; None where that is not possible."""

    @abc.abstractmethod
    def part(self, key: str, upload_id: str, number: int, size: int, checksum: str) -> Request:
        """Where part ``number``, from 1 on, of an upload goes."""

    @abc.abstractmethod
    def complete(
        self, key: str, upload_id: str, parts: Sequence[Part], size: int, checksum: str
    ) -> StoredObject:
        """Make the parts an object, and verify that it is what it shall be.

        :raises UploadGone: parts are missing
        :raises ObjectConflict: other bytes are there
        """

    @abc.abstractmethod
    def complete_at_once(
        self, key: str, size: int, checksum: str, tag: str, may_remove: bool
    ) -> StoredObject:
        """Verify what went up in one request, or what was there already.

        :param tag: what the store answered; empty when the object was there before
        :param may_remove: whether an object of that tag that arrived altered may be removed
        :raises UploadGone: nothing is there
        :raises ObjectConflict: other bytes are there
        """

    @abc.abstractmethod
    def abort(self, key: str, upload_id: str) -> None:
        """Remove the parts of an upload; nothing happens when there are none."""
