"""`make chaos`: its judge sees what is wrong, its schedule repeats, real runs are read right."""

import dataclasses
import re
import shlex
import sys
import tempfile
import unittest
from pathlib import Path
from unittest.mock import patch

from odoo.tests.common import get_db_name

from odoo.addons.odooops.benchmarks.database import Database
from odoo.addons.odooops.chaos import history, judge, run, schedule, witness, workload
from odoo.addons.odooops.worker.storage.filesystem import FilesystemStore

from .document_blocks import blocks, commands
from .document_commands import ROOT
from .worker_common import KernelCase

PROJECT, GROUP = "chaos-narrow-0123abcd", "chaos-narrow-0123abcd/deployment"


def a_run(run_id, status="succeeded", **values):
    """A run as it should be, whose step prints three lines."""
    lines = [f"line {number} of 3" for number in (1, 2, 3)]
    messages = ["Witness", *lines, "Succeeded"]
    values = {
        "project": PROJECT,
        "group": None,
        "error_code": None,
        "error_message": None,
        "retry_of": None,
        **values,
    }
    run = history.Run(run_id, lines=3, status=status, epoch=1, **values)
    run.states = ["queued", "claimed", "running", status]
    run.seqs, run.messages, run.printed = [1, 2, 3, 4, 5], messages, lines
    if status == "succeeded":
        run.complete_log = list(messages)
        for key, content in (("out.txt", f"run {run_id}\n".encode()), ("run.log.gz", b"")):
            run.artifacts[key] = history.Artifact(key, "ab", "ab", content)
    return run


def an_execution(run_id, begin, end, epoch=1, ended=1):
    return witness.Execution(run_id, epoch, [begin], end, ticks=8, ended=ended)


def a_history():
    """Runs 1 and 2 did well, 3 was lost and done again as 4."""
    runs = [
        a_run(1),
        a_run(2, group="deployment"),
        a_run(3, "failed", error_code="worker_lost"),
        a_run(4, retry_of=3),
    ]
    return history.History(
        queued=[1, 2, 3],
        runs={run.id: run for run in runs},
        executions=[
            an_execution(1, 10.0, 11.0),
            an_execution(2, 10.5, 11.5),
            an_execution(3, 11.0, 11.4, ended=0),
            an_execution(4, 90.0, 91.0),
        ],
        limits={PROJECT: 2, GROUP: 1},
        most_seen={PROJECT: 2, GROUP: 1},
    )


class TestJudge(unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.history = a_history()

    def complaints(self):
        return judge.problems(self.history)

    def complaint(self):
        (only,) = self.complaints()
        return only

    def test_a_history_as_it_should_be_has_no_problems(self):
        self.assertEqual(self.complaints(), [])

    def test_every_check_is_among_those_that_are_made(self):
        made = {check.__name__ for check in judge.CHECKS}
        self.assertEqual(made, {
            "lost", "accepted_twice", "executed", "limits", "logs", "artifacts", "chains",
            "leftovers",
        })  # fmt: skip

    def test_a_run_that_is_not_there(self):
        self.history.queued.append(5)
        self.assertEqual(self.complaint(), "run 5 was queued and is not there")

    def test_a_run_without_an_end(self):
        run = self.history.runs[1]
        run.status, run.states = "running", run.states[:-1]
        self.assertEqual(self.complaint(), "run 1 has not ended: it is running")

    def test_a_lost_run_that_nobody_queued_anew(self):
        del self.history.runs[4]
        del self.history.executions[3]
        self.assertIn("run 3 was given up without success: 3 worker_lost", self.complaint())

    def test_a_chain_that_ends_badly(self):
        self.history.runs[4] = a_run(4, "failed", error_code="exit_code", retry_of=3)
        self.assertIn("3 worker_lost → 4 exit_code", self.complaint())

    def test_a_queue_that_never_came_to_rest(self):
        self.history.settled = False
        self.assertIn("did not come to rest", self.complaint())

    def test_a_run_out_of_nowhere(self):
        self.history.runs[9] = a_run(9)
        self.history.executions.append(an_execution(9, 100.0, 101.0))
        self.assertIn("belongs to nothing", self.complaint())

    def test_two_ends(self):
        self.history.runs[1].states.append("succeeded")
        self.assertIn("run 1 is succeeded and has the events", self.complaint())

    def test_another_end_than_the_status_says(self):
        self.history.runs[1].states[-1] = "failed"
        self.assertIn("run 1 is succeeded and has the events", self.complaint())

    def test_two_starts(self):
        self.history.runs[1].states[1:1] = ["claimed", "running", "queued"]
        self.assertEqual(self.complaint(), "run 1 was started 2 times")

    def test_two_retries_of_one_failure(self):
        self.history.runs[5] = a_run(5, retry_of=3)
        self.history.executions.append(an_execution(5, 120.0, 121.0))
        complaints = " ".join(self.complaints())
        self.assertIn("run 3 was queued anew 2 times: [4, 5]", complaints)

    def test_a_retry_of_a_success(self):
        self.history.runs[5] = a_run(5, retry_of=1)
        self.history.executions.append(an_execution(5, 120.0, 121.0))
        self.assertEqual(self.complaint(), "run 1 is succeeded and was queued anew")

    def test_an_execution_in_two_epochs(self):
        self.history.executions.append(an_execution(1, 50.0, 51.0, epoch=2))
        self.assertIn("run 1 was executed 2 times, in the epochs [1, 2]", self.complaint())

    def test_an_execution_begun_twice_in_one_epoch(self):
        self.history.executions[0].begins.append(10.7)
        self.assertIn("run 1 began 2 times", self.complaint())

    def test_an_orphan_beside_its_retry(self):
        self.history.executions[2].last = 90.5
        self.assertIn("run 3 was at work 0.5 s after its retry 4 had begun", self.complaint())

    def test_a_success_that_nobody_executed(self):
        del self.history.executions[0]
        self.assertIn("run 1 succeeded and was not executed to its end", self.complaint())

    def test_a_success_whose_execution_was_cut(self):
        self.history.executions[0].ended = 0
        self.assertIn("run 1 succeeded and was not executed to its end", self.complaint())

    def test_a_success_of_another_epoch(self):
        self.history.runs[1].epoch = 2
        self.assertIn("run 1 succeeded and was not executed to its end", self.complaint())

    def test_an_execution_of_an_unknown_run(self):
        self.history.executions.append(an_execution(77, 100.0, 101.0))
        self.assertEqual(self.complaint(), "run 77 was executed and is not there")

    def test_a_project_over_its_limit_by_the_witnesses(self):
        self.history.executions[2].begins = [10.9]
        self.assertEqual(self.complaint(), f"3 runs of {PROJECT} were at work at once, 2 may be")

    def test_a_group_over_its_limit_by_the_witnesses(self):
        self.history.runs[1].group = "deployment"
        self.assertEqual(self.complaint(), f"2 runs of {GROUP} were at work at once, 1 may be")

    def test_a_limit_exceeded_in_the_database(self):
        self.history.most_seen[GROUP] = 2
        self.assertEqual(self.complaint(), f"2 runs of {GROUP} were active at once, 1 may be")

    def test_a_gap_in_a_log(self):
        self.history.runs[3].seqs = [1, 2, 4, 5]
        self.assertIn("the log of run 3 has gaps: 4 in the place of 3", self.complaint())

    def test_a_missing_line_a_doubled_line_and_two_in_the_wrong_order(self):
        lines = list(self.history.runs[1].printed)
        for printed in (lines[:2], [*lines, lines[2]], [lines[1], lines[0], lines[2]], []):
            self.history.runs[1].printed = printed
            self.assertIn("the log of run 1 has other lines", self.complaint())

    def test_only_the_end_may_be_missing_and_only_of_a_log_that_says_so(self):
        run = self.history.runs[1]
        run.is_output_cut = True
        lines = list(run.printed)
        run.printed = lines[:2]
        self.assertEqual(self.complaints(), [])
        run.printed = [lines[0], lines[2]]
        self.assertIn("the log of run 1 has other lines", self.complaint())
        run.printed, run.is_output_cut = lines[:2], False
        self.assertIn("the log of run 1 has other lines", self.complaint())

    def test_a_complete_log_that_is_not_complete(self):
        self.history.runs[1].complete_log.pop(2)
        self.assertIn("run.log.gz of run 1 has other lines", self.complaint())

    def test_an_artifact_that_is_gone_damaged_foreign_or_was_never_kept(self):
        artifact = self.history.runs[1].artifacts["out.txt"]
        for name, value, words in (
            ("stored_checksum", None, "is recorded and not in the store"),
            ("stored_checksum", "cd", "has other bytes than are recorded"),
            ("content", b"run 2\n", "is that of another"),
        ):
            with self.subTest(words):
                changed = dataclasses.replace(artifact, **{name: value})
                self.history.runs[1].artifacts["out.txt"] = changed
                self.assertIn(words, self.complaint())
        del self.history.runs[1].artifacts["out.txt"]
        self.assertEqual(self.complaint(), "run 1 succeeded without out.txt")

    def test_a_broken_chain_of_events(self):
        self.history.runs[1].chain_problems = ["event 2: altered"]
        self.assertEqual(self.complaint(), "the events of run 1 are broken: event 2: altered")

    def test_what_is_left_behind(self):
        self.history.leftovers = ["the container odooops-1"]
        self.assertEqual(self.complaint(), "left behind: the container odooops-1")

    def test_of_many_problems_of_a_kind_some_are_told_and_all_are_counted(self):
        self.history.leftovers = [f"the folder {number}" for number in range(8)]
        complaints = self.complaints()
        self.assertEqual(len(complaints), judge.TOLD + 1)
        self.assertEqual(complaints[-1], "… and 3 more of that kind")


class TestSchedule(unittest.TestCase):
    def test_a_seed_makes_the_same_storm_again_and_another_seed_another_one(self):
        self.assertEqual(schedule.make(5, 600, 6), schedule.make(5, 600, 6))
        self.assertNotEqual(schedule.make(5, 600, 6), schedule.make(6, 600, 6))

    def test_the_short_storm_breaks_each_subject_too(self):
        for seed in range(20):
            blows = schedule.make(seed, 90, 6)
            subjects = {blow.kind.partition("_")[0] for blow in blows}
            self.assertLessEqual({"freeze", "postgres", "store", "docker"}, subjects)
            self.assertTrue({"kill", "kill_runner", "kill_all"} & {blow.kind for blow in blows})
            self.assertTrue(any(blow.seconds > 60 for blow in blows), "no freeze outlasts a lease")
            self.assertTrue(all(0 <= blow.at < 90 for blow in blows))
            self.assertTrue(all(0 <= blow.target < 6 for blow in blows))

    def test_without_an_engine_none_is_broken(self):
        kinds = {blow.kind for blow in schedule.make(1, 600, 6, has_docker=False)}
        self.assertFalse([kind for kind in kinds if kind.startswith("docker")])


class TestOptions(unittest.TestCase):
    def options_of(self, command):
        """What `make chaos` understands of a command as it stands in the document."""
        program, target, *rest = shlex.split(command, comments=True)
        self.assertEqual((program, target), ("make", "chaos"))
        arguments = [word for each in rest for word in each.removeprefix("ARGS=").split()]
        with patch.object(sys, "argv", ["run.py", *arguments]):
            return run._options()

    def test_the_commands_of_the_document_are_storms_of_the_size_it_says(self):
        document = "docs/chaos.md"
        (block, *_others) = blocks(document, (ROOT / document).read_text(encoding="utf-8"))
        full, quick, own = commands(block)
        options = self.options_of(full)
        self.assertEqual((options.runs, options.workers, options.minutes), (2000, 6, 10))
        self.assertIn("2,000 runs, 6 workers, a storm of 10 minutes", full)
        self.assertEqual(self.options_of(quick).runs, 250)
        self.assertIn("250 runs, about three minutes", quick)
        options = vars(self.options_of(own))
        named = re.findall(r"--(\w+) (\d+)", own)
        self.assertEqual(len(named), 4)
        for name, number in named:
            self.assertEqual(options[name], int(number), name)


class TestWitness(unittest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def read_back(self, name, text):
        (self.folder / name).write_text(text)
        (execution,) = witness.read(self.folder)
        return execution

    def test_a_whole_execution(self):
        text = "begin 10.00 7\ntick 10.01 7\ntick 10.12 7\nend 10.24 7\n"
        execution = self.read_back("abc-7-2", text)
        self.assertEqual((execution.run_id, execution.epoch), (7, 2))
        self.assertEqual((execution.begins, execution.last, execution.ticks), ([10.0], 10.24, 2))
        self.assertTrue(execution.is_complete)

    def test_a_killed_execution_lived_to_its_last_tick(self):
        execution = self.read_back("abc-7-1", "begin 10.00 7\ntick 10.11 7\n")
        self.assertFalse(execution.is_complete)
        self.assertEqual(execution.last, 10.11)

    def test_lines_of_another_run_are_refused(self):
        with self.assertRaisesRegex(ValueError, "a line of run 8"):
            self.read_back("abc-7-1", "begin 10.00 7\ntick 10.11 8\n")


class TestRealRuns(KernelCase):
    """Runs of the storm's own workflows through a real worker, read back and judged."""

    def setUp(self):
        super().setUp()
        self.bench = Database(get_db_name())
        self.addCleanup(self.bench.close)
        self.witness = self.folder / "witness"
        self.witness.mkdir()
        self.projects = workload.make(self.bench, str(self.witness), None)
        self.addCleanup(self._remove_projects)

    def _remove_projects(self):
        own = self.project_id
        for project in self.projects:
            self.project_id = project.id
            self._remove_project()
        self.project_id = own

    def worker_options(self):
        return [option for option in super().worker_options() if not option.startswith("--labels")]

    def execute(self):
        """One run of each workflow; their history."""
        flows = [flow for project in self.projects for flow in project.workflows]
        queued = [self.queue(flow.id) for flow in flows]
        collector = witness.Collector([self.folder / "work"], self.witness)
        collector.start()
        self.addCleanup(collector.stop)
        worker = self.start_worker("--until-idle", "--capacity=3")
        self.assertEqual(worker.wait(90), 0)
        return queued

    def read_back(self, queued):
        store = FilesystemStore(self.folder / "artifacts")

        def fetch(url):
            with store.open(url) as stream:
                return stream.read()

        limits = history.limits_of(self.projects)
        return history.History(
            queued,
            history.read_runs(self.bench, self.projects, fetch),
            witness.read(self.witness),
            limits,
            dict.fromkeys(limits, 0),
        )

    def test_they_are_whole_and_a_line_less_is_seen(self):
        queued = self.execute()
        found = self.read_back(queued)
        self.assertEqual(judge.problems(found), [])
        self.assertEqual(len(found.executions), len(queued))
        self.assertTrue(all(e.ticks == workload.TICKS for e in found.executions))
        self.assertEqual(
            {len(run.printed) for run in found.runs.values()},
            {workload.LINES, workload.MANY_LINES},
        )
        self.remove_line(queued[0], 5)
        words = " ".join(judge.problems(self.read_back(queued)))
        self.assertIn(f"the log of run {queued[0]} has gaps: 6 in the place of 5", words)
        self.assertIn(f"run.log.gz of run {queued[0]} has other lines", words)

    def remove_line(self, run_id, seq):
        self.query("ALTER TABLE ops_run_log_line DISABLE TRIGGER USER")
        try:
            self.query("DELETE FROM ops_run_log_line WHERE run_id = %s AND seq = %s", run_id, seq)
        finally:
            self.query("ALTER TABLE ops_run_log_line ENABLE TRIGGER USER")
