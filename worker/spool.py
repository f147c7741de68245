"""Rows of a run's log that wait on disk for the control plane, and files that only grow.

The spool is a row of files of whole rows. Their names say where they begin:
``log.spool-<number of the first row>-<lines of the complete log before it>``. So whoever finds the
folder of a process that was killed knows what each row is (``RunLog.reopen``), at whatever moment
that was: no file is changed but by appending to it, and what has arrived goes by whole files.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

#: A file that is longer is followed by another one.
SEGMENT_BYTES = 4 * 1024 * 1024
#: So much is kept after it has arrived, in case that the control plane wants it again.
SPOOL_KEEP_BYTES = 4 * 1024 * 1024
#: What is kept in memory when the disk is full, in bytes.
MEMORY_BYTES = 4 * 1024 * 1024
_NAME = re.compile(r"log\.spool-(\d+)-(\d+)")


def is_full(error: OSError) -> bool:
    """Whether there is no room left on the disk."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


class AppendFile:
    """A file that only grows and survives a full disk: what does not fit waits in memory."""

    def __init__(self, path: Path, is_new: bool = True) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if is_new else 0)
        self._descriptor = os.open(path, flags, 0o600)
        self._size = 0 if is_new else os.fstat(self._descriptor).st_size
        self._waiting = bytearray()

    @property
    def size(self) -> int:
        """Bytes written so far, those in memory included."""
        return self._size + len(self._waiting)

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits in memory."""
        return not self._waiting

    def append(self, data: bytes) -> bool:
        """Write; false when the disk is full and ``data`` (as much as memory may hold) waits."""
        if len(self._waiting) + len(data) <= MEMORY_BYTES:
            self._waiting += data
        return self.settle()

    def settle(self) -> bool:
        """Try to write what waits in memory; true when nothing waits any more."""
        while self._waiting:
            try:
                written = os.pwrite(self._descriptor, self._waiting, self._size)
            except OSError as error:
                if not is_full(error):
                    raise
                return False
            self._size += written
            del self._waiting[:written]
        return True

    # No model of Odoo: pylint-odoo knows methods by their names.
    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``."""
        if offset >= self._size:
            start = offset - self._size
            return bytes(self._waiting[start : start + length])
        return os.pread(self._descriptor, min(length, self._size - offset), offset)

    def cut(self, size: int) -> None:
        """Keep the first ``size`` bytes, which must have been written."""
        os.ftruncate(self._descriptor, size)
        self._size = size

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Segment:
    """One file of the spool; ``start`` is the offset of its first byte within the whole."""

    def __init__(self, path: Path, start: int, is_new: bool = True) -> None:
        match = _NAME.fullmatch(path.name)
        if not match:
            raise ValueError(f"Not a file of a spool: {path}")
        self.first_seq, self.first_line = int(match[1]), int(match[2])
        self.start = start
        self.file = AppendFile(path, is_new)

    @property
    def end(self) -> int:
        return self.start + self.file.size

    def rows(self) -> Iterator[bytes]:
        """All whole rows, read anew."""
        rest, offset = b"", 0
        while data := self.file.read(offset, 1 << 20):
            offset += len(data)
            *rows, rest = (rest + data).split(b"\n")
            for row in rows:
                yield row + b"\n"


class Spool:
    """The spool of one run. Offsets count from its very first byte, whatever is gone by now."""

    def __init__(self, directory: Path, next_seq: int) -> None:
        self._directory = directory
        self.segments: list[Segment] = []
        self.begin(next_seq, 0)

    @classmethod
    def reopen(cls, directory: Path) -> Spool | None:
        """What a process that is dead has left; None when there is nothing.

        A row that was cut off by its end goes.
        """
        paths = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
        if not paths:
            return None
        spool = cls.__new__(cls)
        spool._directory, spool.segments, start = directory, [], 0
        for path in sorted(paths, key=lambda path: int(path.name.split("-")[1])):
            segment = Segment(path, start, is_new=False)
            segment.file.cut(sum(map(len, segment.rows())))
            spool.segments.append(segment)
            start = segment.end
        return spool

    @property
    def base(self) -> int:
        """Offset of the first byte that is still there."""
        return self.segments[0].start

    @property
    def size(self) -> int:
        """Offset behind the last byte."""
        return self.segments[-1].end

    @property
    def is_due(self) -> bool:
        """Whether the next rows should begin a file of their own."""
        file = self.segments[-1].file
        return file.size >= SEGMENT_BYTES and file.is_settled

    def begin(self, first_seq: int, first_line: int) -> None:
        """Begin a file with the row of that number, before which the complete log has so many
        lines. Should the disk have no room for one, the last file goes on."""
        path = self._directory / f"log.spool-{first_seq}-{first_line}"
        try:
            segment = Segment(path, self.size if self.segments else 0)
        except OSError as error:
            if not (self.segments and is_full(error)):
                raise
        else:
            self.segments.append(segment)

    def append(self, data: bytes) -> bool:
        """Write whole rows; false when the disk is full, see ``AppendFile.append``."""
        return self.segments[-1].file.append(data)

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``, of one file."""
        for segment in reversed(self.segments):
            if offset >= segment.start:
                return segment.file.read(offset - segment.start, length)
        return b""

    def release(self, offset: int) -> None:
        """What lies before has arrived; the files go that are not kept for another question."""
        while len(self.segments) > 1 and self.segments[0].end + SPOOL_KEEP_BYTES <= offset:
            segment = self.segments.pop(0)
            segment.file.close()
            segment.file.path.unlink(missing_ok=True)

    def close(self) -> None:
        for segment in self.segments:
            segment.file.close()
