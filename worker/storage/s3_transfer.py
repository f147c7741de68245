"""Large files in parts, up and down: several go side by side, and memory is bounded by them.

Each part that goes up carries its SHA-256, which the server checks;
the server's checksum of the whole, a SHA-256 over those of the parts, is compared at the end.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError as ReadError

from .base import StorageError
from .s3_errors import code_of

_logger = logging.getLogger(__name__)

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


class MultipartUpload:
    """Upload ``source`` in parts. ``target`` is the Bucket and Key of each request."""

    def __init__(self, client: Any, target: dict[str, str], part_size: int) -> None:
        self._client = client
        self._target = target
        self._part_size = part_size
        self._parts: list[dict[str, Any]] = []
        self._upload_id = ""
        self.digest = hashlib.sha256()
        self.size = 0

    @property
    def checksum(self) -> str:
        """SHA-256 of all bytes, hex."""
        return self.digest.hexdigest()

    @property
    def composite(self) -> str:
        """SHA-256 over those of the parts, base64: what S3 calls the object's checksum."""
        digests = (base64.b64decode(part["ChecksumSHA256"]) for part in self._parts)
        return base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode()

    def run(self, first: bytes, source: BinaryIO, **facts: Any) -> None:
        """Upload ``first`` and the rest of ``source``; ``facts`` describe the object."""
        self._upload_id = self._client.create_multipart_upload(
            **self._target, ChecksumAlgorithm="SHA256", **facts
        )["UploadId"]
        try:
            self._send(first, source)
        except BaseException:
            self.abort()
            raise

    def complete(self, **conditions: str) -> None:
        """Make one object of the parts; the caller aborts when that fails."""
        self._client.complete_multipart_upload(
            **self._target,
            UploadId=self._upload_id,
            MultipartUpload={"Parts": self._parts},
            **conditions,
        )

    def abort(self) -> None:
        """Remove the parts. What could not be removed is found later by ``abort_uploads``."""
        try:
            self._client.abort_multipart_upload(**self._target, UploadId=self._upload_id)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and code_of(error) == "NoSuchUpload":
                return
            _logger.warning(
                "Parts of %s stay until the next clean-up: %s",
                self._target["Key"],
                type(error).__name__,
            )

    def _send(self, first: bytes, source: BinaryIO) -> None:
        parallel = max(1, min(PARALLEL, BUFFER_BYTES // self._part_size - 1))
        with _pool(parallel) as pool:
            waiting: list[concurrent.futures.Future] = []
            for number, data in enumerate(self._chunks(first, source), 1):
                if number > MAX_PARTS:
                    raise StorageError(
                        f"{self._target['Key']} is larger than {MAX_PARTS} parts of"
                        f" {self._part_size >> 20} MiB, the most that S3 takes."
                    )
                waiting.append(pool.submit(self._send_part, number, data))
                del data
                if len(waiting) >= parallel:
                    self._parts.append(waiting.pop(0).result())
            self._parts += [future.result() for future in waiting]

    def _chunks(self, first: bytes, source: BinaryIO) -> Iterator[bytes]:
        data = first
        while data:
            self.digest.update(data)
            self.size += len(data)
            yield data
            # Not to be kept beside the next one.
            data = b""
            data = read_part(source, self._part_size)

    def _send_part(self, number: int, data: bytes) -> dict[str, Any]:
        checksum = sha256_base64(data)
        reply = self._client.upload_part(
            **self._target,
            UploadId=self._upload_id,
            PartNumber=number,
            Body=data,
            ChecksumSHA256=checksum,
        )
        return {"PartNumber": number, "ETag": reply["ETag"], "ChecksumSHA256": checksum}


class RangeDownload:
    """Download an object in ranges, all of the same version (``etag``)."""

    def __init__(self, client: Any, target: dict[str, str], etag: str) -> None:
        self._client = client
        self._request = {**target, "IfMatch": etag}

    def run(self, size: int, target: BinaryIO) -> str:
        """Write the object's ``size`` bytes to ``target``; return their SHA-256, hex."""
        digest = hashlib.sha256()

        def take(future: concurrent.futures.Future) -> None:
            data = future.result()
            digest.update(data)
            target.write(data)

        with _pool(PARALLEL) as pool:
            waiting: list[concurrent.futures.Future] = []
            for start in range(0, size, PART_SIZE):
                if len(waiting) == PARALLEL:
                    take(waiting.pop(0))
                waiting.append(pool.submit(self._get, start, min(start + PART_SIZE, size)))
            while waiting:
                take(waiting.pop(0))
        return digest.hexdigest()

    def _get(self, start: int, end: int) -> bytes:
        """The library repeats requests, not the reading of their answers."""
        for attempt in range(ATTEMPTS):
            try:
                reply = self._client.get_object(**self._request, Range=f"bytes={start}-{end - 1}")
                return reply["Body"].read()
            except (BotoCoreError, ReadError):
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")


@contextlib.contextmanager
def _pool(size: int) -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """Threads; after an error those that have begun are waited for, so that an abort comes last."""
    pool = concurrent.futures.ThreadPoolExecutor(size, thread_name_prefix="s3-part")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
