"""Downloads of artifacts: ``GET /ops/artifacts/<id>``, for browsers and for API keys.

The bytes go from the store to the client in parts. Nothing is written here: a file that is
gone is answered, and its record is left to the one who removed it.
"""

import re

from odoo import http
from odoo.exceptions import AccessError, MissingError
from odoo.http import request

from .dispatcher import answer_get
from .parameters import INT4_MAX
from .protocol import RpcError

CONTENT_TYPE = re.compile(r"^[\w.+-]+/[\w.+-]+(; *[\w-]+=[\w.+-]+)*$", re.ASCII)
FORBIDDEN = "There is no such artifact, or your role does not allow that."


class OpsArtifacts(http.Controller):
    @http.route(
        "/ops/artifacts/<int:artifact_id>",
        type="http",
        auth="public",
        methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        csrf=False,
        readonly=True,
        save_session=False,
    )
    def download(self, artifact_id, **_query):
        """The bytes, with ``X-Checksum-SHA256`` and a strong ETag; answers to Range, too."""
        return answer_get(lambda: _download(artifact_id))


def _download(artifact_id):
    artifact = _find(artifact_id)
    if artifact.store != "filesystem":
        raise RpcError("not_found", "The artifact lies in a store that this server cannot read.")
    if artifact.status == "expired":
        raise RpcError("not_found", f"{artifact.artifact_key} has expired and was removed.")
    try:
        path = artifact._filesystem_path()
    except MissingError as error:
        raise RpcError(
            "not_found", f"{artifact.artifact_key} is not in the artifact store any more."
        ) from error
    except AccessError as error:  # A place outside the store; which one is nobody's business.
        raise RpcError("forbidden", FORBIDDEN) from error
    stat = path.stat()
    # Not Stream.from_path, which serves files of addons only.
    stream = http.Stream(
        type="path",
        path=str(path),
        mimetype=_content_type(artifact),
        download_name=artifact.artifact_key.rpartition("/")[2],
        etag=artifact.checksum,
        last_modified=stat.st_mtime,
        size=stat.st_size,
    )
    response = stream.get_response(as_attachment=True)
    response.headers["X-Checksum-SHA256"] = artifact.checksum
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


def _content_type(artifact):
    """As the worker recorded it, when it is one."""
    given = artifact.content_type or ""
    return given if CONTENT_TYPE.match(given) else "application/octet-stream"
