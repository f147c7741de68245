"""pytest plugin of `make test`; outside the addon's package, so that Odoo can be patched first.

- ODOOOPS_REQUIRE (a comma list like `chromium,docker`): what is named must be there, and then no
  test may be skipped. Continuous integration sets it; a skipped test proves nothing.
- ODOOOPS_TEST_RESULT: file to which the counts are written as JSON.
"""

import json
import os
import pathlib

import pytest

from .needs import missing_programs, required

COUNTED = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")


def pytest_configure(config):
    """Refuse to start without what is required."""
    missing = missing_programs(required())
    if missing:
        raise pytest.UsageError(
            f"required by ODOOOPS_REQUIRE, but not in PATH: {', '.join(missing)}"
        )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Turn skipped tests into a failure where nothing may be skipped; write the counts."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    counts = {name: len(reporter.stats.get(name, ())) for name in COUNTED}
    if required() and counts["skipped"] and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    result = os.environ.get("ODOOOPS_TEST_RESULT")
    if result:
        pathlib.Path(result).write_text(json.dumps(counts), encoding="utf-8")


def pytest_terminal_summary(terminalreporter):
    """Name the skipped tests with their reasons."""
    skipped = terminalreporter.stats.get("skipped", ())
    if not skipped:
        return
    terminalreporter.section("skipped")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.write_line(f"{report.nodeid}: {reason}")
    if required():
        terminalreporter.write_line("ODOOOPS_REQUIRE is set: a skipped test is a failure.")
