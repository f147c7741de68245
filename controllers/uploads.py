"""Parts of artifacts that come to Odoo itself: ``PUT /ops/artifacts/uploads/<id>/<part>``.

For workers, where the artifact store is a folder of this server; where it is S3 the parts go there
and not here. A request holds one part, so it is bounded and can be repeated.
"""

from odoo import http
from odoo.http import request

from ..models.ops_artifact_upload import UploadRefused
from ..worker.storage.filesystem_uploads import CHECKSUM_HEADER, PATH
from .authentication import TOKEN_REFUSED, authenticate_worker
from .dispatcher import make_refusal
from .methods import UPLOADS
from .parameters import check_parameters
from .protocol import RpcError
from .workers import check_own

# Above the largest part that any setting leads to.
MAX_PART_BYTES = 64 * 1024 * 1024
PARAMETERS = UPLOADS["sign_artifact_part"]


class OpsUploads(http.Controller):
    @http.route(
        f"{PATH}/<string:upload_id>/<int:part_number>",
        type="ops_rpc",
        auth="none",
        methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        readonly=False,
        save_session=False,
        max_content_length=MAX_PART_BYTES,
    )
    def upload(self, upload_id, part_number):
        """Take the bytes of a part, for the worker that was told to send them here.

        ``run_id``, ``epoch`` and ``artifact_key`` stand in the query, the SHA-256 in
        ``X-Checksum-SHA256``. Answers 204, or a JSON object with ``code`` and ``error``.
        """
        try:
            if request.httprequest.method != "PUT":
                raise RpcError("method_not_allowed", "This address takes PUT only.")
            _take(upload_id, part_number)
        except RpcError as error:
            return make_refusal(error, [("Allow", "PUT")])
        except UploadRefused as refusal:
            reply = refusal.reply
            return make_refusal(RpcError(reply["code"], reply["error"]), status=422)
        return http.Response(status=204, headers=[("Cache-Control", "no-store")])


def _take(upload_id, part_number):
    token = authenticate_worker()
    if token.kind != "worker":
        raise RpcError("unauthorized", TOKEN_REFUSED)
    asked = request.httprequest
    # Not before the token: nobody else is listened to for so long.
    data = asked.get_data()
    given = {
        "run_id": _number(asked.args.get("run_id")),
        "epoch": _number(asked.args.get("epoch")),
        "artifact_key": asked.args.get("artifact_key"),
        "upload_id": upload_id,
        "part_number": part_number,
        "size_bytes": len(data),
        "checksum": asked.headers.get(CHECKSUM_HEADER),
    }
    arguments = check_parameters(PARAMETERS, given)
    check_own(token, "sign_artifact_part", arguments)
    del arguments["size_bytes"]
    request.env["ops.artifact.upload"]._write_part(data=data, **arguments)


def _number(text):
    return int(text) if text and text.isdecimal() and len(text) < 11 else None
