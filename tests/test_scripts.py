"""The shell door: the scripts against a running server, each with jq and with python3 alone."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from odoo.tests import tagged

from .http_case import DoorCase
from .shell_path import make_path

SCRIPTS = Path(__file__).parent.parent / "scripts" / "odooops"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"bytes of an artifact\n" * 1000
NEEDED = (
    *("bash", "cat", "curl", "cut", "dirname", "env", "grep", "mktemp", "mv", "od", "rm", "sed"),
    *("sha256sum", "sleep", "tr", "wc"),
)


@tagged("post_install", "-at_install")
class TestScripts(DoorCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.paths = {
            tool: make_path(cls.folder / tool, (*NEEDED, tool)) for tool in ("jq", "python3")
        }

    def environment(self, key="developer", tool=None, **values):
        paths = [self.paths[tool]] if tool else [path for path in self.paths.values() if path]
        return {
            "PATH": paths[0],
            "TMPDIR": str(self.folder),
            "ODOOOPS_URL": self.base_url(),
            "ODOOOPS_TOKEN": self.keys.get(key, key),
            "ODOOOPS_RETRIES": "1",
            **values,
        }

    def run_script(self, script, *arguments, **environment):
        """Run a script; the completed process, its output as text."""
        self.env.flush_all()
        with self.allow_requests(all_requests=True):
            process = subprocess.run(
                [shutil.which("bash"), SCRIPTS / script, *map(str, arguments)],
                env=self.environment(**environment),
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        self.env.invalidate_all()
        return process

    def assertEnded(self, process, code, stdout=None, stderr=""):
        self.assertEqual(process.returncode, code, process.stderr)
        if stdout is not None:
            self.assertEqual(process.stdout, stdout)
        self.assertIn(stderr, process.stderr)

    def each_tool(self):
        """The tools for JSON that this host has; a test runs its script with each."""
        return [tool for tool, path in self.paths.items() if path]

    def store_artifact(self, run):
        """An artifact's file; the arguments to record it."""
        root = self.folder / "store"
        (root / str(run.id)).mkdir(parents=True)
        (root / str(run.id) / "data.txt").write_bytes(CONTENT)
        self.env["ir.config_parameter"].set_param("odooops.artifact_root", str(root))
        return {
            "artifact_key": "out/data.txt",
            "artifact_url": f"filesystem:{run.id}/data.txt",
            "content_type": "text/plain",
            "size_bytes": len(CONTENT),
            "checksum": hashlib.sha256(CONTENT).hexdigest(),
        }

    # -- queueing -----------------------------------------------------------------------

    def test_env_create_prints_the_run_and_nothing_else(self):
        for tool in self.each_tool():
            process = self.run_script(
                "env_create.sh", "door-test", "test", "main", COMMIT, tool=tool
            )
            self.assertEnded(process, 0)
            self.assertRegex(process.stdout, r"^[1-9]\d*\n$")
            run = self.env["ops.run"].browse(int(process.stdout))
            self.assertEqual(
                (run.workflow_type, run.git_ref, run.git_commit, run.trigger, run.metadata),
                ("test", "main", COMMIT, "api", {"environment": "dev"}),
            )

    def test_env_create_takes_the_type_and_the_environment_or_leaves_them(self):
        for arguments, expected in (
            (("main", COMMIT), ("build", "main", COMMIT, "dev")),
            (("main", COMMIT, "prod"), ("build", "main", COMMIT, "prod")),
            (("test", COMMIT), ("build", "test", COMMIT, "dev")),
            (
                ("deploy", "v1", "-", 'é "x" $(id) `id`'),
                ("deploy", "v1", False, 'é "x" $(id) `id`'),
            ),
        ):
            for tool in self.each_tool():
                process = self.run_script("env_create.sh", "door-test", *arguments, tool=tool)
                self.assertEnded(process, 0)
                run = self.env["ops.run"].browse(int(process.stdout))
                self.assertEqual(
                    (run.workflow_type, run.git_ref, run.git_commit, run.metadata["environment"]),
                    expected,
                )

    def test_the_idempotency_key_gives_the_same_run(self):
        runs = {
            self.run_script(
                "env_create.sh", "door-test", "main", COMMIT, IDEMPOTENCY_KEY=key
            ).stdout
            for key in ("k1", "k1", "k2")
        }
        self.assertEqual(len(runs), 2)

    def test_wrong_arguments_are_explained(self):
        for script, *arguments in (
            ("env_create.sh",),
            ("env_create.sh", "demo", "main"),
            ("env_create.sh", "demo", "dance", "main", COMMIT),
            ("env_create.sh", "demo", "main", "abc"),
            ("env_create.sh", "--nonsense"),
            ("env_create.sh", "demo", "build", "main", COMMIT, "dev", "more"),
            ("env_wait_ready.sh",),
            ("env_wait_ready.sh", "x"),
            ("env_wait_ready.sh", "1", "soon"),
            ("env_wait_ready.sh", "0"),
            ("env_destroy.sh", "1; rm -rf /"),
            ("logs.sh", "-x", "1"),
            ("logs.sh", "-f"),
            ("logs.sh", "--level", "loud", "1"),
            ("logs.sh", "--since", "2026-01-01T00:00:00Z", "1"),
            ("logs.sh", "--search"),
            ("logs.sh", "--search", "word", "-f"),
            ("logs.sh", "--search", "word", "run"),
            ("run.sh",),
            ("run.sh", "dance"),
            ("run.sh", "build"),
            ("artifacts.sh",),
            ("queue.sh", "a", "b"),
            ("test_e2e.sh", "x"),
        ):
            with self.subTest(script=script, arguments=arguments):
                process = self.run_script(script, *arguments)
                self.assertEnded(process, 2, "", script)

    def test_help_is_given(self):
        for script in SCRIPTS.glob("*.sh"):
            if script.name != "lib.sh":
                for option in ("-h", "--help"):
                    process = self.run_script(script.name, option, ODOOOPS_URL="")
                    self.assertEnded(process, 0)
                    self.assertTrue(process.stdout.startswith(script.name), process.stdout)

    def test_wrong_settings_are_explained(self):
        for values, word in (
            ({"ODOOOPS_URL": ""}, "ODOOOPS_URL"),
            ({"ODOOOPS_URL": "ftp://x"}, "ODOOOPS_URL"),
            ({"ODOOOPS_TOKEN": ""}, "ODOOOPS_TOKEN"),
            ({"ODOOOPS_TOKEN": 'x"\nurl = "http://evil"'}, "ODOOOPS_TOKEN"),
            ({"ODOOOPS_DB": "a b"}, "ODOOOPS_DB"),
        ):
            self.assertEnded(self.run_script("queue.sh", **values), 2, "", word)

    def test_a_server_that_refuses_or_is_away_gives_exit_code_3(self):
        self.assertEnded(self.run_script("queue.sh", key="wrong"), 3, "", "API key")
        self.assertEnded(self.run_script("queue.sh", ODOOOPS_DB="nowhere"), 3, "", "ODOOOPS_DB")
        process = self.run_script("queue.sh", ODOOOPS_URL="http://127.0.0.1:9")
        self.assertEnded(process, 3, "", "cannot be reached")
        process = self.run_script("queue.sh", ODOOOPS_URL=self.base_url() + "/web")
        self.assertEnded(process, 3, "", "no JSON-RPC")
        for person in ("viewer", "foreign"):
            process = self.run_script("env_create.sh", "door-test", "main", COMMIT, key=person)
            self.assertEnded(process, 3, "", "role")
        run = self.queue()
        self.assertEnded(self.run_script("logs.sh", run.id, key="foreign"), 3, "")

    def test_the_key_is_not_among_the_arguments_of_any_process(self):
        """A curl that notes how it was called stands before the real one."""
        spy = self.folder / "spy"
        spy.mkdir()
        (spy / "curl").write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" >>{spy}/arguments\nexec {shutil.which("curl")} "$@"\n'
        )
        (spy / "curl").chmod(0o755)
        path = f"{spy}:{self.environment()['PATH']}"
        self.assertEnded(self.run_script("queue.sh", PATH=path), 0)
        arguments = (spy / "arguments").read_text()
        self.assertIn("/ops/jsonrpc", arguments)
        self.assertNotIn(self.keys["developer"], arguments)

    # -- waiting and reading --------------------------------------------------------------

    def test_waiting_shows_the_log_and_prints_the_first_artifact(self):
        run = self.queue()
        artifact = self.store_artifact(run)
        self.finish(run, lines=["first *", "tab\tand ünï", "last"], artifacts=[artifact])
        for tool in self.each_tool():
            process = self.run_script("env_wait_ready.sh", run.id, 5, 1, tool=tool)
            url = f"{self.base_url()}/ops/artifacts/{run.artifact_ids.id}\n"
            self.assertEnded(process, 0, url)
            self.assertRegex(process.stderr, r"^\d{4}-\S+Z info first \*\n.*info tab\tand ünï\n")
            process = self.run_script("logs.sh", run.id, tool=tool)
            self.assertEnded(process, 0, stderr="")
            messages = re.findall(r"info (.*)", process.stdout)
            self.assertEqual(messages, ["first *", "tab\tand ünï", "last"])

    def test_logs_are_searched(self):
        older, newer = self.queue(), None
        self.finish(older, lines=["a needle", "hay", 'needle "two"'])
        newer = self.queue()
        self.finish(newer, lines=["Needle"])
        for tool in self.each_tool():
            process = self.run_script("logs.sh", "--search", "needle", tool=tool)
            self.assertEnded(process, 0, stderr="")
            found = re.findall(r"^(\d+) (\d+) \S+Z info (.*)$", process.stdout, re.MULTILINE)
            self.assertEqual(
                found,
                [
                    (str(newer.id), "1", "Needle"),
                    (str(older.id), "1", "a needle"),
                    (str(older.id), "3", 'needle "two"'),
                ],
            )
            process = self.run_script("logs.sh", "--search", '"needle two"', older.id, tool=tool)
            self.assertEqual(len(process.stdout.splitlines()), 1, process.stdout)
            process = self.run_script(
                "logs.sh", "--search", "needle", "--level", "warn,error", tool=tool
            )
            self.assertEnded(process, 0, "")
            process = self.run_script("logs.sh", "--level", "error", older.id, tool=tool)
            self.assertEnded(process, 0, "")
        self.assertEnded(self.run_script("logs.sh", "--search", "-x"), 3, "", "word that must")

    def test_waiting_for_a_run_without_artifacts_prints_success(self):
        run = self.queue()
        self.finish(run)
        self.assertEnded(self.run_script("env_wait_ready.sh", run.id), 0, "success\n")

    def test_a_failed_run_names_its_failing_tests(self):
        for failed_tests in (
            ["test_booking"],
            [{"name": "test_booking", "file": "t.py", "line": 5}],
        ):
            run = self.queue()
            self.finish(
                run,
                exit_code=1,
                error_code="tests_failed",
                error_message="1 of 9 tests failed.",
                metadata={"failed_tests": failed_tests},
            )
            for tool in self.each_tool():
                process = self.run_script("env_wait_ready.sh", run.id, tool=tool)
                self.assertEnded(process, 1, "", "tests_failed")
                self.assertIn("1 of 9 tests failed.", process.stderr)
                self.assertIn("test_booking", process.stderr)

    def test_waiting_ends_in_time_and_tells_why_the_run_is_queued(self):
        run = self.queue()
        self.project.paused = True
        process = self.run_script("env_wait_ready.sh", run.id, 1, 1)
        self.assertEnded(process, 1, "", "paused")
        self.assertIn("has not ended after 1 seconds", process.stderr)

    def test_following_goes_on_until_the_run_ends(self):
        """A worker goes on between two looks of the script."""
        run = self.queue()
        epoch = self.claim(run)
        self.kernel("append_run_log", run_id=run.id, epoch=epoch, level="info", message="begun")
        self.env.flush_all()
        with self.allow_requests(all_requests=True):
            process = subprocess.Popen(
                [shutil.which("bash"), SCRIPTS / "env_wait_ready.sh", str(run.id), "60", "1"],
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.addCleanup(process.kill)
            first = process.stderr.readline()
            time.sleep(0.3)  # The request that brought the line has ended.
            with self.registry.cursor() as cr:
                env = self.env(cr=cr)
                env["ops.kernel"]._call(
                    "append_run_log", run_id=run.id, epoch=epoch, level="warn", message="on it"
                )
                env["ops.kernel"]._call(
                    "complete_workflow_run", run_id=run.id, epoch=epoch, exit_code=0
                )
            stdout, stderr = process.communicate(timeout=30)
        self.assertIn("info begun", first)
        self.assertIn("warn on it", stderr)
        self.assertEqual((process.returncode, stdout), (0, "success\n"))

    def test_run_queues_and_waits(self):
        self.project.paused = True
        process = self.run_script(
            "run.sh", "test", "main", ODOOOPS_PROJECT="door-test", MAX_WAIT="0", SLEEP="1"
        )
        self.assertEnded(process, 1, "", "is queued")
        self.assertEqual(self.env["ops.run"].search([], limit=1).git_ref, "main")

    def test_the_queue_is_listed_with_reasons(self):
        runs = [self.queue() for _ in range(2)]
        self.project.paused = True
        for tool in self.each_tool():
            process = self.run_script("queue.sh", "door-test", tool=tool)
            self.assertEnded(process, 0)
            lines = process.stdout.splitlines()
            self.assertEqual([int(line.split()[0]) for line in lines], [run.id for run in runs])
            self.assertIn("paused", lines[0])

    # -- canceling ------------------------------------------------------------------------

    def test_destroying_cancels_and_says_so(self):
        run = self.queue(user="developer")
        for tool in self.each_tool():
            process = self.run_script("env_destroy.sh", run.id, tool=tool)
            self.assertEnded(process, 0, f"cancelled:{run.id}\n", "")
        self.assertEqual(run.status, "canceled")
        self.assertEnded(self.run_script("env_wait_ready.sh", run.id), 1, "", "canceled")

    def test_destroying_waits_for_the_worker(self):
        run = self.queue(user="developer")
        epoch = self.claim(run)
        process = self.run_script("env_destroy.sh", run.id, 1, 1)
        self.assertEnded(process, 1, "", "has not confirmed")
        self.assertTrue(run.cancel_requested_at)
        self.kernel(
            "complete_workflow_run",
            run_id=run.id,
            epoch=epoch,
            exit_code=None,
            error_code="canceled",
            error_message="Canceled.",
        )
        self.assertEnded(self.run_script("env_destroy.sh", run.id), 0, f"cancelled:{run.id}\n")

    def test_what_has_ended_is_not_canceled(self):
        run = self.queue(user="developer")
        self.finish(run)
        self.assertEnded(self.run_script("env_destroy.sh", run.id), 3, "", "already ended")

    # -- artifacts ------------------------------------------------------------------------

    def test_artifacts_are_listed_and_downloaded_with_their_checksum(self):
        run = self.queue()
        artifact = self.store_artifact(run)
        self.finish(run, artifacts=[artifact])
        for tool in self.each_tool():
            process = self.run_script("artifacts.sh", run.id, tool=tool)
            self.assertEnded(
                process,
                0,
                f"{run.artifact_ids.id} {artifact['checksum']} {len(CONTENT)} out/data.txt\n",
            )
            process = self.run_script("artifacts.sh", run.id, "out/data.txt", tool=tool)
            self.assertEnded(process, 0, "data.txt\n")
            self.assertEqual((self.folder / "data.txt").read_bytes(), CONTENT)
            (self.folder / "data.txt").unlink()
        process = self.run_script("artifacts.sh", run.id, "out/data.txt", "-")
        self.assertEnded(process, 0, CONTENT.decode())
        self.assertEnded(self.run_script("artifacts.sh", run.id, "nothing"), 3, "", "no artifact")

    def test_altered_bytes_are_not_kept(self):
        run = self.queue()
        self.finish(run, artifacts=[self.store_artifact(run)])
        (self.folder / "store" / str(run.id) / "data.txt").write_bytes(b"altered")
        process = self.run_script("artifacts.sh", run.id, "out/data.txt", "mine.txt")
        self.assertEnded(process, 3, "", "checksum")
        self.assertFalse([path for path in self.folder.iterdir() if path.name.startswith("mine")])
        (self.folder / "store" / str(run.id) / "data.txt").unlink()
        process = self.run_script("artifacts.sh", run.id, "out/data.txt", "mine.txt")
        self.assertEnded(process, 3, "", "not in the artifact store")

    def test_the_scripts_pass_shellcheck(self):
        if not shutil.which("shellcheck"):
            self.skipTest("shellcheck is not installed")
        subprocess.run(
            [
                "shellcheck",
                "-x",
                *(f"scripts/odooops/{path.name}" for path in SCRIPTS.glob("*.sh")),
            ],
            cwd=SCRIPTS.parent.parent,
            env=os.environ,
            check=True,
        )
