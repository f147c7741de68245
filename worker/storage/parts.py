"""Files in parts: how large they are, how they are read, how their checksums are written.

Nothing here knows S3's library: a host that uploads through its control plane has no use for it.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from typing import BinaryIO

#: S3's limits.
MIN_PART_SIZE = 5 << 20
MAX_PARTS = 10_000
PART_SIZE = 8 << 20
ATTEMPTS = 5
#: Parts under way at the same time, one more is being read; and what they may hold together.
PARALLEL = 4
BUFFER_BYTES = (PARALLEL + 1) * PART_SIZE


def part_size_for(size: int | None) -> int:
    """Bytes per part of a file of that size; unknown sizes get the usual parts."""
    needed = -(-(size or 0) // MAX_PARTS)
    return max(PART_SIZE, -(-needed // (1 << 20)) << 20)


def parallel_for(part_size: int) -> int:
    """How many parts of that size may be under way at the same time."""
    return max(1, min(PARALLEL, BUFFER_BYTES // part_size - 1))


def read_part(source: BinaryIO, size: int) -> bytes:
    """``size`` bytes, fewer only at the end; a pipe gives less at a time."""
    first = source.read(size)
    if len(first) == size or not first:
        return first
    pieces, total = [first], len(first)
    while total < size and (piece := source.read(size - total)):
        pieces.append(piece)
        total += len(piece)
    return b"".join(pieces)


def sha256_base64(data: bytes) -> str:
    """As S3 wants a checksum."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def size_of(source: BinaryIO) -> int | None:
    """The size of a file, None for what is none."""
    try:
        return os.fstat(source.fileno()).st_size
    except (AttributeError, OSError):
        return None


class Joined(io.RawIOBase):
    """What was read too much, and then the source itself."""

    def __init__(self, first: bytes, source: BinaryIO) -> None:
        super().__init__()
        self._first = first
        self._source = source

    def read(self, size: int = -1) -> bytes:
        if not self._first:
            return self._source.read(size)
        if 0 <= size < len(self._first):
            piece, self._first = self._first[:size], self._first[size:]
            return piece
        first, self._first = self._first, b""
        return first + self._source.read(size - len(first) if size >= 0 else -1)


@contextlib.contextmanager
def thread_pool(size: int) -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Threads; after an error those that have begun are waited for, so that an abort comes last."""
    pool = concurrent.futures.ThreadPoolExecutor(size, thread_name_prefix="artifact-part")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
