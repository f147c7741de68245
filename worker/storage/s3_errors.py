"""What went wrong with an S3 server, as a sentence that says what to do.

Messages of the library and the server are not passed on: they may name keys of the account.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from botocore import exceptions as boto

from .base import ObjectMissing, StorageError, StoreUnavailable

#: Error codes of S3, and those that a HEAD has in place of them.
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
TAKEN = frozenset({"412", "PreconditionFailed", "ConditionalRequestConflict"})
_REFUSED = {
    "InvalidAccessKeyId": "does not know the access key: correct the credentials",
    "SignatureDoesNotMatch": "does not accept the secret key: correct the credentials",
    "ExpiredToken": "says that the credentials have expired: renew them",
    "InvalidToken": "does not accept the session token: renew the credentials",
    "RequestTimeTooSkewed": "says that the clock of this host is wrong: correct it",
    "EntityTooLarge": "does not take files of that size",
    "QuotaExceeded": "is full: free space in the bucket",
    "AuthorizationHeaderMalformed": "belongs to another region: correct the region",
    "PermanentRedirect": "has the bucket in another region: correct region and endpoint",
    "301": "has the bucket in another region: correct region and endpoint",
}
_DENIED = frozenset({"403", "AccessDenied", "AllAccessDisabled", "AccountProblem"})
#: The network altered the bytes on their way; the next time it may not.
_DAMAGED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"})
_BUSY = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "503"}
    | {"500", "502", "504", "RequestTimeTooSlow", "BandwidthLimitExceeded"}
)
_RIGHTS = (
    "GetObject, PutObject, DeleteObject, AbortMultipartUpload, ListBucket"
    " and ListBucketMultipartUploads"
)
_NO_CREDENTIALS = (
    "There are no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the"
    " environment of this process, or name a profile of its AWS configuration."
)
_AWAY = (
    boto.ConnectionError,
    boto.ConnectionClosedError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
)


def code_of(error: boto.ClientError) -> str:
    """S3's word for the error, or the HTTP status where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def translated(error: Exception, what: str, where: str, bucket: str) -> StorageError:
    """The error of the library as one of ours; ``what`` failed, at the endpoint ``where``."""
    if isinstance(error, boto.ClientError):
        return _of_answer(error, what, where, bucket)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return StorageError(_NO_CREDENTIALS)
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError):
        return StorageError("The S3 credentials could not be fetched from where they are kept.")
    if isinstance(error, boto.SSLError):
        return StorageError(
            f"The certificate of {where} is not trusted: name the file of its CA (CA bundle),"
            " or correct the endpoint."
        )
    if isinstance(error, boto.ConnectTimeoutError | boto.EndpointConnectionError):
        return StoreUnavailable(
            f"{what}: {where} cannot be reached. Is the endpoint right and the server up?"
        )
    if isinstance(error, _AWAY):
        return StoreUnavailable(f"{what}: the connection to {where} was lost.")
    return StorageError(f"{what}: the S3 library reported {type(error).__name__}.")


def _of_answer(error: boto.ClientError, what: str, where: str, bucket: str) -> StorageError:
    code = code_of(error)
    if code == "NoSuchBucket":
        return StorageError(f"{where} has no bucket {bucket}: create it, or correct its name.")
    if code in MISSING:
        return ObjectMissing(f"{what}: it is not in bucket {bucket}.")
    if code in _DENIED:
        return StorageError(
            f"{where} forbids that in bucket {bucket}: the credentials need {_RIGHTS}."
        )
    if code in _DAMAGED:
        return StoreUnavailable(f"{what}: {where} received other bytes than were sent.")
    if code in _REFUSED:
        return StorageError(f"{what}: {where} {_REFUSED[code]}.")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _BUSY or status >= 500:
        return StoreUnavailable(f"{what}: {where} is overloaded or failing ({code}).")
    return StorageError(f"{what}: {where} answered {code or status}.")


@contextlib.contextmanager
def translating(what: str, where: str, bucket: str) -> Iterator[None]:
    """Turn errors of the library into ours; whatever else is raised passes."""
    try:
        yield
    except (boto.BotoCoreError, boto.ClientError) as error:
        raise translated(error, what, where, bucket) from None
