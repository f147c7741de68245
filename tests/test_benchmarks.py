"""The benchmarks' own parts: what they fill in, what they check, what they write down."""

import tempfile
import unittest
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree

from psycopg2.extras import Json

from odoo.tests import tagged
from odoo.tests.common import get_db_name

from odoo.addons.odooops.benchmarks import (
    bare,
    containers,
    docs,
    driver,
    fill,
    invariants,
    kernel,
    output,
    plot,
    printer,
    report,
    worker_rows,
)
from odoo.addons.odooops.benchmarks.database import Database

from .kernel_case import KernelCase


def a_report(*rows, **values):
    values = {"command": "make bench", "date": "2026-01-31", "machine": {"fsync": "on"}, **values}
    return report.Report(scale={"rounds": "3"}, rows=list(rows), **values)


class TestReport(unittest.TestCase):
    def verdict(self, target, **values):
        values = {"value": 1.0, **values}
        return report.Row("A subject", "A name", unit="ms", target=target, **values).verdict

    def test_a_target_is_met_up_to_its_bound_and_no_further(self):
        self.assertEqual(self.verdict("claim_growth", ratio=1.3), "met")
        self.assertEqual(self.verdict("claim_growth", ratio=1.31), "not met")
        self.assertEqual(self.verdict("cycle_procrastinate", ratio=3.0), "met")
        self.assertEqual(self.verdict("cycle_procrastinate", ratio=2.9), "not met")
        self.assertEqual(self.verdict("log_page", value=30.1), "not met")
        self.assertEqual(self.verdict("crowd_errors", value=1), "not met")

    def test_targets_of_the_worker_are_judged_by_their_own_bounds(self):
        self.assertEqual(self.verdict("artifact_upload", ratio=0.9), "met")
        self.assertEqual(self.verdict("artifact_download", ratio=0.89), "not met")
        self.assertEqual(self.verdict("artifact_memory", value=64.5), "not met")
        self.assertEqual(self.verdict("output_lost", value=1), "not met")
        self.assertEqual(self.verdict("output_run", ratio=1.1), "met")
        self.assertEqual(self.verdict("output_run", ratio=1.11), "not met")
        self.assertEqual(self.verdict("docker_start", ratio=1.31), "not met")

    def test_without_an_engine_the_report_says_why(self):
        missing = containers.MissingEngine("There is no engine.")
        with mock.patch.object(containers, "find_engine", side_effect=missing):
            (row,) = worker_rows.containers(5)
        self.assertEqual((row["value"], row["note"]), (None, "There is no engine."))

    def test_small_sizes_are_not_held_against_targets_of_large_ones(self):
        times = dict.fromkeys(("ours_start", "docker_start", "ours_whole", "docker_whole"), 500.0)
        with mock.patch.object(containers, "measure", return_value=times):
            small, large = (
                [row["target"] for row in worker_rows.containers(count)] for count in (3, 40)
            )
        self.assertEqual(small, ["", ""])
        self.assertEqual(large, ["docker_start", ""])

    def test_a_stretch_is_told_beside_the_target(self):
        self.assertEqual(self.verdict("cycle_graphile", ratio=0.29), "not met")
        self.assertEqual(self.verdict("cycle_graphile", ratio=0.3), "met; stretch 0.6 not met")
        self.assertEqual(self.verdict("cycle_graphile", ratio=0.6), "met; stretch 0.6 met")

    def test_what_was_not_measured_is_neither_met_nor_missed(self):
        self.assertEqual(self.verdict("log_search", value=None), "not measured")
        self.assertEqual(self.verdict("cycle_graphile", ratio=None), "not measured")
        self.assertEqual(
            {verdict for _sentence, _measured, verdict in a_report().judged()}, {"not measured"}
        )

    def test_rows_outlive_an_interrupted_run(self):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "results.json"
            written = a_report(file=file)
            written.add(report.Row("Claim alone", "p50", 1.5, "ms", 1.1, "the smallest"))
            written.add_problems("Claim alone", ["a lease is left"])
            read = report.Report.load(file)
        self.assertEqual(read.rows, written.rows)
        self.assertEqual(read.problems, ["Claim alone: a lease is left"])
        self.assertFalse(read.complete)

    def test_the_terminal_shows_broken_invariants(self):
        self.assertIn("all hold", a_report().text())
        self.assertIn("INVARIANT BROKEN: x", a_report(problems=["x"]).text())

    def test_the_document_names_every_target_and_what_is_missing(self):
        row = report.Row("Life cycles", "OdooOps", 100.0, "/s", 0.2, "peer", "cycle_graphile")
        text = docs.markdown(a_report(row))
        for target in report.TARGETS.values():
            self.assertIn(target.sentence, text)
        self.assertIn("| 0.2 × peer | not met |", text)
        self.assertIn("| fsync | on |", text)
        self.assertIn("rows are missing", text)
        self.assertNotIn("rows are missing", docs.markdown(a_report(row, complete=True)))

    def test_plots_show_what_was_measured(self):
        names = (("OdooOps", 50.0), ("graphile-worker", 100.0), ("procrastinate", None))
        rows = [report.Row("Life cycles", name, value, "/s") for name, value in names]
        rows += [report.Row("Claim alone", f"1 < 2, p{p}", p / 10, "ms") for p in (50, 99)]
        drawn = a_report(*rows)
        self.assertIn("0.5 (50/s)", ElementTree.fromstring(plot.throughput(drawn)).itertext())
        texts = list(ElementTree.fromstring(plot.claim_latency(drawn)).itertext())
        self.assertLess({"1 < 2", "5", "9.9"}, set(texts))
        self.assertIsNone(plot.throughput(a_report(rows[0])))
        self.assertIsNone(plot.claim_latency(a_report(rows[0])))


@tagged("post_install", "-at_install")
class TestInvariants(KernelCase):
    def setUp(self):
        super().setUp()
        self.bench = Database(get_db_name())
        self.addCleanup(self.bench.close)

    def finish(self):
        worker_id, run_id, epoch = self.start()
        self.db.call(
            "complete_workflow_run", run_id=run_id, exit_code=0, worker_id=worker_id, epoch=epoch
        )
        return run_id

    def test_runs_of_the_kernel_have_no_problems(self):
        run_ids = [self.finish(), self.finish()]
        self.assertEqual(invariants.of_finished(self.bench, run_ids), [])
        self.assertEqual(invariants.of_rest(self.bench, 0), [])

    def test_a_run_that_was_completed_twice_is_found(self):
        run_id = self.finish()
        (problem,) = invariants.of_finished(self.bench, [run_id, run_id])
        self.assertIn("more than once", problem)

    def test_a_run_that_was_not_finished_is_found(self):
        _worker, run_id, _epoch = self.start()
        problems = " ".join(invariants.of_finished(self.bench, [run_id]))
        self.assertIn("the table says [('running', 1)]", problems)
        self.assertIn("1 runs have other events", problems)
        rest = " ".join(invariants.of_rest(self.bench, 1))
        self.assertIn("1 runs are still claimed or running", rest)
        self.assertIn("1 leases are left", rest)
        self.assertIn("1 runs should be queued, 0 are", rest)

    def test_an_altered_event_is_found(self):
        run_id = self.finish()
        with self.without_append_only():
            self.db.rows(
                "UPDATE ops_run_event SET payload = payload || '{\"epoch\": 7}'"
                " WHERE run_id = %s AND seq = 2",
                run_id,
            )
        (problem,) = invariants.of_finished(self.bench, [run_id])
        self.assertIn("altered", problem)

    def print_lines(self, *numbers):
        """A running run whose log holds these lines of the printer; its id."""
        _worker, run_id, epoch = self.start()
        lines = [
            {
                "timestamp": "2026-01-31T12:00:00Z",
                "level": "info",
                "message": printer.LINE.strip() % number,
                "metadata": {"stream": "stdout"},
            }
            for number in numbers
        ]
        reply = self.db.call(
            "append_run_logs", run_id=run_id, epoch=epoch, first_seq=1, lines=Json(lines)
        )
        self.assertTrue(reply["success"], reply)
        return run_id

    def test_printed_lines_are_counted_and_their_order_is_looked_at(self):
        self.assertEqual(output._missing(self.bench, self.print_lines(1, 2, 3), 3), (0, []))
        for numbers, missing in (((1, 3), 1), ((1, 1, 2), 1), ((2, 1, 3), 0)):
            with self.subTest(numbers):
                lost, problems = output._missing(self.bench, self.print_lines(*numbers), 3)
                self.assertEqual(lost, missing)
                self.assertIn("of 3 printed lines", " ".join(problems))

    def test_copied_runs_are_as_good_as_those_of_the_kernel(self):
        pairs = fill.make_projects(self.bench, 3)
        self.projects += [project for project, _workflow in pairs]
        filled = fill.Fill(self.bench, pairs, progress=lambda text: None)
        filled.add_finished(60)
        with_events = filled.sample(60)
        self.assertEqual(len(with_events), 60 // fill.EVENTS_SHARE)
        self.assertEqual(invariants.of_finished(self.bench, with_events), [])
        filled.set_queued(7)
        self.assertEqual(invariants.of_rest(self.bench, 7), [])
        # The kernel takes them for its own: claimed, executed, chained on to the copied event.
        _client, _server, done = kernel._claim(self.bench, 0, 5)
        self.assertEqual(invariants.of_finished(self.bench, done), [])
        filled.set_queued(0)
        self.assertEqual(invariants.of_rest(self.bench, 0), [])

    def bare_cycles(self, count):
        """So many bare life cycles of runs of two projects, by three connections."""
        pairs = fill.make_projects(self.bench, 2)
        self.projects += [project for project, _workflow in pairs]
        site = mock.Mock(db=self.bench)
        site.name = get_db_name()
        site.fill = fill.Fill(self.bench, pairs, progress=lambda text: None)
        try:
            return bare.drain(site, count, 3)
        finally:
            site.fill.set_queued(0)

    def test_bare_life_cycles_write_the_rows_of_the_kernel_and_leave_nothing_behind(self):
        with mock.patch.object(bare, "_check", side_effect=bare._check) as check:
            result = self.bare_cycles(9)
        check.assert_called_once_with(self.bench, 9)
        self.assertGreater(result["rate"], 0)
        # Three updates of the run, one each of gate and lease, and the lease's end.
        self.assertGreaterEqual(result["writes"].dead, 6)
        self.assertIsNone(self.bench.value("SELECT to_regnamespace(%s)::text", bare.SCHEMA))

    def test_bare_life_cycles_that_lack_a_row_are_no_measurement(self):
        without = {
            name: text.replace("DELETE FROM", "SELECT FROM") for name, text in bare.PREPARED.items()
        }
        with (
            mock.patch.object(bare, "PREPARED", without),
            self.assertRaisesRegex(driver.BenchmarkError, "6 bare life cycles left these rows"),
        ):
            self.bare_cycles(6)
