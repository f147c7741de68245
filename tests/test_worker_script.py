"""worker.sh, a worker in a few lines of shell, at a live server; with jq, with python3 alone."""

import os
import shutil
import signal
import subprocess
from datetime import timedelta

from odoo.tests import tagged

from .document_blocks import blocks, commands
from .remote_case import RemoteCase
from .shell_path import make_path
from .worker_common import ADDON, wait_for

SCRIPT = ADDON / "scripts" / "odooops" / "worker.sh"
DOCUMENT, SECTION = "docs/scripts.md", "A worker in shell"
NEEDED = (
    *("bash", "cat", "curl", "dirname", "env", "git", "head", "mkdir", "mktemp", "od", "rm", "sed"),
    *("seq", "setsid", "sh", "sleep", "tail", "tr", "wc"),
)


@tagged("post_install", "-at_install")
class TestWorkerScript(RemoteCase):
    def setUp(self):
        super().setUp()
        self.tools = [
            tool for tool in ("jq", "python3") if make_path(self.folder / tool, (*NEEDED, tool))
        ]
        with self.environment() as env:
            self.token = env["ops.worker.token"]._make("worker", self.slug, timedelta(days=1))[1]

    def start_script(self, *arguments, tool=None, **environment):
        process = subprocess.Popen(
            [shutil.which("bash"), SCRIPT, *arguments],
            env={
                "PATH": str(self.folder / (tool or self.tools[0])),
                "HOME": str(self.folder),
                "ODOOOPS_URL": self.odoo.url,
                "ODOOOPS_TOKEN": self.token,
                "HEARTBEAT_SECONDS": "1",
                "GRACE_SECONDS": "2",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def run_once(self, **options):
        """One run by the script; its exit code and what it said."""
        process = self.start_script("--once", "--labels", self.slug, **options)
        _output, said = process.communicate(timeout=240)
        return process.returncode, said

    def queue_steps(self, *commands, **config):
        steps = [{"name": f"Step {n}", "run": run} for n, run in enumerate(commands, 1)]
        name = f"Workflow {len(self.query('SELECT id FROM ops_workflow'))}"
        return self.queue(self.make_workflow(name, steps=steps, labels=[self.slug], **config))

    def test_a_run_of_two_steps_with_every_tool(self):
        odd = 'ü "x" $(id) `id` \\ \x1b[31m'
        for tool in self.tools:
            with self.subTest(tool=tool):
                run_id = self.queue_steps(
                    'seq 1 250; printf "%s\\n" "$ODD"; printf "a\\000b\\377c\\n"',
                    'echo "second"; printf "no line end, token: ${ODOOOPS_TOKEN-none}"',
                    env={"ODD": odd},
                )
                code, said = self.run_once(tool=tool)
                self.assertEqual(code, 0, said)
                row = self.run_row(run_id)
                self.assertEqual((row["status"], row["exit_code"]), ("succeeded", 0), row)
                expected = [str(n) for n in range(1, 251)]
                lines = [*expected, odd, "ab\ufffdc", "second", "no line end, token: none"]
                self.assertEqual(self.messages(run_id), lines)
                steps = self.query(
                    "SELECT DISTINCT metadata ->> 'step' FROM ops_run_log WHERE run_id = %s", run_id
                )
                self.assertEqual(sorted(steps), [("Step 1",), ("Step 2",)])

    def test_what_the_document_shows_is_typed_and_said(self):
        text = (ADDON / DOCUMENT).read_text(encoding="utf-8")
        (block,) = (each for each in blocks(DOCUMENT, text) if each.heading == SECTION)
        (command,) = commands(block)
        run_id = self.queue_steps("echo hello")
        words = {"oprt_…": self.registration_token(), "--labels shell": f"--labels {self.slug}"}
        for word, value in words.items():
            self.assertIn(word, command)
            command = command.replace(word, value)
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=ADDON,
            env=self.host(ODOOOPS_URL=self.odoo.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        shown = block.text.partition("\n")[2].replace("/home/build", str(self.home))
        shown = shown.replace("Run 7", f"Run {run_id}")
        self.assertEqual((ended.returncode, ended.stdout.strip()), (0, shown.strip()))
        self.assertEqual(self.run_row(run_id)["status"], "succeeded")

    def test_a_step_that_fails_ends_the_run_with_its_exit_code(self):
        run_id = self.queue_steps("echo before; exit 3", "echo never")
        code, said = self.run_once()
        self.assertEqual(code, 1, said)
        row = self.run_row(run_id)
        self.assertEqual((row["status"], row["exit_code"]), ("failed", 3), row)
        self.assertEqual(row["error_message"], "Step Step 1 ended with exit code 3.")
        self.assertEqual(self.messages(run_id), ["before"])

    def test_the_commit_is_checked_out(self):
        repository = self.folder / "repository"
        repository.mkdir()
        git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com"]
        (repository / "hello.txt").write_text("from the repository\n")
        for command in (["init", "-qb", "main"], ["add", "."], ["commit", "-qm", "x"]):
            subprocess.run([*git, *command], cwd=repository, check=True)
        self.query(
            "UPDATE ops_project SET repository_url = %s, default_branch = 'main' WHERE id = %s",
            str(repository),
            self.project_id,
        )
        run_id = self.queue_steps("cat hello.txt")
        code, said = self.run_once()
        self.assertEqual(code, 0, said)
        self.assertEqual(self.messages(run_id), ["from the repository"])

    def start_long_run(self):
        """A run at work: its id, the script, and the id of a process of its step."""
        path = self.folder / "pid"
        run_id = self.queue_steps(f'trap "" TERM; echo $$ > {path}; echo begun; sleep 600')
        process = self.start_script("--once", "--labels", self.slug)
        wait_for(lambda: "begun" in self.messages(run_id), 120, "The run did not begin.")
        return run_id, process, int(path.read_text())

    def assertGone(self, pid):
        def is_gone():
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            return False

        wait_for(is_gone, message="The step is still there.")

    def test_a_cancel_stops_what_ignores_it(self):
        run_id, process, pid = self.start_long_run()
        self.call("cancel_run", run_id, "enough")
        self.assertEqual(process.wait(120), 1)
        self.assertEqual(self.run_row(run_id)["status"], "canceled")
        self.assertGone(pid)

    def test_a_lost_lease_stops_the_work_and_says_nothing_more(self):
        run_id, process, pid = self.start_long_run()
        self.expire_leases()
        self.query(f"SELECT {self.schema}.reap_lost_runs()")
        self.assertEqual(process.wait(120), 1)
        self.assertGone(pid)
        row = self.run_row(run_id)
        self.assertEqual((row["status"], row["error_code"]), ("failed", "worker_lost"), row)

    def test_a_signal_waits_for_the_run_at_work(self):
        run_id = self.queue_steps("echo begun; sleep 3; echo done")
        process = self.start_script("--labels", self.slug)
        wait_for(lambda: "begun" in self.messages(run_id), 120, "The run did not begin.")
        process.send_signal(signal.SIGTERM)
        process.wait(120)
        self.assertEqual(self.run_row(run_id)["status"], "succeeded")
        state = self.query("SELECT state FROM ops_worker WHERE labels ? %s", self.slug)
        self.assertEqual(state, [("stopped",)])

    def test_what_it_cannot_do_it_says(self):
        steps = [{"name": "Late", "run": "true", "when": "on_failure"}]
        late = self.queue(self.make_workflow("Late", steps=steps, labels=[self.slug]))
        for run_id, words in (
            (late, "without when"),
            (self.queue_steps("true", database=True), "worker.sh has no database"),
        ):
            code, said = self.run_once()
            self.assertEqual(code, 1, said)
            row = self.run_row(run_id)
            self.assertEqual(row["error_code"], "setup_error")
            self.assertIn(words, row["error_message"])

    def test_it_registers_once_and_finds_its_token_again(self):
        place = str(self.folder / "kept" / "token")
        code, said = self.run_once(
            ODOOOPS_TOKEN=self.registration_token(), ODOOOPS_TOKEN_FILE=place
        )
        self.assertEqual(code, 0, said)
        self.assertEqual(os.stat(place).st_mode & 0o777, 0o600)
        code, said = self.run_once(ODOOOPS_TOKEN="", ODOOOPS_TOKEN_FILE=place)
        self.assertEqual(code, 0, said)
        for token, expected in (("opwt_guessed", 3), ("", 2)):
            code, said = self.run_once(ODOOOPS_TOKEN=token, ODOOOPS_TOKEN_FILE="/nowhere")
            self.assertEqual(code, expected, said)
