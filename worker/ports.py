"""Ports for what a run starts."""

import socket


def free_port() -> int:
    """A loopback port that is free now: Odoo's usual one is another run's, or the server's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
