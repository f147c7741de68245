"""Whether memory ran out is read from control groups of both versions, as the kernel writes them.

A machine has one version, so the files of the other one are put into the places where the programs
look, in mounts and process ids of their own. What no file can show: that the kernel counts.
"""

import os
import shutil
import subprocess
import sys
import time
import unittest

import docker

from odoo.addons.odooops.worker.executors import supervisor
from odoo.addons.odooops.worker.executors.base import ExecutorError, Limits, ProcessSpec, Sandbox
from odoo.addons.odooops.worker.executors.docker import DockerExecutor

from .docker_engine import IMAGE, OwnEngine, import_image, need_engine
from .worker_common import ADDON, FolderCase, wait_for

V1_COUNT = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2_COUNT = "low 0\nhigh 0\nmax 12\noom 1\noom_kill {}\noom_group_kill 0\n"
#: Name → lines of /proc/self/cgroup; path below /sys/fs/cgroup for a process of the worker, and for
#: one in a container, which sees its own group as the root; what the file there says.
LAYOUTS = {
    "version 1": (
        "9:name=systemd:/worker\n4:memory:/worker\n1:cpu,cpuacct:/\n",
        ("memory/worker/memory.oom_control", "memory/memory.oom_control"),
        V1_COUNT,
    ),
    "version 2": (
        "0::/system.slice/worker.service\n",
        ("system.slice/worker.service/memory.events", "memory.events"),
        V2_COUNT,
    ),
    # Version 2 is mounted without the controller, which version 1 has.
    "both": (
        "0::/worker\n4:memory:/worker\n",
        ("memory/worker/memory.oom_control", "memory/memory.oom_control"),
        V1_COUNT,
    ),
}
SETUP = """
set -e
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$(dirname "$COUNT_FILE")"
cp "$FOLDER/count" "/sys/fs/cgroup/$COUNT_FILE"
mount --bind "$FOLDER/groups" /proc/$$/cgroup
"""
RUN = """
mount -t tmpfs tmpfs /run
mkdir -p /run/odooops/control /run/odooops/end
mount --bind "$FOLDER/end" /run/odooops/end
echo 999999999999 >/run/odooops/control/lease
"""


@unittest.skipUnless(os.geteuid() == 0, "Only root may mount something.")
class TestControlGroups(FolderCase):
    def inside(self, layout, number, place, script, *argv):
        """Run a script of a shell that finds the files of a layout; return its output."""
        groups, places, count = LAYOUTS[layout]
        (self.folder / "end").mkdir(exist_ok=True)
        (self.folder / "groups").write_text(groups)
        (self.folder / "count").write_text(count.format(number))
        facts = {"FOLDER": str(self.folder), "COUNT_FILE": places[place]}
        done = subprocess.run(
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "sh",
                "-c",
                script,
                "sh",
                *argv,
            ],
            env={**os.environ, **facts},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.stderr, "")
        return done.stdout.strip()

    def test_the_supervisor_of_a_process_counts(self):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); import supervisor;"
            " print(supervisor._oom_kills())"
        )
        folder = os.path.dirname(supervisor.__file__)
        for layout in LAYOUTS:
            for number in (0, 3):
                with self.subTest(layout=layout, number=number):
                    script = f'{SETUP}exec "$@"'
                    said = self.inside(
                        layout, number, 0, script, sys.executable, "-c", code, folder
                    )
                    self.assertEqual(said, str(number))

    def test_pid_1_of_a_container_tells(self):
        program = (ADDON / "worker" / "executors" / "container_init.sh").read_text()
        told = self.folder / "end" / "oom"
        for layout in LAYOUTS:
            for number in (0, 1):
                with self.subTest(layout=layout, number=number):
                    told.unlink(missing_ok=True)
                    script = f'{SETUP}{RUN}exec sh -c "$1" odooops "" 0 "" "" "" sh -c "exit 137"'
                    self.inside(layout, number, 1, script, program)
                    self.assertEqual((self.folder / "end" / "reason").read_text(), "exited\n")
                    self.assertEqual(told.exists(), number > 0)


#: Executes a command where version 2 is mounted alone.
VERSION_2 = 'umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'


class TestEngineWithVersion2(FolderCase):
    """A real engine that finds version 2 only, with the controllers that version 1 has left."""

    def setUp(self):
        super().setUp()
        if not need_engine().own:
            self.skipTest("Only root starts an engine of its own.")
        self.own = OwnEngine(["unshare", "--mount", "sh", "-c", VERSION_2, "sh"])
        self.addCleanup(self.own.remove)
        self.own.start()
        client = docker.APIClient(self.own.host, version="auto")
        self.info = client.info()
        self.assertEqual(self.info["CgroupVersion"], "2")
        import_image(client, IMAGE, shutil.which("busybox"))
        self.executor = DockerExecutor(self.own.host)

    def start(self, script, **limits):
        spec = ProcessSpec(
            argv=["sh", "-c", script],
            cwd=self.folder,
            env={},
            lease_deadline=time.monotonic() + 60,
            timeout=50,
            grace=1,
            limits=Limits(**limits),
            sandbox=Sandbox(IMAGE, folders=[self.folder]),
        )
        handle = self.executor.start(spec, self.folder / "process")
        self.addCleanup(self.executor.cleanup, handle)
        return handle

    def test_a_step_runs_and_is_stopped(self):
        handle = self.start("touch begun; trap 'exit 7' INT; while :; do sleep 0.1; done")
        wait_for((self.folder / "begun").exists)
        self.executor.stop(handle, 5.0)
        status = wait_for(lambda: self.executor.poll(handle))
        self.assertEqual((status.reason, status.exit_code), ("stopped", 7), status)
        self.assertFalse(status.out_of_memory)

    def test_a_limit_of_memory_is_kept_and_told_or_refused(self):
        if not self.info["MemoryLimit"]:
            with self.assertRaisesRegex(ExecutorError, r"memory: .*\(version 2\) lack"):
                self.start("true", memory=32 << 20)
            return
        handle = self.start("tail -c 300m /dev/zero", memory=32 << 20)
        status = wait_for(lambda: self.executor.poll(handle))
        self.assertTrue(status.out_of_memory, status)
