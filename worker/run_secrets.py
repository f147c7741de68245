"""The secrets of one run on the worker: asked for, opened, hidden in output, given to the steps.

The control plane hands them out to the worker that holds the run only: over HTTP as they are, over
SQL sealed, and they are opened here with the key file of the setting ``--secrets-key``. Values live
in this process's memory, in the environment of the run's processes and, for those given as files,
in a private directory in memory (/dev/shm where there is one), which is removed with the run.
"""

from __future__ import annotations

import os
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import private_folder
from .control.base import ControlPlane, Refused
from .errors import RunError
from .guard import RunGuard
from .masking import Masker
from .secret_keys import KeyRing, SecretKeyError, context_of

_MEMORY = Path("/dev/shm")
_FOLDER = "odooops-secrets"


def give(
    wanted: Sequence[Mapping[str, str]],
    *,
    control: ControlPlane,
    guard: RunGuard,
    held: tuple[int, str, int],
    key_path: Path | None,
    masker: Masker,
    folder_name: str,
) -> dict[str, str]:
    """The environment variables that bring the ``wanted`` secrets (``name``, ``as``) to the steps.

    From the moment of return on ``masker`` hides all of them. ``held`` is run id, worker id and
    epoch. Raises ``RunError('setup_error')`` with what to do about it.
    """
    if not wanted:
        return {}
    reply = guard.insist(lambda: control.run_secrets(*held))
    if isinstance(reply, Refused):
        raise RunError("setup_error", f"The control plane gave no secrets: {reply.error}")
    _check_all_given(reply)
    values = open_sealed(reply, key_path)
    for name, value in values.items():
        masker.add(value, name)
    environment = {}
    for item in wanted:
        name = item["name"]
        if item["as"] == "file":
            environment[name] = str(_write(folder_name, name, values[name]))
        else:
            environment[name] = values[name]
    return environment


def open_sealed(reply: Mapping[str, Any], key_path: Path | None) -> dict[str, str]:
    """Name → value of the secrets in the reply of ``run_secrets``, sealed or not.

    Raises ``RunError('setup_error')``.
    """
    if all("value" in secret for secret in reply["secrets"]):
        return {secret["name"]: secret["value"] for secret in reply["secrets"]}
    if key_path is None:
        raise RunError(
            "setup_error",
            "The worker has no key for the secrets of projects. Give it a copy of Odoo's file"
            " secrets_key by --secrets-key or ODOOOPS_SECRETS_KEY.",
        )
    try:
        ring = KeyRing.load(key_path)
    except SecretKeyError as error:
        raise RunError("setup_error", f"{error} The worker needs a copy of Odoo's file.") from error
    values = {}
    for secret in reply["secrets"]:
        context = context_of(reply["project_id"], secret["name"], secret["environment"])
        try:
            sealed = b64decode(secret["sealed"])
            values[secret["name"]] = ring.open(secret["key_id"], sealed, context)
        except SecretKeyError as error:
            raise RunError(
                "setup_error",
                f"The secret {secret['name']} {error}. Give the worker the file of keys that Odoo"
                " has, or set the secret anew.",
            ) from error
    return values


def _check_all_given(reply: Mapping[str, Any]) -> None:
    environment = reply["environment"]
    place = f" for the environment {environment} or for all" if environment else ""
    if reply["missing"]:
        names = ", ".join(reply["missing"])
        raise RunError(
            "setup_error",
            f"Not set in the project{place}: {names}. An administrator or owner of the project sets"
            " secrets on its page Secrets.",
        )
    if reply["withheld"]:
        names = ", ".join(reply["withheld"])
        raise RunError(
            "setup_error",
            "Protected, and so given to workflows of type deploy, backup and upgrade only:"
            f" {names}.",
        )


def _base() -> Path:
    """Where the directory of all runs' secret files lies: in memory where that is possible."""
    return _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def _root() -> Path:
    return private_folder.path(_FOLDER, _base())


def _write(folder_name: str, name: str, value: str) -> Path:
    try:
        folder = private_folder.make(_FOLDER, _base()) / folder_name
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / name
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(value.encode())
    except OSError as error:
        raise RunError(
            "setup_error", f"The worker cannot write the file of a secret: {error.strerror}."
        ) from error
    return path


def folders() -> Iterator[Path]:
    """The directories of all runs that were given files, those of dead runs included."""
    root = _root()
    if root.is_dir():
        yield from root.iterdir()


def folder(folder_name: str) -> Path:
    """The directory of one run's files; there is none when it was given none."""
    return _root() / folder_name
