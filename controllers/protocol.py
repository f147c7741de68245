"""JSON-RPC 2.0 on the wire: bytes into calls, results and errors into bytes.

Knows neither Odoo nor our methods. Everything that PostgreSQL's ``text`` and ``jsonb`` cannot
hold (NUL, lone surrogates, infinite numbers) is refused here, so that no method meets it.
"""

import json
import math
import re
from dataclasses import dataclass
from datetime import datetime, timezone

MAX_BATCH = 100
# Levels of lists and objects in a request.
MAX_DEPTH = 64
UNSTORABLE = re.compile("[\0\ud800-\udfff]")

# Our code: (JSON-RPC's number, HTTP status). Other codes are the kernel's refusals: the
# exchange went well and the answer is in the body.
ERRORS = {
    "parse_error": (-32700, 400),
    "invalid_request": (-32600, 400),
    "unknown_method": (-32601, 404),
    "invalid_input": (-32602, 400),
    "internal_error": (-32603, 500),
    "unauthorized": (-32001, 401),
    "forbidden": (-32003, 403),
    "not_found": (-32004, 404),
    "method_not_allowed": (-32600, 405),
    "too_large": (-32600, 413),
    "busy": (-32005, 503),
}
REFUSAL = (-32000, 200)


class RpcError(Exception):
    """An answer that is an error.

    :param code: our word for programs, see ``ERRORS``
    :param message: a sentence for people
    :param facts: what a program needs besides, e.g. ``field`` or ``next_seq``
    """

    loglevel = 10  # Expected: Odoo is to log it as debug, without a traceback.

    def __init__(self, code, message, **facts):
        super().__init__(message)
        self.code = code
        self.message = message
        self.facts = facts

    @property
    def http_status(self):
        return ERRORS.get(self.code, REFUSAL)[1]

    def as_dict(self):
        number, _status = ERRORS.get(self.code, REFUSAL)
        return {
            "code": number,
            "message": self.message,
            "data": {"code": self.code, **self.facts},
        }


@dataclass(frozen=True)
class Call:
    """One request: ``identity`` is its ``id``; a notification has none and gets no answer."""

    method: str
    params: dict
    identity: object = None
    is_notification: bool = False


def parse(body):
    """The JSON document in the bytes of a request.

    :raise RpcError: ``parse_error`` when it is not JSON in UTF-8
    """
    try:
        return json.loads(
            body.decode("utf-8"), parse_constant=_refuse_number, parse_float=_finite_float
        )
    except UnicodeDecodeError as error:
        raise RpcError("parse_error", f"Byte {error.start} is not UTF-8.") from error
    except RecursionError as error:
        raise RpcError("parse_error", "Lists and objects are nested too deeply.") from error
    except ValueError as error:
        raise RpcError("parse_error", f"This is not JSON: {error}.") from error


def read_call(item):
    """One request of a document.

    :raise RpcError: ``invalid_request`` when it is none
    """
    if not isinstance(item, dict) or item.get("jsonrpc") != "2.0":
        raise RpcError(
            "invalid_request", 'A request is an object with "jsonrpc": "2.0" and a method.'
        )
    identity = item.get("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int | float | None):
        raise RpcError("invalid_request", "id must be a string, a number or null.")
    if isinstance(identity, str) and UNSTORABLE.search(identity):
        raise RpcError("invalid_request", "id must not hold NUL or half a surrogate pair.")
    method = item.get("method")
    if not isinstance(method, str):
        raise RpcError("invalid_request", "method must be a string.")
    return Call(method, item.get("params", {}), identity, "id" not in item)


def value_problem(params):
    """Where and why a value cannot be stored, as (path, reason), or None."""
    stack = [(params, "", 1)]
    while stack:
        value, path, depth = stack.pop()
        if isinstance(value, str) and UNSTORABLE.search(value):
            return path, "must not hold NUL characters or half a surrogate pair"
        if not isinstance(value, dict | list):
            continue
        if depth > MAX_DEPTH:
            return path, f"must not be nested more than {MAX_DEPTH} levels deep"
        if isinstance(value, dict):
            for key, child in value.items():
                if UNSTORABLE.search(key):
                    return path, "must not hold NUL characters or half a surrogate pair in a name"
                stack.append((child, f"{path}.{key}" if path else key, depth + 1))
        else:
            stack.extend((child, f"{path}[{i}]", depth + 1) for i, child in enumerate(value))
    return None


def result_response(identity, result):
    return {"jsonrpc": "2.0", "id": identity, "result": result}


def error_response(identity, error):
    return {"jsonrpc": "2.0", "id": identity, "error": error.as_dict()}


def serialise(document):
    """Bytes of an answer; times become ISO 8601 in UTC with microseconds."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=_jsonable)
    return text.encode("utf-8")


def _jsonable(value):
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat(timespec="microseconds")[:-6] + "Z"
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def _refuse_number(text):
    raise ValueError(f"{text} is no number of JSON")


def _finite_float(text):
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is out of range")
    return number
