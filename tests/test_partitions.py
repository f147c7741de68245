"""Events and log lines in partitions: where rows lie, and that everybody reads them as before."""

from datetime import datetime, timedelta

import psycopg2

from odoo.tests import TransactionCase, tagged
from odoo.tools import SQL

from .retention_case import EVENTS, LOGS, QUEUED_AT, WORDS, RetentionCase
from .sql_door_case import SqlDoorCase

PARENTS = ("ops_run_event_row", "ops_run_log_line")


@tagged("post_install", "-at_install")
class TestPartitions(RetentionCase):
    def places(self, run_id, parent="ops_run_log_line"):
        return {
            row["place"]
            for row in self.db.rows(
                f"SELECT tableoid::regclass::text AS place FROM {parent} WHERE run_id = %s", run_id
            )
        }

    def test_the_time_of_queueing_chooses_the_partition_not_the_lines_own(self):
        self.make_partitions()
        run_id, epoch = self.started_run()
        times = ("1970-01-02T00:00:00Z", "2020-03-04T00:00:00Z", "8999-01-01T00:00:00Z")
        lines = [{"message": "clock", "timestamp": each} for each in times]
        reply = self.db.call(
            "append_run_logs", run_id=run_id, epoch=epoch, first_seq=4, lines=lines
        )
        self.assertTrue(reply["success"], reply)
        self.index(run_id)
        self.assertEqual(self.places(run_id), {LOGS})
        self.assertEqual(self.places(run_id, "ops_run_log_words"), {WORDS})
        self.assertEqual(self.places(run_id, "ops_run_event_row"), {EVENTS})
        self.assertEqual(self.lines(run_id), 6)

    def test_partitions_are_made_three_months_ahead_and_once(self):
        for _time in range(2):
            reply = self.db.call("maintain_partitions")
        self.assertEqual(reply, {"success": True, "made": []})
        for parent in PARENTS:
            ahead = self.db.value(
                f"SELECT max(upper_bound) > now()::timestamp + interval '3 months'"
                f" FROM {self.db.schema}.list_partitions() WHERE parent = %s",
                parent,
            )
            self.assertTrue(ahead, parent)

    def test_what_no_partition_takes_is_caught_and_moved_out(self):
        run_id = self.old_run()
        self.assertEqual(self.places(run_id), {"ops_run_log_line_default"})
        before = self.events(run_id)
        reply = self.db.call("maintain_partitions")
        self.assertEqual(sorted(reply["made"]), [EVENTS, LOGS, WORDS])
        self.assertEqual(self.places(run_id), {LOGS})
        self.assertEqual(self.places(run_id, "ops_run_event_row"), {EVENTS})
        self.assertEqual(self.events(run_id), before)
        self.assertEqual(self.problems(self.project), [])

    def test_partitions_are_append_only_too(self):
        self.make_partitions()
        run_id = self.old_run()
        for partition in (EVENTS, LOGS, *PARENTS):
            for statement in (
                f"UPDATE {partition} SET seq = seq + 1 WHERE run_id = {run_id}",
                f"DELETE FROM {partition} WHERE run_id = {run_id}",
                f"TRUNCATE {partition}",
            ):
                refused = self.assertRaises(psycopg2.errors.InsufficientPrivilege)
                with self.subTest(statement=statement), refused:
                    self.db.rows(statement)
        self.assertEqual((self.lines(run_id), len(self.events(run_id))), (3, 4))

    def test_an_event_slipped_into_another_partition_is_found(self):
        self.make_partitions()
        run_id = self.old_run()
        with self.without_append_only():
            self.db.rows(
                "INSERT INTO ops_run_event_row"
                " (run_id, run_queued_at, seq, event_type, message, timestamp, hash)"
                " VALUES (%s, now()::timestamp, 2, 'info', 'approved', now(), '')",
                run_id,
            )
        self.assertTrue(any(f"run {run_id}, event 2: moved" in p for p in self.problems()))

    def test_a_page_of_the_log_is_read_from_one_partition(self):
        self.make_partitions()
        run_id = self.old_run()
        with self.environment() as env:
            condition = env["ops.run.log"]._in_run(run_id)
            query = SQL("EXPLAIN SELECT seq FROM ops_run_log WHERE %s AND seq > 1", condition)
            plan = "\n".join(row[0] for row in env.execute_query(query))
            self.assertIn(LOGS, plan)
            self.assertEqual(plan.count("ops_run_log_line_"), plan.count(LOGS), plan)
            page = env["ops.run.log"]._page(run_id, 1, 10)
        self.assertEqual([line["message"] for line in page], ["line 1", "line 2"])

    def test_the_runs_of_a_partition_are_found_without_reading_all(self):
        self.db.rows("BEGIN")
        # A table of the tests is small enough to be read as a whole.
        self.db.rows("SET LOCAL enable_seqscan = off")
        plan = self.db.rows(
            "EXPLAIN SELECT FROM ops_run r"
            " WHERE r.create_date >= '2020-01-01' AND r.create_date < '2020-02-01'"
        )
        self.db.rows("ROLLBACK")
        self.assertIn("ops_run_queued_at", str(plan))

    def test_every_partition_has_its_settings_of_storage(self):
        self.make_partitions()
        missing = self.db.rows(
            f"SELECT p.partition FROM {self.db.schema}.list_partitions() p"
            " JOIN pg_class c ON c.oid = p.partition::regclass"
            " WHERE c.reloptions IS NULL OR NOT c.reloptions @> '{autovacuum_freeze_min_age=0}'"
            " OR NOT c.relrowsecurity"
        )
        self.assertEqual(missing, [])

    # -- the models ---------------------------------------------------------------------

    def test_the_models_read_search_group_and_export_ids_beyond_32_bits(self):
        self.make_partitions()
        last = self.db.value("SELECT last_value FROM ops_run_log_line_id_seq")
        event = self.db.value("SELECT last_value FROM ops_run_event_row_id_seq")
        self.db.rows("SELECT setval('ops_run_log_line_id_seq', 5000000000)")
        self.db.rows("SELECT setval('ops_run_event_row_id_seq', 5000000000)")
        try:
            run_id = self.old_run()
        finally:
            self.db.rows("SELECT setval('ops_run_log_line_id_seq', %s)", last)
            self.db.rows("SELECT setval('ops_run_event_row_id_seq', %s)", event)
        with self.environment() as env:
            self._read_model(env["ops.run.log"], run_id, "log_level", "line 1", 3)
            self._read_model(env["ops.run.event"], run_id, "event_type", "claimed", 4)
            self.assertEqual(len(env["ops.run"].browse(run_id).event_ids), 4)
            found = env["ops.run.log"].search([("words", "=", "line"), ("run_id", "=", run_id)])
            self.assertEqual(len(found), 3)

    def _read_model(self, model, run_id, group, message, count):
        records = model.search([("run_id", "=", run_id)])
        self.assertEqual(records.mapped("seq"), list(range(1, count + 1)))
        self.assertGreater(min(records.ids), 2**31)
        self.assertLess(max(records.ids), 2**53)
        found = model.search([("run_id", "=", run_id), ("message", "=", message)])
        self.assertEqual(model.browse(found.id).read(["message"])[0]["message"], message)
        groups = model._read_group([("run_id", "=", run_id)], ["run_id", group], ["__count"])
        self.assertEqual(sum(number for _run, _group, number in groups), count)
        rows = records.export_data([".id", "run_id/id", "message"])["datas"]
        self.assertEqual([row[2] for row in rows].count(message), 1)
        names = model.formatted_read_group([("run_id", "=", run_id)], [group], ["__count"])
        self.assertEqual(sum(each["__count"] for each in names), count)


@tagged("post_install", "-at_install")
class TestPartitionsAndRoles(SqlDoorCase):
    def test_nobody_reads_a_partition_itself(self):
        partitions = [
            row["partition"]
            for row in self.db.rows(f"SELECT partition FROM {self.schema}.list_partitions()")
        ]
        self.assertTrue(self.logins["owner"].ids("run_logs"))
        for name in ("owner", "platform"):
            for partition in partitions:
                self.assertEqual(
                    self.logins[name].attempt(f"SELECT run_id FROM public.{partition}"),
                    psycopg2.errorcodes.INSUFFICIENT_PRIVILEGE,
                    (name, partition),
                )
            for view in ("ops_run_event", "ops_run_log"):
                self.assertEqual(
                    self.logins[name].attempt(f"SELECT id FROM public.{view}"),
                    psycopg2.errorcodes.INSUFFICIENT_PRIVILEGE,
                )

    def test_a_grant_by_mistake_shows_nothing(self):
        partition = self.db.value(
            "SELECT tableoid::regclass::text FROM ops_run_log_line ORDER BY id DESC LIMIT 1"
        )
        login = self.logins["owner"]
        self.db.rows(f"GRANT SELECT ON {partition} TO {login.role}")
        try:
            self.assertEqual(login.rows(f"SELECT id FROM public.{partition}"), [])
        finally:
            self.db.rows(f"REVOKE SELECT ON {partition} FROM {login.role}")


# The shape before, as the models made it.
OLD_SHAPE = """
DROP VIEW {schema}.run_events, {schema}.run_logs, ops_run_event, ops_run_log;
CREATE TABLE ops_run_event (id serial PRIMARY KEY,
    run_id integer NOT NULL REFERENCES ops_run (id) ON DELETE RESTRICT, seq integer NOT NULL,
    event_type varchar NOT NULL, message text, payload jsonb, "timestamp" timestamp NOT NULL,
    prev_hash varchar, hash varchar NOT NULL,
    CONSTRAINT ops_run_event_run_seq_uniq UNIQUE (run_id, seq));
CREATE TABLE ops_run_log (id serial PRIMARY KEY,
    run_id integer NOT NULL REFERENCES ops_run (id) ON DELETE RESTRICT, seq integer NOT NULL,
    log_level varchar NOT NULL, message text, metadata jsonb, "timestamp" timestamp NOT NULL,
    CONSTRAINT ops_run_log_run_seq_uniq UNIQUE (run_id, seq));
INSERT INTO ops_run_event (id, run_id, seq, event_type, message, payload, "timestamp", prev_hash,
    hash) SELECT id, run_id, seq, event_type, message, payload, "timestamp", prev_hash, hash
    FROM ops_run_event_row;
INSERT INTO ops_run_log (id, run_id, seq, log_level, message, metadata, "timestamp")
    SELECT id, run_id, seq, log_level, message, metadata, "timestamp" FROM ops_run_log_line;
DROP TABLE ops_run_event_row, ops_run_log_line CASCADE;
ALTER TABLE ops_run_lease DROP run_queued_at;
CREATE VIEW {schema}.run_events AS SELECT id, run_id, seq, event_type, message, payload,
    "timestamp" AT TIME ZONE 'UTC' AS "timestamp", prev_hash, hash FROM ops_run_event;
CREATE VIEW {schema}.run_logs AS SELECT id, run_id, seq, log_level, message, metadata,
    "timestamp" AT TIME ZONE 'UTC' AS "timestamp" FROM ops_run_log;
"""


@tagged("post_install", "-at_install")
class TestPartitionsOfAnInstalledAddon(TransactionCase):
    """The kernel is made anew inside the test's transaction."""

    def setUp(self):
        super().setUp()
        self.kernel = self.env["ops.kernel"]
        project = self.env["ops.project"].create({"name": "Old", "slug": "old-shape"})
        workflow = self.env["ops.workflow"].create(
            {"name": "Test", "project_id": project.id, "workflow_type": "test"}
        )
        self.run = workflow.queue_run()
        self.old = workflow.queue_run()
        self.env.cr.execute("ALTER TABLE ops_run DISABLE TRIGGER USER")
        self.env.cr.execute(
            "UPDATE ops_run SET create_date = %s WHERE id = %s", [QUEUED_AT, self.old.id]
        )
        self.env.cr.execute("ALTER TABLE ops_run ENABLE TRIGGER USER")
        self.env.cr.execute(
            "INSERT INTO ops_run_log_line (run_id, run_queued_at, seq, log_level, message,"
            " timestamp) SELECT id, create_date, n, 'info', 'line ' || n, now()"
            " FROM ops_run, generate_series(1, 5) n WHERE id IN %s",
            [(self.run.id, self.old.id)],
        )

    def rows(self):
        return [
            self.env.execute_query(SQL("SELECT * FROM %s ORDER BY id", SQL(query)))
            for query in (
                "(SELECT id, run_id, seq, event_type, message, payload::text, timestamp, prev_hash,"
                " hash FROM ops_run_event) e",
                "(SELECT id, run_id, seq, log_level, message, metadata::text, timestamp"
                " FROM ops_run_log) l",
            )
        ]

    def test_an_update_moves_every_row_and_the_chains_hold(self):
        # Rule: R-35
        schema = self.kernel._get_schema()
        self.env.cr.execute(OLD_SHAPE.format(schema=schema))
        before = self.rows()
        self.assertGreater(len(before[0]), 1)
        self.assertGreater(len(before[1]), 9)
        # As at an update: the models' init() comes first, and must leave the old tables alone.
        self.kernel._make_history()
        self.kernel._apply()
        self.assertEqual(self.rows(), before)
        for run in (self.run, self.old):
            self.assertEqual(self.kernel._rows("verify_events", run_id=run.id), [])
        places = self.env.execute_query(
            SQL(
                "SELECT tableoid::regclass::text FROM ops_run_log_line WHERE run_id = %s",
                self.old.id,
            )
        )
        self.assertEqual(set(places), {(LOGS,)})
        self.kernel._apply()
        self.assertEqual(self.rows(), before)
        self.run.cancel("goes on")
        self.assertEqual(self.kernel._rows("verify_events", run_id=self.run.id), [])
        self.assertEqual(self.run.event_ids.mapped("message"), ["queued", "canceled"])
        self.assertGreater(max(self.run.event_ids.ids), max(row[0] for row in before[0]))

    def test_a_time_of_queueing_does_not_change(self):
        with self.assertRaises(psycopg2.errors.CheckViolation):
            self.env.cr.execute(
                "UPDATE ops_run SET create_date = %s WHERE id = %s",
                [datetime.now() - timedelta(days=400), self.run.id],
            )

    def test_removal_leaves_nothing(self):
        self.kernel._remove()
        left = self.env.execute_query(
            SQL(
                "SELECT relname FROM pg_class"
                " WHERE relname ~ '^ops_(run_event|run_log|audit_expiry_run)'"
            )
        )
        self.assertEqual(left, [])
