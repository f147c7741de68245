"""The JSON-RPC door: ``POST /ops/jsonrpc``, see docs/jsonrpc.md.

Authenticates, checks the parameters, calls, serialises. What may be done and seen is decided
by the models; what the methods are and take stands in ``methods.py``.
"""

import logging

from psycopg2 import DataError

from odoo import http
from odoo.exceptions import AccessError, MissingError, UserError
from odoo.http import request

from ..models.ops_kernel import KernelRefusal
from . import protocol
from .authentication import authenticate, authenticate_worker
from .dispatcher import RETRIED, internal_error, make_error_response, make_response
from .methods import PEOPLE, TOKENS, UPLOADS, WORKERS
from .parameters import check_parameters
from .protocol import RpcError
from .workers import execute_for_worker

_logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 * 1024 * 1024
# One sentence for "does not exist" and "not yours": the difference must not be seen.
FORBIDDEN = "There is no such record, or your role does not allow that."


class OpsJsonRpc(http.Controller):
    # Every HTTP method is routed here so that the wrong ones get JSON, too.
    @http.route(
        "/ops/jsonrpc",
        type="ops_rpc",
        auth="none",
        methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
        readonly=False,  # Odoo's default without authentication is a read-only transaction.
        save_session=False,
        max_content_length=MAX_BODY_BYTES,
    )
    def jsonrpc(self):
        if request.httprequest.method != "POST":
            raise RpcError("method_not_allowed", "This address takes POST only.")
        token = authenticate_worker()
        if not token:
            authenticate()
        request.ops_worker_token = token
        document = protocol.parse(request.httprequest.get_data())
        request.update_context(
            active_test=False, ops_base_url=request.httprequest.host_url.rstrip("/")
        )
        if isinstance(document, list):
            return self._answer_batch(document)
        return self._answer_single(document)

    def _answer_single(self, item):
        answer, error = _answer(item, request.httprequest.headers.get("Idempotency-Key"))
        if answer is None:
            return http.Response(status=204)
        if error:
            return make_error_response(answer, error)
        return make_response(answer)

    def _answer_batch(self, items):
        _check_batch(items)
        answers = [answer for answer, _error in map(_answer, items) if answer is not None]
        return make_response(answers) if answers else http.Response(status=204)


def _check_batch(items):
    if not 1 <= len(items) <= protocol.MAX_BATCH:
        raise RpcError("invalid_request", f"A batch holds 1 to {protocol.MAX_BATCH} requests.")
    if "Idempotency-Key" in request.httprequest.headers:
        raise RpcError(
            "invalid_request",
            "The header Idempotency-Key goes with a single request; in a batch use the parameter.",
        )
    methods = {
        item.get("method")
        for item in items
        if isinstance(item, dict) and isinstance(item.get("method"), str)
    }
    # A lock taken in the request's transaction would block the worker's method, which runs in
    # another one, for ever; and Odoo may repeat the former but must not repeat the latter.
    of_workers = WORKERS.keys() | UPLOADS.keys()
    if methods & of_workers and methods & (PEOPLE.keys() | TOKENS.keys()):
        raise RpcError(
            "invalid_request", "A batch must not mix the methods of workers with the others."
        )


def _answer(item, idempotency_key=None):
    """Execute one request of a document.

    :return: its answer, None for a notification; and the error in it, if any
    """
    try:
        call = protocol.read_call(item)
    except RpcError as error:
        return protocol.error_response(None, error), error
    error = None
    try:
        result = _execute(call, idempotency_key)
    except RpcError as problem:
        error = problem
    if call.is_notification:
        return None, error
    if error:
        return protocol.error_response(call.identity, error), error
    return protocol.result_response(call.identity, result), None


def _execute(call, idempotency_key):
    token = request.ops_worker_token
    if call.method not in PEOPLE.keys() | WORKERS.keys() | UPLOADS.keys() | TOKENS.keys():
        raise RpcError("unknown_method", f"There is no method {call.method[:80]!r}.")
    try:
        if call.method in PEOPLE:
            if token:
                raise RpcError("forbidden", "A worker token opens the methods of workers only.")
            arguments = check_parameters(PEOPLE[call.method], _with_key(call, idempotency_key))
            with request.env.cr.savepoint():
                return getattr(request.env["ops.api"], f"_{call.method}")(**arguments)
        # Before the parameters: who may not call it need not learn what it takes.
        if not token and not request.env.user.has_group("odooops.group_platform_admin"):
            raise RpcError("forbidden", FORBIDDEN)
        reply = execute_for_worker(token, call.method, call.params)
        if not reply["success"]:
            raise _refused(reply)
        return reply
    except (RpcError, *RETRIED):
        raise
    except KernelRefusal as refusal:
        raise _refused(refusal.reply) from refusal
    except (AccessError, MissingError) as error:
        raise RpcError("forbidden", FORBIDDEN) from error
    except UserError as error:
        raise RpcError("refused", str(error)) from error
    except DataError as error:
        _logger.warning("PostgreSQL refused a value of %s", call.method, exc_info=True)
        raise RpcError("invalid_input", "PostgreSQL cannot store one of the values.") from error
    except Exception as error:  # noqa: BLE001 - logged with its traceback
        raise internal_error(f"method {call.method}") from error


def _with_key(call, idempotency_key):
    """The parameters, with the header ``Idempotency-Key`` in the place of the parameter."""
    if idempotency_key is None or call.method != "queue_run" or not isinstance(call.params, dict):
        return call.params
    if call.params.get("idempotency_key", idempotency_key) != idempotency_key:
        raise RpcError(
            "invalid_input",
            "idempotency_key differs from the header Idempotency-Key.",
            field="idempotency_key",
        )
    return {**call.params, "idempotency_key": idempotency_key}


def _refused(reply):
    facts = {
        name: value for name, value in reply.items() if name not in ("success", "code", "error")
    }
    return RpcError(reply["code"], reply["error"], **facts)
