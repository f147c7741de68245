"""What a run makes of the output of Odoo: test results, JUnit XML, the cause of a failure."""

import json
import shutil
import tempfile
import unittest
import xml.etree.ElementTree as ET
from pathlib import Path

from ..worker.logs import OutputParser
from ..worker.recipes.junit import counts, read_results, write_junit
from ..worker.recipes.odoo import Causes

HEAD = "2026-11-23 10:00:00,123 4711"


def record(method, outcome, **more):
    """Return a line of the results file."""
    test_class = "odoo.addons.m.tests.test_a.TestA"
    values = {
        "id": f"{test_class}.{method}",
        "module": "m",
        "class": "TestA",
        "method": method,
        "outcome": outcome,
        "seconds": 0.25,
    }
    return json.dumps(values | more) + "\n"


class TestResults(unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(prefix="odooops-results-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.file = self.folder / "results.jsonl"

    def test_results_are_counted(self):
        outcomes = ("passed", "passed", "failed", "error", "skipped")
        lines = (record(f"test_{n}", outcome) for n, outcome in enumerate(outcomes))
        self.file.write_text("".join(lines))
        self.assertEqual(
            counts(read_results(self.file)),
            {"total": 5, "passed": 2, "failed": 1, "errors": 1, "skipped": 1},
        )

    def test_a_line_that_was_cut_off_is_left_out(self):
        self.file.write_text(record("test_1", "passed") + record("test_2", "passed")[:30])
        self.assertEqual([result.method for result in read_results(self.file)], ["test_1"])

    def test_without_a_file_there_are_no_results(self):
        self.assertEqual(read_results(self.file), [])

    def test_of_a_repeated_test_the_last_result_counts(self):
        self.file.write_text(record("test_1", "failed") + record("test_1", "passed"))
        self.assertEqual([result.outcome for result in read_results(self.file)], ["passed"])

    def test_junit_xml_is_well_formed_whatever_a_test_says(self):
        nasty = "Error: \x00\x08\x1b[31m <&>\"' ]]> \ud800 \uffff ü"
        self.file.write_text(
            record("test_1", "failed", message=nasty, traceback=nasty, file="m/a.py", line=3)
            + record("test_2", "skipped", message="no browser")
            + record("test_3", "passed")
        )
        path = self.folder / "junit.xml"
        write_junit(path, read_results(self.file), "demo #1")
        root = ET.parse(path).getroot()
        self.assertEqual(
            {key: root.get(key) for key in ("tests", "failures", "errors", "skipped", "time")},
            {"tests": "3", "failures": "1", "errors": "0", "skipped": "1", "time": "0.750"},
        )
        case = root.find("testsuite/testcase")
        self.assertEqual(case.get("classname"), "odoo.addons.m.tests.test_a.TestA")
        self.assertEqual((case.get("file"), case.get("line")), ("m/a.py", "3"))
        self.assertIn("<&>\"' ]]>", case.find("failure").text)
        self.assertIn("ü", case.find("failure").get("message"))


class TestCauses(unittest.TestCase):
    def cause(self, *lines):
        causes = Causes(lambda text: text.replace("/work/addons/", ""))
        parser = OutputParser("Install")
        for line in parser.feed("stderr", 0, "".join(line + "\n" for line in lines).encode()):
            causes.listen(line)
        return causes.sentence()

    def test_the_last_exception_of_a_critical_error_is_the_cause(self):
        sentence = self.cause(
            f"{HEAD} ERROR db odoo.sql_db: bad query: SELECT",
            f"{HEAD} CRITICAL db odoo.service.server: Failed to initialize database `db`.",
            "Traceback (most recent call last):",
            '  File "/x.py", line 1, in f',
            "ValueError: inner",
            "",
            "The above exception was the direct cause of the following exception:",
            "",
            "Traceback (most recent call last):",
            '  File "/y.py", line 2, in g',
            "odoo.tools.convert.ParseError: while parsing /work/addons/m/views/a.xml:5",
            'Field "colour" does not exist in model "m.m"',
            f"{HEAD} INFO db odoo.service.server: Initiating shutdown",
        )
        self.assertEqual(
            sentence,
            'ParseError: while parsing m/views/a.xml:5 Field "colour" does not exist in model'
            ' "m.m"',
        )

    def test_without_a_critical_error_the_first_one_counts(self):
        sentence = self.cause(
            f"{HEAD} INFO db odoo.modules: fine",
            f"{HEAD} ERROR db odoo.modules.loading: Some modules are not loaded: ['x']",
            f"{HEAD} ERROR db odoo.modules.loading: later",
        )
        self.assertEqual(sentence, "Some modules are not loaded: ['x']")

    def test_failed_tests_are_no_cause(self):
        self.assertEqual(
            self.cause(f"{HEAD} ERROR db odoo.addons.m.tests.test_a: FAIL: TestA.test_1"), ""
        )
