"""A PostgreSQL server of a run's own: real servers beside real steps, and their ends."""

import json
import os
import signal
import unittest
from pathlib import Path

from odoo.addons.odooops.worker import services
from odoo.addons.odooops.worker.workflow import validate_config

from ..devtools import embedded
from .docker_engine import import_program
from .test_workflow_examples import DOCUMENT, blocks
from .worker_common import DockerCase, KernelCase, wait_for

PSQL_IMAGE = "odooops-test-psql:1"
SERVICES = [{"name": "postgres"}]
STEPS = [
    {"name": "Make", "run": "psql -qc 'CREATE TABLE kept (n int)' -c 'CREATE DATABASE other'"},
    {"name": "Use", "run": "psql -qc 'INSERT INTO kept VALUES (42)' -d run; psql -d other -c ''"},
    {"name": "Read", "run": "psql -At -c \"SELECT 'found ' || n, current_user FROM kept\""},
    {"name": "Super", "run": "psql -c \"COPY (SELECT 1) TO PROGRAM 'true'\" && exit 1 || true"},
]


def options():
    """Where the tests' own programs are, and whom they may run as."""
    programs = embedded.programs()
    if not programs.is_dir():
        return []
    owner = embedded.find_owner().name
    return [f"--postgres-programs={programs}", f"--postgres-user={owner}"]


def servers(namespace_folder):
    """Processes that serve a data folder below this one."""
    needle = os.fsencode(namespace_folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if needle in entry.read_bytes() and b"postgres" in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


class TestSchema(unittest.TestCase):
    def test_a_server_needs_variables_of_its_own(self):
        def problems(**config):
            return [str(problem) for problem in validate_config("test", config)]

        self.assertEqual(problems(services=SERVICES, steps=STEPS), [])
        clash = "services[0] sets PG*, as {} does: give it another prefix"
        self.assertEqual(problems(services=SERVICES), [clash.format("the built-in recipe")])
        self.assertEqual(
            problems(services=SERVICES, steps=STEPS, database=True), [clash.format("database")]
        )
        other = [{"name": "postgres", "prefix": "OTHER_"}]
        self.assertEqual(problems(services=other), [])
        self.assertEqual(problems(services=[*SERVICES, *other], steps=STEPS), [
            "services[1].name is postgres a second time"])  # fmt: skip
        self.assertIn(
            "PostgreSQL server, called postgres",
            problems(services=[{"name": "pg"}], steps=STEPS)[0],
        )


class ServiceCase(KernelCase):
    def folder_of(self, run_id):
        """The folder of the run's server."""
        return next((path for path in services.folders() if f"-{run_id}-" in path.name), None)

    def assert_gone(self, run_id):
        wait_for(lambda: self.folder_of(run_id) is None, 30, "Its folder is still there.")
        wait_for(lambda: not servers(f"-{run_id}-1/data"), 30, "It is still running.")

    def queue_steps(self, *steps, **config):
        return self.queue(self.make_workflow(services=SERVICES, steps=list(steps), **config))


class TestServices(ServiceCase):
    def setUp(self):
        super().setUp()
        path = os.environ["PATH"]
        self.addCleanup(os.environ.update, {"PATH": path})
        if embedded.programs().is_dir():
            os.environ["PATH"] = f"{embedded.programs()}:{path}"

    def test_steps_have_a_server_of_their_own_which_goes_with_the_run(self):
        run_id = self.queue_steps(*STEPS)
        self.assertEqual(self.start_worker("--until-idle", *options()).wait(120), 0)
        row, messages = self.run_row(run_id), self.messages(run_id)
        self.assertEqual(row["status"], "succeeded", (row, messages))
        self.assertIn("found 42|run", messages)
        text = "\n".join(messages)
        self.assertRegex(text, r"PostgreSQL \d+\S* .*is ready after")
        self.assertIn("permission denied to COPY to or from an external program", text)
        self.assertIn("database system is ready to accept connections", text)
        self.assert_gone(run_id)

    def test_the_example_of_the_document_and_a_second_server_beside_a_database(self):
        text = DOCUMENT.read_text(encoding="utf-8")
        text = text.split("\n### PostgreSQL of the worker\n", 1)[1]
        config = json.loads(blocks("json", text)[0])
        example = self.queue(self.make_workflow("Example", **config))
        variables = ("PGHOST", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGPORT")
        other = " ".join(f"{name}=$OTHER_{name}" for name in variables)
        ask = "psql -At -c \"SELECT 'I am ' || current_user\""
        second = self.queue(
            self.make_workflow(
                "Second",
                database=True,
                services=[
                    {"name": "postgres-other", "prefix": "OTHER_"},
                    {"name": "postgres-third", "prefix": "THIRD_"},
                ],
                steps=[
                    {"name": "Own", "run": ask},
                    {"name": "Other", "run": f"{other} {ask}"},
                    {"name": "Apart", "run": "[ $OTHER_PGHOST != $THIRD_PGHOST ]"},
                ],
            )
        )
        self.assertEqual(self.start_worker("--until-idle", *options()).wait(120), 0)
        for run_id in (example, second):
            row, messages = self.run_row(run_id), self.messages(run_id)
            self.assertEqual(row["status"], "succeeded", (row, messages))
            self.assert_gone(run_id)
        self.assertIn("I am run", messages)
        self.assertTrue(any(text.startswith("I am odooops_run_") for text in messages), messages)
        self.assertEqual(
            row["metadata"]["services"], [{"name": "postgres-other"}, {"name": "postgres-third"}]
        )

    def test_a_worker_without_the_programs_says_what_to_do(self):
        run_id = self.queue_steps({"name": "Never", "run": "echo never"})
        empty = self.folder / "empty"
        empty.mkdir()
        self.start_worker("--until-idle", f"--postgres-programs={empty}").wait(60)
        row = self.run_row(run_id)
        self.assertEqual((row["status"], row["error_code"]), ("failed", "setup_error"))
        self.assertIn("--postgres-programs", row["error_message"])
        self.assertNotIn("never", self.messages(run_id))

    def test_a_canceled_run_takes_its_server_along_after_clearing_away(self):
        run_id = self.queue_steps(
            {"name": "Wait", "run": "echo ready; sleep 71341"},
            {"name": "Tidy", "run": "psql -At -c \"SELECT 'tidied'\"", "when": "always"},
        )
        self.start_worker(*options())
        wait_for(lambda: "ready" in self.messages(run_id))
        self.assertTrue(servers(f"-{run_id}-1"))
        self.assertTrue(self.call("cancel_run", run_id)["success"])
        self.wait_status(run_id, "canceled")
        self.assertIn("tidied", self.messages(run_id))
        self.assert_gone(run_id)

    def test_a_server_that_is_killed_ends_the_run_with_its_last_words(self):
        run_id = self.queue_steps(
            {"name": "Wait", "run": "psql -qc 'SELECT nonsense' || echo ready; sleep 71342"},
            {"name": "Next", "run": "echo next"},
        )
        self.start_worker(*options())
        wait_for(lambda: "ready" in self.messages(run_id))
        postmaster = self.folder_of(run_id) / "0" / "data" / "postmaster.pid"
        os.kill(int(postmaster.read_text().split()[0]), signal.SIGKILL)
        row = self.wait_status(run_id, "failed")
        self.assertEqual(row["error_code"], "service_failed", row)
        self.assertIn("Service postgres ended before the steps did", row["error_message"])
        self.assertIn("nonsense", row["error_message"])
        self.assertNotIn("next", self.messages(run_id))
        self.assert_gone(run_id)


class TestServicesInContainers(DockerCase, ServiceCase):
    def test_steps_in_a_container_without_network_reach_it(self):
        psql = embedded.programs() / "psql"
        if not psql.exists():
            self.skipTest("The server is not the embedded one, whose psql goes into the image.")
        import_program(self.engine.client, PSQL_IMAGE, psql)
        self.make_tool(PSQL_IMAGE)
        run_id = self.queue_steps(*STEPS, tool=self.tool)
        self.work(*options())
        row, messages = self.run_row(run_id), self.messages(run_id)
        self.assertEqual(row["status"], "succeeded", (row, messages))
        self.assertIn("found 42|run", messages)
        self.assert_gone(run_id)
