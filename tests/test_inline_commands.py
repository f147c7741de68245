"""What a sentence of a document tells to type is there: targets, scripts, options, functions."""

import unittest

from .document_blocks import documents
from .inline_commands import Names, codes, problems


class TestInlineCommands(unittest.TestCase):
    maxDiff = None

    def test_every_command_in_a_sentence_names_what_is_there(self):
        texts = documents()
        self.assertGreater(sum(1 for name in texts for _ in codes(name, texts[name])), 500)
        self.assertEqual(problems(texts), [])

    def test_what_is_not_there_is_noticed(self):
        names = Names()
        for code, wrong in (
            ("make tea", "the Makefile has no target tea"),
            ("REUSE=1 make tea", "the Makefile has no target tea"),
            ('make bench ARGS="--quick --sugar"', "unknown: --sugar"),
            ('make chaos ARGS="--milk 3"', "unknown: --milk"),
            ("scripts/odooops/tea.sh", "scripts/odooops/tea.sh is no script"),
            ("tea.sh PROJECT", "tea.sh is no script"),
            ("queue.sh --hot PROJECT", "unknown: --hot"),
            ("odooops-worker brew", "odooops-worker has no command brew"),
            ("odooops-worker --allow-process --hot", "unknown: --hot"),
            ("odooops-worker register --hot", "unknown: --hot"),
            ("python -m worker --hot", "unknown: --hot"),
            ("python -m worker.tea", "there is no module worker.tea"),
            ("odoo ops_tea -d DATABASE", "odoo has no command ops_tea"),
            ("odoo ops_worker --hot", "unknown: --hot"),
            ("--hot", "unknown: --hot"),
            (".local/venv-lint/bin/tea .", "tea is not in requirements/lint.txt"),
            ("git brew", "git has no command brew"),
            (
                "docker brew",
                "docker brew: look whether there is that, and name it in PROGRAMS",
            ),
            ("brew_tea(run)", "there is no function brew_tea"),
            ("ops.brew_tea()", "there is no function ops.brew_tea"),
            # A function of Python, but none of the kernel.
            ("ops.add_arguments()", "there is no function ops.add_arguments"),
            ("benchmarks.artifacts.brew()", "there is no function benchmarks.artifacts.brew"),
        ):
            with self.subTest(code=code):
                self.assertEqual(names.problem(code), wrong)

    def test_it_stands_with_the_line_and_not_for_blocks(self):
        text = "One\n\nSay `make tea` or ``--hot``.\n\n```\n`make tea`\n```\n"
        self.assertEqual(
            problems({"docs/x.md": text}),
            [
                "docs/x.md:3: `make tea`: the Makefile has no target tea",
                "docs/x.md:3: `--hot`: unknown: --hot",
            ],
        )
