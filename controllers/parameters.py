"""What a parameter may hold: small checks from which the table of methods is made.

A check takes a JSON value and returns the value for the method; ``ValueError`` carries the
reason, worded to follow the parameter's name ("run_id must be …").
"""

import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone

from ..worker.storage.parts import MAX_PARTS
from ..worker.storage.uploads import CHECKSUM
from .protocol import RpcError, value_problem

INT4_MAX = 2**31 - 1
INT8_MAX = 2**63 - 1
# Years that PostgreSQL, Python and a browser read alike in every time zone.
FIRST_YEAR, LAST_YEAR = 2000, 2199


@dataclass(frozen=True)
class Parameter:
    check: object
    is_required: bool = False
    # Handed on as NULL when left out, because the function has no default for it.
    is_nullable: bool = False


def required(check):
    return Parameter(check, is_required=True)


def optional(check):
    return Parameter(check)


def nullable(check):
    return Parameter(check, is_nullable=True)


def check_parameters(parameters, given):
    """The arguments for a method.

    :param dict parameters: ``Parameter`` by name
    :param given: ``params`` of the request; null for an optional one means left out
    :raise RpcError: ``invalid_input`` with ``field`` and the reason
    """
    if not isinstance(given, dict):
        raise RpcError("invalid_input", "params must be an object: parameters go by name.")
    problem = value_problem(given)
    if problem:
        path, reason = problem
        raise RpcError("invalid_input", f"{path or 'params'} {reason}.", field=path)
    for name in given:
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            raise RpcError(
                "invalid_input",
                f"{name[:80]} is no parameter of this method; it takes: {known}.",
                field=name[:80],
            )
    arguments = {}
    for name, parameter in parameters.items():
        value = given.get(name)
        if value is None:
            if parameter.is_required:
                raise RpcError("invalid_input", f"{name} is missing.", field=name)
            if parameter.is_nullable:
                arguments[name] = None
            continue
        try:
            arguments[name] = parameter.check(value)
        except ValueError as error:
            raise RpcError("invalid_input", f"{name} {error}.", field=name) from error
    return arguments


def means(words):
    """Say in words what a check takes; the reference of the methods is made from them."""

    def decorate(check):
        check.means = words
        return check

    return decorate


def integer(minimum=1, maximum=INT4_MAX):
    @means(f"whole number, {minimum} to {maximum}")
    def check(value):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("must be a whole number")
        if not minimum <= value <= maximum:
            raise ValueError(f"must lie between {minimum} and {maximum}")
        return value

    return check


def text(maximum, minimum=1):
    """A string by its number of characters."""

    @means(f"text of {minimum} to {maximum} characters")
    def check(value):
        if not isinstance(value, str):
            raise ValueError("must be a string")
        if not minimum <= len(value) <= maximum:
            raise ValueError(f"must have {minimum} to {maximum} characters")
        return value

    return check


def one_of(*values):
    @means(f"one of {', '.join(values)}")
    def check(value):
        if not isinstance(value, str) or value not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return value

    return check


def list_of(check_item, maximum):
    @means(f"list of at most {maximum}; each {check_item.means}")
    def check(value):
        if not isinstance(value, list):
            raise ValueError("must be a list")
        if len(value) > maximum:
            raise ValueError(f"must not have more than {maximum} items")
        return [check_item(item) for item in value]

    return check


def one_or_more_of(*values):
    """A string or a list of them; the method gets a list."""
    many = list_of(one_of(*values), len(values))

    @means(f"one of {', '.join(values)}, or a list of them")
    def check(value):
        return many([value] if isinstance(value, str) else value)

    return check


@means("true or false")
def boolean(value):
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


@means("object")
def json_object(value):
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return value


@means(f"time in ISO 8601 with an offset, in the years {FIRST_YEAR} to {LAST_YEAR}")
def timestamp(value):
    """ISO 8601 with an offset."""
    try:
        # Python 3.10 does not read the Z that everybody writes.
        moment = datetime.fromisoformat(re.sub("[Zz]$", "+00:00", value))
        moment = moment.astimezone(timezone.utc) if moment.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        moment = None
    if moment is None:
        raise ValueError("must be a time like 2026-11-23T10:00:00Z, with its offset")
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"must lie in the years {FIRST_YEAR} to {LAST_YEAR}")
    return moment


@means("object: a line")
def log_line(value):
    """A line for the kernel, which says the rest; its time must be one that everybody can read."""
    json_object(value)
    if value.get("timestamp") is not None:
        try:
            timestamp(value["timestamp"])
        except ValueError as error:
            raise ValueError(f"hold a line whose timestamp {error}") from error
    return value


@means("SHA-256 in lower-case hex")
def sha256_text(value):
    if not isinstance(value, str) or not CHECKSUM.fullmatch(value):
        raise ValueError("must be a SHA-256 in lower-case hex")
    return value


@means("object: a part, with part_number, checksum and tag")
def upload_part(value):
    """What a store answered to a part of a file, see models/ops_artifact_upload.py."""
    json_object(value)
    return {
        "part_number": integer(1, MAX_PARTS)(value.get("part_number")),
        "checksum": sha256_text(value.get("checksum")),
        "tag": text(100, minimum=0)(value.get("tag", "")),
    }


@means("UUID")
def uuid_text(value):
    try:
        return str(uuid.UUID(value))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError("must be a UUID") from error
