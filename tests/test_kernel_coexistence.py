"""A database in which ``ops`` is somebody else's: nothing of theirs changes, ours moves aside."""

from unittest.mock import patch

from odoo.tests import TransactionCase, tagged
from odoo.tools import SQL

from ..models import ops_kernel
from ..models.ops_kernel import SCHEMA_NAMES

# An agent-run tracker, as other programs keep one: the same names, other meanings.
FOREIGN = """
CREATE SCHEMA ops;
CREATE TABLE ops.runs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), agent text, state text);
CREATE TABLE ops.run_events (id bigserial PRIMARY KEY, run_id uuid REFERENCES ops.runs, body text);
CREATE TABLE ops.artifacts (id bigserial PRIMARY KEY, run_id uuid REFERENCES ops.runs, uri text);
CREATE FUNCTION ops.start_run(p_agent text) RETURNS uuid LANGUAGE sql AS
    $$ INSERT INTO ops.runs (agent, state) VALUES (p_agent, 'started') RETURNING id $$;
CREATE FUNCTION ops.log_event(p_run uuid, p_body text) RETURNS bigint LANGUAGE sql AS
    $$ INSERT INTO ops.run_events (run_id, body) VALUES (p_run, p_body) RETURNING id $$;
CREATE FUNCTION ops.complete_run(p_run uuid) RETURNS void LANGUAGE sql AS
    $$ UPDATE ops.runs SET state = 'complete' WHERE id = p_run $$;
"""
USE = """
WITH run AS (SELECT ops.start_run('agent') AS id)
SELECT ops.log_event(id, 'began') FROM run;
SELECT ops.complete_run(id) FROM ops.runs;
INSERT INTO ops.artifacts (run_id, uri) SELECT id, 's3://bucket/key' FROM ops.runs;
"""
# Everything of a schema: its relations with their columns, and its functions with their bodies.
CONTENT = SQL(
    """
    SELECT c.relname || '(' || string_agg(a.attname || ' ' || a.atttypid::regtype, ', '
                                          ORDER BY a.attnum) || ')'
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = 'ops'::regnamespace AND c.relkind IN ('r', 'v')
    GROUP BY c.relname
    UNION ALL
    SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'ops'::regnamespace
    ORDER BY 1
    """
)
ROWS = SQL(
    "SELECT (SELECT jsonb_agg(to_jsonb(r)) FROM ops.runs r),"
    " (SELECT jsonb_agg(to_jsonb(e)) FROM ops.run_events e),"
    " (SELECT jsonb_agg(to_jsonb(a)) FROM ops.artifacts a)"
)


@tagged("post_install", "-at_install")
class TestKernelCoexistence(TransactionCase):
    """The kernel is removed and made anew inside the test's transaction."""

    def setUp(self):
        super().setUp()
        self.kernel = self.env["ops.kernel"]
        self.kernel._remove()
        self.env.cr.execute(FOREIGN)
        self.env.cr.execute(USE)
        self.env.cr.execute("SELECT current_user")
        (self.role,) = self.env.cr.fetchone()
        self.aside = next(name for name in SCHEMA_NAMES[1:] if name != self.role)

    def foreign(self):
        return self.env.execute_query(CONTENT), self.env.execute_query(ROWS)

    def test_install_update_and_removal_leave_a_foreign_schema_alone(self):
        # Rule: R-34
        before = self.foreign()
        with self.assertLogs("odoo.addons.odooops.models.ops_kernel", "WARNING") as logs:
            self.kernel._apply()
        self.assertIn(f"OdooOps uses {self.aside}", logs.output[0])
        self.assertEqual(self.kernel._get_schema(), self.aside)
        self.assertEqual(self.foreign(), before)
        self.kernel._apply()
        self.assertEqual(self.kernel._get_schema(), self.aside)
        self.assertEqual(self.foreign(), before)
        self.kernel._remove()
        self.assertIsNone(self.kernel._get_schema())
        self.assertEqual(self.foreign(), before)
        self.env.cr.execute("SELECT ops.start_run('after')")

    def test_everything_follows_the_other_name(self):
        self.kernel._apply()
        project = self.env["ops.project"].create({"name": "Aside", "slug": "aside"})
        workflow = self.env["ops.workflow"].create(
            {"name": "Test", "project_id": project.id, "workflow_type": "test"}
        )
        run = workflow.queue_run()
        self.assertEqual(run.run_number, 1)
        self.env.cr.execute(f"SELECT status FROM {self.aside}.runs WHERE id = %s", [run.id])
        self.assertEqual(self.env.cr.fetchone(), ("queued",))
        run.cancel("aside")
        self.assertEqual(run.event_ids.mapped("message"), ["queued", "canceled"])
        self.assertEqual(self.kernel._rows("verify_events", run_id=run.id), [])

    def test_a_schema_of_the_role_s_own_name_is_never_made(self):
        """Odoo would look for its tables there, by PostgreSQL's search_path."""
        with patch.object(ops_kernel, "SCHEMA_NAMES", (self.role, "odooops_another")):
            self.kernel._apply()
        self.assertEqual(self.kernel._get_schema(), "odooops_another")
        self.assertEqual(self.env.execute_query(SQL("SELECT current_schema()")), [("public",)])

    def test_foreign_schemas_of_all_names_stop_the_installation_with_a_sentence(self):
        for name in SCHEMA_NAMES[1:]:
            self.env.cr.execute(f"CREATE SCHEMA {name}")
        with self.assertRaisesRegex(Exception, "Rename one of them"):
            self.kernel._apply()
