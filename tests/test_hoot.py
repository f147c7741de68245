"""The console's components by their own tests, in a real browser: Odoo's Hoot runs those of
``static/tests``."""

import re
from pathlib import Path

from odoo.tests import HttpCase, tagged

FOLDER = Path(__file__).parent.parent / "static" / "tests"
SUITE = "@odooops"


def hoot_id(name):
    """The id by which Hoot selects a suite."""
    number = 0
    for char in name:
        number = ((number << 5) - number + ord(char)) & 0xFFFFFFFF
    return f"{number:08x}"


@tagged("post_install", "-at_install")
class TestHoot(HttpCase):
    def test_all_tests_of_the_components_pass(self):
        files = [path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.test.js")]
        written = sum(len(re.findall(r"^test\(", text, re.MULTILINE)) for text in files)
        self.assertTrue(written)
        with self.assertLogs("odoo", "INFO") as logs:
            self.browser_js(
                f"/web/tests?headless&loglevel=2&preset=desktop&timeout=30000&id={hoot_id(SUITE)}",
                "",
                login="admin",
                timeout=300,
                success_signal="[HOOT] Test suite succeeded",
                error_checker=lambda message: "[HOOT]" not in message,
            )
        passed = re.findall(r"Passed (\d+) tests", "\n".join(logs.output))
        self.assertEqual([int(count) for count in passed], [written], "Not all of them ran.")
