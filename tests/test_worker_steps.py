"""Steps with needs, conditions and matrices: what is refused, their order, and real runs."""

import time
import unittest

from odoo.addons.odooops.worker.step_plan import plan
from odoo.addons.odooops.worker.workflow import validate_config

from .executor_contract import running
from .worker_common import KernelCase, wait_for


def step(name, run="true", **keys):
    return {"name": name, "run": run, **keys}


class TestStepPlan(unittest.TestCase):
    def order(self, *steps):
        return [planned.name for planned in plan(steps)]

    def assert_problem(self, text, *steps, **config):
        problems = validate_config("deploy", {"steps": list(steps), **config})
        self.assertIn(text, "\n".join(str(problem) for problem in problems))

    def test_the_order_is_that_of_the_list_unless_needs_stand_below(self):
        self.assertEqual(self.order(step("A"), step("B", needs=["A"]), step("C")), ["A", "B", "C"])
        self.assertEqual(
            self.order(step("A", needs=["C"]), step("B", needs=[]), step("C", needs=[])),
            ["B", "C", "A"],
        )

    def test_a_step_without_needs_comes_after_all_before_it_but_those_for_failures(self):
        planned = plan([step("A"), step("Undo", when="on_failure"), step("B"), step("C", needs=[])])
        self.assertEqual(
            {each.name: set(each.needs) for each in planned},
            {"A": set(), "Undo": {0}, "B": {0}, "C": set()},
        )

    def test_a_matrix_stands_for_all_combinations_in_the_order_of_its_values(self):
        planned = plan([step("T", matrix={"PYTHON": ["3.11", "3.12"], "DB": ["a", "b"]})])
        self.assertEqual(
            [each.name for each in planned],
            [f"T (PYTHON={p}, DB={d})" for p in ("3.11", "3.12") for d in ("a", "b")],
        )
        self.assertEqual(planned[2].variables, {"PYTHON": "3.12", "DB": "a"})

    def test_needs_that_cannot_be_met_are_refused_with_their_path(self):
        self.assert_problem(
            "steps[1].needs[0] names X, and there is no such step",
            step("A"),
            step("B", needs=["X"]),
        )
        self.assert_problem(
            "steps[0].needs[0] names A, which is the step itself", step("A", needs=["A"])
        )
        self.assert_problem(
            "steps[2].needs[0] names A, and 2 steps have that name",
            *(step("A"), step("A"), step("B", needs=["A"])),
        )
        self.assert_problem(
            "steps[1].needs[0] names Undo, which runs after a failure only",
            *(step("Undo", when="on_failure"), step("B", needs=["Undo"])),
        )

    def test_a_circle_is_refused_and_shown(self):
        self.assert_problem(
            "steps[0].needs leads in a circle: A → C → B → A",
            *(step("A", needs=["C"]), step("B", needs=["A"]), step("C", needs=["B"])),
        )
        self.assert_problem(
            "steps[0].needs leads in a circle: A → B → A; B has no needs and so comes after all",
            *(step("A", needs=["B"]), step("B")),
        )

    def test_a_matrix_has_bounds_and_texts_only(self):
        many = [str(number) for number in range(8)]
        self.assert_problem(
            "steps[0].matrix has 64 combinations, and 50 are allowed",
            step("A", matrix={"X": many, "Y": many}),
        )
        self.assert_problem(
            "steps has 245 steps with all combinations, and 200 are allowed",
            *(step(f"S{n}", matrix={"X": many[:7], "Y": many[:7]}) for n in range(5)),
        )
        self.assert_problem(
            "steps[0].matrix.PYTHON[0] must be a text (put it in quotes)",
            step("A", matrix={"PYTHON": [3.10]}),
        )
        self.assert_problem(
            "steps[0].matrix.python is not a name of a variable",
            step("A", matrix={"python": ["3"]}),
        )
        self.assert_problem("steps[0].matrix.X must hold at least 1", step("A", matrix={"X": []}))
        self.assert_problem("steps[0].matrix must hold at least 1", step("A", matrix={}))
        self.assert_problem(
            "steps[0].matrix.ODOOOPS_RUN_ID is reserved",
            step("A", matrix={"ODOOOPS_RUN_ID": ["1"]}),
        )
        self.assert_problem(
            "steps[0].matrix.KEY is also named in secrets",
            step("A", matrix={"KEY": ["1"]}),
            secrets=["KEY"],
        )
        self.assert_problem("only beside matrix", step("A", fail_fast=True))

    def test_a_misspelt_moment_is_refused_with_a_suggestion(self):
        self.assert_problem(
            "steps[0].when must be one of on_success, always, on_failure (did you mean on_failure",
            step("A", when="on-failure"),
        )


class TestSteps(KernelCase):
    def execute(self, *steps, **config):
        """Run these steps to their end; the run's row and its steps by name."""
        run_id = self.queue(self.make_workflow(steps=list(steps), **config))
        worker = self.start_worker("--until-idle")
        self.assertEqual(worker.wait(60), 0)
        return self.result(run_id)

    def result(self, run_id):
        row = self.run_row(run_id)
        return row, {each["name"]: each for each in row["metadata"]["steps"]}

    def statuses(self, steps):
        return {name: each["status"] for name, each in steps.items()}

    def test_without_a_failure_only_steps_for_failures_are_passed_over(self):
        row, steps = self.execute(
            step("One", "echo one"),
            step("Undo", "echo undone", when="on_failure"),
            step("Tidy", "echo tidied", when="always"),
            step("Two"),
        )
        self.assertEqual((row["status"], row["exit_code"]), ("succeeded", 0), row)
        self.assertEqual(
            self.statuses(steps),
            {"One": "succeeded", "Undo": "skipped", "Tidy": "succeeded", "Two": "succeeded"},
        )
        self.assertEqual(steps["One"]["exit_code"], 0)
        self.assertGreater(steps["One"]["seconds"], 0)
        self.assertEqual(steps["Undo"]["reason"], "nothing before it failed")

    def test_after_a_failure_the_steps_for_it_run_and_its_cause_stays(self):
        row, steps = self.execute(
            step("Bad", "exit 3"),
            step("Never", "echo never"),
            step("Undo", "echo undone; exit 4", when="on_failure"),
            step("Tidy", "echo tidied", when="always"),
        )
        self.assertEqual((row["status"], row["error_code"], row["exit_code"]), (
            "failed", "exit_code", 3), row)  # fmt: skip
        self.assertEqual(row["error_message"], "Step Bad ended with exit code 3.")
        self.assertEqual(
            self.statuses(steps),
            {"Bad": "failed", "Never": "skipped", "Undo": "failed", "Tidy": "succeeded"},
        )
        self.assertEqual(steps["Never"]["reason"], "Bad failed")
        run_id = self.query("SELECT id FROM ops_run WHERE project_id = %s", self.project_id)[0][0]
        messages = self.messages(run_id)
        self.assertIn("Skipped, because Bad failed.", messages)
        self.assertIn("tidied", messages)
        self.assertIn("Step Undo ended with exit code 4. The run had failed already.", messages)
        self.assertNotIn("never", messages)

    def test_what_does_not_need_the_failed_step_still_runs(self):
        row, steps = self.execute(
            step("Lint", "exit 1"),
            step("Build", "echo built > built", needs=[]),
            step("Test", "cat built", needs=["Build"]),
            step("Publish", needs=["Lint", "Test"]),
            step("Last", needs=["Publish"]),
        )
        self.assertEqual(row["error_message"], "Step Lint ended with exit code 1.")
        self.assertEqual(
            self.statuses(steps),
            {
                "Lint": "failed",
                "Build": "succeeded",
                "Test": "succeeded",
                "Publish": "skipped",
                "Last": "skipped",
            },
        )
        self.assertEqual(steps["Last"]["reason"], "Lint failed")

    def test_combinations_of_a_matrix_run_each_and_a_step_waits_for_all(self):
        matrix = {"NUMBER": ["1", "2", "3"]}
        row, steps = self.execute(
            step("Count", 'echo "$NUMBER" >> numbers; test "$NUMBER" != 2', matrix=matrix),
            step("Sum", "echo never", needs=["Count"]),
            step("Show", "paste -s -d, numbers", when="always"),
        )
        self.assertEqual(row["error_message"], "Step Count (NUMBER=2) ended with exit code 1.")
        self.assertEqual(
            self.statuses(steps),
            {
                "Count (NUMBER=1)": "succeeded",
                "Count (NUMBER=2)": "failed",
                "Count (NUMBER=3)": "succeeded",
                "Sum": "skipped",
                "Show": "succeeded",
            },
        )
        run_id = self.query("SELECT id FROM ops_run WHERE project_id = %s", self.project_id)[0][0]
        self.assertIn("1,2,3", self.messages(run_id))

    def test_a_matrix_that_fails_fast_skips_the_rest(self):
        _row, steps = self.execute(
            step("Count", "exit 1", matrix={"NUMBER": ["1", "2"]}, fail_fast=True)
        )
        self.assertEqual(
            self.statuses(steps), {"Count (NUMBER=1)": "failed", "Count (NUMBER=2)": "skipped"}
        )

    def test_a_step_that_takes_too_long_is_a_failure_like_others(self):
        row, steps = self.execute(
            step("Hang", "sleep 71311", timeout=1),
            step("Other", needs=[]),
            step("Tidy", when="on_failure", needs=["Hang"]),
        )
        self.assertEqual(row["error_code"], "timeout")
        self.assertEqual(
            self.statuses(steps), {"Hang": "failed", "Other": "succeeded", "Tidy": "succeeded"}
        )
        self.assertEqual(running("71311"), [])

    def test_a_canceled_run_still_clears_away(self):
        run_id = self.queue(
            self.make_workflow(
                steps=[
                    step("Work", "echo ready; sleep 71312"),
                    step("Other", needs=[]),
                    step("Tidy", "sleep 2; echo tidied", when="always"),
                ]
            )
        )
        self.start_worker()
        wait_for(lambda: "ready" in self.messages(run_id))
        self.assertTrue(self.call("cancel_run", run_id)["success"])
        row = self.wait_status(run_id, "canceled")
        _row, steps = self.result(run_id)
        self.assertEqual(row["error_code"], "canceled")
        self.assertEqual(
            self.statuses(steps), {"Work": "canceled", "Other": "skipped", "Tidy": "succeeded"}
        )
        self.assertEqual(steps["Other"]["reason"], "the run was stopped")
        self.assertIn("tidied", self.messages(run_id))
        self.assertEqual(running("71312"), [])

    def test_a_cancel_lets_a_step_finish_that_clears_away(self):
        run_id = self.queue(
            self.make_workflow(
                steps=[step("Tidy", "echo ready; sleep 3; echo tidied", when="always")]
            )
        )
        self.start_worker()
        wait_for(lambda: "ready" in self.messages(run_id))
        self.assertTrue(self.call("cancel_run", run_id)["success"])
        self.wait_status(run_id, "canceled", "succeeded")
        self.assertIn("tidied", self.messages(run_id))

    def test_without_grace_a_canceled_run_clears_nothing_away(self):
        run_id = self.queue(
            self.make_workflow(
                steps=[step("Work", "echo ready; sleep 71313"), step("Tidy", when="always")]
            )
        )
        self.start_worker("--cancel-grace-seconds=0")
        wait_for(lambda: "ready" in self.messages(run_id))
        self.assertTrue(self.call("cancel_run", run_id)["success"])
        self.wait_status(run_id, "canceled")
        _row, steps = self.result(run_id)
        self.assertEqual(self.statuses(steps), {"Work": "canceled", "Tidy": "skipped"})

    def test_a_run_past_its_time_still_clears_away(self):
        row, steps = self.execute(
            step("Hang", "sleep 71314"),
            step("Tidy", "sleep 1; echo tidied", when="on_failure"),
            timeout=1,
        )
        self.assertEqual((row["status"], row["error_code"]), ("failed", "timeout"))
        self.assertIn("The run took longer than its 1 seconds", row["error_message"])
        self.assertEqual(self.statuses(steps), {"Hang": "failed", "Tidy": "succeeded"})

    def test_a_worker_that_is_stopped_now_begins_no_clearing_away(self):
        run_id = self.queue(
            self.make_workflow(
                steps=[step("Work", "echo ready; sleep 71315"), step("Tidy", when="always")]
            )
        )
        worker = self.start_worker()
        wait_for(lambda: "ready" in self.messages(run_id))
        worker.terminate()
        time.sleep(0.7)
        worker.terminate()
        self.assertEqual(worker.wait(30), 0)
        row, steps = self.result(run_id)
        self.assertEqual(row["error_code"], "worker_lost")
        self.assertEqual(self.statuses(steps), {"Work": "canceled", "Tidy": "skipped"})
