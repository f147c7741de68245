"""Retention: the dry run says what then happens, and what must stay stays."""

import time
from datetime import timedelta

import psycopg2

from odoo.exceptions import AccessError
from odoo.tests import TransactionCase, new_test_user, tagged
from odoo.tools import mute_logger

from ..models import audit_key
from .retention_case import EVENTS, LOGS, QUEUED_AT, WORDS, RetentionCase

LATER = QUEUED_AT + timedelta(days=1)


@tagged("post_install", "-at_install")
class TestRetentionOfLogs(RetentionCase):
    def setUp(self):
        super().setUp()
        self.make_partitions()

    def test_the_dry_run_is_what_then_happens(self):
        # Rule: R-15
        runs = [self.old_run(), self.old_run(artifact="expired"), self.old_run(lines=5)]
        line = self.planned("logs_partition", LOGS)
        self.assertEqual((line["action"], line["row_count"]), ("drop", 11))
        self.assertGreater(line["size_bytes"], 8192)
        self.assertEqual(self.planned("events_partition", EVENTS)["action"], "keep")
        self.assertEqual([self.lines(run_id) for run_id in runs], [3, 3, 5], "a dry run is dry")
        self.assertTrue(self.expire())
        self.assertFalse(self.exists(LOGS))
        self.assertFalse(self.exists(WORDS), "words go with their lines")
        self.assertEqual([self.lines(run_id) for run_id in runs], [0, 0, 0])
        self.assertEqual([len(self.events(run_id)) for run_id in runs], [4, 4, 4])
        self.assertNotIn(("logs_partition", LOGS), self.plan())
        self.assertEqual(self.problems(self.project), [])

    def test_an_unfinished_run_keeps_the_partition_and_its_lines(self):
        # Rule: R-15
        unfinished, _epoch = self.started_run()
        ended = self.old_run()
        line = self.planned("logs_partition", LOGS)
        self.assertEqual(line["action"], "keep")
        self.assertIn("1 runs not finished", line["reason"])
        (delete,) = self.plan()["log_lines", LOGS]
        self.assertEqual((delete["action"], delete["row_count"]), ("delete", 3))
        reply = self.batch("logs_partition", LOGS)
        self.assertRefused(reply, "invalid_state")
        self.assertTrue(self.expire())
        self.assertEqual((self.lines(unfinished), self.lines(ended)), (3, 0))

    def test_another_projects_longer_time_keeps_the_partition_but_not_these_lines(self):
        other = self.make_project()
        self.retain(other, logs=36500, events=0, runs=0)
        theirs = self.old_run(workflow=self.make_workflow(other))
        ours = [self.old_run(), self.old_run()]
        line = self.planned("logs_partition", LOGS)
        self.assertIn("1 runs kept for 36500 days", line["reason"])
        self.assertEqual(line["row_count"], 9, "counted, as nothing has estimated it yet")
        # Four lines, and the words of both runs.
        self.assertEqual(self.batch("log_lines", LOGS, self.project, limit=4)["rows"], 4 + 2)
        self.assertEqual(self.batch("log_lines", LOGS, self.project, limit=4)["rows"], 2)
        self.assertEqual(self.batch("log_lines", LOGS, self.project, limit=4)["rows"], 0)
        self.assertEqual([self.lines(run_id) for run_id in (*ours, theirs)], [0, 0, 3])
        self.assertEqual(
            self.db.rows(f"SELECT run_id FROM {WORDS}"), [{"run_id": theirs}], "words of the rest"
        )
        self.assertEqual(self.batch("log_lines", LOGS, other)["rows"], 0)
        self.retain(other, logs=0, events=0, runs=0)
        self.assertIn("kept for ever", self.planned("logs_partition", LOGS)["reason"])

    def test_the_time_counts_from_the_runs_end(self):
        now = self.db.value("SELECT now()::timestamp")
        run_id = self.old_run(ended_at=now - timedelta(days=29))
        self.assertIn("kept for 30 days", self.planned("logs_partition", LOGS)["reason"])
        self.end_at(run_id, now - timedelta(days=31))
        self.assertEqual(self.planned("logs_partition", LOGS)["action"], "drop")

    def test_lines_without_the_complete_log_stay(self):
        for status in (None, "missing"):
            with self.subTest(artifact=status):
                run_id = self.old_run(artifact=status)
                reason = self.planned("logs_partition", LOGS)["reason"]
                self.assertIn("without their complete log as an artifact", reason)
        self.expire()
        self.assertEqual(self.lines(run_id), 3)

    def test_a_run_without_lines_needs_no_artifact(self):
        run_id = self.insert_run()
        self.db.call("cancel_run", run_id=run_id)
        self.end_at(run_id, QUEUED_AT)
        self.assertEqual(self.planned("logs_partition", LOGS)["action"], "drop")

    def test_a_partition_in_use_is_left_to_the_next_time(self):
        self.old_run()
        reader = self.connect()
        reader.rows("BEGIN")
        reader.rows("SELECT count(*) FROM ops_run_log_line")
        before = time.monotonic()
        self.assertRefused(self.batch("logs_partition", LOGS), "busy")
        self.assertLess(time.monotonic() - before, 5)
        self.assertTrue(self.expire())
        self.assertTrue(self.exists(LOGS))
        reader.rows("COMMIT")
        self.assertTrue(self.expire())
        self.assertFalse(self.exists(LOGS))

    def test_no_time_left_means_nothing_is_done(self):
        self.old_run()
        with self.environment() as env:
            self.assertFalse(env["ops.retention"]._expire(time.monotonic() - 1))
        self.assertTrue(self.exists(LOGS))


@tagged("post_install", "-at_install")
class TestRetentionOfEvents(RetentionCase):
    def setUp(self):
        super().setUp()
        self.make_partitions()
        self.retain(self.project, logs=30, events=60, runs=0)
        self.run_id = self.old_run()

    def expired(self):
        """All of it done, with the checkpoint that holds the record."""
        self.checkpoint()
        self.assertTrue(self.expire())
        self.assertFalse(self.exists(EVENTS))

    def test_events_go_after_a_checkpoint_has_signed_that_they_do(self):
        # Rule: R-16
        before = self.checkpoint()
        line = self.planned("events_partition", EVENTS)
        self.assertEqual((line["action"], line["row_count"]), ("drop", 4))
        reply = self.batch("events_partition", EVENTS)
        self.assertEqual(reply["rows"], 0)
        self.assertTrue(self.exists(EVENTS))
        again = self.batch("events_partition", EVENTS)
        self.assertIn("no checkpoint holds the record", again["error"])
        number = self.checkpoint()
        self.assertEqual(number, before + 1, "a record alone is worth a checkpoint")
        self.assertEqual(self.batch("events_partition", EVENTS)["rows"], 4)
        self.assertFalse(self.exists(EVENTS))
        (record,) = self.db.rows(
            "SELECT * FROM ops_audit_expiry WHERE number = %s", reply["recorded"]
        )
        self.assertEqual((record["run_count"], record["event_count"]), (1, 4))
        self.assertEqual(record["checkpoint_number"], before)
        self.assertEqual(record["projects"][0][0], self.project)
        self.assertEqual(self.problems(), [])

    def test_the_trail_holds_and_says_what_is_gone(self):
        young = self.ended_run()
        self.expired()
        self.assertEqual(self.problems(self.project), [])
        self.assertEqual(
            self.db.rows(f"SELECT * FROM {self.db.schema}.verify_events(%s)", self.run_id), []
        )
        notes = self.assertHolds(self.export(self.project))
        self.assertTrue(any("expired: 4 events of 1 runs" in note for note in notes), notes)
        self.assertHolds(self.export())
        self.assertEqual(len(self.events(young)), 5)

    def test_what_no_checkpoint_holds_stays(self):
        # Rule: R-15
        self.assertIn(
            "1 runs with events that no checkpoint holds",
            self.planned("events_partition", EVENTS)["reason"],
        )
        self.assertTrue(self.expire())
        self.assertTrue(self.exists(EVENTS))
        self.assertEqual(len(self.events(self.run_id)), 4)

    def test_a_projects_longer_time_keeps_all_of_the_month(self):
        other = self.make_project()
        theirs = self.old_run(workflow=self.make_workflow(other))
        self.checkpoint()
        self.assertIn("1 runs kept for ever", self.planned("events_partition", EVENTS)["reason"])
        self.assertTrue(self.expire())
        self.assertEqual([len(self.events(r)) for r in (self.run_id, theirs)], [4, 4])

    def test_a_broken_chain_is_evidence_and_stays(self):
        # Rule: R-15
        self.checkpoint()
        with self.without_append_only():
            self.db.rows(
                "UPDATE ops_run_event SET message = 'x' WHERE run_id = %s AND seq = 2", self.run_id
            )
        self.assertIn("chain is broken", self.planned("events_partition", EVENTS)["reason"])

    def test_rows_of_a_run_that_is_not_there_stay(self):
        self.checkpoint()
        with self.without_append_only():
            self.db.rows(
                "INSERT INTO ops_run_event_row"
                " (run_id, run_queued_at, seq, event_type, message, timestamp, hash)"
                " VALUES (-1, %s, 1, 'info', 'x', now(), '')",
                QUEUED_AT,
            )
        self.assertIn("runs that are not there", self.planned("events_partition", EVENTS)["reason"])

    # -- tampering ----------------------------------------------------------------------

    def assertFoundBoth(self, problem):
        found = self.problems(self.project)
        self.assertTrue(any(line.startswith(problem) for line in found), found)
        self.assertFound(self.export(self.project), problem)

    def test_a_partition_that_was_dropped_without_a_record_is_missed(self):
        self.checkpoint()
        self.db.rows(f"DROP TABLE {EVENTS}")
        self.assertFoundBoth(f"run {self.run_id}, event 4: missing")

    def test_a_record_that_no_checkpoint_holds_excuses_nothing(self):
        self.checkpoint()
        self.assertTrue(self.batch("events_partition", EVENTS)["recorded"])
        self.assertEqual(self.problems(self.project), [])
        self.assertHolds(self.export(self.project))
        self.db.rows(f"DROP TABLE {EVENTS}")
        self.assertFoundBoth(f"run {self.run_id}, event 4: missing")

    def test_what_a_record_does_not_name_is_missed(self):
        self.expired()
        with self.without_append_only():
            self.db.rows("DELETE FROM ops_audit_expiry_run WHERE run_id = %s", self.run_id)
        self.assertFoundBoth(f"run {self.run_id}, event 4: missing")

    def test_an_altered_record_is_found(self):
        self.expired()
        number = self.db.value("SELECT max(number) FROM ops_audit_expiry")
        for change in ("user_id = 2", "range_to = range_to + interval '1 day'", "run_count = 7"):
            with self.subTest(change=change):
                old = self.db.rows("SELECT * FROM ops_audit_expiry WHERE number = %s", number)[0]
                with self.without_append_only():
                    self.db.rows(f"UPDATE ops_audit_expiry SET {change} WHERE number = %s", number)
                self.assertFoundBoth(f"expiry {number}: altered: the content")
                with self.without_append_only():
                    self.db.rows(
                        "UPDATE ops_audit_expiry SET user_id = %s, range_to = %s, run_count = %s"
                        " WHERE number = %s",
                        *(old["user_id"], old["range_to"], old["run_count"], number),
                    )
        with self.without_append_only():
            self.db.rows("DELETE FROM ops_audit_expiry WHERE number = %s", number)
        self.assertFound(self.export(self.project), f"expiry {number}: missing")
        self.assertTrue(any(f"expiry {number}" in line for line in self.problems()))

    def test_a_run_smuggled_into_a_signed_record_is_found(self):
        self.expired()
        number = self.db.value("SELECT max(number) FROM ops_audit_expiry")
        victim = self.ended_run()
        self.checkpoint()
        with self.without_append_only():
            self.db.rows(
                "INSERT INTO ops_audit_expiry_run SELECT %s, project_id, id, event_seq, event_hash"
                " FROM ops_run WHERE id = %s",
                *(number, victim),
            )
            self.db.rows("DELETE FROM ops_run_event WHERE run_id = %s", victim)
        self.assertFoundBoth(f"expiry {number}: altered")

    def test_records_cannot_be_changed(self):
        self.expired()
        for statement in (
            "UPDATE ops_audit_expiry SET run_count = 0",
            "DELETE FROM ops_audit_expiry",
            "TRUNCATE ops_audit_expiry",
            "UPDATE ops_audit_expiry_run SET event_seq = 0",
            "DELETE FROM ops_audit_expiry_run",
            "TRUNCATE ops_audit_expiry_run",
        ):
            with self.subTest(statement=statement), self.assertRaises(psycopg2.Error):
                self.db.rows(statement)

    # -- what was signed before there was retention ---------------------------------------

    def test_checkpoints_and_exports_of_the_first_version_still_verify(self):
        with self.environment() as env:
            key = audit_key.load("any")
            uuid = env["ir.config_parameter"].get_param("database.uuid")
        prepared = self.db.call("prepare_checkpoint", database_uuid=uuid, key_id=self.key_id)
        lines = prepared["statement"].splitlines()
        self.assertEqual(lines[0], "odooops checkpoint 2")
        statement = "\n".join(["odooops checkpoint 1", *lines[1:9], ""])
        # The call above has committed the heads; the second half says which form was signed.
        prepared["checkpoint"].update(statement_version=None, expiry_number=None, expiry_hash=None)
        prepared["statement"] = statement
        self.db.call(
            "add_checkpoint",
            prepared=prepared,
            public_key=key.public_pem,
            signature=key.sign(statement),
        )
        self.assertEqual(self.problems(self.project), [])
        export = self.export(self.project)
        self.assertHolds(export)
        self.assertHolds(self._as_first_format(export))
        self.expired()
        self.assertEqual(self.problems(self.project), [])
        self.assertHolds(self.export(self.project))

    def _as_first_format(self, export):
        older = []
        for line in export:
            line = {k: v for k, v in line.items() if k not in ("expired", "expiry_count")}
            if line["kind"] == "export":
                line["format"] = "odooops audit 1"
            elif line["kind"] == "checkpoint" and line["version"] == 1:
                for name in ("version", "expiry_number", "expiry_hash"):
                    del line[name]
            older.append(line)
        return older


@tagged("post_install", "-at_install")
class TestRetentionOfRuns(RetentionCase):
    def setUp(self):
        super().setUp()
        self.make_partitions()
        self.retain(self.project, logs=30, events=60, runs=90)
        self.slug = self.db.value("SELECT slug FROM ops_project WHERE id = %s", self.project)

    def reasons(self):
        """Of the plan for the project's runs: reason by number of runs."""
        lines = self.plan().get(("runs", self.slug), [])
        return {line["reason"]: (line["action"], line["row_count"]) for line in lines}

    def count(self):
        return self.db.value("SELECT count(*) FROM ops_run WHERE project_id = %s", self.project)

    def test_runs_go_after_their_events_and_artifacts(self):
        gone, stays = self.old_run(artifact="expired"), self.old_run()
        self.assertEqual(self.reasons(), {"runs whose events are still kept": ("keep", 2)})
        self.checkpoint()
        self.assertTrue(self.expire())
        self.assertEqual(
            self.reasons(),
            {
                "their time has passed, and their events are gone": ("delete", 1),
                "runs whose artifacts are still stored": ("keep", 1),
            },
        )
        self.assertTrue(self.expire())
        self.assertEqual(self.db.rows("SELECT id FROM ops_run WHERE id = %s", gone), [])
        self.assertEqual(
            self.db.rows("SELECT id FROM ops_run_artifact WHERE run_id = %s", gone), []
        )
        self.assertEqual(self.count(), 1)
        self.set_artifact(stays, "expired")
        self.assertTrue(self.expire())
        self.assertEqual(self.count(), 0)
        self.assertEqual(self.problems(self.project), [])
        notes = self.assertHolds(self.export(self.project))
        self.assertTrue(any("expired: 8 events of 2 runs" in note for note in notes), notes)

    def test_a_run_deleted_by_other_hands_is_missed_though_its_neighbours_have_expired(self):
        self.old_run(artifact="expired")
        victim = self.ended_run()
        self.checkpoint()
        self.assertTrue(self.expire())
        with self.without_append_only():
            self.db.rows("DELETE FROM ops_run_event WHERE run_id = %s", victim)
            self.db.rows("DELETE FROM ops_run WHERE id = %s", victim)
        self.assertFound(self.export(self.project), f"run {victim}: missing: the run was deleted")
        self.assertTrue(any(f"run {victim}" in line for line in self.problems(self.project)))

    def test_lines_that_no_artifact_holds_go_with_the_run(self):
        run_id = self.old_run(artifact=None)
        self.checkpoint()
        self.assertTrue(self.expire())
        self.assertEqual(self.lines(run_id), 3)
        self.assertTrue(self.expire())
        self.assertEqual((self.count(), self.lines(run_id)), (0, 0))

    def test_a_kept_restart_keeps_the_runs_before_it(self):
        first = self.old_run(artifact=None, lines=1)
        second = self.old_run(artifact=None, lines=1, retry_of=first)
        third = self.old_run(artifact=None, lines=1, retry_of=second)
        self.checkpoint()
        self.assertTrue(self.expire())
        self.assertFalse(self.exists(EVENTS))
        self.end_at(third, self.db.value("SELECT now()::timestamp"))
        self.assertEqual(
            self.reasons(),
            {
                "runs kept for 90 days": ("keep", 1),
                "runs which a kept run is a restart of": ("keep", 2),
            },
        )
        self.assertEqual(self.batch("runs", self.slug, self.project)["rows"], 0)
        self.end_at(third, QUEUED_AT)
        self.assertEqual(self.batch("runs", self.slug, self.project, limit=2)["rows"], 2)
        self.assertEqual(self.run_row(first)["id"], first, "restarts go first")
        self.assertEqual(self.batch("runs", self.slug, self.project)["rows"], 1)
        self.assertEqual(self.batch("runs", self.slug, self.project)["rows"], 0)

    def test_a_whole_chain_of_restarts_goes_in_one_batch(self):
        first = self.old_run(artifact=None, lines=1)
        self.old_run(artifact=None, lines=1, retry_of=first)
        self.checkpoint()
        self.assertTrue(self.expire())
        self.assertEqual(self.batch("runs", self.slug, self.project)["rows"], 2)

    def test_nobody_else_deletes_runs(self):
        run_id = self.old_run()
        for statement in (f"DELETE FROM ops_run WHERE id = {run_id}", "TRUNCATE ops_run CASCADE"):
            with self.subTest(statement=statement), self.assertRaises(psycopg2.Error):
                self.db.rows(statement)

    def test_without_a_setting_nothing_is_judged(self):
        self.retain(self.project, logs=30, events=0, runs=0)
        self.old_run()
        self.assertEqual(self.reasons(), {})


@tagged("post_install", "-at_install")
class TestRetentionSettings(TransactionCase):
    def setUp(self):
        super().setUp()
        self.project = self.env["ops.project"].create({"name": "Keep", "slug": "keep"})

    def test_defaults(self):
        self.assertEqual(
            self.project.read(["log_retention_days", "event_retention_days", "run_retention_days"])[
                0
            ],
            {
                "id": self.project.id,
                "log_retention_days": 90,
                "event_retention_days": 0,
                "run_retention_days": 0,
            },
        )

    def test_what_explains_a_thing_goes_first(self):
        for logs, events, runs, is_fine in (
            (0, 0, 0, True),
            (30, 60, 90, True),
            (30, 30, 30, True),
            (30, 60, 0, True),
            (60, 30, 0, False),
            (0, 30, 0, False),
            (30, 90, 60, False),
            (30, 0, 60, False),
            (-1, 0, 0, False),
            (36501, 0, 0, False),
        ):
            values = {
                "log_retention_days": logs,
                "event_retention_days": events,
                "run_retention_days": runs,
            }
            with self.subTest(**values), mute_logger("odoo.sql_db"):
                try:
                    with self.env.cr.savepoint():
                        self.project.write(values)
                        self.env.flush_all()
                    done = True
                except psycopg2.errors.CheckViolation:
                    done = False
                self.env.invalidate_all()
                self.assertEqual(done, is_fine)

    def test_owners_alone_shorten_the_trail(self):
        for role, allowed in (("admin", False), ("owner", True)):
            user = new_test_user(self.env, f"keep-{role}", "odooops.group_user")
            self.env["ops.project.membership"].create(
                {"project_id": self.project.id, "user_id": user.id, "role": role}
            )
            project = self.project.with_user(user)
            project.write({"log_retention_days": 60})
            with self.subTest(role=role):
                if allowed:
                    project.write({"event_retention_days": 365})
                else:
                    self.assertRaises(AccessError, project.write, {"event_retention_days": 365})

    def test_platform_administrators_see_the_dry_run(self):
        admin = new_test_user(self.env, "keep-platform", "odooops.group_platform_admin")
        user = new_test_user(self.env, "keep-user", "odooops.group_user")
        lines = self.env["ops.retention.line"]
        action = lines.with_user(admin).action_plan()
        shown = lines.with_user(admin).search(action["domain"])
        planned = self.env["ops.retention"]._plan()
        self.assertEqual(
            [(line.what, line.name, line.action, line.reason) for line in shown],
            [(row["what"], row["name"], row["action"], row["reason"]) for row in planned],
        )
        self.assertIn("runs of this time are still being queued", shown.mapped("reason"))
        self.assertRaises(AccessError, lines.with_user(user).action_plan)
        self.assertRaises(AccessError, lines.with_user(user).search, [])
