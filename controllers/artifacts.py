"""Downloads of artifacts: ``GET /ops/artifacts/<id>``, for browsers and for API keys.

The bytes of the file store go to the client in parts; for those in S3 the answer is a redirect
to an address that is good for a minute. Whether they are there is looked at first: the record of
a file that is gone says so from then on.
"""

import logging

from odoo import http
from odoo.exceptions import AccessError
from odoo.http import request

from ..models.ops_run_artifact import PRESIGNED_SECONDS
from ..worker.storage.base import (
    NotInStore,
    ObjectMissing,
    StorageError,
    StoreUnavailable,
    content_disposition,
)
from .dispatcher import answer_get, get_route
from .parameters import INT4_MAX
from .protocol import RpcError

_logger = logging.getLogger(__name__)

FORBIDDEN = "There is no such artifact, or your role does not allow that."


class OpsArtifacts(http.Controller):
    @get_route("/ops/artifacts/<int:artifact_id>")
    def download(self, artifact_id, inline=None, **_query):
        """The bytes, or a redirect to them, with ``X-Checksum-SHA256``; answers to Range, too.

        ``inline=1`` lets a browser show what cannot hold a script.
        """
        return answer_get(lambda: _download(artifact_id, inline == "1"))


def _download(artifact_id, inline):
    artifact = _find(artifact_id)
    if artifact.status == "expired":
        raise RpcError("not_found", f"{artifact.artifact_key} has expired and was removed.")
    try:
        store = artifact._look()
        inline = inline and artifact._may_be_shown()
        name, content_type = artifact._download_name(), artifact._download_type()
        url = store.presign(artifact.artifact_url, name, content_type, inline, PRESIGNED_SECONDS)
        if url:
            response = request.redirect(url, code=302, local=False)
            response.headers["Cache-Control"] = "no-store"
        else:
            path = store.path_of(artifact.artifact_url)
            response = _send(artifact, path, content_disposition(name, inline))
    except ObjectMissing as error:
        raise RpcError(
            "not_found", f"{artifact.artifact_key} is not in the artifact store any more."
        ) from error
    except StoreUnavailable as error:
        raise RpcError("busy", "The artifact store cannot be reached just now.") from error
    except NotInStore as error:  # Which place that is is nobody's business.
        raise RpcError("forbidden", FORBIDDEN) from error
    except StorageError as error:
        _logger.warning("artifact %s: %s", artifact.id, error)
        raise RpcError(
            "not_found", "The artifact lies in a store that this server cannot read."
        ) from error
    response.headers["X-Checksum-SHA256"] = artifact.checksum
    return response


def _send(artifact, path, disposition):
    stat = path.stat()
    # Not Stream.from_path, which serves files of addons only.
    stream = http.Stream(
        type="path",
        path=str(path),
        mimetype=artifact._download_type(),
        etag=artifact.checksum,
        last_modified=stat.st_mtime,
        size=stat.st_size,
    )
    response = stream.get_response(as_attachment=True)
    response.headers["Content-Disposition"] = disposition
    return response


def _find(artifact_id):
    """The artifact; what is not there and what is not allowed is refused alike."""
    artifacts = request.env["ops.run.artifact"].with_context(active_test=False)
    try:
        artifact = artifacts.search([("id", "=", min(artifact_id, INT4_MAX))])
        if not artifact:
            raise RpcError("forbidden", FORBIDDEN)
        artifact._check_may_download()
    except AccessError as error:
        raise RpcError("forbidden", FORBIDDEN) from error
    return artifact
