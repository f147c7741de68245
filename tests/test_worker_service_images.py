"""Services of images: real servers in real containers beside real steps, and their ends."""

import json
import os
import re
import signal
import unittest

from odoo.addons.odooops.worker.errors import RunError
from odoo.addons.odooops.worker.executors.docker import LABEL_RUN
from odoo.addons.odooops.worker.repository_config import Override, merged
from odoo.addons.odooops.worker.services.base import LOG_BYTES
from odoo.addons.odooops.worker.workflow import validate_config

from ..devtools import demo_repository
from .docker_engine import IMAGE
from .executor_contract import running
from .odoo_image import make_odoo_image
from .postgres_image import USER, make_postgres_image
from .test_worker_services import options
from .test_workflow_examples import DOCUMENT, blocks
from .worker_common import DockerCase, left_in, wait_for

STEPS = [{"name": "Say", "run": "echo said"}]
WEB = {
    "name": "web",
    "command": ["sh", "-c", "echo page >/tmp/index.html; exec httpd -f -v -p 8080 -h /tmp"],
    "ready": {"port": 8080},
}


class TestRules(unittest.TestCase):
    def problems(self, *services, **config):
        config = {"steps": STEPS, "tool": "a", **config, "services": list(services)}
        config = {key: value for key, value in config.items() if value is not None}
        return [str(problem) for problem in validate_config("test", config)]

    def assert_problem(self, text, *services, **config):
        self.assertIn(text, "\n".join(self.problems(*services, **config)))

    def test_what_is_right_is_accepted(self):
        web = {**WEB, "tool": "web:1", "env": {"A": "b"}}
        db = {"name": "db", "tool": "postgres:17", "ready": {"command": ["pg_isready"]}}
        server, other = {"name": "postgres"}, {"name": "postgres-old", "prefix": "OLD_"}
        self.assertEqual(self.problems(web, db, server, other), [])
        self.assertEqual(self.problems(web, db, other, steps=None), [])
        self.assertEqual(self.problems(other, database=True, tool=None), [])

    def test_names_ports_and_variables_clash(self):
        web = {**WEB, "tool": "a"}
        self.assert_problem("services[1].name is web a second time", web, WEB | {"tool": "b"})
        second = {"name": "other", "tool": "a", "ready": {"port": 8080}}
        self.assert_problem("services[1].ready.port is web's already", web, second)
        servers = {"name": "postgres"}, {"name": "postgres-2"}
        self.assert_problem("services[1] sets PG*, as postgres does", *servers)
        self.assert_problem("services[0] sets PG*, as database does", servers[0], database=True)
        self.assert_problem("as the built-in recipe does", servers[0], steps=None)

    def test_what_belongs_to_the_other_kind_is_refused(self):
        self.assert_problem("services[0].tool is missing", {"name": "redis"})
        self.assert_problem(
            "services[0].env has a meaning only beside tool", {"name": "postgres", "env": {}}
        )
        web = {**WEB, "tool": "a"}
        self.assert_problem("services[0].tool needs a tool of the workflow", web, tool=None)
        self.assert_problem("prefix has a meaning only without tool", {**web, "prefix": "A_"})
        self.assert_problem("must hold either port or command", {**web, "ready": {"timeout": 3}})
        self.assert_problem("cannot be localhost", {**web, "name": "localhost"})
        self.assert_problem("must be the name of a host", {**web, "name": "My_Web"})

    def test_a_repositorys_file_chooses_among_the_images_of_the_stored_config(self):
        stored = {"tool": "a", "steps": STEPS, "services": [{"name": "web", "tool": "web:1"}]}
        wanted = {"services": [{"name": "other", "tool": "web:1"}]}
        self.assertEqual(
            merged("test", stored, Override("types.test", wanted, ""))["services"],
            wanted["services"],
        )
        wanted = {"services": [{"name": "web", "tool": "miner:1"}]}
        with self.assertRaisesRegex(RunError, "services\\[0\\].tool names miner:1"):
            merged("test", stored, Override("types.test", wanted, ""))


class ImageCase(DockerCase):
    def setUp(self):
        super().setUp()
        self.make_tool(IMAGE)

    def queue_steps(self, *steps, services=(), **config):
        services = [
            each if each["name"].startswith("postgres") else {"tool": self.tool, **each}
            for each in services
        ]
        config = {"tool": self.tool, "steps": list(steps), "services": services, **config}
        return self.queue(self.make_workflow(f"Workflow {len(str(config))}", **config))

    def execute(self, *steps, services=(), **config):
        run_id = self.queue_steps(*steps, services=services, **config)
        self.work(*options())
        return run_id, self.run_row(run_id), self.messages(run_id)

    def lines_of(self, run_id, step):
        rows = self.query(
            "SELECT message FROM ops_run_log WHERE run_id = %s AND metadata ->> 'step' = %s"
            " ORDER BY seq",
            run_id,
            step,
        )
        return [row[0] for row in rows]

    def assert_nothing_left(self, run_id):
        wait_for(lambda: not self.containers(run_id), 30, "Containers are left.")
        wait_for(lambda: left_in(self.folder / "work") == [], 10, "Files are left.")


class TestServiceImages(ImageCase):
    def test_steps_reach_a_server_by_its_name_and_nobody_reaches_anything_else(self):
        run_id, row, messages = self.execute(
            {"name": "Ask", "run": "wget -qO- http://web:8080/; ls /sys/class/net | tr '\\n' ' '"},
            {"name": "Out", "run": "wget -T 2 -qO- http://192.0.2.1/ || echo no way"},
            {"name": "Again", "run": "wget -qO- http://127.0.0.1:8080/nothing || true"},
            services=[WEB],
        )
        self.assertEqual(row["status"], "succeeded", (row, messages))
        self.assertIn("page", messages)
        self.assertIn("no way", messages)
        self.assertFalse(any("eth0" in text for text in messages))
        self.assertIn("Service web is ready after", "\n".join(messages))
        (service,) = row["metadata"]["services"]
        image = self.engine.client.inspect_image(IMAGE)["Id"]
        self.assertEqual((service["name"], service["tool"]), ("web", self.tool))
        self.assertEqual(service["image_id"], image)
        events = self.query("SELECT message FROM ops_run_event WHERE run_id = %s", run_id)
        self.assertTrue(any("service web runs in the image" in text for (text,) in events))
        shown = "\n".join(self.lines_of(run_id, "Service web"))
        self.assertIn("response:404", shown)
        self.assert_nothing_left(run_id)

    def test_a_real_postgresql_of_an_image_beside_a_web_server_and_the_runs_database(self):
        image = make_postgres_image(self.engine.client)
        if not image:
            self.skipTest("The server is not the embedded one, which goes into the image.")
        web = {**WEB, "tool": self.tool}
        self.make_tool(image, version="2", config={"user": USER})
        db = {
            "name": "db",
            "env": {"POSTGRES_PASSWORD": "of the service"},
            "command": ["postgres", "-c", "shared_buffers=16MB"],
            "ready": {"command": ["pg_isready", "-h", "127.0.0.1"], "timeout": 120},
        }
        theirs = "PGPASSWORD='of the service' psql -h db -p 5432 -U postgres -d postgres -At"
        variables = ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE")
        other = " ".join(f"{name}=$OTHER_{name}" for name in variables)
        run_id, row, messages = self.execute(
            {"name": "Make", "run": f"{theirs} -c 'CREATE TABLE kept AS SELECT 42 AS n'"},
            {"name": "Use", "run": f"{theirs} -c \"SELECT 'found ' || n FROM kept\""},
            {"name": "Web", "run": "wget -qO- http://web:8080/"},
            {"name": "Buffers", "run": f"{theirs} -c 'SHOW shared_buffers'"},
            {"name": "Own", "run": "psql -At -c \"SELECT 'own ' || current_database()\""},
            {"name": "Other", "run": f'{other} psql -At -c "SELECT \'as \' || current_user"'},
            {"name": "Fail", "run": f"{theirs} -c 'SELECT nonsense' || true"},
            services=[db, web, {"name": "postgres", "prefix": "OTHER_"}],
            database=True,
        )  # fmt: skip
        self.assertEqual(row["status"], "succeeded", (row, messages))
        for text in ("found 42", "page", "16MB", "as run"):
            self.assertIn(text, messages)
        self.assertTrue(any(text.startswith("own odooops_run_") for text in messages))
        shown = "\n".join(self.lines_of(run_id, "Service db"))
        self.assertIn('column "nonsense" does not exist', shown)
        self.assert_nothing_left(run_id)

    def test_with_a_way_out_the_services_have_it_too_and_keep_their_names(self):
        devices = "ls /sys/class/net | tr '\\n' ' '; echo devices"
        run_id, row, messages = self.execute(
            {"name": "Ask", "run": f"wget -qO- http://web:8080/; {devices}"},
            services=[{**WEB, "command": ["sh", "-c", f"{devices}; {WEB['command'][2]}"]}],
            network=True,
        )
        self.assertEqual(row["status"], "succeeded", (row, messages))
        self.assertIn("page", messages)
        found = [text for text in messages if text.endswith("devices")]
        self.assertEqual(len(found), 2, messages)
        self.assertTrue(all("eth0" in text for text in found), found)
        self.assert_nothing_left(run_id)
        filters = {"label": f"{LABEL_RUN}={run_id}"}
        self.assertEqual(self.engine.client.networks(filters=filters), [])

    def test_of_a_long_output_the_end_is_kept(self):
        talk = ["sh", "-c", "seq 1 300000; exec httpd -f -p 8080"]
        run_id, row, _messages = self.execute(*STEPS, services=[{**WEB, "command": talk}])
        self.assertEqual(row["status"], "succeeded", row)
        lines = self.lines_of(run_id, "Service web")
        self.assertRegex(lines[0], r"^The first \d+ lines of Service web are left out\.$")
        self.assertEqual(lines[-1], "300000")
        self.assertLess(sum(map(len, lines)), LOG_BYTES)
        left_out = int(re.search(r"\d+", lines[0])[0])
        self.assertEqual(lines[1], str(left_out + 1))


class TestExample(DockerCase):
    """The example of docs/workflows.md, with images made here in place of the official ones."""

    def test_it_runs_as_it_stands_there(self):
        database = make_postgres_image(self.engine.client)
        if not database:
            self.skipTest("The server is not the embedded one, which goes into the image.")
        text = DOCUMENT.read_text(encoding="utf-8").split("\n### Of an image\n", 1)[1]
        config = json.loads(blocks("json", text)[0])
        ours = {}
        for number, (tool, image, values) in enumerate(
            (
                ("odoo:19.0", make_odoo_image(self.engine.client), {}),
                ("postgres:17", database, {"config": {"user": USER}}),
                ("busybox:1.37", IMAGE, {}),
            )
        ):
            self.make_tool(image, str(number), **values)
            ours[tool] = self.tool
        for each in (config, *config["services"]):
            each["tool"] = ours[each["tool"]]
        run_id = self.queue(self.make_workflow(**config))
        self.work()
        row, messages = self.run_row(run_id), self.messages(run_id)
        self.assertEqual(row["status"], "succeeded", (row, messages))
        self.assertIn(" 64MB", messages)
        self.assertTrue(any(re.fullmatch(r"\d{5,} bytes", text) for text in messages), messages)


class TestRecipe(ImageCase):
    def test_a_built_in_recipe_has_them_beside_its_database(self):
        service = {**WEB, "tool": self.tool}
        self.make_tool(make_odoo_image(self.engine.client), version="19.0")
        repository = demo_repository.build(self.folder / "repository")["path"]
        with self.environment() as env:
            env["ops.project"].browse(self.project_id).repository_url = str(repository)
        other = {"name": "postgres-other", "prefix": "OTHER_"}
        config = {"modules": ["demo_equipment"], "services": [service, other]}
        run_id = self.queue(self.make_workflow(tool=self.tool, **config))
        self.work(*options())
        row, messages = self.run_row(run_id), self.messages(run_id)
        self.assertEqual(row["status"], "succeeded", (row, messages[-30:]))
        self.assertEqual(
            {each["name"] for each in row["metadata"]["services"]}, {"web", "postgres-other"}
        )
        self.assertTrue(any("Service web is ready" in text for text in messages))
        self.assert_nothing_left(run_id)


class TestFailures(ImageCase):
    def test_a_service_that_never_gets_ready_is_told_with_its_last_lines(self):
        run_id, row, messages = self.execute(
            {"name": "Never", "run": "echo never"},
            services=[
                {
                    "name": "web",
                    "command": ["sh", "-c", "echo cannot read the page; exec sleep 71351"],
                    "ready": {"port": 8080, "timeout": 2},
                }
            ],
        )
        self.assertEqual((row["status"], row["error_code"]), ("failed", "service_failed"), row)
        self.assertIn("did not get ready within 2 seconds", row["error_message"])
        self.assertIn("nothing listens on port 8080", row["error_message"])
        self.assertIn("cannot read the page", row["error_message"])
        self.assertIn("cannot read the page", messages)
        self.assertNotIn("never", messages)
        self.assertEqual(running("71351"), [])
        self.assert_nothing_left(run_id)

    def test_a_service_that_ends_at_its_start_is_told(self):
        _run, row, messages = self.execute(
            {"name": "Never", "run": "echo never"},
            services=[{**WEB, "command": ["sh", "-c", "echo no such page; exit 7"]}],
        )
        self.assertEqual((row["status"], row["error_code"]), ("failed", "service_failed"), row)
        self.assertIn("ended before it was ready, with exit code 7", row["error_message"])
        self.assertIn("no such page", row["error_message"])
        self.assertNotIn("never", messages)

    def test_a_service_that_dies_stops_the_steps_that_would_wait_for_it(self):
        run_id, row, messages = self.execute(
            {"name": "Wait", "run": "wget -qO- http://web:8080/; sleep 71352"},
            {"name": "Next", "run": "echo next"},
            {"name": "Tidy", "run": "echo tidied", "when": "always"},
            services=[
                {
                    **WEB,
                    "command": [
                        *("sh", "-c"),
                        "echo page >/tmp/index.html; httpd -f -p 8080 -h /tmp & sleep 4; echo fire;"
                        " exit 5",
                    ],
                }
            ],
        )
        self.assertEqual((row["status"], row["error_code"]), ("failed", "service_failed"), row)
        self.assertIn("ended before the steps did, with exit code 5", row["error_message"])
        self.assertIn("fire", row["error_message"])
        self.assertIn("page", messages)
        self.assertIn("tidied", messages)
        self.assertNotIn("next", messages)
        self.assertEqual(running("71352"), [])
        self.assert_nothing_left(run_id)

    def test_memory_of_a_service_is_that_of_its_tool(self):
        self.make_tool(IMAGE, version="3", config={"memory": "32m"})
        small, self.tool = self.tool, f"{self.slug}:1"
        eat = ["sh", "-c", "httpd -p 8080; sleep 2; tail -c 300m /dev/zero; exit 9"]
        _run, row, _messages = self.execute(
            {"name": "Wait", "run": "sleep 71353"},
            services=[{**WEB, "tool": small, "command": eat}],
        )
        self.assertEqual((row["status"], row["error_code"]), ("failed", "out_of_memory"), row)
        self.assertIn("Service web", row["error_message"])

    def test_an_unknown_image_is_refused_when_the_run_is_queued(self):
        workflow = self.make_workflow(
            tool=self.tool, steps=STEPS, services=[{"name": "web", "tool": "nobody-has-it:1"}]
        )
        reply = self.call("queue_run", workflow)
        self.assertFalse(reply["success"])
        self.assertIn("names the tool nobody-has-it:1, which is not registered", json.dumps(reply))

    def test_an_image_that_cannot_be_had_or_starts_nothing_is_told(self):
        self.make_tool("127.0.0.1:9/nothing:1", version="4")
        away, self.tool = self.tool, f"{self.slug}:1"
        services = [{"name": "web", "tool": away}]
        _run, row, _messages = self.execute({"name": "Never", "run": "true"}, services=services)
        self.assertEqual((row["status"], row["error_code"]), ("failed", "registry_unavailable"))
        _run, row, _messages = self.execute(*STEPS, services=[{"name": "mute"}])
        self.assertEqual((row["status"], row["error_code"]), ("failed", "setup_error"))
        self.assertIn("needs a command", row["error_message"])
        missing = {"name": "missing", "command": ["no-such-program"], "ready": {"port": 1}}
        run_id, row, _messages = self.execute(*STEPS, services=[missing])
        self.assertEqual((row["status"], row["error_code"]), ("failed", "setup_error"))
        self.assertIn("no-such-program", row["error_message"])
        self.assert_nothing_left(run_id)

    def test_a_worker_without_docker_says_what_is_missing(self):
        run_id = self.queue_steps(*STEPS, services=[WEB])
        process = [option for option in self.worker_options() if not option.startswith("--docker")]
        self.worker_options = lambda: [*process, "--allow-process"]
        self.work()
        row = self.run_row(run_id)
        self.assertEqual((row["status"], row["error_code"]), ("failed", "setup_error"), row)
        self.assertIn('the label "docker"', row["error_message"])


class TestEnds(ImageCase):
    def queue_waiting(self, marker, **config):
        sleep = ["sh", "-c", f"httpd -p 8080; exec sleep {marker}"]
        return self.queue_steps(
            {"name": "Wait", "run": f"echo begun; sleep {marker}"},
            services=[{**WEB, "command": sleep}],
            **config,
        )

    def test_a_run_canceled_while_its_service_starts(self):
        run_id = self.queue_steps(
            {"name": "Never", "run": "echo never"},
            services=[
                {
                    "name": "slow",
                    "command": ["sh", "-c", "echo slowly; exec sleep 71361"],
                    "ready": {"command": ["sleep", "71361"], "timeout": 300},
                }
            ],
        )
        self.start_worker()
        wait_for(lambda: len(running("71361")) > 1)
        self.assertTrue(self.call("cancel_run", run_id)["success"])
        row = self.wait_status(run_id, "canceled")
        self.assertEqual(row["error_code"], "canceled")
        self.assertNotIn("never", self.messages(run_id))
        self.assertIn("slowly", self.messages(run_id))
        wait_for(lambda: not running("71361"), 20)
        self.assert_nothing_left(run_id)

    def test_a_timeout_takes_it_along(self):
        run_id = self.queue_waiting("71362", timeout=6)
        self.start_worker()
        row = self.wait_status(run_id, "failed")
        self.assertEqual(row["error_code"], "timeout")
        self.assertIn("begun", self.messages(run_id))
        wait_for(lambda: not running("71362"), 20)
        self.assert_nothing_left(run_id)

    def test_a_killed_runner_takes_it_along(self):
        run_id = self.queue_waiting("71363")
        self.start_worker()
        wait_for(lambda: "begun" in self.messages(run_id))
        os.kill(self.runners()[run_id], signal.SIGKILL)
        row = self.wait_status(run_id, "failed")
        self.assertEqual(row["error_code"], "worker_lost")
        wait_for(lambda: not running("71363"), 20)
        self.assert_nothing_left(run_id)

    def test_what_a_killed_worker_left_is_removed_by_the_next_one(self):
        run_id = self.queue_waiting("71364")
        worker = self.start_worker()
        wait_for(lambda: "begun" in self.messages(run_id))
        self.kill_worker(worker)
        self.assertEqual(len(self.containers(run_id)), 3, "It died with its worker.")
        self.expire_leases()
        self.start_worker("--garbage-seconds=1")
        self.wait_status(run_id, "failed")
        wait_for(lambda: not running("71364"), 30)
        self.assert_nothing_left(run_id)

    def test_it_goes_on_under_the_next_worker(self):
        run_id = self.queue_steps(
            {"name": "Wait", "run": "echo begun; while ! [ -e go ]; do sleep 0.1; done"},
            {"name": "Ask", "run": "wget -qO- http://web:8080/"},
            services=[WEB],
        )
        worker = self.start_worker()
        wait_for(lambda: "begun" in self.messages(run_id))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        self.start_worker()
        wait_for(
            lambda: any("another worker" in text for (text,) in self.query(
                "SELECT message FROM ops_run_event WHERE run_id = %s", run_id))
        )  # fmt: skip
        (checkout,) = (self.folder / "work").glob(f"run-*-{run_id}-1/checkout")
        (checkout / "go").touch()
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual(row["status"], "succeeded", (row, self.messages(run_id)))
        self.assertIn("page", self.messages(run_id))
        self.assert_nothing_left(run_id)
