"""With CONTRIBUTING.md alone somebody gets from a clone to a branch that passes and is pushed.

Every command of the document is typed in its order, by a contributor who makes a real change on
the way. What takes long is typed with fewer tests or smaller numbers; NARROWED says what.
"""

import re
import shutil
import subprocess

from .document_blocks import blocks, commands
from .document_commands import ROOT
from .fork_case import ForkCase

DOCUMENT = "CONTRIBUTING.md"
MODULE = "tests/test_project_homepage.py"
#: Typed in place of what stands there. The whole suite does not run inside of itself; the gates of
#: the schema and of the documents are run by test_spec_gates, CI types all of it as it stands.
NARROWED = {
    "make test": f'make test ARGS="{MODULE} tests/test_translations.py tests/test_ci_workflows.py"',
    "make bench ARGS=--quick": 'make bench ARGS="--quick --only crowd --crowd-seconds 1"',
    "make chaos ARGS=--quick": 'make chaos ARGS="--minutes 0.1 --runs 12 --workers 2"',
}
#: What a command says when it went well.
SAYS = {
    "make help": "make spec-gates",
    "make spec-gates ARGS=": "5 passed, 0 failed",
    "make spec-gates": "7 passed, 0 failed",
    "make lint": "make lint: ok",
    "make test": r"make test: ok: \d+ passed",
    "make bench": "Invariants: all hold",
    "make chaos": "0 lost, 0 accepted or executed twice, .*all promises hold",
    "make hooks": "pre-commit installed",
    "git push": "what-it-does -> what-it-does",
}
TEST = '''"""A project can say where people read about it."""

from odoo.tests import TransactionCase, tagged


@tagged("post_install", "-at_install")
class TestProjectHomepage(TransactionCase):
    def test_a_project_keeps_its_homepage(self):
        values = {"name": "Home", "slug": "home", "homepage": "https://example.com"}
        project = self.env["ops.project"].create(values)
        self.assertEqual(project.homepage, "https://example.com")
'''
FIELD = '    homepage = fields.Char(help="Where people read about the project.")\n'


def sections():
    """The commands of the document, by the heading they stand below."""
    found = {}
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    for block in blocks(DOCUMENT, text):
        found.setdefault(block.heading, []).extend(commands(block))
    return found


class TestContributing(ForkCase):
    def follow(self, typed, folder=None, **environment):
        """Type a command, as it stands or as NARROWED has it, and look at what it says."""
        said = self.type(NARROWED.get(typed, typed), folder, **environment)
        expected = [SAYS[start] for start in sorted(SAYS) if typed.startswith(start)]
        if expected:
            # The longest beginning is the one that is meant.
            self.assertRegex(said, expected[-1], typed)
        return said

    def test_from_a_clone_to_a_branch_that_passes_and_is_pushed(self):
        typed = sections()
        self.assertEqual(set(typed), {"Once", "A change", "Before the pull request"})
        self.assertEqual(
            set(NARROWED) - {each for every in typed.values() for each in every}, set()
        )
        packages, clone, enter, *once = typed["Once"]
        self.look_at_the_packages(packages)
        self.follow(clone, self.folder)
        self.assertEqual(enter, f"cd {self.clone.name}")
        self.prepare()
        for command in once:
            self.follow(command)
        self.assertEqual(self.said_by_git("branch", "--show-current"), "what-it-does")

        self.make_a_change()
        for command in typed["A change"]:
            self.follow(command)

        *checks, add, commit, push = typed["Before the pull request"]
        self.mend_what_the_table_tells(NARROWED["make test"])
        for command in checks:
            # The files stay as they are, and so does the database of the tests.
            self.follow(command, REUSE="1")
        self.follow(add)
        self.refuse_what_lint_refuses(commit)
        self.follow(commit)
        self.follow(push)
        pushed = self._git(self.fork, "show", "--stat", "--format=%an", "what-it-does")
        for name in ("models/ops_project.py", MODULE, "i18n/odooops.pot", "CHANGELOG.md"):
            self.assertIn(name, pushed)
        self.assertEqual(self.said_by_git("status", "--short"), "", "nothing else has changed")
        self.assertLessEqual(
            {each.name for each in self.home.iterdir()}, {".cache", ".npm"}, "nothing is installed"
        )

    def said_by_git(self, *arguments):
        return self._git(self.clone, *arguments).strip()

    def look_at_the_packages(self, typed):
        """Debian and Ubuntu have what is to be installed; elsewhere .ci/run is compared with it."""
        # As on a machine on which nothing is installed, so that nothing is in the way.
        fresh = "apt-get install --simulate --no-install-recommends -o Dir::State::status=/dev/null"
        command = typed.replace("sudo apt-get install", fresh)
        self.assertNotEqual(command, typed)
        # A machine whose package lists have been removed knows nothing of any package.
        known = subprocess.run(
            ["apt-cache", "show", "docker-registry"], capture_output=True, check=False
        ) if shutil.which("apt-cache") else None  # fmt: skip
        if known and known.returncode == 0:
            self.type(command, self.folder)

    def make_a_change(self):
        """What the document asks of a change: code, a test, its names in the papers."""
        for name, before, added in (
            ("models/ops_project.py", "    description = fields.Text()\n", FIELD),
            ("tests/__init__.py", "from . import test_prisma_members\n",
             "from . import test_project_homepage\n"),
            ("spec/odooops-sh/tasks.md", "  - Tests: ", f"`{MODULE}`, "),
            ("CHANGELOG.md", "First version.\n\n", "- A project names its homepage.\n"),
        ):  # fmt: skip
            path = self.clone / name
            text = path.read_text(encoding="utf-8")
            self.assertIn(before, text)
            path.write_text(text.replace(before, before + added, 1), encoding="utf-8")
        (self.clone / MODULE).write_text(TEST, encoding="utf-8")

    def mend_what_the_table_tells(self, tests):
        """The new words are not in the terms for translators: a test fails, the table helps."""
        text = (self.clone / DOCUMENT).read_text(encoding="utf-8")
        remedy = re.search(r"^\| `test_translations` \| `([^`]+)`", text, re.M)[1]
        with self.assertRaisesRegex(AssertionError, "The terms are out of date"):
            self.type(tests, REUSE="1")
        self.type(remedy)

    def refuse_what_lint_refuses(self, commit):
        """The hooks hold a commit back; the table says by which command it passes."""
        text = (self.clone / DOCUMENT).read_text(encoding="utf-8")
        remedy = re.search(r"^\| `make lint`: ruff format \| `([^`]+)`", text, re.M)[1]
        path = self.clone / MODULE
        path.write_text(TEST.replace('"home"', "'home'"), encoding="utf-8")
        self.type("git add --all")
        with self.assertRaisesRegex(AssertionError, r"ruff format\.+Failed"):
            self.type(commit)
        self.type(remedy)
        self.assertEqual(path.read_text(encoding="utf-8"), TEST)
        self.type("git add --all")
