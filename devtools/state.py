"""What one start must remember for the next: generated secrets, ports, what is installed.

Kept in `.local/state.json`, readable by its owner only.
"""

import json
import secrets

from . import paths

STATE_FILE = paths.LOCAL / "state.json"


def load():
    """All remembered values; empty on the first start."""
    try:
        return json.loads(STATE_FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        # Torn by a full disk or an editor: every value can be made again.
        return {}


def save(**values):
    """Remember the given values beside those already known; None forgets one."""
    known = load()
    known.update(values)
    known = {key: value for key, value in known.items() if value is not None}
    paths.write_private(STATE_FILE, json.dumps(known, indent=2, sort_keys=True) + "\n")
    return known


def secret(name, nbytes=18):
    """A random value made once and kept, under `name`."""
    known = load()
    if name not in known:
        known = save(**{name: secrets.token_urlsafe(nbytes)})
    return known[name]
