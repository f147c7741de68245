"""The commands behind the Makefile's targets, and what becomes of their errors."""

import signal

from . import (
    bench,
    chaos,
    lifecycle,
    lint,
    pictures,
    reference_documents,
    schema_documents,
    spec_gates,
    testing,
    typescript,
)
from .errors import SetupError
from .postgres import SqlError
from .progress import warn

COMMANDS = {
    "run": lifecycle.run,
    "up": lifecycle.up,
    "down": lifecycle.down,
    "clean": lifecycle.clean,
    "test": testing.test,
    "lint": lint.lint,
    "hooks": lint.hooks,
    "bench": bench.bench,
    "chaos": chaos.chaos,
    "docs": reference_documents.docs,
    "screenshots": pictures.pictures,
    "schema": schema_documents.schema,
    "prisma": typescript.prisma,
    "spec-gates": spec_gates.spec_gates,
}


def main(arguments):
    """Execute one command and return its exit code."""
    if not arguments or arguments[0] not in COMMANDS:
        warn(f"usage: python3 -m devtools {{{','.join(COMMANDS)}}}; see `make help`")
        return 2
    # A closed terminal or a polite kill ends like Ctrl-C: what was started is stopped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return COMMANDS[arguments[0]](arguments[1:])
    except SetupError as error:
        warn(f"\n{error}")
        return 1
    except SqlError as error:
        warn(f"\nPostgreSQL refused what the set-up asked of it: {error}")
        return 1
    except KeyboardInterrupt:
        warn("\ninterrupted")
        return 130


def _interrupt(_number, _frame):
    raise KeyboardInterrupt
