"""No command stands in a document that nothing has run: each has a test, or a reason why not."""

import re
import unittest

from ..scripts.spec_gates import runnable
from .document_blocks import blocks, commands, documents
from .document_commands import ROOT

# Sections whose blocks a test reads out of the document and runs, all of them as they stand; where
# something else is typed, the test declares it. A block more fails that test.
RUN = {
    ("CONTRIBUTING.md", "A change"): "test_contributing",
    ("CONTRIBUTING.md", "Before the pull request"): "test_contributing",
    ("CONTRIBUTING.md", "Once"): "test_contributing",
    ("README.rst", "Try it"): "test_try_it",
    ("README.rst", "Your own repository"): "test_document_doors",
    ("docs/audit.md", "For the auditor"): "test_document_doors",
    ("docs/audit.md", "The key"): "test_document_doors",
    ("docs/install.md", "The addon"): "test_install",
    ("docs/install.md", "The first worker"): "test_install",
    ("docs/jsonrpc.md", "Keys"): "test_document_doors",
    ("docs/jsonrpc.md", "Methods for workers"): "test_document_doors",
    ("docs/operate.md", "Backing up"): "test_operate",
    ("docs/operate.md", "Restoring"): "test_operate",
    ("docs/operate.md", "Updating"): "test_install",
    ("docs/scripts.md", "A worker in shell"): "test_worker_script",
    ("docs/scripts.md", "Shell scripts"): "test_document_doors",
    ("docs/secrets.md", "The key file"): "test_install",
    ("docs/sql.md", "From nothing to a query"): "test_sql_stranger",
    ("docs/sql.md", "Close the database"): "test_install",
    ("docs/sql.md", "Functions"): "test_sql_identity",
    ("docs/sql.md", "Roles"): "test_sql_roles",
    ("docs/sql.md", "A worker of few rights"): "test_install",
    ("docs/sql.md", "Gateways"): "test_install",
    ("docs/tools.md", "The official image of Odoo"): "test_worker_registry",
    ("worker/README.rst", "OdooOps worker"): "remote_case",
}
# Commands that no test runs as they stand, and why; what holds them instead.
NOT_RUN = {
    "docs/chaos.md": {
        "make chaos                                # 2,000 runs, 6 workers, a storm of 10 "
        "minutes": "a quarter of an hour; test_chaos reads its numbers",
        "make chaos ARGS=--quick                   # 250 runs, about three minutes; CI does this": (
            "test_chaos reads its numbers; test_contributing types it with smaller ones"
        ),
        'make chaos ARGS="--seed 4711 --minutes 3 --runs 400 --workers 4"': (
            "minutes; test_chaos reads its numbers, test_contributing types such a command"
        ),
    },
}


def unheld(name, text):
    """Commands of a document that no test runs and no reason excuses."""
    marked = {each.line for each in runnable.blocks(name, text.splitlines())[0]}
    return [
        f"{name}:{block.line}: {command}"
        for block in blocks(name, text)
        if block.line not in marked and (name, block.heading) not in RUN
        for command in commands(block)
        if command not in NOT_RUN.get(name, {})
    ]


class TestDocumentCommands(unittest.TestCase):
    maxDiff = None

    def test_every_command_is_run_by_a_test_or_says_why_not(self):
        texts = documents()
        self.assertGreater(len(texts), 20)
        self.assertEqual([line for name in texts for line in unheld(name, texts[name])], [])

    def test_a_new_command_is_noticed_in_every_kind_of_document(self):
        for name, added in (
            ("docs/roadmap.md", "\n```\nrm -r everything\n```\n"),
            ("docs/scripts.md", "\n- so\n\n  ```console\n  $ rm -r everything\n  gone\n  ```\n"),
            ("docs/sql.md", "\n```sql\nDROP TABLE everything\n```\n"),
            ("README.rst", "\nSo::\n\n    rm -r everything\n"),
        ):
            with self.subTest(name=name):
                (found,) = unheld(name, documents()[name] + added)
                self.assertRegex(found, r"^[\w./]+:\d+: (rm -r|DROP TABLE) everything$")

    def test_what_is_named_as_run_or_excused_is_there(self):
        texts = documents()
        found = {name: blocks(name, text) for name, text in texts.items()}
        sections = {(name, each.heading) for name, every in found.items() for each in every}
        self.assertEqual(set(RUN) - sections, set())
        for (name, heading), module in RUN.items():
            source = (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")
            self.assertIn(f'"{name}"', source, module)
            self.assertIn(f'"{heading}"', source, module)
        for name, excused in NOT_RUN.items():
            there = {command for block in found[name] for command in commands(block)}
            self.assertEqual(set(excused) - there, set(), name)
            for reason in excused.values():
                for module in re.findall(r"\btest_\w+", reason):
                    self.assertTrue((ROOT / "tests" / f"{module}.py").is_file(), module)

    def test_what_contributors_install_is_what_ci_installs(self):
        document = "CONTRIBUTING.md"
        (typed,) = (
            command
            for block in blocks(document, documents()[document])
            for command in commands(block)
            if "apt-get" in command
        )
        script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        installed = set(re.findall(r"\[[\w-]+\]=([\w.-]+)", script))
        self.assertIn("chromium", installed)
        self.assertEqual(set(typed.split()[3:]), installed | {"python3-venv"})
