"""PostgreSQL servers of a run's own, as processes of the worker.

The server listens on a Unix socket alone, in a folder that only its owner may enter; steps in
containers reach it as they reach a run's database. The role the steps get may make databases
and roles and is no superuser: a superuser of PostgreSQL may run programs, and would leave the
container by that.

PostgreSQL does not run as root. A worker that does starts it as another user (``--postgres-user``).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2

from .. import private_folder
from ..errors import RunError
from ..executors.base import Limits, ProcessSpec, Relay
from ..guard import RunGuard
from ..masking import Masker
from ..settings import Settings
from .base import STOP_SECONDS, RunService

if TYPE_CHECKING:
    from ..execution import Tools
    from ..job import RunJob

#: Seconds a server may take until it answers.
START_SECONDS = 120.0
#: What it may write; it tells of errors in statements, which a step can make without end.
OUTPUT_LIMIT = 64 << 20
PORT = "5432"
_ADMINISTRATOR, _ROLE = "postgres", "run"
_FOLDER = "odooops-services"
#: Makes the data folder, then becomes the server. Nothing of it needs to outlive a crash.
_SCRIPT = """
programs=$1 folder=$2
"$programs/initdb" --pgdata="$folder/data" --username=postgres --pwfile="$folder/password" \
    --auth=scram-sha-256 --encoding=UTF8 --no-locale --no-sync >"$folder/initdb.log" 2>&1 ||
    { cat "$folder/initdb.log"; exit 1; }
rm "$folder/password"
exec "$programs/postgres" -D "$folder/data" -k "$folder" -p 5432 -c listen_addresses= \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c shared_buffers=64MB
"""


class PostgresService(RunService):
    """One server for one run.

    :param number: its position among the run's services
    :param prefix: of the variables by which steps find it, PG* without one
    """

    ready_seconds = START_SECONDS

    def __init__(
        self,
        job: RunJob,
        tools: Tools,
        guard: RunGuard,
        masker: Masker,
        name: str,
        number: int,
        prefix: str,
    ) -> None:
        super().__init__(job, tools, tools.executor, guard, masker, name)
        self._number, self._prefix = number, prefix
        self._data: Path | None = None
        self._passwords = {each: secrets.token_urlsafe(24) for each in (_ADMINISTRATOR, _ROLE)}
        for value in self._passwords.values():
            masker.add(value, f"{prefix}PGPASSWORD")
        self._problem = ""

    def _introduce(self) -> None:
        variables = {
            "PGHOST": str(self._data),
            "PGPORT": PORT,
            "PGUSER": _ROLE,
            "PGPASSWORD": self._passwords[_ROLE],
            "PGDATABASE": _ROLE,
        }
        self._job.env.update({f"{self._prefix}{name}": text for name, text in variables.items()})
        if self._job.sandbox:
            relay = Relay(str(self._data), PORT, self._prefix)
            self._job.widen(relays=(*self._job.sandbox.relays, relay))

    def _spec(self) -> ProcessSpec:
        programs, owner = _programs(self._tools.settings), _owner(self._tools.settings)
        self._data = _make_folder(self._job.workdir.name, self._number, owner)
        _write_for(self._data / "password", self._passwords[_ADMINISTRATOR], owner)
        prefix = []
        if owner:
            ids = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
            prefix = ["setpriv", *ids, "--"]
        return ProcessSpec(
            argv=[*prefix, "/bin/sh", "-c", _SCRIPT, "odooops", str(programs), str(self._data)],
            cwd=Path("/"),
            env={"PATH": os.environ.get("PATH") or os.defpath, "LC_ALL": "C"},
            lease_deadline=self._guard.deadline,
            grace=STOP_SECONDS / 2,
            limits=Limits(output=OUTPUT_LIMIT),
        )

    def _ask(self) -> bool:
        """Whether it answers; then role and database are made."""
        try:
            connection = psycopg2.connect(
                host=str(self._data),
                port=PORT,
                user=_ADMINISTRATOR,
                password=self._passwords[_ADMINISTRATOR],
                dbname="postgres",
                connect_timeout=5,
            )
        except psycopg2.OperationalError as error:
            self._problem = " ".join(str(error).split())
            return False
        with contextlib.closing(connection):
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(
                    f"CREATE ROLE {_ROLE} LOGIN CREATEDB CREATEROLE PASSWORD %s",
                    [self._passwords[_ROLE]],
                )
                cursor.execute(f"CREATE DATABASE {_ROLE} OWNER {_ROLE}")
            version = connection.info.parameter_status("server_version")
            self.title_when_ready = f"{self.title} (PostgreSQL {version})"
        return True

    def _what_is_missing(self) -> str:
        return f"it does not answer ({self._problem})"

    def _clear(self) -> None:
        if self._data:
            shutil.rmtree(self._data, ignore_errors=True)
            with contextlib.suppress(OSError):
                # Of the last one: it is empty then.
                self._data.parent.rmdir()


def folders() -> Iterator[Path]:
    """The folders of all runs with such servers, those of dead runs included."""
    root = private_folder.path(_FOLDER, _base())
    if root.is_dir():
        yield from root.iterdir()


def _base() -> Path:
    # The path of a socket has 107 bytes at most: not below the work directory.
    return Path(tempfile.gettempdir())


def _programs(settings: Settings) -> Path:
    """The folder of initdb and postgres."""
    given = settings.postgres_programs
    found = [given] if given else [Path(path) for path in os.get_exec_path()]
    if not given:
        found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    for folder in found:
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
            return folder
    raise RunError(
        "setup_error",
        "The worker has no programs of a PostgreSQL server (initdb, postgres): install them, or"
        " name their folder by --postgres-programs.",
    )


def _version(folder: Path) -> float:
    try:
        return float(folder.parent.name)
    except ValueError:
        return 0.0


def _owner(settings: Settings) -> pwd.struct_passwd | None:
    """Whose the server is; None: the worker's own user."""
    if os.geteuid() != 0:
        return None
    try:
        owner = pwd.getpwnam(settings.postgres_user)
    except KeyError:
        owner = None
    if owner is None or owner.pw_uid == 0:
        raise RunError(
            "setup_error",
            "PostgreSQL does not run as root: start the worker as an ordinary user, or name one by"
            f" --postgres-user (there is no {settings.postgres_user}).",
        )
    return owner


def _make_folder(run: str, number: int, owner: pwd.struct_passwd | None) -> Path:
    mode = 0o711 if owner else 0o700
    home = private_folder.make(_FOLDER, _base(), mode) / run
    home.mkdir(mode=mode, exist_ok=True)
    folder = home / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    if owner:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    return folder


def _write_for(path: Path, text: str, owner: pwd.struct_passwd | None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
        file.write(text)
        if owner:
            os.fchown(file.fileno(), owner.pw_uid, owner.pw_gid)
