"""Odoo databases of the set-up: made, the addon installed or updated, the admin user prepared."""

import hashlib
import os
import re
import shutil
import subprocess

from . import odoo, paths, processes, state, venv
from .errors import SetupError
from .postgres import SqlError, clean_environment
from .progress import step

MODULE = "odooops"
# A change here leaves an installed addon as it is.
NOT_INSTALLED = (
    ".ci/", ".github/", ".local/", "benchmarks/", "chaos/", "devtools/", "docs/", "prisma/",
    "reference/", "requirements/", "scripts/", "spec/", "tests/", "Makefile", "pyproject.toml",
    ".gitignore", ".pylintrc", ".pre-commit-config.yaml",
)  # fmt: skip
# Said on the database itself, so that one clone never takes another clone's database for its own.
MARK = f"OdooOps set-up {paths.CLONE_ID}"


def odoo_argv(*arguments):
    """A command line of Odoo."""
    return [str(venv.python()), str(paths.ODOO_LAUNCHER), *map(str, arguments)]


def odoo_environment(server, name):
    """The environment of every Odoo process of the set-up."""
    path = [str(paths.VENV / "bin")]
    if server.own:
        path.append(str(paths.LOCAL / "postgres" / "programs" / "bin"))
    path.append(os.environ.get("PATH", os.defpath))
    return {
        **clean_environment(),
        **server.environment(name),
        "PATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
    }


def ensure(server, name):
    """Create the database if it is not there; return whether it was created.

    Raises SetupError when a database of this name belongs to somebody else.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,50}", name):
        raise SetupError(
            f"The database name {name!r} has other characters than a-z, 0-9 and _: choose another."
        )
    found = server.execute(
        f"SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{name}'"
    )[0]
    if found and found[0][0] != MARK:
        raise SetupError(
            f"The database {name} on this server was not made by this clone: set ODOOOPS_DB to "
            "another name, or drop it yourself."
        )
    if found:
        return False
    server.execute(
        # As Odoo creates its own: this collation makes better indexes.
        f"CREATE DATABASE {name} ENCODING 'UTF8' LC_COLLATE 'C' TEMPLATE template0",
        f"COMMENT ON DATABASE {name} IS '{MARK}'",
        # The roles of runs may enter their own databases only.
        f"REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC",
    )
    return True


def drop(server, name):
    """Drop a database that this clone made; nothing happens to another's."""
    mark = server.execute(
        "SELECT 1 FROM pg_database"
        f" WHERE datname = '{name}' AND shobj_description(oid, 'pg_database') = '{MARK}'"
    )[0]
    if not mark:
        return
    server.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        f" WHERE datname = '{name}' AND pg_has_role(usesysid, 'USAGE')"
    )
    try:
        # Unlike WITH (FORCE) this sends an autovacuum away, which a role like ours may not end.
        server.execute(f"DROP DATABASE {name}")
    except SqlError:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def copy(server, name, copied):
    """Make a database with all that is in another one, to which nobody may be connected."""
    server.execute(
        f"CREATE DATABASE {copied} TEMPLATE {name}",
        f"COMMENT ON DATABASE {copied} IS '{MARK}'",
        f"REVOKE CONNECT, TEMPORARY ON DATABASE {copied} FROM PUBLIC",
    )


def renew(server, name, folder):
    """Drop what is there of the last time and install the addon anew.

    :param folder: of this database alone; its ``data`` becomes Odoo's data directory
    :return: that data directory
    """
    drop(server, name)
    # One folder for one database: the browser's assets of a dropped database lie in it.
    shutil.rmtree(folder, ignore_errors=True)
    data_dir = paths.private_folder(folder / "data")
    ensure(server, name)
    install(server, name, data_dir)
    return data_dir


def is_installed(server, name):
    """Whether the addon is installed in the database."""
    try:
        rows = server.execute(
            f"SELECT 1 FROM ir_module_module WHERE name = '{MODULE}' AND state = 'installed'",
            database=name,
        )
    except SqlError:
        return False
    return bool(rows[0])


def install(server, name, data_dir, demo=False, update=False, extra_environment=None):
    """Install the addon, or update it; `demo` loads its demo data."""
    log = paths.LOGS / f"install-{name}.log"
    log.unlink(missing_ok=True)
    argv = odoo_argv(
        f"--addons-path={paths.ADDONS}",
        f"--data-dir={data_dir}",
        "-d", name,
        "-u" if update else "-i", MODULE,
        "--stop-after-init", "--no-http", "--max-cron-threads=0",
    )  # fmt: skip
    if demo:
        argv.append("--with-demo")
    verb = "updated" if update else "installed"
    with step(f"{'Updating' if update else 'Installing'} the addon in the database {name}"):
        processes.run_logged(
            argv,
            log,
            env={**odoo_environment(server, name), **(extra_environment or {})},
            failure=f"The addon could not be {verb} in the database {name}.",
        )
    if not is_installed(server, name):
        raise processes.failed(f"Odoo ended without having {verb} the addon in {name}.", log)


def files_hash():
    """One hash over all files of the checkout that make up the installed addon."""
    digest = hashlib.sha256()
    for name in sorted(_addon_files()):
        path = paths.ROOT / name
        if name.startswith(NOT_INSTALLED) or name.endswith(".md") or not path.is_file():
            continue
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _addon_files():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=paths.ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        return [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    # Unpacked from an archive, without git's help.
    names = []
    for folder, folders, files in os.walk(paths.ROOT):
        folders[:] = [each for each in folders if each not in (".git", ".local", "__pycache__")]
        names += [os.path.relpath(os.path.join(folder, each), paths.ROOT) for each in files]
    return names


def token_is_valid(server, name, token):
    """Whether an API key still opens the door, for a week at least."""
    if not token:
        return False
    rows = server.execute(
        (
            "SELECT 1 FROM res_users_apikeys WHERE index = %s AND scope = 'odooops'"
            " AND expiration_date > now() + interval '7 days'",
            [token[:8]],
        ),
        database=name,
    )
    return bool(rows[0])


def prepare_admin(server, name, data_dir, password):
    """Set the admin user's password (None leaves it) and return a fresh API key."""
    token_file = paths.LOCAL / "token"
    paths.write_private(token_file, "")
    environment = {
        **odoo_environment(server, name),
        "ODOOOPS_SETUP_TOKEN_FILE": str(token_file),
    }
    if password:
        environment["ODOOOPS_SETUP_PASSWORD"] = password
    try:
        with step("Making the login and the API key"):
            processes.run_logged(
                odoo_argv(
                    "shell",
                    f"--addons-path={paths.ADDONS}",
                    f"--data-dir={data_dir}",
                    "-d",
                    name,
                    "--no-http",
                    "--max-cron-threads=0",
                ),  # fmt: skip
                paths.LOGS / "admin.log",
                env=environment,
                stdin=(paths.ROOT / "devtools" / "shell_admin.py").read_bytes(),
                failure="The admin user's password and API key could not be set.",
            )
        return token_file.read_text(encoding="ascii")
    finally:
        token_file.unlink()


def ensure_odoo():
    """Find or fetch Odoo and make it importable in the virtual environment."""
    found = odoo.ensure()
    venv.ensure(["odoo", "worker", "addon"])
    venv.link_packages(found.packages)
    odoo.write_launcher(venv.python())
    state.save(odoo_packages=str(found.packages))
    return found
