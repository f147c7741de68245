"""Reading the JUnit XML that a run's own test programs wrote.

The files come from programs nobody vouches for: they are read as a stream, bounded in size, number
of tests and length of texts, and one with a document type (which could define entities) is refused.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.parsers import expat

MAX_FILE_BYTES = 64 << 20
MAX_TESTS = 100_000
MAX_FAILED = 100
MAX_SLOWEST = 10
_MAX_TEXT = 500
_MAX_DEPTH = 50
_CHUNK = 1 << 16
_OUTCOMES = {"failure": "failed", "error": "error", "skipped": "skipped"}


class ReportError(Exception):
    """The file cannot be read as a report; the message ends a sentence that names the file."""


class Report:
    """The results of all files that were added."""

    def __init__(self) -> None:
        self.counts = {"total": 0, "passed": 0, "failed": 0, "errors": 0, "skipped": 0}
        self.failed: list[dict[str, Any]] = []
        self._slowest: list[tuple[float, int, str]] = []
        self._order = itertools.count()

    def add_file(self, path: Path) -> None:
        """Count the tests of one file; raises ``ReportError``, ``OSError``."""
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ReportError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")
        with path.open("rb") as source:
            _Reader(self).read(source)

    def add(self, test: Mapping[str, Any]) -> None:
        """Count one test."""
        if self.counts["total"] >= MAX_TESTS:
            raise ReportError(f"holds more than {MAX_TESTS} tests")
        outcome = test["outcome"]
        self.counts["total"] += 1
        self.counts["errors" if outcome == "error" else outcome] += 1
        if outcome in ("failed", "error") and len(self.failed) < MAX_FAILED:
            self.failed.append({name: test[name] for name in test if name != "seconds"})
        slow = (test["seconds"], -next(self._order), test["name"])
        if len(self._slowest) < MAX_SLOWEST:
            heapq.heappush(self._slowest, slow)
        else:
            heapq.heappushpop(self._slowest, slow)

    def slowest(self) -> list[dict[str, Any]]:
        """The tests that took longest, the longest first; none of them took no time."""
        return [
            {"name": name, "seconds": seconds}
            for seconds, _order, name in sorted(self._slowest, reverse=True)
            if seconds > 0
        ]

    def metadata(self) -> dict[str, Any]:
        """What the run's metadata says of the tests, as those of the built-in recipe."""
        found: dict[str, Any] = {"tests": dict(self.counts)}
        if self.failed:
            found["failed_tests"] = self.failed
        if slowest := self.slowest():
            found["slowest_tests"] = slowest
        return found


def slowest_of(durations: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """The slowest of (name, seconds), as ``Report.slowest``."""
    longest = heapq.nlargest(MAX_SLOWEST, durations, key=lambda pair: pair[1])
    return [{"name": name, "seconds": round(s, 3)} for name, s in longest if s > 0]


class _Reader:
    """One file; expat calls the methods below as it finds elements."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._depth = 0
        self._test: dict[str, Any] | None = None
        self._takes_text = False
        self._parser = parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.buffer_text = True

    def read(self, source: BinaryIO) -> None:
        size = 0
        try:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > MAX_FILE_BYTES:
                    raise ReportError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")
                self._parser.Parse(chunk, False)
            self._parser.Parse(b"", True)
        except (expat.ExpatError, ValueError, LookupError) as error:
            raise ReportError(f"is not well-formed XML: {error}") from error

    @staticmethod
    def _refuse(*_declaration: Any) -> None:
        raise ReportError("holds a document type declaration, which a report needs not")

    def _start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ReportError("is nested too deeply")
        if self._depth == 1 and tag not in ("testsuites", "testsuite"):
            raise ReportError(f"is no JUnit report: its root is {tag[:50]}")
        if tag == "testcase":
            self._test = _described(attributes)
        elif self._test is not None and tag in _OUTCOMES and self._test["outcome"] == "passed":
            self._test["outcome"] = _OUTCOMES[tag]
            self._test["message"] = _cut(attributes.get("message", ""))
            self._takes_text = not self._test["message"] and tag != "skipped"

    def _text(self, text: str) -> None:
        if self._takes_text and self._test is not None:
            self._test["message"] = _cut(self._test["message"] + text)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if tag in _OUTCOMES and self._test is not None:
            self._takes_text = False
        elif tag == "testcase" and self._test is not None:
            self._test["message"] = self._test["message"].strip()
            self._report.add(self._test)
            self._test = None


def _described(attributes: Mapping[str, str]) -> dict[str, Any]:
    method, class_name = _cut(attributes.get("name", "")), _cut(attributes.get("classname", ""))
    short = class_name.rpartition(".")[2]
    line = attributes.get("line", "")
    return {
        "name": f"{short}.{method}" if short else method,
        "id": f"{class_name}.{method}" if class_name else method,
        "class": short,
        "method": method,
        "outcome": "passed",
        "message": "",
        "file": _cut(attributes.get("file", "")),
        "line": int(line) if line.isascii() and line.isdigit() and len(line) < 9 else 0,
        "seconds": _seconds(attributes.get("time", "")),
    }


def _seconds(text: str) -> float:
    try:
        # Some programs write 1,234.5.
        seconds = float(text.replace(",", ""))
    except ValueError:
        return 0.0
    return round(seconds, 3) if 0 <= seconds < 1e7 else 0.0


def _cut(text: str) -> str:
    return text[:_MAX_TEXT]
