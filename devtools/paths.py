"""Where things lie: the checkout, its private folder `.local` and the download cache."""

import hashlib
import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / ".local"
LOGS = LOCAL / "log"
SERVICES = LOCAL / "run"
ADDONS = LOCAL / "addons"
VENV = LOCAL / "venv"
LINT_VENV = LOCAL / "venv-lint"
ODOO_LAUNCHER = LOCAL / "bin" / "odoo"
ODOO_CONF = LOCAL / "odoo.conf"
PGPASS = LOCAL / "pgpass"
RUN_ENV = LOCAL / "run.env"
REQUIREMENTS = ROOT / "requirements"

# Two clones on one machine must not meet in /tmp, /var/tmp or on a database server.
CLONE_ID = hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]


def cache_dir():
    """Folder shared by all clones of one user, for downloads that are worth keeping."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    candidates = [Path(configured)] if os.path.isabs(configured) else []
    home = os.environ.get("HOME", "")
    if os.path.isabs(home):
        candidates.append(Path(home) / ".cache")
    for candidate in candidates:
        folder = candidate / "odooops"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    folder = LOCAL / "cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_private(path, text):
    """Write a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp creates the file with mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def private_folder(path):
    """Create a folder that only its owner may enter, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def prepare_local():
    """Create `.local` and the link by which Odoo finds this checkout as the addon `odooops`.

    The link makes the folder's own name unimportant: Odoo takes the link's name as the module's.
    """
    for folder in (LOCAL, LOGS, SERVICES, ADDONS):
        folder.mkdir(parents=True, exist_ok=True)
    LOGS.chmod(0o700)
    link = ADDONS / "odooops"
    if not link.is_symlink():
        link.symlink_to("../..")
