"""What every run goes through stays fast and safe: by index, on a fixed path, without failures."""

import time

from odoo.tests import tagged

from .kernel_case import KernelCase

# Tables that grow with runs or change with every claim, with their partitions. Projects and tools
# are few.
BUSY_TABLES = "^ops_(run|run_event_row.*|run_log_line.*|run_lease|project_gate|worker)$"


@tagged("post_install", "-at_install")
class TestKernelHotPath(KernelCase):
    def test_no_function_of_the_queue_scans_a_table(self):
        # Rule: R-36
        """Not on tables of a few rows either: a plan made then is kept while the tables grow."""
        worker_id = self.worker()
        for _ in range(8):
            self.queue()
        session = self.connect()
        session.rows("BEGIN")
        before = self._sequential_scans(session)
        # Often enough for PostgreSQL to settle on a generic plan.
        for number in range(8):
            reply = session.call(
                "queue_run", workflow_id=self.workflow, idempotency_key=f"plan-{number}"
            )
            self.assertTrue(reply["success"], reply)
            claimed = self.claim(
                worker_id, session, claim_token=f"00000000-0000-0000-0000-{number:012}"
            )
            held = {
                "run_id": claimed["run_id"],
                "worker_id": worker_id,
                "epoch": claimed["epoch"],
            }
            if number % 2:
                self.assertTrue(session.call("release_run", **held)["success"])
                self.assertTrue(session.call("cancel_run", run_id=held["run_id"])["success"])
                continue
            self.assertTrue(session.call("start_workflow_run", **held)["success"])
            runs = [{"run_id": held["run_id"], "epoch": held["epoch"]}]
            beat = session.call("heartbeat", worker_id=worker_id, runs=runs)
            self.assertTrue(beat["runs"][0]["owned"])
            reply = session.call("complete_workflow_run", exit_code=number % 4, **held)
            self.assertTrue(reply["success"], reply)
            self.assertTrue(session.call("retry_run", run_id=held["run_id"])["success"])
        self.assertEqual(self._sequential_scans(session), before)
        session.rows("SET LOCAL enable_indexscan = off")
        session.rows("SET LOCAL enable_bitmapscan = off")
        session.rows("SELECT count(*) FROM ops_run WHERE id = 0")
        self.assertNotEqual(self._sequential_scans(session), before, "the counters count")
        session.rows("ROLLBACK")

    def _sequential_scans(self, session):
        return {
            row["relname"]: row["seq_scan"]
            for row in session.rows(
                "SELECT relname, seq_scan FROM pg_stat_xact_user_tables"
                " WHERE relname ~ %s AND seq_scan > 0",
                BUSY_TABLES,
            )
        }

    def test_a_claim_that_a_crash_took_back_starts_nothing(self):
        """A claim does not wait for the disk: a crash may undo it after its worker was told."""
        first, second, session = self.worker(), self.worker(), self.connect()
        run_id = self.queue()
        session.rows("BEGIN")
        lost = self.claim(first, session)
        self.assertEqual(lost["run_id"], run_id)
        self.assertEqual(session.value("SHOW synchronous_commit"), "off")
        # As after the crash: what was not written did not happen.
        session.rows("ROLLBACK")
        self.assertEqual(session.value("SHOW synchronous_commit"), "on")
        claimed = self.claim(second)
        self.assertEqual((claimed["run_id"], claimed["epoch"]), (run_id, lost["epoch"]))
        held = {"run_id": run_id, "worker_id": first, "epoch": lost["epoch"]}
        for reply in (
            self.db.call("start_workflow_run", **held),
            self.db.call("release_run", **held),
            self.db.call("complete_workflow_run", exit_code=0, **held),
        ):
            self.assertRefused(reply, "not_holder")
        (beat,) = self.db.call(
            "heartbeat", worker_id=first, runs=[{"run_id": run_id, "epoch": lost["epoch"]}]
        )["runs"]
        self.assertFalse(beat["owned"])
        held["worker_id"] = second
        self.assertTrue(self.db.call("start_workflow_run", **held)["success"])

    def test_only_the_claim_does_not_wait_for_the_disk(self):
        worker_id, run_id, epoch = self.start()
        session = self.connect()
        held = {"run_id": run_id, "worker_id": worker_id, "epoch": epoch}
        for function, arguments in (
            ("start_workflow_run", held),
            ("heartbeat", {"worker_id": worker_id, "runs": [{"run_id": run_id, "epoch": epoch}]}),
            ("queue_run", {"workflow_id": self.workflow}),
            ("complete_workflow_run", {"exit_code": 0, **held}),
        ):
            session.rows("BEGIN")
            self.assertTrue(session.call(function, **arguments)["success"])
            self.assertEqual(session.value("SHOW synchronous_commit"), "on", function)
            session.rows("ROLLBACK")

    def test_a_transition_does_not_log_what_the_run_was_queued_with(self):
        """The snapshot is most of a run's row. On a database made before its column became the last
        one this fails, too: make it anew."""
        large = self.make_workflow(self.project, {"env": {"NOTE": "x" * 1200}}, name="Large")
        small, large = self.least_wal_of_a_start(self.workflow), self.least_wal_of_a_start(large)
        self.assertGreater(small, 500, "An event and two versions of rows are more.")
        self.assertLess(large - small, 400)

    def least_wal_of_a_start(self, workflow):
        """Bytes that a start writes to PostgreSQL's log, the least of some: the first change of a
        page after a checkpoint logs the page, and a version that finds no room in its page is
        logged whole."""
        worker_id, found = self.worker(), []
        for _ in range(8):
            self.queue(workflow)
            claimed = self.claim(worker_id)
            (plan,) = self.db.value(
                "EXPLAIN (ANALYZE, WAL, FORMAT JSON)"
                f" SELECT {self.db.schema}.start_workflow_run(%s, %s, %s)",
                claimed["run_id"], worker_id, claimed["epoch"],
            )  # fmt: skip
            self.assertEqual(self.run_row(claimed["run_id"])["status"], "running")
            found.append(plan["Plan"]["WAL Bytes"])
        return min(found)

    def test_what_acts_with_the_owners_rights_has_a_path_of_its_own(self):
        # Rule: R-22
        """Helpers without one are called by such functions alone: nobody else may."""
        functions = self.db.rows(
            "SELECT p.proname, p.prosecdef OR p.prorettype = 'trigger'::regtype AS is_door,"
            " p.proconfig, ARRAY(SELECT a.grantee::regrole::text FROM aclexplode("
            "     coalesce(p.proacl, acldefault('f', p.proowner))) a"
            "   WHERE a.grantee <> p.proowner) AS others"
            " FROM pg_proc p WHERE p.pronamespace = %s::regnamespace",
            self.db.schema,
        )
        path = f"search_path={self.db.schema}, public, pg_temp"
        self.assertGreater(len(functions), 50)
        for function in functions:
            with self.subTest(function=function["proname"]):
                if function["is_door"] or function["others"]:
                    self.assertIn(path, function["proconfig"] or [])

    def test_workers_and_enqueuers_of_one_project_never_see_a_failure(self):
        """No serialization failure, no deadlock; in_parallel fails on any exception."""
        until = time.monotonic() + 5
        workers = [self.worker() for _ in range(8)]
        # A last run waits for the disk when the time is over, and is not to be seen until then.
        enqueuing = set(range(8, 16))

        def enqueue(index, db):
            queued = []
            try:
                while time.monotonic() < until:
                    queued.append(db.call("queue_run", workflow_id=self.workflow)["run_id"])
                    if len(queued) % 5 == 0:
                        db.call("cancel_run", run_id=queued[-3])
            finally:
                enqueuing.remove(index)
            return queued

        def work(worker_id, db):
            executed = []
            while True:
                is_over = not enqueuing
                claimed = self.claim(worker_id, db)
                if not claimed["run_id"]:
                    if is_over and "busy" not in claimed["message"]:
                        return executed
                    continue
                held = {"run_id": claimed["run_id"], "epoch": claimed["epoch"]}
                started = db.call("start_workflow_run", worker_id=worker_id, **held)
                # Somebody may have canceled it in between.
                if started["success"]:
                    db.call("heartbeat", worker_id=worker_id, runs=[held])
                    outcome = db.call(
                        "complete_workflow_run", worker_id=worker_id, exit_code=0, **held
                    )
                    self.assertTrue(outcome["success"], outcome)
                    executed.append(held["run_id"])

        def body(index, db):
            return work(workers[index], db) if index < 8 else enqueue(index, db)

        results = self.in_parallel(16, body)
        executed, queued = sum(results[:8], []), sum(results[8:], [])
        self.assertEqual(len(executed), len(set(executed)))
        statuses = {
            row["status"]: row["count"]
            for row in self.db.rows(
                "SELECT status, count(*) FROM ops_run WHERE id = ANY(%s) GROUP BY status", queued
            )
        }
        self.assertEqual(statuses["succeeded"], len(executed))
        self.assertEqual(statuses["succeeded"] + statuses.get("canceled", 0), len(queued))
        self.assertEqual(
            self.db.value("SELECT count(*) FROM ops_run_lease WHERE run_id = ANY(%s)", queued), 0
        )
