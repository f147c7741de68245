"""What workers call at the JSON-RPC door: each call is committed before it is answered."""

from contextlib import suppress

from odoo.http import request

from ..models.ops_artifact_upload import UploadRefused
from .dispatcher import BUSY, RETRIED
from .methods import MASKED, ROWS, TOKENS, UPLOADS, WORKERS
from .parameters import check_parameters
from .protocol import RpcError

# So often a worker's method is tried when PostgreSQL asks to repeat its transaction.
MAX_TRIES = 3


def execute_for_worker(token, method, params):
    """Call a function of the kernel, or a method of the token.

    :param token: the request's worker token, empty for a platform administrator's key
    :return: the reply, refusals included
    :raise RpcError: when the parameters are wrong or the token may not do that
    """
    if method in TOKENS:
        return _execute_for_token(token, method, params)
    if token.kind == "registration":
        raise RpcError(
            "forbidden", "A registration token is exchanged for a worker token and opens no more."
        )
    arguments = check_parameters({**WORKERS, **UPLOADS}[method], params)
    if token:
        check_own(token, method, arguments)
    try:
        return _execute(token, method, arguments)
    except UploadRefused as refusal:
        return refusal.reply


def _execute(token, method, arguments):
    uploads = request.env["ops.artifact.upload"].sudo()
    if method in UPLOADS:
        return getattr(uploads, f"_{method}")(**arguments)
    if token and method == "add_run_artifact":
        uploads._check_record(**arguments)
    if method in ROWS:
        rows = request.env["ops.kernel"]._rows_committed(method, **arguments)
        return {"success": True, ROWS[method]: rows}
    if method in MASKED:
        arguments = request.env["ops.secret"].sudo()._mask(arguments["run_id"], arguments)
    reply = _call_kernel(method, arguments)
    if token and method == "run_secrets" and reply["success"]:
        # A person's key, an administrator's too, gets no value: nobody reads a secret back.
        return request.env["ops.secret"].sudo()._open_for_worker(reply)
    return reply


def _call_kernel(method, arguments):
    kernel = request.env["ops.kernel"]
    for _retry in range(MAX_TRIES - 1):
        with suppress(*RETRIED):
            return kernel._call_committed(method, **arguments)
    try:
        return kernel._call_committed(method, **arguments)
    except RETRIED as error:
        # Not for Odoo to retry: the calls before it in the batch are committed.
        raise RpcError("busy", BUSY) from error


def _execute_for_token(token, method, params):
    name, kind, parameters = TOKENS[method]
    if token.kind != kind:
        raise RpcError("forbidden", f"This takes a {kind} token.")
    arguments = check_parameters(parameters, params)
    return getattr(token, name)(**arguments)


def check_own(token, method, arguments):
    """A worker token acts for the workers that registered with it, not for others."""
    if method == "register_worker":
        # The kernel refuses an identity that came with another token.
        arguments["token_id"] = token.id
    elif not token._may_act(arguments.get("worker_id"), arguments.get("run_id")):
        raise RpcError("not_found", "No worker has registered under this id with this token.")
