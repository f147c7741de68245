"""Somebody who knows nothing follows docs/sql.md to the first query, command by command."""

import secrets
import shutil
import tempfile
import uuid

from odoo.tests import tagged
from odoo.tests.common import get_db_name

from . import document_commands
from .database_case import administer
from .kernel_case import KernelCase
from .sql_door_case import skip_unless_grantable

DOCUMENT = "docs/sql.md"


@tagged("post_install", "-at_install")
class TestStranger(KernelCase):
    def setUp(self):
        super().setUp()
        skip_unless_grantable(self.db, "ops_reader")
        self.role = f"alice_{uuid.uuid4().hex[:8]}"
        self.addCleanup(administer, "DROP ROLE IF EXISTS {}", self.role)
        self.password = secrets.token_urlsafe(16)
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def follow(self, commands, **environment):
        words = {"alice": self.role, "DATABASE": get_db_name()}
        typed = f"{self.password}\n" * 2
        return document_commands.run(commands, words, self.folder, typed, **environment)

    def test_from_createuser_to_a_query_that_shows_only_their_projects(self):
        foreign = self.make_project()
        make, query = document_commands.fences(DOCUMENT, "From nothing to a query")
        self.follow(make)
        self.assertIn("0 rows", self.follow(query, PGPASSWORD=self.password))

        with self.environment() as env:
            user = env["res.users"].create(
                {
                    "name": "Alice",
                    "login": self.role,
                    "group_ids": [(4, env.ref("odooops.group_user").id)],
                }
            )
            login = env["ops.sql.login"].create({"role_name": self.role, "user_id": user.id})
            env["ops.project.membership"].create(
                {"project_id": self.project, "user_id": user.id, "role": "viewer"}
            )
            ids = user.id, login.id
        self.addCleanup(self.forget, *ids)
        shown = self.follow(query, PGPASSWORD=self.password)
        self.assertIn("1 row", shown)
        self.assertIn(self.slug(self.project), shown)
        self.assertNotIn(self.slug(foreign), shown)

    def slug(self, project_id):
        return self.db.value("SELECT slug FROM ops_project WHERE id = %s", project_id)

    def forget(self, user_id, login_id):
        # A project keeps an owner, says the model.
        self.db.rows("DELETE FROM ops_project_membership WHERE user_id = %s", user_id)
        with self.environment() as env:
            env["ops.sql.login"].browse(login_id).unlink()
            env["res.users"].browse(user_id).unlink()
