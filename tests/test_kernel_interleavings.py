"""Two calls about one run at the same time, in each order.

One call is left uncommitted on a connection of its own, the other is made meanwhile: it either
passes by, or waits for the lock, which PostgreSQL itself is asked about. No test sleeps and hopes.
"""

import random
import threading
import uuid

from odoo.tests import tagged

from .kernel_case import KernelCase


@tagged("post_install", "-at_install")
class TestKernelInterleavings(KernelCase):
    def setUp(self):
        super().setUp()
        self.first, self.second = self.connect(), self.connect()
        self.reap()  # Waits, where need be, until PostgreSQL is old enough for it.

    def claimed(self):
        held = {"run_id": self.queue(), "worker_id": self.worker()}
        return {**held, "epoch": self.claim(held["worker_id"])["epoch"]}

    def running(self):
        worker_id, run_id, epoch = self.start()
        return {"run_id": run_id, "worker_id": worker_id, "epoch": epoch}

    def meanwhile(self, function, arguments, later, later_arguments):
        """Make the second call while the first waits for its commit; both replies. The second has
        to wait for the first."""
        self.first.rows("BEGIN")
        reply = self.first.call(function, **arguments)
        waiting = self.in_background(self.second, later, **later_arguments)
        self.wait_until_blocked(self.second, by=self.first)
        self.first.rows("COMMIT")
        return reply, waiting.result(30)

    def beside(self, function, arguments, later, later_arguments):
        """The same, where the second call passes the first by without waiting."""
        self.first.rows("BEGIN")
        reply = self.first.call(function, **arguments)
        later_reply = self.second.call(later, **later_arguments)
        self.first.rows("COMMIT")
        return reply, later_reply

    def assertEnded(self, run_id, status, error_code=None):
        """The run has ended so, and its trail tells of one end."""
        row = self.run_row(run_id)
        self.assertEqual((row["status"], row["error_code"]), (status, error_code))
        ends = [
            e["message"]
            for e in self.events(run_id)
            if e["message"] in ("succeeded", "failed", "canceled")
        ]
        self.assertEqual(ends, [status])
        self.assertEqual(
            self.db.rows(f"SELECT * FROM {self.db.schema}.verify_events(%s)", run_id), []
        )

    # -- claim and claim --------------------------------------------------------------------

    def test_a_claim_beside_a_claim_takes_another_run_or_none(self):
        run_id = self.queue()
        workers = [{"worker_id": self.worker()} for _ in range(2)]
        claimed, other = self.beside("claim_next_run", workers[0], "claim_next_run", workers[1])
        self.assertEqual((claimed["run_id"], other["run_id"]), (run_id, None))
        self.assertIn("busy", other["message"])
        self.assertIsNone(self.claim(workers[1]["worker_id"])["run_id"])

    def test_a_claim_passes_by_the_project_whose_gate_another_holds(self):
        second = self.make_project()
        first_run, second_run = self.queue(), self.queue(self.make_workflow(second))
        self.db.rows(
            "UPDATE ops_project_gate SET last_claimed_at = now() WHERE project_id = %s", second
        )
        self.first.rows("BEGIN")
        self.first.rows(
            "SELECT FROM ops_project_gate WHERE project_id = %s FOR NO KEY UPDATE", self.project
        )
        claimed = self.in_background(self.second, "claim_next_run", worker_id=self.worker())
        self.addCleanup(self.first.close)  # Before what waits for it, should the claim do so.
        self.assertEqual(claimed.result(30)["run_id"], second_run)
        self.first.rows("ROLLBACK")
        self.assertEqual(self.claim(self.worker())["run_id"], first_run)

    def test_a_claim_that_waited_counts_what_was_claimed_meanwhile(self):
        self.db.rows("UPDATE ops_project SET max_running = 1 WHERE id = %s", self.project)
        # The second claim waits 250 ms for the gate: on a slow machine it may give up before the
        # first is committed, which proves nothing.
        for _ in range(20):
            runs = [self.queue() for _ in range(2)]
            workers = [{"worker_id": self.worker()} for _ in range(2)]
            claimed, other = self.meanwhile(
                "claim_next_run", workers[0], "claim_next_run", workers[1]
            )
            self.assertEqual((claimed["run_id"], other["run_id"]), (runs[0], None))
            for run_id in runs:
                self.db.call("cancel_run", run_id=run_id)
            if "busy" not in other["message"]:
                return
        self.fail("the second claim never got the gate in time")

    def test_a_claim_that_died_with_its_connection_leaves_the_run_queued(self):
        run_id = self.queue()
        self.first.rows("BEGIN")
        self.first.call("claim_next_run", worker_id=self.worker())
        self.db.rows(
            "SELECT pg_terminate_backend(%s, 10000)", self.first.connection.info.backend_pid
        )
        self.assertEqual(self.run_row(run_id)["status"], "queued")
        self.assertEqual(self.claim(self.worker())["run_id"], run_id)

    # -- the same claim token ---------------------------------------------------------------

    def test_a_repeated_claim_whose_first_is_not_committed_yet_gets_the_same_run(self):
        """The reply was lost with the connection, but the server is still at work on the call."""
        run_id = self.queue()
        self.queue()
        self.queue(self.make_workflow(self.make_project()))
        again = {"worker_id": self.worker(), "claim_token": str(uuid.uuid4())}
        self.first.rows("BEGIN")
        claimed = self.first.call("claim_next_run", **again)
        self.assertEqual(claimed["run_id"], run_id)
        # The other project's gate is free, and would give the same token a second run.
        waiting = self.in_background(self.second, "claim_next_run", **again)
        self.wait_until_blocked(self.second, by=self.first)
        self.first.rows("COMMIT")
        reply = waiting.result(30)
        self.assertEqual((reply["run_id"], reply["epoch"]), (run_id, claimed["epoch"]))
        held = self.db.value(
            "SELECT count(*) FROM ops_run_lease WHERE worker_id = %s", again["worker_id"]
        )
        self.assertEqual(held, 1)

    def test_another_workers_token_is_refused(self):
        self.queue()
        token = str(uuid.uuid4())
        self.claim(self.worker(), claim_token=token)
        self.assertRefused(self.claim(self.worker(), claim_token=token), "conflict")

    # -- the reaper -------------------------------------------------------------------------

    def test_a_claim_beside_a_reaper_does_not_take_what_goes_back(self):
        held = self.claimed()
        self.expire_lease(held["run_id"])
        other = self.worker()
        reaped, claimed = self.beside("reap_lost_runs", {}, "claim_next_run", {"worker_id": other})
        self.assertEqual((reaped["requeued"], claimed["run_id"]), (1, None))
        again = self.claim(other)
        self.assertEqual((again["run_id"], again["epoch"]), (held["run_id"], held["epoch"] + 1))
        self.assertRefused(self.db.call("start_workflow_run", **held), "stale_epoch")

    def test_a_reaper_beside_a_claim_finds_nothing(self):
        run_id, worker_id = self.queue(), self.worker()
        claimed, reaped = self.beside(
            "claim_next_run", {"worker_id": worker_id}, "reap_lost_runs", {}
        )
        self.assertEqual((claimed["run_id"], reaped["requeued"]), (run_id, 0))

    def test_a_start_that_waited_for_the_reaper_is_stale(self):
        held = self.claimed()
        self.expire_lease(held["run_id"])
        reaped, started = self.meanwhile("reap_lost_runs", {}, "start_workflow_run", held)
        self.assertEqual(reaped["requeued"], 1)
        self.assertRefused(started, "stale_epoch")
        self.assertEqual(self.run_row(held["run_id"])["status"], "queued")

    def test_a_reaper_beside_a_start_passes_it_by(self):
        held = self.claimed()
        self.expire_lease(held["run_id"])
        started, reaped = self.beside("start_workflow_run", held, "reap_lost_runs", {})
        self.assertTrue(started["success"])
        self.assertEqual(reaped["requeued"], 0)
        self.assertEqual(self.db.call("reap_lost_runs")["failed"], 0, "the start renewed the lease")
        self.assertEqual(self.run_row(held["run_id"])["status"], "running")

    def test_a_reaper_that_waited_for_a_heartbeat_looks_again(self):
        held = self.running()
        self.expire_lease(held["run_id"])
        runs = [{"run_id": held["run_id"], "epoch": held["epoch"]}]
        beat, reaped = self.meanwhile(
            "heartbeat", {"worker_id": held["worker_id"], "runs": runs}, "reap_lost_runs", {}
        )
        self.assertTrue(beat["runs"][0]["owned"])
        self.assertEqual(reaped["failed"], 0)
        self.assertEqual(self.run_row(held["run_id"])["status"], "running")

    def test_a_heartbeat_that_waited_for_the_reaper_owns_nothing(self):
        held = self.running()
        self.expire_lease(held["run_id"])
        runs = [{"run_id": held["run_id"], "epoch": held["epoch"]}]
        reaped, beat = self.meanwhile(
            "reap_lost_runs", {}, "heartbeat", {"worker_id": held["worker_id"], "runs": runs}
        )
        self.assertEqual(reaped["failed"], 1)
        self.assertFalse(beat["runs"][0]["owned"])
        self.assertEnded(held["run_id"], "failed", "worker_lost")

    def test_lines_that_waited_for_the_reaper_are_not_stored(self):
        held = self.running()
        self.expire_lease(held["run_id"])
        lines = {"run_id": held["run_id"], "epoch": held["epoch"], "first_seq": 1}
        _reaped, appended = self.meanwhile(
            "reap_lost_runs", {}, "append_run_logs", {**lines, "lines": [{"message": "late"}]}
        )
        self.assertRefused(appended, "stale_epoch")
        stored = self.db.rows("SELECT 1 FROM ops_run_log WHERE run_id = %s", held["run_id"])
        self.assertEqual(stored, [])

    def test_a_second_reaper_leaves_the_work_to_the_first(self):
        held = self.running()
        self.expire_lease(held["run_id"])
        first, second = self.beside("reap_lost_runs", {}, "reap_lost_runs", {})
        self.assertEqual((first["failed"], second["failed"]), (1, 0))
        self.assertEnded(held["run_id"], "failed", "worker_lost")

    def test_a_finish_that_waited_for_the_reaper_is_stale(self):
        held = self.running()
        self.expire_lease(held["run_id"])
        _reaped, finished = self.meanwhile(
            "reap_lost_runs", {}, "complete_workflow_run", {**held, "exit_code": 0}
        )
        self.assertRefused(finished, "stale_epoch")
        self.assertEnded(held["run_id"], "failed", "worker_lost")

    def test_a_reaper_beside_a_finish_passes_it_by(self):
        held = self.running()
        self.expire_lease(held["run_id"])
        finished, reaped = self.beside(
            "complete_workflow_run", {**held, "exit_code": 0}, "reap_lost_runs", {}
        )
        self.assertTrue(finished["success"])
        self.assertEqual(reaped["failed"], 0)
        self.assertEnded(held["run_id"], "succeeded")

    # -- people -----------------------------------------------------------------------------

    def test_a_cancel_that_waited_for_a_finish_comes_too_late(self):
        held = self.running()
        _finished, canceled = self.meanwhile(
            "complete_workflow_run",
            {**held, "exit_code": 0},
            "cancel_run",
            {"run_id": held["run_id"]},
        )
        self.assertRefused(canceled, "invalid_state")
        self.assertEnded(held["run_id"], "succeeded")

    def test_a_finish_that_waited_for_a_cancel_has_its_own_result(self):
        held = self.running()
        canceled, finished = self.meanwhile(
            "cancel_run",
            {"run_id": held["run_id"]},
            "complete_workflow_run",
            {**held, "exit_code": 0},
        )
        self.assertFalse(canceled["confirmed"])
        self.assertEqual(finished["status"], "succeeded")
        self.assertEnded(held["run_id"], "succeeded")

    def test_two_finishes_at_the_same_time_are_one_and_its_repeat(self):
        held = self.running()
        first, second = self.meanwhile(
            "complete_workflow_run",
            {**held, "exit_code": 0},
            "complete_workflow_run",
            {**held, "exit_code": 1},
        )
        self.assertEqual((first["status"], second["status"]), ("succeeded", "succeeded"))
        self.assertTrue(second["repeated"])
        self.assertEnded(held["run_id"], "succeeded")

    def test_a_cancel_that_waited_for_a_release_ends_the_queued_run(self):
        held = self.claimed()
        released, canceled = self.meanwhile(
            "release_run", held, "cancel_run", {"run_id": held["run_id"]}
        )
        self.assertTrue(released["success"])
        self.assertTrue(canceled["confirmed"])
        self.assertEnded(held["run_id"], "canceled", "canceled")

    def test_a_release_that_waited_for_a_cancel_is_stale(self):
        held = self.claimed()
        _canceled, released = self.meanwhile(
            "cancel_run", {"run_id": held["run_id"]}, "release_run", held
        )
        self.assertRefused(released, "stale_epoch")
        self.assertEnded(held["run_id"], "canceled", "canceled")

    def test_a_start_that_waited_for_a_cancel_is_stale(self):
        held = self.claimed()
        _canceled, started = self.meanwhile(
            "cancel_run", {"run_id": held["run_id"]}, "start_workflow_run", held
        )
        self.assertRefused(started, "stale_epoch")
        self.assertEnded(held["run_id"], "canceled", "canceled")

    # -- many at once -----------------------------------------------------------------------

    def test_limits_hold_whatever_eight_workers_do(self):
        """Random ends, releases, cancels and losses; an observer never sees one run too many."""
        self.db.rows("UPDATE ops_project SET max_running = 3 WHERE id = %s", self.project)
        for _ in range(60):
            self.queue()
        workers = [self.worker() for _ in range(8)]
        counts, done = [], threading.Event()

        def observe(db):
            while not done.is_set():
                counts.append(self.active(db))

        def work(index, db):
            dice = random.Random(index)
            for _ in range(40):
                claimed = db.call("claim_next_run", worker_id=workers[index])
                if claimed["run_id"]:
                    held = {name: claimed[name] for name in ("run_id", "epoch")}
                    act = dice.choice(("release", "cancel", "finish", "finish", "fail", "lose"))
                    self.end(db, act, {**held, "worker_id": workers[index]})

        observer = threading.Thread(target=observe, args=(self.connect(),))
        observer.start()
        try:
            self.in_parallel(8, work)
        finally:
            done.set()
            observer.join(30)
        self.assertLessEqual(max(counts), 3)
        self.assertGreater(max(counts), 1, "the limit is a limit, not a lock")
        self.reap()
        self.assertEqual(self.active(self.db), 0, "nothing is held for ever")

    def active(self, db):
        """How many runs of the project are claimed or running."""
        return db.value(
            "SELECT count(*) FROM ops_run WHERE project_id = %s"
            " AND status IN ('claimed', 'running')",
            self.project,
        )

    @staticmethod
    def end(db, act, held):
        """Give a claimed run up, one way or another."""
        if act == "release":
            db.call("release_run", **held)
        elif act == "cancel":
            db.call("cancel_run", run_id=held["run_id"])
        else:
            db.call("start_workflow_run", **held)
            if act != "lose":
                db.call("complete_workflow_run", exit_code=int(act == "fail"), **held)
                return
            db.rows(
                "UPDATE ops_run_lease SET lease_until = '-infinity' WHERE run_id = %s",
                held["run_id"],
            )
            db.call("reap_lost_runs")

    def test_a_group_across_workflows_runs_one_by_one_in_the_order_of_the_queue(self):
        # Rule: R-08
        workflows = [
            self.make_workflow(self.project, {"concurrency_group": "production"}) for _ in range(3)
        ]
        runs = [self.queue(workflows[number % 3]) for number in range(30)]
        workers = [self.worker() for _ in range(8)]
        order, lock = [], threading.Lock()

        def work(index, db):
            while len(order) < len(runs):
                claimed = db.call("claim_next_run", worker_id=workers[index])
                if claimed["run_id"] is None:
                    continue
                with lock:
                    order.append(claimed["run_id"])
                held = {"run_id": claimed["run_id"], "epoch": claimed["epoch"]}
                self.assertEqual(self.active(db), 1)
                db.call("start_workflow_run", worker_id=workers[index], **held)
                db.call("complete_workflow_run", exit_code=0, **held)

        self.in_parallel(8, work)
        self.assertEqual(order, runs)
