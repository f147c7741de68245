"""The contract of executors, with real processes and a real Docker engine."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import docker

from odoo.addons.odooops.worker.executors.base import ExecutorError, Limits, Relay, Sandbox
from odoo.addons.odooops.worker.executors.docker import (
    LABEL_CONTROL_PLANE,
    LABEL_EPOCH,
    LABEL_RUN,
    DockerExecutor,
)
from odoo.addons.odooops.worker.executors.docker_inside import NOT_STARTED, listens
from odoo.addons.odooops.worker.executors.process import ProcessExecutor

from .docker_engine import IMAGE, need_engine
from .executor_contract import ExecutorCase, ExecutorContract, running
from .worker_common import ADDON, FolderCase, wait_for


class TestProcessExecutorContract(ExecutorContract, FolderCase):
    def make_executor(self):
        return ProcessExecutor(allow=True)


class DockerCase(ExecutorCase):
    env = {"MARKER": "present"}

    def setUp(self):
        self.engine = need_engine()
        super().setUp()
        image = self.executor.resolve(IMAGE, None)
        self.labels = {LABEL_CONTROL_PLANE: self.folder.name, LABEL_RUN: "7", LABEL_EPOCH: "1"}
        self.sandbox = Sandbox(image.id, [self.folder], labels=self.labels)

    def make_executor(self):
        return DockerExecutor(self.engine.host)

    def change(self, **values):
        self.sandbox = Sandbox(
            **{"image": self.sandbox.image, "folders": [self.folder], "labels": self.labels}
            | values
        )

    def inspect(self, handle):
        return self.engine.client.inspect_container(handle.container)


class TestDockerExecutorContract(DockerCase, ExecutorContract, FolderCase):
    pass


class TestDockerExecutor(DockerCase, FolderCase):
    def test_a_container_has_nothing_but_what_it_was_given(self):
        # Rule: R-30
        script = (
            "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status;"
            "touch /root-is-writable 2>&1 || true; touch /tmp/x && echo tmp;"
            "ls /sys/class/net; ls /var/run/docker.sock 2>&1 || true; echo file > made"
        )
        status, output = self.finish(self.start(script, limits=Limits(memory=64 << 20, cpus=0.5)))
        text = output["stdout"].decode()
        self.assertEqual(status.exit_code, 0, output)
        lines = text.splitlines()
        self.assertEqual(lines[0], str(os.getuid()))
        self.assertRegex(text, r"CapEff:\t0+\n")
        self.assertRegex(text, r"CapBnd:\t0+\n")
        self.assertRegex(text, r"NoNewPrivs:\t1\n")
        self.assertIn("Read-only file system", text)
        self.assertIn("tmp", lines)
        self.assertIn("lo", lines)
        self.assertNotIn("eth0", lines)
        self.assertIn("No such file", lines[-1])
        self.assertEqual((self.folder / "made").stat().st_uid, os.getuid())

    def test_only_a_server_the_worker_gave_is_reached_and_nothing_that_variables_name(self):
        self.change(relays=[Relay("127.0.0.1", "9"), Relay("/run/other", "8", "OTHER_")])
        given = {"PGHOST": "127.0.0.1", "PGPORT": "9", "PGSSLMODE": "require"}
        given |= {"OTHER_PGHOST": "/run/other", "OTHER_PGPORT": "8"}
        script = "echo $PGHOST:$PGPORT:$PGSSLMODE $OTHER_PGHOST; ls -A /run/odooops/*"
        _status, output = self.finish(self.start(script, **given))
        text = output["stdout"].decode()
        self.assertIn("/run/odooops/postgres:9: /run/odooops/postgres-1", text)
        self.assertIn(".s.PGSQL.9", text)
        self.assertIn(".s.PGSQL.8", text)
        for other in ({"PGPORT": "5432"}, {"PGHOST": "192.0.2.1"}):
            _status, output = self.finish(self.start(script, **{**given, **other}))
            self.assertNotIn(b".s.PGSQL.9", output["stdout"])
            self.assertIn(f"{other.get('PGHOST', '127.0.0.1')}:", output["stdout"].decode())

    def test_one_that_joins_another_shares_its_loopback_and_names_and_nothing_else(self):
        self.change(names=["server"])
        server = self.start("httpd -f -p 8080 -h /bin & sleep 71248")
        question = listens(8080)
        wait_for(lambda: self.ask(server, question) == 0)
        self.assertEqual(self.ask(server, listens(80)), 1)
        self.assertEqual(self.ask(server, ["no-such-program"]), NOT_STARTED)
        self.change(joined=server.container, user="4711:4712")
        script = "id -u; id -g; wget -qO- http://server:8080/none 2>&1; ls /sys/class/net; ps"
        _status, output = self.finish(self.start(script))
        text = output["stdout"].decode()
        self.assertTrue(text.startswith("4711\n4712\n"), text)
        self.assertIn("404 Not Found", text)
        self.assertNotIn("eth0", text)
        self.assertNotIn("71248", text)

    def ask(self, handle, argv):
        inside = self.executor.run_inside(handle, argv)
        return wait_for(lambda: (code := inside.poll()) is not None and (code,))[0]

    def test_another_users_container_ends_with_its_lease_and_by_a_stop(self):
        self.change(user="4711:4711")
        ending = self.start("sleep 71249", lease=2.0)
        status, _output = self.finish(ending)
        self.assertEqual(status.reason, "lease")
        stopped = self.start("echo ready; sleep 71249")
        self.wait_output(stopped, b"ready")
        self.executor.stop(stopped, 2.0)
        status, _output = self.finish(stopped)
        self.assertEqual((status.reason, status.rung), ("stopped", "SIGINT"))
        self.assertEqual(running("71249"), [])

    def test_files_of_secrets_can_be_read_and_not_changed(self):
        folder = Path(tempfile.mkdtemp(prefix="odooops-test-", dir="/dev/shm"))
        self.addCleanup(shutil.rmtree, folder)
        (folder / "KEY").write_text("shown to the step")
        self.change(read_only_folders=[folder])
        status, output = self.finish(self.start(f"cat {folder}/KEY; echo x > {folder}/KEY"))
        self.assertEqual(output["stdout"], b"shown to the step")
        self.assertIn(b"Read-only", output["stderr"])
        self.assertNotEqual(status.exit_code, 0)

    def test_the_engine_was_told_all_limits(self):
        self.start("sleep 71250", limits=Limits(memory=64 << 20, cpus=0.5, processes=30))
        handle = self.executor.adopt(
            json.loads((self.folder / "process-1" / "handle.json").read_text())
        )
        config = self.inspect(handle)["HostConfig"]
        self.assertEqual(config["Memory"], 64 << 20)
        self.assertEqual(config["MemorySwap"], 64 << 20)
        self.assertEqual((config["NanoCpus"], config["PidsLimit"]), (500_000_000, 30))
        self.assertFalse(config["AutoRemove"] or config["Privileged"])
        self.assertEqual(config["NetworkMode"], "none")
        sources = {mount["Source"] for mount in self.inspect(handle)["Mounts"]}
        self.assertTrue(all(source.startswith(str(self.folder)) for source in sources), sources)

    def test_more_memory_than_allowed_is_told_as_such(self):
        if not self.engine.client.info()["MemoryLimit"]:
            self.skipTest("This kernel has no memory control group.")
        for script in ("tail -c 200m /dev/zero", "exec tail -c 200m /dev/zero"):
            status, _output = self.finish(self.start(script, limits=Limits(memory=24 << 20)))
            self.assertTrue(status.out_of_memory, status)
            self.assertEqual(status.shell_code, 137)

    def test_the_containers_own_count_tells_it_when_the_engine_does_not(self):
        if not self.engine.client.info()["MemoryLimit"]:
            self.skipTest("This kernel has no memory control group.")
        inspect = self.executor._client.inspect_container

        def forgetful(container):
            found = inspect(container)
            found["State"]["OOMKilled"] = False
            return found

        with patch.object(self.executor._client, "inspect_container", forgetful):
            script = "tail -c 200m /dev/zero; exit 3"
            status, _output = self.finish(self.start(script, limits=Limits(memory=24 << 20)))
            self.assertTrue(status.out_of_memory, status)
            status, _output = self.finish(self.start("exit 3", limits=Limits(memory=24 << 20)))
            self.assertFalse(status.out_of_memory, status)

    def test_a_limit_the_engine_cannot_keep_is_refused(self):
        for key, limits in (
            ("MemoryLimit", Limits(memory=24 << 20)),
            ("PidsLimit", Limits(processes=30)),
            ("CpuCfsQuota", Limits(cpus=0.5)),
        ):
            client, info = self.executor._engine
            told = {**info, key: False, "CgroupVersion": "2"}
            with (
                self.subTest(key),
                patch.object(self.executor, "_engine", (client, told)),
                self.assertRaisesRegex(ExecutorError, r"cannot limit .* \(version 2\)"),
            ):
                self.start("true", limits=limits)
        self.assertEqual(self.ours(), [])

    def test_the_lease_cannot_be_prolonged_from_inside(self):
        script = (
            "echo 99999999999 > /run/odooops/control/lease || echo refused;"
            "trap '' INT TERM; while :; do sleep 71251; done"
        )
        began = time.monotonic()
        status, output = self.finish(self.start(script, lease=2.0))
        self.assertEqual((status.reason, output["stdout"]), ("lease", b"refused\n"))
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(running("71251"), [])

    def test_a_container_outlives_its_worker_but_not_its_lease(self):
        # Rule: R-06
        code = (
            "import json, sys, time; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path\n"
            "from worker.executors.base import ProcessSpec, Sandbox\n"
            "from worker.executors.docker import DockerExecutor\n"
            "folder = Path(sys.argv[2])\n"
            "spec = ProcessSpec(['/bin/sh', '-c', 'echo hello; sleep 71252'], folder, {},"
            " time.monotonic() + 4, sandbox=Sandbox(sys.argv[4], [folder]))\n"
            "handle = DockerExecutor(sys.argv[3]).start(spec, folder / 'p')\n"
            "print(json.dumps(handle.to_dict()), flush=True)\n"
            "time.sleep(60)\n"
        )
        argv = [sys.executable, "-c", code, str(ADDON), str(self.folder), self.engine.host]
        worker = subprocess.Popen([*argv, self.sandbox.image], stdout=subprocess.PIPE)
        data = json.loads(worker.stdout.readline())
        wait_for(lambda: running("71252"))
        worker.kill()
        worker.wait()
        worker.stdout.close()
        time.sleep(1)
        self.assertTrue(running("71252"), "It died with its worker.")
        handle = self.executor.adopt(data)
        self.addCleanup(self.executor.cleanup, handle)
        status, output = self.finish(handle)
        self.assertEqual((status.reason, output["stdout"]), ("lease", b"hello\n"))
        self.assertEqual(running("71252"), [])

    def test_a_container_removed_by_somebody_is_lost(self):
        handle = self.start("echo ready; sleep 71253")
        self.wait_output(handle, b"ready")
        self.engine.client.remove_container(handle.container, force=True)
        status, _output = self.finish(handle)
        self.assertEqual(status.reason, "lost")
        self.assertIn("removed", status.error)

    def test_a_container_killed_by_somebody_is_lost(self):
        handle = self.start("echo ready; sleep 71254")
        self.wait_output(handle, b"ready")
        self.engine.client.kill(handle.container)
        status, output = self.finish(handle)
        self.assertEqual((status.reason, output["stdout"]), ("lost", b"ready\n"))
        self.assertIn("killed from outside", status.error)

    def own_engine(self):
        if not self.engine.own:
            self.skipTest("Somebody else's engine is not restarted.")
        return self.engine.own

    def test_a_restart_of_the_engine_that_kills_containers_is_told(self):
        engine = self.own_engine()
        handle = self.start("echo ready; sleep 71255")
        self.wait_output(handle, b"ready")
        engine.stop()
        self.assertIsNone(self.executor.poll(handle), "The engine is away, not the container.")
        engine.start()
        status, output = self.finish(handle)
        self.assertEqual((status.reason, output["stdout"]), ("lost", b"ready\n"))
        self.assertIn("restart", status.error)

    def test_output_goes_on_when_containers_live_through_a_restart_of_the_engine(self):
        engine = self.own_engine()
        engine.restart(live_restore=True)
        self.addCleanup(engine.restart)
        os.mkfifo(self.folder / "fifo")
        handle = self.start("echo one; echo two; read line < fifo; echo $line; exit 5")
        self.wait_output(handle, b"one\n")
        engine.restart(live_restore=True)
        wait_for(lambda: self.executor.poll(handle) is None)
        (self.folder / "fifo").write_text("three\n")
        status, output = self.finish(handle)
        self.assertEqual((status.reason, status.exit_code), ("exited", 5), status)
        self.assertFalse(status.is_output_cut)
        self.assertEqual(output["stdout"], b"one\ntwo\nthree\n")

    def test_an_end_while_the_engine_is_away_is_told(self):
        """An engine does not take up what a container said then; its result it knows."""
        engine = self.own_engine()
        engine.restart(live_restore=True)
        self.addCleanup(engine.restart)
        os.mkfifo(self.folder / "fifo")
        handle = self.start(f"echo one; read line < fifo; touch {self.folder}/said; exit 5")
        self.wait_output(handle, b"one\n")
        engine.stop()
        self.assertIsNone(self.executor.poll(handle), "The engine is away, not the container.")
        (self.folder / "fifo").write_text("go\n")
        wait_for((self.folder / "said").exists)
        time.sleep(0.5)
        engine.start(live_restore=True)
        status, output = self.finish(handle)
        self.assertEqual((status.reason, status.exit_code), ("exited", 5), status)
        self.assertTrue(status.is_output_cut)
        self.assertEqual(output["stdout"], b"one\n")

    def test_output_that_broke_off_is_read_again_before_the_end_is_told(self):
        """As when the engine was killed after a container's end, its log being whole."""
        handle = self.start("echo one; echo two; exit 3")
        self.wait_output(handle, b"one\n")
        state = self.executor._state(handle)
        wait_for(lambda: state.stream.ended)
        state.stream.is_broken = True
        state.stream._waiting.clear()
        state.stream.position = 1
        state.looked_at = 0
        self.assertIsNone(self.executor.poll(handle))
        chunks, _offset = self.executor.read_output(handle, 1)
        wait_for(lambda: self.executor.poll(handle))
        chunks += self.executor.read_output(handle, 1 + len(chunks))[0]
        self.assertEqual([bytes(chunk.data) for chunk in chunks], [b"two\n"])

    def test_an_engine_that_does_not_answer_is_a_sentence(self):
        with self.assertRaisesRegex(ExecutorError, "does not answer. Start it"):
            DockerExecutor(f"unix://{self.folder}/nothing.sock").connect()

    def test_an_image_that_cannot_be_had_is_a_sentence(self):
        with self.assertRaisesRegex(ExecutorError, "cannot be pulled.*docker load") as caught:
            self.executor.resolve("127.0.0.1:9/nothing:1", None)
        self.assertEqual(caught.exception.code, "registry_unavailable")

    def test_a_digest_is_that_image_and_no_other(self):
        image = self.executor.resolve(IMAGE, None)
        self.assertEqual(self.executor.resolve(IMAGE, image.id).id, image.id)
        with self.assertRaises(ExecutorError):
            self.executor.resolve(f"127.0.0.1:9/{IMAGE}", "sha256:" + "0" * 64)

    def test_an_image_without_a_shell_is_a_sentence(self):
        client = self.engine.client
        client.import_image_from_data(b"\0" * 10240, repository="odooops-test-empty", tag="1")
        self.change(image=self.executor.resolve("odooops-test-empty:1", None).id)
        with self.assertRaisesRegex(ExecutorError, "no /bin/sh"):
            self.start("true")
        self.assertEqual(self.ours(), [])

    def test_a_network_of_its_own_is_made_and_removed(self):
        self.change(network=True)
        handle = self.start("ls /sys/class/net")
        networks = self.engine.client.networks(
            filters={"label": f"{LABEL_CONTROL_PLANE}={self.folder.name}"}
        )
        self.assertEqual(len(networks), 1)
        _status, output = self.finish(handle)
        self.assertIn(b"eth0", output["stdout"])
        self.executor.cleanup(handle)
        self.assertFalse(self.engine.client.networks(ids=[networks[0]["Id"]]))

    def ours(self):
        filters = {"label": f"{LABEL_CONTROL_PLANE}={self.folder.name}"}
        return self.engine.client.containers(all=True, filters=filters)

    def test_garbage_is_what_has_our_label_and_a_run_that_is_over(self):
        mine = self.start("sleep 71256")
        self.labels = {**self.labels, LABEL_RUN: "8"}
        self.change()
        live = self.start("sleep 71256")
        self.labels = {LABEL_CONTROL_PLANE: "somebody-elses", LABEL_RUN: "7", LABEL_EPOCH: "1"}
        self.change()
        foreign = self.start("sleep 71256")
        self.labels = {LABEL_CONTROL_PLANE: self.folder.name}
        self.change()
        unknown = self.start("sleep 71256")
        namespace = self.folder.name
        others = [
            {LABEL_CONTROL_PLANE: f"{namespace}-2", LABEL_RUN: "7", LABEL_EPOCH: "1"},
            {f"{LABEL_CONTROL_PLANE}s": namespace, LABEL_RUN: "7", LABEL_EPOCH: "1"},
            {LABEL_CONTROL_PLANE: namespace, LABEL_RUN: "7 or so", LABEL_EPOCH: "1"},
            {LABEL_RUN: "7", LABEL_EPOCH: "1"},
        ]
        similar = []
        for number, labels in enumerate(others):
            made = self.engine.client.create_container(
                IMAGE, ["true"], name=f"odooops-{namespace}-7-{number}", labels=labels
            )["Id"]
            self.addCleanup(self.engine.client.remove_container, made, force=True)
            similar.append(made)
        removed = self.executor.collect_garbage(self.folder.name, lambda run, epoch: run == 8)
        self.assertEqual(removed, [mine.container])
        for handle in (live, foreign, unknown):
            self.assertTrue(self.inspect(handle)["State"]["Running"])
        for container in similar:
            self.assertTrue(self.engine.client.inspect_container(container))
        with self.assertRaises(docker.errors.NotFound):
            self.inspect(mine)

    def test_cleanup_leaves_nothing_behind(self):
        self.change(network=True, relays=[Relay("127.0.0.1", "9")])
        handle = self.start("sleep 71257", PGHOST="127.0.0.1", PGPORT="9")
        relay = str(handle.directory / "relay")
        self.assertTrue(running(relay))
        self.executor.cleanup(handle)
        self.assertEqual((self.ours(), running("71257")), ([], []))
        self.assertFalse(handle.directory.exists())
        wait_for(lambda: not running(relay), 10)

    def test_files_of_the_executor_are_private(self):
        handle = self.start("sleep 71258")
        self.assertEqual(stat.S_IMODE(handle.directory.stat().st_mode), 0o700)

    def test_a_frozen_container_ends_at_once_when_its_lease_is_over(self):
        handle = self.start("sleep 71259", lease=2.0)
        self.engine.client.pause(handle.container)
        time.sleep(3)
        self.executor.renew(handle, time.monotonic() - 1)
        self.engine.client.unpause(handle.container)
        status, _output = self.finish(handle, 5)
        self.assertEqual(status.reason, "lease")

    def test_a_step_without_its_watchdog_is_still_stopped_by_the_worker(self):
        handle = self.start("trap '' INT TERM; kill -9 -1; echo ready; sleep 71260; sleep 71260")
        self.wait_output(handle, b"ready")
        self.executor.stop(handle, 0.5)
        status, _output = self.finish(handle, 15)
        self.assertEqual(status.reason, "stopped")
        self.assertEqual(status.signal, signal.SIGKILL)
