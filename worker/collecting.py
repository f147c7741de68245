"""What a run keeps when its work has ended: test reports into its facts, files into the store.

A success that lost what it was to prove is no success: a report that tells of failed tests, a file
that is not there or cannot be stored makes it a failure. A run that failed anyway keeps its cause.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from .artifacts import MAX_FILES, Finder
from .errors import RunError, RunStopped
from .junit_report import Report, ReportError
from .recipes.base import Job, Outcome

_logger = logging.getLogger(__name__)

MAX_REPORTS = 100
_MAX_EVENTS = 20


def collect(job: Job, outcome: Outcome | None) -> Outcome:
    """Return the outcome, changed by what was found; ``None`` stands for work that broke off."""
    result = outcome or Outcome()
    has_failed = outcome is None or bool(outcome.exit_code or outcome.error_code)
    for keep in (_read_reports, _keep_files):
        try:
            found = keep(job, has_failed)
        except RunStopped:
            raise
        except RunError as error:
            _logger.warning("Run %s: %s", job.run_id, error)
            _say_quietly(job, "error", error.message)
            found = Outcome(1, error.code, error.message)
        metadata = {**result.metadata, **found.metadata}
        if found.error_code and not has_failed:
            has_failed = True
            result = dataclasses.replace(found, metadata=metadata)
        else:
            result = dataclasses.replace(result, metadata=metadata)
    return result


def _read_reports(job: Job, has_failed: bool) -> Outcome:
    pattern = job.config["junit"]
    if not pattern:
        return Outcome()
    report, count = Report(), 0
    finder = Finder(job.checkout_dir)
    for found in finder.find({"path": pattern}):
        count += 1
        if count > MAX_REPORTS:
            raise RunError("setup_error", f"More than {MAX_REPORTS} files match junit: {pattern}.")
        try:
            report.add_file(found.path)
        except (ReportError, OSError) as error:
            why = error if isinstance(error, ReportError) else f"cannot be read: {error.strerror}"
            raise RunError("setup_error", f"The test report {found.key} {why}.") from error
    if not count:
        return _missing(job, f"No file matches junit: {pattern}.", has_failed)
    _tell(job, report)
    if not report.failed:
        return Outcome(metadata=report.metadata())
    numbers = report.counts
    names = ", ".join(test["name"] for test in report.failed[:3])
    failed = numbers["failed"] + numbers["errors"]
    more = f" and {failed - 3} more" if failed > 3 else ""
    message = f"{failed} of {numbers['total']} tests failed: {names}{more}"
    return Outcome(1, "tests_failed", message, report.metadata())


def _tell(job: Job, report: Report) -> None:
    numbers = report.counts
    skipped = f", {numbers['skipped']} skipped" if numbers["skipped"] else ""
    job.log("info", f"{numbers['passed']} of {numbers['total']} tests passed{skipped}.")
    for test in report.failed[:_MAX_EVENTS]:
        place = f" at {test['file']}:{test['line']}" if test["file"] else ""
        job.log("error", f"{test['outcome'].upper()} {test['name']}{place}: {test['message']}")
        job.event("error", f"Test failed: {test['name']}", test)


def _keep_files(job: Job, has_failed: bool) -> Outcome:
    finder, count = Finder(job.checkout_dir), 0
    problem = Outcome()
    for entry in _wanted(job.config["artifacts"], has_failed):
        for found in finder.find(entry):
            count += 1
            if count > MAX_FILES:
                raise RunError("setup_error", f"More than {MAX_FILES} files match the artifacts.")
            original = found.path.relative_to(job.checkout_dir.resolve()).as_posix()
            facts = {} if original == found.key else {"path": original}
            job.add_artifact(found.key, found.path, expire_in=found.expire_in, metadata=facts)
            job.log("info", f"Artifact {found.key} stored")
        if not finder.has_matched and not entry.get("optional"):
            message = f"No file matches the artifact {entry['path']}."
            problem = _missing(job, message, has_failed)
    return problem


def _wanted(entries: Sequence[Mapping[str, Any]], has_failed: bool) -> list[Mapping[str, Any]]:
    moments = ("always", "on_failure" if has_failed else "on_success")
    return [entry for entry in entries if entry.get("when", "always") in moments]


def _missing(job: Job, message: str, has_failed: bool) -> Outcome:
    """What was to be there is not. Of a run that has failed nobody can expect it."""
    job.log("warn" if has_failed else "error", message)
    return Outcome() if has_failed else Outcome(1, "artifact_missing", message)


def _say_quietly(job: Job, level: str, message: str) -> None:
    try:
        job.log(level, message)
    except RunError as error:
        _logger.warning("Run %s: %s", job.run_id, error)
