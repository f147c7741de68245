"""Workflows and hooks for contributors: what they call is there, what they use is pinned."""

import re
import shlex
import unittest
from pathlib import Path

import yaml

from odoo.addons import odooops
from odoo.addons.odooops.scripts.spec_gates.__main__ import GATES

ROOT = Path(odooops.__file__).resolve().parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"^\s*- uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def targets():
    """Targets of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split())


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs():
    """Every job as (its name with the file's, its content)."""
    for path in WORKFLOWS:
        for name, job in load(path)["jobs"].items():
            yield f"{path.name}: {name}", job


class TestCiWorkflows(unittest.TestCase):
    def odoo_home(self, job_name):
        file_name = job_name.partition(":")[0]
        (path,) = (path for path in WORKFLOWS if path.name == file_name)
        return load(path)["env"]["ODOO_HOME"]

    def test_there_is_a_job_for_everything_a_pull_request_has_to_pass(self):
        called = {step["run"] for _name, job in jobs() for step in job["steps"] if step.get("run")}
        self.assertLessEqual(
            {
                *("make lint", "make test", "make spec-gates", "make spec-gates ARGS=schema"),
                *("make bench ARGS=--quick", "make chaos ARGS=--quick"),
            },
            called,
        )

    def test_commands_are_targets_of_the_makefile_and_nothing_else(self):
        # Rule: R-39
        known = targets()
        for name, job in jobs():
            for step in job["steps"]:
                self.assertEqual("run" in step, "uses" not in step, name)
                if "run" not in step:
                    continue
                with self.subTest(job=name, run=step["run"]):
                    program, target, *arguments = shlex.split(step["run"])
                    self.assertEqual(program, "make")
                    self.assertIn(target, known)
                    self.assertNotIn("${{", step["run"], "nothing is put into a shell's text")
                    if target == "spec-gates" and arguments:
                        _name, _equals, gates = arguments[0].partition("=")
                        self.assertLessEqual(set(gates.split()), set(GATES))

    def test_actions_are_pinned_by_commit(self):
        # Rule: R-39
        uses = [
            line
            for path in WORKFLOWS
            for line in path.read_text(encoding="utf-8").splitlines()
            if "uses:" in line
        ]
        self.assertGreater(len(uses), 5)
        for line in uses:
            self.assertRegex(line, PINNED)
        # One action, one commit: an update that forgets a place is seen.
        self.assertEqual(len({line.strip() for line in uses}), 3)

    def test_rights_are_the_least(self):
        # Rule: R-39
        for path in WORKFLOWS:
            with self.subTest(workflow=path.name):
                workflow = load(path)
                self.assertEqual(workflow["permissions"], {"contents": "read"})
                # YAML 1.1 reads the key `on` as true.
                self.assertEqual(set(workflow[True]), {"pull_request", "push"})
                self.assertIsNone(workflow[True]["pull_request"], "on every pull request")
                self.assertIs(workflow["concurrency"]["cancel-in-progress"], True)
                self.assertNotIn("secrets.", path.read_text(encoding="utf-8"))
        for name, job in jobs():
            with self.subTest(job=name):
                self.assertNotIn("permissions", job)
                self.assertLessEqual(job["timeout-minutes"], 60)
                self.assertNotIn("continue-on-error", job)
                checkouts = [
                    step["with"]
                    for step in job["steps"]
                    if step.get("uses", "").startswith("actions/checkout@")
                ]
                for checkout in checkouts:
                    self.assertIs(checkout["persist-credentials"], False)
                # Ours, and Odoo's where it is needed, in the place that ODOO_HOME names.
                self.assertNotIn("repository", checkouts[0])
                others = [(other["repository"], other["ref"]) for other in checkouts[1:]]
                is_lint = name.endswith(": lint")
                self.assertEqual(others, [] if is_lint else [("odoo/odoo", "19.0")])
                for other in checkouts[1:]:
                    self.assertEqual(
                        self.odoo_home(name), f"${{{{ github.workspace }}}}/{other['path']}"
                    )

    def test_what_tests_need_of_the_history_is_fetched(self):
        release = (ROOT / "tests" / "first_release").read_text(encoding="ascii").strip()
        self.assertRegex(release, "^[0-9a-f]{40}$")
        tested = {
            name: job["steps"][0]["with"].get("fetch-depth")
            for name, job in jobs()
            if any(step.get("run", "").startswith("make test") for step in job["steps"])
        }
        # By itself the action fetches one commit; test_update takes that one out of the history.
        self.assertEqual(tested, {"ci.yml: test": 0, "ci.yml: test-system-postgresql": 0})

    def test_caches_are_those_of_these_requirements(self):
        for name, job in jobs():
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/cache@"):
                    self.assertIn("hashFiles('requirements/*.txt'", step["with"]["key"], name)
                    self.assertNotIn("restore-keys", step["with"], name)
                elif step.get("uses", "").startswith("actions/setup-python@"):
                    for part in step["with"]["cache-dependency-path"].split():
                        self.assertTrue(list(ROOT.glob(part)), f"{name}: {part}")

    def test_the_tests_run_with_old_and_new_python_and_postgresql(self):
        test = dict(jobs())
        own = test["ci.yml: test"]
        given = test["ci.yml: test-system-postgresql"]
        self.assertEqual(own["strategy"]["matrix"]["python"], ["3.11", "3.13"])
        self.assertNotIn("PGHOST", own["env"])
        self.assertEqual(
            [
                (each["python"], each["postgresql"])
                for each in given["strategy"]["matrix"]["include"]
            ],
            [("3.11", "15"), ("3.13", "17")],
        )
        self.assertEqual(given["env"]["PGHOST"], "127.0.0.1")
