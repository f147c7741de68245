"""The guard of a run: the lease on the worker's own clock, and the reasons to stop."""

import threading
import time
import unittest

from odoo.addons.odooops.worker.control.base import Claim, ControlPlaneUnavailable
from odoo.addons.odooops.worker.errors import RunStopped
from odoo.addons.odooops.worker.guard import RunGuard


def make_guard(lease_seconds=60.0, kill_margin=1.0):
    claim = Claim(1, 1, 1, 1, 1, lease_seconds, {})
    return RunGuard(claim, time.monotonic(), kill_margin)


class TestGuard(unittest.TestCase):
    def test_without_renewal_the_work_stops_before_the_lease_ends(self):
        # Rule: R-06
        began = time.monotonic()
        guard = make_guard(lease_seconds=0.9, kill_margin=60)
        self.assertIsNone(guard.stopped)
        while guard.stopped is None:
            time.sleep(0.01)
        self.assertLess(time.monotonic() - began, 0.9)
        self.assertEqual(guard.stopped.code, "lease_lost")
        self.assertTrue(guard.is_lost)

    def test_a_renewal_counts_from_before_it_was_sent_and_never_shortens(self):
        guard = make_guard()
        deadlines = []
        guard.watch(deadlines.append)
        sent_at = time.monotonic()
        guard.renew(sent_at, 60)
        guard.renew(sent_at - 30, 60)
        self.assertEqual(deadlines, [sent_at + 59, sent_at + 59])

    def test_at_the_deadline_of_the_run_the_work_stops_whatever_is_renewed(self):
        guard = make_guard(kill_margin=0.5)
        began = time.monotonic()
        guard.bound(began, 1.0)
        while guard.stopped is None:
            guard.renew(time.monotonic(), 60)
            time.sleep(0.01)
        self.assertLess(time.monotonic() - began, 1.0, "before the control plane gives it up")
        self.assertEqual(guard.stopped.code, "timeout")
        self.assertTrue(guard.is_lost)

    def test_a_deadline_is_what_the_supervisors_hear_of_too(self):
        guard = make_guard(kill_margin=1.0)
        now = time.monotonic()
        guard.bound(now, 70)
        deadlines = []
        guard.watch(deadlines.append)
        for sent_at in (now, now + 5, now + 30):
            guard.renew(sent_at, 60)
        self.assertEqual([round(each - now) for each in deadlines], [59, 64, 69])

    def test_the_first_cause_stays_and_the_shorter_grace_counts(self):
        guard = make_guard()
        guard.stop("canceled", "The run was canceled.", 10)
        guard.stop("worker_lost", "The worker was stopped.", 0)
        with self.assertRaises(RunStopped) as caught:
            guard.check()
        self.assertEqual((caught.exception.code, guard.grace), ("canceled", 0))

    def test_a_stop_wakes_a_waiting_thread_at_once(self):
        guard = make_guard()
        threading.Timer(0.1, guard.stop, ["canceled", "Canceled.", 0]).start()
        began = time.monotonic()
        guard.wait(10)
        self.assertLess(time.monotonic() - began, 5)

    def test_calls_are_repeated_while_the_control_plane_is_away_but_not_beyond_the_lease(self):
        replies = [ControlPlaneUnavailable("away"), "done"]

        def call():
            reply = replies.pop(0)
            if isinstance(reply, Exception):
                raise reply
            return reply

        self.assertEqual(make_guard().insist(call), "done")
        replies += [ControlPlaneUnavailable("away")] * 100
        with self.assertRaises(ControlPlaneUnavailable):
            make_guard(lease_seconds=0.6).insist(call)
