"""The output of a container, read from the engine's log with streams, timestamps and a position.

The engine keeps the log (driver ``local``, the only one that keeps every byte) until the container
is removed, so the worker keeps nothing: a position is the number of entries already read, and
whoever takes over opens the log again and skips as many. An entry is a line, or up to 16 KiB of a
longer one. Timestamps cannot be the position: pieces of a long line share one, and clocks jump.

Two weaknesses of engines are made good here. Following a log may miss its last entries when the
container ends just then, so the end is read again without following. And the driver drops the line
end of a line that was cut into pieces: it stands before the next entry that is not a piece of the
same line, which shows by its timestamp. Only when such a line is the last of all does it stay lost.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .base import Chunk

#: Bytes that wait for ``take``: bounds the memory, whatever is written.
BUFFER = 4 << 20
#: What the engine's log needs for an entry beside its bytes, and we for its place in the buffer.
ENTRY_OVERHEAD = 32
#: A log up to so many bytes is read again whole at its end, of a larger one so many entries.
SMALL, TAIL = 8 << 20, 2000
_STREAMS = {1: "stdout", 2: "stderr"}
_HEAD = 8
_READ_SIZE = 1 << 16
#: Length of ``2026-01-31T12:00:00.123456789``, and where its microseconds begin and end.
_SECONDS, _MICROSECONDS, _TIME = 19, slice(20, 26), 29
#: Opens the log, following it or not, whole or its last entries; gives the response.
OpenLog = Callable[[bool, int | None], contextlib.AbstractContextManager[Any]]


class _Connection(http.client.HTTPConnection):
    """HTTP 1.0 over a Unix socket: without chunks, of which an engine makes one per line."""

    _http_vsn, _http_vsn_str = 10, "HTTP/1.0"

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


@contextlib.contextmanager
def open_log(
    path: str, version: str, container: str, follow: bool, tail: int | None
) -> Iterator[Any]:
    """The container's log from the engine whose socket is ``path``; raises OSError."""
    with contextlib.closing(_Connection(path)) as connection:
        query = f"stdout=1&stderr=1&timestamps=1&follow={int(follow)}&tail={tail or 'all'}"
        connection.request("GET", f"/v{version}/containers/{container}/logs?{query}")
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise OSError(f"The log cannot be read: {response.status} {response.reason}")
        yield response


def _cut(response: Any) -> Iterator[list[tuple[int, bytes]]]:
    """The entries of a log as (stream, time and data), in the batches in which they arrive."""
    buffer = bytearray()
    while data := response.read1(_READ_SIZE):
        buffer += data
        start, size, entries = 0, len(buffer), []
        while size - start >= _HEAD:
            begin = start + _HEAD
            end = begin + int.from_bytes(buffer[start + 4 : begin], "big")
            if end > size:
                break
            entries.append((buffer[start], bytes(buffer[begin:end])))
            start = end
        del buffer[:start]
        yield entries


class _Chunks:
    """Makes chunks of entries, each of which it must see once and in order."""

    def __init__(self) -> None:
        self._second = (b"", 0)
        #: stream → timestamp of its last entry when that was without a line end
        self._open: dict[int, bytes] = {}

    def make(self, stream: int, entry: bytes) -> Chunk:
        time, _blank, data = entry.partition(b" ")
        unfinished = self._open.pop(stream, None)
        if unfinished is not None and unfinished != time:
            data = b"\n" + data
        if not data.endswith(b"\n"):
            self._open[stream] = time
        second = time[:_SECONDS]
        if self._second[0] != second:
            zone = time[_TIME:].decode().replace("Z", "+00:00")
            moment = datetime.datetime.fromisoformat(second.decode() + zone)
            self._second = (second, int(moment.timestamp()) * 1_000_000)
        return Chunk(_STREAMS[stream], self._second[1] + int(time[_MICROSECONDS]), data)


class OutputStream:
    """Follows one container's log from a position, in a thread of its own.

    The thread ends with the container's output, or when the connection breaks; ``ended`` is true
    then.
    """

    def __init__(self, open_log: OpenLog, skip: int, limit: int | None) -> None:
        self.position = skip
        self.ended = False
        #: Whether it ended because the engine could not be read: there may be more.
        self.is_broken = False
        #: Whether the container wrote more than ``limit`` bytes (entries count for some, too).
        self.is_over_limit = False
        self._open_log = open_log
        self._skip = skip
        self._limit = limit
        self._total = 0
        self._count = 0
        self._last: deque[int] = deque(maxlen=TAIL)
        self._chunks = _Chunks()
        self._waiting: deque[Chunk] = deque()
        self._size = 0
        self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="docker-output", daemon=True).start()

    def take(self, limit: int, wait: float) -> list[Chunk]:
        """The next chunks, about ``limit`` bytes; waits up to ``wait`` seconds for the first."""
        chunks: list[Chunk] = []
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self.ended, wait)
            while self._waiting and limit > 0:
                chunk = self._waiting.popleft()
                chunks.append(chunk)
                limit -= len(chunk.data) + 1
                self._size -= len(chunk.data) + ENTRY_OVERHEAD
            self.position += len(chunks)
            self._changed.notify_all()
        return chunks

    def close(self) -> None:
        """Let the thread end as soon as it hears of it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._follow()
            if not self._closed and not self.is_over_limit:
                self._read_end()
        except (OSError, http.client.HTTPException):
            # The engine is gone, or the container is: poll() finds out which.
            self.is_broken = True
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _follow(self) -> None:
        with self._open_log(True, None) as response:
            for entries in _cut(response):
                self._take_in(entries)
                if self._closed or self.is_over_limit:
                    return

    def _read_end(self) -> None:
        """Take in what following missed: what the log holds behind the entries already seen."""
        tail = None if self._total <= SMALL else TAIL
        with self._open_log(False, tail) as response:
            if tail is None:
                known = self._count
                for entries in _cut(response):
                    new = entries[known:]
                    known = max(0, known - len(entries))
                    self._take_in(new)
            else:
                found = [entry for entries in _cut(response) for entry in entries]
                keys = [hash(entry) for entry in found]
                seen = list(self._last)
                # The last entry seen stands as far from the end as entries were missed.
                for missed in range(len(found)):
                    known = keys[: len(keys) - missed]
                    if known == seen[len(seen) - len(known) :]:
                        self._take_in(found[len(found) - missed :])
                        return

    def _take_in(self, entries: list[tuple[int, bytes]]) -> None:
        batch = []
        for stream, entry in entries:
            chunk = self._chunks.make(stream, entry)
            self._total += len(chunk.data) + ENTRY_OVERHEAD
            if self._limit is not None and self._total > self._limit:
                self.is_over_limit = True
                break
            self._count += 1
            self._last.append(hash((stream, entry)))
            if self._count > self._skip:
                batch.append(chunk)
        self._put(batch)

    def _put(self, chunks: list[Chunk]) -> None:
        if not chunks:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._size < BUFFER)
            if not self._closed:
                self._waiting += chunks
                self._size += sum(len(chunk.data) + ENTRY_OVERHEAD for chunk in chunks)
                self._changed.notify_all()
