"""What workers live in, and how it breaks: PostgreSQL, the S3 server, the Docker engine, they
themselves.

Everything here belongs to the program alone. The S3 server of the tests keeps its objects in
memory, so an outage freezes it, cuts connections or answers 503; it is not restarted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.database import Database
from devtools import needs
from devtools.cluster import Cluster

ROOT = Path(__file__).resolve().parent.parent
CAPACITY = 4
#: Uploads that an outage of the store refuses at most.
REFUSED_UPLOADS = 12
DRAIN_SECONDS = 10
#: Between two starts of a worker that ends by itself.
RESTART_SECONDS = 2.0
#: Starts of the engine before it counts as broken for good.
DOCKER_STARTS = 5


def load_test_module(name: str) -> Any:
    """A module of the tests by its path: their package wants an Odoo."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise RuntimeError(f"tests/{name}.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Worker:
    """A place for a worker: its folder stays, its processes come and go."""

    def __init__(self, number: int, folder: Path, options: list[str], env: dict[str, str]) -> None:
        self.work_dir = folder / f"worker-{number}"
        self._log = folder / f"worker-{number}.log"
        self._argv = [
            sys.executable, "-m", "worker", f"--work-dir={self.work_dir}", *options,
        ]  # fmt: skip
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._is_wanted = False
        self._next_start = 0.0
        self.starts = 0

    def start(self) -> None:
        """Start one, unless one is there; from now on ``keep`` does so."""
        self._is_wanted = True
        self._next_start = time.monotonic() + RESTART_SECONDS
        if self.is_alive():
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, cwd=ROOT, env=self._env, stdout=log, stderr=log
            )
        self.starts += 1

    def keep(self) -> None:
        """Start it again when it has ended by itself, as a service manager does: it does when it
        meets no control plane at its start."""
        if self._is_wanted and time.monotonic() > self._next_start:
            self.start()

    def runners(self) -> list[int]:
        """Process ids of its runs, by what they write into their folders."""
        found = []
        for path in self.work_dir.glob(".runners/*/awake"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int(path.read_text().split()[1])
                # A runner that has ended leaves its number to anybody.
                if b"odooops_worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def send_runners(self, number: int, most: int | None = None) -> None:
        """Signal its runners, or so many of them at most."""
        for pid in self.runners()[:most]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def runs(self) -> int:
        """How many runs are in its hands, by their folders."""
        try:
            return sum(1 for name in os.listdir(self.work_dir) if name.startswith("run-"))
        except FileNotFoundError:
            return 0

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def thaw(self) -> None:
        """It and its runners go on."""
        self.send(signal.SIGCONT)
        self.send_runners(signal.SIGCONT)

    def ask(self) -> None:
        """Ask it to end; nobody starts it again."""
        self._is_wanted = False
        self.send(signal.SIGTERM)

    def end(self, number: int = signal.SIGKILL) -> None:
        """Signal it and wait for its end; nobody starts it again."""
        self._is_wanted = False
        self.send(signal.SIGCONT)
        self.send(number)
        if self._process is not None:
            self._process.wait()


class World:
    """All of it; ``blow`` breaks something, and gives the function that mends it."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.witness = folder / "witness"
        self.witness.mkdir()
        self.cluster = Cluster("chaos")
        self.cluster.port = int(os.environ["PGPORT"])
        s3_server = load_test_module("s3_server")
        self.store = s3_server.S3Server()
        self.store_settings = {
            "bucket": s3_server.BUCKET,
            "endpoint": self.store.endpoint,
            "path_style": True,
            "access_key": s3_server.ACCESS_KEY,
            "secret_key": s3_server.SECRET_KEY,
        }
        self.engine, self.image, self.no_docker = self._find_engine()
        options, env = self._options(), self._environment(s3_server)
        # Asked to end, every other one leaves its runs to the next one.
        ways = ("finish", "handover")
        self.workers = [
            Worker(number, folder, [*options, f"--on-stop={ways[number % 2]}"], env)
            for number in range(workers)
        ]

    @staticmethod
    def _find_engine() -> tuple[Any, str | None, str]:
        """A Docker engine of our own and its image, or why there is none."""
        docker_engine = load_test_module("docker_engine")
        os.environ.pop("DOCKER_HOST", None)
        found = docker_engine.find_engine()
        reason = found if isinstance(found, str) else ""
        if not reason and found.own is None:
            reason = "There is no engine that may be broken: be root, with dockerd installed."
        if reason:
            if "docker" in needs.required():
                raise RuntimeError(reason)
            return None, None, reason
        # Its containers live on while it is away.
        found.own.restart(live_restore=True)
        return found, docker_engine.IMAGE, ""

    def _options(self) -> list[str]:
        settings = self.store_settings
        options = [
            "--allow-process",
            f"--capacity={CAPACITY}",
            f"--s3-bucket={settings['bucket']}",
            f"--s3-endpoint={settings['endpoint']}",
            "--s3-path-style",
            "--heartbeat-seconds=5",
            "--reap-seconds=2",
            "--garbage-seconds=10",
            f"--drain-seconds={DRAIN_SECONDS}",
        ]
        if self.engine:
            options += ["--docker", f"--docker-host={self.engine.host}"]
        return options

    @staticmethod
    def _environment(s3_server: Any) -> dict[str, str]:
        return {
            **os.environ,
            "ODOOOPS_DSN": f"dbname={os.environ['PGDATABASE']}",
            "AWS_ACCESS_KEY_ID": s3_server.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": s3_server.SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    # -- breaking ---------------------------------------------------------------------------

    def blow(self, kind: str, target: int, seconds: float) -> Callable[[], None]:
        """Break something.

        :return: what mends it, to be called ``seconds`` later
        """
        if kind.startswith("postgres_"):
            # Stopped in this call, as it takes a while; down for ``seconds`` from then on.
            self.cluster.stop("fast" if kind == "postgres_fast" else "immediate")
            return self.cluster.start
        if kind.startswith("store_"):
            return self._break_store(kind, seconds)
        if kind.startswith("docker_"):
            return self._break_docker(kind)
        worker = self.workers[target]
        if kind in ("freeze", "freeze_all"):
            worker.send(signal.SIGSTOP)
            if kind == "freeze_all":
                worker.send_runners(signal.SIGSTOP)
            return worker.thaw
        if kind == "kill_runner":
            worker.send_runners(signal.SIGKILL, 1)
            return lambda: None
        if kind in ("kill", "kill_all"):
            worker.end(signal.SIGKILL)
            if kind == "kill_all":
                worker.send_runners(signal.SIGKILL)
            return worker.start
        if kind == "drain":
            worker.ask()
            return lambda: self._succeed(worker)
        raise ValueError(f"there is no blow {kind}")

    @staticmethod
    def _succeed(worker: Worker) -> None:
        """Start the next one after a worker that was asked to end, which must have ended."""
        worker.end(signal.SIGTERM)
        worker.start()

    def _break_store(self, kind: str, seconds: float) -> Callable[[], None]:
        if kind == "store_freeze":
            self.store.freeze()
            return self.store.thaw
        trouble = kind.removeprefix("store_")
        with contextlib.suppress(OSError):
            self.store.trouble(**{trouble: REFUSED_UPLOADS})

        def mend() -> None:
            with contextlib.suppress(OSError):
                self.store.trouble(**{trouble: 0})

        return mend

    def _break_docker(self, kind: str) -> Callable[[], None]:
        own = self.engine.own
        if kind == "docker_freeze":
            own.process.send_signal(signal.SIGSTOP)
            return lambda: own.process.send_signal(signal.SIGCONT)
        own.process.send_signal(signal.SIGCONT)
        own.stop(signal.SIGKILL)
        return self._start_docker

    def _start_docker(self) -> None:
        """Start the engine unless it lives; again when it does not come up, as a service manager
        does: on a busy machine its own patience with its parts is too short."""
        own = self.engine.own
        for attempt in range(DOCKER_STARTS):
            if own.process.poll() is None:
                return
            try:
                own.start(live_restore=True)
            except RuntimeError:
                own.stop(signal.SIGKILL)
                if attempt == DOCKER_STARTS - 1:
                    raise

    # -- mending ----------------------------------------------------------------------------

    def mend(self) -> None:
        """Everything is there again, whatever happened before."""
        self.store.thaw()
        self.store.trouble(cut=0, busy=0)
        if not self.cluster.is_running():
            self.cluster.start()
        if self.engine:
            self.engine.own.process.send_signal(signal.SIGCONT)
            self._start_docker()
        for worker in self.workers:
            worker.thaw()
            worker.start()

    def close(self) -> None:
        """End workers and servers; the folder and PostgreSQL are whose who made them."""
        for worker in self.workers:
            worker.end()
            # They have sessions of their own, and would go on until their leases end.
            worker.send_runners(signal.SIGKILL)
        self.store.thaw()
        self.store.stop()
        if self.engine:
            self.engine.own.process.send_signal(signal.SIGCONT)

    # -- looking ----------------------------------------------------------------------------

    def fetch(self, client: Any, url: str) -> bytes | None:
        """Bytes of an artifact, read by boto3 alone; None when it is not there."""
        bucket, _slash, key = url.removeprefix("s3://").partition("/")
        try:
            return client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            return None

    def leftovers(self, db: Database) -> list[str]:
        """What runs have left behind in the database, on the disk, in the engine, as processes."""
        found = [
            f"the lease of run {run}" for (run,) in db.rows("SELECT run_id FROM ops_run_lease")
        ]
        for table, name in (("pg_database", "datname"), ("pg_roles", "rolname")):
            rows = db.rows(f"SELECT {name} FROM {table} WHERE {name} LIKE 'odooops\\_run\\_%%'")
            found += [f"{name[:3]} {value}" for (value,) in rows]
        for worker in self.workers:
            if worker.work_dir.is_dir():
                paths = (*worker.work_dir.iterdir(), *worker.work_dir.glob(".runners/*"))
                found += [
                    f"the folder {path.relative_to(worker.work_dir.parent)}"
                    for path in paths
                    if path.name != ".runners"
                ]
        if self.engine:
            for container in self.engine.client.containers(all=True):
                found.append(f"the container {container['Names'][0]}")
        return found + self._processes()

    def _processes(self) -> list[str]:
        """Processes of runs, whose variables name a run and our folder, and what watches them."""
        needle, found = os.fsencode(self.folder), []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{name}/environ").read_bytes()
                command = Path(f"/proc/{name}/cmdline").read_bytes()
                is_step = b"ODOOOPS_RUN_ID=" in environment and needle in environment
                if is_step or (b"supervisor.py" in command and needle in command):
                    words = os.fsdecode(command.replace(b"\0", b" "))[:100]
                    found.append(f"the process {name} ({words})")
        return found


def patiently(call: Callable[[], Any], seconds: float, errors: tuple[type[Exception], ...]) -> Any:
    """The call's result; again while one of the errors comes."""
    until = time.monotonic() + seconds
    while True:
        try:
            return call()
        except errors:
            if time.monotonic() > until:
                raise
            time.sleep(0.3)
