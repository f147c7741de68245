"""The executor of local processes: what it does beyond the contract (test_executors_contract)."""

import os
import shutil
import signal
import subprocess
import sys
import time
import unittest.mock

from odoo.addons.odooops.worker.executors import process
from odoo.addons.odooops.worker.executors.base import ExecutorError, Limits
from odoo.addons.odooops.worker.executors.process import ProcessExecutor, kill_marked

from .executor_contract import ExecutorCase, running
from .worker_common import FolderCase, wait_for


class TestProcessExecutor(ExecutorCase, FolderCase):
    def make_executor(self):
        return ProcessExecutor(allow=True)

    def test_it_refuses_to_exist_without_the_operators_consent(self):
        # Rule: R-29
        with self.assertRaisesRegex(ExecutorError, "--allow-process"):
            ProcessExecutor(allow=False)

    def test_the_process_outlives_its_worker_until_the_lease_ends(self):
        # Rule: R-06
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

    def test_limits_of_the_system_are_set(self):
        limits = Limits(open_files=123, file_size=4096)
        script = "ulimit -n; ulimit -c; head -c 9999 /dev/zero > big; echo never"
        status, output = self.finish(self.start(script, limits=limits))
        self.assertEqual(output["stdout"], b"123\n0\n")
        self.assertEqual((self.folder / "big").stat().st_size, 4096)
        self.assertEqual(status.shell_code, 128 + signal.SIGXFSZ)

    def test_secrets_do_not_stay_on_disk(self):
        handle = self.start("echo ready; sleep 30")
        self.wait_output(handle, b"ready")
        self.assertFalse((handle.directory / "spec.json").exists())
        self.assertEqual(handle.directory.stat().st_mode & 0o777, 0o700)

    def test_a_full_disk_is_told_and_ends_the_process(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("There is no /dev/full here.")
        directory = self.folder / "process-1"
        original = process.write_private

        def write(path, content):
            original(path, content)
            if path.name == "spec.json":
                (directory / "output").symlink_to("/dev/full")

        with unittest.mock.patch.object(process, "write_private", write):
            handle = self.start("while :; do echo x; done")
        status = wait_for(lambda: self.executor.poll(handle))
        self.assertEqual(status.reason, "disk_full")
        self.assertTrue(shutil.disk_usage(self.folder).free)
