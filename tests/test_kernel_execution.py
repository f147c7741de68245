"""What a holder may do, and what a stale one may not: fencing, leases, the end of a run."""

import threading

from odoo.tests import tagged

from .kernel_case import KernelCase


@tagged("post_install", "-at_install")
class TestKernelExecution(KernelCase):
    def test_exit_code_zero_is_success_and_only_that(self):
        # Rule: R-05
        for arguments, status, error_code in (
            ({"exit_code": 0}, "succeeded", None),
            ({"exit_code": 3}, "failed", "exit_code"),
            ({"exit_code": 0, "error_code": "no_tests"}, "failed", "no_tests"),
            ({"exit_code": None, "error_code": "timeout"}, "failed", "timeout"),
        ):
            with self.subTest(arguments=arguments):
                worker_id, run_id, epoch = self.start()
                reply = self.db.call(
                    "complete_workflow_run",
                    run_id=run_id,
                    worker_id=worker_id,
                    epoch=epoch,
                    metadata={"commit": "c"},
                    **arguments,
                )
                row = self.run_row(run_id)
                self.assertEqual((reply["status"], row["status"]), (status, status))
                self.assertEqual(row["error_code"], error_code)
                self.assertEqual(row["exit_code"], arguments["exit_code"])
                self.assertEqual(bool(row["error_message"]), status == "failed")
                self.assertEqual(row["metadata"]["commit"], "c")

    def test_a_repeated_completion_changes_nothing(self):
        worker_id, run_id, epoch = self.start()
        held = {"run_id": run_id, "worker_id": worker_id, "epoch": epoch}
        first = self.db.call("complete_workflow_run", exit_code=0, **held)
        again = self.db.call("complete_workflow_run", exit_code=1, **held)
        self.assertTrue(again["success"])
        self.assertEqual(again["status"], "succeeded")
        self.assertEqual(again["finished_at"], first["finished_at"])
        self.assertEqual(self.events(run_id)[-1]["payload"]["to"], "succeeded")

    def test_a_stale_worker_changes_nothing_and_is_told_so(self):
        # Rule: R-03
        worker_id, run_id, epoch = self.start()
        self.expire_lease(run_id)
        self.assertGreaterEqual(self.reap()["failed"], 1)
        before = (self.run_row(run_id), self.events(run_id))
        stale = {"run_id": run_id, "epoch": epoch}
        calls = {
            "append_run_logs": {"first_seq": 1, "lines": [{"message": "late"}]},
            "append_run_log": {"level": "info", "message": "late"},
            "add_run_event": {"event_type": "info", "message": "late"},
            "add_run_artifact": {
                "artifact_key": "late.txt",
                "artifact_url": "filesystem:late.txt",
                "content_type": "text/plain",
                "size_bytes": 1,
                "checksum": "a" * 64,
            },
            "complete_workflow_run": {"exit_code": 0},
            "start_workflow_run": {"worker_id": worker_id},
            "release_run": {"worker_id": worker_id},
        }
        for function, arguments in calls.items():
            with self.subTest(function=function):
                self.assertRefused(self.db.call(function, **stale, **arguments), "stale_epoch")
        beat = self.db.call("heartbeat", worker_id=worker_id, runs=[stale])
        self.assertFalse(beat["runs"][0]["owned"])
        self.assertEqual((self.run_row(run_id), self.events(run_id)), before)
        self.assertEqual(
            self.db.value("SELECT count(*) FROM ops_run_log WHERE run_id = %s", run_id), 0
        )

    def test_an_earlier_epoch_is_fenced_while_a_later_one_works(self):
        # Rule: R-03
        slow, quick = self.worker(), self.worker()
        run_id = self.queue()
        old = self.claim(slow)
        self.expire_lease(run_id)
        self.assertGreaterEqual(self.reap()["requeued"], 1)
        new = self.claim(quick)
        self.assertEqual((new["run_id"], new["epoch"]), (run_id, old["epoch"] + 1))
        self.assertRefused(
            self.db.call("start_workflow_run", run_id=run_id, worker_id=slow, epoch=old["epoch"]),
            "stale_epoch",
        )
        self.assertRefused(
            self.db.call("start_workflow_run", run_id=run_id, worker_id=slow), "not_holder"
        )
        self.assertTrue(
            self.db.call("start_workflow_run", run_id=run_id, worker_id=quick)["success"]
        )

    def test_a_heartbeat_keeps_the_lease_alive(self):
        worker_id, run_id, epoch = self.start()
        self.expire_lease(run_id)
        beat = self.db.call(
            "heartbeat", worker_id=worker_id, runs=[{"run_id": run_id, "epoch": epoch}]
        )
        self.assertTrue(beat["runs"][0]["owned"])
        self.reap()
        self.assertEqual(self.run_row(run_id)["status"], "running")

    def test_finish_and_reap_at_the_same_time_end_a_run_once(self):
        for _ in range(10):
            worker_id, run_id, epoch = self.start()
            self.expire_lease(run_id)

            def act(index, db, run_id=run_id, worker_id=worker_id, epoch=epoch):
                if index:
                    return db.call("reap_lost_runs")
                return db.call(
                    "complete_workflow_run",
                    run_id=run_id,
                    exit_code=0,
                    worker_id=worker_id,
                    epoch=epoch,
                )

            completed = self.in_parallel(2, act)[0]
            row = self.run_row(run_id)
            self.assertEqual(completed["success"], row["status"] == "succeeded", row)
            ends = [e for e in self.events(run_id) if e["message"] in ("succeeded", "failed")]
            self.assertEqual(len(ends), 1)

    def test_a_lost_run_is_retried_as_often_as_its_workflow_allows(self):
        workflow = self.make_workflow(self.project, {"retry": {"max": 1, "on": ["worker_lost"]}})
        worker_id = self.worker()
        run_id = self.queue(workflow, metadata={"environment": "dev"})
        lost = []
        for _ in range(2):
            claimed = self.claim(worker_id)
            self.db.call(
                "start_workflow_run",
                run_id=claimed["run_id"],
                worker_id=worker_id,
                epoch=claimed["epoch"],
            )
            self.expire_lease(claimed["run_id"])
            self.reap()
            lost.append(self.run_row(claimed["run_id"]))
        self.assertEqual([row["error_code"] for row in lost], ["worker_lost"] * 2)
        self.assertEqual(lost[0]["id"], run_id)
        self.assertEqual(lost[1]["retry_of"], run_id)
        self.assertEqual(lost[1]["snapshot"]["metadata"], {"environment": "dev"})
        self.assertIsNone(self.claim(worker_id)["run_id"], "one retry, not two")

    def test_cancel_before_and_during_the_work(self):
        queued = self.queue()
        self.assertTrue(self.db.call("cancel_run", run_id=queued, reason="typo")["confirmed"])
        self.assertEqual(self.run_row(queued)["status"], "canceled")
        worker_id, run_id, epoch = self.start()
        held = {"run_id": run_id, "epoch": epoch}
        self.assertFalse(self.db.call("cancel_run", run_id=run_id, reason="late")["confirmed"])
        beat = self.db.call("heartbeat", worker_id=worker_id, runs=[held])["runs"][0]
        self.assertTrue(beat["cancel_requested"])
        self.assertEqual(beat["cancel_reason"], "late")
        reply = self.db.call("complete_workflow_run", exit_code=130, error_code="canceled", **held)
        self.assertEqual(reply["status"], "canceled")
        self.assertRefused(self.db.call("cancel_run", run_id=run_id), "invalid_state")

    def test_work_that_ended_before_it_heard_of_the_cancel_has_its_own_result(self):
        _worker_id, run_id, epoch = self.start()
        self.db.call("cancel_run", run_id=run_id)
        reply = self.db.call("complete_workflow_run", run_id=run_id, epoch=epoch, exit_code=0)
        self.assertEqual(reply["status"], "succeeded")

    def test_a_worker_cannot_cancel_on_its_own(self):
        _worker_id, run_id, epoch = self.start()
        reply = self.db.call(
            "complete_workflow_run", run_id=run_id, epoch=epoch, exit_code=1, error_code="canceled"
        )
        self.assertRefused(reply, "invalid_state")

    def test_cancel_and_finish_at_the_same_time_agree(self):
        for _ in range(10):
            worker_id, run_id, epoch = self.start()

            def act(index, db, run_id=run_id, worker_id=worker_id, epoch=epoch):
                if index:
                    return db.call("cancel_run", run_id=run_id)
                return db.call(
                    "complete_workflow_run",
                    run_id=run_id,
                    exit_code=0,
                    worker_id=worker_id,
                    epoch=epoch,
                )

            completed, canceled = self.in_parallel(2, act)
            self.assertTrue(completed["success"])
            self.assertEqual(self.run_row(run_id)["status"], "succeeded")
            if not canceled["success"]:
                self.assertEqual(canceled["code"], "invalid_state")

    def test_restart_is_a_new_run_with_the_same_snapshot(self):
        _worker_id, run_id, epoch = self.start()
        self.assertRefused(self.db.call("retry_run", run_id=run_id), "invalid_state")
        self.db.call("complete_workflow_run", run_id=run_id, epoch=epoch, exit_code=1)
        reply = self.db.call("retry_run", run_id=run_id)
        old, new = self.run_row(run_id), self.run_row(reply["run_id"])
        self.assertEqual(new["retry_of"], run_id)
        self.assertEqual(new["snapshot"], old["snapshot"])
        self.assertEqual((new["status"], new["trigger"]), ("queued", "retry"))

    def test_a_run_must_start_before_it_ends(self):
        worker_id = self.worker()
        run_id = self.queue()
        epoch = self.claim(worker_id)["epoch"]
        reply = self.db.call("complete_workflow_run", run_id=run_id, epoch=epoch, exit_code=0)
        self.assertRefused(reply, "invalid_state")

    def test_logs_are_ordered_and_repeats_are_skipped(self):
        _worker_id, run_id, epoch = self.start()
        held = {"run_id": run_id, "epoch": epoch}

        def append(first_seq, *messages):
            return self.db.call(
                "append_run_logs",
                first_seq=first_seq,
                lines=[{"message": message, "level": "warn"} for message in messages],
                **held,
            )

        self.assertEqual(append(1, "a", "b")["next_seq"], 3)
        self.assertEqual(append(1, "a", "b")["next_seq"], 3)
        self.assertEqual(append(2, "b", "c")["next_seq"], 4)
        gap = append(9, "z")
        self.assertRefused(gap, "log_gap")
        self.assertEqual(gap["next_seq"], 4)
        lines = self.db.rows(
            "SELECT seq, message FROM ops_run_log WHERE run_id = %s ORDER BY seq", run_id
        )
        self.assertEqual([(r["seq"], r["message"]) for r in lines], [(1, "a"), (2, "b"), (3, "c")])

    def test_repeated_batches_at_the_same_time_store_each_line_once(self):
        _worker_id, run_id, epoch = self.start()
        lines = [{"message": str(number)} for number in range(500)]
        replies = self.in_parallel(
            4,
            lambda index, db: db.call(
                "append_run_logs", run_id=run_id, epoch=epoch, first_seq=1, lines=lines
            ),
        )
        self.assertEqual({reply["next_seq"] for reply in replies}, {501})
        stored = self.db.rows(
            "SELECT message FROM ops_run_log WHERE run_id = %s ORDER BY seq", run_id
        )
        self.assertEqual([row["message"] for row in stored], [str(n) for n in range(500)])

    def test_bad_lines_are_refused_and_none_of_the_batch_is_stored(self):
        _worker_id, run_id, epoch = self.start()
        for lines in (
            {"no": "list"},
            [{"message": 5}],
            [{"level": "info"}],
            ["text"],
            [{"message": "a"}, {"message": "b", "level": "loud"}],
            [{"message": "a"}, {"message": "x" * 65537}],
            [{"message": "a", "timestamp": "yesterday or so"}],
            [{"message": "a", "timestamp": "infinity"}],
            [{"message": "a", "timestamp": "0044-03-15 12:00:00+00 BC"}],
            [{"message": "a", "timestamp": "2026-01-01 00:00 No/Where"}],
            [{"message": "a", "metadata": []}],
            [{"message": "a"}] * 1001,
        ):
            reply = self.db.call(
                "append_run_logs", run_id=run_id, epoch=epoch, first_seq=1, lines=lines
            )
            self.assertRefused(reply, "invalid_input")
        self.assertEqual(
            self.db.value("SELECT count(*) FROM ops_run_log WHERE run_id = %s", run_id), 0
        )

    def test_artifacts_are_recorded_once_and_within_the_store(self):
        _worker_id, run_id, epoch = self.start()

        def add(key, checksum="a" * 64, size_bytes=3_000_000_000, url="filesystem:x/1/y"):
            return self.db.call(
                "add_run_artifact",
                run_id=run_id,
                epoch=epoch,
                artifact_key=key,
                artifact_url=url,
                content_type="text/plain",
                size_bytes=size_bytes,
                checksum=checksum,
            )

        first = add("logs/run.log.gz")
        self.assertEqual(add("logs/run.log.gz")["artifact_id"], first["artifact_id"])
        self.assertRefused(add("logs/run.log.gz", checksum="b" * 64), "conflict")
        for key in ("../etc/passwd", "a/../b", "/abs", "a//b", "a\\b", "", "a b", "x" * 513):
            with self.subTest(key=key):
                self.assertRefused(add(key), "invalid_input")
        self.assertRefused(add("neg", size_bytes=-1), "invalid_input")
        self.assertRefused(add("sum", checksum="A" * 64), "invalid_input")
        self.assertRefused(add("url", url="http://example.com/x"), "invalid_input")

    def test_a_queue_call_does_not_wait_for_the_holders_log_batch(self):
        """Foreign-key checks and fencing locks must not collide."""
        _worker_id, run_id, epoch = self.start()
        writer, canceler = self.connect(), self.connect()
        writer.rows("BEGIN")
        writer.call(
            "append_run_logs", run_id=run_id, epoch=epoch, first_seq=1, lines=[{"message": "a"}]
        )
        done = threading.Event()

        def cancel():
            canceler.call("cancel_run", run_id=run_id)
            done.set()

        thread = threading.Thread(target=cancel)
        thread.start()
        self.addCleanup(thread.join, 10)
        self.addCleanup(writer.rows, "ROLLBACK")
        # The cancel flag lies on the lease, which the open batch has locked; a claim does not.
        self.assertIsNone(self.claim(self.worker())["run_id"])
        writer.rows("COMMIT")
        self.assertTrue(done.wait(5))
