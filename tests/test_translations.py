"""The terms for translators, `i18n/odooops.pot`, are those of the sources and of the database.

Odoo's export walks through whole addons paths and follows links, so that it never ends in a
checkout, which links to itself below `.local`. Here it sees a copy of the addon and nothing else.
"""

import io
import os
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import polib

from odoo import tools
from odoo.tests import TransactionCase, tagged
from odoo.tools.translate import trans_export

import odoo.addons
from odoo.addons import odooops

MODULE = "odooops"
ROOT = Path(odooops.__file__).resolve().parent
LEFT_OUT = shutil.ignore_patterns(".git", ".local", "node_modules", "__pycache__", "repository")


def terms(text):
    """What a file of terms says: each term with the places where it stands, without dates."""
    return {
        (entry.msgctxt, entry.msgid): sorted(place for place, _line in entry.occurrences)
        for entry in polib.pofile(text)
    }


@tagged("post_install", "-at_install")
class TestTranslations(TransactionCase):
    def export(self):
        """The file as Odoo exports it."""
        folder = tempfile.mkdtemp(prefix="terms-", dir=os.environ.get("ODOOOPS_TEST_DIR"))
        self.addCleanup(shutil.rmtree, folder)
        shutil.copytree(ROOT, Path(folder) / "addons" / MODULE, ignore=LEFT_OUT)
        buffer = io.BytesIO()
        with (
            patch.object(odoo.addons, "__path__", [str(Path(folder) / "addons")]),
            patch.object(type(tools.config), "root_path", property(lambda _: folder)),
            # Data files that bring translations, of which there are none, by the real path.
            patch("odoo.tools.translate.get_datafile_translation_path", lambda _module: ()),
        ):
            self.assertTrue(trans_export(None, [MODULE], buffer, "po", self.env))
        return buffer.getvalue().decode()

    def test_the_committed_terms_are_those_of_the_addon(self):
        exported = self.export()
        committed = (ROOT / "i18n" / f"{MODULE}.pot").read_text(encoding="utf-8")
        found, wanted = terms(committed), terms(exported)
        self.assertGreater(len(wanted), 500)
        # Where it stays until the next `make test`.
        fresh = Path(os.environ["ODOOOPS_TEST_DIR"]) / f"{MODULE}.pot"
        fresh.write_text(exported, encoding="utf-8")
        told = f"The terms are out of date: cp {fresh} i18n/{MODULE}.pot"
        self.assertEqual(sorted(found.keys() - wanted.keys(), key=str), [], told)
        self.assertEqual(sorted(wanted.keys() - found.keys(), key=str), [], told)
        self.assertEqual(found, wanted, told)
