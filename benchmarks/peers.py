"""Other PostgreSQL queues on the same server: each with its own ordinary client.

A peer is a program that reads one JSON object per line and answers with one:

- ``{"command": "queue", "count": N}``: add N jobs that do nothing → ``{}``
- ``{"command": "drain", "count": N, "connections": C}``: execute them all →
  ``{"seconds": from the first completed job to the last, "jobs": completed in that time}``
- ``{"command": "waits", "count": N}``: with an idle worker, add N jobs one after the other →
  ``{"milliseconds": [from enqueuing to the begin of the job, by the database's clock]}``

``make bench`` installs them and says where in the environment; one that is not there is not
measured.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from .database import Database, writes_per
from .driver import BenchmarkError

FOLDER = Path(__file__).resolve().parent
PREFIX = "ODOOOPS_BENCH_"
GRAPHILE = "graphile-worker"
PROCRASTINATE = "procrastinate"
#: One process of Python keeps to one processor.
PROCRASTINATE_TWICE = "procrastinate, 2 processes"
NAMES = (GRAPHILE, PROCRASTINATE, PROCRASTINATE_TWICE)


class Peer:
    """One running peer program with a database of its own."""

    def __init__(self, name, argv, database):
        self.name = name
        self.db = Database(database)
        self.process = subprocess.Popen(
            argv,
            cwd=FOLDER,
            # node-postgres warns that its next version will not read PGPASSFILE by itself.
            env={**os.environ, "PGDATABASE": database, "NODE_NO_WARNINGS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            text=True,
        )
        try:
            self.version = self._answer()["version"]
        except BenchmarkError:
            self.close()
            raise

    def ask(self, command, **arguments):
        """Send one command and return the answer."""
        try:
            self.process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise BenchmarkError(f"{self.name} has ended") from None
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{self.name} ended without an answer")
        answer = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(f"{self.name}: {answer['error']}")
        return answer

    def drain(self, count, connections):
        """As ``kernel.drain``: rate and writes of so many jobs."""
        self.ask("queue", count=count)
        before = self.db.writes()
        result = self.ask("drain", count=count, connections=connections)
        return {
            "rate": result["jobs"] / result["seconds"],
            "seconds": result["seconds"],
            "writes": writes_per(count, before, self.db.writes()),
        }

    def waits(self, count):
        """Milliseconds from enqueuing to the begin of each of so many jobs."""
        return self.ask("waits", count=count)["milliseconds"]

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.db.close()


def start_all(progress):
    """The peers that are installed, by name, and the reasons why others are missing."""
    found, missing = {}, {}
    for name, program, argv, database in (
        (GRAPHILE, "GRAPHILE", _graphile(), "GRAPHILE"),
        (PROCRASTINATE, "PROCRASTINATE", _procrastinate(1), "PROCRASTINATE"),
        (PROCRASTINATE_TWICE, "PROCRASTINATE", _procrastinate(2), "PROCRASTINATE2"),
    ):
        database = os.environ.get(f"{PREFIX}{database}_DB")
        if not argv or not database:
            missing[name] = os.environ.get(
                f"{PREFIX}{program}_MISSING", "not installed for this run"
            )
            continue
        try:
            found[name] = Peer(name, argv, database)
            progress(f"{name} {found[name].version} is ready")
        except BenchmarkError as error:
            missing[name] = str(error)
    return found, missing


def _graphile():
    node, folder = (os.environ.get(f"{PREFIX}{name}") for name in ("NODE", "GRAPHILE"))
    return [node, str(Path(folder) / "peer.mjs")] if node and folder else None


def _procrastinate(processes):
    python = os.environ.get(f"{PREFIX}PROCRASTINATE")
    return [python, str(FOLDER / "procrastinate_peer.py"), str(processes)] if python else None
