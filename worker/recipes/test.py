"""The recipe of workflow type ``test``: install the modules into an empty database and run their
tests.

Results come from Odoo's test runner itself (``odoo_addons/odooops_run``), not from its log.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..junit_report import slowest_of
from ..ports import free_port
from .base import Job, Outcome, Recipe
from .junit import TestResult, counts, read_results, write_junit
from .odoo import RUN_MODULE
from .pipeline import FOLDERS, READ_ONLY_FOLDERS, Pipeline

JUNIT_KEY = "junit.xml"
#: Below the run's work directory: what the run's Odoo writes about its tests.
RESULTS = "results"
#: Failed tests named in the run's metadata, and those that get an event of their own.
_MAX_LISTED = 100
_MAX_EVENTS = 20
_MAX_MESSAGE = 500


class TestRecipe(Recipe):
    """Installs the modules and runs the tests of exactly these modules."""

    __test__ = False  # pytest: this is no test
    workflow_type = "test"
    folders = (*FOLDERS, RESULTS)
    read_only_folders = READ_ONLY_FOLDERS

    def run(self, job: Job) -> Outcome:
        """Succeed when the modules are installed, tests were run and none failed.

        ``TEST_TAGS`` in the config's ``env`` replaces the choice of tests (Odoo's ``--test-tags``).
        """
        pipeline = Pipeline(job)
        pipeline.prepare()
        results_file = job.workdir / RESULTS / "tests.jsonl"
        results_file.parent.mkdir(exist_ok=True)
        tags = job.config.get("env", {}).get("TEST_TAGS")
        tags = tags or ",".join(f"/{module}" for module in pipeline.modules)
        with pipeline.step("Test"):
            exit_code, causes = pipeline.run_odoo(
                # With =, since a choice of tests may begin with a dash.
                [f"--test-tags={tags}", f"--load=base,web,{RUN_MODULE}"],
                {"http_interface": "127.0.0.1", "http_port": free_port()},
                {"ODOOOPS_TEST_RESULTS": str(results_file)},
            )
            missing = pipeline.not_installed()
        results = read_results(results_file, pipeline.repository_paths)
        self._add_artifacts(pipeline, results, not missing)
        numbers = counts(results)
        metadata = {**pipeline.metadata(), "tests": numbers}
        slowest = slowest_of((_named(result), result.seconds) for result in results)
        if slowest:
            metadata["slowest_tests"] = slowest
        failed = [result for result in results if result.outcome in ("failed", "error")]
        if failed:
            return self._failed(job, failed, exit_code, metadata, numbers)
        unable = pipeline.install_outcome(exit_code, causes, missing)
        if unable:
            # With all modules installed it was not their installation that failed.
            code = unable.error_code if missing else "exit_code"
            metadata |= unable.metadata
            return dataclasses.replace(unable, error_code=code, metadata=metadata)
        if numbers["total"] == numbers["skipped"]:
            return _without_tests(tags, numbers["skipped"], metadata)
        passed = numbers["passed"]
        skipped = f", {numbers['skipped']} skipped" if numbers["skipped"] else ""
        job.log("info", f"{passed} of {numbers['total']} tests passed{skipped}.")
        return Outcome(metadata=metadata)

    def _add_artifacts(
        self, pipeline: Pipeline, results: Sequence[TestResult], installed: bool
    ) -> None:
        job = pipeline.job
        if results:
            path = job.workdir / JUNIT_KEY
            write_junit(path, results, f"{job.snapshot['project'].get('slug')} #{job.run_number}")
            job.add_artifact(JUNIT_KEY, path, "application/xml")
        pipeline.add_manifest(installed=installed, tests=counts(results))

    def _failed(
        self,
        job: Job,
        failed: Sequence[TestResult],
        exit_code: int,
        metadata: dict[str, Any],
        numbers: dict[str, int],
    ) -> Outcome:
        """Name the failed tests in the log, in events and in the outcome."""
        listed = [_listed(result) for result in failed[:_MAX_LISTED]]
        for result, entry in zip(failed, listed, strict=False):
            place = f" at {result.file}:{result.line}" if result.file else ""
            job.log(
                "error", f"{result.outcome.upper()} {_named(result)}{place}: {entry['message']}"
            )
        for result, entry in list(zip(failed, listed, strict=False))[:_MAX_EVENTS]:
            job.event("error", f"Test failed: {_named(result)}", entry)
        noun = "test" if numbers["total"] == 1 else "tests"
        names = ", ".join(_named(result) for result in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        return Outcome(
            exit_code=exit_code or 1,
            error_code="tests_failed",
            error_message=f"{len(failed)} of {numbers['total']} {noun} failed: {names}{more}",
            metadata={**metadata, "failed_tests": listed},
        )


def _named(result: TestResult) -> str:
    return f"{result.name} ({result.module})"


def _listed(result: TestResult) -> dict[str, Any]:
    """Return what a failed test looks like in metadata and events."""
    return {
        "name": _named(result),
        "id": result.id,
        "module": result.module,
        "class": result.class_name,
        "method": result.method,
        "outcome": result.outcome,
        "message": result.message[:_MAX_MESSAGE],
        "file": result.file,
        "line": result.line,
    }


def _without_tests(tags: str, skipped: int, metadata: dict[str, Any]) -> Outcome:
    """A test run that tested nothing must not look like a success."""
    reason = f"all {skipped} tests were skipped" if skipped else f"none matches “{tags}”"
    return Outcome(
        exit_code=1,
        error_code="no_tests",
        error_message=f"No test was run: {reason}.",
        metadata=metadata,
    )
