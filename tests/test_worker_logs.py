"""Raw output becomes lines: cut, decoded, with level and logger, secrets hidden."""

import gzip
import time
import unittest

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odoo.addons.odooops.worker.control.base import ControlPlaneUnavailable, Refused
from odoo.addons.odooops.worker.errors import RunError
from odoo.addons.odooops.worker.log_shipping import RunLog
from odoo.addons.odooops.worker.logs import (
    MAX_LINE_BYTES,
    LineSplitter,
    LogLine,
    OutputParser,
    clean_json,
    clean_text,
    iso_timestamp,
    strip_ansi,
)
from odoo.addons.odooops.worker.masking import Masker

from .worker_common import FolderCase, wait_for

#: The machine may be busy with other things.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def split(chunks):
    splitter = LineSplitter()
    pieces = [piece for chunk in chunks for piece in splitter.feed(chunk, 1)]
    return [*pieces, *splitter.flush()]


class TestLines(unittest.TestCase):
    @unhurried
    @given(st.lists(st.binary(max_size=40), max_size=20))
    def test_how_output_is_chunked_makes_no_difference(self, chunks):
        self.assertEqual(split(chunks), split([b"".join(chunks)] if any(chunks) else []))

    @unhurried
    @given(st.lists(st.text(alphabet="ab \t\x1b\x85\u2028ä€😀", max_size=30)))
    def test_every_line_arrives_whole_and_in_order(self, lines):
        data = "".join(line + "\n" for line in lines).encode("utf-8", "replace")
        expected = [line.encode("utf-8", "replace").decode() for line in lines]
        self.assertEqual([text for _time, text, _more in split([data])], expected)

    def test_a_long_line_is_cut_into_continued_pieces_without_splitting_characters(self):
        text = "ä€😀" * 10000
        pieces = split([text.encode() + b"\nnext\n"])
        self.assertEqual("".join(piece[1] for piece in pieces[:-1]), text)
        self.assertEqual([piece[2] for piece in pieces[:2]], [False, True])
        self.assertEqual(pieces[-1][1:], ("next", False))
        self.assertTrue(all(len(piece[1].encode()) <= MAX_LINE_BYTES for piece in pieces))

    def test_nul_and_broken_utf8_become_visible_characters(self):
        self.assertEqual(clean_text(b"a\0b\xffc"), "a\u2400b\ufffdc")
        self.assertEqual(
            clean_json({"a\0": [float("nan"), 1, {"b": "\ud800"}]}), {"a␀": [None, 1, {"b": "?"}]}
        )

    def test_odoo_levels_and_loggers_reach_the_traceback_below(self):
        parser = OutputParser("Install")
        data = (
            b"plain\n"
            b"2026-11-23 14:35:57,123 17 ERROR db odoo.sql_db: bad query\n"
            b"Traceback (most recent call last):\n"
            b"2026-11-23 14:35:57,124 17 \x1b[1;32mINFO\x1b[0m ? "
            b"odoo.modules.loading: \x1b[1mok\x1b[0m\n"
        )
        lines = parser.feed("stderr", 5, data)
        facts = [(line.level, line.metadata.get("logger")) for line in lines]
        error = ("error", "odoo.sql_db")
        self.assertEqual(facts, [("info", None), error, error, ("info", "odoo.modules.loading")])
        self.assertTrue(lines[3].message.endswith("odoo.modules.loading: ok"))
        self.assertIn("\x1b[1m", lines[3].to_text())
        self.assertEqual(lines[0].metadata, {"stream": "stderr", "step": "Install"})

    def test_escape_sequences_are_removed(self):
        self.assertEqual(strip_ansi("\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b[2K"), "red x")

    def test_timestamps_keep_microseconds(self):
        self.assertEqual(iso_timestamp(1_000_000), "1970-01-01T00:00:01.000000Z")
        self.assertEqual(iso_timestamp(1_500_001), "1970-01-01T00:00:01.500001Z")

    def test_secrets_are_hidden_longest_first_and_short_values_are_left_alone(self):
        masker = Masker()
        for value in ("secret", "secret-longer", "ab", "line one\nline two"):
            masker.add(value)
        masked = masker.mask("secret-longer secret ab line two")
        self.assertEqual(masked, "[secret] [secret] ab [secret]")


class LogServer:
    """Stands in for the kernel's append_run_logs; the real one is driven in test_worker_agent."""

    def __init__(self):
        self.rows = []
        self.away = False
        self.forget = 0
        self.reply = None

    def append_run_logs(self, run_id, epoch, first_seq, lines):
        if self.away:
            raise ControlPlaneUnavailable("away")
        if self.reply:
            return self.reply
        next_seq = len(self.rows) + 1
        if any("poison" in line["message"] for line in lines):
            return Refused("invalid_input", "bad line")
        if first_seq > next_seq:
            return Refused("log_gap", "gap", {"next_seq": next_seq})
        self.rows += lines[next_seq - first_seq :]
        return {"next_seq": len(self.rows) + 1}


class TestShipping(FolderCase):
    def setUp(self):
        super().setUp()
        self.server = LogServer()
        self.log = RunLog(self.server, 1, 1, self.folder, 1)
        self.log.start()
        self.addCleanup(self.log.close)

    def write_lines(self, *messages):
        now = time.time_ns() // 1000
        self.log.write([LogLine(now, "info", message) for message in messages])

    def flush(self):
        until = time.monotonic() + 20
        return self.log.flush(lambda: time.monotonic() > until)

    def received(self):
        return [row["message"] for row in self.server.rows]

    def test_lines_arrive_in_order_and_stand_in_the_complete_log(self):
        expected = [f"line {number}" for number in range(5000)]
        for start in range(0, 5000, 7):
            self.write_lines(*expected[start : start + 7])
        self.assertTrue(self.flush())
        self.assertEqual(self.received(), expected)
        text = gzip.decompress(self.log.finish().read_bytes()).decode()
        self.assertEqual([line.rpartition("\t")[2] for line in text.splitlines()], expected)

    def test_lines_wait_while_the_control_plane_is_away(self):
        self.server.away = True
        self.write_lines("one")
        time.sleep(0.4)
        self.write_lines("two")
        self.server.away = False
        self.assertTrue(self.flush())
        self.assertEqual(self.received(), ["one", "two"])

    def test_sending_goes_back_to_the_line_the_control_plane_wants(self):
        for number in range(3):
            self.write_lines(f"line {number}")
            self.assertTrue(self.flush())
        del self.server.rows[1:]
        self.write_lines("line 3")
        self.assertTrue(self.flush())
        self.assertEqual(self.received(), [f"line {number}" for number in range(4)])

    def test_one_refused_line_does_not_hold_up_the_others(self):
        self.write_lines("one", "poison", "three")
        self.assertTrue(self.flush())
        self.assertEqual([self.received()[0], self.received()[2]], ["one", "three"])
        self.assertIn("could not be stored", self.received()[1])

    def test_a_stale_epoch_ends_the_sending(self):
        self.server.reply = Refused("stale_epoch", "not yours")
        self.write_lines("one")
        self.assertFalse(self.flush())
        self.assertEqual(self.log.refused.code, "stale_epoch")

    def test_a_secret_reaches_neither_the_control_plane_nor_the_file(self):
        self.log.masker.add("hunter22")
        self.write_lines("password hunter22")
        self.assertTrue(self.flush())
        wait_for(self.received)
        self.assertEqual(self.received(), ["password [secret]"])
        self.assertNotIn(b"hunter22", gzip.decompress(self.log.finish().read_bytes()))


class TestFullDisk(FolderCase):
    def test_the_log_so_far_still_reaches_the_control_plane(self):
        for name in ("run.log.gz", "log.spool-1-0"):
            (self.folder / name).symlink_to("/dev/full")
        server = LogServer()
        log = RunLog(server, 1, 1, self.folder, 1)
        log.start()
        self.addCleanup(log.close)
        with self.assertRaises(RunError) as caught:
            log.write([LogLine(1, "info", "before")])
        self.assertEqual(caught.exception.code, "disk_full")
        log.write([LogLine(2, "info", "after")])
        self.assertTrue(log.flush(lambda: False))
        self.assertEqual([row["message"] for row in server.rows], ["before", "after"])
