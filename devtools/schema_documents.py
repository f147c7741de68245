"""`make schema`: the documents about the kernel's views, from a fresh database."""

import subprocess

from . import database, lifecycle, paths, venv
from .testing import prepared_server


def schema(_arguments):
    """Install the addon in a database of its own, write the documents, drop the database."""
    paths.prepare_local()
    with prepared_server() as server:
        venv.ensure(["test"])
        name = f"{lifecycle.database_name()}_schema"
        database.renew(server, name, paths.LOCAL / "schema")
        try:
            return subprocess.run(
                [str(venv.python()), "-B", "-m", "devtools.schema"],
                cwd=paths.ROOT,
                env=database.odoo_environment(server, name),
                check=False,
            ).returncode
        finally:
            database.drop(server, name)
