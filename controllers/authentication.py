"""Who calls: the API key in ``Authorization: Bearer``, for scripts, CI and workers."""

import re

from odoo.http import request

from ..wizard.ops_api_key import SCOPE
from .protocol import RpcError

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
    match = BEARER.match(request.httprequest.headers.get("Authorization", ""))
    user_id = match and _owner(match[1])
    if user_id:
        request.update_env(user=user_id)
        request.session.can_save = False
    if not user_id or not request.env.user.has_group("odooops.group_user"):
        raise RpcError("unauthorized", "A valid API key with the scope odooops is needed.")


def _owner(key):
    keys = request.env["res.users.apikeys"]
    user_id = keys._check_credentials(scope=SCOPE, key=key)
    if user_id and keys._check_credentials(scope=NO_SCOPE, key=key):
        return None
    return user_id
