"""The log of a run while the control plane is away, slow, or asked to hold too much."""

import contextlib
import gzip
import select
import socket
import threading
import time

from psycopg2.extensions import make_dsn

from odoo.tests import tagged

from ..worker.control.base import ControlPlaneUnavailable
from ..worker.log_shipping import LogLimits, RunLog
from ..worker.logs import LogLine
from ..worker.spool import SEGMENT_BYTES, SPOOL_KEEP_BYTES
from .worker_common import FolderCase, KernelCase, wait_for


class Proxy:
    """A TCP proxy before PostgreSQL that can be cut: connections break, new ones are refused."""

    def __init__(self, host, port):
        self._target = (host, port)
        self._pairs = []
        self._listener = None
        self.port = 0
        self.open()

    def open(self):
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self):
        listener, self._listener = self._listener, None
        if listener:
            # Wakes the thread that accepts; closing alone would leave the port open until then.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs = []

    def _connect(self):
        host, port = self._target
        if host.startswith("/"):
            target = socket.socket(socket.AF_UNIX)
            target.connect(f"{host}/.s.PGSQL.{port}")
            return target
        return socket.create_connection((host, port))

    def _accept(self, listener):
        while True:
            try:
                client, _address = listener.accept()
            except OSError:
                return
            pair = (client, self._connect())
            self._pairs.append(pair)
            threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(client, server):
        other = {client: server, server: client}
        with client, server, contextlib.suppress(OSError):
            while True:
                for end in select.select([client, server], [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    other[end].sendall(data)


@tagged("post_install", "-at_install")
class TestControlPlaneAway(KernelCase):
    def test_no_line_is_lost_or_doubled_while_postgresql_cannot_be_reached(self):
        # Rule: R-17
        server = self.connection.info
        proxy = Proxy(server.host, server.port)
        self.addCleanup(proxy.cut)
        parts = {"user": server.user, "host": "127.0.0.1", "port": proxy.port}
        if server.password:
            parts["password"] = server.password
        self.start_worker("--dsn", make_dsn(self.dsn, **parts), "--runs-dsn", self.dsn)
        run_id = self.queue(
            self.make_workflow(
                labels=[self.slug],
                steps=[
                    {
                        "name": "Count",
                        "run": "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i;"
                        " sleep 0.02; done",
                    }
                ],
            )
        )
        for moment in (30, 120, 200):
            wait_for(lambda moment=moment: f"line {moment}" in self.messages(run_id))
            proxy.cut()
            time.sleep(1.5)
            proxy.open()
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual(row["status"], "succeeded", row)
        lines = [message for message in self.messages(run_id) if message.startswith("line ")]
        self.assertEqual(lines, [f"line {number}" for number in range(1, 301)])
        times = self.query(
            "SELECT timestamp FROM ops_run_log WHERE run_id = %s AND message LIKE 'line %%'"
            " ORDER BY seq",
            run_id,
        )
        self.assertEqual(times, sorted(times))
        # The time of the source, not of the arrival: no gap where the connection was cut.
        pairs = zip(times, times[1:], strict=False)
        gaps = sorted((after[0] - before[0]).total_seconds() for before, after in pairs)
        self.assertLess(gaps[-2], 1.2)

    def test_a_log_that_is_too_long_is_cut_with_a_line_that_says_so_and_the_run_goes_on(self):
        self.start_worker("--log-limit-mb=1")
        run_id = self.queue(
            self.make_workflow(
                labels=[self.slug],
                steps=[
                    {"name": "Chatter", "run": "yes 'a line that is printed again' | head -60000"},
                    {"name": "After", "run": "echo not kept; exit 3"},
                ],
            )
        )
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual((row["status"], row["exit_code"]), ("failed", 3))
        messages = self.messages(run_id)
        cut = [number for number, text in enumerate(messages) if "The log is cut here" in text]
        self.assertEqual(len(cut), 1)
        kept = sum(len(text) + 1 for text in messages[1 : cut[0]])
        self.assertLess(abs(kept - (1 << 20)), 300_000)
        self.assertNotIn("not kept", messages)
        self.assertIn("Step After ended with exit code 3", messages[-1])
        self.assertTrue(all("again" not in text for text in messages[cut[0] :]))


class SlowServer:
    """Stands in for append_run_logs: away until it is told otherwise. ``lenient``: lines that are
    there already are passed over, as the kernel does it."""

    def __init__(self):
        self.rows = []
        self.away = True
        self.lenient = False

    def append_run_logs(self, run_id, epoch, first_seq, lines):
        if self.away:
            raise ControlPlaneUnavailable("away")
        known = len(self.rows) + 1 - first_seq
        assert known == 0 or (known > 0 and self.lenient), "a gap, or a line sent twice"
        self.rows += list(lines)[known:]
        return {"next_seq": len(self.rows) + 1}


class TestBounds(FolderCase):
    def setUp(self):
        super().setUp()
        self.server = SlowServer()
        self.log = RunLog(self.server, 1, 1, self.folder, 1, limits=LogLimits(1 << 30, 1 << 20))
        self.log.start()
        self.addCleanup(self.log.close)

    def write_numbers(self, first, count):
        for start in range(first, first + count, 1000):
            numbers = range(start, min(start + 1000, first + count))
            self.log.write([LogLine(start, "info", f"line {number}") for number in numbers])

    def spool_size(self):
        return sum(path.stat().st_size for path in self.folder.glob("log.spool-*"))

    def flush(self):
        until = time.monotonic() + 30
        self.assertTrue(self.log.flush(lambda: time.monotonic() > until))

    def test_what_waits_on_disk_is_bounded_and_a_marker_counts_what_is_left_out(self):
        # Rule: R-17
        self.write_numbers(0, 50_000)
        self.assertLess(self.spool_size(), 1.3 * (1 << 20))
        self.server.away = False
        wait_for(lambda: self.log._acknowledged_seq == self.log._written_seq)
        self.write_numbers(50_000, 10)
        self.flush()
        messages = [row["message"] for row in self.server.rows]
        markers = [row for row in self.server.rows if row["metadata"].get("marker") == "left_out"]
        self.assertEqual(len(markers), 1)
        left_out = markers[0]["metadata"]["lines"]
        self.assertGreater(left_out, 1000)
        self.assertEqual(len(messages) - 1 + left_out, 50_010)
        at = self.server.rows.index(markers[0])
        expected = [f"line {number}" for number in (*range(at), *range(at + left_out, 50_010))]
        self.assertEqual(messages[:at] + messages[at + 1 :], expected)
        text = gzip.decompress(self.log.finish().read_bytes()).decode()
        complete = [line.rpartition("\t")[2] for line in text.splitlines()]
        self.assertEqual(complete, [f"line {number}" for number in range(50_010)])

    def test_lines_left_out_at_the_very_end_are_marked_too(self):
        self.write_numbers(0, 50_000)
        self.server.away = False
        self.flush()
        self.assertIn("lines are left out here", self.server.rows[-1]["message"])

    def test_the_spool_stays_in_proportion_to_what_waits(self):
        self.server.away = False
        for start in range(0, 200_000, 2000):
            self.write_numbers(start, 2000)
            wait_for(lambda: self.log._acknowledged_seq == self.log._written_seq)
            self.assertLess(self.spool_size(), SPOOL_KEEP_BYTES + SEGMENT_BYTES + (2 << 20))
        self.assertEqual(
            [row["message"] for row in self.server.rows], [f"line {n}" for n in range(200_000)]
        )
