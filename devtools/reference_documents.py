"""`make docs`: the references in docs/, from the code."""

import subprocess

from . import database, lifecycle, paths, venv


def docs(_arguments):
    """Write the references in an Odoo's Python; no database is needed."""
    paths.prepare_local()
    lifecycle.check_tools()
    with lifecycle.one_at_a_time():
        database.ensure_odoo()
    return subprocess.run(
        [str(venv.python()), "-B", "-m", "reference"], cwd=paths.ROOT, check=False
    ).returncode
