"""The contract of executors, with real processes: output, all kinds of ends, no leftovers."""

import os
import shutil
import signal
import subprocess
import sys
import time

from odoo.addons.odooops.worker.executors.base import ExecutorError, ProcessSpec
from odoo.addons.odooops.worker.executors.process import ProcessExecutor, kill_marked

from .worker_common import FolderCase, wait_for


def running(marker):
    """Processes with ``marker`` among their arguments."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if marker.encode() in file.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue
    return found


class ExecutorContract:
    """What every executor must do. A subclass gives ``make_executor``."""

    def setUp(self):
        super().setUp()
        self.executor = self.make_executor()
        self.count = 0

    def start(self, script, timeout=None, lease=60.0, grace=1.0, argv=None):
        self.count += 1
        spec = ProcessSpec(
            argv=argv or ["/bin/sh", "-e", "-c", script],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "MARKER": "present"},
            lease_deadline=time.monotonic() + lease,
            timeout=timeout,
            grace=grace,
        )
        handle = self.executor.start(spec, self.folder / f"process-{self.count}")
        self.addCleanup(self.executor.cleanup, handle)
        return handle

    def finish(self, handle, seconds=20):
        """Status and output (bytes per stream) of the process at its end."""
        status = wait_for(lambda: self.executor.poll(handle), seconds)
        output, offset = {"stdout": bytearray(), "stderr": bytearray()}, 0
        while True:
            chunks, offset = self.executor.read_output(handle, offset)
            if not chunks:
                return status, output
            for chunk in chunks:
                output[chunk.stream] += chunk.data

    def wait_output(self, handle, text):
        wait_for(lambda: any(text in c.data for c in self.executor.read_output(handle, 0)[0]))

    def test_exit_code_streams_and_environment(self):
        status, output = self.finish(
            self.start("echo out; echo err >&2; echo $MARKER; env; exit 7")
        )
        self.assertEqual((status.reason, status.exit_code, status.shell_code), ("exited", 7, 7))
        self.assertTrue(output["stdout"].startswith(b"out\npresent\n"))
        self.assertEqual(output["stderr"], b"err\n")
        for name in (b"PGHOST", b"HOME="):
            self.assertNotIn(name, output["stdout"])

    def test_binary_output_passes_unchanged(self):
        data = bytes(range(256)) * 4096
        (self.folder / "data").write_bytes(data)
        _status, output = self.finish(self.start("cat data; cat data >&2"))
        self.assertEqual((output["stdout"], output["stderr"]), (data, data))

    def test_a_line_of_ten_megabytes_and_nul_bytes_pass(self):
        status, output = self.finish(self.start("head -c 10000000 /dev/zero; echo end"))
        self.assertEqual(status.exit_code, 0)
        self.assertEqual(output["stdout"], b"\0" * 10_000_000 + b"end\n")

    def test_output_is_readable_from_an_offset_while_it_runs(self):
        os.mkfifo(self.folder / "fifo")
        handle = self.start("echo one; read line < fifo; echo two")
        self.wait_output(handle, b"one\n")
        self.assertIsNone(self.executor.poll(handle))
        chunks, offset = self.executor.read_output(handle, 0)
        self.assertEqual(b"".join(chunk.data for chunk in chunks), b"one\n")
        self.assertLess(abs(chunks[0].timestamp / 1e6 - time.time()), 20)
        self.assertEqual(self.executor.read_output(handle, offset), ([], offset))
        (self.folder / "fifo").write_text("go on\n")
        wait_for(lambda: self.executor.poll(handle))
        chunks, _end = self.executor.read_output(handle, offset)
        self.assertEqual(b"".join(chunk.data for chunk in chunks), b"two\n")

    def test_a_signal_from_elsewhere_is_told(self):
        status, _output = self.finish(self.start("kill -SEGV $$"))
        self.assertEqual((status.reason, status.exit_code), ("exited", None))
        self.assertEqual((status.signal, status.shell_code), (signal.SIGSEGV, 128 + signal.SIGSEGV))

    def test_a_program_that_does_not_exist_is_told(self):
        status, _output = self.finish(self.start("", argv=["/no/such/program"]))
        self.assertEqual(status.reason, "not_started")
        self.assertIn("/no/such/program could not be started", status.error)

    def test_stop_lets_a_program_end_by_itself(self):
        handle = self.start("trap 'echo bye; exit 3' INT; echo ready; while :; do sleep 0.05; done")
        self.wait_output(handle, b"ready")
        self.executor.stop(handle, 10)
        status, output = self.finish(handle)
        self.assertEqual((status.reason, status.exit_code), ("stopped", 3))
        self.assertIn(b"bye", output["stdout"])

    def test_a_program_that_ignores_signals_is_killed_after_the_grace(self):
        handle = self.start("trap '' INT TERM; echo ready; while :; do sleep 0.05; done")
        self.wait_output(handle, b"ready")
        began = time.monotonic()
        self.executor.stop(handle, 0.6)
        status, _output = self.finish(handle)
        self.assertEqual((status.reason, status.signal), ("stopped", signal.SIGKILL))
        self.assertGreater(time.monotonic() - began, 0.5)

    def test_stopping_right_after_the_start_works_too(self):
        handle = self.start("sleep 30")
        self.executor.stop(handle, 0)
        status, _output = self.finish(handle)
        self.assertEqual(status.reason, "stopped")

    def test_children_in_sessions_of_their_own_end_with_the_process(self):
        for script in (
            "setsid sleep 71234 & exit 0",
            "(setsid setsid sh -c 'trap \"\" TERM HUP; sleep 71234; sleep 71234' &); exit 0",
        ):
            status, _output = self.finish(self.start(script))
            self.assertEqual(status.exit_code, 0)
            self.assertEqual(running("71234"), [])

    def test_stop_reaches_children_in_sessions_of_their_own(self):
        handle = self.start("setsid sleep 71235 & echo ready; sleep 71235")
        self.wait_output(handle, b"ready")
        self.executor.stop(handle, 0.5)
        self.finish(handle)
        self.assertEqual(running("71235"), [])

    def test_a_timeout_ends_it(self):
        status, _output = self.finish(self.start("echo x; sleep 71236", timeout=0.5, grace=0.5))
        self.assertEqual(status.reason, "timeout")
        self.assertEqual(running("71236"), [])

    def test_without_renewal_the_lease_deadline_ends_it(self):
        handle = self.start("setsid sleep 71237 & sleep 71237", lease=1.0)
        for _beat in range(5):
            time.sleep(0.3)
            self.executor.renew(handle, time.monotonic() + 1.0)
        self.assertIsNone(self.executor.poll(handle))
        status, _output = self.finish(handle, 5)
        self.assertEqual(status.reason, "lease")
        self.assertEqual(running("71237"), [])

    def test_another_process_can_adopt_and_follow_it(self):
        handle = self.start("echo one; sleep 0.5; echo two; exit 4")
        other = self.make_executor()
        adopted = other.adopt(handle.to_dict())
        status = wait_for(lambda: other.poll(adopted), 10)
        self.assertEqual(status.exit_code, 4)
        chunks, _offset = other.read_output(adopted, 0)
        self.assertEqual(b"".join(chunk.data for chunk in chunks), b"one\ntwo\n")

    def test_cleanup_kills_and_removes_everything_and_may_be_repeated(self):
        handle = self.start("sleep 71238")
        wait_for(lambda: running("71238"))
        self.executor.cleanup(handle)
        self.executor.cleanup(handle)
        self.assertEqual(running("71238"), [])
        self.assertFalse(handle.directory.exists())


class TestProcessExecutor(ExecutorContract, FolderCase):
    def make_executor(self):
        return ProcessExecutor(allow=True)

    def test_it_refuses_to_exist_without_the_operators_consent(self):
        with self.assertRaisesRegex(ExecutorError, "--allow-process"):
            ProcessExecutor(allow=False)

    def test_the_process_outlives_its_worker_until_the_lease_ends(self):
        code = (
            "import sys, time; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path\n"
            "from worker.executors.base import ProcessSpec\n"
            "from worker.executors.process import ProcessExecutor\n"
            "folder = Path(sys.argv[2])\n"
            "spec = ProcessSpec(['sleep', '71239'], folder, {}, time.monotonic() + 2)\n"
            "handle = ProcessExecutor(True).start(spec, folder / 'p')\n"
            "print(handle.pid, flush=True)\n"
            "time.sleep(60)\n"
        )
        from .worker_common import ADDON

        argv = [sys.executable, "-c", code, str(ADDON), str(self.folder)]
        worker = subprocess.Popen(argv, stdout=subprocess.PIPE)
        worker.stdout.readline()
        wait_for(lambda: running("71239"))
        worker.kill()
        worker.wait()
        worker.stdout.close()
        time.sleep(0.5)
        self.assertTrue(running("71239"), "It died with its worker.")
        wait_for(lambda: not running("71239"), 5)
        wait_for((self.folder / "p" / "status.json").exists, 5)

    def test_what_a_killed_supervisor_leaves_is_found_by_its_mark(self):
        handle = self.start("setsid sleep 71240 & sleep 71240")
        wait_for(lambda: len(running("71240")) == 2)
        os.kill(handle.pid, signal.SIGKILL)
        status, _output = self.finish(handle)
        self.assertEqual(status.reason, "lost")
        kill_marked(handle.directory)
        wait_for(lambda: not running("71240"), 5)

    def test_secrets_do_not_stay_on_disk(self):
        handle = self.start("echo ready; sleep 30")
        self.wait_output(handle, b"ready")
        self.assertFalse((handle.directory / "spec.json").exists())
        self.assertEqual(handle.directory.stat().st_mode & 0o777, 0o700)

    def test_a_full_disk_is_told_and_ends_the_process(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("There is no /dev/full here.")
        directory = self.folder / "process-1"
        original = ProcessExecutor._write

        def write(path, content):
            original(path, content)
            if path.name == "spec.json":
                (directory / "output").symlink_to("/dev/full")

        self.executor._write = write
        handle = self.start("while :; do echo x; done")
        status = wait_for(lambda: self.executor.poll(handle))
        self.assertEqual(status.reason, "disk_full")
        self.assertTrue(shutil.disk_usage(self.folder).free)
