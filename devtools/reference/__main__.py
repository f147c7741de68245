"""`python -m devtools.reference`: write the references, with an Odoo that finds the addon."""

import sys

import odoo.addons

from ..paths import ADDONS, ROOT
from ..progress import say, warn

odoo.addons.__path__.append(str(ADDONS))

from . import documents  # noqa: E402 - imports the addon


def main():
    """Write what has changed and say so; return the exit code."""
    problems = documents.problems()
    for problem in problems:
        warn(f"make docs: {problem}")
    if problems:
        return 1
    changed = documents.write(ROOT)
    say(f"make docs: {'wrote ' + ', '.join(changed) if changed else 'nothing has changed'}")
    return 0


sys.exit(main())
