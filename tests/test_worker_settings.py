"""The settings of a worker: where they come from and how a wrong one is refused."""

import argparse
import unittest
from pathlib import Path

from odoo.addons.odooops.worker.settings import SettingsError, add_arguments, read_settings


class TestSettings(unittest.TestCase):
    def settings(self, *argv, **environment):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return read_settings(parser.parse_args(argv), environment, {"work_dir": Path("/default")})

    def test_the_command_line_wins_over_the_environment_and_that_over_defaults(self):
        self.assertEqual(self.settings().work_dir, Path("/default"))
        self.assertEqual(self.settings(ODOOOPS_WORK_DIR="/env").work_dir, Path("/env"))
        settings = self.settings("--work-dir", "/line", ODOOOPS_WORK_DIR="/env")
        self.assertEqual(settings.work_dir, Path("/line"))

    def test_run_databases_are_made_on_the_control_planes_server_by_default(self):
        self.assertEqual(self.settings("--dsn", "dbname=x").runs_dsn, "dbname=x")

    def test_processes_are_not_allowed_unless_asked_for(self):
        self.assertFalse(self.settings().allow_process)
        self.assertTrue(self.settings("--allow-process").allow_process)
        self.assertTrue(self.settings(ODOOOPS_ALLOW_PROCESS="yes").allow_process)

    def test_a_wrong_value_is_refused_with_the_name_of_its_setting(self):
        wrong = {
            "--capacity": ("0", "two", "1000"),
            "--labels": ("bad label",),
            "--kind": ("other",),
            "--odoo": ("'unbalanced",),
            "--odoo-addons": ("/does/not/exist",),
            "--heartbeat-seconds": ("0", "nan", "soon"),
        }
        for option, values in wrong.items():
            for value in values:
                with self.assertRaisesRegex(SettingsError, f"^{option} .*"):
                    self.settings(option, value)
        with self.assertRaisesRegex(SettingsError, "^ODOOOPS_CAPACITY must be a whole number"):
            self.settings(ODOOOPS_CAPACITY="many")

    def test_commands_and_lists_are_split(self):
        settings = self.settings(
            "--odoo", "python3 '/a b/odoo'", "--labels", "docker, linux,docker"
        )
        self.assertEqual(settings.odoo, ("python3", "/a b/odoo"))
        self.assertEqual(settings.labels, ("docker", "linux"))
