"""From the raw output of processes to the lines of a run's log.

Nothing gets lost on that way. Each line is written to two files first: the complete log
(compressed, colour codes kept, later an artifact) and a spool. A thread of its own sends the spool
in batches; while the control plane is away the lines wait on disk, and when the control plane asks
for a sequence number it has not got, sending goes on from there.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from .masking import Masker

#: Longer lines are cut into pieces; all but the first are marked ``continued``.
MAX_LINE_BYTES = 16384

#: Escape sequences: CSI (colours, cursor), OSC (titles, links), and the two-character ones.
_ANSI = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\^_])")
#: Odoo's log format: 2026-11-23 14:35:57,123 4711 INFO database odoo.modules.loading: message
_ODOO_HEADER = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \d+ (?P<level>[A-Z]+) \S+ (?P<logger>[^\s:]+): "
)
#: A line that begins otherwise has no such header: a digit, or a colour code before it.
_HEADER_BEGINS = tuple("0123456789\x1b")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ODOO_LEVELS = {
    "DEBUG": "debug",
    "INFO": "info",
    "RUNBOT": "info",
    "WARNING": "warn",
    "ERROR": "error",
    "CRITICAL": "error",
}


class LogLine(NamedTuple):
    """One line of the run's log.

    ``timestamp`` is microseconds since the epoch, ``level`` debug, info, warn or error. ``text`` is
    the line as it was printed, colour codes and all, without NUL and line end; ``message`` is the
    same without colour codes. ``metadata`` has step, stream (stdout or stderr), logger, continued,
    as far as they are known; lines share it, so it is never changed.
    """

    timestamp: int
    level: str
    text: str
    metadata: Mapping[str, Any] = {}

    @property
    def message(self) -> str:
        return strip_ansi(self.text)

    def to_row(self) -> dict[str, Any]:
        """The line as ``append_run_logs`` takes it."""
        row = {
            "timestamp": iso_timestamp(self.timestamp),
            "level": self.level,
            "message": self.message,
            "metadata": self.metadata,
        }
        if row["message"] != self.text:
            row["metadata"] = {**self.metadata, "ansi": self.text}
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> LogLine:
        """The line whose ``to_row`` that is."""
        moment = datetime.fromisoformat(row["timestamp"].replace("Z", "+00:00"))
        microseconds = (moment - _EPOCH) // timedelta(microseconds=1)
        metadata = dict(row["metadata"])
        text = metadata.pop("ansi", row["message"])
        return cls(microseconds, row["level"], text, metadata)

    def to_text(self) -> str:
        """The line in the complete log: time, level, stream, step and text, separated by tabs.

        Line n of that file is the line with sequence number n in the control plane, as long as no
        marker before it says that lines were left out there.
        """
        metadata = self.metadata
        stream = metadata.get("stream", "-") + ("+" if metadata.get("continued") else "")
        step = str(metadata.get("step", "-")).replace("\t", " ")
        return f"{iso_timestamp(self.timestamp)}\t{self.level}\t{stream}\t{step}\t{self.text}\n"


def to_json_lines(lines: Iterable[LogLine]) -> list[bytes]:
    """The rows of the lines, each as one line of JSON. Written out by hand, because there are tens
    of thousands a second of them and most share their metadata."""
    quoted = json.encoder.encode_basestring_ascii
    known: dict[int, str] = {}
    rows = []
    for line in lines:
        if "\x1b" in line.text:
            rows.append(json.dumps(line.to_row()).encode() + b"\n")
            continue
        metadata = known.get(id(line.metadata))
        if metadata is None:
            metadata = known[id(line.metadata)] = json.dumps(line.metadata)
        rows.append(
            f'{{"timestamp": "{iso_timestamp(line.timestamp)}", "level": "{line.level}",'
            f' "message": {quoted(line.text)}, "metadata": {metadata}}}\n'.encode()
        )
    return rows


def strip_ansi(text: str) -> str:
    """Return ``text`` without terminal escape sequences."""
    return _ANSI.sub("", text) if "\x1b" in text else text


def clean_text(data: bytes) -> str:
    """Decode UTF-8; what is none becomes U+FFFD, NUL (unknown to PostgreSQL) U+2400."""
    return data.decode("utf-8", "replace").replace("\0", "\u2400")


def clean_json(value: Any) -> Any:
    """A copy of ``value`` that PostgreSQL takes as jsonb.

    NUL and lone surrogates are replaced, NaN becomes null, unknown types become text.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean_json(str(key)): clean_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [clean_json(item) for item in value]
    return clean_text(str(value).encode("utf-8", "replace"))


@functools.lru_cache(maxsize=1024)
def iso_timestamp(microseconds: int) -> str:
    """UTC time with six digits of seconds' fraction, as in 2026-11-23T10:00:00.123456Z.

    All lines of one chunk have the same.
    """
    seconds, fraction = divmod(microseconds, 1_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:06d}Z"


class LineSplitter:
    """Cuts one stream into pieces of lines; at most one piece (``MAX_LINE_BYTES``) is in memory."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._timestamp = 0
        self._continued = False

    def feed(self, data: bytes, timestamp: int) -> Iterator[tuple[int, str, bool]]:
        """Yield (timestamp of the piece's first byte, text, continued) for all that is complete."""
        start, last = 0, data.rfind(b"\n")
        while start < len(data):
            if not self._rest:
                self._timestamp = timestamp
                # Most output comes in whole lines of reasonable length: decoded in one go.
                if start < last and not self._continued:
                    block = data[start:last]
                    if max(map(len, block.split(b"\n"))) < MAX_LINE_BYTES:
                        for text in clean_text(block).split("\n"):
                            yield timestamp, text[:-1] if text.endswith("\r") else text, False
                        start = last + 1
                        continue
                    last = 0
            room = MAX_LINE_BYTES - len(self._rest)
            end = data.find(b"\n", start, start + room)
            if end >= 0:
                self._rest += data[start:end]
                start = end + 1
                yield self._take(len(self._rest), line_end=True)
            else:
                self._rest += data[start : start + room]
                start += room
                if len(self._rest) >= MAX_LINE_BYTES:
                    yield self._take(_whole_characters(self._rest), line_end=False)

    def flush(self) -> Iterator[tuple[int, str, bool]]:
        """Yield what is left when the stream ended without a line end."""
        if self._rest:
            yield self._take(len(self._rest), line_end=True)

    def _take(self, length: int, line_end: bool) -> tuple[int, str, bool]:
        piece = bytes(self._rest[:length])
        del self._rest[:length]
        if line_end and piece.endswith(b"\r"):
            piece = piece[:-1]
        taken = (self._timestamp, clean_text(piece), self._continued)
        self._continued = not line_end
        return taken


def _whole_characters(data: bytearray) -> int:
    """Length of ``data`` without a character of UTF-8 that is only begun at its end."""
    for back in range(1, 4):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(data) - back if needed > back else len(data)
    return len(data)


class OutputParser:
    """Turns the chunks of one process into log lines.

    A line in Odoo's log format gives its level and logger to the lines that follow on the same
    stream without a header of their own, which are mostly tracebacks. Everything else is info.
    """

    def __init__(self, step: str | None, masker: Masker | None = None) -> None:
        self._step = step
        # Masked before it is cut into lines: a value may hold line ends, a long line is cut.
        masker = masker or Masker()
        self._masked = {"stdout": masker.stream(), "stderr": masker.stream()}
        self._splitters = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        self._inherited: dict[str, tuple[str, str | None]] = {}
        self._metadata: dict[tuple[str, str | None, bool], dict[str, Any]] = {}

    def feed(self, stream: str, timestamp: int, data: bytes) -> list[LogLine]:
        """Lines completed by this chunk."""
        pieces = self._splitters[stream].feed(self._masked[stream].feed(data), timestamp)
        return [self._line(stream, *piece) for piece in pieces]

    def idle(self, timestamp: int) -> list[LogLine]:
        """Lines that were only held back in case that a secret begins at their end."""
        return [
            self._line(stream, *piece)
            for stream, splitter in self._splitters.items()
            for piece in splitter.feed(self._masked[stream].idle(), timestamp)
        ]

    def flush(self, timestamp: int = 0) -> list[LogLine]:
        """Lines that never got their line end."""
        return [
            self._line(stream, *piece)
            for stream, splitter in self._splitters.items()
            for pieces in (
                splitter.feed(self._masked[stream].flush(), timestamp),
                splitter.flush(),
            )
            for piece in pieces
        ]

    def _line(self, stream: str, timestamp: int, text: str, continued: bool) -> LogLine:
        if not continued and text[:1] in _HEADER_BEGINS:
            header = _ODOO_HEADER.match(strip_ansi(text[:1000]))
            if header:
                level = _ODOO_LEVELS.get(header["level"], "info")
                self._inherited[stream] = (level, header["logger"])
        level, logger = self._inherited.get(stream, ("info", None))
        key = (stream, logger, continued)
        metadata = self._metadata.get(key)
        if metadata is None:
            facts = {
                "stream": stream,
                "step": self._step,
                "logger": logger,
                "continued": continued,
            }
            metadata = self._metadata[key] = {name: fact for name, fact in facts.items() if fact}
        return LogLine(timestamp, level, text, metadata)
