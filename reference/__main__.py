"""`python -m reference`: write the references, with an Odoo that finds the addon."""

import sys
from pathlib import Path

import odoo.addons

ROOT = Path(__file__).resolve().parent.parent
odoo.addons.__path__.append(str(ROOT / ".local" / "addons"))

from . import documents  # noqa: E402 - imports the addon


def main():
    """Write what has changed and say so; return the exit code."""
    problems = documents.problems()
    for problem in problems:
        sys.stderr.write(f"make docs: {problem}" + "\n")
    if problems:
        return 1
    changed = documents.write(ROOT)
    wrote = f"wrote {', '.join(changed)}" if changed else "nothing has changed"
    sys.stdout.write(f"make docs: {wrote}\n")
    return 0


sys.exit(main())
