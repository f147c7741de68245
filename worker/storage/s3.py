"""Artifact store in an S3 bucket, by boto3.

Small files go up in one request, larger ones in parts (``s3_transfer``). Every upload carries its
SHA-256 and is looked at afterwards. Credentials come from where boto3 looks for them: the
environment, a profile, a configuration file, the role of the machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from . import s3_errors
from .base import (
    OWN_PREFIX,
    ArtifactStore,
    NotInStore,
    ObjectConflict,
    ObjectInfo,
    ObjectMissing,
    StorageError,
    StoredObject,
    StoreUnavailable,
    check_key,
    content_disposition,
    copy_and_hash,
)
from .parts import (
    ATTEMPTS,
    PARALLEL,
    Joined,
    part_size_for,
    read_part,
    sha256_base64,
    size_of,
)
from .s3_transfer import MultipartUpload, RangeDownload

_logger = logging.getLogger(__name__)

SCHEME = "s3://"
#: Where the SHA-256 of the whole is kept: in the metadata of an object uploaded at once. It is not
#: known when a multipart upload begins, so there it becomes a tag at the end, if the server has
#: tags. The record of the artifact has it in any case.
METADATA_NAME = "sha256"
TAG_NAME = "odooops-sha256"
CONNECT_SECONDS, READ_SECONDS = 10, 60
#: The longest that S3 lets a presigned address live.
MAX_PRESIGN_SECONDS = 7 * 86400


@dataclasses.dataclass(frozen=True)
class S3Settings:
    """Where the bucket is. Empty values are left to boto3's own configuration."""

    bucket: str
    #: Before every key, without slashes at its ends.
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    #: ``endpoint/bucket/key`` in place of ``bucket.endpoint/key``.
    path_style: bool = False
    #: File of certificates that are trusted in place of the system's.
    ca_bundle: str = ""
    profile: str = ""
    #: Given by Odoo's configuration file only; a worker leaves them to boto3.
    access_key: str = dataclasses.field(default="", repr=False)
    secret_key: str = dataclasses.field(default="", repr=False)


class S3Store(ArtifactStore):
    """Safe for several threads. Nothing is sent before the first call."""

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self._bucket = settings.bucket
        prefix = settings.prefix.strip("/")
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self._client = _make_client(settings)
        self.where = urlsplit(self._client.meta.endpoint_url).netloc
        self._told_of_reading_back = False

    # -- the contract -------------------------------------------------------------------

    def put(self, key: str, source: BinaryIO, content_type: str | None = None) -> StoredObject:
        url = self.url_of(key)
        facts = {"ContentType": content_type or "application/octet-stream"}
        with self._translating(f"{key} could not be stored"):
            there = self._head(url)
            if there:
                checksum, size = copy_and_hash(source)
                return self._same(url, there, StoredObject(url, size, checksum))
            part_size = part_size_for(size_of(source))
            first = read_part(source, part_size)
            following = source.read(1) if len(first) == part_size else b""
            if not following:
                return self._put_at_once(url, first, facts)
            rest = Joined(following, source)
            return self._put_in_parts(url, first, rest, part_size, facts)

    def open(self, url: str) -> BinaryIO:
        with self._translating(f"{url} cannot be read"):
            reader = _Reader(self._client, self._target(url), self._translating)
        return io.BufferedReader(reader, 1 << 20)

    def fetch(self, url: str, target: BinaryIO) -> StoredObject:
        """In ranges side by side, written in their order: one connection is slow on long ways."""
        with self._translating(f"{url} cannot be read"):
            facts = self._client.head_object(**self._target(url))
            ranges = RangeDownload(self._client, self._target(url), facts["ETag"])
            checksum = ranges.run(facts["ContentLength"], target)
        return StoredObject(url, facts["ContentLength"], checksum)

    def stat(self, url: str) -> ObjectInfo:
        what = f"{url} cannot be found"
        with self._translating(what):
            facts = self._head(url)
            if facts is None:
                # A HEAD says 404 for a missing bucket, too; then nothing is known of the object.
                self._client.head_bucket(Bucket=self._bucket)
                raise ObjectMissing(f"{what}: it is not in bucket {self._bucket}.")
            return ObjectInfo(
                url,
                self._key(url),
                facts["ContentLength"],
                facts["LastModified"],
                self._known_checksum(url, facts),
            )

    def delete(self, url: str) -> None:
        with self._translating(f"{url} cannot be removed"):
            self._client.delete_object(**self._target(url))

    def list(self) -> Iterator[ObjectInfo]:
        pages = self._client.get_paginator("list_objects_v2")
        with self._translating("The objects of the store cannot be listed"):
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for item in page.get("Contents", ()):
                    key = item["Key"][len(self._prefix) :]
                    if not key.startswith(OWN_PREFIX):
                        url = f"{SCHEME}{self._bucket}/{item['Key']}"
                        yield ObjectInfo(url, key, item["Size"], item["LastModified"])

    def abort_uploads(self, before: datetime) -> int:
        count = 0
        pages = self._client.get_paginator("list_multipart_uploads")
        with self._translating("Unfinished uploads cannot be removed"):
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < before:
                        self._client.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        count += 1
        return count

    def presign(self, url: str, name: str, content_type: str, inline: bool, seconds: int) -> str:
        with self._translating("No address for a download can be made"):
            return self._client.generate_presigned_url(
                "get_object",
                Params={
                    **self._target(url),
                    "ResponseContentDisposition": content_disposition(name, inline),
                    "ResponseContentType": content_type,
                },
                ExpiresIn=min(seconds, MAX_PRESIGN_SECONDS),
            )

    def check(self) -> None:
        with self._translating("The bucket cannot be used"):
            # In place of the object's 404, which does not tell what is missing.
            self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        return super().check()

    def url_of(self, key: str) -> str:
        return f"{SCHEME}{self._bucket}/{self._prefix}{check_key(key)}"

    # -- uploading ----------------------------------------------------------------------

    def _put_at_once(self, url: str, data: bytes, facts: dict[str, Any]) -> StoredObject:
        digest = hashlib.sha256(data)
        stored = StoredObject(url, len(data), digest.hexdigest())
        base64 = sha256_base64(data)

        def send(**conditions: str) -> None:
            self._client.put_object(
                **self._target(url),
                Body=data,
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=base64,
                Metadata={METADATA_NAME: stored.checksum},
                **facts,
                **conditions,
            )

        return self._commit(stored, base64, send)

    def _put_in_parts(
        self, url: str, first: bytes, rest: BinaryIO, part_size: int, facts: dict[str, Any]
    ) -> StoredObject:
        upload = MultipartUpload(self._client, self._target(url), part_size)
        upload.run(first, rest, **facts)
        return self._complete(upload, StoredObject(url, upload.size, upload.checksum))

    def _complete(self, upload: MultipartUpload, stored: StoredObject) -> StoredObject:
        """Make one object of what went up in parts."""
        try:
            self._commit(stored, upload.composite, upload.complete)
        except BaseException:
            upload.abort()
            raise
        # A convenience, which not every server has and not every account may do.
        with contextlib.suppress(BotoCoreError, ClientError):
            tags = {"TagSet": [{"Key": TAG_NAME, "Value": stored.checksum}]}
            self._client.put_object_tagging(**self._target(stored.url), Tagging=tags)
        return stored

    def _commit(self, stored: StoredObject, base64: str, send: Any) -> StoredObject:
        """Make the object appear, unless one is there, and look at what is there then."""
        conditions = {"IfNoneMatch": "*"}
        try:
            try:
                send(**conditions)
            except ClientError as error:
                if s3_errors.code_of(error) != "NotImplemented":
                    raise
                send()
        except ClientError as error:
            # The answer to a first attempt may have been lost: then what is there is ours.
            there = self._head(stored.url)
            code = s3_errors.code_of(error)
            if not there or code not in s3_errors.TAKEN | {"NoSuchUpload"}:
                raise
            return self._same(stored.url, there, stored, base64)
        try:
            self._verify(stored, base64)
        except StorageError as error:
            # Not when it only could not be looked at: somebody else's look may succeed.
            if not isinstance(error, StoreUnavailable):
                self.delete(stored.url)
            raise
        return stored

    def _verify(self, stored: StoredObject, base64: str) -> None:
        facts = self._head(stored.url)
        if facts is None or facts["ContentLength"] != stored.size_bytes:
            raise StorageError(f"{stored.url} is not in the store as it was sent; it was removed.")
        known = facts.get("ChecksumSHA256", "").partition("-")[0]
        if not known:
            # The server computes none: then only reading shows what it has stored.
            if not self._told_of_reading_back:
                self._told_of_reading_back = True
                _logger.info("%s has no SHA-256 of its own: uploads are read back", self.where)
            is_same = self._read_checksum(stored.url) == stored.checksum
        else:
            is_same = known == base64
        if not is_same:
            raise StorageError(f"{stored.url} arrived altered in the store; it was removed.")

    def _same(
        self, url: str, there: dict[str, Any], ours: StoredObject, base64: str = ""
    ) -> StoredObject:
        """``ours`` when that is what the store holds, else ``ObjectConflict``."""
        is_same = there["ContentLength"] == ours.size_bytes
        if is_same and there.get("ChecksumSHA256", "").partition("-")[0] != (base64 or None):
            known = self._known_checksum(url, there) or self._read_checksum(url)
            is_same = known == ours.checksum
        if not is_same:
            raise ObjectConflict(f"The store holds other bytes under {self._key(url)} already.")
        return ours

    # -- looking ------------------------------------------------------------------------

    def _head(self, url: str) -> dict[str, Any] | None:
        try:
            return self._client.head_object(**self._target(url), ChecksumMode="ENABLED")
        except ClientError as error:
            if s3_errors.code_of(error) in s3_errors.MISSING:
                return None
            raise

    def _known_checksum(self, url: str, facts: dict[str, Any]) -> str | None:
        """SHA-256 of the whole, hex, as far as the store knows it without reading."""
        known = facts.get("Metadata", {}).get(METADATA_NAME)
        if known or "-" not in facts.get("ETag", ""):
            return known
        with contextlib.suppress(BotoCoreError, ClientError):
            tags = self._client.get_object_tagging(**self._target(url))["TagSet"]
            return next((tag["Value"] for tag in tags if tag["Key"] == TAG_NAME), None)
        return None

    def _read_checksum(self, url: str) -> str:
        with self.open(url) as stream:
            return copy_and_hash(stream)[0]

    # -- names --------------------------------------------------------------------------

    def _key(self, url: str) -> str:
        """The key within this store; what lies elsewhere is none of its business."""
        start = f"{SCHEME}{self._bucket}/{self._prefix}"
        if not url.startswith(start):
            raise NotInStore(f"{url[:80]} is not in the store {start}.")
        return check_key(url[len(start) :])

    def _target(self, url: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + self._key(url)}

    def _translating(self, what: str) -> contextlib.AbstractContextManager[None]:
        return s3_errors.translating(what, self.where, self._bucket)


def _make_client(settings: S3Settings) -> Any:
    if settings.ca_bundle and not Path(settings.ca_bundle).is_file():
        raise StorageError(f"The CA bundle {settings.ca_bundle} is not there: correct its path.")
    # Leaving the checksums to us: those that boto3 adds by itself are CRCs.
    config = Config(
        signature_version="s3v4",
        # The checksum of a body is signed with the headers: to hash it for its signature, too, as
        # boto3 does without TLS, would add nothing.
        s3={
            "addressing_style": "path" if settings.path_style else "auto",
            "payload_signing_enabled": False,
        },
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=2 * PARALLEL,
        tcp_keepalive=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.session.Session(profile_name=settings.profile or None)
        return session.client(
            "s3",
            endpoint_url=settings.endpoint or None,
            # Servers of one's own mostly have no regions, but every signature names one.
            region_name=settings.region or session.region_name or "us-east-1",
            verify=settings.ca_bundle or None,
            aws_access_key_id=settings.access_key or None,
            aws_secret_access_key=settings.secret_key or None,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        name = type(error).__name__
        what = {
            "ProfileNotFound": f"There is no AWS profile {settings.profile} on this host.",
            "PartialCredentialsError": "The S3 access key or secret key is missing.",
        }.get(name, f"The S3 settings are wrong: the library reported {name}.")
        raise StorageError(what) from None


class _Reader(io.RawIOBase):
    """The bytes of an object; goes on where it was when the connection is lost."""

    def __init__(self, client: Any, target: dict[str, str], translating: Any) -> None:
        super().__init__()
        self._client, self._target, self._translating = client, target, translating
        self._position = 0
        self._condition: dict[str, str] = {}
        self._body: Any = None
        self._get()

    def _get(self) -> None:
        if self._condition:
            self._condition["Range"] = f"bytes={self._position}-"
        reply = self._client.get_object(**self._target, **self._condition)
        self._condition["IfMatch"] = reply["ETag"]
        self._body = reply["Body"]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._translating(f"{self._target['Key']} cannot be read"):
            for attempt in range(ATTEMPTS):
                try:
                    data = self._body.read(len(buffer))
                    break
                except BotoCoreError:
                    if attempt == ATTEMPTS - 1:
                        raise
                    self._get()
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        # None where the first request failed: Python closes what was never open, too.
        if self._body is not None and not self.closed:
            self._body.close()
        return super().close()
