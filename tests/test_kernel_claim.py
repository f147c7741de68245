"""Out of the queue: once, fairly, within limits, whatever the interleaving."""

import time
import uuid

from odoo.tests import tagged

from .kernel_case import KernelCase


@tagged("post_install", "-at_install")
class TestKernelClaim(KernelCase):
    def test_an_empty_queue_says_so(self):
        reply = self.claim(self.worker())
        self.assertTrue(reply["success"])
        self.assertIsNone(reply["run_id"])
        self.assertEqual(reply["message"], "No queued runs available")

    def test_a_claim_brings_what_the_worker_needs(self):
        run_id = self.queue(metadata={"environment": "dev"})
        reply = self.claim(self.worker())
        self.assertEqual(reply["run_id"], run_id)
        self.assertEqual(reply["epoch"], 1)
        self.assertEqual(reply["snapshot"]["workflow"]["workflow_type"], "test")
        self.assertEqual(reply["snapshot"]["metadata"], {"environment": "dev"})
        self.assertEqual(reply["snapshot"]["trigger"], "manual")

    def test_many_workers_execute_each_run_once(self):
        # Rule: R-01
        run_ids = {self.queue() for _ in range(200)}
        workers = [self.worker() for _ in range(8)]

        def work(index, db):
            mine = []
            while (claimed := db.call("claim_next_run", worker_id=workers[index]))["run_id"]:
                held = {"run_id": claimed["run_id"], "epoch": claimed["epoch"]}
                db.call("start_workflow_run", worker_id=workers[index], **held)
                reply = db.call("complete_workflow_run", exit_code=0, **held)
                self.assertEqual(reply["status"], "succeeded")
                mine.append(claimed["run_id"])
            return mine

        executed = sum(self.in_parallel(8, work), [])
        self.assertEqual(len(executed), 200)
        self.assertEqual(set(executed), run_ids)
        leases = self.db.value(
            "SELECT count(*) FROM ops_run_lease WHERE run_id = ANY(%s)", list(run_ids)
        )
        self.assertEqual(leases, 0)

    def test_the_limit_of_a_project_holds_under_contention(self):
        # Rule: R-08
        self.db.rows("UPDATE ops_project SET max_running = 3 WHERE id = %s", self.project)
        for _ in range(40):
            self.queue()
        workers = [self.worker() for _ in range(8)]
        watcher = self.connect()
        most = []

        def work(index, db):
            for _ in range(25):
                claimed = db.call("claim_next_run", worker_id=workers[index])
                if not claimed["run_id"]:
                    continue
                most.append(
                    db.value(
                        "SELECT count(*) FROM ops_run WHERE project_id = %s"
                        " AND status IN ('claimed', 'running')",
                        self.project,
                    )
                )
                time.sleep(0.002)
                db.call(
                    "release_run",
                    run_id=claimed["run_id"],
                    worker_id=workers[index],
                    epoch=claimed["epoch"],
                )

        self.in_parallel(8, work)
        self.assertGreater(len(most), 20)
        self.assertLessEqual(max(most), 3)
        self.assertGreater(max(most), 1, "the limit is a limit, not a lock")
        watcher.close()

    def test_a_lost_reply_does_not_strand_a_run(self):
        worker_id, token = self.worker(), str(uuid.uuid4())
        run_id = self.queue()
        self.queue()
        first = self.claim(worker_id, claim_token=token)
        again = self.claim(worker_id, claim_token=token)
        self.assertEqual(first["run_id"], run_id)
        self.assertEqual((again["run_id"], again["epoch"]), (run_id, first["epoch"]))

    def test_higher_priority_goes_first_then_the_older_run(self):
        runs = [self.queue(priority=p) for p in (0, 5, 0, 5)]
        worker_id = self.worker()
        order = [self.claim(worker_id)["run_id"] for _ in runs]
        self.assertEqual(order, [runs[1], runs[3], runs[0], runs[2]])

    def test_a_worker_without_the_labels_does_not_get_the_run(self):
        workflow = self.make_workflow(self.project, {"labels": ["docker", "big"]})
        run_id = self.queue(workflow)
        worker_id = self.worker()
        self.assertIsNone(self.claim(worker_id, labels=["docker"])["run_id"])
        self.assertEqual(self.claim(worker_id, labels=["big", "x", "docker"])["run_id"], run_id)

    def test_later_paused_and_archived_runs_wait(self):
        worker_id = self.worker()
        self.queue(available_at="2099-01-01T00:00:00+00")
        self.assertIsNone(self.claim(worker_id)["run_id"])
        run_id = self.queue()
        self.db.rows("UPDATE ops_project SET paused = true WHERE id = %s", self.project)
        self.assertIsNone(self.claim(worker_id)["run_id"])
        self.db.rows("UPDATE ops_project SET paused = false WHERE id = %s", self.project)
        self.assertEqual(self.claim(worker_id)["run_id"], run_id)

    def test_one_run_at_a_time_in_a_concurrency_group(self):
        workflow = self.make_workflow(self.project, {"concurrency_group": "production"})
        first, second = self.queue(workflow), self.queue(workflow)
        free = self.queue()
        worker_id = self.worker()
        claimed = self.claim(worker_id)
        self.assertEqual(claimed["run_id"], first)
        self.assertEqual(self.claim(worker_id)["run_id"], free)
        self.assertIsNone(self.claim(worker_id)["run_id"])
        self.assertEqual(self.db.call("explain_wait", run_id=second)["code"], "concurrency_group")
        held = {"run_id": first, "worker_id": worker_id, "epoch": claimed["epoch"]}
        self.db.call("start_workflow_run", **held)
        self.db.call("complete_workflow_run", exit_code=0, **held)
        self.assertEqual(self.claim(worker_id)["run_id"], second)

    def test_an_older_member_of_a_group_is_not_overtaken_for_want_of_a_label(self):
        group = {"concurrency_group": "production"}
        older = self.queue(self.make_workflow(self.project, {**group, "labels": ["docker"]}))
        younger = self.queue(self.make_workflow(self.project, group))
        other_group = self.queue(self.make_workflow(self.project, {"concurrency_group": "staging"}))
        elsewhere = self.queue(self.make_workflow(self.make_project(), group))
        plain = self.worker()
        claimed = [self.claim(plain)["run_id"] for _ in range(3)]
        self.assertEqual(sorted(claimed, key=str), sorted([other_group, elsewhere, None], key=str))
        reply = self.db.call("explain_wait", run_id=younger)
        self.assertEqual(reply["code"], "concurrency_group")
        number = self.run_row(older)["run_number"]
        self.assertEqual(reply["message"], f"Run #{number} of the group production goes first.")
        fitting = self.claim(self.worker(), labels=["docker"])
        self.assertEqual(fitting["run_id"], older)
        self.assertIsNone(self.claim(plain)["run_id"])
        self.db.call("cancel_run", run_id=older)
        self.assertEqual(self.claim(plain)["run_id"], younger)

    def test_a_member_scheduled_for_later_holds_up_nobody(self):
        workflow = self.make_workflow(self.project, {"concurrency_group": "production"})
        self.queue(workflow, available_at="2099-01-01T00:00:00+00", priority=1000)
        due = self.queue(workflow)
        self.assertEqual(self.claim(self.worker())["run_id"], due)

    def test_priority_goes_before_age_within_a_group_too(self):
        workflow = self.make_workflow(self.project, {"concurrency_group": "production"})
        self.queue(workflow)
        urgent = self.queue(workflow, priority=1)
        self.assertEqual(self.claim(self.worker())["run_id"], urgent)

    def test_a_member_somebody_is_busy_with_is_not_overtaken(self):
        workflow = self.make_workflow(self.project, {"concurrency_group": "production"})
        older, younger = self.queue(workflow), self.queue(workflow)
        other = self.connect()
        other.rows("BEGIN")
        other.rows("SELECT FROM ops_run WHERE id = %s FOR NO KEY UPDATE", older)
        worker_id = self.worker()
        self.assertIsNone(self.claim(worker_id)["run_id"])
        other.rows("COMMIT")
        self.assertEqual(self.claim(worker_id)["run_id"], older)
        self.assertIsNone(self.claim(worker_id)["run_id"])
        self.db.call("cancel_run", run_id=older)
        self.assertEqual(self.claim(worker_id)["run_id"], younger)

    def test_a_long_backlog_does_not_starve_another_project(self):
        for _ in range(20):
            self.queue()
        lone = self.queue(self.make_workflow(self.make_project()))
        worker_id = self.worker()
        first_two = [self.claim(worker_id)["run_id"] for _ in range(2)]
        self.assertIn(lone, first_two)

    def test_a_project_behind_many_that_give_nothing_is_found(self):
        """A claim asks the first of the projects at once, and then all that have queued runs."""
        for _ in range(35):
            self.make_project()
        for number in range(4):
            project = self.make_project(max_running=1, paused=number == 3)
            workflow = self.make_workflow(project)
            for _ in range(2):
                self.queue(workflow)
        worker_id = self.worker()
        full = {self.claim(worker_id)["project_id"] for _ in range(3)}
        self.assertEqual(len(full), 3)
        run_id = self.queue()
        self.db.rows(
            "UPDATE ops_project_gate SET last_claimed_at = '-infinity' WHERE project_id = ANY(%s)",
            list(full),
        )
        self.db.rows(
            "UPDATE ops_project_gate SET last_claimed_at = clock_timestamp() WHERE project_id = %s",
            self.project,
        )
        self.assertEqual(self.claim(worker_id)["run_id"], run_id)
        self.assertIsNone(self.claim(worker_id)["run_id"])

    def test_a_busy_gate_does_not_read_as_an_empty_queue(self):
        run_id = self.queue()
        other = self.connect()
        other.rows("BEGIN")
        other.rows(
            "SELECT FROM ops_project_gate WHERE project_id = %s FOR NO KEY UPDATE", self.project
        )
        worker_id = self.worker()
        self.assertIn("busy", self.claim(worker_id)["message"])
        other.rows("COMMIT")
        self.assertEqual(self.claim(worker_id)["run_id"], run_id)

    def test_an_uncommitted_enqueue_does_not_hide_a_project(self):
        run_id = self.queue()
        other = self.connect()
        other.rows("BEGIN")
        other.call("queue_run", workflow_id=self.workflow)
        self.assertEqual(self.claim(self.worker())["run_id"], run_id)
        other.rows("COMMIT")

    def test_a_name_that_is_no_worker_id_is_refused(self):
        for worker_id in ("", "a b", "x" * 65, None):
            with self.subTest(worker_id=worker_id):
                self.assertRefused(self.claim(worker_id), "invalid_input")
