"""A folder of the worker's user in a place that is open to every user of the host."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import RunError


def path(name: str, base: Path) -> Path:
    """Where it is; one per user."""
    return base / f"{name}-{os.geteuid()}"


def make(name: str, base: Path, mode: int = 0o700) -> Path:
    """Make it unless it is there.

    :raises RunError: setup_error when what is there is somebody else's: he may have been here
        before
    :raises OSError:
    """
    folder = path(name, base)
    folder.mkdir(mode=mode, exist_ok=True)
    found = folder.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_ours or stat.S_IMODE(found.st_mode) & ~mode:
        raise RunError(
            "setup_error", f"{folder} on the worker is not a private directory of the worker."
        )
    return folder
