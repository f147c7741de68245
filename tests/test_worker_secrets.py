"""A real worker executes runs that print their secrets in every form they can think of."""

import base64
import contextlib
import os
import stat
import time
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote

from odoo.tests import tagged

from ..worker import run_secrets
from ..worker.secret_keys import KeyRing
from .secrets_case import WithSecretKey
from .worker_common import KernelCase, wait_for

TOKEN = "Zu9+/w=?\"x'y z&<4>"
KEY = (
    "-----BEGIN PRIVATE KEY-----\n"
    + "\n".join(base64.b64encode(bytes(range(n, n + 48))).decode() for n in range(0, 144, 48))
    + "\n-----END PRIVATE KEY-----\n"
)

PRINT = """
set +x
echo "plain $TOKEN"
printf '%s' "$TOKEN" | base64
printf 'x%s' "$TOKEN" | base64
printf 'xy%s' "$TOKEN" | base64 -w 10
python3 - <<'END'
import html, json, os, sys, time, urllib.parse
token = os.environ["TOKEN"]
print(json.dumps({"a": token}), repr(token), html.escape(token))
print(urllib.parse.quote(token), urllib.parse.quote_plus(token), urllib.parse.quote(token, safe=""))
for character in "slowly " + token + "\\n":
    sys.stdout.write(character)
    sys.stdout.flush()
    time.sleep(0.005)
print("\\x1b[31m" + token[:5] + "\\x1b[0m" + token[5:])
print("x" * 16380 + token)
print("to stderr", token, file=sys.stderr)
END
cat "$SSH_KEY"
base64 "$SSH_KEY"
sed 's/^/    /' "$SSH_KEY"
stat -c 'mode %a' "$SSH_KEY"
echo "path $SSH_KEY"
set -x
: "$TOKEN"
"""


@tagged("post_install", "-at_install")
class TestWorkerSecrets(WithSecretKey, KernelCase):
    def set_secret(self, name, value, **values):
        with self.environment() as env:
            env["ops.secret"].create(
                {"project_id": self.project_id, "name": name, "value": value, **values}
            )

    def execute(self, script, secrets, metadata=None, **config):
        """Run a script as the one step of a run; return the run's row."""
        workflow = self.make_workflow(
            f"Workflow {time.time_ns()}",
            labels=[self.slug],
            secrets=secrets,
            steps=[{"name": "Print", "run": script}],
            **config,
        )
        if metadata:
            with self.environment() as env:
                run = env["ops.workflow"].browse(workflow).queue_run(metadata=metadata)
                self.run_id = run.id
        else:
            self.run_id = self.queue(workflow)
        return self.wait_status(self.run_id, "succeeded", "failed", "canceled")

    def assertHidden(self, *values):
        everything = self.complete_log(self.run_id) + self.all_rows_of(self.run_id)
        flat = everything.replace("\n", "")
        for value in values:
            self.assertNotIn(value, everything)
            self.assertNotIn(quote(value, safe=""), everything)
            self.assertNotIn(base64.b64encode(value.encode()).decode().rstrip("=")[:-1], flat)

    def test_a_run_that_prints_its_secrets_in_all_forms_shows_none(self):
        # Rule: R-28
        self.set_secret("TOKEN", TOKEN)
        self.set_secret("SSH_KEY", KEY)
        self.start_worker()
        run = self.execute(PRINT, ["TOKEN", {"name": "SSH_KEY", "as": "file"}])
        self.assertEqual(run["status"], "succeeded", self.messages(self.run_id))
        self.assertHidden(TOKEN, KEY, *KEY.splitlines()[1:-1])
        messages = self.messages(self.run_id)
        self.assertIn("plain [secret TOKEN]", messages)
        self.assertIn("slowly [secret TOKEN]", messages)
        self.assertIn("to stderr [secret TOKEN]", messages)
        self.assertIn("mode 600", messages)
        self.assertIn("    [secret SSH_KEY]", messages)
        self.assertIn("[secret TOKEN]", self.complete_log(self.run_id))
        path = next(line for line in messages if line.startswith("path "))[5:]
        self.assertFalse(Path(path).parent.exists(), "the file outlived the run")
        self.assertNotIn(str(self.folder), path)

    def test_messages_metadata_and_events_of_the_worker_hold_none(self):
        # Rule: R-28
        self.set_secret("TOKEN", "hunter2hunter2")
        self.start_worker()
        run = self.execute(
            'mkdir "d-$TOKEN"; echo x > "d-$TOKEN/report.txt"',
            ["TOKEN"],
            artifacts=[{"path": "**/report.txt"}],
        )
        self.assertEqual(run["status"], "failed")
        self.assertIn("name of the file holds a secret", run["error_message"])
        self.assertHidden("hunter2hunter2")

    def test_the_secret_of_the_environment_wins(self):
        self.set_secret("TOKEN", "value-for-all")
        self.set_secret("TOKEN", "value-for-dev", environment="dev")
        self.start_worker()
        script = 'test "$TOKEN" = "%s"'
        for metadata, value in (
            (None, "value-for-all"),
            ({"environment": "dev"}, "value-for-dev"),
            ({"environment": "prod"}, "value-for-all"),
        ):
            run = self.execute(script % value, ["TOKEN"], metadata)
            self.assertEqual(run["status"], "succeeded", run)

    def test_without_the_secret_or_the_key_the_run_says_what_to_do(self):
        self.start_worker()
        run = self.execute("true", ["TOKEN"])
        self.assertEqual(run["error_code"], "setup_error")
        self.assertIn("Not set in the project: TOKEN.", run["error_message"])
        self.set_secret("TOKEN", "protected-value", protected=True)
        self.assertIn("Protected", self.execute("true", ["TOKEN"])["error_message"])
        self.set_secret("OTHER", "other-value")
        self.key_path.write_text(KeyRing.generate().to_text())
        message = self.execute("true", ["OTHER"])["error_message"]
        self.assertIn("The secret OTHER is sealed with the key", message)
        self.key_path.unlink()
        self.assertIn("cannot be used", self.execute("true", ["OTHER"])["error_message"])

    def test_a_value_moved_to_another_project_is_not_opened(self):
        with self.environment() as env:
            other = env["ops.project"].create({"name": "Other", "slug": f"{self.slug}-other"})
            secret = env["ops.secret"].create(
                {"project_id": other.id, "name": "TOKEN", "value": "of-the-other-project"}
            )
            secret_id, other_id = secret.id, other.id
        self.query(
            "UPDATE ops_secret SET project_id = %s WHERE id = %s", self.project_id, secret_id
        )
        self.start_worker()
        run = self.execute('echo "$TOKEN"', ["TOKEN"])
        self.query("ALTER TABLE ops_secret_change DISABLE TRIGGER USER")
        self.query("DELETE FROM ops_secret_change WHERE project_id = %s", other_id)
        self.query("ALTER TABLE ops_secret_change ENABLE TRIGGER USER")
        with self.environment() as env:
            env["ops.project"].browse(other_id).unlink()
        self.assertEqual(run["error_code"], "setup_error")
        self.assertIn("altered in the database", run["error_message"])

    def test_files_of_a_run_whose_worker_was_killed_are_removed_by_the_next(self):
        self.set_secret("SSH_KEY", KEY)
        worker = self.start_worker("--garbage-seconds=1")
        workflow = self.make_workflow(
            labels=[self.slug],
            secrets=[{"name": "SSH_KEY", "as": "file"}],
            steps=[{"name": "Wait", "run": 'echo "path $SSH_KEY"; sleep 600'}],
        )
        run_id = self.queue(workflow)

        def path():
            lines = [line for line in self.messages(run_id) if line.startswith("path ")]
            return lines and Path(lines[0][5:])

        found = wait_for(path)
        self.assertEqual(found.read_text(), KEY)
        self.assertEqual(stat.S_IMODE(found.parent.stat().st_mode), 0o700)
        self.kill_worker(worker)
        self.expire_leases()
        self.start_worker("--garbage-seconds=1")
        self.wait_status(run_id, "failed")
        wait_for(lambda: not found.parent.exists())

    def test_a_directory_that_somebody_else_prepared_is_not_used(self):
        base = self.folder / "shm"
        (base / f"odooops-secrets-{os.geteuid()}").mkdir(parents=True, mode=0o755)
        with (
            patch.object(run_secrets, "_MEMORY", base),
            self.assertRaisesRegex(run_secrets.RunError, "not a private directory"),
            contextlib.suppress(FileNotFoundError),
        ):
            run_secrets._write("run", "NAME", "value")
