"""Workers that run steps in containers: a real kernel, a real engine, real workers."""

import json
import time
import uuid

from odoo.addons.odooops.devtools import embedded
from odoo.addons.odooops.worker.executors.base import ExecutorError, Limits
from odoo.addons.odooops.worker.executors.choice import RegistryAuth, read_tool
from odoo.addons.odooops.worker.job import OUTPUT_CUT

from .docker_engine import IMAGE, import_program
from .executor_contract import running
from .worker_common import DockerCase, FolderCase, left_in, wait_for

PSQL_IMAGE = "odooops-test-psql:1"


class TestDockerWorker(DockerCase):
    def setUp(self):
        super().setUp()
        self.make_tool(IMAGE)

    def execute(self, *options, **config):
        config = {"tool": self.tool, **config}
        config = {name: value for name, value in config.items() if value is not None}
        run_id = self.queue(self.make_workflow(name=f"Workflow {uuid.uuid4()}", **config))
        self.work(*options)
        return run_id, self.run_row(run_id)

    def test_steps_run_in_the_tools_image_which_the_run_records(self):
        run_id, row = self.execute(
            labels=["docker"],
            env={"GREETING": "hello"},
            steps=[
                {"name": "One", "run": "echo $GREETING; ls /; echo kept > out.txt"},
                {"name": "Two", "run": "cat out.txt; echo $HOME; ls -a $HOME; exit 3"},
            ],
            artifacts=[{"path": "out.txt"}],
        )
        self.assertEqual((row["status"], row["error_code"], row["exit_code"]), (
            "failed", "exit_code", 3), row)  # fmt: skip
        messages = self.messages(run_id)
        self.assertIn("hello", messages)
        self.assertIn("kept", messages)
        self.assertNotIn("usr", messages, "That was not the image's root.")
        image = self.engine.client.inspect_image(IMAGE)
        self.assertEqual(row["metadata"]["image"]["image_id"], image["Id"])
        payloads = self.query("SELECT payload FROM ops_run_event WHERE run_id = %s", run_id)
        self.assertTrue(any(image["Id"] in json.dumps(payload) for (payload,) in payloads))
        keys = self.query("SELECT artifact_key FROM ops_run_artifact WHERE run_id = %s", run_id)
        self.assertEqual({key for (key,) in keys}, {"out.txt", "run.log.gz"})
        self.assertEqual(self.containers(run_id), [])
        self.assertEqual(left_in(self.folder / "work"), [])

    def test_a_run_reaches_its_database_without_a_network(self):
        psql = embedded.programs() / "psql"
        if not psql.exists():
            self.skipTest("The server is not the embedded one, whose psql goes into the image.")
        import_program(self.engine.client, PSQL_IMAGE, psql)
        self.make_tool(PSQL_IMAGE, version="2")
        statement = (
            "SELECT 'user ' || current_user, 'rows ' || count(*) FROM generate_series(1,9999)"
        )
        run_id, row = self.execute(
            database=True,
            steps=[
                {"name": "Net", "run": "ls /sys/class/net | tr '\\n' ' '"},
                {"name": "Ask", "run": f'psql -At -c "{statement}"'},
                {"name": "Much", "run": "psql -At -c \"SELECT repeat('x', 5000000)\" | wc -c"},
            ],
        )
        messages = self.messages(run_id)
        self.assertEqual(row["status"], "succeeded", (row, messages))
        self.assertTrue(any("rows 9999" in text and "odooops_run_" in text for text in messages))
        self.assertIn("5000001", messages)
        self.assertFalse(any("eth0" in text for text in messages))

    def test_a_variable_of_the_configuration_leads_to_no_server(self):
        _run, row = self.execute(
            env={"PGHOST": "127.0.0.1"},
            steps=[{"name": "Look", "run": '[ "$PGHOST" = 127.0.0.1 ]; ! ls /run/odooops/post*'}],
        )
        self.assertEqual(row["status"], "succeeded", row)

    def test_a_canceled_run_ends_its_container(self):
        run_id = self.queue(
            self.make_workflow(
                tool=self.tool, steps=[{"name": "Wait", "run": "echo ready; sleep 71270"}]
            )
        )
        self.start_worker()
        wait_for(lambda: "ready" in self.messages(run_id))
        self.assertTrue(self.call("cancel_run", run_id)["success"])
        row = self.wait_status(run_id, "canceled")
        self.assertEqual(row["error_code"], "canceled")
        wait_for(lambda: not self.containers(run_id) and not running("71270"), 20)

    def test_the_next_worker_removes_the_container_of_a_dead_one(self):
        run_id = self.queue(
            self.make_workflow(
                tool=self.tool, steps=[{"name": "Wait", "run": "echo ready; sleep 71271"}]
            )
        )
        worker = self.start_worker()
        wait_for(lambda: "ready" in self.messages(run_id))
        self.kill_worker(worker)
        self.assertTrue(running("71271"), "It died with its worker.")
        self.expire_leases()
        self.start_worker("--garbage-seconds=1")
        row = self.wait_status(run_id, "failed")
        self.assertEqual(row["error_code"], "worker_lost")
        wait_for(lambda: not self.containers(run_id) and not running("71271"), 30)

    def test_runs_without_a_tool_do_not_need_the_engine(self):
        if not self.engine.own:
            self.skipTest("The engine is somebody else's: it cannot be stopped.")
        steps = [{"name": "Say", "run": "echo here"}]
        workflow_id = self.make_workflow(steps=steps)
        self.start_worker("--allow-process", "--docker-wait-seconds=0")
        self.wait_status(self.queue(workflow_id), "succeeded")
        self.engine.own.stop()
        self.addCleanup(self.engine.own.start)
        row = self.wait_status(self.queue(workflow_id), "succeeded", "failed")
        self.assertEqual(row["status"], "succeeded", row)
        with_tool = self.make_workflow(name="With a tool", tool=self.tool, steps=steps)
        row = self.wait_status(self.queue(with_tool), "succeeded", "failed")
        self.assertEqual(row["error_code"], "setup_error")
        self.assertIn("Docker engine does not answer", row["error_message"])

    def test_the_log_of_a_container_that_ended_without_its_engine_says_so(self):
        if not self.engine.own:
            self.skipTest("The engine is somebody else's: it cannot be stopped.")
        self.engine.own.restart(live_restore=True)
        self.addCleanup(self.engine.own.restart)
        steps = [{"name": "Say", "run": "echo one; sleep 3; echo two"}]
        run_id = self.queue(self.make_workflow(tool=self.tool, steps=steps))
        self.start_worker()
        wait_for(lambda: "one" in self.messages(run_id))
        self.engine.own.stop()
        time.sleep(4)
        self.engine.own.start(live_restore=True)
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual(row["status"], "succeeded", row)
        self.assertIn(OUTPUT_CUT, self.messages(run_id))

    def test_memory_and_output_limits_of_the_tool_are_told(self):
        steps = [{"name": "Eat", "run": "tail -c 300m /dev/zero"}]
        self.make_tool(IMAGE, version="2", config={"memory": "32m", "output": "100k"})
        _run, row = self.execute(steps=steps)
        self.assertEqual((row["status"], row["error_code"]), ("failed", "out_of_memory"), row)
        _run, row = self.execute(steps=[{"name": "Talk", "run": "yes"}])
        self.assertEqual((row["status"], row["error_code"]), ("failed", "resource_limit"), row)

    def test_an_image_whose_registry_is_not_there_says_what_to_do(self):
        self.make_tool("127.0.0.1:9/nothing:1", version="2")
        _run, row = self.execute(steps=[{"name": "Never", "run": "true"}])
        self.assertEqual((row["status"], row["error_code"]), ("failed", "registry_unavailable"))
        self.assertIn("cannot be pulled", row["error_message"])
        self.assertIn("Check that it runs", row["error_message"])

    def test_without_consent_nothing_runs_as_a_process(self):
        _run, row = self.execute(tool=None, steps=[{"name": "Never", "run": "true"}])
        self.assertEqual((row["status"], row["error_code"]), ("failed", "setup_error"))
        self.assertIn("--allow-process", row["error_message"])


class TestTool(FolderCase):
    row = {"tool_name": "odoo", "version": "19.0", "docker_image": "odoo:19", "digest": None}

    def test_its_config_changes_limits_and_isolation(self):
        config = {"memory": "2g", "cpus": 0.5, "processes": 9, "read_only": False}
        tool = read_tool(self.row | {"config": config}, Limits(memory=1, output=5))
        self.assertEqual(tool.limits, Limits(memory=2 << 30, cpus=0.5, processes=9, output=5))
        self.assertFalse(tool.read_only)
        self.assertEqual((tool.odoo, tool.registry_auth, tool.user), (("odoo",), None, ""))
        auth = {"username": "puller", "password_secret": "REGISTRY"}
        tool = read_tool(
            self.row | {"config": {"odoo": ["a", "b"], "registry_auth": auth}}, Limits()
        )
        self.assertEqual(tool.odoo, ("a", "b"))
        self.assertEqual(tool.registry_auth, RegistryAuth("puller", "REGISTRY"))

    def test_a_wrong_config_is_refused_with_the_name_of_the_setting(self):
        wrong = {"memory": "much", "cpus": True, "processes": 0, "read_only": 1, "user": "root"}
        wrong |= {"privileged": True}
        for name, value in wrong.items():
            with self.assertRaisesRegex(ExecutorError, f"{name} .*|setting {name}"):
                read_tool(self.row | {"config": {name: value}}, Limits())
