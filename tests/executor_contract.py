"""What every executor must do: the tests of ``executors.base.Executor``, and how they start one."""

import hashlib
import json
import os
import signal
import time

from odoo.addons.odooops.worker.executors.base import ExecutorError, Limits, ProcessSpec

from .worker_common import wait_for


def running(marker):
    """Processes with ``marker`` among their arguments, those in containers too."""
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


def resident_kilobytes():
    """Memory of this process."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


class ExecutorCase:
    """Starts processes with ``self.executor``. A subclass gives ``make_executor``."""

    #: Environment every process gets.
    env = {"PATH": os.environ["PATH"], "MARKER": "present"}
    sandbox = None

    def setUp(self):
        super().setUp()
        self.executor = self.make_executor()
        self.count = 0

    def start(
        self, script, timeout=None, lease=60.0, grace=1.0, argv=None, limits=None, **more_env
    ):
        self.count += 1
        spec = ProcessSpec(
            argv=argv or ["/bin/sh", "-e", "-c", script],
            cwd=self.folder,
            env={**self.env, **more_env},
            lease_deadline=time.monotonic() + lease,
            timeout=timeout,
            grace=grace,
            limits=limits or Limits(),
            sandbox=self.sandbox,
        )
        handle = self.executor.start(spec, self.folder / f"process-{self.count}")
        self.addCleanup(self.executor.cleanup, handle)
        return handle

    def finish(self, handle, seconds=30, executor=None):
        """Status and output (bytes per stream) of the process at its end."""
        executor = executor or self.executor
        output, offset, status = {"stdout": bytearray(), "stderr": bytearray()}, 0, None
        until = time.monotonic() + seconds
        while True:
            status = status or executor.poll(handle)
            chunks, offset = executor.read_output(handle, offset)
            for chunk in chunks:
                output[chunk.stream] += chunk.data
            if chunks:
                continue
            if status:
                return status, output
            self.assertLess(time.monotonic(), until, "It did not end in time.")
            time.sleep(0.01)

    def read_all(self, handle, offset=0, executor=None):
        """All chunks from ``offset`` to the end of a process that ends by itself."""
        executor = executor or self.executor
        wait_for(lambda: executor.poll(handle))
        found = []
        while True:
            chunks, offset = executor.read_output(handle, offset)
            if not chunks:
                return found
            found += chunks

    def wait_output(self, handle, text):
        wait_for(lambda: any(text in c.data for c in self.executor.read_output(handle, 0)[0]))


class ExecutorContract(ExecutorCase):
    """The contract itself."""

    def test_exit_code_streams_and_environment(self):
        status, output = self.finish(
            self.start("echo out; echo err >&2; echo $MARKER; env; exit 7")
        )
        self.assertEqual((status.reason, status.exit_code, status.shell_code), ("exited", 7, 7))
        self.assertTrue(output["stdout"].startswith(b"out\npresent\n"))
        self.assertEqual(output["stderr"], b"err\n")
        self.assertNotIn(b"PGHOST", output["stdout"])

    def test_binary_output_passes_unchanged(self):
        data = bytes(range(256)) * 4096
        (self.folder / "data").write_bytes(data)
        _status, output = self.finish(self.start("cat data; cat data >&2"))
        self.assertEqual((output["stdout"], output["stderr"]), (data, data))

    def test_a_line_of_ten_megabytes_and_nul_bytes_pass(self):
        status, output = self.finish(self.start("head -c 10000000 /dev/zero; echo end"))
        self.assertEqual(status.exit_code, 0)
        # An engine may lose the line end of a very long line when it is the last.
        self.assertEqual(output["stdout"].removesuffix(b"\n"), b"\0" * 10_000_000 + b"end")

    def test_lines_after_a_long_line_begin_where_they_should(self):
        script = "for i in 1 2; do head -c 40000 /dev/zero | tr '\\0' q; echo; echo $i; done"
        _status, output = self.finish(self.start(script))
        long_line = b"q" * 40000
        self.assertEqual(output["stdout"], b"".join(long_line + b"\n%d\n" % i for i in (1, 2)))

    def test_output_is_readable_from_an_offset_while_it_runs(self):
        os.mkfifo(self.folder / "fifo")
        handle = self.start("echo one; read line < fifo; echo two")
        self.wait_output(handle, b"one\n")
        self.assertIsNone(self.executor.poll(handle))
        chunks, offset = wait_for(lambda: (r := self.executor.read_output(handle, 0))[0] and r)
        self.assertEqual(b"".join(chunk.data for chunk in chunks), b"one\n")
        self.assertLess(abs(chunks[0].timestamp / 1e6 - time.time()), 20)
        self.assertEqual(self.executor.read_output(handle, offset), ([], offset))
        (self.folder / "fifo").write_text("go on\n")
        chunks = self.read_all(handle, offset)
        self.assertEqual(b"".join(chunk.data for chunk in chunks), b"two\n")

    def test_a_signal_from_elsewhere_is_told(self):
        status, _output = self.finish(self.start("kill -SEGV $$"))
        self.assertEqual((status.reason, status.exit_code), ("exited", None))
        self.assertEqual((status.signal, status.shell_code), (signal.SIGSEGV, 128 + signal.SIGSEGV))

    def test_a_program_that_does_not_exist_is_told(self):
        status, _output = self.finish(self.start("", argv=["/no/such/program"]))
        self.assertEqual(status.reason, "not_started")
        self.assertIn("could not be started", status.error)

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
        handle = self.start("setsid sleep 71237 & sleep 71237", lease=4.0)
        # A busy engine may take a second to start a container: the lease is longer than that.
        for _beat in range(10):
            time.sleep(0.5)
            self.executor.renew(handle, time.monotonic() + 3.0)
        self.assertIsNone(self.executor.poll(handle))
        status, _output = self.finish(handle, 8)
        self.assertEqual(status.reason, "lease")
        self.assertEqual(running("71237"), [])

    def test_another_process_can_adopt_and_follow_it(self):
        handle = self.start("echo one; sleep 0.5; echo two; exit 4")
        other = self.make_executor()
        adopted = other.adopt(handle.to_dict())
        status, output = self.finish(adopted, executor=other)
        self.assertEqual((status.exit_code, output["stdout"]), (4, b"one\ntwo\n"))

    def test_cleanup_kills_and_removes_everything_and_may_be_repeated(self):
        handle = self.start("sleep 71238")
        wait_for(lambda: running("71238"))
        self.executor.cleanup(handle)
        self.executor.cleanup(handle)
        self.assertEqual(running("71238"), [])
        self.assertFalse(handle.directory.exists())

    def test_the_order_within_a_stream_and_the_time_of_each_chunk_are_kept(self):
        script = "for i in 1 2 3 4 5 6; do echo out $i; echo err $i >&2; sleep 0.1; done"
        chunks = self.read_all(self.start(script))
        for stream in ("stdout", "stderr"):
            text = b"".join(chunk.data for chunk in chunks if chunk.stream == stream)
            word = stream[3:].encode()
            self.assertEqual(text, b"".join(b"%s %d\n" % (word, i) for i in range(1, 7)))
        # Two pipes have no common order; what lies a tenth of a second apart comes in order.
        self.assertEqual(
            [int(chunk.data.split()[1]) for chunk in chunks], [i // 2 + 1 for i in range(12)]
        )
        times = [chunk.timestamp for chunk in chunks if chunk.stream == "stdout"]
        self.assertEqual(times, sorted(times))
        self.assertGreater(times[-1] - times[0], 400_000)

    def test_an_unfinished_last_line_stays_unfinished(self):
        _status, output = self.finish(self.start("printf 'a\nb'; printf c >&2"))
        self.assertEqual((output["stdout"], output["stderr"]), (b"a\nb", b"c"))

    def test_every_common_exit_code_is_told(self):
        for code in (0, 1, 2, 77, 127):
            status, _output = self.finish(self.start(f"exit {code}"))
            self.assertEqual((status.reason, status.exit_code), ("exited", code))

    def test_death_by_signals_is_told(self):
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT):
            status, _output = self.finish(self.start(f"kill -{number.value} $$"))
            self.assertEqual((status.reason, status.shell_code), ("exited", 128 + number))

    def test_a_hundred_megabytes_pass_with_bounded_memory(self):
        before = resident_kilobytes()
        line = b"x" * 99 + b"\n"
        handle = self.start("yes " + "x" * 99 + " | head -c 100000000")
        digest, size, offset, peak, status = hashlib.sha256(), 0, 0, 0, None
        while True:
            status = status or self.executor.poll(handle)
            chunks, offset = self.executor.read_output(handle, offset)
            for chunk in chunks:
                digest.update(chunk.data)
                size += len(chunk.data)
            peak = max(peak, resident_kilobytes())
            if status and not chunks:
                break
            if not chunks:
                time.sleep(0.005)
        self.assertEqual((status.exit_code, size), (0, 100_000_000))
        self.assertEqual(digest.hexdigest(), hashlib.sha256(line * 1_000_000).hexdigest())
        self.assertLess(peak - before, 64 * 1024)

    def test_adoption_continues_the_output_without_gap_or_repetition(self):
        script = (
            "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; [ $i -ne 200 ] || sleep 1; done"
        )
        handle = self.start(script)
        chunks, offset = wait_for(lambda: (r := self.executor.read_output(handle, 0, 256))[0] and r)
        first = b"".join(chunk.data for chunk in chunks)
        other = self.make_executor()
        adopted = other.adopt(json.loads(json.dumps(handle.to_dict())))
        rest = self.read_all(adopted, offset, other)
        text = first + b"".join(chunk.data for chunk in rest)
        self.assertEqual(text, b"".join(b"%d\n" % i for i in range(1, 401)))

    def test_a_fork_bomb_ends_at_its_limit(self):
        script = "i=0; while [ $i -lt 300 ]; do sleep 71241 & i=$((i+1)); done; echo never; wait"
        status, _output = self.finish(self.start(script, limits=Limits(processes=40)), 40)
        self.assertIn(status.reason, ("process_limit", "exited"))
        self.assertNotEqual(status.shell_code, 0)
        wait_for(lambda: not running("71241"), 5)

    def test_more_output_than_allowed_ends_it(self):
        limits = Limits(output=1_000_000)
        status, output = self.finish(self.start("yes " + "y" * 2000, limits=limits))
        self.assertEqual(status.reason, "output_limit")
        self.assertLessEqual(len(output["stdout"]), 1_000_000)
        self.assertGreater(len(output["stdout"]), 800_000)

    def test_the_whole_environment_is_what_was_given(self):
        _status, output = self.finish(self.start("env"))
        self.assertIn(b"MARKER=present", output["stdout"].splitlines())
        for name in ("USER", "LOGNAME", "ODOOOPS_DSN", "PGPASSWORD", "ODOOOPS_REQUIRE"):
            self.assertNotIn(f"{name}=".encode(), output["stdout"])

    def test_a_directory_without_records_cannot_be_adopted(self):
        handle = self.start("sleep 71242")
        data = handle.to_dict()
        self.executor.cleanup(handle)
        with self.assertRaises(ExecutorError):
            self.make_executor().adopt(data)
