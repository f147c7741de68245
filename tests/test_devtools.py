"""The parts of the set-up tooling that can be tried without setting anything up."""

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from odoo.addons.odooops.devtools import (
    database,
    debian,
    embedded,
    lint,
    needs,
    odoo,
    paths,
    ports,
    postgres,
    processes,
    venv,
)
from odoo.addons.odooops.devtools.errors import SetupError


class WithFolder(unittest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


class TestProcesses(WithFolder):
    def sleeper(self):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return processes.Process(child.pid, processes.start_time(child.pid))

    def test_a_process_is_known_by_number_and_start_time(self):
        process = self.sleeper()
        self.assertTrue(process.is_alive())
        self.assertFalse(processes.Process(process.pid, "another boot/1").is_alive())

    def test_a_process_that_took_over_the_number_is_not_signalled(self):
        process = self.sleeper()
        with mock.patch.object(paths, "SERVICES", self.folder):
            processes.record("odoo", processes.Process(process.pid, "another boot/1"))
            self.assertFalse(processes.stop("odoo", grace=1))
        self.assertTrue(process.is_alive())

    def test_a_recorded_service_is_stopped_and_forgotten(self):
        process = self.sleeper()
        with mock.patch.object(paths, "SERVICES", self.folder):
            processes.record("odoo", process)
            self.assertTrue(processes.stop("odoo", grace=5))
            self.assertIsNone(processes.recorded("odoo"))
        self.assertFalse(process.is_alive())

    def test_a_torn_record_counts_as_none(self):
        (self.folder / "odoo.json").write_text('{"pid": 1', encoding="ascii")
        with mock.patch.object(paths, "SERVICES", self.folder):
            self.assertIsNone(processes.recorded("odoo"))

    def test_a_failed_command_is_told_with_its_last_lines_and_its_log(self):
        log = self.folder / "log"
        argv = [sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"]
        with self.assertRaises(SetupError) as caught:
            processes.run_logged(argv, log, cwd=self.folder, failure="It failed.")
        for part in ("It failed.", "the reason", str(log)):
            self.assertIn(part, str(caught.exception))


class TestPorts(unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.server.close)
        self.port = self.server.getsockname()[1]

    def test_a_taken_port_is_passed_over(self):
        self.assertFalse(ports.is_free(self.port))
        self.assertGreater(ports.free(self.port), self.port)
        self.assertNotEqual(ports.free(self.port, preferred=self.port), self.port)

    def test_it_is_known_who_listens(self):
        self.assertIs(ports.listens(os.getpid(), self.port), True)
        self.assertIs(ports.listens(os.getppid(), self.port), False)


class TestFiles(WithFolder):
    def test_a_secret_file_is_its_owners_only(self):
        path = self.folder / "secret"
        paths.write_private(path, "x")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual([each.name for each in self.folder.iterdir()], ["secret"])

    def test_dangling_links_are_pointed_to_where_the_file_is(self):
        (self.folder / "share").mkdir()
        (self.folder / "share" / "Roboto.ttf").write_text("font", encoding="ascii")
        (self.folder / "static fonts").mkdir()
        good = self.folder / "static fonts" / "Roboto.ttf"
        good.symlink_to("../old place/Roboto.ttf")
        renamed = self.folder / "static fonts" / "web.ttf"
        renamed.symlink_to("../old place/Roboto.ttf")
        lost = self.folder / "static fonts" / "icons.otf"
        lost.symlink_to("../nowhere/icons.otf")
        self.assertEqual(debian.repair_links(self.folder), [lost])
        self.assertEqual((good.read_text(), renamed.read_text()), ("font", "font"))

    def test_a_folder_out_of_a_users_reach_is_noticed(self):
        if os.geteuid() != 0:
            self.assertTrue(embedded.can_reach(self.folder, embedded.Owner("me", os.geteuid(), 0)))
            return
        nobody = embedded.Owner("nobody", 65534, 65534)
        self.folder.chmod(0o700)
        self.assertFalse(embedded.can_reach(self.folder, nobody))
        self.folder.chmod(0o755)
        self.assertTrue(embedded.can_reach(self.folder, nobody))


class TestOdoo(WithFolder):
    def release(self, text):
        (self.folder / "odoo").mkdir(exist_ok=True)
        (self.folder / "odoo" / "release.py").write_text(text, encoding="utf-8")

    def home(self):
        with mock.patch.dict(os.environ, ODOO_HOME=str(self.folder)):
            return odoo.ensure()

    def test_odoo_home_is_used(self):
        self.release("version_info = (19, 0, 0, FINAL, 0, '')\n")
        self.assertEqual(self.home().packages, self.folder.resolve())

    def test_another_series_in_odoo_home_is_refused_by_name(self):
        for text, series in (
            ("version_info = (18, 0, 0, FINAL, 0, '')\n", "18.0"),
            ("version_info = ('saas~18', 4, 0, FINAL, 0, '')\n", "18.4"),
        ):
            with self.subTest(series):
                self.release(text)
                with self.assertRaisesRegex(SetupError, f"is Odoo {series}, .* for 19.0"):
                    self.home()

    def test_an_empty_odoo_home_is_refused(self):
        with self.assertRaisesRegex(SetupError, "holds no Odoo"):
            self.home()


class TestPostgres(unittest.TestCase):
    def test_a_server_that_cannot_serve_is_refused_with_what_to_do(self):
        postgres.check_server(15, "me", True, True, "15.1")
        for arguments, words in (
            ((14, "me", True, True, "14.9"), "version 14.9"),
            ((18, "postgres", True, True, "18.1"), "CREATE ROLE"),
            ((18, "me", False, True, "18.1"), "ALTER ROLE me CREATEDB"),
            ((18, "me", True, False, "18.1"), "ALTER ROLE me CREATEROLE"),
        ):
            with self.subTest(words), self.assertRaisesRegex(SetupError, words):
                postgres.check_server(*arguments)

    def test_pg_variables_choose_a_given_server(self):
        with mock.patch.dict(os.environ, clear=True):
            self.assertFalse(postgres.is_external())
            os.environ["PGPASSWORD"] = "x"
            self.assertFalse(postgres.is_external())
            os.environ["PGHOST"] = "db.example"
            self.assertTrue(postgres.is_external())

    def test_run_env_in_the_shell_is_not_taken_for_a_given_server(self):
        variables = {"PGHOST": "127.0.0.1", "PGPASSFILE": str(paths.PGPASS)}
        for external in (True, False):
            with (
                mock.patch.dict(os.environ, variables, clear=True),
                mock.patch("odoo.addons.odooops.devtools.state.load") as load,
            ):
                load.return_value = {"external_server": external}
                self.assertIs(postgres.is_external(), external)

    def test_nothing_of_the_shell_turns_odoo_another_way(self):
        variables = {"ODOO_RC": "x", "PGDATABASE": "x", "PYTHONPATH": "x", "HOME": "/home/me"}
        with mock.patch.dict(os.environ, variables, clear=True):
            self.assertEqual(postgres.clean_environment(), {"HOME": "/home/me"})


class TestSmallThings(unittest.TestCase):
    def test_the_addons_hash_covers_code_and_not_tests(self):
        names = ["models/ops_run.py", "tests/test_devtools.py"]
        with mock.patch.object(database, "_addon_files", return_value=names):
            both = database.files_hash()
        with mock.patch.object(database, "_addon_files", return_value=names[:1]):
            self.assertEqual(database.files_hash(), both)
        with mock.patch.object(database, "_addon_files", return_value=[]):
            self.assertNotEqual(database.files_hash(), both)

    def test_long_functions_and_files_are_named(self):
        # Rule: R-40
        body = "    pass\n" * 60
        self.assertEqual(lint.too_long("x.py", "def f():\n    pass\n"), [])
        self.assertIn("f has 61 lines", lint.too_long("x.py", f"def f():\n{body}")[0])
        self.assertIn("501 lines", lint.too_long("x.py", "x = 1\n" * 501)[0])

    def test_required_programs_are_looked_for(self):
        with mock.patch.dict(
            os.environ, ODOOOPS_REQUIRE="chromium,shellcheck", PATH="/nonexistent"
        ):
            missing = needs.missing_programs(needs.required())
        self.assertEqual(missing, ["chromium", "shellcheck"])

    def test_pip_without_network_is_not_taken_for_a_wrong_python(self):
        words = "ERROR: Could not find a version that satisfies the requirement x (from versions: "
        self.assertIsNone(venv.NOT_FOR_THIS_PYTHON.search(f"{words}none)"))
        self.assertIsNotNone(venv.NOT_FOR_THIS_PYTHON.search(f"{words}1.0, 2.0)"))

    def test_values_of_run_env_survive_a_shell(self):
        value = "a b'c$d"
        line = f'X={shlex.quote(value)}; printf %s "$X"'
        shown = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
        self.assertEqual(shown.stdout, value)
