"""What the tests of workers on other hosts share: a live Odoo over HTTP, its artifacts in S3."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path

from odoo import SUPERUSER_ID, api, sql_db
from odoo.tests.common import get_db_name
from odoo.tools import config

from ..worker.secret_keys import KeyRing
from ..worker.storage.s3 import S3Settings, S3Store
from .document_blocks import blocks
from .s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from .worker_common import ADDON, KernelCase, wait_for

#: A host may be busy with other tests.
START_SECONDS = 180
#: What a host of a worker shall not know: the database, the store, our own settings.
FORBIDDEN = ("PG", "AWS_", "ODOOOPS_", "PYTHON")
#: The worker of this checkout.
WORKER = (sys.executable, "-m", "worker")


def host_environment(**values):
    """The environment of another host: nothing in it leads to the database or the store."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FORBIDDEN)}
    return {**kept, **values}


class LiveOdoo:
    """A server process of its own on the database of the tests; sees what is committed."""

    def __init__(self, folder, **environment):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "odoo.log"
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [
                    *shlex.split(os.environ["ODOOOPS_ODOO"]),
                    "server",
                    f"--addons-path={','.join(config['addons_path'])}",
                    f"--data-dir={folder / 'data'}",
                    f"--database={get_db_name()}",
                    "--http-interface=127.0.0.1",
                    f"--http-port={self.port}",
                    "--max-cron-threads=0",
                ],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(self._answers, START_SECONDS, "The server did not start.")
        except BaseException:
            self.stop()
            raise

    def _answers(self):
        if self._process.poll() is not None:
            raise AssertionError(self.log.read_text()[-3000:])
        try:
            urllib.request.urlopen(f"{self.url}/ops/jsonrpc", data=b"{}", timeout=60)
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            time.sleep(0.2)
        return False

    def stop(self):
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Proxy:
    """The network between a worker and its control plane; ``cut`` it, ``mend`` it."""

    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._is_cut, self._open, self.refused = False, set(), 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        self._is_cut = True
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def mend(self):
        self._is_cut = False

    def stop(self):
        self.cut()
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _address = self._listener.accept()
                if self._is_cut:
                    self.refused += 1
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                self._open |= {client, server}
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()


class RemoteCase(KernelCase):
    """A live Odoo that keeps artifacts in S3, and hosts that reach nothing but its address."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server_folder = Path(tempfile.mkdtemp(prefix="odooops-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.server_folder, ignore_errors=True)
        cls.s3 = S3Server()
        cls.addClassCleanup(cls.s3.stop)
        cls.prefix = cls.__name__.lower()
        parameters = {
            "bucket": BUCKET,
            "prefix": cls.prefix,
            "endpoint": cls.s3.endpoint,
            "path_style": "True",
        }
        cls._set_parameters(parameters)
        cls.addClassCleanup(cls._set_parameters, dict.fromkeys(parameters, False))
        cls.key_path = cls.server_folder / "secrets_key"
        cls.key_path.write_text(KeyRing.generate().to_text())
        cls.odoo = LiveOdoo(
            cls.server_folder,
            ODOOOPS_S3_ACCESS_KEY=ACCESS_KEY,
            ODOOOPS_S3_SECRET_KEY=SECRET_KEY,
            ODOOOPS_SECRETS_KEY=str(cls.key_path),
        )
        cls.addClassCleanup(cls.odoo.stop)

    @classmethod
    def _set_parameters(cls, values):
        with sql_db.db_connect(get_db_name()).cursor() as cr:
            env = api.Environment(cr, SUPERUSER_ID, {})
            for name, value in values.items():
                env["ir.config_parameter"].set_param(f"odooops.s3_{name}", value)

    def setUp(self):
        super().setUp()
        self.home = self.folder / "home"
        self.home.mkdir()
        # What another test left in the queue is nothing for the workers of this one.
        self.query("UPDATE ops_worker SET state = 'stopped' WHERE state <> 'stopped'")
        self.addCleanup(self._forget_tokens)

    def _forget_tokens(self):
        self.query("UPDATE ops_worker SET token_id = NULL WHERE labels ? %s", self.slug)
        self.query("DELETE FROM ops_worker_token WHERE name LIKE %s", f"%{self.slug}%")

    def registration_token(self):
        with self.environment() as env:
            return env["ops.worker.token"]._make(
                "registration", self.slug, timedelta(hours=1), uses_left=1
            )[1]

    def host(self, **values):
        return host_environment(HOME=str(self.home), **values)

    def documented_commands(self, wheel):
        """The commands of worker/README.rst for this host, as lists of words."""
        document, section = "worker/README.rst", "OdooOps worker"
        text = (ADDON / document).read_text(encoding="utf-8")
        (block,) = (each.text for each in blocks(document, text) if each.heading == section)
        changes = {
            "/opt/odooops": str(self.folder / "opt"),
            "odooops_worker-*.whl": str(wheel),
            "https://odoo.example.com": self.odoo.url,
        }
        for old, new in changes.items():
            self.assertIn(old, block)
            block = block.replace(old, new)
        return [shlex.split(line) for line in block.splitlines()]

    def run_on_host(self, argv, **options):
        process = subprocess.run(
            [str(word) for word in argv],
            env=self.host(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            **options,
        )
        self.assertEqual(process.returncode, 0, f"{argv}: {process.stdout}{process.stderr}")
        return process.stdout

    def build_wheel(self, python):
        """Of a copy: a build leaves its traces beside the sources."""
        sources = self.folder / "sources"
        shutil.copytree(ADDON / "worker", sources / "worker")
        for name in ("pyproject.toml", "LICENSE"):
            shutil.copy(ADDON / name, sources)
        argv = [python, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", "dist"]
        subprocess.run(
            argv, cwd=sources, env=self.host(), capture_output=True, timeout=600, check=True
        )
        (wheel,) = (sources / "dist").glob("odooops_worker-*.whl")
        return wheel

    def install(self):
        """Install the worker's wheel as documented and register it; return the documented command
        that starts it."""
        make, install, register, work = self.documented_commands("WHEEL")
        make[0] = sys.executable
        self.run_on_host(make)
        python = Path(make[-1]) / "bin" / "python"
        wheel = str(self.build_wheel(python))
        self.run_on_host([word.replace("WHEEL", wheel) for word in install])
        found = self.run_on_host(
            [python, "-c", "import importlib.util as u; print(u.find_spec('odoo'))"]
        )
        self.assertEqual(found.strip(), "None", "a host without Odoo")
        told = self.run_on_host(register, input=f"{self.registration_token()}\n")
        self.assertIn("This host is registered", told)
        return work

    def register(self):
        """Make this test a host of its own; return the file with its token."""
        token_file = self.folder / "worker-token"
        subprocess.run(
            [*WORKER, "register", f"--control-url={self.odoo.url}", f"--token-file={token_file}"],
            input=self.registration_token(),
            cwd=ADDON,
            env=self.host(),
            text=True,
            capture_output=True,
            timeout=60,
            check=True,
        )
        return token_file

    def start_on_host(self, argv, *options):
        """Start a worker; it and its runners are killed at the end of the test."""
        with open(self.folder / "worker.log", "ab") as log:
            process = subprocess.Popen(
                [*map(str, argv), *options], cwd=ADDON, env=self.host(), stdout=log, stderr=log
            )
        self.addCleanup(self.kill_worker, process)
        return process

    def start_remote_worker(self, url, token_file, *options):
        """Start a worker that reaches the control plane at ``url`` only."""
        where = (f"--control-url={url}", f"--token-file={token_file}")
        return self.start_on_host(WORKER, *self.worker_options(), *where, *options)

    def store(self):
        """The store as Odoo sees it."""
        return S3Store(
            S3Settings(
                bucket=BUCKET,
                prefix=self.prefix,
                endpoint=self.s3.endpoint,
                path_style=True,
                access_key=ACCESS_KEY,
                secret_key=SECRET_KEY,
            )
        )

    def artifacts(self, run_id):
        """Key → (url, size, checksum) of what was recorded."""
        rows = self.query(
            "SELECT artifact_key, artifact_url, size_bytes, checksum FROM ops_run_artifact"
            " WHERE run_id = %s",
            run_id,
        )
        return {key: (url, size, checksum) for key, url, size, checksum in rows}
