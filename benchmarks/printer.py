"""A step that prints numbered lines at a steady rate: ``python printer.py RATE SECONDS REPORT``.

It writes a hundred times a second, as a program with a buffered output does, and catches up when
its reader was slow. The seconds it took go into the file REPORT, as it ends.
"""

import os
import sys
import time

WRITES_PER_SECOND = 100
# About as long as a line of Odoo's log.
LINE = (
    "2026-01-31 12:00:00,000 4711 INFO odooops odoo.modules.loading: line %d of a long output, of"
    " which nothing may be lost\n"
)


def main(rate, seconds, report):
    """Print ``rate * seconds`` lines."""
    began, printed = time.monotonic(), 0
    while printed < rate * seconds:
        due = int((time.monotonic() - began) * WRITES_PER_SECOND) + 1
        until = min(rate * seconds, due * rate // WRITES_PER_SECOND)
        lines = "".join([LINE % number for number in range(printed + 1, until + 1)])
        view = memoryview(lines.encode())
        while view:
            view = view[os.write(1, view) :]
        printed = until
        time.sleep(max(0.0, began + due / WRITES_PER_SECOND - time.monotonic()))
    with open(report + ".new", "w", encoding="ascii") as file:
        file.write(str(time.monotonic() - began))
    os.rename(report + ".new", report)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
