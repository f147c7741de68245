"""The trail: one event per transition, none of them alterable without being found."""

import psycopg2

from odoo.tests import tagged

from .kernel_case import KernelCase

STATUSES = ("queued", "claimed", "running", "succeeded", "failed", "canceled")
ALLOWED = {
    ("queued", "claimed"),
    ("queued", "canceled"),
    ("claimed", "queued"),
    ("claimed", "running"),
    ("claimed", "canceled"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "canceled"),
}


@tagged("post_install", "-at_install")
class TestKernelEvents(KernelCase):
    def problems(self, run_id):
        return [
            (row["seq"], row["problem"].partition(":")[0])
            for row in self.db.rows(f"SELECT * FROM {self.db.schema}.verify_events(%s)", run_id)
        ]

    def ended_run(self):
        _worker_id, run_id, epoch = self.start()
        self.db.call(
            "add_run_event", run_id=run_id, epoch=epoch, event_type="warning", message="slow disk"
        )
        self.db.call("complete_workflow_run", run_id=run_id, epoch=epoch, exit_code=0)
        return run_id

    def test_each_transition_appends_exactly_one_event(self):
        events = self.events(self.ended_run())
        self.assertEqual(
            [(e["seq"], e["event_type"], e["message"]) for e in events],
            [
                (1, "state_change", "queued"),
                (2, "state_change", "claimed"),
                (3, "state_change", "running"),
                (4, "warning", "slow disk"),
                (5, "state_change", "succeeded"),
            ],
        )
        self.assertTrue(any(e["timestamp"].microsecond % 1000 for e in events))
        self.assertEqual([e["prev_hash"] for e in events[1:]], [e["hash"] for e in events[:-1]])

    def test_only_the_ways_of_the_state_machine_are_open(self):
        # Rule: R-04
        for start in STATUSES:
            for end in STATUSES:
                if start == end:
                    continue
                with self.subTest(start=start, end=end):
                    run_id = self.queue()
                    with self.without_append_only():
                        self.db.rows("UPDATE ops_run SET status = %s WHERE id = %s", start, run_id)
                    update = ("UPDATE ops_run SET status = %s WHERE id = %s", end, run_id)
                    if (start, end) in ALLOWED:
                        self.db.rows(*update)
                        self.assertEqual(self.events(run_id)[-1]["payload"]["to"], end)
                    else:
                        with self.assertRaises(psycopg2.errors.CheckViolation):
                            self.db.rows(*update)

    def test_no_status_but_those_of_the_state_machine(self):
        # Rule: R-04
        """The trigger alone says so: the table has no constraint beside it."""
        refused = (psycopg2.errors.CheckViolation, psycopg2.errors.NotNullViolation)
        for start in STATUSES:
            run_id = self.queue()
            with self.without_append_only():
                self.db.rows("UPDATE ops_run SET status = %s WHERE id = %s", start, run_id)
            for end in ("", "paused", "Claimed", "claimed ", "queued to claimed", None):
                with self.subTest(start=start, end=end):
                    with self.assertRaises(refused):
                        self.db.rows("UPDATE ops_run SET status = %s WHERE id = %s", end, run_id)
                    self.assertEqual(self.run_row(run_id)["status"], start)
                    self.assertEqual(len(self.events(run_id)), 1)

    def test_a_run_begins_as_queued(self):
        with self.assertRaises(psycopg2.errors.CheckViolation):
            self.db.rows(
                "INSERT INTO ops_run (project_id, workflow_id, workflow_type, run_number, status,"
                " priority, available_at, trigger, attempt, epoch, event_seq)"
                " VALUES (%s, %s, 'test', 999, 'succeeded', 0, now(), 'manual', 1, 0, 0)",
                self.project,
                self.workflow,
            )

    def test_what_has_ended_does_not_change(self):
        run_id = self.ended_run()
        for change in (
            "exit_code = 1",
            "error_message = 'x'",
            "metadata = '{\"a\": 1}'",
            "epoch = 9",
        ):
            with self.subTest(change=change), self.assertRaises(psycopg2.errors.CheckViolation):
                self.db.rows(f"UPDATE ops_run SET {change} WHERE id = %s", run_id)

    def test_what_was_queued_does_not_change(self):
        run_id = self.queue()
        for change in ("snapshot = '{}'", "run_number = 77"):
            with self.subTest(change=change), self.assertRaises(psycopg2.errors.CheckViolation):
                self.db.rows(f"UPDATE ops_run SET {change} WHERE id = %s", run_id)

    def test_events_cannot_be_changed_deleted_or_truncated(self):
        # Rule: R-13
        run_id = self.ended_run()
        for statement in (
            "UPDATE ops_run_event SET message = 'x' WHERE run_id = %s",
            "DELETE FROM ops_run_event WHERE run_id = %s",
            "TRUNCATE ops_run_event_row",
            "DELETE FROM ops_run WHERE id = %s",
        ):
            values = (run_id,) if "%s" in statement else ()
            with self.subTest(statement=statement), self.assertRaises(psycopg2.Error):
                self.db.rows(statement, *values)
        self.assertEqual(len(self.events(run_id)), 5)
        self.assertEqual(self.problems(run_id), [])

    def test_tampering_with_the_owners_rights_is_found_and_named(self):
        # Rule: R-13
        attacks = {
            "alter": ("UPDATE ops_run_event SET message = 'x' WHERE run_id = %s AND seq = 4", 4),
            "backdate": (
                "UPDATE ops_run_event SET timestamp = timestamp - interval '1 us'"
                " WHERE run_id = %s AND seq = 2",
                2,
            ),
            "remove": ("DELETE FROM ops_run_event WHERE run_id = %s AND seq = 3", 4),
            "cut": ("DELETE FROM ops_run_event WHERE run_id = %s AND seq = 5", 5),
            "swap": (
                "UPDATE ops_run_event SET seq = CASE seq WHEN 3 THEN 4 ELSE 3 END"
                " WHERE run_id = %s AND seq IN (3, 4)",
                3,
            ),
        }
        self.assertEqual(self.problems(self.ended_run()), [])
        for name, (attack, where) in attacks.items():
            with self.subTest(attack=name):
                run_id = self.ended_run()
                with self.without_append_only():
                    if name == "swap":
                        self.db.rows(
                            "ALTER TABLE ops_run_event_row"
                            " DROP CONSTRAINT ops_run_event_row_run_seq_uniq"
                        )
                    self.db.rows(attack, run_id)
                    found = self.problems(run_id)
                    if name == "swap":
                        self.db.rows(
                            "ALTER TABLE ops_run_event_row"
                            " ADD CONSTRAINT ops_run_event_row_run_seq_uniq"
                            " UNIQUE (run_id, seq, run_queued_at)"
                        )
                self.assertIn(where, [seq for seq, _problem in found])

    def test_logs_cannot_be_rewritten(self):
        _worker_id, run_id, epoch = self.start()
        self.db.call(
            "append_run_logs", run_id=run_id, epoch=epoch, first_seq=1, lines=[{"message": "a"}]
        )
        with self.assertRaises(psycopg2.errors.InsufficientPrivilege):
            self.db.rows("UPDATE ops_run_log SET message = 'b' WHERE run_id = %s", run_id)
