"""Gates of the papers: each is broken on purpose in a copy of the checkout, and says where."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from odoo.addons import odooops

ROOT = Path(odooops.__file__).resolve().parent
SPEC = "spec/odooops-sh"
LEFT_OUT = shutil.ignore_patterns(
    *(".git", ".local", "node_modules", "__pycache__", ".ruff_cache", ".pytest_cache", "generated")
)


class GateCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(tempfile.mkdtemp(prefix="gates-", dir=os.environ.get("ODOOOPS_TEST_DIR")))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.copy = cls.folder / "copy"
        shutil.copytree(ROOT, cls.copy, symlinks=True, ignore=LEFT_OUT)

    def gate(self, *names):
        """Run gates over the copy by their command; exit code and lines."""
        done = subprocess.run(
            [sys.executable, "-B", "-m", "scripts.spec_gates", *names, "--root", str(self.copy)],
            cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout.splitlines()

    @contextlib.contextmanager
    def changed(self, name, text):
        """The copy with another text in a file, or without it (None), for the block."""
        path = self.copy / name
        before = path.read_bytes() if path.exists() else None
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        try:
            yield
        finally:
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)

    def text(self, name):
        return (self.copy / name).read_text(encoding="utf-8")

    def line_of(self, name, part, text=None):
        lines = (text or self.text(name)).splitlines()
        return next(number for number, line in enumerate(lines, 1) if part in line)

    def assert_found(self, gate, *findings):
        """The gate fails with exactly these lines, and says so in its last one."""
        code, lines = self.gate(gate)
        self.assertEqual(sorted(lines[:-2]), sorted(findings))
        self.assertEqual((code, lines[-1]), (1, "0 passed, 1 failed"))

    def broken(self, gate, name, old, new, *findings):
        """Replace one place of a file and expect findings; ``{line}`` is the line of the place."""
        text = self.text(name)
        self.assertIn(old, text, name)
        changed = text.replace(old, new, 1)
        line = changed[: text.index(old)].count("\n") + 1
        with self.subTest(gate=gate, new=new[:60]), self.changed(name, changed):
            self.assert_found(gate, *(each.format(name=name, line=line) for each in findings))


class TestSpecGates(GateCase):
    def test_the_checkout_passes_every_gate(self):
        code, lines = self.gate()
        self.assertEqual((code, lines[-1]), (0, "7 passed, 0 failed"), "\n".join(lines))

    def test_a_gate_that_does_not_exist_is_refused(self):
        done = subprocess.run(
            [sys.executable, "-B", "-m", "scripts.spec_gates", "beauty"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.assertEqual(done.returncode, 2)
        self.assertIn("beauty", done.stderr)

    def test_bundle(self):
        with self.changed(f"{SPEC}/plan.md", None):
            self.assert_found("bundle", f"{SPEC}/plan.md:1: the file is missing; write it")
        with self.changed(f"{SPEC}/notes.md", "Notes."):
            self.assert_found(
                "bundle",
                f"{SPEC}/notes.md:1: the bundle has a file too many; "
                "keep only constitution.md, prd.md, plan.md, tasks.md in a bundle",
            )
        with self.changed("spec/notes.md", "Notes."):
            self.assert_found(
                "bundle",
                "spec/notes.md:1: a file outside of a bundle; move it into a bundle, or remove it",
            )
        with self.changed(f"{SPEC}/prd.md", ""):
            self.assert_found("bundle", f"{SPEC}/prd.md:1: the file is empty; write it")

    def test_structure(self):
        self.broken(
            "structure", f"{SPEC}/prd.md", "# PRD", "# Product",
            "{name}:1: the first line is not the title `# PRD`; begin the file with it",
        )  # fmt: skip
        self.broken(
            "structure", f"{SPEC}/constitution.md", "## Non-Negotiable Rules", "## Rules",
            "{name}:1: the section `## Non-Negotiable Rules` is missing; add it",
        )  # fmt: skip
        self.broken(
            "structure", f"{SPEC}/tasks.md", "  - Owner: kernel engineer\n", "",
            f"{SPEC}/tasks.md:{self.line_of(f'{SPEC}/tasks.md', '**T-01 ')}: "
            "T-01 has no `Owner:`; add `  - Owner: …`",
        )  # fmt: skip
        self.broken(
            "structure", f"{SPEC}/tasks.md", "- [x] **T-02", "- [y] **T-02",
            "{name}:{line}: a checkbox that is no task; write `- [ ] **T-01 Title**`",
        )  # fmt: skip
        self.broken(
            "structure", f"{SPEC}/tasks.md", "## Phase 2: Access and console", "## Phase 2: Access",
            "{name}:{line}: `Phase 2: Access` is no phase of plan.md; give both the same heading",
        )  # fmt: skip
        plan = f"{SPEC}/plan.md"
        self.broken(
            "structure", plan, "- **Files:** `worker/`, `cli/`", "",
            f"{plan}:{self.line_of(plan, '## Phase 3')}: the phase has no `**Files:**`; add the "
            "line",
        )  # fmt: skip

    def test_substance(self):
        for word in ("TODO", "to be decided", "placeholder", "???"):
            self.broken(
                "substance", f"{SPEC}/prd.md", "## Problem\n", f"## Problem\n{word}",
                f"{{name}}:{self.line_of(f'{SPEC}/prd.md', '## Problem') + 1}: `{word}` stands for "
                "something unwritten; write it, or take the sentence out",
            )  # fmt: skip
        self.broken(
            "substance", f"{SPEC}/plan.md", "- **Files:**", "-\n- **Files:**",
            "{name}:{line}: an empty list item; write it, or remove it",
        )  # fmt: skip
        self.broken(
            "substance", f"{SPEC}/prd.md", "## Acceptance criteria", "## More\n\n## Acceptance "
            "criteria",
            "{name}:{line}: `More` is empty; fill it, or remove it",
        )  # fmt: skip
        self.broken(
            "substance", f"{SPEC}/prd.md", "## Smart Success Criteria\n",
            "## Smart Success Criteria\n\n- It is fast.\n",
            f"{{name}}:{self.line_of(f'{SPEC}/prd.md', '## Smart') + 2}: a criterion without a "
            "figure; "
            "say how much, how many or how fast",
        )  # fmt: skip
        with self.changed(f"{SPEC}/plan.md", "# Plan\n\n## Phase 1: All\n\nWe work.\n"):
            self.assert_found(
                "substance",
                f"{SPEC}/plan.md:1: 1 lines of content, 10 are the least; write what the file is "
                "for",
            )

    def test_constitution(self):
        name = f"{SPEC}/constitution.md"
        self.broken(
            "constitution", name, "- **R-01** A run MUST", "- A run MUST",
            "{name}:{line}: a MUST without an id; begin the item with `**R-01**`, a new number",
            *self.unknown_rule("R-01"),
        )  # fmt: skip
        self.broken(
            "constitution", name, "- **R-25** A project MUST keep", "- **R-25** A project keeps",
            "{name}:{line}: R-25 has no MUST; say what must be so, or take the id away",
        )  # fmt: skip
        self.broken(
            "constitution", name, "### A run\n", "### A run\n\n- **R-99** Everything MUST be "
            "well.\n",
            f"{{name}}:{self.line_of(name, '### A run') + 2}: no test that runs names R-99; "
            "write `# Rule: R-99` into the test that holds it",
        )  # fmt: skip
        self.broken(
            "constitution", name, "## Scope\n", "## Scope\n\nIt MUST be good.\n",
            f"{{name}}:{self.line_of(name, '## Scope') + 2}: a MUST outside of the rules; "
            "make it an item with an id",
        )  # fmt: skip

    def unknown_rule(self, rule):
        """Findings for every test that names the rule, once it is gone."""
        for path in sorted((self.copy / "tests").glob("test_*.py")):
            for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if text.strip() == f"# Rule: {rule}":
                    yield (
                        f"tests/{path.name}:{number}: {rule} is no rule of a constitution; "
                        "correct the id, or write the rule"
                    )

    def test_constitution_wants_tests_that_run(self):
        name, module = f"{SPEC}/constitution.md", "tests/test_models_access.py"
        rule = self.line_of(name, "**R-25**")
        missing = (
            f"{name}:{rule}: no test that runs names R-25; "
            "write `# Rule: R-25` into the test that holds it"
        )
        signature = "    def test_a_project_keeps_an_owner(self):"
        line = self.line_of(module, "# Rule: R-25")
        self.broken(
            "constitution", module, signature, f'    @unittest.skip("later")\n{signature}', missing,
            f"{module}:{line + 1}: test_a_project_keeps_an_owner is skipped; a rule needs a test "
            "that runs",
        )  # fmt: skip
        self.broken(
            "constitution", module, "        # Rule: R-25\n", "", missing,
        )  # fmt: skip
        init = "tests/__init__.py"
        with self.changed(
            init, self.text(init).replace("from . import test_models_schedule\n", "")
        ):
            schedule = "tests/test_models_schedule.py"
            self.assert_found(
                "constitution",
                f"{name}:{self.line_of(name, '**R-12**')}: no test that runs names R-12; "
                "write `# Rule: R-12` into the test that holds it",
                f"{schedule}:{self.line_of(schedule, '# Rule: R-12')}: "
                "test_two_schedulers_at_the_same_time_queue_once is never run; "
                "import its module in tests/__init__.py",
            )

    def test_traceability_of_features(self):
        prd, tasks = f"{SPEC}/prd.md", f"{SPEC}/tasks.md"
        self.broken(
            "traceability", prd, "### F-01 Projects", "### F-98 Other\n\nX.\n\n### F-01 Projects",
            "{name}:{line}: no task serves F-98; name it in a task's `Features:`",
        )  # fmt: skip
        self.broken(
            "traceability", prd, "### F-18 Search in logs", "### F-18 Search in logs (planned)",
            "{name}:{line}: F-18 is told as planned, but a task of it is done; "
            "take `(planned)` out of the heading",
        )  # fmt: skip
        self.broken(
            "traceability", tasks, "- Features: F-18\n", "- Features: F-18, F-97\n",
            "{name}:{line}: F-97 is no feature of the PRD; correct the id, or add it",
        )  # fmt: skip
        task = self.line_of(tasks, "**T-83 ")
        self.broken(
            "traceability", tasks, "- [x] **T-83 ", "- [ ] **T-83 ",
            f"{prd}:{self.line_of(prd, '### F-18')}: F-18 is told as there, but its tasks are "
            "open; "
            "end the heading with `(planned)`",
            f"{tasks}:{task}: T-83 is open and docs/roadmap.md does not name it; "
            "say there why it is open, or tick it",
        )  # fmt: skip

    def test_traceability_of_tests_and_code(self):
        tasks = f"{SPEC}/tasks.md"
        where = f"add it to the `{{}}:` of its task in {tasks}"
        self.broken(
            "traceability", tasks, "`tests/test_retention.py`", "`tests/test_retain.py`",
            "{name}:{line}: `tests/test_retain.py` is no test that is collected; "
            "correct the path, or open the task again",
            f"tests/test_retention.py:1: no task names this test; {where.format('Tests')}",
        )  # fmt: skip
        self.broken(
            "traceability", tasks, "`sql/40_queue.sql`", "`sql/41_queue.sql`",
            "{name}:{line}: `sql/41_queue.sql` is not there; correct the path, or open the task "
            "again",
            f"sql/40_queue.sql:1: no task names this code; {where.format('Code')}",
        )  # fmt: skip
        with self.changed("models/ops_new.py", '"""New."""\n'):
            self.assert_found(
                "traceability",
                f"models/ops_new.py:1: no task names this code; {where.format('Code')}",
            )
        self.broken(
            "traceability", "docs/roadmap.md", "# Roadmap\n", "# Roadmap\n\nT-01 is open.\n",
            "docs/roadmap.md:3: T-01 is done; take it out of the roadmap, or open the task",
        )  # fmt: skip

    def test_schema(self):
        todo = (
            "the document is not what the database says; run `make schema`, "
            "and commit what it writes"
        )
        for name in ("docs/schema/erd.mmd", "docs/schema/schema.dbml", "prisma/schema.prisma"):
            self.broken(
                "schema", name, "upgrade_advisories", "upgrade_advice", f"{{name}}:{{line}}: {todo}"
            )
        with self.changed("docs/schema/erd.mmd", None):
            self.assert_found("schema", f"docs/schema/erd.mmd:1: {todo}")

    def test_documents_with_links_and_names_that_lead_nowhere(self):
        name = "docs/roadmap.md"
        for text, wrong in (
            ("[a](nowhere.md)", "the link `nowhere.md` leads nowhere; correct it, or remove it"),
            ("[a](sql.md#no-such)", "`sql.md#no-such`: there is no heading `no-such`; "
                "link a heading that is there"),
            ("`sql/99_nothing.sql`", "`sql/99_nothing.sql` is not there; correct the path, or "
            "remove it"),
            ("`make tea`", "`make tea` is no target of the Makefile; correct it, or remove it"),
            ("`test_kernel_nothing`", "`test_kernel_nothing` is no test module; name one of "
            "tests/"),
        ):  # fmt: skip
            added = f"{self.text(name)}\n{text}\n"
            line = len(added.splitlines())
            with self.subTest(text=text), self.changed(name, added):
                self.assert_found("documents", f"{name}:{line}: {wrong}")
        readme = f"{self.text('README.rst')}\n`There <docs/nothing.md>`_\n"
        with self.changed("README.rst", readme):
            self.assert_found(
                "documents",
                f"README.rst:{len(readme.splitlines())}: the link `docs/nothing.md` leads nowhere; "
                "correct it, or remove it",
            )

    def test_documents_with_commands_that_fail(self):
        name = "docs/roadmap.md"
        line = len(self.text(name).splitlines()) + 4
        for block, wrong in (
            ("```sh\necho before\nfalse\n```", "the block fails: exit code 1, before"),
            ("```console\n$ test 1 = 2\nno output\n```", "the block fails: exit code 1"),
            ("```sql\nSELECT no_such_function();\n```", "the block fails: function "
            "no_such_function() "
                "does not exist"),
        ):  # fmt: skip
            with self.changed(name, f"{self.text(name)}\n<!-- run -->\n{block}\n"):
                code, lines = self.gate("documents")
                self.assertEqual((code, len(lines)), (1, 3), lines)
                self.assertTrue(lines[0].startswith(f"{name}:{line}: {wrong}"), lines[0])
                self.assertTrue(lines[0].endswith("make it work as written, or take the mark away"))
        with self.changed(name, f"{self.text(name)}\n<!-- run -->\nNo block.\n"):
            self.assert_found(
                "documents",
                f"{name}:{line - 2}: a mark without a block; put it right before the block it is "
                "for",
            )

    def test_marked_commands_really_run(self):
        seen = self.folder / "seen"
        block = f"\n<!-- run -->\n```sh\npwd > {seen}; test -f Makefile\n```\n"
        with self.changed("docs/roadmap.md", self.text("docs/roadmap.md") + block):
            code, _lines = self.gate("documents")
        self.assertEqual(code, 0)
        where = Path(seen.read_text(encoding="utf-8").strip())
        self.assertEqual(where.name, "odooops")
        self.assertFalse(where.exists(), "the scratch copy is removed")
