"""The documents about the kernel's views say what the database says."""

from pathlib import Path

from odoo.tests import TransactionCase, tagged
from odoo.tools import SQL

from odoo.addons import odooops
from odoo.addons.odooops.devtools.schema import catalog, documents

ROOT = Path(odooops.__file__).resolve().parent
# Selections of the tables below the views, as the ORM keeps them.
SELECTIONS = """
    SELECT array_agg(s.value ORDER BY s.sequence, s.id)
    FROM ir_model_fields_selection s
    JOIN ir_model_fields f ON f.id = s.field_id
    -- The models of partitioned tables read them by views.
    JOIN pg_class c ON c.relname = CASE f.model
        WHEN 'ops.run.event' THEN 'ops_run_event_row' WHEN 'ops.run.log' THEN 'ops_run_log_line'
        ELSE replace(f.model, '.', '_') END
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = f.name
    WHERE c.oid = %s AND a.attnum = %s AND f.store
"""


@tagged("post_install", "-at_install")
class TestSchemaDocuments(TransactionCase):
    def rendered(self):
        return documents.rendered(self.env.cr._cnx)

    def describe(self):
        return catalog.read(self.env.cr._cnx)

    def execute(self, query, **names):
        schema = self.env["ops.kernel"]._get_schema()
        self.env.cr.execute(SQL(query.format(schema=schema)))

    def column(self, table, name):
        return next(each for each in self.describe().tables[table].columns if each.name == name)

    def test_the_committed_documents_are_those_of_this_database(self):
        # Rule: R-38
        for name, text in self.rendered().items():
            with self.subTest(document=name):
                path = ROOT / name
                committed = path.read_text(encoding="utf-8") if path.exists() else ""
                self.assertEqual(
                    committed, text, f"{name} is out of date: `{documents.COMMAND}`, and commit it."
                )

    def test_a_renamed_column_changes_every_document(self):
        before = self.rendered()
        self.execute("ALTER VIEW {schema}.tools RENAME COLUMN digest TO image_digest")
        after = self.rendered()
        for name, text in before.items():
            self.assertNotIn("image_digest", text)
            self.assertIn("image_digest", after[name], name)

    def test_the_contract_has_nine_views(self):
        self.assertEqual(
            list(self.describe().tables),
            [
                *("project_memberships", "projects", "run_artifacts", "run_events", "run_logs"),
                *("runs", "tools", "upgrade_advisories", "workflows"),
            ],
        )

    def test_every_selection_in_a_view_is_an_enumeration_with_its_values(self):
        schema = self.describe()
        for table in schema.tables.values():
            for column in table.columns:
                values = None
                if column.source:
                    self.env.cr.execute(SELECTIONS, list(column.source))
                    (values,) = self.env.cr.fetchone()
                if values is None and (table.name, column.name) != ("projects", "status"):
                    self.assertIsNone(column.enumeration, f"{table.name}.{column.name}")
                    continue
                with self.subTest(column=f"{table.name}.{column.name}"):
                    self.assertTrue(column.enumeration, "sql/92_enumerations.sql does not name it")
                    self.assertEqual(
                        schema.enumerations[column.enumeration], values or ["active", "archived"]
                    )

    def test_whether_a_column_may_be_null_follows_its_table_through_conversions(self):
        self.assertFalse(self.column("runs", "available_at").nullable)
        self.assertFalse(self.column("runs", "metadata").nullable)
        self.assertTrue(self.column("runs", "started_at").nullable)
        self.assertTrue(self.column("tools", "digest").nullable)
        self.execute("UPDATE ops_tool SET digest = 'sha256:' || repeat('0', 64)")
        self.execute("ALTER TABLE ops_tool ALTER digest SET NOT NULL")
        self.assertFalse(self.column("tools", "digest").nullable)

    def test_what_is_said_never_to_be_null_is_set_by_the_models_and_the_kernel(self):
        project = self.env["ops.project"].create({"name": "Nulls", "slug": "nulls"})
        workflow = self.env["ops.workflow"].create(
            {"name": "Test", "project_id": project.id, "workflow_type": "test"}
        )
        workflow.queue_run()
        self.env["ops.tool"].create({"tool_name": "t", "version": "1", "docker_image": "t:1"})
        self.env["ops.upgrade.advisory"].create(
            {"title": "Advice", "from_version": "19.0", "to_version": "20.0"}
        )
        self.env.flush_all()
        schema = self.describe()
        for name in (
            *("projects", "project_memberships", "workflows", "runs", "run_events", "tools"),
            "upgrade_advisories",
        ):
            for column in schema.tables[name].columns:
                if column.nullable:
                    continue
                self.env.cr.execute(
                    SQL(
                        "SELECT %s IS NULL FROM %s ORDER BY id DESC LIMIT 1",
                        SQL.identifier(column.name),
                        SQL.identifier(schema.name, name),
                    )
                )
                self.assertEqual(self.env.cr.fetchone(), (False,), f"{name}.{column.name}")

    def test_keys_and_relations_are_found_through_a_view_on_a_view(self):
        self.execute("CREATE VIEW {schema}.seen AS SELECT v.run_id, v.id FROM {schema}.run_logs v")
        table = self.describe().tables["seen"]
        self.assertEqual(table.primary_key, ("id",))
        self.execute(
            "CREATE VIEW {schema}.kept AS SELECT v.id, v.run_id FROM {schema}.run_artifacts v"
        )
        table = self.describe().tables["kept"]
        self.assertEqual([each.target for each in table.references], ["runs"])

    def test_keys_and_relations_of_partitioned_tables_are_as_if_they_were_whole(self):
        tables = self.describe().tables
        for name in ("run_events", "run_logs"):
            self.assertEqual(tables[name].primary_key, ("id",))
            self.assertEqual(tables[name].uniques, [("run_id", "seq")])
            (reference,) = tables[name].references
            self.assertEqual((reference.columns, reference.target), (("run_id",), "runs"))
            self.assertEqual(tables[name].columns[0].type, "bigint")

    def test_a_view_without_the_key_of_its_table_is_refused(self):
        self.execute("CREATE VIEW {schema}.keyless AS SELECT name FROM public.ops_project")
        with self.assertRaisesRegex(catalog.CatalogError, "keyless does not show the key"):
            self.describe()
