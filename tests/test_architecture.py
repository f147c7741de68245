"""Which room of the addon may use which: read from the imports, so that no room slips."""

import ast
import unittest
from pathlib import Path

from odoo.addons import odooops
from odoo.addons.odooops.devtools import lint

ROOT = Path(odooops.__file__).resolve().parent
# Packages that Odoo loads into its own processes by another way than an import of ours.
OF_ODOO = ROOT / "worker" / "recipes" / "odoo_addons"


def imports(path):
    """What a file imports: (line, name); relative names as paths below the root, with dots."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield node.lineno, ".".join((*above, *(node.module or "").split(".")))


def python_files(*rooms):
    """Files of Python in rooms of the addon, without what is material for runs."""
    return [
        path
        for room in rooms
        for path in sorted((ROOT / room).rglob("*.py"))
        if not path.is_relative_to(OF_ODOO) and not path.is_relative_to(ROOT / "demo")
    ]


class TestArchitecture(unittest.TestCase):
    def assert_imports_none(self, room, unwanted):
        files = python_files(room)
        self.assertTrue(files)
        found = [
            f"{path.relative_to(ROOT)}:{line}: {name}"
            for path in files
            for line, name in imports(path)
            if name.split(".")[0] in unwanted
        ]
        self.assertEqual(found, [])

    def test_the_worker_knows_neither_odoo_nor_the_other_rooms(self):
        # Rule: R-37
        rooms = {"controllers", "models", "wizard", "cli", "devtools", "benchmarks", "tests"}
        self.assert_imports_none("worker", {"odoo", "odooops", *rooms})

    def test_models_do_not_know_who_calls_them(self):
        self.assert_imports_none("models", {"controllers", "cli", "devtools", "benchmarks"})

    def test_the_set_up_uses_nothing_of_the_addon(self):
        addon = {"odoo", "models", "controllers", "wizard", "worker", "cli"}
        self.assert_imports_none("devtools", addon)

    def test_overrides_of_read_and_write_call_super(self):
        overrides = [
            (path.name, node)
            for path in python_files("models", "wizard")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name in ("read", "write")
        ]
        self.assertTrue(overrides)
        for name, node in overrides:
            self.assertIn("super().", ast.unparse(node), f"{name}:{node.lineno}")

    def test_files_and_functions_are_short(self):
        # Rule: R-40
        rooms = ("cli", "controllers", "devtools", "models", "scripts", "tests", "wizard", "worker")
        files = [*ROOT.glob("*.py"), *python_files(*rooms, "benchmarks", "chaos")]
        self.assertGreater(len(files), 200)
        found = []
        for path in files:
            name = path.relative_to(ROOT).as_posix()
            found += lint.too_long(name, path.read_text(encoding="utf-8"))
        self.assertEqual(found, [])
