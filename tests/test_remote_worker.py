"""A worker on a host without Odoo: from the wheel to files in S3, and with a bad network."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from odoo.tests import tagged

from .remote_case import Proxy, RemoteCase, host_environment
from .worker_common import ADDON, wait_for

#: A large file goes up in parts.
LARGE = 9 << 20
KEEP = f"""
echo "with $TOKEN"
env | grep -E '^(PG|AWS_)' && exit 9
echo content > small.txt
head -c {LARGE} /dev/zero > large.bin
"""
SLOWLY = """
for number in $(seq 1 120); do
    echo "line $number"
    sleep 0.1
done
"""


@tagged("post_install", "-at_install")
class TestRemoteWorker(RemoteCase):
    def setUp(self):
        super().setUp()
        self.home = self.folder / "home"
        self.home.mkdir()

    def host(self, **values):
        return host_environment(HOME=str(self.home), **values)

    def documented_commands(self, wheel):
        """The commands of worker/README.rst for this host, as lists of words."""
        text = (ADDON / "worker" / "README.rst").read_text(encoding="utf-8")
        block = re.search(r"On the host::\n\n((?: +\S.*\n)+)", text)[1]
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

    def make_keeping_workflow(self):
        self.addCleanup(self._forget_secret)
        with self.environment() as env:
            os.environ["ODOOOPS_SECRETS_KEY"] = str(self.key_path)
            self.addCleanup(os.environ.pop, "ODOOOPS_SECRETS_KEY")
            env["ops.secret"].create(
                {"project_id": self.project_id, "name": "TOKEN", "value": "hunter2hunter2"}
            )
        return self.make_workflow(
            steps=[{"name": "Keep", "run": KEEP}],
            secrets=["TOKEN"],
            labels=[self.slug],
            artifacts=[{"path": "small.txt"}, {"path": "large.bin"}],
        )

    def _forget_secret(self):
        self.query("ALTER TABLE ops_secret_change DISABLE TRIGGER USER")
        self.query("DELETE FROM ops_secret_change WHERE project_id = %s", self.project_id)
        self.query("ALTER TABLE ops_secret_change ENABLE TRIGGER USER")

    def test_the_wheel_alone_executes_a_run_whose_files_land_in_s3(self):
        run_id = self.queue(self.make_keeping_workflow())
        steps = [{"name": "Ask", "run": "true"}]
        asking = self.make_workflow("Asking", steps=steps, database=True, labels=[self.slug])
        asking_id = self.queue(asking)
        make, install, register, work = self.documented_commands("WHEEL")
        make[0] = sys.executable
        self.run_on_host(make)
        python = Path(make[-1]) / "bin" / "python"
        wheel = self.build_wheel(python)
        self.run_on_host([word.replace("WHEEL", str(wheel)) for word in install])
        found = self.run_on_host(
            [python, "-c", "import importlib.util as u; print(u.find_spec('odoo'))"]
        )
        self.assertEqual(found.strip(), "None", "a host without Odoo")
        told = self.run_on_host(register, input=f"{self.registration_token()}\n")
        self.assertIn("This host is registered", told)
        (token,) = self.home.rglob("worker-token")
        self.assertEqual(token.stat().st_mode & 0o777, 0o600)
        self.run_on_host([*work, "--until-idle", f"--labels={self.slug}"])

        row = self.run_row(run_id)
        self.assertEqual((row["status"], row["exit_code"]), ("succeeded", 0), row)
        self.assertIn("with [secret TOKEN]", self.messages(run_id))
        self.assertNotIn("hunter2", str(self.messages(run_id)))
        recorded, store = self.artifacts(run_id), self.bucket()
        self.assertEqual(set(recorded), {"small.txt", "large.bin", "run.log.gz"})
        expected = {"small.txt": b"content\n", "large.bin": bytes(LARGE)}
        for key, (url, size, checksum) in recorded.items():
            self.assertEqual(url, store.url_of(f"{self.slug}/{run_id}/{key}"))
            with store.open(url) as stream:
                data = stream.read()
            self.assertEqual((len(data), hashlib.sha256(data).hexdigest()), (size, checksum))
            self.assertEqual(data, expected.get(key, data))
        self.assertEqual(self.s3.trouble()["authorized_downloads"], 0, "no token goes to S3")
        row = self.run_row(asking_id)
        self.assertEqual(row["error_code"], "setup_error")
        self.assertIn("--runs-dsn", row["error_message"])

    def start_remote_worker(self, url):
        token_file = self.folder / "worker-token"
        argv = [sys.executable, "-m", "worker"]
        subprocess.run(
            [*argv, "register", f"--control-url={self.odoo.url}", f"--token-file={token_file}"],
            input=self.registration_token(),
            cwd=ADDON,
            env=self.host(),
            text=True,
            capture_output=True,
            timeout=60,
            check=True,
        )
        log = open(self.folder / "worker.log", "wb")  # noqa: SIM115
        self.addCleanup(log.close)
        process = subprocess.Popen(
            [*argv, *self.worker_options(), f"--control-url={url}", f"--token-file={token_file}"],
            cwd=ADDON,
            env=self.host(),
            stdout=log,
            stderr=log,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_a_control_plane_that_is_away_for_a_while_costs_no_line(self):
        """Cut in the middle of the output, and not mended before the work has ended."""
        proxy = Proxy(self.odoo.port)
        self.addCleanup(proxy.stop)
        run_id = self.queue(
            self.make_workflow(steps=[{"name": "Slowly", "run": SLOWLY}], labels=[self.slug])
        )
        self.start_remote_worker(proxy.url)
        wait_for(lambda: "line 20" in self.messages(run_id), message="The run did not begin.")
        proxy.cut()
        before = len(self.messages(run_id))
        self.assertLess(before, 120)
        complete = self.folder / "work"
        wait_for(
            lambda: any(
                b"line 120" in path.read_bytes()
                for path in complete.rglob("*")
                if path.is_file() and path.stat().st_size < 1 << 20
            ),
            message="The work did not go on without its control plane.",
        )
        self.assertGreater(proxy.refused, 0)
        self.assertEqual(self.run_row(run_id)["status"], "running")
        proxy.mend()
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual(row["status"], "succeeded", row)
        lines = [line for line in self.messages(run_id) if re.fullmatch(r"line \d+", line)]
        self.assertEqual(lines, [f"line {number}" for number in range(1, 121)])
        self.assertEqual(row["epoch"], 1, "nobody else had it")
        self.assertIn("run.log.gz", self.artifacts(run_id))
