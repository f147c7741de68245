"""Large files in parts, up and down: several go side by side, and memory is bounded by them.

Each part that goes up carries its SHA-256, which the server checks;
the server's checksum of the whole, a SHA-256 over those of the parts, is compared at the end.
"""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError as ReadError

from .base import CHUNK, StorageError
from .parts import (
    ATTEMPTS,
    MAX_PARTS,
    PARALLEL,
    PART_SIZE,
    parallel_for,
    read_part,
    sha256_base64,
    thread_pool,
)
from .s3_errors import code_of

_logger = logging.getLogger(__name__)


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

    def begin(self, **facts: Any) -> str:
        """Begin the upload of an object that ``facts`` describe; returns S3's id of the upload."""
        self._upload_id = self._client.create_multipart_upload(
            **self._target, ChecksumAlgorithm="SHA256", **facts
        )["UploadId"]
        return self._upload_id

    def resume(self, upload_id: str, parts: list[dict[str, Any]]) -> None:
        """Take up what was begun, and uploaded, elsewhere; ``parts`` as S3 wants them."""
        self._upload_id, self._parts = upload_id, parts

    def run(self, first: bytes, source: BinaryIO, **facts: Any) -> None:
        """Upload ``first`` and the rest of ``source``; ``facts`` describe the object."""
        self.begin(**facts)
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
        parallel = parallel_for(self._part_size)
        with thread_pool(parallel) as pool:
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
        starts = range(0, size, PART_SIZE)
        # Used again and again: a new one for each range leaves holes in the memory of each thread.
        free = [bytearray(min(size, PART_SIZE)) for _ in starts[:PARALLEL]]
        waiting: list[tuple[concurrent.futures.Future, bytearray]] = []

        def take() -> None:
            future, buffer = waiting.pop(0)
            part = memoryview(buffer)[: future.result()]
            digest.update(part)
            target.write(part)
            free.append(buffer)

        with thread_pool(PARALLEL) as pool:
            for start in starts:
                if not free:
                    take()
                buffer = free.pop()
                end = min(start + PART_SIZE, size)
                waiting.append((pool.submit(self._get, start, end, buffer), buffer))
            while waiting:
                take()
        return digest.hexdigest()

    def _get(self, start: int, end: int, buffer: bytearray) -> int:
        """Read a range into the buffer; returns its length. The library repeats requests, not the
        reading of their answers."""
        for attempt in range(ATTEMPTS):
            try:
                reply = self._client.get_object(**self._request, Range=f"bytes={start}-{end - 1}")
                return self._read(reply["Body"], end - start, buffer)
            except (BotoCoreError, ReadError):
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _read(self, body: Any, size: int, buffer: bytearray) -> int:
        """By pieces: newer versions of Python hold an answer twice that is read at once."""
        read = 0
        while piece := body.read(CHUNK):
            if read + len(piece) <= size:
                buffer[read : read + len(piece)] = piece
            read += len(piece)
        if read != size:
            raise StorageError(
                f"{self._request['Key']} cannot be read: asked for {size} bytes of it, the store"
                f" sent {read}."
            )
        return read
