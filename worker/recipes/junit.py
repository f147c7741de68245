"""Test results as data: reading what the run's Odoo wrote, counting it, writing JUnit XML."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import re
import stat
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from pathlib import Path

#: Characters XML 1.0 cannot hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MAX_TRACEBACK = 20000
_MAX_BYTES = 256 << 20
OUTCOMES = ("passed", "failed", "error", "skipped")


@dataclasses.dataclass(frozen=True)
class TestResult:
    """The result of one test method, or of the set-up of its class when that failed."""

    __test__ = False  # pytest: this is no test

    id: str
    module: str
    class_name: str
    method: str
    #: passed, failed, error or skipped
    outcome: str
    seconds: float
    message: str = ""
    traceback: str = ""
    file: str = ""
    line: int = 0

    @property
    def name(self) -> str:
        """Class and method, as developers name a test."""
        return f"{self.class_name}.{self.method}"


def read_results(path: Path, shorten: Callable[[str], str] = str) -> list[TestResult]:
    """Return the results in a file of JSON lines, [] when there is none.

    The run's own code could write it, too, or put something else in its place: no link is
    followed, and what is no result, such as a last line cut off when Odoo was killed, is left out.

    :param shorten: turns paths of the work directory into paths of the repository
    """
    results: dict[str, TestResult] = {}
    for line in _read(path).splitlines():
        try:
            result = _result(json.loads(line), shorten)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        # Odoo may repeat a test; the last result counts.
        if result.outcome in OUTCOMES:
            results[result.id] = result
    return list(results.values())


def _read(path: Path) -> str:
    """Return the text of a regular file, its first bytes when it is huge, "" when it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return stream.read(_MAX_BYTES).decode("utf-8", "replace")


def _result(record: dict, shorten: Callable[[str], str]) -> TestResult:
    return TestResult(
        id=str(record["id"]),
        module=str(record["module"]),
        class_name=str(record["class"]),
        method=str(record["method"]),
        outcome=record["outcome"],
        seconds=float(record.get("seconds") or 0.0),
        message=shorten(record.get("message") or ""),
        traceback=shorten(record.get("traceback") or "")[:_MAX_TRACEBACK],
        file=shorten(record.get("file") or ""),
        line=int(record.get("line") or 0),
    )


def counts(results: Sequence[TestResult]) -> dict[str, int]:
    """Return {total, passed, failed, errors, skipped}."""
    counted = collections.Counter(result.outcome for result in results)
    return {
        "total": len(results),
        "passed": counted["passed"],
        "failed": counted["failed"],
        "errors": counted["error"],
        "skipped": counted["skipped"],
    }


def write_junit(path: Path, results: Sequence[TestResult], name: str) -> None:
    """Write the results as JUnit XML, one test suite per test class.

    :param name: of the whole, shown by what reads the file
    """
    root = ET.Element("testsuites", _attributes(name, results))
    suites: dict[tuple[str, str], list[TestResult]] = {}
    for result in results:
        suites.setdefault((result.module, result.class_name), []).append(result)
    for (module, class_name), members in suites.items():
        suite = ET.SubElement(root, "testsuite", _attributes(f"{module}.{class_name}", members))
        for result in members:
            suite.append(_testcase(result))
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _attributes(name: str, results: Sequence[TestResult]) -> dict[str, str]:
    numbers = counts(results)
    return {
        "name": _clean(name),
        "tests": str(numbers["total"]),
        "failures": str(numbers["failed"]),
        "errors": str(numbers["errors"]),
        "skipped": str(numbers["skipped"]),
        "time": f"{sum(result.seconds for result in results):.3f}",
    }


def _testcase(result: TestResult) -> ET.Element:
    classname = result.id.removesuffix(f".{result.method}")
    attributes = {"name": result.method, "classname": classname, "time": f"{result.seconds:.3f}"}
    if result.file:
        attributes |= {"file": result.file, "line": str(result.line)}
    case = ET.Element("testcase", {key: _clean(value) for key, value in attributes.items()})
    if result.outcome == "skipped":
        ET.SubElement(case, "skipped", {"message": _clean(result.message)})
    elif result.outcome != "passed":
        tag = "failure" if result.outcome == "failed" else "error"
        kind = result.message.partition(":")[0]
        problem = ET.SubElement(
            case, tag, {"message": _clean(result.message), "type": _clean(kind)}
        )
        problem.text = _clean(result.traceback)
    return case


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
