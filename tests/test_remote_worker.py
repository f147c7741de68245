"""A worker on a host without Odoo: from the wheel to files in S3, and with a bad network."""

import hashlib
import os
import re

from odoo.tests import tagged

from .remote_case import Proxy, RemoteCase
from .test_worker_adoption import AdoptionCase
from .worker_common import left_in, wait_for

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
        work = self.install()
        (token,) = self.home.rglob("worker-token")
        self.assertEqual(token.stat().st_mode & 0o777, 0o600)
        self.run_on_host([*work, "--until-idle", f"--labels={self.slug}"])

        row = self.run_row(run_id)
        self.assertEqual((row["status"], row["exit_code"]), ("succeeded", 0), row)
        self.assertIn("with [secret TOKEN]", self.messages(run_id))
        self.assertNotIn("hunter2", str(self.messages(run_id)))
        recorded, store = self.artifacts(run_id), self.store()
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

    def test_a_control_plane_that_is_away_for_a_while_costs_no_line(self):
        """Cut in the middle of the output, and not mended before the work has ended."""
        proxy = Proxy(self.odoo.port)
        self.addCleanup(proxy.stop)
        run_id = self.queue(
            self.make_workflow(steps=[{"name": "Slowly", "run": SLOWLY}], labels=[self.slug])
        )
        self.start_remote_worker(proxy.url, self.register())
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


@tagged("post_install", "-at_install")
class TestRemoteAdoption(RemoteCase, AdoptionCase):
    def setUp(self):
        super().setUp()
        self.token_file = self.register()

    def start_worker(self, *options):
        return self.start_remote_worker(self.odoo.url, self.token_file, *options)

    def test_a_run_whose_agent_was_killed_goes_on_over_http_and_its_log_is_whole(self):
        run_id, victim = self.start_counting("--capacity=1", labels=[self.slug])
        self.kill(victim)
        self.wait_lines(run_id, 20)
        self.start_worker("--capacity=1", "--until-idle")
        ((payload,),) = wait_for(lambda: self.adoptions(run_id))
        (dead, state), (alive, _state) = self.worker_ids()
        self.assertEqual(payload, {"worker_id": alive, "claimed_by": dead})
        self.assertEqual(state, "stopped")
        self.wait_lines(run_id, 20)
        self.end()
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual((row["status"], row["epoch"]), ("succeeded", 1), row)
        self.assertLogWhole(run_id)
        wait_for(lambda: not left_in(self.folder / "work"))
