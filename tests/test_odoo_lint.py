"""Odoo's own lint, its module `test_lint`, over this addon alone.

Odoo runs it over every module of every addons path, which takes minutes and judges Odoo. Here its
test cases are the same, but the list of modules they walk through holds this addon only; those
that look at models and routes look at the registry, in which it is installed.
"""

import ast
import importlib
import os
import shutil
import tempfile
import unittest
from pathlib import Path
from unittest.mock import patch

from odoo import tools
from odoo.modules import Manifest
from odoo.tests import BaseCase, tagged

from odoo.addons import odooops

MODULE = "odooops"
LINT = "odoo.addons.test_lint.tests"
# Test modules that walk through the modules or the registry.
WALKERS = (
    *("test_docstring", "test_dunderinit", "test_i18n", "test_index", "test_jstranslate"),
    *("test_manifests", "test_markers", "test_naming", "test_onchange_domains", "test_orm_import"),
    *("test_override_signatures", "test_pofile", "test_pylint", "test_routes", "test_test_holes"),
)
# Not part of an installed addon: what the set-up makes, and material for runs.
LEFT_OUT = shutil.ignore_patterns(".git", ".local", "node_modules", "__pycache__", "demo")


@tagged("post_install", "-at_install")
class TestOdooLint(BaseCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.mkdtemp(prefix="lint-", dir=os.environ.get("ODOOOPS_TEST_DIR"))
        self.addCleanup(shutil.rmtree, folder)
        self.addon = Path(folder) / MODULE
        shutil.copytree(Path(odooops.__file__).resolve().parent, self.addon, ignore=LEFT_OUT)

    def test_the_addon_passes(self):
        manifest = ast.literal_eval((self.addon / "__manifest__.py").read_text(encoding="utf-8"))
        ours = Manifest(path=str(self.addon), manifest_content=manifest)
        for name in WALKERS:
            module = importlib.import_module(f"{LINT}.{name}")
            suite = unittest.defaultTestLoader.loadTestsFromModule(module)
            result = unittest.TestResult()
            with (
                patch.object(Manifest, "all_addon_manifests", lambda: [ours]),
                patch.object(module, "get_modules", lambda: [MODULE], create=True),
                # What pylint walks through beside the modules of addons paths.
                patch.object(type(tools.config), "root_path", property(lambda _: str(self.addon))),
            ):
                suite.run(result)
            with self.subTest(name):
                self.assertGreater(result.testsRun, 0)
                problems = [*result.failures, *result.errors, *result.skipped]
                self.assertFalse(problems, "\n".join(str(text) for _test, text in problems))
