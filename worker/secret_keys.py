"""The keys that seal the secrets of projects, and the file they lie in, outside the database.

Odoo seals a value when it is set, a worker opens it for the run that needs it; both use this
module. A value is sealed with AES-256-GCM under a fresh nonce, together with its context: the
project, the name and the environment it was set for. Whoever can write the database can therefore
not move a sealed value to another project, or to a name that some workflow prints.

The file holds one key per line, a word and 32 bytes in base64:

- ``current``  seals and opens
- ``next``     opens; the next rotation makes it the current one. It is for installations whose
               workers have copies of the file: they get the key before anything is sealed with it.
- ``old``      opens what has not been sealed anew yet

Lines that begin with ``#`` are comments.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

STATES = ("current", "next", "old")
KEY_BYTES = 32
NONCE_BYTES = 12
_HEAD = "# Keys of the secrets in OdooOps. Keep a copy: without them the secrets are lost.\n"


class SecretKeyError(Exception):
    """A key is missing or does not fit; the message is a sentence without any key or value."""


@dataclasses.dataclass(frozen=True)
class SecretKey:
    state: str
    key: bytes = dataclasses.field(repr=False)

    @property
    def key_id(self) -> str:
        """Names the key without telling anything about it."""
        return hashlib.sha256(b"odooops secret key\n" + self.key).hexdigest()[:16]


def context_of(project_id: int, name: str, environment: str | None) -> bytes:
    """What a sealed value is bound to. Each part but the last is free of line ends."""
    return f"odooops secret 1\n{project_id}\n{name}\n{environment or ''}".encode()


class KeyRing:
    """All keys of one installation; never changed, every change is another ring."""

    def __init__(self, keys: Iterable[SecretKey]) -> None:
        self.keys = tuple(keys)
        states = [key.state for key in self.keys]
        if states.count("current") != 1 or states.count("next") > 1:
            raise SecretKeyError("exactly one key must be current, and one at most next")

    @classmethod
    def generate(cls) -> KeyRing:
        return cls([SecretKey("current", os.urandom(KEY_BYTES))])

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """The ring in a file's text.

        Raises ``SecretKeyError`` with the end of a sentence.
        """
        keys = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            state, _blank, encoded = line.strip().partition(" ")
            try:
                key = b64decode(encoded, validate=True)
            except ValueError:
                key = b""
            if state not in STATES or len(key) != KEY_BYTES:
                raise SecretKeyError(
                    f"line {number} is not one of {', '.join(STATES)} and 32 bytes in base64"
                )
            keys.append(SecretKey(state, key))
        return cls(keys)

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """The ring in the file ``path``.

        Raises ``SecretKeyError`` with a sentence.
        """
        try:
            return cls.parse(path.read_text(encoding="ascii"))
        except OSError as error:
            reason = error.strerror or str(error)
        except UnicodeDecodeError:
            reason = "it is no text"
        except SecretKeyError as error:
            reason = str(error)
        raise SecretKeyError(f"The file of secret keys {path} cannot be used: {reason}.")

    def to_text(self) -> str:
        lines = [f"{key.state} {b64encode(key.key).decode('ascii')}\n" for key in self.keys]
        return _HEAD + "".join(lines)

    @property
    def current(self) -> SecretKey:
        return next(key for key in self.keys if key.state == "current")

    def prepared(self) -> KeyRing:
        """The ring with a next key; itself when it has one."""
        if any(key.state == "next" for key in self.keys):
            return self
        return KeyRing([*self.keys, SecretKey("next", os.urandom(KEY_BYTES))])

    def rotated(self) -> KeyRing:
        """The ring whose next key has become the current one, and the current an old one."""
        after = {"next": "current", "current": "old", "old": "old"}
        keys = [SecretKey(after[key.state], key.key) for key in self.prepared().keys]
        return KeyRing(sorted(keys, key=lambda key: STATES.index(key.state)))

    def without_old(self, used: Iterable[str]) -> KeyRing:
        """The ring without the old keys, but for those whose ids are in ``used``."""
        kept = set(used)
        return KeyRing(key for key in self.keys if key.state != "old" or key.key_id in kept)

    def seal(self, value: str, context: bytes) -> tuple[str, bytes]:
        """The id of the current key, and the value sealed with it."""
        nonce = os.urandom(NONCE_BYTES)
        current = self.current
        return current.key_id, nonce + AESGCM(current.key).encrypt(nonce, value.encode(), context)

    def open(self, key_id: str, sealed: bytes, context: bytes) -> str:
        """The value.

        Raises ``SecretKeyError`` with the end of a sentence: the key is not in the ring, or the
        sealed bytes or their context are not those that were sealed.
        """
        key = next((key.key for key in self.keys if key.key_id == key_id), None)
        if key is None:
            raise SecretKeyError(f"is sealed with the key {key_id}, which the file has not")
        nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return AESGCM(key).decrypt(nonce, ciphertext, context).decode()
        except (InvalidTag, ValueError) as error:
            raise SecretKeyError("is not as it was set: it was altered in the database") from error
