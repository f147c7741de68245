"""The complete log of a run whose process was killed, made whole again from what lies on disk.

Of the compressed file the end is missing, which was in memory. The rows of the spool have it: how
many lines of the complete log come before them stands in the names of its files (``spool.py``).
Rows that say that lines were left out of the spool stand for as many lines.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .logs import LogLine
from .spool import Spool

#: Marker of the last line of a log that was cut by the end of its process.
KILLED = "killed"
#: As JSON writes them; in a text these quotes would have a backslash before them.
_LEFT_OUT_MARK = b'"marker": "left_out"'
_KILLED_MARK = f'"marker": "{KILLED}"'.encode()


class Restored(NamedTuple):
    """``rows`` are in the spool, ``left_out`` lines in the file alone; ``is_marked``: the last row
    says that the log is cut here; ``was_finished``: the killed process had written all of it."""

    rows: int
    left_out: int
    is_marked: bool
    was_finished: bool


def killed_log(path: Path) -> Path:
    """Where the complete log lies as the killed process left it: under another name, as ``path`` is
    written anew. A second attempt finds it there."""
    killed = path.with_name(f"{path.name}.{KILLED}")
    if not killed.exists():
        os.rename(path, killed)
    return killed


def restore(killed: Path, spool: Spool, add: Callable[[bytes], object]) -> Restored:
    """Give ``add`` the lines of the complete log: first those of the file, then those that only the
    spool has."""
    known, was_finished = 0, False
    for block, is_end in _blocks(killed):
        was_finished = is_end
        known += block.count(b"\n")
        add(block)
    in_file, rows, row, line = known, 0, b"", 0
    for segment in spool.segments:
        line = segment.first_line
        for row in segment.rows():
            rows += 1
            is_marker = _LEFT_OUT_MARK in row
            end = line + (json.loads(row)["metadata"]["lines"] if is_marker else 1)
            if end > known:
                missing = max(line - known, 0) + (end - max(line, known) if is_marker else 0)
                for text in _texts(LogLine.from_row(json.loads(row)), is_marker, missing):
                    add(text)
                known = end
            line = end
    return Restored(rows, max(0, in_file - line), _KILLED_MARK in row, was_finished)


def _blocks(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Blocks of whole lines, as far as the file can be read; and whether that is its proper end."""
    decompressor, rest = zlib.decompressobj(31), b""
    with open(path, "rb") as file:
        while data := file.read(1 << 16):
            lines, end, rest = (rest + decompressor.decompress(data)).rpartition(b"\n")
            yield lines + end, decompressor.eof


def _texts(line: LogLine, is_marker: bool, missing: int) -> Iterator[bytes]:
    """What the complete log says where a row is: first that lines before it have never come that
    far, then the row itself, unless it stands for such lines."""
    if missing:
        message = (
            f"{missing} lines are missing here: they were only in the memory of the process that"
            " was killed."
        )
        gap = LogLine(line.timestamp, "warn", message, {"marker": "left_out", "lines": missing})
        yield gap.to_text().encode()
    if not is_marker:
        yield line.to_text().encode()
