"""The runner that waits in the nursery for the next run: used, killed, cut off, left alone."""

import os
import signal
from pathlib import Path

from .worker_common import KernelCase, wait_for

SLEEPING = [{"name": "Sleep", "run": "sleep 60"}]
NOTHING = [{"name": "Nothing", "run": "true"}]


def children_of(parent):
    """Process ids of the children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # Whatever has ended and is not yet buried is no child any more.
        if int(fields[1]) == parent and fields[0] != b"Z":
            found.append(int(path.parent.name))
    return found


class TestNursery(KernelCase):
    def setUp(self):
        super().setUp()
        self.agent = self.start_worker()
        wait_for(lambda: self.nurseries())
        (self.nursery,) = self.nurseries()

    def nurseries(self):
        return [
            pid
            for pid in children_of(self.agent.pid)
            if b"nursery" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def waiting(self):
        """The one runner without a run."""
        with_run = {
            int(path.read_text().split()[1]) for path in self.folder.glob("work/.runners/*/awake")
        }
        return wait_for(lambda: [p for p in children_of(self.nursery) if p not in with_run])[0]

    def run_one(self, steps=NOTHING):
        return self.queue(self.make_workflow(name=f"w{len(steps)}", steps=steps))

    def test_it_takes_the_next_run_and_another_one_waits(self):
        waiting = self.waiting()
        run_id = self.run_one(SLEEPING)
        self.wait_status(run_id, "running")
        (awake,) = wait_for(lambda: list(self.folder.glob("work/.runners/*/awake")))
        self.assertEqual(int(awake.read_text().split()[1]), waiting)
        self.assertNotEqual(self.waiting(), waiting)

    def test_one_that_was_killed_costs_no_run(self):
        waiting = self.waiting()
        os.kill(waiting, signal.SIGKILL)
        wait_for(lambda: waiting not in children_of(self.nursery))
        run_id = self.run_one()
        self.assertEqual(self.wait_status(run_id, "succeeded", "failed")["status"], "succeeded")
        found = self.query("SELECT epoch, attempt FROM ops_run WHERE id = %s", run_id)
        self.assertEqual(found, [(1, 1)])

    def test_one_whose_connection_has_gone_makes_another(self):
        self.waiting()
        ended = wait_for(
            lambda: self.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'odooops worker'"
                " AND state = 'idle' AND query LIKE '%%start_workflow_run%%'"
            )
        )
        self.assertEqual(ended, [(True,)])
        run_id = self.run_one()
        self.assertEqual(self.wait_status(run_id, "succeeded", "failed")["status"], "succeeded")

    def test_it_ends_with_its_agent_and_closes_its_connection(self):
        waiting = self.waiting()
        self.agent.terminate()
        self.agent.wait(30)
        self.assertFalse(Path(f"/proc/{waiting}").exists())
        left = self.query(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'odooops worker'"
        )
        self.assertEqual(left, [(0,)])

    def test_it_ends_when_agent_and_nursery_are_killed(self):
        waiting = self.waiting()
        self.agent.kill()
        self.agent.wait()
        wait_for(lambda: not Path(f"/proc/{waiting}").exists())
