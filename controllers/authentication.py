"""Who calls: the API key in ``Authorization: Bearer``, for scripts, CI and workers."""

import re

from odoo import SUPERUSER_ID
from odoo.http import request

from ..models.ops_worker_token import PREFIXES
from ..wizard.ops_api_key import SCOPE
from .protocol import RpcError

UNAUTHORIZED = "A valid API key with the scope odooops is needed."
TOKEN_REFUSED = "This token is not valid: it is used up, has expired, or was revoked."
BEARER = re.compile(r"^bearer +(\S+)$", re.IGNORECASE)
# No key has this scope, so only keys without any pass a check for it.
NO_SCOPE = f"{SCOPE}.none"


def has_bearer():
    """Whether the request brings a key; the Basic of a proxy in front of Odoo is none."""
    return request.httprequest.headers.get("Authorization", "").lower().startswith("bearer")


def authenticate():
    """Let the request act for the owner of its key.

    Only a key made for OdooOps is taken. Odoo would accept a key without scope here too, as
    users make them in their preferences; but such a key opens everything its user may do, and
    whoever finds it in a CI's settings gets the whole Odoo. Refusing it keeps it out of there.

    :raise RpcError: ``unauthorized``, the same for every reason
    """
    user_id = _owner(_bearer())
    if user_id:
        request.update_env(user=user_id)
        request.session.can_save = False
    if not user_id or not request.env.user.has_group("odooops.group_user"):
        raise RpcError("unauthorized", UNAUTHORIZED)


def authenticate_worker():
    """Let the request act for the worker token it brings, if it brings one.

    :return: the token, or an empty recordset when the request brings something else
    :raise RpcError: ``unauthorized`` for a token that opens nothing
    """
    tokens = request.env["ops.worker.token"]
    if not _bearer().startswith(tuple(PREFIXES.values())):
        return tokens
    token = tokens._find(_bearer())
    if not token:
        raise RpcError("unauthorized", TOKEN_REFUSED)
    # Nobody in particular: what a token may call is no matter of a user's rights.
    request.update_env(user=SUPERUSER_ID)
    request.session.can_save = False
    return token.with_env(request.env).with_context(ops_token_text=_bearer())


def _bearer():
    match = BEARER.match(request.httprequest.headers.get("Authorization", ""))
    return match[1] if match else ""


def _owner(key):
    if not key:
        return None
    keys = request.env["res.users.apikeys"]
    user_id = keys._check_credentials(scope=SCOPE, key=key)
    if user_id and keys._check_credentials(scope=NO_SCOPE, key=key):
        return None
    return user_id
