"""How the doors answer, what goes wrong above all: the request type of the JSON-RPC door, and the
answer to a plain GET.

Odoo's own types answer some errors with HTML and others with a traceback.
"""

import logging
import uuid
from urllib.parse import quote

from psycopg2 import errors as pg_errors
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from odoo import http
from odoo.exceptions import AccessDenied, ConcurrencyError
from odoo.http import request

from .authentication import UNAUTHORIZED, authenticate, has_bearer
from .protocol import RpcError, error_response, serialise

_logger = logging.getLogger(__name__)

# What odoo.service.model.retrying repeats a request for.
RETRIED = (
    pg_errors.LockNotAvailable,
    pg_errors.SerializationFailure,
    pg_errors.DeadlockDetected,
    ConcurrencyError,
)
HEADERS = {
    "unauthorized": [("WWW-Authenticate", 'Bearer realm="OdooOps"')],
    "method_not_allowed": [("Allow", "POST")],
    "busy": [("Retry-After", "1")],
}
BUSY = "The database is busy; try again."


def internal_error(what):
    """Log the exception that is being handled; the caller learns only where to find it.

    :param str what: what was going on, for the log
    :return: RpcError with the ``incident``
    """
    incident = uuid.uuid4().hex
    _logger.exception("incident %s in %s", incident, what)
    return RpcError(
        "internal_error",
        f"Internal error. The server's log has it as incident {incident}.",
        incident=incident,
    )


def make_response(document, status=200, headers=()):
    return http.Response(
        serialise(document),
        status=status,
        headers=[
            ("Content-Type", "application/json; charset=utf-8"),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )


def make_error_response(document, error, headers=None):
    """The document that tells of the error, with the status and the headers that belong to it."""
    if headers is None:
        headers = HEADERS.get(error.code, ())
    return make_response(document, error.http_status, headers)


def get_route(path):
    """The route of a plain GET that :func:`answer_get` answers. All other HTTP methods come to it
    as well: Odoo's own refusal of them would be HTML."""
    return http.route(
        path,
        type="http",
        auth="public",
        methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        csrf=False,
        save_session=False,
    )


def answer_get(answer):
    """Answer a GET outside JSON-RPC, of whoever brings a key or is logged in.

    A browser without either goes to the login page and comes back; a program is told that a key is
    missing.

    :param answer: makes the response; an RpcError that it raises becomes JSON
    """
    asked = request.httprequest
    if asked.method not in ("GET", "HEAD"):
        error = RpcError("method_not_allowed", "This address takes GET only.")
        return make_refusal(error, [("Allow", "GET, HEAD")])
    try:
        if has_bearer():
            authenticate()
        elif request.env.user._is_public():
            if "text/html" not in asked.headers.get("Accept", ""):
                raise RpcError("unauthorized", UNAUTHORIZED)
            return request.redirect(f"/web/login?redirect={quote(asked.full_path.rstrip('?'))}")
        return answer()
    except RpcError as error:
        return make_refusal(error)


def make_refusal(error, headers=None, status=None):
    """An RpcError as an answer outside JSON-RPC."""
    document = {"success": False, "code": error.code, "error": error.message}
    if status:
        return make_response(document, status)
    return make_error_response(document, error, headers)


class OpsRpcDispatcher(http.Dispatcher):
    routing_type = "ops_rpc"
    mimetypes = ("application/json",)

    @classmethod
    def is_compatible_with(cls, request):
        """Any Content-Type: the body is JSON whatever a client such as curl calls it."""
        return True

    def dispatch(self, endpoint, args):
        self.request.params = args
        return self.request.registry["ir.http"]._dispatch(endpoint)

    def handle_error(self, exc):
        if isinstance(exc, RpcError):
            error = exc
        elif isinstance(exc, RequestEntityTooLarge):
            limit = self.request.httprequest.max_content_length
            error = RpcError("too_large", f"A request must not exceed {limit} bytes.", limit=limit)
        elif isinstance(exc, RETRIED):
            error = RpcError("busy", BUSY)
        elif isinstance(exc, AccessDenied | http.SessionExpiredException):
            error = RpcError("unauthorized", UNAUTHORIZED)
        elif isinstance(exc, HTTPException):
            error = RpcError("invalid_request", f"{exc.name}.")
        else:
            error = internal_error(self.request.httprequest.path)
        return make_error_response(error_response(None, error), error)
