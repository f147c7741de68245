"""Whoever types what README.rst says under *Try it* sees what it promises, and stops it again."""

import os
import re
import signal
import subprocess
import time
import urllib.request

from .document_blocks import blocks, commands
from .document_commands import ROOT
from .fork_case import ADDRESS, SECONDS, ForkCase


class TestTryIt(ForkCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.type(f"git clone {ADDRESS}odooops.git", cls.folder)
        cls.prepare()
        readme = (ROOT / "README.rst").read_text(encoding="utf-8")
        (block,) = (each for each in blocks("README.rst", readme) if each.heading == "Try it")
        # `make test` is typed by test_contributing, in a clone that has something to test.
        cls.run_it, _tested_there = commands(block)

    def start(self, command):
        log = (self.folder / "console.log").open("w", encoding="utf-8")
        self.addCleanup(log.close)
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def said(self):
        return (self.folder / "console.log").read_text(encoding="utf-8")

    def wait_until_said(self, process, words):
        until = time.monotonic() + SECONDS
        while words not in self.said():
            self.assertIsNone(process.poll(), self.said()[-6000:])
            self.assertLess(time.monotonic(), until, self.said()[-6000:])
            time.sleep(0.5)
        return self.said()

    def test_make_run_shows_the_demo_until_ctrl_c_which_leaves_no_process(self):
        process = self.start(self.run_it)
        said = self.wait_until_said(process, "Ctrl-C ends this.")
        # A build and a test that succeeded, and a test that failed.
        runs = re.findall(r"^  run \d+ of ([\w ]+): (\w+)", said, re.M)
        self.assertEqual(
            sorted(status for _name, status in runs), ["failed", "succeeded", "succeeded"], said
        )
        address = re.search(r"^OdooOps: +(http://\S+)$", said, re.M)[1]
        with urllib.request.urlopen(address, timeout=60) as answer:
            self.assertEqual(answer.status, 200)
            self.assertIn("login", answer.url)
        self.assertRegex(said, r"(?m)^Login: +admin$")
        self.assertRegex(said, r"(?m)^Password: +\S{12,}$")
        self.assertGreaterEqual(len(self.processes(0)), 4, "make, Odoo, worker, PostgreSQL")

        os.killpg(process.pid, signal.SIGINT)
        process.wait(SECONDS)
        self.assertNotIn("Traceback", self.said())
        self.assertEqual(self.processes(), {})
        with self.assertRaises(OSError):
            urllib.request.urlopen(address, timeout=10)
