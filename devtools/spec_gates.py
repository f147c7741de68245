"""`make spec-gates`: whether `spec/`, `docs/` and the schema documents say what is.

`make spec-gates ARGS="bundle structure"` runs gates by name. Those that ask the database get that
of the tests, made anew; `REUSE=1` keeps it as `make test` left it, when the addon's files have
not changed.
"""

import subprocess
import sys

from . import database, paths, testing, venv

# Gates that ask the database, or run commands that do.
WITH_DATABASE = {"schema", "documents"}


def spec_gates(arguments):
    """Run the gates, all of them without arguments; return 1 if any failed."""
    if arguments and not WITH_DATABASE.intersection(arguments):
        return _run(sys.executable, arguments)
    with testing.prepared_database() as (server, name):
        return _run(venv.python(), arguments, database.odoo_environment(server, name))


def _run(python, arguments, environment=None):
    argv = [str(python), "-B", "-m", "scripts.spec_gates", *arguments]
    return subprocess.run(argv, cwd=paths.ROOT, env=environment, check=False).returncode
