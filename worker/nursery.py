"""The process in which runners are born.

An agent starts one nursery. It imports everything, opens nothing, has one thread, and forks: that
takes a few milliseconds, and what was imported is in memory once. One runner always waits there for
its run, connected to the control plane already: a run does not wait for a connection, nor for the
server to get to know what it is asked.

Nothing is kept in arguments or in the environment: settings and claims come through the socket that
the nursery was started with.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import threading

from .artifacts import make_store
from .control.base import ControlPlane, ControlPlaneError
from .control.connect import connect
from .runner import CONNECTIONS, Runner
from .settings import Settings
from .storage.base import StorageError

_logger = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"
#: Bytes of one message to the nursery; what may be larger lies in a file that goes with it.
MAX_MESSAGE = 1 << 16
READY = b"ready"
#: Seconds for a runner without a run to close its connection and end.
END_SECONDS = 5.0


class Spare:
    """A runner that waits for its run."""

    def __init__(self, settings: Settings, agent: socket.socket) -> None:
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = os.fork()
        if self._process == 0:
            # The nursery's ends: whoever waits for their end must not wait for us.
            agent.close()
            self._socket.close()
            _live(settings, its)
        its.close()

    def take(self, files: list[int]) -> None:
        """Give it its run.

        :raises OSError: it has died
        """
        with self._socket:
            socket.send_fds(self._socket, [b"run"], files)

    def close(self) -> None:
        """Let it end and wait for that, so that no connection outlives the agent."""
        self._socket.close()
        try:
            descriptor = os.pidfd_open(self._process)
        except ProcessLookupError:
            return
        try:
            select.select([descriptor], [], [], END_SECONDS)
        finally:
            os.close(descriptor)


def nursery(descriptor: int) -> None:
    """Serve the agent at the other end of the socket until it goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Ended children need no farewell.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as agent:
        settings = Settings.from_json(agent.recv(MAX_MESSAGE).decode())
        logging.basicConfig(
            level=settings.log_level.upper(), stream=sys.stderr, format=LOG_FORMAT, force=True
        )
        # Whatever an upgrade may take away is read now; no store is used here.
        make_store(settings, None)
        agent.send(READY)
        # Objects that are never looked at by the collector stay shared with the children.
        gc.collect()
        gc.freeze()
        _serve(settings, agent)


def _serve(settings: Settings, agent: socket.socket) -> None:
    spare = _bear(settings, agent)
    while True:
        # The runner's lock comes along as an open file: there is no moment without it.
        message, files, _flags, _address = socket.recv_fds(
            agent, MAX_MESSAGE, 2, socket.MSG_CMSG_CLOEXEC
        )
        if not message:
            break
        # One that was killed while it waited is replaced.
        if not _given(spare, files) and not _given(_bear(settings, agent), files):
            _logger.error("No runner took a run.")
        for file in files:
            os.close(file)
        spare = _bear(settings, agent)
    if spare:
        spare.close()


def _bear(settings: Settings, agent: socket.socket) -> Spare | None:
    try:
        return Spare(settings, agent)
    except OSError as error:
        _logger.error("No runner could be started: %s", error)
        return None


def _given(spare: Spare | None, files: list[int]) -> bool:
    if spare is None:
        return False
    try:
        spare.take(files)
    except OSError:
        return False
    return True


def _live(settings: Settings, nursery_socket: socket.socket) -> None:
    """The life of a runner; does not return."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control = _prepared(settings)
        with nursery_socket:
            message, files, _flags, _address = socket.recv_fds(
                nursery_socket, MAX_MESSAGE, 2, socket.MSG_CMSG_CLOEXEC
            )
        if message:
            _execute(settings, files[0], control)
        elif control:
            control.close()
        code = 0
    except (ControlPlaneError, StorageError) as error:
        _logger.error("A run could not be executed: %s", error)
    except BaseException:
        _logger.exception("A runner failed")
    finally:
        logging.shutdown()
        os._exit(code)


def _prepared(settings: Settings) -> ControlPlane | None:
    """A control plane whose first call will find all it needs; None when it is away now."""
    try:
        control = connect(settings, CONNECTIONS)
        control.prepare()
    except ControlPlaneError as error:
        _logger.info("Not connected in advance: %s", error)
        return None
    return control


def _execute(settings: Settings, order_file: int, control: ControlPlane | None) -> None:
    with open(order_file, "rb", closefd=False) as file:
        file.seek(0)
        order = json.load(file)
    threading.current_thread().name = f"run-{order['claim']['run_id']}"
    runner = Runner(settings, order, control)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runner.stop())
    runner.run()
