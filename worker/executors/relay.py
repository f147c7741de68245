"""Carries connections from a container to its run's PostgreSQL server, and to nothing else.

A container has no network unless its workflow asks for one, and a server on the loopback address
could not be reached through one anyway. So the container gets a folder with a Unix socket; this
program, outside, hands the bytes on. It is a process of its own, so that connections outlive a
worker that is restarted.

Started as a program on standard input with: descriptor of the listening socket, the folder of the
socket, the server's address (host and port, or the path of its socket). Ends when the folder is
removed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys

CHUNK = 65536
TICK = 1.0


class Relay:
    """One listening socket; per connection a pair of sockets with at most a chunk on its way."""

    def __init__(self, listener: socket.socket, folder: str, address: list[str]) -> None:
        self.listener = listener
        self.folder = folder
        self.address = address
        self.selector = selectors.DefaultSelector()
        self.peer: dict[socket.socket, socket.socket] = {}
        self.pending: dict[socket.socket, bytes] = {}  # what a socket is still to be sent
        self.finished: set[socket.socket] = set()  # those that will send no more

    def run(self) -> None:
        """Relay until the folder is gone."""
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        while os.path.isdir(self.folder):
            for key, _events in self.selector.select(TICK):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fileobj in self.peer:
                    self._move(key.fileobj)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client = self.listener.accept()[0]
            try:
                server = self._connect()
            except OSError:
                client.close()
                return
            for one, other in ((client, server), (server, client)):
                one.setblocking(False)
                self.peer[one] = other
                self.pending[one] = b""
                self.selector.register(one, selectors.EVENT_READ)

    def _connect(self) -> socket.socket:
        if len(self.address) == 1:
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.address[0])
            return server
        server = socket.create_connection((self.address[0], int(self.address[1])), 15)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return server

    def _move(self, one: socket.socket) -> None:
        """Send what waits for ``one``; when its peer is free, read more from ``one``."""
        other = self.peer[one]
        try:
            with contextlib.suppress(BlockingIOError):
                self._carry(one, other)
        except OSError:
            self._close(one, other)
            return
        if one in self.finished and other in self.finished:
            self._close(one, other)
            return
        for each in (one, other):
            self._watch(each)

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        if self.pending[one]:
            self._send(one, b"")
        if not self.pending[other] and one not in self.finished:
            data = one.recv(CHUNK)
            if data:
                self._send(other, data)
            else:
                self.finished.add(one)
                other.shutdown(socket.SHUT_WR)

    def _send(self, target: socket.socket, data: bytes) -> None:
        rest = self.pending[target] + data
        with contextlib.suppress(BlockingIOError):
            rest = rest[target.send(rest) :]
        self.pending[target] = rest

    def _watch(self, one: socket.socket) -> None:
        """Wait for what is useful: room when something waits, data when the peer is free."""
        wanted = selectors.EVENT_WRITE if self.pending[one] else 0
        if not self.pending[self.peer[one]] and one not in self.finished:
            wanted |= selectors.EVENT_READ
        registered = one in self.selector.get_map()
        if wanted and registered:
            self.selector.modify(one, wanted)
        elif wanted:
            self.selector.register(one, wanted)
        elif registered:
            self.selector.unregister(one)

    def _close(self, *sockets: socket.socket) -> None:
        for each in sockets:
            if each in self.selector.get_map():
                self.selector.unregister(each)
            self.finished.discard(each)
            del self.peer[each], self.pending[each]
            each.close()


if __name__ == "__main__":
    Relay(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], sys.argv[3:]).run()
