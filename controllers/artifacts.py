"""Downloads of artifacts: ``GET /ops/artifacts/<id>``, for browsers and for API keys.

The bytes go from the store to the client in parts. Nothing is written here: a file that is
gone is answered, and its record is left to the one who removed it.
"""

import re
from urllib.parse import quote

from odoo import http
from odoo.exceptions import AccessError, MissingError
from odoo.http import request

from .authentication import authenticate, has_bearer
from .dispatcher import HEADERS
from .parameters import INT4_MAX
from .protocol import RpcError, serialise

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
        if request.httprequest.method not in ("GET", "HEAD"):
            error = RpcError("method_not_allowed", "This address takes GET only.")
            return _refuse(error, [("Allow", "GET, HEAD")])
        try:
            if has_bearer():
                authenticate()
            elif request.env.user._is_public():
                return _ask_to_log_in()
            return _download(artifact_id)
        except RpcError as error:
            return _refuse(error)


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


def _ask_to_log_in():
    """A browser goes to the login page and comes back; a program is told that a key is missing."""
    if "text/html" not in request.httprequest.headers.get("Accept", ""):
        raise RpcError("unauthorized", "A valid API key with the scope odooops is needed.")
    return request.redirect(f"/web/login?redirect={quote(request.httprequest.path)}")


def _refuse(error, headers=None):
    return http.Response(
        serialise({"success": False, "code": error.code, "error": error.message}),
        status=error.http_status,
        headers=[
            ("Content-Type", "application/json; charset=utf-8"),
            *(headers or HEADERS.get(error.code, ())),
        ],
    )
