"""`make bench`: the measurements of `benchmarks/` in a fresh database.

They find PGHOST, PGPORT, PGUSER, PGPASSFILE, PGDATABASE and ODOOOPS_DB in their environment.
"""

import subprocess

from . import database, lifecycle, paths, venv
from .errors import SetupError
from .testing import prepared_server

FOLDER = paths.LOCAL / "bench"


def bench(arguments):
    """Install the addon in a database of its own and run benchmarks/run.py."""
    if not (paths.ROOT / "benchmarks" / "run.py").exists():
        raise SetupError("This checkout has no benchmarks (benchmarks/run.py).")
    paths.prepare_local()
    with prepared_server() as server:
        venv.ensure(["test"])
        name = f"{lifecycle.database_name()}_bench"
        database.renew(server, name, FOLDER)
        environment = {**database.odoo_environment(server, name), "ODOOOPS_DB": name}
        return subprocess.run(
            [str(venv.python()), "-m", "benchmarks.run", *arguments],
            cwd=paths.ROOT,
            env=environment,
            check=False,
        ).returncode
