"""Write the result of every test as a line of JSON to the file named by ODOOOPS_TEST_RESULTS.

Odoo's own result class counts and logs; log lines are no data, so the class is extended where
unittest reports to it. One line per test method (errors of its subtests belong to it) and one per
class whose set-up or tear-down failed.
"""

import json
import os
import time

FILE_VARIABLE = "ODOOOPS_TEST_RESULTS"
# The worse outcome of one test counts, for example a passed test whose clean-up fails.
RANK = {"passed": 0, "skipped": 1, "failed": 2, "error": 3}


def report_to_file():
    """Extend Odoo's result class, unless this process runs no tests for us."""
    path = os.environ.get(FILE_VARIABLE)
    if not path:
        return
    from odoo.tests.result import OdooTestResult

    _extend(OdooTestResult, Report(path))


class Report:
    """Collects what is reported about the current test and writes it when the test has ended."""

    def __init__(self, path):
        self.path = path
        self.current = None
        self.started = 0.0

    def start(self, test):
        """Begin a test."""
        self.started = time.monotonic()
        self.current = _identity(test) | {"outcome": "passed", "message": "", "traceback": ""}

    def note(self, test, outcome, message, traceback="", place=None):
        """Note an outcome of the current test; of several the worst counts.

        Without a current test it is the set-up or tear-down of a class, a result of its own.
        """
        record = self.current
        if record is None:
            record = _class_identity(test) | {"outcome": "passed", "traceback": "", "seconds": 0.0}
        if RANK[outcome] > RANK[record["outcome"]]:
            record.update(outcome=outcome, message=message)
            if place:
                record.update(file=place[0], line=place[1])
        record["traceback"] += traceback
        if self.current is None:
            self.append(record)

    def stop(self, discard=False):
        """End the current test. ``discard`` it when Odoo is going to repeat it."""
        record, self.current = self.current, None
        if record and not discard:
            self.append(record | {"seconds": round(time.monotonic() - self.started, 6)})

    def append(self, record):
        """Append one line; each is complete on disk even when Odoo is killed in the next test."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")


def _identity(test):
    """Return what names a test: {id, module, class, method}."""
    cls = type(test)
    parts = cls.__module__.split(".")
    module = parts[2] if parts[:2] in (["odoo", "addons"], ["odoo", "upgrade"]) else parts[0]
    method = getattr(test, "_testMethodName", "")
    return {"id": test.id(), "module": module, "class": cls.__qualname__, "method": method}


def _class_identity(holder):
    """Return the same for a failed set-up or tear-down, "setUpClass (odoo.addons.m.tests.t.C)"."""
    description = str(holder.id())
    method, _, path = description.partition(" (")
    parts = path.rstrip(")").split(".")
    module = parts[2] if parts[:2] == ["odoo", "addons"] and len(parts) > 2 else ""
    name = parts[-1]
    return {"id": f"{path.rstrip(')')}.{method}", "module": module, "class": name, "method": method}


def _extend(cls, report):
    """Wrap the methods unittest calls; what they did before they still do."""
    start_test, stop_test = cls.startTest, cls.stopTest
    add_error, add_failure, add_skip = cls.addError, cls.addFailure, cls.addSkip

    def startTest(self, test):
        start_test(self, test)
        report.start(test)

    def stopTest(self, test):
        # After a soft failure Odoo repeats the test.
        report.stop(discard=self._soft_fail and self.had_failure)
        stop_test(self, test)

    def addError(self, test, err):
        _note_exception(report, self, test, "error", err)
        add_error(self, test, err)

    def addFailure(self, test, err):
        _note_exception(report, self, test, "failed", err)
        add_failure(self, test, err)

    def addSkip(self, test, reason):
        # A skipped subtest does not make its test a skipped one.
        if not hasattr(test, "_subDescription"):
            report.note(test, "skipped", str(reason))
        add_skip(self, test, reason)

    for method in (startTest, stopTest, addError, addFailure, addSkip):
        setattr(cls, method.__name__, method)


def _note_exception(report, result, test, outcome, err):
    """Note a failure or error with its message, traceback and place."""
    message = f"{err[0].__name__}: {err[1]}"
    if hasattr(test, "_subDescription"):
        message = f"{test._subDescription()} {message}"
    place = result.getErrorCallerInfo(err, test)
    place = place[:2] if place else _last_place(err[2])
    report.note(test, outcome, message, result._exc_info_to_string(err, test), place)


def _last_place(traceback):
    """Return (file, line) of the innermost frame, None without one."""
    place = None
    while traceback:
        place = (traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    return place
