"""No command stands in a document that nothing has run: each has a test, or a reason why not."""

import json
import re
import shlex
import subprocess
import textwrap
import unittest
from typing import NamedTuple

from ..scripts.spec_gates import runnable
from .document_commands import ROOT

SHELLS = ("", "sh", "bash", "console")
# Sections whose blocks a test reads out of the document and runs, all of them as they stand. Its
# `fences(...)` are unpacked by number there, so a block more fails that test.
RUN = {
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
    ("docs/scripts.md", "Shell scripts"): "test_document_doors",
    ("docs/secrets.md", "The key file"): "test_install",
    ("docs/sql.md", "From nothing to a query"): "test_sql_stranger",
    ("docs/sql.md", "Close the database"): "test_install",
    ("docs/sql.md", "A worker of few rights"): "test_install",
    ("docs/sql.md", "Gateways"): "test_install",
}
_TARGETS = "it would run the tests within a test; test_ci_workflows: CI calls it on each request"
_REMOTE = "test_remote_worker reads and runs it, with a folder and an address of its own"
# Commands that no test runs as they stand, and why; what holds them instead.
NOT_RUN = {
    "CONTRIBUTING.md": {
        "sudo apt-get install git make python3 python3-venv chromium curl jq shellcheck docker.io "
        "docker-registry busybox-static": "changes the machine; .ci/run installs the same",
        "git clone https://github.com/YOU/odooops.git": "YOU is the reader",
        "cd odooops": "belongs to the clone",
        "git switch -c what-it-does": "git's own",
        'make test ARGS="tests/test_kernel_claim.py -q"': _TARGETS,
        'REUSE=1 make test ARGS="-k lease"': _TARGETS,
        "make lint": _TARGETS,
        "make test": _TARGETS,
        "make spec-gates": "test_spec_gates runs all gates",
        "make bench ARGS=--quick": "test_benchmarks runs its parts; CI runs the command",
        "make chaos ARGS=--quick": "test_chaos runs its parts; CI runs the command",
    },
    "README.rst": {
        "make run     # a console with a demo project whose runs really ran; Ctrl-C stops it": (
            "does not end; test_devtools holds its parts"
        ),
        "make test    # all tests": _TARGETS,
    },
    "docs/chaos.md": {
        "make chaos                                # 2,000 runs, 6 workers, a storm of 10 "
        "minutes": ("a quarter of an hour; test_chaos runs its parts"),
        "make chaos ARGS=--quick                   # 250 runs, about three minutes; CI does this": (
            "test_chaos runs its parts; CI runs the command"
        ),
        'make chaos ARGS="--seed 4711 --minutes 3 --runs 400 --workers 4"': (
            "minutes; test_chaos runs its parts"
        ),
    },
    "docs/scripts.md": {
        "ODOOOPS_TOKEN=oprt_… scripts/odooops/worker.sh --once --labels shell": (
            "test_worker_script runs the script, with a token of its own"
        ),
    },
    "docs/sql.md": {
        "CREATE ROLE ops_reader NOLOGIN;\n"
        "COMMENT ON ROLE ops_reader IS 'OdooOps: reads the projects of its user';": (
            "test_docs compares it with what the addon executes"
        ),
        "SELECT ops.queue_run(p_workflow_id => 7, p_git_ref => 'main', p_idempotency_key => "
        "'nightly-2026-11-23');": "the reader's workflow; test_rls_parity calls it",
    },
    "docs/tools.md": {
        "docker pull odoo:19.0": "Docker Hub; test_worker_registry pulls from its own registry",
        "docker image inspect --format '{{index .RepoDigests 0}}' odoo:19.0    # odoo@sha256:…": (
            "after the pull; test_worker_registry compares digests"
        ),
    },
    "worker/README.rst": {
        "python3 -m venv /opt/odooops": _REMOTE,
        "/opt/odooops/bin/pip install odooops_worker-*.whl": _REMOTE,
        "/opt/odooops/bin/odooops-worker register --control-url https://odoo.example.com": _REMOTE,
        "/opt/odooops/bin/odooops-worker --control-url https://odoo.example.com --allow-process": (
            _REMOTE
        ),
    },
}


class Block(NamedTuple):
    """A code block of a document: the heading above it, its language, first line and text."""

    document: str
    heading: str
    language: str
    line: int
    text: str


def documents():
    """The documents whose commands people type, by name."""
    names = ["README.rst", "worker/README.rst", "CONTRIBUTING.md", "SECURITY.md"]
    names += [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in sorted(names)}


def blocks(name, text):
    """The code blocks of one document."""
    return list((_literal if name.endswith(".rst") else _fenced)(name, text.splitlines()))


def _fenced(name, lines):
    heading, opened = "", None
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("```"):
            if opened:
                body = textwrap.dedent("\n".join(lines[opened : number - 1]))
                yield Block(name, heading, lines[opened - 1].strip("` "), opened + 1, body)
            opened = None if opened else number
        elif not opened and re.match(r"#+ ", line):
            heading = line.lstrip("# ")


def _literal(name, lines):
    heading = ""
    for number, line in enumerate(lines, 1):
        if line and set(line) == {"="}:
            heading = lines[number - 2]
        if not line.rstrip().endswith("::") or line.startswith(".."):
            continue
        indent = len(line) - len(line.lstrip())
        # An item of a list begins behind its number.
        indent += len(re.match(r"(\d+\. )?", line.lstrip())[0])
        body = []
        for text in lines[number:]:
            if text.strip() and not text.startswith(" " * (indent + 1)):
                break
            body.append(text)
        text = textwrap.dedent("\n".join(body)).strip("\n")
        yield Block(name, heading, "json" if _is_json(text) else "", number + 2, text)


def _is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def commands(block):
    """The commands of a block; a quoted text or a backslash goes on in the next line."""
    if block.language == "sql" or re.match("CREATE ", block.text):
        return [block.text]
    if block.language not in SHELLS:
        return []
    found, begun = [], ""
    for line in block.text.splitlines():
        if not begun and block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        begun += line
        if begun.strip() and not begun.endswith("\\") and _is_whole(begun):
            found.append(begun)
        elif begun.strip():
            begun += "\n"
            continue
        begun = ""
    return found + ([begun] if begun else [])


def _is_whole(text):
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True


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
        (typed,) = [each for each in NOT_RUN["CONTRIBUTING.md"] if "apt-get" in each]
        script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        installed = set(re.findall(r"\[[\w-]+\]=([\w.-]+)", script))
        self.assertIn("chromium", installed)
        self.assertEqual(set(typed.split()[3:]), installed | {"python3-venv"})

    def test_targets_and_git_commands_that_are_not_run_are_there(self):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split()
        typed = [command for excused in NOT_RUN.values() for command in excused]
        made = {found[1] for each in typed if (found := re.match(r"(?:\w+=\w+ )?make (\S+)", each))}
        self.assertIn("lint", made)
        self.assertEqual(made - set(targets), set())
        asked = {found[1] for each in typed if (found := re.match(r"git (\S+)", each))}
        self.assertEqual(asked, {"clone", "switch"})
        for name in asked:
            ended = subprocess.run(["git", name, "-h"], capture_output=True, text=True, check=False)
            self.assertRegex(ended.stdout, f"^usage: git {name} ")
