"""Every function against every status: what is done, and with which code the rest is refused."""

import random

from odoo.tests import tagged

from .kernel_case import KernelCase

STATUSES = ("queued", "claimed", "running", "succeeded", "failed", "canceled")
ARTIFACT = {
    "artifact_key": "a.txt",
    "artifact_url": "filesystem:a.txt",
    "content_type": "text/plain",
    "size_bytes": 1,
    "checksum": "a" * 64,
}
STALE, STATE, HOLDER = "stale_epoch", "invalid_state", "not_holder"
# (function, its arguments, who calls): per status the status afterwards, or the refusal's code.
# "held": with the worker and the epoch that held the run last. "worker": without the epoch.
TABLE = [
    (
        ("start_workflow_run", {}, "held"),
        (STALE, "running", "running", STALE, STALE, STALE),
    ),
    (
        ("start_workflow_run", {}, "worker"),
        (HOLDER, "running", "running", HOLDER, HOLDER, HOLDER),
    ),
    (
        ("release_run", {}, "held"),
        (STALE, "queued", STATE, STALE, STALE, STALE),
    ),
    (
        ("release_run", {}, "worker"),
        (HOLDER, "queued", STATE, HOLDER, HOLDER, HOLDER),
    ),
    (
        # What has ended by its epoch's own word says again how it ended.
        ("complete_workflow_run", {"exit_code": 0}, "held"),
        (STALE, STATE, "succeeded", "succeeded", "failed", "canceled"),
    ),
    (
        ("complete_workflow_run", {"exit_code": 1}, "worker"),
        (HOLDER, STATE, "failed", HOLDER, HOLDER, HOLDER),
    ),
    (
        ("complete_workflow_run", {"exit_code": 1, "error_code": "canceled"}, "held"),
        (STALE, STATE, STATE, "succeeded", "failed", "canceled"),
    ),
    (
        ("append_run_logs", {"first_seq": 1, "lines": [{"message": "x"}]}, "epoch"),
        (STALE, STATE, "running", STALE, STALE, STALE),
    ),
    (
        ("append_run_log", {"level": "info", "message": "x"}, "held"),
        (STALE, STATE, "running", STALE, STALE, STALE),
    ),
    (
        ("append_run_log", {"level": "info", "message": "x"}, "worker"),
        (HOLDER, STATE, "running", HOLDER, HOLDER, HOLDER),
    ),
    (
        ("add_run_event", {"event_type": "info", "message": "x"}, "epoch"),
        (STALE, STATE, "running", STALE, STALE, STALE),
    ),
    (
        ("add_run_artifact", ARTIFACT, "epoch"),
        (STALE, STATE, "running", STALE, STALE, STALE),
    ),
    (
        ("cancel_run", {}, "anybody"),
        ("canceled", "canceled", "running", STATE, STATE, STATE),
    ),
    (
        ("retry_run", {}, "anybody"),
        (STATE, STATE, STATE, "succeeded", "failed", "canceled"),
    ),
]
CALLERS = {
    "held": ("run_id", "worker_id", "epoch"),
    "worker": ("run_id", "worker_id"),
    "epoch": ("run_id", "epoch"),
    "anybody": ("run_id",),
}


class StateMachineCase(KernelCase):
    def run_in(self, status):
        """A run in that status; returns what its last holder knows of it."""
        for row in self.db.rows("SELECT id FROM ops_run WHERE status = 'queued'"):
            self.db.call("cancel_run", run_id=row["id"])
        if status in ("queued", "claimed"):
            held = {"run_id": self.queue(), "worker_id": self.worker(), "epoch": 0}
            if status == "claimed":
                held["epoch"] = self.claim(held["worker_id"])["epoch"]
            return held
        worker_id, run_id, epoch = self.start()
        held = {"run_id": run_id, "worker_id": worker_id, "epoch": epoch}
        if status == "canceled":
            self.db.call("cancel_run", run_id=run_id)
            self.db.call("complete_workflow_run", exit_code=1, error_code="canceled", **held)
        elif status != "running":
            self.db.call("complete_workflow_run", exit_code=int(status == "failed"), **held)
        self.assertEqual(self.run_row(run_id)["status"], status)
        return held


@tagged("post_install", "-at_install")
class TestKernelStateMachine(StateMachineCase):
    def facts(self, run_id):
        """All that a refusal must leave as it was."""
        return [
            self.db.rows(f"SELECT * FROM {table} WHERE {key} = %s ORDER BY 1, 2", run_id)
            for table, key in (
                ("ops_run", "id"),
                ("ops_run_event", "run_id"),
                ("ops_run_log", "run_id"),
                ("ops_run_artifact", "run_id"),
                ("ops_run_lease", "run_id"),
            )
        ]

    def test_every_function_in_every_status(self):
        for (function, arguments, caller), outcomes in TABLE:
            for status, outcome in zip(STATUSES, outcomes, strict=True):
                with self.subTest(function=function, caller=caller, status=status):
                    held = self.run_in(status)
                    before = self.facts(held["run_id"])
                    named = {name: held[name] for name in CALLERS[caller]}
                    reply = self.db.call(function, **named, **arguments)
                    if outcome in STATUSES:
                        self.assertTrue(reply["success"], reply)
                        self.assertEqual(self.run_row(held["run_id"])["status"], outcome)
                    else:
                        self.assertRefused(reply, outcome)
                        self.assertEqual(self.facts(held["run_id"]), before)

    def test_what_a_wrong_epoch_or_worker_holds_in_every_status(self):
        other = self.worker()
        for (function, arguments, caller), _outcomes in TABLE:
            if caller == "anybody":
                continue
            for status in STATUSES:
                with self.subTest(function=function, caller=caller, status=status):
                    held = self.run_in(status)
                    before = self.facts(held["run_id"])
                    wrong = {**held, "worker_id": other, "epoch": held["epoch"] + 1}
                    named = {name: wrong[name] for name in CALLERS[caller]}
                    reply = self.db.call(function, **named, **arguments)
                    self.assertRefused(reply, HOLDER if caller == "worker" else STALE)
                    self.assertEqual(self.facts(held["run_id"]), before)

    def test_heartbeats_own_what_is_claimed_or_running(self):
        for status in STATUSES:
            held = self.run_in(status)
            runs = [{"run_id": held["run_id"], "epoch": held["epoch"]}]
            (beat,) = self.db.call("heartbeat", worker_id=held["worker_id"], runs=runs)["runs"]
            self.assertEqual(beat["owned"], status in ("claimed", "running"), status)

    def test_claims_take_what_is_queued(self):
        for status in STATUSES:
            held = self.run_in(status)
            claimed = self.claim(self.worker())["run_id"]
            self.assertEqual(claimed, held["run_id"] if status == "queued" else None, status)

    def test_the_reaper_takes_what_is_held_beyond_its_lease(self):
        after = {"claimed": ("queued", None), "running": ("failed", "worker_lost")}
        self.reap()
        for status in STATUSES:
            held = self.run_in(status)
            before = self.facts(held["run_id"])
            self.reap()
            self.assertEqual(self.facts(held["run_id"]), before, status)
            self.expire_lease(held["run_id"])
            self.reap()
            row = self.run_row(held["run_id"])
            expected = after.get(status, (status, before[0][0]["error_code"]))
            self.assertEqual((row["status"], row["error_code"]), expected)

    def test_a_claimed_run_that_is_canceled_is_its_workers_no_more(self):
        held = self.run_in("claimed")
        self.db.call("cancel_run", run_id=held["run_id"])
        self.assertRefused(self.db.call("complete_workflow_run", exit_code=0, **held), STALE)

    def test_a_run_that_goes_back_to_the_queue_leaves_nothing_for_the_next_holder(self):
        """Its log begins at line 1 again."""
        held = self.run_in("claimed")
        self.db.call("append_run_log", level="info", message="early", **held)
        self.assertTrue(self.db.call("release_run", **held)["success"])
        worker_id = self.worker()
        again = {"run_id": held["run_id"], "epoch": self.claim(worker_id)["epoch"]}
        self.db.call("start_workflow_run", worker_id=worker_id, **again)
        reply = self.db.call("append_run_logs", first_seq=1, lines=[{"message": "x"}], **again)
        self.assertTrue(reply["success"], reply)

    def test_whatever_is_called_each_run_is_queued_held_or_ended(self):
        # Rule: R-02
        """Random calls by random holders, old ones among them; the same every time."""
        dice = random.Random(3)
        self.reap()
        workers = [self.worker() for _ in range(3)]
        known = [{"run_id": self.queue(), "worker_id": w, "epoch": 0} for w in workers]
        changes = 0
        for _ in range(400):
            act = dice.choice(("queue", "claim", "claim", "expire", "reap", "call", "call", "call"))
            if act == "queue":
                known.append({"run_id": self.queue(), "worker_id": workers[0], "epoch": 0})
            elif act == "claim":
                worker_id = dice.choice(workers)
                claimed = self.claim(worker_id)
                if claimed["run_id"]:
                    changes += 1
                    known.append(
                        {key: claimed[key] for key in ("run_id", "epoch")}
                        | {"worker_id": worker_id}
                    )
            elif act == "expire":
                self.expire_lease(dice.choice(known)["run_id"])
            elif act == "reap":
                self.db.call("reap_lost_runs")
            else:
                (function, arguments, caller), _outcomes = dice.choice(TABLE)
                held = dice.choice(known)
                named = {name: held[name] for name in CALLERS[caller]}
                changes += self.db.call(function, **named, **arguments)["success"]
            self.assertEqual(self.misplaced(), [])
        self.assertGreater(changes, 60, "most calls were refused, which tries little")
        for run_id in {held["run_id"] for held in known}:
            self.assertEqual(
                self.db.rows(f"SELECT * FROM {self.db.schema}.verify_events(%s)", run_id), []
            )

    def misplaced(self):
        """Runs of the project that are neither queued, nor held by one live epoch, nor ended."""
        return self.db.rows(
            "SELECT r.id, r.status, r.epoch, l.epoch AS lease"
            " FROM ops_run r LEFT JOIN ops_run_lease l ON l.run_id = r.id"
            " WHERE r.project_id = %s AND CASE WHEN r.status IN ('claimed', 'running')"
            " THEN l.epoch IS DISTINCT FROM r.epoch OR r.claimed_by <> l.worker_id"
            " ELSE l.run_id IS NOT NULL END",
            self.project,
        )
