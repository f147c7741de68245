"""Finding the modules of a checkout, what they depend on, and what is wrong with their files."""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from ..worker.errors import RunError
from ..worker.recipes import sources
from ..worker.recipes.addons import (
    checksum,
    closure,
    find_addons,
    root_module_name,
    selected_modules,
)

ODOO_MODULES = {"base": (), "web": ("base",), "mail": ("web",)}


class AddonsCase(unittest.TestCase):
    """An empty checkout and a way to put modules into it."""

    def setUp(self):
        super().setUp()
        self.checkout = Path(tempfile.mkdtemp(prefix="odooops-addons-"))
        self.addCleanup(shutil.rmtree, self.checkout)

    def add(self, folder, manifest=None, source=None):
        """Write a module's manifest, from a dictionary or as it is."""
        path = self.checkout / folder
        path.mkdir(parents=True, exist_ok=True)
        values = {"name": path.name, "version": "19.0.1.0.0", **(manifest or {})}
        (path / "__manifest__.py").write_text(repr(values) if source is None else source)
        return path

    def assert_refused(self, code, function, *arguments):
        with self.assertRaises(RunError) as caught:
            function(*arguments)
        self.assertEqual(caught.exception.code, code)
        return caught.exception.message


class TestFindAddons(AddonsCase):
    def test_modules_lie_in_the_root_and_up_to_four_folders_deep(self):
        for folder in ("one", "addons/two", "odoo/addons/three", "a/b/c/four", "a/b/c/d/five"):
            self.add(folder)
        found = find_addons(self.checkout)
        self.assertEqual(sorted(found), ["four", "one", "three", "two"])
        self.assertEqual(found["three"].folder, "odoo/addons/three")

    def test_hidden_and_packaging_folders_are_skipped(self):
        for folder in (".git/x", "setup/y/odoo/addons/y", "node_modules/z", "real"):
            self.add(folder)
        self.assertEqual(list(find_addons(self.checkout)), ["real"])

    def test_a_module_in_a_module_is_no_module(self):
        self.add("outer")
        self.add("outer/demo/inner")
        self.assertEqual(list(find_addons(self.checkout)), ["outer"])

    def test_a_repository_can_be_one_module(self):
        self.add(".")
        found = find_addons(self.checkout, "my_module")
        self.assertEqual([(a.name, a.folder) for a in found.values()], [("my_module", ".")])

    def test_the_module_nearest_to_the_root_counts(self):
        self.add("old/copy/twice", {"version": "19.0.0.1"})
        self.add("twice", {"version": "19.0.2.0"})
        self.assertEqual(find_addons(self.checkout)["twice"].version, "19.0.2.0")

    def test_links_out_of_the_checkout_are_not_followed(self):
        outside = Path(tempfile.mkdtemp(prefix="odooops-outside-"))
        self.addCleanup(shutil.rmtree, outside)
        (outside / "__manifest__.py").write_text("{}")
        (self.checkout / "linked").symlink_to(outside)
        self.assertEqual(find_addons(self.checkout), {})

    def test_a_wrong_manifest_is_a_problem_with_its_place(self):
        for source, expected in (
            ("{'name': 'x',\n 'depends': [}", "bad/__manifest__.py:2: "),
            ("{'name': 'x',\n\n 'version': open('/etc/passwd').read()}", "bad/__manifest__.py:3: "),
            ("['name']", "bad/__manifest__.py:1: the manifest is no dictionary"),
            ("{'depends': 'base'}", "bad/__manifest__.py:1: “depends” must be a list of strings"),
            ("(" * 9999, "bad/__manifest__.py:1: "),
        ):
            with self.subTest(source=source[:20]):
                self.add("bad", source=source)
                problem = find_addons(self.checkout)["bad"].problem
                self.assertIn(expected, problem)

    def test_the_name_of_a_root_module_comes_from_config_or_url(self):
        for config, url, expected in (
            ({}, "https://example.com/team/my-module.git", "my_module"),
            ({}, "git@example.com:my_module.git", "my_module"),
            ({"modules": ["real_name"]}, "/srv/git/checkout", "real_name"),
            ({"env": {"MODULES": "base, checkout"}}, "/srv/git/checkout", "checkout"),
        ):
            with self.subTest(url=url, config=config):
                config = {"modules": [], "env": {}, **config}
                self.assertEqual(root_module_name(config, url), expected)


class TestSelection(AddonsCase):
    def select(self, **config):
        return selected_modules(
            {"modules": [], "env": {}, **config}, find_addons(self.checkout), ODOO_MODULES
        )

    def test_all_installable_modules_are_the_default(self):
        self.add("b")
        self.add("a")
        self.add("no", {"installable": False})
        self.assertEqual(self.select(), ["a", "b"])

    def test_config_and_environment_name_modules(self):
        self.add("a")
        self.add("b")
        self.assertEqual(self.select(modules=["b"]), ["b"])
        self.assertEqual(self.select(env={"MODULES": "b, a b"}), ["b", "a"])
        self.assertEqual(self.select(env={"MODULES": "b"}, modules=["mail"]), ["mail"])

    def test_an_unknown_module_is_named(self):
        self.add("a")
        message = self.assert_refused("unknown_module", lambda: self.select(modules=["aa"]))
        self.assertIn("“aa” is neither in the repository nor in Odoo", message)
        self.assertIn("holds: a.", message)

    def test_an_uninstallable_module_is_named(self):
        self.add("no", {"installable": False})
        message = self.assert_refused("unknown_module", lambda: self.select(modules=["no"]))
        self.assertIn("“no” is marked as not installable", message)

    def test_a_repository_without_modules_says_so(self):
        self.assertIn("no Odoo module", self.assert_refused("no_addons", self.select))
        self.add("no", {"installable": False})
        self.assertIn("no installable", self.assert_refused("no_addons", self.select))

    def test_a_broken_manifest_matters_only_when_its_module_is_wanted(self):
        self.add("bad", source="{")
        self.add("good")
        self.assertEqual(self.select(modules=["good"]), ["good"])
        message = self.assert_refused("syntax_error", self.select)
        self.assertIn("bad/__manifest__.py:1", message)


class TestClosure(AddonsCase):
    def close(self, *modules):
        return closure(list(modules), find_addons(self.checkout), ODOO_MODULES, "19.0")

    def test_dependencies_come_first(self):
        self.add("top", {"depends": ["middle", "mail"]})
        self.add("middle", {"depends": ["web"]})
        self.assertEqual(self.close("top"), ["base", "web", "middle", "mail", "top"])

    def test_a_missing_dependency_is_explained(self):
        self.add("top", {"depends": ["web", "sale_magic"]})
        message = self.assert_refused("missing_dependency", self.close, "top")
        self.assertEqual(
            message,
            "Module “top” depends on “sale_magic”, which is neither in the repository nor in"
            " Odoo 19.0.",
        )

    def test_a_dependency_that_is_not_installable_is_explained(self):
        self.add("top", {"depends": ["no"]})
        self.add("no", {"installable": False})
        message = self.assert_refused("missing_dependency", self.close, "top")
        self.assertIn("“no”, which is not installable", message)

    def test_a_circle_is_shown(self):
        self.add("a", {"depends": ["b"]})
        self.add("b", {"depends": ["a"]})
        self.assertIn("a → b → a", self.assert_refused("missing_dependency", self.close, "a"))

    def test_a_very_long_chain_is_no_problem(self):
        for number in range(1500):
            self.add(f"m{number}", {"depends": [f"m{number + 1}" if number < 1499 else "base"]})
        self.assertEqual(len(self.close("m0")), 1501)


class TestSources(AddonsCase):
    def problems(self):
        """Check the checkout's modules as a run does, in another process."""
        folders = [str(addon.path) for addon in find_addons(self.checkout).values()]
        argv = [sys.executable, "-I", sources.__file__, str(self.checkout), *folders]
        answer = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        return [(problem["file"], problem["line"]) for problem in json.loads(answer)]

    def write_file(self, name, content):
        path = self.checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def test_good_files_pass(self):
        self.add("m")
        self.write_file("m/a.py", "# -*- coding: latin-1 -*-\nx = 'ä'\n".encode("latin-1"))
        self.write_file("m/views/a.xml", '<?xml version="1.0"?>\n<odoo/>')
        self.write_file("m/security/ir.model.access.csv", "id,name\na,b\n")
        self.assertEqual(self.problems(), [])

    def test_wrong_python_xml_and_csv_are_found_with_their_lines(self):
        self.add("m")
        self.write_file("m/a.py", "x = 1\ndef f(:\n")
        self.write_file("m/nul.py", b"x = 1\0\n")
        self.write_file("m/views/a.xml", "<odoo>\n  <record>\n</odoo>\n")
        self.write_file("m/static/src/b.xml", "<templates>\n<t></templates>")
        self.write_file("m/security/ir.model.access.csv", "id,name\na,b\nc\n")
        self.assertEqual(
            sorted(self.problems()),
            [
                ("m/a.py", 2),
                ("m/nul.py", 1),
                ("m/security/ir.model.access.csv", 3),
                ("m/static/src/b.xml", 2),
                ("m/views/a.xml", 3),
            ],
        )

    def test_what_odoo_does_not_load_is_left_alone(self):
        self.add("m")
        self.write_file("m/static/lib/a.xml", "<broken")
        self.write_file("m/static/a.py", "def")
        self.write_file("m/tests/data/a.xml", "<broken")
        self.write_file("m/.hidden/a.py", "def")
        self.assertEqual(self.problems(), [])


class TestChecksum(AddonsCase):
    def test_it_depends_on_names_and_contents_only(self):
        one, two = self.add("a/m"), self.add("b/m")
        (two / "__pycache__").mkdir()
        (two / "__pycache__" / "x.pyc").write_bytes(b"x")
        self.assertEqual(checksum(one), checksum(two))
        (two / "empty.py").touch()
        self.assertNotEqual(checksum(one), checksum(two))
