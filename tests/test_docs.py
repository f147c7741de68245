"""Documents say what the code does: tables that stand in both are compared."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from odoo.addons import odooops
from odoo.addons.odooops.controllers.methods import PAGE, PEOPLE
from odoo.addons.odooops.models.sql_roles import SQL_ROLES, create_statements
from odoo.addons.odooops.worker.errors import ERROR_CODES
from odoo.addons.odooops.worker.workflow_schema import CONFIG_SCHEMA

ROOT = Path(odooops.__file__).resolve().parent


def table_rows(document, heading):
    """First and second cell of the table whose first heading is ``heading``."""
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        first, second = (cell.strip() for cell in line.strip("|").split("|", 1))
        rows[first.strip("`")] = second.strip("| ")
    return rows


class TestDocs(unittest.TestCase):
    def test_every_error_code_is_explained(self):
        self.assertEqual(table_rows("docs/workflows.md", "error code"), ERROR_CODES)

    def test_every_key_of_the_configuration_is_documented(self):
        self.assertEqual(
            set(table_rows("docs/workflows.md", "key")), set(CONFIG_SCHEMA["properties"])
        )

    def test_the_parameters_of_methods_are_those_they_take(self):
        rows = table_rows("docs/jsonrpc.md", "method")
        self.assertEqual(set(rows), set(PEOPLE))
        for method, cells in rows.items():
            named = set(re.findall(r"`([a-z_]+)\??`", cells.split(" | ")[0]))
            if re.search(r"\bpage\b", cells.split(" | ")[0]):
                named |= set(PAGE)
            self.assertEqual(named, set(PEOPLE[method]), method)

    def test_scripts_take_what_their_document_says(self):
        text = (ROOT / "docs" / "scripts.md").read_text(encoding="utf-8")
        documented = re.findall(r"^\| `(\w+\.sh[^`]*)` \|", text, re.M)
        # Defaults stand in the document's brackets, and among the lines of the help.
        documented = sorted(re.sub(r"=[^\]]*", "", usage) for usage in documented)
        helps = {}
        for script in sorted((ROOT / "scripts" / "odooops").glob("*.sh")):
            if os.access(script, os.X_OK):
                done = subprocess.run(
                    [script, "--help"], capture_output=True, text=True, check=True
                )
                helps[script.name] = done.stdout
        self.assertGreater(len(helps), 7)
        usages = [
            line for name, shown in helps.items() for line in shown.splitlines()
            if re.match(rf"{re.escape(name)}( [-A-Z\[]|$)", line)
        ]  # fmt: skip
        self.assertEqual(documented, sorted(usages))
        variables = set(re.findall(r"\b(?:[A-Z0-9]+_[A-Z_]+|WORKFLOW|SLEEP)\b", "".join(
            shown.partition("Environment:")[2] for shown in helps.values()
        )))  # fmt: skip
        self.assertIn("ODOOOPS_URL", variables)
        self.assertEqual(variables - set(re.findall(r"`([A-Z0-9_]+)`", text)), set())

    def test_the_roles_of_the_sql_door_are_those_that_are_made(self):
        self.assertEqual(
            table_rows("docs/sql.md", "role"),
            {role.name: role.purpose for role in SQL_ROLES},
        )
        text = (ROOT / "docs" / "sql.md").read_text(encoding="utf-8")
        self.assertIn(";\n".join(create_statements(SQL_ROLES[0])), text)

    def test_systemd_takes_the_example_unit_and_leaves_runs_alone(self):
        text = (ROOT / "docs" / "odooops-worker.service").read_text(encoding="utf-8")
        self.assertIn("\nKillMode=process\n", text)
        if not shutil.which("systemd-analyze"):
            return
        # Programs must exist for systemd to be content.
        text = text.replace("ExecStart=odooops-worker", "ExecStart=/bin/sleep")
        with tempfile.TemporaryDirectory() as folder:
            unit = Path(folder) / "odooops-worker.service"
            unit.write_text(text.replace("User=odooops", "User=root"), encoding="utf-8")
            done = subprocess.run(
                ["systemd-analyze", "verify", "--man=no", str(unit)],
                capture_output=True,
                text=True,
                check=False,
            )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
