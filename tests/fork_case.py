"""A contributor's machine for tests: a fork of this checkout that git clones, and a home folder.

What a document tells to type is typed into bash here as it stands. Not repeated is what the set-up
of the running tests has just done: a clone gets links to the virtual environments of this checkout
and the Odoo that the tests use, so that nothing is fetched. Everything else is a clone's own: its
PostgreSQL server with its databases, its ports, its state.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import odoo.release

from .document_commands import ROOT

#: What a contributor clones, until they put their own name for YOU.
ADDRESS = "https://github.com/YOU/"
#: A machine may be busy with other tests.
SECONDS = 900
#: What the running tests know and a contributor's shell does not.
FORBIDDEN = ("PG", "ODOO_", "ODOOOPS_", "PYTHON", "PYTEST", "MAKE", "GIT_", "VIRTUAL_ENV", "REUSE")
FORBIDDEN += ("ARGS", "MFLAGS", "DOCKER_HOST")
AUTHOR = {"user.name": "A Contributor", "user.email": "contributor@example.com"}
#: The checkout may be somebody else's, as where root tests what a user has cloned.
TRUST = {"safe.directory": "*"}


class ForkCase(unittest.TestCase):
    """A folder in which ``git clone`` of ADDRESS gives what this checkout holds now."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(tempfile.mkdtemp(dir=os.environ["ODOOOPS_TEST_DIR"], prefix="fork-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.home, cls.fork = cls.folder / "home", cls.folder / "github" / "odooops.git"
        cls.home.mkdir()
        cls.environment = cls._environment()
        cls._make_fork()
        cls.clone = cls.folder / "odooops"

    @classmethod
    def _environment(cls):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FORBIDDEN)}
        # Without the Python of the tests and the programs of their server.
        path = [part for part in kept["PATH"].split(":") if not part.startswith(str(ROOT))]
        settings = {**AUTHOR, **TRUST, f"url.file://{cls.fork.parent}/.insteadOf": ADDRESS}
        return {
            **kept,
            "PATH": ":".join(path),
            "HOME": str(cls.home),
            # pip's and git's settings of who runs the tests: where packages come from.
            "XDG_CONFIG_HOME": kept.get("XDG_CONFIG_HOME") or str(Path.home() / ".config"),
            "PYTHON": str(Path(sys._base_executable)),
            "ODOO_HOME": str(Path(odoo.release.__file__).resolve().parents[1]),
            "GIT_CONFIG_COUNT": str(len(settings)),
            **{f"GIT_CONFIG_KEY_{n}": key for n, key in enumerate(settings)},
            **{f"GIT_CONFIG_VALUE_{n}": value for n, value in enumerate(settings.values())},
        }

    @classmethod
    def _make_fork(cls):
        """A bare repository with one commit: the files of this checkout, changes included."""
        source = cls.folder / "source"
        listed = cls._git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in filter(None, listed.split("\0")):
            if os.path.lexists(ROOT / name):
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
        cls._git(source, "init", "--quiet", "--initial-branch=main")
        cls._git(source, "add", "--all", "--force")
        cls._git(source, "commit", "--quiet", "--message=All")
        cls._git(cls.folder, "clone", "--quiet", "--bare", str(source), str(cls.fork))

    @classmethod
    def _git(cls, folder, *arguments):
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=cls.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout

    @classmethod
    def prepare(cls):
        """Give the clone what the set-up of the running tests has made already."""
        local = cls.clone / ".local"
        local.mkdir()
        for name in ("venv", "venv-lint"):
            if (ROOT / ".local" / name).is_dir():
                (local / name).symlink_to(ROOT / ".local" / name)
        cls.addClassCleanup(cls.leave_nothing)

    @classmethod
    def type(cls, command, folder=None, **environment):
        """Type one command; return what it says.

        :raise AssertionError: with what it said, when it fails
        """
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=folder or cls.clone,
            env={**cls.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            start_new_session=True,
            check=False,
        )
        if ended.returncode:
            said = f"{command}\nended with {ended.returncode}:\n{ended.stdout[-6000:]}"
            raise AssertionError(said)
        return ended.stdout

    @classmethod
    def leave_nothing(cls):
        """Remove the clone's state; fail when a process of it is left, and end that."""
        cls.type("make clean")
        if left := cls.processes():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"Left behind: {left}")

    @classmethod
    def processes(cls, patience=10):
        """Processes that were started for the clone and are there: {number: command line}."""
        until = time.monotonic() + patience
        while (found := cls._processes()) and time.monotonic() < until:
            time.sleep(0.2)
        return found

    @classmethod
    def _processes(cls):
        home = (cls.clone / ".local" / "postgres").resolve()
        marks = [os.fsencode(str(path)) for path in (cls.clone, home)]
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                where = os.fsencode(os.readlink(folder / "cwd"))
            except OSError:
                continue  # it has ended, or is somebody else's
            if any(mark in command or where.startswith(mark) for mark in marks):
                words = command.replace(b"\0", b" ").decode(errors="replace")
                found[int(folder.name)] = re.sub(r"\s+", " ", words).strip()
        return found
