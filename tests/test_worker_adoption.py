"""Agents that die, stop or freeze while their runs go on; runners that are killed."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

from odoo.addons.odooops.worker import runner_folder
from odoo.addons.odooops.worker.runner_folder import Orders, RunnerFolder
from odoo.addons.odooops.worker.settings import Settings

from .test_worker_executor import running
from .worker_common import FolderCase, KernelCase, left_in, wait_for

#: Says its numbers until somebody makes the file that ends it.
COUNT = (
    "number=0; while [ ! -e {end} ]; do number=$((number + 1)); echo line $number; sleep 0.01;"
    " done; echo last $number"
)


class AdoptionCase(KernelCase):
    def start_counting(self, *options, **config):
        """A run that goes on until ``self.end()``; returns its id and its worker."""
        script = COUNT.format(end=self.folder / "end")
        workflow_id = self.make_workflow(steps=[{"name": "Count", "run": script}], **config)
        run_id = self.queue(workflow_id)
        worker = self.start_worker(*options)
        self.wait_lines(run_id, 20)
        return run_id, worker

    def end(self):
        (self.folder / "end").touch()

    def wait_lines(self, run_id, more):
        """Wait until so many more lines of the run have arrived."""
        before = len(self.messages(run_id))
        wait_for(lambda: len(self.messages(run_id)) >= before + more)

    def kill(self, process):
        process.send_signal(signal.SIGKILL)
        process.wait()

    def assertLogWhole(self, run_id):
        """Every line is there exactly once and in order, in the database and in the artifact."""
        messages = self.messages(run_id)
        numbers = [int(text[5:]) for text in messages if text.startswith("line ")]
        (last,) = [int(text[5:]) for text in messages if text.startswith("last ")]
        self.assertEqual(numbers, list(range(1, last + 1)))
        self.assertEqual(self.complete_messages(run_id), messages)

    def complete_messages(self, run_id):
        """The messages of the log that became an artifact."""
        return [line.split("\t")[4] for line in self.complete_log(run_id).splitlines()]

    def adoptions(self, run_id):
        """What the trail says about each agent that took the run."""
        return self.query(
            "SELECT payload FROM ops_run_event WHERE run_id = %s AND event_type = 'info'"
            " AND message LIKE '%%looks after it%%'",
            run_id,
        )

    def worker_ids(self):
        """Of this test's workers, the oldest first: (worker id, state)."""
        return self.query(
            "SELECT worker_id, state FROM ops_worker WHERE labels ? %s ORDER BY registered_at",
            self.slug,
        )


class TestAdoption(AdoptionCase):
    def test_a_run_whose_agent_was_killed_goes_on_and_its_log_is_whole(self):
        run_id, victim = self.start_counting("--capacity=1")
        self.kill(victim)
        self.wait_lines(run_id, 20)
        self.start_worker("--capacity=1", "--until-idle")
        ((payload,),) = wait_for(lambda: self.adoptions(run_id))
        (dead, state), (alive, _state) = self.worker_ids()
        self.assertEqual(payload, {"worker_id": alive, "claimed_by": dead})
        self.assertEqual(state, "stopped")
        self.wait_lines(run_id, 20)
        self.end()
        self.assertEqual(self.wait_status(run_id, "succeeded", "failed")["status"], "succeeded")
        self.assertLogWhole(run_id)
        wait_for(lambda: not left_in(self.folder / "work"))

    def test_a_run_outlives_its_agent_for_longer_than_a_lease_without_a_successor(self):
        run_id, victim = self.start_counting()
        self.kill(victim)
        # The lease as it would be if nobody renewed it: it ends in a moment.
        self.query(
            "UPDATE ops_run_lease SET lease_until = clock_timestamp() + interval '6 seconds'"
            " WHERE run_id = %s",
            run_id,
        )
        time.sleep(8)
        self.assertEqual(self.call("reap_lost_runs")["success"], True)
        self.assertEqual(self.run_row(run_id)["status"], "running")
        self.assertEqual([state for _id, state in self.worker_ids()], ["stopped"], "looks alive")
        self.end()
        self.wait_status(run_id, "succeeded")
        self.assertLogWhole(run_id)

    def test_handing_over_leaves_running_work_to_the_next_agent_within_its_capacity(self):
        run_id, old = self.start_counting("--capacity=1", "--on-stop=handover")
        waiting = self.queue(self.make_workflow(name="x", steps=[{"name": "x", "run": "true"}]))
        old.terminate()
        self.assertEqual(old.wait(20), 0)
        self.start_worker("--capacity=1")
        wait_for(lambda: len(self.worker_ids()) == 2)
        self.wait_lines(run_id, 100)
        self.assertEqual(self.run_row(waiting)["status"], "queued", "over its capacity")
        self.end()
        self.wait_status(run_id, "succeeded")
        self.assertLogWhole(run_id)
        self.wait_status(waiting, "succeeded")

    def test_a_run_that_changed_hands_can_be_canceled(self):
        run_id, victim = self.start_counting()
        self.kill(victim)
        self.start_worker()
        wait_for(lambda: len(self.worker_ids()) == 2)
        self.call("cancel_run", run_id, "enough")
        row = self.wait_status(run_id, "canceled")
        self.assertIn("enough", row["error_message"])

    def test_a_run_without_an_agent_hears_that_it_is_canceled(self):
        run_id, victim = self.start_counting()
        self.kill(victim)
        self.call("cancel_run", run_id, "enough")
        self.wait_status(run_id, "canceled", seconds=20)

    def test_two_agents_on_one_work_directory_keep_a_runner_once(self):
        run_id, victim = self.start_counting()
        self.kill(victim)
        for _number in range(2):
            self.start_worker()
        wait_for(lambda: self.adoptions(run_id))
        self.wait_lines(run_id, 200)
        self.assertEqual(len(self.adoptions(run_id)), 1)
        self.end()
        self.wait_status(run_id, "succeeded")
        self.assertLogWhole(run_id)


class TestKilledRunner(AdoptionCase):
    def start_sleeping(self, number, *options):
        script = f"echo ready; setsid sleep {number} & sleep {number}"
        workflow_id = self.make_workflow(
            steps=[{"name": "Sleep", "run": script}], retry={"max": 1, "on": ["worker_lost"]}
        )
        run_id = self.queue(workflow_id)
        worker = self.start_worker(*options)
        wait_for(lambda: "ready" in self.messages(run_id))
        return run_id, worker

    def assertLost(self, run_id, number):
        row = self.wait_status(run_id, "failed", seconds=20)
        self.assertEqual(row["error_code"], "worker_lost", row)
        self.assertIn("executed the run was killed", row["error_message"])
        # Its retry, which began only after the last process of the first attempt had ended.
        ((retry,),) = self.query("SELECT id FROM ops_run WHERE retry_of = %s", run_id)
        wait_for(lambda: "ready" in self.messages(retry))
        self.assertEqual(len(running(number)), 2)

    def test_its_work_is_ended_and_told_at_once(self):
        run_id, worker = self.start_sleeping("71401")
        os.kill(self.runners()[run_id], signal.SIGKILL)
        self.assertLost(run_id, "71401")
        self.assertIsNone(worker.poll(), "The worker must go on.")

    def test_one_that_died_with_its_agent_is_found_by_the_next(self):
        run_id, worker = self.start_sleeping("71402")
        self.kill_worker(worker)
        self.assertTrue(running("71402"))
        self.start_worker()
        self.assertLost(run_id, "71402")

    def test_a_killed_nursery_is_replaced(self):
        first, worker = self.start_sleeping("71403")
        (nursery,) = [
            int(path.name)
            for path in Path("/proc").glob("[0-9]*")
            if _parent(path) == worker.pid and b"nursery" in (path / "cmdline").read_bytes()
        ]
        os.kill(nursery, signal.SIGKILL)
        second = self.queue(self.make_workflow(name="x", steps=[{"name": "x", "run": "true"}]))
        self.wait_status(second, "succeeded")
        self.assertEqual(self.run_row(first)["status"], "running")


def _parent(path):
    try:
        return int((path / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


class TestHostWithoutPower(KernelCase):
    def test_folders_whose_files_never_reached_the_disk_stop_nobody(self):
        work_dir = self.folder / "work"
        work_dir.mkdir()
        namespace = self.control.namespace()
        for number, (name, content) in enumerate(
            [("facts.json", ""), ("facts.json", "{}"), ("facts.json", "[]"), ("orders.json", "")]
        ):
            run_id = 2**31 - 1 - number
            facts = {"worker_id": "w"}
            folder, *locks = RunnerFolder.make(work_dir, namespace, run_id, 1, facts)
            for lock in locks:
                os.close(lock)
            (folder.path / name).write_text(content)
        # Unreadable for another reason, as its runner lives.
        living, alive, keeper = RunnerFolder.make(work_dir, namespace, run_id - 1, 1, {})
        os.close(keeper)
        self.addCleanup(os.close, alive)
        run_id = self.queue(self.make_workflow(steps=[{"name": "x", "run": "true"}]))
        self.assertEqual(self.start_worker("--until-idle").wait(60), 0)
        self.assertEqual(self.run_row(run_id)["status"], "succeeded")
        self.assertEqual(list((work_dir / ".runners").iterdir()), [living.path])


class TestRunnerFolder(FolderCase):
    def make(self, run_id=5):
        folder, alive, keeper = RunnerFolder.make(self.folder, "abc", run_id, 2, {"worker_id": "w"})
        return folder, alive, keeper

    def test_it_is_found_by_its_control_plane_only(self):
        self.make()
        self.assertEqual([f.run_id for f in RunnerFolder.find(self.folder, "abc")], [5])
        self.assertEqual(list(RunnerFolder.find(self.folder, "other")), [])
        self.assertEqual(list(RunnerFolder.find(self.folder / "none", "abc")), [])

    def test_what_is_no_folder_is_nobodys(self):
        self.make()
        (self.folder / ".runners" / "abc-6-2").touch()
        self.assertEqual([f.run_id for f in RunnerFolder.find(self.folder, "abc")], [5])

    def test_orders_of_a_later_version_are_understood_as_far_as_can_be(self):
        # An agent adopts runners that an earlier version began.
        folder, _alive, _keeper = self.make()
        orders = {"sent_at": 1.5, "lease_seconds": 60.0, "of_a_later_version": True}
        (folder.path / "orders.json").write_text(json.dumps(orders))
        self.assertEqual(folder.orders(), Orders(1.5, 60.0))

    def test_what_a_killed_maker_left_is_removed_and_what_a_slow_one_makes_is_not(self):
        self.make()
        base = self.folder / ".runners"
        slow, killed, early, young = (base / f".nameless-{number}" for number in range(4))
        for path in (slow, killed, early, young):
            path.mkdir()
        for path in (slow, killed):
            (path / "alive").touch()
        lock = os.open(slow / "alive", os.O_RDWR)
        self.addCleanup(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in (slow, killed, early):
            os.utime(path, (time.time() - 60,) * 2)
        self.assertEqual([f.run_id for f in RunnerFolder.find(self.folder, "abc")], [5])
        self.assertEqual(sorted(base.glob(".nameless-*")), [slow, young])

    def test_an_order_that_comes_while_the_folder_is_removed_leaves_nothing(self):
        for number in range(200):
            folder, *locks = self.make(run_id=number)
            with ThreadPoolExecutor(2) as together:
                calls = [lambda f=folder: f.order(Orders(code="lease_lost"))] * 20
                orders = [together.submit(call) for call in calls]
                folder.remove()
            for order in orders:
                order.result()
            for lock in locks:
                os.close(lock)
        # Of an order in the middle of its writing others clear away what it made.
        with patch.object(runner_folder, "NAMELESS_SECONDS", -1):
            self.assertEqual(list(RunnerFolder.find(self.folder, "abc")), [])
        self.assertEqual(list((self.folder / ".runners").iterdir()), [])

    def test_one_keeper_at_a_time(self):
        folder, _alive, keeper = self.make()
        (found,) = RunnerFolder.find(self.folder, "abc")
        self.assertIsNone(found.keep())
        self.assertTrue(folder.is_kept())
        os.close(keeper)
        self.assertFalse(folder.is_kept())
        lock = found.keep()
        self.assertIsNotNone(lock)
        self.assertEqual(found.facts(), {"worker_id": "w"})

    def test_orders_and_signs_of_life_go_both_ways(self):
        folder, _alive, _keeper = self.make()
        self.assertEqual((folder.orders(), folder.awake_at()), (Orders(), 0.0))
        folder.order(Orders(1.5, 60.0, code="canceled", message="Why"))
        self.assertEqual(folder.orders(), Orders(1.5, 60.0, False, "canceled", "Why", None))
        before = time.monotonic()
        folder.show_awake()
        self.assertAlmostEqual(folder.awake_at(), before, delta=5)
        folder.remove()
        folder.order(Orders())
        self.assertIsNone(folder.keep())

    def test_an_end_is_seen_however_it_comes(self):
        folder, alive, _keeper = self.make()
        parent, child = socket.socketpair()
        code = "import socket, sys, time; print(1, flush=True); time.sleep(60)"
        process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[alive], stdout=subprocess.PIPE
        )
        process.stdout.readline()
        os.close(alive)
        for each in (parent, child):
            each.close()
        process.kill()
        process.wait()
        process.stdout.close()
        folder.wait()


class TestSettingsForRunners(unittest.TestCase):
    def test_they_are_the_same_on_the_other_side(self):
        settings = Settings(
            dsn="password=x", work_dir=Path("/w"), labels=("a",), odoo_addons=(Path("/a"),)
        )
        self.assertEqual(Settings.from_json(settings.to_json()), settings)
        self.assertEqual(json.loads(settings.to_json())["capacity"], settings.capacity)
