"""A job for tests of the checkout and of recipes: real processes, everything else in lists."""

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..worker.logs import LogLine, OutputParser
from ..worker.recipes.base import Captured, Job
from ..worker.workflow import with_defaults

#: The server for run databases, by libpq's own variables.
DSN = "dbname=postgres"


def odoo_argv():
    """Return the command that starts Odoo: ODOOOPS_ODOO, else the odoo script beside this Odoo."""
    given = os.environ.get("ODOOOPS_ODOO")
    return shlex.split(given) if given else [sys.executable, "-m", "odoo"]


class LocalJob(Job):
    """Runs processes directly and remembers what it was told, for assertions."""

    def __init__(
        self, folder, repository_url, *, ref="main", commit=None, config=None, kind="build"
    ):
        self.run_id, self.epoch, self.run_number = os.getpid(), time.time_ns() // 1000, 1
        project = {
            "slug": "demo",
            "repository_url": str(repository_url),
            "default_branch": "main",
            "odoo_version": "19.0",
        }
        self.snapshot = {
            "project": project,
            "workflow": {"workflow_type": kind},
            "git_ref": ref,
            "git_commit": commit,
        }
        self.config = with_defaults(config or {})
        self.workdir = Path(tempfile.mkdtemp(prefix="job-", dir=folder))
        self.checkout_dir = self.workdir / "checkout"
        self.commit = None
        self.database = None
        self.odoo_argv = odoo_argv()
        self.odoo_addons = ()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.workdir),
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.workdir),
            **self.config["env"],
        }
        self.lines = []
        self.events = []
        self.artifacts = {}

    def use_database(self, database):
        """Give the run its database, as the execution does."""
        self.database = database
        self.env |= database.environment()

    @contextlib.contextmanager
    def step(self, name):
        self.log("info", name)
        yield

    def execute(self, argv, *, name=None, env=None, timeout=None, cwd=None, on_line=None):
        parser = OutputParser(name)
        with subprocess.Popen(
            [str(part) for part in argv],
            env={**self.env, **(env or {})},
            cwd=cwd or self.checkout_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            for data in process.stdout:
                for line in parser.feed("stdout", 0, data):
                    self.lines.append(line)
                    if on_line:
                        on_line(line)
        return process.returncode

    def capture(self, argv, *, env=None, timeout=60.0, cwd=None, limit=1 << 20):
        done = subprocess.run(
            [str(part) for part in argv],
            env={**self.env, **(env or {})},
            cwd=cwd or self.checkout_dir,
            timeout=timeout,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        streams = [data[:limit].decode("utf-8", "replace") for data in (done.stdout, done.stderr)]
        return Captured(done.returncode, *streams)

    def log(self, level, message, **metadata):
        self.lines.append(LogLine(0, level, message, metadata))

    def event(self, event_type, message, payload=None):
        self.events.append((event_type, message, payload))

    def add_artifact(self, key, path, content_type=None, *, expire_in=None, metadata=None):
        self.artifacts[key] = Path(path).read_bytes()

    @property
    def output(self):
        """Everything in the run's log, as one text."""
        return "\n".join(line.message for line in self.lines)
