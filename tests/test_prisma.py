"""A TypeScript program reads the kernel's views through the generated Prisma client."""

import hashlib
import uuid

from psycopg2.extensions import quote_ident

from odoo.tests import tagged

from odoo.addons.odooops.devtools.schema import catalog

from . import prisma_program
from .kernel_case import KernelCase

LISTED = 1000  # as in prisma/src/visible.ts


@tagged("post_install", "-at_install")
class TestPrisma(KernelCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        prisma_program.compiled()

    def setUp(self):
        super().setUp()
        self.catalog = catalog.read(self.db.connection)
        self.fill()

    def fill(self):
        """One row at least in every view, and one pair in every relation."""
        worker_id, run_id, epoch = self.start()
        self.db.call("append_run_log", run_id=run_id, level="info", message="Grüße", epoch=epoch)
        artifact = self.db.call(
            "add_run_artifact", run_id=run_id, epoch=epoch, artifact_key="a.log",
            artifact_url="filesystem:a.log", content_type="text/plain", size_bytes=2**40,
            checksum=hashlib.sha256(b"a").hexdigest(),
        )  # fmt: skip
        self.assertTrue(artifact["success"], artifact)
        done = self.db.call(
            "complete_workflow_run", run_id=run_id, exit_code=1, worker_id=worker_id, epoch=epoch
        )
        self.assertTrue(done["success"], done)
        self.db.call("retry_run", run_id=run_id)
        self._insert(
            "ops_project_membership",
            {"project_id": self.project, "user_id": 2, "role": "viewer"},
        )
        for table, values in (
            ("ops_tool", {"tool_name": uuid.uuid4().hex, "version": "1", "docker_image": "x:1"}),
            (
                "ops_upgrade_advisory",
                {"title": "A", "from_version": "18.0", "to_version": "19.0", "severity": "high"},
            ),
        ):
            record = self._insert(table, values)
            self.addCleanup(self.db.rows, f"DELETE FROM {table} WHERE id = %s", record)

    def view(self, name):
        return f"{self.catalog.name}.{name}"

    def first(self, name):
        return f"(SELECT * FROM {self.view(name)} ORDER BY id LIMIT {LISTED})"

    def models_by_sql(self):
        return {
            name: {
                "count": self.db.value(f"SELECT count(*) FROM {self.view(name)}"),
                "ids": [row["id"] for row in self.db.rows(f"SELECT id FROM {self.first(name)} v")],
            }
            for name in self.catalog.tables
        }

    def relations_by_sql(self):
        pairs = {}
        for name, table in self.catalog.tables.items():
            for each in table.references:
                (column,) = each.columns
                pairs[f"{name}.{each.forward}"] = self.pairs(
                    f"SELECT id AS a, {column} AS b FROM {self.first(name)} v"
                    f" WHERE {column} IS NOT NULL"
                )
                pairs[f"{each.target}.{each.backward}"] = self.pairs(
                    f"SELECT t.id AS a, v.id AS b FROM {self.first(each.target)} t"
                    f" JOIN {self.view(name)} v ON v.{column} = t.id"
                )
        return pairs

    def pairs(self, query):
        return [[row["a"], row["b"]] for row in self.db.rows(f"{query} ORDER BY a, b")]

    def enumerations_by_sql(self):
        return {
            f"{name}.{column.name}": {
                value: self.db.value(
                    f"SELECT count(*) FROM {self.view(name)} WHERE {column.name} = %s", value
                )
                for value in self.catalog.enumerations[column.enumeration]
            }
            for name, table in self.catalog.tables.items()
            for column in table.columns
            if column.enumeration
        }

    def test_every_model_relation_and_enumeration_reads_what_sql_reads(self):
        seen = prisma_program.visible()
        for part, expected in (
            ("models", self.models_by_sql()),
            ("relations", self.relations_by_sql()),
            ("enumerations", self.enumerations_by_sql()),
        ):
            self.assertEqual(sorted(seen[part]), sorted(expected), part)
            for name, value in expected.items():
                with self.subTest(part=part, name=name):
                    self.assertTrue(value, "the test has made no row for it")
                    self.assertEqual(seen[part][name], value)

    def test_the_database_judges_the_login_not_the_program(self):
        login, password = f"prisma_{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
        self.db.rows(f"CREATE ROLE {login} LOGIN PASSWORD '{password}'")
        self.addCleanup(self.db.rows, f"DROP ROLE {login}")
        database = quote_ident(self.db.connection.info.dbname, self.db.connection)
        self.db.rows(f"GRANT CONNECT ON DATABASE {database} TO {login}")
        self.addCleanup(self.db.rows, f"REVOKE ALL ON DATABASE {database} FROM {login}")
        ended = prisma_program.execute(login, password)
        self.assertNotEqual(ended.returncode, 0)
        self.assertIn("permission denied", ended.stderr)
        self.assertEqual(ended.stdout, "")
