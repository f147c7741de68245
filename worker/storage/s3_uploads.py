"""Uploads into a bucket by presigned addresses.

What is signed with an address: its size, SHA-256 and media type, and that nothing is there yet. S3
refuses everything else. An upload id is good for its key alone, which the control plane names.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

from . import s3_errors
from .base import StorageError, StoredObject, StoreUnavailable
from .parts import PART_SIZE
from .s3 import METADATA_NAME, S3Store
from .s3_transfer import MultipartUpload
from .uploads import Part, Request, UploadGone, Uploads

#: Seconds in which the sending of a part must have begun.
PRESIGNED_SECONDS = 900
_GONE = frozenset({"NoSuchUpload", "InvalidPart", "InvalidPartOrder"})


class S3Uploads(Uploads):
    """``store`` is an ``S3Store``, whose ways to commit and to verify are used."""

    store: S3Store

    def is_there(self, key: str) -> bool:
        with self._translating(key):
            return self.store._head(self.store.url_of(key)) is not None

    def begin(self, key: str, content_type: str) -> str:
        with self._translating(key):
            return self._upload(key).begin(ContentType=content_type)

    def at_once(self, key: str, size: int, checksum: str, content_type: str) -> Request | None:
        headers = {
            "Content-Type": content_type,
            f"x-amz-meta-{METADATA_NAME}": checksum,
            "If-None-Match": "*",
            **_of_body(size, checksum),
        }
        url = self._presign(
            "put_object",
            key,
            ContentLength=size,
            ContentType=content_type,
            ChecksumSHA256=_base64(checksum),
            Metadata={METADATA_NAME: checksum},
            IfNoneMatch="*",
        )
        return Request(url, headers)

    def part(self, key: str, upload_id: str, number: int, size: int, checksum: str) -> Request:
        url = self._presign(
            "upload_part",
            key,
            UploadId=upload_id,
            PartNumber=number,
            ContentLength=size,
            ChecksumSHA256=_base64(checksum),
        )
        return Request(url, _of_body(size, checksum))

    def complete(
        self, key: str, upload_id: str, parts: Sequence[Part], size: int, checksum: str
    ) -> StoredObject:
        upload = self._upload(key)
        upload.resume(
            upload_id,
            [
                {
                    "PartNumber": part.number,
                    "ETag": part.tag,
                    "ChecksumSHA256": _base64(part.checksum),
                }
                for part in parts
            ],
        )
        stored = StoredObject(self.store.url_of(key), size, checksum)
        with self._translating(key):
            try:
                return self.store._complete(upload, stored)
            except ClientError as error:
                if s3_errors.code_of(error) in _GONE:
                    raise UploadGone(f"Parts of {key} are missing in the store.") from None
                raise

    def complete_at_once(
        self, key: str, size: int, checksum: str, tag: str, may_remove: bool
    ) -> StoredObject:
        stored = StoredObject(self.store.url_of(key), size, checksum)
        with self._translating(key):
            there = self.store._head(stored.url)
            if there is None:
                raise UploadGone(f"{key} has not arrived in the store.")
            if not tag or there["ETag"] != tag:
                return self.store._same(stored.url, there, stored, _base64(checksum))
            try:
                self.store._verify(stored, _base64(checksum))
            except StorageError as error:
                if may_remove and not isinstance(error, StoreUnavailable):
                    self.store.delete(stored.url)
                raise
        return stored

    def abort(self, key: str, upload_id: str) -> None:
        upload = self._upload(key)
        upload.resume(upload_id, [])
        upload.abort()

    def _upload(self, key: str) -> MultipartUpload:
        target = self.store._target(self.store.url_of(key))
        return MultipartUpload(self.store._client, target, PART_SIZE)

    def _presign(self, operation: str, key: str, **parameters: Any) -> str:
        with self._translating(key):
            return self.store._client.generate_presigned_url(
                operation,
                Params={**self.store._target(self.store.url_of(key)), **parameters},
                ExpiresIn=PRESIGNED_SECONDS,
                HttpMethod="PUT",
            )

    def _translating(self, key: str) -> Any:
        where, bucket = self.store.where, self.store.settings.bucket
        return s3_errors.translating(f"{key} could not be stored", where, bucket)


def _of_body(size: int, checksum: str) -> dict[str, str]:
    return {"Content-Length": str(size), "x-amz-checksum-sha256": _base64(checksum)}


def _base64(checksum: str) -> str:
    return base64.b64encode(bytes.fromhex(checksum)).decode()
