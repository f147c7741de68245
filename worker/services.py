"""Servers of a run's own beside its steps: PostgreSQL, as processes of the worker.

The server listens on a Unix socket alone, in a folder that only its owner may enter; steps in
containers reach it as they reach a run's database. It is watched like a step: it ends before the
lease does, with the worker that died and with the run. The role the steps get may make databases
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
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2

from . import private_folder
from .errors import RunError
from .executors.base import Executor, ExecutorError, Handle, Limits, ProcessSpec
from .guard import RunGuard
from .job import RunJob
from .logs import OutputParser
from .masking import Masker
from .settings import Settings

#: Seconds a server may take until it answers, and for its end.
START_SECONDS, STOP_SECONDS = 120.0, 10.0
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


class PostgresService:
    """One server for one run; ``start`` and ``stop`` are called by the run's thread."""

    def __init__(
        self,
        job: RunJob,
        executor: Executor,
        guard: RunGuard,
        settings: Settings,
        masker: Masker,
    ) -> None:
        self._job, self._executor, self._guard = job, executor, guard
        self._settings, self._masker = settings, masker
        self._handle: Handle | None = None
        self._folder: Path | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="service", daemon=True)

    def start(self) -> dict[str, str]:
        """Start the server and wait until it answers; the variables by which steps find it.

        :raises RunError: setup_error when it does not start, and says why
        """
        with self._job.step("Service postgres"):
            began = time.monotonic()
            programs = _programs(self._settings)
            owner = _owner(self._settings)
            passwords = {name: secrets.token_urlsafe(24) for name in (_ADMINISTRATOR, _ROLE)}
            for value in passwords.values():
                self._masker.add(value, "PGPASSWORD")
            try:
                self._folder = _make_folder(self._job.workdir.name, owner)
                _write_for(self._folder / "password", passwords[_ADMINISTRATOR], owner)
                self._handle = self._start(programs, owner)
            except (OSError, ExecutorError) as error:
                raise RunError("setup_error", f"PostgreSQL cannot be started: {error}") from error
            self._thread.start()
            version = self._prepare(passwords)
            seconds = time.monotonic() - began
            self._job.log("info", f"PostgreSQL {version} is ready after {seconds:.1f} s")
        return {
            "PGHOST": str(self._folder),
            "PGPORT": PORT,
            "PGUSER": _ROLE,
            "PGPASSWORD": passwords[_ROLE],
            "PGDATABASE": _ROLE,
        }

    def stop(self) -> None:
        """End the server, bring its output into the run's log, remove its files."""
        self._ended.set()
        if self._handle:
            # SIGINT, the first rung, is PostgreSQL's fast shutdown.
            self._executor.stop(self._handle, STOP_SECONDS / 2)
            until = time.monotonic() + STOP_SECONDS
            while self._executor.poll(self._handle) is None and time.monotonic() < until:
                time.sleep(0.05)
            with contextlib.suppress(RunError):
                self._ship()
            self._executor.cleanup(self._handle)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, programs: Path, owner: pwd.struct_passwd | None) -> Handle:
        prefix = []
        if owner:
            ids = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
            prefix = ["setpriv", *ids, "--"]
        argv = [*prefix, "/bin/sh", "-c", _SCRIPT, "odooops", str(programs), str(self._folder)]
        spec = ProcessSpec(
            argv=argv,
            cwd=Path("/"),
            env={"PATH": os.environ.get("PATH") or os.defpath, "LC_ALL": "C"},
            lease_deadline=self._guard.deadline,
            grace=STOP_SECONDS / 2,
            limits=Limits(output=OUTPUT_LIMIT),
        )
        return self._executor.start(spec, self._job.workdir / "processes" / "service-postgres")

    def _renew(self) -> None:
        """Move the server's lease with the run's; nobody else does between two steps."""
        while not self._ended.wait(0.5):
            self._executor.renew(self._handle, self._guard.deadline)

    def _prepare(self, passwords: dict[str, str]) -> str:
        """Wait for the server, make role and database; the server's version."""
        until = time.monotonic() + START_SECONDS
        while True:
            self._job.check()
            if self._executor.poll(self._handle):
                self._ship()
                raise RunError("setup_error", "PostgreSQL ended at its start; the log says why.")
            try:
                connection = psycopg2.connect(
                    host=str(self._folder),
                    port=PORT,
                    user=_ADMINISTRATOR,
                    password=passwords[_ADMINISTRATOR],
                    dbname="postgres",
                    connect_timeout=5,
                )
                break
            except psycopg2.OperationalError as error:
                if time.monotonic() > until:
                    self._ship()
                    raise RunError(
                        "setup_error", f"PostgreSQL does not answer: {' '.join(str(error).split())}"
                    ) from error
            time.sleep(0.1)
        with contextlib.closing(connection):
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(
                    f"CREATE ROLE {_ROLE} LOGIN CREATEDB CREATEROLE PASSWORD %s", [passwords[_ROLE]]
                )
                cursor.execute(f"CREATE DATABASE {_ROLE} OWNER {_ROLE}")
            return str(connection.info.parameter_status("server_version"))

    def _ship(self) -> None:
        """What the server wrote, into the run's log."""
        parser, offset = OutputParser("Service postgres", self._masker), 0
        while True:
            chunks, offset = self._executor.read_output(self._handle, offset)
            if not chunks:
                break
            for chunk in chunks:
                self._job.write_lines(parser.feed(*chunk))
        self._job.write_lines(parser.flush(time.time_ns() // 1000))


def folders() -> Iterator[Path]:
    """The folders of all runs' servers, those of dead runs included."""
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


def _make_folder(name: str, owner: pwd.struct_passwd | None) -> Path:
    root = private_folder.make(_FOLDER, _base(), 0o711 if owner else 0o700)
    folder = root / name
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
