"""A run ends at its deadline, whatever its worker says: the heartbeats of one that hangs keep
nothing alive beyond it."""

from psycopg2.extras import Json

from odoo.tests import tagged

from ..worker.workflow_schema import DEFAULT_TIMEOUT, MAX_TIMEOUT
from .kernel_case import KernelCase


@tagged("post_install", "-at_install")
class TestKernelDeadline(KernelCase):
    def setUp(self):
        super().setUp()
        self.grace = self.db.value(f"SELECT {self.db.schema}.deadline_grace_seconds()")

    def start_with(self, config):
        """Start a run of such a workflow; returns what the worker holds it by."""
        self.workflow = self.make_workflow(self.project, config)
        worker_id, run_id, epoch = self.start()
        return {"run_id": run_id, "worker_id": worker_id, "epoch": epoch}

    def heartbeat(self, held):
        runs = [{"run_id": held["run_id"], "epoch": held["epoch"]}]
        (beat,) = self.db.call("heartbeat", worker_id=held["worker_id"], runs=runs)["runs"]
        return beat

    def endings(self, run_id):
        return [e for e in self.events(run_id) if e["message"] in ("succeeded", "failed")]

    def test_the_deadline_is_the_workflows_timeout_and_a_grace_after_the_start(self):
        held = self.start_with({"timeout": 90})
        row = self.run_row(held["run_id"])
        self.assertEqual((row["deadline"] - row["started_at"]).total_seconds(), 90 + self.grace)
        shown = self.db.value(
            f"SELECT deadline FROM {self.db.schema}.runs WHERE id = %s", held["run_id"]
        )
        self.assertEqual(shown.replace(tzinfo=None), row["deadline"])

    def test_timeouts_are_read_as_the_worker_reads_them(self):
        for timeout, seconds in (
            (1, 1),
            (MAX_TIMEOUT, MAX_TIMEOUT),
            (12.0, 12),
            (MAX_TIMEOUT + 1, DEFAULT_TIMEOUT),
            (0, DEFAULT_TIMEOUT),
            (-5, DEFAULT_TIMEOUT),
            ("60", DEFAULT_TIMEOUT),
            ([60], DEFAULT_TIMEOUT),
            (None, DEFAULT_TIMEOUT),
        ):
            with self.subTest(timeout=timeout):
                snapshot = {"config": {"timeout": timeout}}
                read = f"SELECT {self.db.schema}.run_timeout_seconds(%s)"
                self.assertEqual(self.db.value(read, Json(snapshot)), seconds)
        for snapshot in ({}, {"config": {}}, {"config": None}, []):
            self.assertEqual(self.db.value(read, Json(snapshot)), DEFAULT_TIMEOUT, snapshot)

    def test_a_start_tells_the_worker_how_long_it_has(self):
        self.workflow = self.make_workflow(self.project, {"timeout": 90})
        run_id, worker_id = self.queue(), self.worker()
        epoch = self.claim(worker_id)["epoch"]
        held = {"run_id": run_id, "worker_id": worker_id, "epoch": epoch}
        reply = self.db.call("start_workflow_run", **held)
        self.assertAlmostEqual(reply["deadline_seconds"], 90 + self.grace, delta=2)
        again = self.db.call("start_workflow_run", **held)
        self.assertEqual(again["deadline"], reply["deadline"], "a repeat moves nothing")

    def test_a_heartbeat_renews_no_further_than_the_deadline(self):
        held = self.start_with({})
        self.db.rows(
            "UPDATE ops_run SET deadline = (clock_timestamp() + interval '20 s') AT TIME ZONE 'UTC'"
            " WHERE id = %s",
            held["run_id"],
        )
        self.expire_lease(held["run_id"])
        beat = self.heartbeat(held)
        self.assertTrue(beat["owned"])
        self.assertIn(beat["lease_seconds"], range(15, 21))
        row = self.db.rows(
            "SELECT l.lease_until = r.deadline AT TIME ZONE 'UTC' AS same"
            " FROM ops_run_lease l JOIN ops_run r ON r.id = l.run_id WHERE r.id = %s",
            held["run_id"],
        )
        self.assertEqual(row, [{"same": True}])

    def test_a_worker_that_hangs_and_goes_on_with_its_heartbeats_loses_the_run(self):
        # Rule: R-07
        held = self.start_with({"timeout": 90})
        run_id = held["run_id"]
        self.reach_deadline(run_id)
        self.assertEqual(self.heartbeat(held)["lease_seconds"], 0, "nothing is left to renew")
        self.assertEqual(self.reap()["failed"], 1)
        row = self.run_row(run_id)
        self.assertEqual((row["status"], row["error_code"]), ("failed", "timeout"))
        self.assertIn("timeout of 90 seconds", row["error_message"])
        self.assertFalse(self.heartbeat(held)["owned"])
        (event,) = self.endings(run_id)
        self.assertEqual(event["payload"]["error_code"], "timeout")
        self.assertEqual(event["payload"]["error_message"], row["error_message"])
        before = (row, self.events(run_id))
        for function, arguments in (
            ("complete_workflow_run", {"exit_code": 0}),
            ("complete_workflow_run", {"exit_code": None, "error_code": "timeout"}),
        ):
            self.assertRefused(self.db.call(function, **held, **arguments), "stale_epoch")
        self.assertEqual((self.run_row(run_id), self.events(run_id)), before)
        self.reap()
        self.assertEqual(self.events(run_id), before[1], "reaped once")

    def test_a_worker_that_hangs_before_the_start_gives_the_run_back(self):
        worker_id, run_id = self.worker(), self.queue()
        held = {"run_id": run_id, "worker_id": worker_id, "epoch": self.claim(worker_id)["epoch"]}
        self.expire_lease(run_id)
        self.assertEqual(self.heartbeat(held)["lease_seconds"], 60)
        self.assertEqual(self.reap()["requeued"], 0, "in time it is renewed")
        self.db.rows(
            "UPDATE ops_run SET claimed_at = claimed_at - make_interval(secs => %s) WHERE id = %s",
            *(self.grace, run_id),
        )
        self.expire_lease(run_id)
        self.assertEqual(self.heartbeat(held)["lease_seconds"], 0)
        self.assertEqual(self.reap()["requeued"], 1)
        self.assertRefused(self.db.call("start_workflow_run", **held), "stale_epoch")
        self.assertEqual(self.run_row(run_id)["status"], "queued")

    def test_a_worker_that_completes_within_the_grace_has_its_own_result(self):
        held = self.start_with({"timeout": 1})
        self.db.rows(
            "UPDATE ops_run SET started_at = started_at - interval '60 s',"
            " deadline = deadline - interval '60 s' WHERE id = %s",
            held["run_id"],
        )
        self.assertTrue(self.heartbeat(held)["owned"])
        self.reap()
        timed_out = {"exit_code": None, "error_code": "timeout", "error_message": "Too slow."}
        self.assertTrue(self.db.call("complete_workflow_run", **held, **timed_out)["success"])
        repeated = self.db.call("complete_workflow_run", **held, **timed_out)
        self.assertTrue(repeated["success"] and repeated["repeated"])
        self.assertEqual(self.run_row(held["run_id"])["error_message"], "Too slow.")

    def test_a_worker_that_was_lost_before_the_deadline_was_lost(self):
        """Though it be found out after the deadline only."""
        held = self.start_with({})
        self.reach_deadline(held["run_id"])
        self.db.rows(
            "UPDATE ops_run_lease SET lease_until = lease_until - interval '1 s' WHERE run_id = %s",
            held["run_id"],
        )
        self.reap()
        self.assertEqual(self.run_row(held["run_id"])["error_code"], "worker_lost")

    def test_the_workflow_decides_whether_a_timeout_is_retried(self):
        for causes, retries in ((["timeout"], 1), (["worker_lost"], 0), (None, 0)):
            retry = {"max": 1, "on": causes} if causes else {"max": 1}
            with self.subTest(causes=causes):
                held = self.start_with({"retry": retry})
                self.reach_deadline(held["run_id"])
                self.reap()
                follow_ups = self.db.rows(
                    "SELECT id FROM ops_run WHERE retry_of = %s", held["run_id"]
                )
                self.assertEqual(len(follow_ups), retries)
                for row in follow_ups:
                    self.db.call("cancel_run", run_id=row["id"])

    def test_a_finish_before_the_reaper_counts_and_the_reaper_passes_by(self):
        held = self.start_with({})
        self.reach_deadline(held["run_id"])
        finisher = self.connect()
        finisher.rows("BEGIN")
        finisher.call("complete_workflow_run", exit_code=0, **held)
        self.assertEqual(self.reap()["failed"], 0)
        finisher.rows("COMMIT")
        self.assertEqual(self.reap()["failed"], 0)
        self.assertEqual([e["message"] for e in self.endings(held["run_id"])], ["succeeded"])

    def test_a_finish_after_the_reaper_is_told_that_it_is_late(self):
        held = self.start_with({})
        self.reach_deadline(held["run_id"])
        self.reap()  # Waits until PostgreSQL is old enough; this run is done.
        held = self.start_with({})
        self.reach_deadline(held["run_id"])
        reaper, finisher = self.connect(), self.connect()
        reaper.rows("BEGIN")
        self.assertEqual(reaper.call("reap_lost_runs")["failed"], 1)
        reply = self.in_background(finisher, "complete_workflow_run", exit_code=0, **held)
        self.wait_until_blocked(finisher, by=reaper)
        reaper.rows("COMMIT")
        self.assertRefused(reply.result(30), "stale_epoch")
        self.assertEqual([e["message"] for e in self.endings(held["run_id"])], ["failed"])
