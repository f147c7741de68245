"""The artifact store of the control plane, for a worker without one of its own.

The control plane says where each part goes: to S3 by presigned addresses, or to itself. It names
the place in the store by the run, and lets only the holder of the run put anything there; the
worker has no credentials of the store, and cannot read it.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import random
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, BinaryIO, NoReturn

from ..control.base import ControlPlaneError, ControlPlaneUnavailable, Refused
from .base import (
    CHUNK,
    ArtifactStore,
    NotInStore,
    ObjectConflict,
    ObjectInfo,
    StorageError,
    StoredObject,
    StoreUnavailable,
    check_key,
)
from .parts import (
    ATTEMPTS,
    MAX_PARTS,
    PART_SIZE,
    Joined,
    parallel_for,
    read_part,
    thread_pool,
)

#: What a store answers to a file that is there already; what it holds is compared then.
_TAKEN = frozenset({409, 412})
#: A server that does not know ``If-None-Match``: such a file goes up in parts.
_UNKNOWN = 501
#: Worth another attempt: overload, an address that has run out, bytes altered on their way.
_AGAIN = frozenset({400, 403, 408, 429, 500, 502, 503, 504})
_REFUSALS: Mapping[str, type[StorageError]] = {
    "conflict": ObjectConflict,
    "store_unavailable": StoreUnavailable,
    # Begun anew it may be complete.
    "upload_gone": StoreUnavailable,
    "busy": StoreUnavailable,
}


class RemoteStore(ArtifactStore):
    """``control`` is a ``control.rpc.RpcControlPlane``. Nothing can be stored but for a run."""

    def __init__(self, control: Any) -> None:
        self._control = control

    def of_run(self, run_id: int, epoch: int) -> ArtifactStore:
        return RunStore(self._control, run_id, epoch)

    def put(self, key: str, source: BinaryIO, content_type: str | None = None) -> StoredObject:
        raise NotInStore("The control plane stores files of runs only.")

    def check(self) -> None:
        """Nothing to try: only a run may put something there."""

    def open(self, url: str) -> BinaryIO:
        self._cannot()

    def stat(self, url: str) -> ObjectInfo:
        self._cannot()

    def delete(self, url: str) -> None:
        self._cannot()

    def list(self) -> Iterator[ObjectInfo]:
        self._cannot()

    def abort_uploads(self, before: datetime) -> int:
        return 0

    def presign(
        self, url: str, name: str, content_type: str, inline: bool, seconds: int
    ) -> str | None:
        return None

    def url_of(self, key: str) -> str:
        self._cannot()

    @staticmethod
    def _cannot() -> NoReturn:
        raise StorageError("A worker without access to the store can only put files there.")


class RunStore(RemoteStore):
    """The store for the holder of one run; keys begin with the project's slug and the run's id."""

    def __init__(self, control: Any, run_id: int, epoch: int) -> None:
        super().__init__(control)
        self._held = {"run_id": run_id, "epoch": epoch}

    def put(self, key: str, source: BinaryIO, content_type: str | None = None) -> StoredObject:
        upload = _Upload(self._control, self._held, self._artifact_key(key))
        first = read_part(source, PART_SIZE)
        following = source.read(1) if len(first) == PART_SIZE else b""
        return upload.run(
            first,
            Joined(following, source) if following else None,
            content_type or "application/octet-stream",
        )

    def _artifact_key(self, key: str) -> str:
        """The part of the key that names the artifact; the control plane knows the rest."""
        slug, _, rest = check_key(key).partition("/")
        run, _, name = rest.partition("/")
        if not slug or run != str(self._held["run_id"]) or not name:
            raise NotInStore(f"{key[:80]} does not belong to run {self._held['run_id']}.")
        return name


class _Upload:
    """One file on its way."""

    def __init__(self, control: Any, held: Mapping[str, int], artifact_key: str) -> None:
        self._control = control
        self._names = {**held, "artifact_key": artifact_key}
        self._digest = hashlib.sha256()
        self._size = 0

    def run(self, first: bytes, rest: BinaryIO | None, content_type: str) -> StoredObject:
        """``rest`` is what follows ``first``, None when that is all."""
        facts: dict[str, Any] = {"content_type": content_type}
        if rest is None:
            self._take(first)
            facts.update(self._facts())
        begun = self._call("begin_artifact_upload", **facts)
        if begun["present"]:
            return self._compare(rest, first)
        if begun["request"]:
            tag = self._send(lambda: begun["request"], first)
            if tag is not None:
                return self._complete(tag=tag)
            begun = self._call("begin_artifact_upload", content_type=content_type)
        if rest is None:
            self._digest, self._size = hashlib.sha256(), 0
        return self._in_parts(begun["upload_id"], begun["part_size"], first, rest)

    def _compare(self, rest: BinaryIO | None, first: bytes) -> StoredObject:
        """Nothing goes up where something is already; that may be the same."""
        if rest is not None:
            self._take(first)
            while chunk := rest.read(CHUNK):
                self._take(chunk)
        return self._complete()

    def _in_parts(
        self, upload_id: str, part_size: int, first: bytes, rest: BinaryIO | None
    ) -> StoredObject:
        try:
            parts = self._send_parts(upload_id, part_size, first, rest)
        except BaseException:
            self._abort(upload_id)
            raise
        return self._complete(upload_id=upload_id, parts=parts)

    def _send_parts(
        self, upload_id: str, part_size: int, first: bytes, rest: BinaryIO | None
    ) -> list[dict[str, Any]]:
        parallel, done = parallel_for(part_size), []
        with thread_pool(parallel) as pool:
            waiting: list[concurrent.futures.Future] = []
            for number, data in enumerate(self._chunks(part_size, first, rest), 1):
                if number > MAX_PARTS:
                    raise StorageError(f"The file is larger than {MAX_PARTS} parts.")
                waiting.append(pool.submit(self._send_part, upload_id, number, data))
                del data
                if len(waiting) >= parallel:
                    done.append(waiting.pop(0).result())
            done += [future.result() for future in waiting]
        return done

    def _chunks(self, part_size: int, first: bytes, rest: BinaryIO | None) -> Iterator[bytes]:
        source = rest and Joined(first, rest)
        data = read_part(source, part_size) if source else first
        while data:
            self._take(data)
            yield data
            # Not to be kept beside the next one.
            data = b""
            data = read_part(source, part_size) if source else b""

    def _send_part(self, upload_id: str, number: int, data: bytes) -> dict[str, Any]:
        checksum = hashlib.sha256(data).hexdigest()

        def sign() -> Mapping[str, Any]:
            return self._call(
                "sign_artifact_part",
                upload_id=upload_id,
                part_number=number,
                size_bytes=len(data),
                checksum=checksum,
            )["request"]

        tag = self._send(sign, data)
        return {"part_number": number, "checksum": checksum, "tag": tag or ""}

    def _send(self, sign: Any, data: bytes) -> str | None:
        """Send bytes where ``sign`` says; the tag of what is there then.

        Empty when something was there already, None when the server cannot take it in this way.
        """
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(min(0.2 * 2**attempt, 5.0) * random.uniform(0.8, 1.2))
            request = sign()
            try:
                status, tag, said = self._control.put(request["url"], request["headers"], data)
            except ControlPlaneUnavailable as error:
                problem = str(error)
                continue
            if status < 300:
                return tag
            if status in _TAKEN:
                return ""
            if status == _UNKNOWN:
                return None
            problem = f"The artifact store answered HTTP {status}{said}."
            if status not in _AGAIN:
                raise StorageError(problem)
        raise StoreUnavailable(problem)

    def _complete(self, **more: Any) -> StoredObject:
        reply = self._call("complete_artifact_upload", **self._facts(), **more)
        return StoredObject(reply["artifact_url"], self._size, self._digest.hexdigest())

    def _abort(self, upload_id: str) -> None:
        try:
            self._call("abort_artifact_upload", upload_id=upload_id)
        except StorageError:
            # The control plane removes it by itself when it is old.
            return

    def _take(self, data: bytes) -> None:
        self._digest.update(data)
        self._size += len(data)

    def _facts(self) -> dict[str, Any]:
        return {"size_bytes": self._size, "checksum": self._digest.hexdigest()}

    def _call(self, function: str, **parameters: Any) -> Mapping[str, Any]:
        try:
            reply = self._control.artifact_call(function, **self._names, **parameters)
        except ControlPlaneUnavailable as error:
            raise StoreUnavailable(str(error)) from error
        except ControlPlaneError as error:
            raise StorageError(str(error)) from error
        if isinstance(reply, Refused):
            raise _REFUSALS.get(reply.code, StorageError)(reply.error)
        return reply
