"""Odoo's way to the keys that seal secrets (``worker/secret_keys.py``).

``ODOOOPS_SECRETS_KEY`` in the environment, or ``odooops_secrets_key`` in odoo.conf, names the file;
otherwise it is ``<data_dir>/odooops/<database>/secrets_key``, made at first use.
"""

import logging

from odoo.exceptions import UserError

from ..worker.secret_keys import KeyRing, SecretKeyError
from . import key_file

_logger = logging.getLogger(__name__)

ENVIRONMENT = "ODOOOPS_SECRETS_KEY"
OPTION = "odooops_secrets_key"


def path_of(database):
    """The file of this database's keys, whether it exists or not."""
    return key_file.find(ENVIRONMENT, OPTION, database, "secrets_key")[0]


def load(database):
    """The keys of this database; made at first use unless a setting names their file.

    :raise UserError: the file cannot be used
    """
    path, is_named = key_file.find(ENVIRONMENT, OPTION, database, "secrets_key")
    if not (is_named or path.exists()) and key_file.create(
        path, KeyRing.generate().to_text().encode()
    ):
        _logger.warning("made a new key for secrets in %s: keep a copy of the file", path)
    try:
        return KeyRing.load(path)
    except SecretKeyError as error:
        raise UserError(str(error)) from error


def save(database, ring):
    """Replace the file's keys."""
    key_file.replace(path_of(database), ring.to_text().encode())
