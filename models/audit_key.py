"""The Ed25519 key that signs checkpoints. It lies in a file outside the database, so that who
can write every table still cannot sign.

``ODOOOPS_AUDIT_KEY`` in the environment, or ``odooops_audit_key`` in odoo.conf, names the file;
it must then exist. Otherwise it is ``<data_dir>/odooops/<database>/audit_key.pem``, made at
first use.
"""

import hashlib
import logging
from base64 import b64decode, b64encode
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from odoo.exceptions import UserError

from . import key_file

_logger = logging.getLogger(__name__)

ENVIRONMENT = "ODOOOPS_AUDIT_KEY"
OPTION = "odooops_audit_key"


class AuditKeyError(UserError):
    """The key cannot be used; for those who run the server, in the words of its log."""


@dataclass(frozen=True)
class AuditKey:
    private: Ed25519PrivateKey

    @property
    def public_pem(self):
        return (
            self.private.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode("ascii")
        )

    @property
    def key_id(self):
        return fingerprint(self.public_pem)

    def sign(self, text):
        """Signature of the text's UTF-8, in base64."""
        return b64encode(self.private.sign(text.encode("utf-8"))).decode("ascii")


def fingerprint(public_pem):
    """SHA-256 (hex) of the public key, as of ``openssl pkey -pubin -outform DER``."""
    der = _load_public(public_pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def is_signed(text, signature, public_pem):
    """Whether ``signature`` (base64) of ``text`` was made with this key."""
    try:
        _load_public(public_pem).verify(b64decode(signature, validate=True), text.encode("utf-8"))
    except (InvalidSignature, ValueError):
        return False
    return True


def load(database):
    """The key of this database; made at first use unless a setting names its file.

    :raise AuditKeyError: the file is named but cannot be read, or holds no Ed25519 key
    """
    path, is_named = key_file.find(ENVIRONMENT, OPTION, database, "audit_key.pem")
    if not is_named and not path.exists():
        _create(path)
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise AuditKeyError(f"The audit key {path} cannot be read: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise AuditKeyError(f"The audit key {path} is no Ed25519 key.")
    return AuditKey(private)


def _create(path):
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    if key_file.create(path, pem):
        _logger.warning("made a new audit key in %s: keep a copy of the file", path)
    else:
        _logger.info("another process has made the audit key %s", path)


def _load_public(public_pem):
    public = serialization.load_pem_public_key((public_pem or "").encode("ascii", "replace"))
    if not isinstance(public, Ed25519PublicKey):
        raise ValueError("not an Ed25519 key")
    return public
