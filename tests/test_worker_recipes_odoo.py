"""The recipes with a real Odoo, a real database and real repositories.

One installation takes ten to twenty seconds; that is why each of these tests looks at many things.
"""

import json
import shutil
import tempfile
import textwrap
import unittest
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

from ..devtools import demo_repository
from ..worker import checkout, database
from ..worker.errors import RunError
from ..worker.recipes import get_recipe
from .recipe_job import DSN, LocalJob
from .test_worker_checkout import git

PREFIX = database.name_prefix("test recipes")


class RecipeCase(unittest.TestCase):
    """Runs a recipe as the execution does."""

    def setUp(self):
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(prefix="odooops-recipe-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def run_recipe(self, kind, url, ref="main", **config):
        """Return (job, outcome)."""
        job = LocalJob(self.folder, url, ref=ref, kind=kind, config=config)
        job.commit = checkout.fetch(job).commit
        with database.run_database(DSN, PREFIX, job.run_id, job.epoch) as made:
            job.use_database(made)
            return job, get_recipe(kind).run(job)

    def repository(self, **files):
        """Make a repository with a module “trial” of these files, and return its folder."""
        repository = self.folder / "repository"
        sources = {
            "__manifest__.py": "{'name': 'Trial', 'version': '19.0.1.0.0', 'author': 'Test',"
            " 'license': 'LGPL-3', 'data': %r}"
            % [name for name in files if name.startswith("views/")],
            "__init__.py": "",
            **files,
        }
        for name, source in sources.items():
            path = repository / "addons" / "trial" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(source))
        git(repository, "init", "--quiet", "-b", "main")
        git(repository, "add", "--all")
        git(repository, "commit", "--quiet", "-m", "A trial")
        return repository


class TestDemoRepository(RecipeCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.demo_folder = Path(tempfile.mkdtemp(prefix="odooops-demo-"))
        cls.addClassCleanup(shutil.rmtree, cls.demo_folder)
        cls.demo = demo_repository.build(cls.demo_folder / "repository")

    def test_building_again_gives_the_same_commits(self):
        again = demo_repository.build(self.demo_folder / "again")
        self.assertEqual({**again, "path": self.demo["path"]}, self.demo)
        self.assertEqual(demo_repository.build(self.demo_folder / "again"), again)

    def test_a_folder_of_somebody_else_is_not_replaced(self):
        theirs = self.folder / "theirs"
        theirs.mkdir()
        (theirs / "precious.txt").write_text("mine")
        with self.assertRaises(FileExistsError):
            demo_repository.build(theirs)
        self.assertTrue((theirs / "precious.txt").exists())

    def test_the_good_branch_builds(self):
        job, outcome = self.run_recipe("build", self.demo["path"], modules=["demo_equipment"])
        self.assertEqual((outcome.exit_code, outcome.error_code), (0, None), job.output[-3000:])
        manifest = json.loads(job.artifacts["manifest.json"])
        self.assertEqual(manifest["commit"]["commit"], self.demo["main"])
        self.assertEqual(manifest["commit"]["subject"], "Book equipment by the hour")
        self.assertEqual(manifest["requested_modules"], ["demo_equipment"])
        self.assertTrue(manifest["installed"])
        self.assertRegex(manifest["odoo_version"], r"^19\.")
        self.assertRegex(manifest["postgresql_version"], r"^\d+\.")
        (module,) = manifest["modules"]
        self.assertEqual((module["name"], module["version"]), ("demo_equipment", "19.0.1.0.0"))
        self.assertRegex(module["sha256"], "^[0-9a-f]{64}$")
        self.assertNotIn(job.database.password, job.output)

    def test_the_broken_branch_fails_and_names_the_test(self):
        job, outcome = self.run_recipe("test", self.demo["path"], "broken-booking")
        self.assertEqual((outcome.exit_code, outcome.error_code), (1, "tests_failed"))
        self.assertEqual(
            outcome.error_message,
            "1 of 9 tests failed: TestBooking.test_overlap_is_refused (demo_equipment_booking)",
        )
        numbers = {"total": 9, "passed": 8, "failed": 1, "errors": 0, "skipped": 0}
        self.assertEqual(outcome.metadata["tests"], numbers)
        (failed,) = outcome.metadata["failed_tests"]
        self.assertIn(failed["name"], outcome.error_message)
        self.assertEqual(failed["file"], "demo_equipment_booking/tests/test_booking.py")
        self.assertIn("ValidationError not raised", failed["message"])
        ((kind, message, payload),) = job.events
        self.assertEqual(kind, "error")
        self.assertIn("test_overlap_is_refused", message)
        self.assertEqual(payload, failed)
        junit = ET.fromstring(job.artifacts["junit.xml"])
        self.assertEqual((junit.get("tests"), junit.get("failures")), ("9", "1"))

    def test_the_good_branch_passes_its_tests(self):
        _job, outcome = self.run_recipe("test", self.demo["path"], self.demo["main"])
        self.assertEqual((outcome.exit_code, outcome.error_code), (0, None))
        self.assertEqual(outcome.metadata["tests"]["passed"], 9)


class TestWhatCanGoWrong(RecipeCase):
    def run_recipe(self, kind, url, ref="main", **config):
        # The trial modules need only base; the web client's modules would take their time.
        return super().run_recipe(kind, url, ref, env={"ODOO_SKIP_AUTO_INSTALL": "1"}, **config)

    def test_every_way_a_test_can_end_is_told_apart(self):
        repository = self.repository(
            **{
                "tests/__init__.py": "from . import test_ways",
                "tests/test_ways.py": """
                    import unittest
                    from odoo.tests import HttpCase, TransactionCase, tagged

                    class TestWays(TransactionCase):
                        def test_error(self):
                            raise RuntimeError("broken \\x00 ü")
                        def test_failure_in_subtests(self):
                            for number in range(3):
                                with self.subTest(number=number):
                                    self.assertEqual(number, 1)
                        def test_skipped(self):
                            self.skipTest("not today")
                        @unittest.skip("never")
                        def test_skipped_by_decorator(self):
                            pass
                        def test_passed(self):
                            with self.subTest("fine"):
                                pass
                        def test_cleanup_fails(self):
                            self.addCleanup(lambda: 1 / 0)

                    class TestSetUp(TransactionCase):
                        @classmethod
                        def setUpClass(cls):
                            super().setUpClass()
                            raise ValueError("no set-up")
                        def test_never_run(self):
                            pass

                    @tagged("post_install", "-at_install")
                    class TestAfterwards(TransactionCase):
                        def test_passed(self):
                            pass
                """,
            }
        )
        job, outcome = self.run_recipe("test", repository)
        self.assertEqual(outcome.error_code, "tests_failed", job.output[-3000:])
        numbers = {"total": 8, "passed": 2, "failed": 1, "errors": 3, "skipped": 2}
        self.assertEqual(outcome.metadata["tests"], numbers)
        failed = {entry["method"]: entry for entry in outcome.metadata["failed_tests"]}
        self.assertEqual(
            sorted(failed),
            ["setUpClass", "test_cleanup_fails", "test_error", "test_failure_in_subtests"],
        )
        self.assertEqual(failed["setUpClass"]["class"], "TestSetUp")
        self.assertEqual(failed["test_error"]["file"], "addons/trial/tests/test_ways.py")
        self.assertEqual(failed["test_error"]["line"], 7)
        self.assertTrue(failed["test_failure_in_subtests"]["message"].startswith("(number=0)"))
        ET.fromstring(job.artifacts["junit.xml"])

    def test_a_module_that_cannot_be_installed_says_why(self):
        repository = self.repository(
            **{
                "views/trial_views.xml": """\
                    <odoo>
                        <record id="view" model="ir.ui.view">
                            <field name="name">trial</field>
                            <field name="model">res.partner</field>
                            <field name="arch" type="xml">
                                <form><field name="colour" /></form>
                            </field>
                        </record>
                    </odoo>
                """
            }
        )
        _job, outcome = self.run_recipe("build", repository)
        self.assertEqual(outcome.error_code, "install_failed")
        self.assertIn("Odoo did not install trial: ParseError:", outcome.error_message)
        self.assertIn("addons/trial/views/trial_views.xml:2", outcome.error_message)
        self.assertIn("colour", outcome.error_message)

    def test_what_is_wrong_before_odoo_installs_takes_no_time(self):
        repository = self.repository()
        for files, code, expected in (
            ({"a.py": "def f(:"}, "syntax_error", "addons/trial/a.py:1: "),
            ({"__manifest__.py": "{"}, "syntax_error", "addons/trial/__manifest__.py:1: "),
            (
                {"__manifest__.py": "{'name': 'x', 'depends': ['sale_magic']}"},
                "missing_dependency",
                "“trial” depends on “sale_magic”, which is neither in the repository nor in Odoo"
                " 19.0",
            ),
            (
                {
                    "__manifest__.py": "{'name': 'x', 'external_dependencies':"
                    " {'python': ['no_such_package'], 'bin': ['no-such-program']}}"
                },
                "missing_dependency",
                "“trial” needs the Python package “no_such_package”; module “trial” needs the"
                " program “no-such-program”",
            ),
            (
                {"../requirements.txt": "./no-such-folder\n"},
                "missing_dependency",
                "requirements.txt could not be installed: ",
            ),
        ):
            with self.subTest(files=files):
                for name, source in files.items():
                    (repository / "addons" / "trial" / name).write_text(source)
                git(repository, "add", "--all")
                git(repository, "commit", "--quiet", "-m", "Break it")
                with self.assertRaises(RunError) as caught:
                    self.run_recipe("build", repository)
                self.assertEqual(caught.exception.code, code, caught.exception.message)
                self.assertIn(expected, caught.exception.message)
                git(repository, "reset", "--quiet", "--hard", "HEAD~1")

    def test_requirements_are_installed_for_the_run_and_no_tests_are_no_success(self):
        wheel = self.folder / "only_for_runs-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as package:
            info = "only_for_runs-1.0.dist-info"
            package.writestr("only_for_runs.py", "ANSWER = 42\n")
            package.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            package.writestr(
                f"{info}/METADATA", "Metadata-Version: 2.1\nName: only_for_runs\nVersion: 1.0\n"
            )
            package.writestr(f"{info}/RECORD", "")
        repository = self.repository(
            **{
                "__init__.py": "import only_for_runs\nassert only_for_runs.ANSWER == 42",
                "../requirements.txt": f"--no-index\n{wheel}\n",
            }
        )
        job, outcome = self.run_recipe("test", repository)
        self.assertEqual((outcome.exit_code, outcome.error_code), (1, "no_tests"), job.output)
        self.assertEqual(outcome.error_message, "No test was run: none matches “/trial”.")
        self.assertTrue(json.loads(job.artifacts["manifest.json"])["installed"])
        self.assertNotIn("junit.xml", job.artifacts)
        with self.assertRaises(ImportError):
            __import__("only_for_runs")
