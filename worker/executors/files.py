"""Small files that two processes share."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def read_word(path: Path) -> str:
    """The text of a small file without what surrounds it; empty when there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def write_private(path: Path, content: str, mode: int = 0o600) -> None:
    """Replace a small file in one step, readable by this user only unless ``mode`` says more."""
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
    os.rename(temporary, path)
