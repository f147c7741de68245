"""``odooops-worker``, or ``python -m worker``: a worker on a host without Odoo.

``odooops-worker register`` exchanges a registration token for the token of this host, once.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys

from .agent import main as work
from .control.base import ControlPlaneError
from .control.rpc import TokenFile, register_host
from .settings import Settings, parse

PROG = "odooops-worker"
#: Not an option: a command line can be read by everybody on the host.
REGISTRATION_TOKEN = "ODOOOPS_REGISTRATION_TOKEN"


def main() -> int:
    """Work, or register; returns the exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["register"]:
        return register(parse(arguments[1:], prog=f"{PROG} register"))
    return work(parse(arguments, prog=PROG))


def register(settings: Settings) -> int:
    """Get this host's token; exit code 2 without an address, 3 when it was refused."""
    if not settings.control_url:
        sys.stderr.write(f"{PROG}: --control-url must say where Odoo is.\n")
        return 2
    token = os.environ.get(REGISTRATION_TOKEN) or _ask()
    try:
        register_host(
            settings.control_url,
            token.strip(),
            socket.gethostname(),
            TokenFile(settings.token_file),
            database=settings.control_database,
            ca=settings.control_ca,
        )
    except (ControlPlaneError, OSError) as error:
        sys.stderr.write(f"{PROG}: {error}\n")
        return 3
    sys.stdout.write(
        f"This host is registered; its token is in {settings.token_file}.\n"
        f"Start the worker with: {PROG} --control-url {settings.control_url}\n"
    )
    return 0


def _ask() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("Registration token: ")
    return sys.stdin.readline()


if __name__ == "__main__":
    sys.exit(main())
