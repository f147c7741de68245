"""The references in docs/ are those that the code yields, and every code and setting is in them."""

import re
import unittest
import unittest.mock
from pathlib import Path

from odoo.addons import odooops

from ..devtools import variables
from ..reference import codes, documents, settings
from ..worker.errors import ERROR_CODES

ROOT = Path(odooops.__file__).resolve().parent
# Read by the set-up for itself: set by the system, or by one part of it for another.
OWN_VARIABLES = {"PATH", "HOME", "PGPASSFILE", "PGPASSWORD", "PGHOSTADDR", "PGPORT", "PGSERVICE"}
OWN_VARIABLES |= {"ODOOOPS_TEST_RESULT", "ODOOOPS_SETUP_PASSWORD", "ODOOOPS_SETUP_TOKEN_FILE"}


def sources(*patterns):
    """Source texts of the checkout, {name: text}."""
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
    }


class TestReference(unittest.TestCase):
    def test_what_is_committed_is_what_make_docs_writes(self):
        self.assertEqual(documents.problems(), [])
        for name, text in documents.rendered().items():
            with self.subTest(document=name):
                committed = (ROOT / name).read_text(encoding="utf-8")
                self.assertEqual(committed, text, f"{name} has drifted: run `make docs`")

    def test_a_code_without_words_is_told(self):
        with unittest.mock.patch.dict(ERROR_CODES, {"new_code": "New."}):
            self.assertRegex(" ".join(codes.problems()), "new_code: write in .* what to do")
        with unittest.mock.patch.dict(codes.remedies.WAITING, {"old_code": ("Old.", "Nothing.")}):
            self.assertRegex(" ".join(codes.problems()), "old_code: nothing makes it")

    def test_every_error_code_of_runs_is_given_by_something(self):
        text = "\n".join(sources("worker/**/*.py", "sql/*.sql").values())
        text = text.replace((ROOT / "worker" / "errors.py").read_text(encoding="utf-8"), "")
        for code in ERROR_CODES:
            self.assertRegex(text, rf"[\"']{code}[\"']", code)

    def test_no_refusal_bears_a_code_that_is_not_listed(self):
        known = codes.refusals() | codes.door() | codes.uploads()
        self.assertIn("upload_gone", known)
        self.assertGreater(len(known), 15)
        for name, text in sources("controllers/*.py", "models/*.py").items():
            given = set(re.findall(r"(?:RpcError|_refuse)\(\s*\"([a-z_]+)\"", text))
            self.assertEqual(given - known, set(), name)

    def test_the_reasons_to_wait_are_found_in_the_kernel(self):
        self.assertEqual(codes.waiting()[0], "not_waiting")
        self.assertEqual(codes.waiting()[-1], "ready")

    def test_every_variable_that_make_reads_is_listed(self):
        read = set()
        for text in sources("devtools/*.py").values():
            read |= set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", text))
        self.assertIn("ODOO_HOME", read)
        self.assertEqual(read - OWN_VARIABLES - set(variables.GIVEN), set())
        shown = re.findall(r"echo '([A-Z_]+)[, ]", (ROOT / "Makefile").read_text(encoding="utf-8"))
        self.assertIn("PGHOST", shown)
        listed = {**variables.GIVEN, **variables.ARGUMENTS}
        self.assertEqual(set(shown) - set(listed), set())

    def test_every_setting_of_the_console_is_on_its_page(self):
        page = (ROOT / "views" / "res_config_settings_views.xml").read_text(encoding="utf-8")
        kept = settings.console()
        self.assertGreater(len(kept), 5)
        for name in kept:
            self.assertIn(f'name="{name}"', page)
