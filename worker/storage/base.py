"""The contract of an artifact store: bytes go in under a key and come out under a URL.

Keys are relative paths of harmless characters, so that the same key works as a file name, in S3 and
in a download.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from typing import BinaryIO

_KEY = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
MAX_KEY_LENGTH = 512


class StorageError(Exception):
    """The store refused or failed; the message is a sentence, the cause may be an ``OSError``."""


@dataclasses.dataclass(frozen=True)
class StoredObject:
    """What was stored: ``url``, ``size_bytes`` and ``checksum`` (SHA-256, hex) as computed."""

    url: str
    size_bytes: int
    checksum: str


def check_key(key: str) -> str:
    """Return ``key`` when it is a key of a store; raises ``StorageError`` otherwise."""
    parts = key.split("/")
    if len(key) > MAX_KEY_LENGTH or not _KEY.fullmatch(key) or "." in parts or ".." in parts:
        raise StorageError(
            f"{key[:80]!r} is not an artifact key: a relative path of letters, digits and . _ -"
            f" of at most {MAX_KEY_LENGTH} characters, without . and .. parts."
        )
    return key


class ArtifactStore(abc.ABC):
    """All methods raise ``StorageError``."""

    @abc.abstractmethod
    def put(self, key: str, source: BinaryIO) -> StoredObject:
        """Store the bytes of ``source`` under ``key``, whole or not at all.

        What was there is replaced.
        """

    @abc.abstractmethod
    def open(self, url: str) -> BinaryIO:
        """Return a stream of the bytes under ``url``."""

    @abc.abstractmethod
    def delete(self, url: str) -> None:
        """Remove what is under ``url``; nothing happens when it is gone already."""
