"""Where keys lie: in files outside the database, found by one rule.

A variable of the environment, or a setting in odoo.conf, names the file; it must then exist.
Otherwise it lies in ``<data_dir>/odooops/<database>/``, where Odoo makes it at first use.
"""

import contextlib
import os
from pathlib import Path

from odoo.tools import config


def find(environment, option, database, name):
    """The file's path, and whether a setting named it."""
    named = os.environ.get(environment) or config.get(option)
    if named:
        return Path(named), True
    return Path(config["data_dir"]) / "odooops" / database / name, False


def create(path, content):
    """Make the file, complete or not at all; of two that try at once one wins.

    :return: whether this call has made it
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _draft(path, content, 0o600) as draft:
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
    return True


def replace(path, content):
    """Replace the file in one step; its mode and, as far as that is possible, its owner stay."""
    found = path.stat()
    with _draft(path, content, found.st_mode & 0o777) as draft:
        with contextlib.suppress(PermissionError):
            os.chown(draft, found.st_uid, found.st_gid)
        os.rename(draft, path)


@contextlib.contextmanager
def _draft(path, content, mode):
    """A file beside ``path`` with the content, safely on disk; it is removed unless renamed."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
