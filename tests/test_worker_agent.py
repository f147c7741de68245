"""Workers as real processes, a real kernel: nothing lost, nothing done twice, every end told."""

import gzip
import subprocess
import sys
import time
from pathlib import Path

from odoo import sql_db
from odoo.tests.common import get_db_name

from odoo.addons import odooops
from odoo.addons.odooops.worker.storage.filesystem import FilesystemStore

from .test_worker_executor import running
from .worker_common import PATIENCE, KernelCase, left_in, wait_for

#: Waits in a shell, so that its traps are run at once.
WAIT = "while :; do sleep 0.05; done"


class TestOneRun(KernelCase):
    def execute(self, seconds=60, **config):
        """Run a workflow of this config to its end; returns the run id and its row."""
        run_id = self.queue(self.make_workflow(**config))
        worker = self.start_worker("--until-idle")
        self.assertEqual(worker.wait(seconds), 0)
        return run_id, self.run_row(run_id)

    def artifacts(self, run_id):
        rows = self.query(
            "SELECT artifact_key, artifact_url, content_type, size_bytes FROM ops_run_artifact"
            " WHERE run_id = %s ORDER BY artifact_key",
            run_id,
        )
        return {row[0]: row[1:] for row in rows}

    def read_artifact(self, url):
        with FilesystemStore(self.folder / "artifacts").open(url) as stream:
            return stream.read()

    def test_steps_run_in_order_and_leave_log_and_artifacts(self):
        run_id, row = self.execute(
            env={"GREETING": "grüß dich"},
            steps=[
                {"name": "One", "run": "echo $GREETING; echo $ODOOOPS_RUN_ID > out.txt"},
                {"name": "Two", "run": "cat out.txt; printf 'a\\0b'; env | grep -c PG || true"},
            ],
            artifacts=[{"path": "*.txt", "expire_in": "1 day"}],
        )
        self.assertEqual((row["status"], row["exit_code"]), ("succeeded", 0), row)
        messages = self.messages(run_id)
        self.assertIn("grüß dich", messages)
        self.assertIn(str(run_id), messages)
        self.assertIn("a\u2400b0", messages)
        artifacts = self.artifacts(run_id)
        self.assertEqual(set(artifacts), {"out.txt", "run.log.gz"})
        self.assertEqual(self.read_artifact(artifacts["out.txt"][0]), f"{run_id}\n".encode())
        log = gzip.decompress(self.read_artifact(artifacts["run.log.gz"][0])).decode()
        self.assertEqual([line.split("\t")[4] for line in log.splitlines()], messages)
        self.assertEqual(left_in(self.folder / "work"), [])

    def test_a_failing_step_gives_its_exit_code_and_ends_the_run(self):
        run_id, row = self.execute(
            steps=[{"name": "Bad", "run": "echo x; exit 42"}, {"name": "Never", "run": "echo no"}],
        )
        self.assertEqual((row["status"], row["error_code"]), ("failed", "exit_code"))
        self.assertEqual((row["exit_code"]), 42)
        self.assertEqual(row["error_message"], "Step Bad ended with exit code 42.")
        self.assertNotIn("no", self.messages(run_id))
        self.assertIn("run.log.gz", self.artifacts(run_id))

    def test_a_database_of_its_own_is_there_and_gone_afterwards(self):
        psql = (
            "python3 -c \"import os; print('db=' + os.environ['PGDATABASE'])\"; env | grep ^PGPASS"
        )
        run_id, row = self.execute(database=True, steps=[{"name": "Ask", "run": psql}])
        self.assertEqual(row["status"], "succeeded", row)
        messages = self.messages(run_id)
        name = next(text for text in messages if text.startswith("db="))[3:]
        self.assertIn("PGPASSWORD=[secret PGPASSWORD]", messages)
        self.assertEqual(self.query("SELECT 1 FROM pg_database WHERE datname = %s", name), [])
        self.assertEqual(self.query("SELECT 1 FROM pg_roles WHERE rolname = %s", name), [])

    def test_a_hanging_step_ends_by_its_timeout(self):
        run_id, row = self.execute(steps=[{"name": "Hang", "run": "sleep 71301", "timeout": 1}])
        self.assertEqual((row["status"], row["error_code"]), ("failed", "timeout"))
        self.assertEqual(row["error_message"], "Step Hang took longer than its 1 seconds.")
        ((facts,),) = self.query(
            "SELECT payload FROM ops_run_event WHERE run_id = %s AND payload ? 'signal'", run_id
        )
        self.assertEqual(facts, {"cause": "timeout", "signal": "SIGINT", "exit_code": 130})
        self.assertEqual(running("71301"), [])
        self.assertIn("run.log.gz", self.artifacts(run_id))

    def test_a_hanging_run_ends_by_its_timeout(self):
        _run_id, row = self.execute(timeout=1, steps=[{"name": "Hang", "run": "sleep 71302"}])
        self.assertEqual((row["status"], row["error_code"]), ("failed", "timeout"))
        self.assertIn("The run took longer than its 1 seconds", row["error_message"])
        self.assertEqual(running("71302"), [])

    def test_a_huge_noisy_log_arrives_complete(self):
        script = "seq 1 30000; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end"
        run_id, row = self.execute(steps=[{"name": "Noise", "run": script}])
        self.assertEqual(row["status"], "succeeded", row)
        messages = self.messages(run_id)
        self.assertEqual(messages[1:30001], [str(number) for number in range(1, 30001)])
        self.assertEqual(sum(text.count("x") for text in messages if set(text) == {"x"}), 3000000)
        seqs = self.query("SELECT count(*), max(seq) FROM ops_run_log WHERE run_id = %s", run_id)
        self.assertEqual(seqs[0][0], seqs[0][1])

    def test_words_are_indexed_while_the_run_goes_on(self):
        script = "seq 1 3000; sleep 71306"
        run_id = self.queue(self.make_workflow(steps=[{"name": "Talk", "run": script}]))
        self.start_worker()
        words = "SELECT 1 FROM ops_run_log_words WHERE run_id = %s"
        wait_for(lambda: self.query(words, run_id))
        self.assertTrue(self.call("cancel_run", run_id, "it has said enough")["success"])
        self.wait_status(run_id, "canceled")

    def test_an_unwritable_store_makes_a_success_a_failure(self):
        (self.folder / "artifacts").write_text("not a folder")
        _run_id, row = self.execute(steps=[{"name": "Fine", "run": "true"}])
        self.assertEqual((row["status"], row["error_code"]), ("failed", "setup_error"))


class TestCancel(KernelCase):
    def test_cancelling_a_running_run_kills_its_work_and_is_confirmed(self):
        script = "setsid sleep 71303 & trap '' INT; echo ready; sleep 71303"
        run_id = self.queue(self.make_workflow(steps=[{"name": "Sleep", "run": script}]))
        self.start_worker()
        wait_for(lambda: "ready" in self.messages(run_id))
        began = time.monotonic()
        self.assertTrue(self.call("cancel_run", run_id, "no longer needed")["success"])
        row = self.wait_status(run_id, "canceled")
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual(row["error_code"], "canceled")
        self.assertIn("no longer needed", row["error_message"])
        self.assertEqual(running("71303"), [])

    def stop(self, script, **config):
        """Cancel a run of this script when it is ready; returns what the trail says of its end."""
        steps = [{"name": "Sleep", "run": f"{script}; echo ready; {WAIT}"}]
        run_id = self.queue(self.make_workflow(steps=steps, **config))
        self.start_worker("--cancel-grace-seconds=40")
        wait_for(lambda: "ready" in self.messages(run_id))
        began = time.monotonic()
        self.call("cancel_run", run_id)
        row = self.wait_status(run_id, "canceled")
        self.assertEqual(row["error_code"], "canceled")
        self.assertLess(time.monotonic() - began, 20)
        ((message, payload),) = self.query(
            "SELECT message, payload FROM ops_run_event WHERE run_id = %s AND payload ? 'signal'",
            run_id,
        )
        self.assertIn("Step Sleep ended after", message)
        return payload

    def test_the_ladder_has_the_grace_of_the_workflow_and_its_rung_is_told(self):
        facts = {"cause": "canceled", "signal": "SIGINT", "exit_code": 7}
        self.assertEqual(self.stop("trap 'exit 7' INT", cancel_grace=30), facts)

    def test_the_second_rung_is_told(self):
        facts = {"cause": "canceled", "signal": "SIGTERM", "exit_code": 8}
        self.assertEqual(self.stop("trap '' INT; trap 'exit 8' TERM", cancel_grace=2), facts)

    def test_the_last_rung_is_told(self):
        facts = {"cause": "canceled", "signal": "SIGKILL", "exit_code": 137}
        self.assertEqual(self.stop("trap '' INT TERM", cancel_grace=1.5), facts)


class TestManyRuns(KernelCase):
    def test_two_workers_execute_each_of_200_runs_once(self):
        # Rule: R-01
        script = "echo $ODOOOPS_RUN_ID >> " + str(self.folder / "executed")
        workflow_id = self.make_workflow(steps=[{"name": "Note", "run": script}])
        run_ids = [self.queue(workflow_id) for _number in range(200)]
        workers = [self.start_worker("--until-idle", "--capacity=3") for _number in range(2)]
        for worker in workers:
            self.assertEqual(worker.wait(100), 0)
        executed = (self.folder / "executed").read_text().split()
        self.assertEqual(sorted(map(int, executed)), run_ids)
        statuses = self.query(
            "SELECT status, count(*), count(DISTINCT claimed_by) FROM ops_run"
            " WHERE project_id = %s GROUP BY status",
            self.project_id,
        )
        self.assertEqual(statuses, [("succeeded", 200, 2)])

    def test_a_killed_worker_loses_no_run(self):
        # Rule: R-02
        script = "sleep 0.3; echo done"
        workflow_id = self.make_workflow(steps=[{"name": "Work", "run": script}])
        run_ids = [self.queue(workflow_id) for _number in range(20)]
        victim = self.start_worker("--capacity=4")
        wait_for(lambda: self.statuses(run_ids).get("running", 0) >= 2)
        dead = self.query("SELECT DISTINCT worker_id FROM ops_run_lease")
        self.kill_worker(victim)
        survivor = self.start_worker("--capacity=4")

        def settled():
            # Again and again: a last claim of the victim may be committed after its death.
            self.expire_leases([row[0] for row in dead])
            return not {"queued", "claimed", "running"} & set(self.statuses(run_ids))

        wait_for(settled)
        survivor.terminate()
        self.assertEqual(survivor.wait(20), 0)
        statuses = self.statuses(run_ids)
        self.assertEqual(set(statuses), {"succeeded", "failed"})
        self.assertLessEqual(statuses["failed"], 4)
        causes = self.query(
            "SELECT DISTINCT error_code FROM ops_run WHERE project_id = %s AND status = 'failed'",
            self.project_id,
        )
        self.assertEqual(causes, [("worker_lost",)])

    def statuses(self, run_ids):
        rows = self.query(
            "SELECT status, count(*) FROM ops_run WHERE id = ANY(%s) GROUP BY status", run_ids
        )
        return dict(rows)


class TestStopping(KernelCase):
    def start_sleeper(self, script):
        run_id = self.queue(self.make_workflow(steps=[{"name": "Sleep", "run": script}]))
        worker = self.start_worker()
        wait_for(lambda: "ready" in self.messages(run_id))
        return run_id, worker

    def test_the_first_signal_lets_running_work_end_and_claims_nothing_more(self):
        run_id, worker = self.start_sleeper("echo ready; sleep 1.5; echo finished")
        worker.terminate()
        time.sleep(0.5)
        late = self.queue(self.make_workflow(name="Late", steps=[{"name": "x", "run": "true"}]))
        self.assertEqual(worker.wait(30), 0)
        self.assertEqual(self.run_row(run_id)["status"], "succeeded")
        self.assertEqual(self.run_row(late)["status"], "queued")

    def test_the_second_signal_ends_the_work_and_says_so(self):
        run_id, worker = self.start_sleeper("echo ready; sleep 71304")
        worker.terminate()
        time.sleep(0.7)
        self.assertIsNone(worker.poll())
        worker.terminate()
        self.assertEqual(worker.wait(30), 0)
        row = self.run_row(run_id)
        self.assertEqual((row["status"], row["error_code"]), ("failed", "worker_lost"))
        self.assertIn("worker was stopped", row["error_message"])
        self.assertEqual(running("71304"), [])

    def test_work_whose_lease_was_given_away_is_killed(self):
        run_id, worker = self.start_sleeper("echo ready; setsid sleep 71305")
        self.expire_leases()
        self.call("reap_lost_runs")
        self.wait_status(run_id, "failed")
        wait_for(lambda: not running("71305"))
        self.assertIsNone(worker.poll(), "The worker must go on.")

    def test_work_that_passed_its_deadline_is_killed(self):
        run_id, worker = self.start_sleeper("echo ready; setsid sleep 71307")
        self.query(
            "WITH late AS (UPDATE ops_run SET deadline = now() AT TIME ZONE 'UTC' WHERE id = %s"
            " RETURNING id, deadline) UPDATE ops_run_lease SET"
            " lease_until = deadline AT TIME ZONE 'UTC' FROM late WHERE run_id = id",
            run_id,
        )
        row = self.wait_status(run_id, "failed")
        self.assertEqual(row["error_code"], "timeout")
        self.assertIn("timeout of 3600 seconds", row["error_message"])
        wait_for(lambda: not running("71307"))
        self.assertIsNone(worker.poll(), "The worker must go on.")

    def test_the_leftovers_of_a_dead_run_are_removed(self):
        run_id, victim = self.start_sleeper("echo ready; sleep 71306")
        self.kill_worker(victim)
        (workdir,) = (self.folder / "work").glob("run-*")
        self.expire_leases()
        self.start_worker("--garbage-seconds=1")
        self.wait_status(run_id, "failed")
        wait_for(lambda: not workdir.exists())
        wait_for(lambda: not running("71306"))

    def test_it_does_not_start_without_consent_to_local_processes(self):
        # Rule: R-29
        original = self.worker_options
        self.worker_options = lambda: [o for o in original() if o != "--allow-process"]
        self.assertEqual(self.start_worker("--until-idle").wait(30), 2)


class TestOdooCommand(KernelCase):
    def test_odoo_ops_worker_takes_its_database_settings_from_odoos_configuration(self):
        _name, info = sql_db.connection_info_for(get_db_name())
        names = {"host": "db_host", "port": "db_port", "user": "db_user", "password": "db_password"}
        lines = [f"{option} = {info[key]}" for key, option in names.items() if info.get(key)]
        addons = Path(odooops.__path__[0]).parent
        configuration = self.folder / "odoo.conf"
        text = ["[options]", f"addons_path = {addons}", f"data_dir = {self.folder}", *lines, ""]
        configuration.write_text("\n".join(text))
        run_id = self.queue(self.make_workflow(steps=[{"name": "x", "run": "odoo --version"}]))
        command = [sys.executable, "-m", "odoo", f"--addons-path={addons}", "ops_worker"]
        options = ["-c", str(configuration), "-d", get_db_name(), "--allow-process", "--until-idle"]
        subprocess.run(
            [*command, *options, f"--labels={self.slug}"],
            cwd=self.folder,
            check=True,
            timeout=PATIENCE,
            capture_output=True,
        )
        self.assertEqual(self.run_row(run_id)["status"], "succeeded", self.messages(run_id))
        self.assertTrue(any("19.0" in message for message in self.messages(run_id)))
        store = self.folder / "odooops" / get_db_name() / "artifacts"
        self.assertTrue((store / self.slug / str(run_id) / "run.log.gz").is_file())


class TestConnectionLoss(KernelCase):
    def test_a_worker_outlives_the_loss_of_all_its_connections(self):
        script = "echo ready; sleep 1.5; echo finished"
        run_id = self.queue(self.make_workflow(steps=[{"name": "Sleep", "run": script}]))
        self.start_worker()
        wait_for(lambda: "ready" in self.messages(run_id))
        for _time in range(4):
            self.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'odooops worker' AND pid <> pg_backend_pid()"
            )
            time.sleep(0.3)
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual(row["status"], "succeeded", row)
        self.assertIn("finished", self.messages(run_id))
        second = self.queue(self.make_workflow(name="Next", steps=[{"name": "x", "run": "true"}]))
        self.wait_status(second, "succeeded")

    def test_a_queued_run_starts_at_once_on_an_idle_worker(self):
        workflow_id = self.make_workflow(steps=[{"name": "x", "run": "true"}])
        self.start_worker("--poll-seconds=30")
        self.wait_status(self.queue(workflow_id), "succeeded")
        time.sleep(0.3)
        self.wait_status(self.queue(workflow_id), "succeeded", seconds=10)
