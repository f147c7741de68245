"""Uploads of workers that have no store of their own: the methods behind the JSON-RPC door.

Each call is judged anew: the caller must hold the run under its current epoch. The place in the
store is the kernel's to name; the worker sends only the name of the artifact, and learns where each
part of the file goes. An upload id opens nothing but the place of the run and the name that come
with it. The kernel counts what may have arrived and is not recorded (``sql/83_uploads.sql``), and
the keeper removes it when the run has ended.
"""

import errno
import logging
from contextlib import contextmanager
from urllib.parse import urlencode

from odoo import api, models

from ..worker.storage.base import (
    NotInStore,
    ObjectConflict,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
    check_key,
)
from ..worker.storage.filesystem import SCHEME as FILESYSTEM
from ..worker.storage.filesystem_uploads import FilesystemUploads
from ..worker.storage.parts import MAX_PARTS, part_size_for
from ..worker.storage.uploads import Part, UploadGone
from . import artifact_store
from .ops_run import LOG_KEY
from .ops_run_artifact import CONTENT_TYPE

_logger = logging.getLogger(__name__)

# Parameters of the system, in MiB. The bounds keep a part below what a request may hold.
LIMITS = {
    "artifact_limit_mb": (10_240, 262_144),
    "run_artifacts_limit_mb": (51_200, 52_428_800),
    # What a worker token may have in the store without a record of it.
    "worker_uploads_limit_mb": (102_400, 52_428_800),
}
MIB = 1 << 20
# In place of the id of an upload in parts: the whole file in one request.
AT_ONCE = ""
# The complete log does not count; its worker bounds it.
LOG_LIMIT = 10_240 * MIB
# Its code for programs; the sentence is the error's own, as it names the artifact only.
CODES = {
    UploadGone: "upload_gone",
    ObjectConflict: "conflict",
    ObjectMissing: "upload_gone",
    NotInStore: "invalid_input",
    StoreUnavailable: "store_unavailable",
}
FAILED = "The artifact store of the control plane cannot be used; the server's log says why."
FULL = "The disk of the artifact store is full."


class UploadRefused(Exception):
    """The upload may not be; ``reply`` is what the caller is told."""

    def __init__(self, reply):
        super().__init__(reply["error"])
        self.reply = reply


def _refuse(code, sentence, **facts):
    return UploadRefused({"success": False, "code": code, "error": sentence, **facts})


class OpsArtifactUpload(models.AbstractModel):
    _name = "ops.artifact.upload"
    _description = "Uploads of workers"

    # -- the methods of the door ----------------------------------------------------------

    @api.model
    def _begin_artifact_upload(
        self, run_id, epoch, artifact_key, content_type=None, size_bytes=None, checksum=None
    ):
        """With size and checksum a file that may go in one request, else one in parts."""
        content_type = content_type or "application/octet-stream"
        if not CONTENT_TYPE.match(content_type):
            raise _refuse("invalid_input", "content_type must be a media type like text/plain.")
        key = self._place(run_id, epoch, artifact_key, size_bytes or 0)
        with self._uploads(key) as uploads:
            reply = {"success": True, "present": False, "upload_id": None, "request": None}
            if uploads.is_there(key):
                return {**reply, "present": True}
            if size_bytes is not None and checksum and size_bytes <= self._part_size():
                request = uploads.at_once(key, size_bytes, checksum, content_type)
                if request:
                    self._admit(run_id, artifact_key, key, AT_ONCE, size_bytes, is_new=True)
                    return {**reply, "request": self._as_dict(request, run_id, epoch, artifact_key)}
            upload_id = uploads.begin(key, content_type)
            try:
                self._admit(run_id, artifact_key, key, upload_id, 0, is_new=True)
            except UploadRefused:
                uploads.abort(key, upload_id)
                raise
            return {**reply, "upload_id": upload_id, "part_size": self._part_size()}

    @api.model
    def _sign_artifact_part(
        self, run_id, epoch, artifact_key, upload_id, part_number, size_bytes, checksum
    ):
        end = self._offset(part_number) + size_bytes
        if size_bytes > self._part_size():
            raise _refuse("invalid_input", "size_bytes must not exceed the size of a part.")
        key = self._place(run_id, epoch, artifact_key, end)
        self._admit(run_id, artifact_key, key, upload_id, end)
        with self._uploads(key) as uploads:
            request = uploads.part(key, upload_id, part_number, size_bytes, checksum)
            return {"success": True, "request": self._as_dict(request, run_id, epoch, artifact_key)}

    @api.model
    def _complete_artifact_upload(
        self, run_id, epoch, artifact_key, size_bytes, checksum, upload_id=None, parts=(), tag=""
    ):
        """What is verified here may be recorded under ``artifact_url``."""
        key, is_recorded = self._look_up(run_id, epoch, artifact_key, size_bytes)
        with self._uploads(key) as uploads:
            if upload_id:
                found = [Part(part["part_number"], part["checksum"], part["tag"]) for part in parts]
                stored = uploads.complete(key, upload_id, found, size_bytes, checksum)
                self._end(run_id, artifact_key, upload_id, is_complete=True)
            else:
                stored = uploads.complete_at_once(
                    key, size_bytes, checksum, tag, may_remove=not is_recorded
                )
        return {"success": True, "artifact_url": stored.url}

    @api.model
    def _abort_artifact_upload(self, run_id, epoch, artifact_key, upload_id):
        key = self._place(run_id, epoch, artifact_key, 0)
        with self._uploads(key) as uploads:
            uploads.abort(key, upload_id)
        self._end(run_id, artifact_key, upload_id, is_complete=False)
        return {"success": True}

    @api.model
    def _write_part(self, run_id, epoch, artifact_key, upload_id, part_number, data, checksum):
        """Take the bytes of a part, where the store is a folder of this server."""
        offset = self._offset(part_number)
        if len(data) > self._part_size():
            raise _refuse("too_large", "This is larger than a part.")
        key = self._place(run_id, epoch, artifact_key, offset + len(data))
        with self._uploads(key) as uploads:
            if not isinstance(uploads, FilesystemUploads):
                raise _refuse("upload_gone", "The artifact store is no folder of this server.")
            self._admit(run_id, artifact_key, key, upload_id, offset + len(data))
            uploads.write_part(key, upload_id, offset, data, checksum)

    @api.model
    def _check_record(self, run_id, artifact_key, artifact_url, size_bytes, epoch=None, **_facts):
        """Refuse to record what is not this run's own, or has not arrived as it is described.

        A store that cannot be asked just now, or is the worker's own, leaves that to the keeper.
        """
        if epoch is None:
            raise _refuse("invalid_input", "epoch must be given")
        key = self._place(run_id, epoch, artifact_key, size_bytes)
        if artifact_url != FILESYSTEM + key and not (
            artifact_url.startswith("s3://") and artifact_url.endswith(f"/{key}")
        ):
            raise _refuse("invalid_input", f"artifact_url must name the place {key} of a store.")
        try:
            kind = "filesystem" if artifact_url.startswith(FILESYSTEM) else "s3"
            found = artifact_store.open_store(self.env, kind).stat(artifact_url).size_bytes
        except ObjectMissing:
            found = None
        except StorageError as error:
            if kind == "s3":
                _logger.info("%s was not looked at: %s", artifact_key, error)
                return
            found = None
        if found != size_bytes:
            raise _refuse(
                "invalid_input", f"{artifact_key} is not in the store with {size_bytes} bytes."
            )

    # -- what they share ------------------------------------------------------------------

    def _place(self, run_id, epoch, artifact_key, size):
        """The key in the store; raises unless the caller may put so many bytes there."""
        return self._look_up(run_id, epoch, artifact_key, size)[0]

    def _look_up(self, run_id, epoch, artifact_key, size):
        """As :meth:`_place`, and whether the run has an artifact of that name already."""
        reply = self.env["ops.kernel"]._call_committed(
            "artifact_place", run_id=run_id, epoch=epoch, artifact_key=artifact_key
        )
        if not reply["success"]:
            raise UploadRefused(reply)
        is_log = artifact_key == LOG_KEY
        limit = LOG_LIMIT if is_log else self._limit("artifact_limit_mb")
        if size > limit:
            raise _refuse(
                "too_large", f"Artifact {artifact_key} exceeds {limit // MIB} MiB.", limit=limit
            )
        limit = self._limit("run_artifacts_limit_mb")
        if not is_log and reply["recorded_bytes"] + size > limit:
            raise _refuse(
                "too_large",
                f"With {artifact_key} the artifacts of the run exceed {limit // MIB} MiB.",
                limit=limit,
            )
        try:
            return check_key(reply["key"]), reply["recorded"]
        except NotInStore as error:
            raise _refuse("invalid_input", str(error)) from error

    def _admit(self, run_id, artifact_key, key, upload_id, size_bytes, is_new=False):
        """Count so many bytes of an upload before they may come; refused when they are too many."""
        is_log = artifact_key == LOG_KEY
        run_limit = LOG_LIMIT if is_log else self._limit("run_artifacts_limit_mb")
        reply = self.env["ops.kernel"]._call_committed(
            "admit_upload",
            run_id=run_id,
            artifact_key=artifact_key,
            upload_id=upload_id,
            is_new=is_new,
            place=key,
            store=artifact_store.kind_of_uploads(self.env),
            size_bytes=size_bytes,
            run_limit=run_limit,
            token_limit=self._limit("worker_uploads_limit_mb"),
        )
        if not reply["success"]:
            raise UploadRefused(reply)

    def _end(self, run_id, artifact_key, upload_id, is_complete):
        self.env["ops.kernel"]._call_committed(
            "end_upload",
            run_id=run_id,
            artifact_key=artifact_key,
            upload_id=upload_id,
            is_complete=is_complete,
        )

    def _limit(self, name):
        """In bytes; a parameter that is no number, or out of range, does not count."""
        default, highest = LIMITS[name]
        given = self.env["ir.config_parameter"].sudo().get_param(f"odooops.{name}") or ""
        value = int(given) if given.isdecimal() and len(given) < 10 else default
        return min(max(value, 1), highest) * MIB

    def _part_size(self):
        """The same for every file, so that the place of a part follows from its number."""
        return part_size_for(self._limit("artifact_limit_mb"))

    def _offset(self, part_number):
        if not 1 <= part_number <= MAX_PARTS:
            raise _refuse("invalid_input", f"part_number must lie between 1 and {MAX_PARTS}")
        return (part_number - 1) * self._part_size()

    @staticmethod
    def _as_dict(request, run_id, epoch, artifact_key):
        """What the worker has to send; a path of this server names what is judged again there."""
        names = {"run_id": run_id, "epoch": epoch, "artifact_key": artifact_key}
        query = f"?{urlencode(names)}" if request.url.startswith("/") else ""
        return {"url": request.url + query, "headers": dict(request.headers)}

    @contextmanager
    def _uploads(self, key):
        """The way into the store; what it raises becomes a refusal."""
        try:
            yield artifact_store.open_uploads(self.env)
        except StorageError as error:
            code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), None)
            if code:
                raise _refuse(code, str(error)) from error
            _logger.warning("upload of %s: %s", key, error)
            full = getattr(error.__cause__, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            raise _refuse("store_failed", FULL if full else FAILED) from error
