"""Schedules: which times are due, and that each is queued once, as its policies say."""

from datetime import datetime, timedelta

from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from odoo import fields
from odoo.exceptions import ValidationError
from odoo.tests.common import BaseCase

from ..models import schedules
from .kernel_case import KernelCase


def times(expression, zone, after, count):
    found = schedules.occurrences(expression, zone, after)
    return [next(found).isoformat(sep=" ", timespec="minutes") for _ in range(count)]


class TestTimes(BaseCase):
    def test_times_are_read_in_their_zone(self):
        self.assertEqual(
            times("30 2 * * MON-FRI", "Europe/Brussels", datetime(2026, 7, 3), 3),
            ["2026-07-03 00:30", "2026-07-06 00:30", "2026-07-07 00:30"],
        )

    def test_a_skipped_hour_and_a_repeated_hour_give_one_run(self):
        # In Brussels 02:30 does not exist on 29 March 2026 and exists twice on 25 October.
        spring = times("30 2 * * *", "Europe/Brussels", datetime(2026, 3, 28, 12), 2)
        self.assertEqual(spring, ["2026-03-29 01:00", "2026-03-30 00:30"])
        autumn = times("30 2 * * *", "Europe/Brussels", datetime(2026, 10, 24, 12), 2)
        self.assertEqual(autumn, ["2026-10-25 00:30", "2026-10-26 01:30"])

    def test_wrong_expressions_say_what_is_wrong(self):
        for expression, zone, reason in (
            ("* * * *", "UTC", "five fields"),
            ("* * * * * *", "UTC", "five fields"),
            ("61 * * * *", "UTC", "bad minute"),
            ("* 25 * * *", "UTC", "bad hour"),
            ("* * * FOO *", "UTC", "bad month"),
            ("* * 30 2 *", "UTC", "bad day-of-month"),
            ("*/0 * * * *", "UTC", "bad minute"),
            ("* * * * *", "Mars/Olympus", "no time zone"),
            ("* * * * *", "../etc/passwd", "no time zone"),
            (f"{'1,' * 200}1 * * * *", "UTC", "five fields"),
        ):
            with (
                self.subTest(expression=expression, zone=zone),
                self.assertRaisesRegex(schedules.ScheduleError, reason),
            ):
                schedules.next_time(expression, zone, datetime(2026, 1, 1))

    @given(st.text(max_size=40), st.sampled_from(["UTC", "Europe/Brussels", "America/Sao_Paulo"]))
    def test_any_text_gives_a_time_in_the_future_or_a_sentence(self, expression, zone):
        after = datetime(2026, 3, 29, 0, 30)
        try:
            found = schedules.next_time(expression, zone, after)
        except schedules.ScheduleError as error:
            self.assertTrue(str(error))
        else:
            self.assertGreater(found, after)

    def test_missed_times(self):
        since, now = datetime(2026, 1, 1, 1), datetime(2026, 1, 4, 12)

        def due(catch_up, at=now):
            queued, others, upcoming = schedules.due_times("0 1 * * *", "UTC", since, at, catch_up)
            return [time.day for time in queued], others, upcoming.day

        self.assertEqual(due("once"), ([4], 3, 5))
        self.assertEqual(due("all"), ([1, 2, 3, 4], 0, 5))
        self.assertEqual(due("skip"), ([], 4, 5))
        punctual = datetime(2026, 1, 4, 1, 5)
        self.assertEqual(due("skip", punctual), ([4], 3, 5))
        self.assertEqual(due("once", punctual), ([4], 3, 5))
        self.assertEqual(due("all", datetime(2026, 1, 1, 1)), ([1], 0, 2))

    def test_making_up_is_bounded(self):
        since, now = datetime(2020, 1, 1), datetime(2026, 1, 1)
        queued, others, upcoming = schedules.due_times("* * * * *", "UTC", since, now, "all")
        self.assertEqual(len(queued), schedules.MAX_CATCH_UP)
        self.assertEqual(queued[-1], now)
        self.assertEqual(others, 31 * 24 * 60 + 1 - len(queued))
        self.assertEqual(upcoming, now + timedelta(minutes=1))

    @given(st.integers(0, 3600), st.integers(1, 1000), st.datetimes())
    def test_the_spread_is_bounded_and_the_same_for_the_same_time(self, jitter, workflow_id, time):
        delay = schedules.delay(jitter, workflow_id, time)
        self.assertLessEqual(delay, timedelta(seconds=jitter))
        self.assertGreaterEqual(delay, timedelta(0))
        self.assertEqual(delay, schedules.delay(jitter, workflow_id, time))


class TestSchedule(KernelCase):
    def setUp(self):
        super().setUp()
        # Only our workflow is due.
        self.db.rows("UPDATE ops_workflow SET schedule_next_at = NULL")

    def configure(self, **values):
        with self.environment() as env:
            env["ops.workflow"].browse(self.workflow).write(
                {"schedule": "0 * * * *", "schedule_tz": "UTC", **values}
            )

    def make_due(self, hours=0):
        """Let the last full hour, and so many before it, be due; returns the last."""
        last = fields.Datetime.now().replace(minute=0, second=0, microsecond=0)
        self.db.rows(
            "UPDATE ops_workflow SET schedule_next_at = %s WHERE id = %s",
            last - timedelta(hours=hours),
            self.workflow,
        )
        return last

    def evaluate(self, minute=1):
        """The scheduled action, so many minutes after the last full hour."""
        now = fields.Datetime.now().replace(minute=minute, second=0, microsecond=0)
        with self.environment() as env, freeze_time(now):
            env["ops.workflow"]._cron_queue_scheduled_runs()
        return self.workflow_row()

    def workflow_row(self):
        return self.db.rows("SELECT * FROM ops_workflow WHERE id = %s", self.workflow)[0]

    def runs(self):
        return self.db.rows(
            "SELECT * FROM ops_run WHERE workflow_id = %s ORDER BY id", self.workflow
        )

    def test_a_due_time_is_queued_once(self):
        self.configure()
        due = self.make_due()
        row = self.evaluate()
        (run,) = self.runs()
        self.assertEqual((run["trigger"], run["status"]), ("schedule", "queued"))
        self.assertEqual(run["metadata"]["scheduled_for"], f"{due.isoformat()}Z")
        self.assertEqual(run["available_at"], due)
        self.assertEqual(row["schedule_next_at"], due + timedelta(hours=1))
        self.assertIn(f"queued as run #{run['run_number']}", row["schedule_note"])
        self.evaluate()
        # As if the transaction that moved the schedule on had been lost.
        self.make_due()
        row = self.evaluate()
        self.assertEqual(len(self.runs()), 1)
        self.assertIn(f"queued as run #{run['run_number']}", row["schedule_note"])

    def test_two_schedulers_at_the_same_time_queue_once(self):
        # Rule: R-12
        self.configure()
        self.make_due()
        now = fields.Datetime.now().replace(minute=1)

        def evaluate(_index, _connection):
            with self.environment() as env:
                workflow = env["ops.workflow"]._lock_due()
                if workflow:
                    workflow._queue_due(now)

        self.in_parallel(4, evaluate)
        self.assertEqual(len(self.runs()), 1)

    def test_skip_while_the_last_one_has_not_ended(self):
        self.configure(schedule_overlap="skip")
        first = self.queue(trigger="schedule", idempotency_key="the one before")
        self.make_due()
        row = self.evaluate()
        self.assertEqual([run["id"] for run in self.runs()], [first])
        self.assertIn("skipped", row["schedule_note"])
        self.assertGreater(row["schedule_next_at"], fields.Datetime.now() - timedelta(minutes=1))

    def test_a_run_started_by_hand_is_not_the_schedules(self):
        self.configure(schedule_overlap="skip")
        self.queue()
        self.make_due()
        self.evaluate()
        self.assertEqual([run["trigger"] for run in self.runs()], ["manual", "schedule"])

    def test_queue_waits_for_the_last_one(self):
        self.configure(schedule_overlap="queue")
        first = self.queue(trigger="schedule", idempotency_key="the one before")
        worker_id = self.worker()
        self.assertEqual(self.claim(worker_id)["run_id"], first)
        self.make_due()
        self.evaluate()
        second = self.runs()[-1]["id"]
        self.assertNotEqual(second, first)
        self.assertIsNone(self.claim(worker_id)["run_id"])
        wait = self.db.call("explain_wait", run_id=second)
        self.assertEqual(wait["code"], "concurrency_group")

    def test_cancel_stops_the_last_one_and_runs_after_it(self):
        self.configure(schedule_overlap="cancel")
        waiting = self.queue(trigger="schedule", idempotency_key="one before")
        worker_id, running = self.worker(), waiting
        epoch = self.claim(worker_id)["epoch"]
        self.db.call("start_workflow_run", run_id=running, worker_id=worker_id, epoch=epoch)
        self.make_due()
        self.evaluate()
        (beat,) = self.db.call(
            "heartbeat", worker_id=worker_id, runs=[{"run_id": running, "epoch": epoch}]
        )["runs"]
        self.assertTrue(beat["cancel_requested"])
        second = self.runs()[-1]
        self.assertEqual((second["status"], second["trigger"]), ("queued", "schedule"))
        self.assertIsNone(self.claim(worker_id)["run_id"], "the last one has not stopped yet")
        self.db.call(
            "complete_workflow_run",
            run_id=running,
            exit_code=None,
            error_code="canceled",
            worker_id=worker_id,
            epoch=epoch,
        )
        self.assertEqual(self.claim(worker_id)["run_id"], second["id"])

    def test_missed_times_as_the_policy_says(self):
        for policy, count in (("once", 1), ("all", 4), ("skip", 0)):
            with self.subTest(policy=policy):
                workflow = self.workflow = self.make_workflow(self.project)
                self.configure(schedule_catch_up=policy, schedule_overlap="queue")
                self.make_due(hours=3)
                row = self.evaluate(minute=30)
                self.assertEqual(len(self.runs()), count)
                self.assertEqual(row["id"], workflow)

    def test_paused_or_disabled_means_nothing_is_due(self):
        for values in ({"schedule_paused": True}, {"enabled": False}, {"schedule": False}):
            with self.subTest(**values):
                self.configure(**{"schedule_paused": False, "enabled": True, **values})
                self.assertIsNone(self.workflow_row()["schedule_next_at"])
        self.configure(schedule_paused=False, enabled=True)
        self.assertGreater(self.workflow_row()["schedule_next_at"], fields.Datetime.now())

    def test_a_refusal_is_noted_and_the_next_time_comes(self):
        self.configure()
        self.db.rows("UPDATE ops_project SET active = false WHERE id = %s", self.project)
        due = self.make_due()
        row = self.evaluate()
        self.assertEqual(self.runs(), [])
        self.assertIn("archived", row["schedule_note"])
        self.assertEqual(row["schedule_next_at"], due + timedelta(hours=1))

    def test_the_spread_delays_the_run(self):
        self.configure(schedule_jitter=600)
        due = self.make_due()
        self.evaluate()
        delay = schedules.delay(600, self.workflow, due)
        self.assertEqual(self.runs()[0]["available_at"], due + delay)

    def test_a_wrong_schedule_is_refused_with_an_example(self):
        for values in ({"schedule": "every day"}, {"schedule": "0 0 31 2 *"}):
            with self.assertRaisesRegex(ValidationError, r"cannot be used: .*30 2 \* \* 1-5"):
                self.configure(**values)

    def test_a_retry_waits_longer_each_time(self):
        config = {"retry": {"max": 3, "on": ["exit_code"], "backoff": 60}}
        worker_id, run_id = self.worker(), self.queue(self.make_workflow(self.project, config))
        for pause in (60, 120, 240):
            self.db.rows("UPDATE ops_run SET available_at = create_date WHERE id = %s", run_id)
            epoch = self.claim(worker_id)["epoch"]
            holder = {"run_id": run_id, "worker_id": worker_id, "epoch": epoch}
            self.db.call("start_workflow_run", **holder)
            run_id = self.db.call("complete_workflow_run", exit_code=1, **holder)["retry_run_id"]
            row = self.run_row(run_id)
            waits = (row["available_at"] - row["create_date"]).total_seconds()
            self.assertAlmostEqual(waits, pause, delta=1)
            self.assertIsNone(self.claim(worker_id)["run_id"])
