"""The way of a run's log lines: complete log, spool on disk, sending thread.

See ``logs.py`` for how lines are made. The run's thread writes, one thread per run sends; they meet
at a condition. When the process of both is killed, another one goes on with what lies on disk
(``RunLog.reopen``).
"""

from __future__ import annotations

import bisect
import json
import logging
import random
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .control.base import ControlPlane, ControlPlaneUnavailable, JsonRows, Refused
from .errors import RunError
from .log_recovery import KILLED, killed_log, restore
from .logs import LogLine, strip_ansi, to_json_lines
from .masking import Masker
from .spool import AppendFile, Spool

_logger = logging.getLogger(__name__)

MAX_BATCH_LINES = 1000
MAX_BATCH_BYTES = 256 * 1024
#: Seconds a line may wait for company.
BATCH_SECONDS = 0.25
MAX_PAUSE = 5.0

#: The artifact is for keeping, but the run's own processes want the processor, too.
COMPRESSION_LEVEL = 4

CUT = (
    "The process that executed the run was killed here. What a step wrote then, and nobody had read"
    " yet, is not in the log. (worker_lost)"
)
DISK_FULL = "The worker's disk is full: the log of the run could not be written."


class LogLimits(NamedTuple):
    """``log_bytes``: of a run's output that are kept at all; ``spool_bytes``: of rows that may wait
    for the control plane."""

    log_bytes: int = 512 << 20
    spool_bytes: int = 256 << 20


class RunLog:
    """The log of one run: ``write`` lines, ``flush`` at the end, ``finish`` the complete log."""

    def __init__(
        self,
        control: ControlPlane,
        run_id: int,
        epoch: int,
        directory: Path,
        next_seq: int,
        masker: Masker | None = None,
        limits: LogLimits | None = None,
        spool: Spool | None = None,
    ) -> None:
        self._control = control
        self._run_id = run_id
        self._epoch = epoch
        self.masker = masker or Masker()
        #: The reply that ended the sending for good (stale epoch and the like), or None.
        self.refused: Refused | None = None
        self.path = directory / "run.log.gz"
        self._complete = AppendFile(self.path)
        self._compressor = zlib.compressobj(COMPRESSION_LEVEL, zlib.DEFLATED, 31)
        self._complete_lines = 0
        self._spool = spool or Spool(directory, next_seq)
        self._disk_full_said = False
        self._limits = limits or LogLimits()
        self._limit_left = self._limits.log_bytes
        self._left_out = 0
        self._condition = threading.Condition()
        self._written_seq = next_seq - 1
        self._acknowledged_seq = next_seq - 1
        self._offset = 0
        self._marks: list[tuple[int, int]] = []
        self._batch_lines = MAX_BATCH_LINES
        self._hurry = False
        self._closed = False
        name = f"log-{run_id}"
        self._thread = threading.Thread(target=self._send_loop, name=name, daemon=True)

    @classmethod
    def reopen(
        cls, control: ControlPlane, run_id: int, epoch: int, directory: Path
    ) -> RunLog | None:
        """The log of a run whose process was killed, to bring in the rest of it; None when there is
        none. May be done again, should this process be killed as well.

        What is in the spool was masked before. ``finish`` gives the complete log as far as it was
        on disk; its last line says where it was cut. Raises ``OSError``.
        """
        spool = Spool.reopen(directory)
        if spool is None:
            return None
        killed = killed_log(directory / "run.log.gz")
        log = cls(control, run_id, epoch, directory, spool.segments[0].first_seq, spool=spool)
        restored = restore(killed, spool, log._add_to_complete)
        log._written_seq += restored.rows
        if restored.was_finished:
            log.path = killed
        elif not restored.is_marked:
            log._mark_cut(restored.left_out)
        return log

    def _mark_cut(self, left_out: int) -> None:
        """The last line of a log whose process was killed, whatever waits before it."""
        line = LogLine(time.time_ns() // 1000, "error", CUT, {"marker": KILLED})
        rows = to_json_lines([line])
        if left_out:
            rows = [self._left_out_row(left_out), *rows]
        self._add_to_complete(line.to_text().encode())
        self._spool.append(b"".join(rows))
        self._written_seq += len(rows)

    def start(self) -> None:
        """Begin sending."""
        self._thread.start()

    def write(self, lines: Sequence[LogLine]) -> None:
        """Append lines.

        Raises ``RunError('disk_full')`` once, at the first line the disk does not take.
        """
        lines = self._mask(self._limited(lines))
        if not lines:
            return
        text = "".join([line.to_text() for line in lines]).encode()
        rows = to_json_lines(lines)
        with self._condition:
            fits = self._add_to_complete(text)
            self._complete_lines += len(rows)
            fits = self._spool_rows(rows) and fits
            self._condition.notify_all()
            if not fits and not self._disk_full_said:
                self._disk_full_said = True
                raise RunError("disk_full", DISK_FULL)

    def _add_to_complete(self, text: bytes) -> bool:
        return self._complete.append(self._compressor.compress(text))

    def _limited(self, lines: Sequence[LogLine]) -> Sequence[LogLine]:
        """The lines as far as the limit of the whole log allows. What the worker itself says, which
        has no stream, always gets through."""
        if self._limit_left < 0:
            return [line for line in lines if "stream" not in line.metadata]
        self._limit_left -= sum([len(line.text) + 1 for line in lines])
        if self._limit_left >= 0:
            return lines
        message = (
            f"The log is cut here: the worker keeps {self._limits.log_bytes >> 20} MiB of a run's"
            " output (--log-limit-mb). The run goes on."
        )
        return [*lines, LogLine(time.time_ns() // 1000, "warn", message, {"marker": "limit"})]

    def _spool_rows(self, rows: Sequence[bytes]) -> bool:
        """Put rows (lock held) where the sending thread finds them; false when the disk is full.

        When more wait than the spool may hold, rows are left out until half of them have been sent,
        and a marker takes their place.
        """
        waiting = self._spool.size - self._offset
        allowed = self._limits.spool_bytes // (2 if self._left_out else 1)
        if waiting > allowed:
            self._left_out += len(rows)
            return True
        first_line = self._complete_lines - len(rows) - self._left_out
        if self._left_out:
            rows = [self._left_out_row(self._left_out), *rows]
        if self._spool.is_due:
            # What the older files hold is then in the complete log on disk, which outlives them.
            self._complete.append(self._compressor.flush(zlib.Z_SYNC_FLUSH))
            self._spool.begin(self._written_seq + 1, first_line)
        data = b"".join(rows)
        room = self._spool.size + len(data)
        fits = self._spool.append(data)
        if self._spool.size == room:
            self._written_seq += len(rows)
            self._left_out = 0
        return fits

    @staticmethod
    def _left_out_row(count: int) -> bytes:
        message = (
            f"{count} lines are left out here: the control plane was away or slow, and no more may"
            " wait on the worker's disk (--spool-limit-mb). The complete log run.log.gz has them."
        )
        metadata = {"marker": "left_out", "lines": count}
        return to_json_lines([LogLine(time.time_ns() // 1000, "warn", message, metadata)])[0]

    def flush(self, give_up: Callable[[], bool]) -> bool:
        """Wait until all lines have arrived; false when impossible or ``give_up()`` said so."""
        with self._condition:
            self._hurry = True
            if self._left_out:
                row, self._left_out = self._left_out_row(self._left_out), 0
                if self._spool.append(row):
                    self._written_seq += 1
            self._condition.notify_all()
            while self._acknowledged_seq < self._written_seq:
                if self.refused or give_up():
                    return False
                self._condition.wait(0.1)
            self._hurry = False
        return True

    def finish(self) -> Path:
        """Complete the compressed file and return its path. No line may be written afterwards."""
        with self._condition:
            fits = self._complete.append(self._compressor.flush())
        if not fits:
            raise RunError("disk_full", DISK_FULL)
        return self.path

    def close(self) -> None:
        """End the sending thread and release the files."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._complete.close()
        self._spool.close()

    def _mask(self, lines: Sequence[LogLine]) -> Sequence[LogLine]:
        """The lines without secrets: those of the worker itself, whose text comes here first, and
        those in which colour codes stood between the characters of a secret."""
        if not self.masker.may_hold("\n".join(line.message for line in lines)):
            return lines
        masked = []
        for line in lines:
            text = self.masker.mask(line.text)
            message = strip_ansi(text)
            if self.masker.mask(message) != message:
                text = self.masker.mask(message)
            masked.append(line._replace(text=text))
        return masked

    def _send_loop(self) -> None:
        pause = 0.0
        while True:
            with self._condition:
                if not self._wait_for_batch(pause):
                    return
                first_seq = self._acknowledged_seq + 1
                rows, length = self._read_batch()
            try:
                reply = self._control.append_run_logs(self._run_id, self._epoch, first_seq, rows)
            except ControlPlaneUnavailable as error:
                pause = min(MAX_PAUSE, pause * 2 or 0.25)
                _logger.info("Log of run %s waits on disk: %s", self._run_id, error)
                continue
            except Exception:
                _logger.exception("The log of run %s could not be sent", self._run_id)
                pause = MAX_PAUSE
                continue
            pause = 0.0
            with self._condition:
                if isinstance(reply, Refused):
                    self._handle_refusal(reply, len(rows))
                else:
                    self._acknowledge(reply["next_seq"], first_seq, len(rows), length)
                self._condition.notify_all()

    def _wait_for_batch(self, pause: float) -> bool:
        """Wait (lock held) until a batch is due; false when the thread shall end."""
        if pause:
            until = time.monotonic() + pause * random.uniform(0.8, 1.2)
            while not self._closed and time.monotonic() < until:
                self._condition.wait(until - time.monotonic())
        since = None
        while not self._closed and not self.refused:
            unsent = self._written_seq - self._acknowledged_seq
            if unsent:
                now = time.monotonic()
                since = since or now
                full = (
                    unsent >= MAX_BATCH_LINES or self._spool.size - self._offset >= MAX_BATCH_BYTES
                )
                if full or self._hurry or now - since >= BATCH_SECONDS:
                    return True
                self._condition.wait(BATCH_SECONDS - (now - since))
            else:
                self._condition.wait()
        return False

    def _read_batch(self) -> tuple[JsonRows, int]:
        """The next rows of the spool and how many bytes they take."""
        data = self._spool.read(self._offset, MAX_BATCH_BYTES)
        while b"\n" not in data:
            data += self._spool.read(self._offset + len(data), MAX_BATCH_BYTES)
        lines = data[: data.rindex(b"\n") + 1].splitlines(keepends=True)[: self._batch_lines]
        mark = (self._acknowledged_seq + 1, self._offset)
        if self._marks[-1:] != [mark]:
            self._marks.append(mark)
        return JsonRows(lines), sum(map(len, lines))

    def _acknowledge(self, next_seq: int, first_seq: int, count: int, length: int) -> None:
        self._batch_lines = MAX_BATCH_LINES
        if next_seq == first_seq + count:
            self._acknowledged_seq = next_seq - 1
            self._offset += length
        else:
            self._rewind(next_seq)
        self._spool.release(self._offset)
        gone = bisect.bisect_left(self._marks, self._spool.base, key=lambda mark: mark[1])
        del self._marks[:gone]

    def _handle_refusal(self, reply: Refused, count: int) -> None:
        if reply.code == "log_gap" and reply.data.get("next_seq"):
            self._rewind(int(reply.data["next_seq"]))
        elif reply.code == "invalid_input" and count > 1:
            # One line spoils the batch: find it by sending them one by one.
            self._batch_lines = 1
        elif reply.code == "invalid_input":
            _logger.error("Run %s: a log line was refused and left out: %s", self._run_id, reply)
            self._replace_line(f"(A line of the log could not be stored: {reply.error})")
        else:
            self.refused = reply

    def _replace_line(self, message: str) -> None:
        """Send ``message`` in place of the first unsent line; if even that is refused, give up.

        When the control plane is away just now, the same line is tried, refused and replaced again
        later.
        """
        row = json.loads(self._spool.read(self._offset, 1 << 20).partition(b"\n")[0])
        row |= {"message": message, "metadata": {}}
        seq = self._acknowledged_seq + 1
        try:
            reply = self._control.append_run_logs(self._run_id, self._epoch, seq, [row])
        except ControlPlaneUnavailable:
            return
        if isinstance(reply, Refused):
            self.refused = reply
        else:
            self._skip_lines(1)

    def _rewind(self, next_seq: int) -> None:
        """Go on from the line the control plane wants, as far back as the spool reaches."""
        index = bisect.bisect_right(self._marks, (next_seq, float("inf"))) - 1
        if index < 0 or next_seq > self._written_seq + 1:
            self.refused = Refused(
                "log_gap", f"The control plane wants log line {next_seq}, which is gone.", {}
            )
            return
        seq, self._offset = self._marks[index]
        self._acknowledged_seq = seq - 1
        del self._marks[index + 1 :]
        self._skip_lines(next_seq - seq)

    def _skip_lines(self, count: int) -> None:
        while count > 0:
            data = self._spool.read(self._offset, MAX_BATCH_BYTES)
            lines = data.splitlines(keepends=True)[:count]
            whole = [line for line in lines if line.endswith(b"\n")]
            self._offset += sum(map(len, whole))
            self._acknowledged_seq += len(whole)
            count -= len(whole)
