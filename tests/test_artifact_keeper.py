"""Artifacts after their run: expiry, hold, lost files, orphans; in a folder and in S3."""

import hashlib
import io
import os
from datetime import timedelta
from unittest.mock import patch

from odoo.exceptions import UserError

from odoo.addons.odooops.models.artifact_store import open_store
from odoo.addons.odooops.worker.storage.base import ObjectMissing
from odoo.addons.odooops.worker.storage.filesystem import FilesystemStore

from .s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from .worker_common import KernelCase

NAMES = ("bucket", "prefix", "endpoint", "path_style")


class KeeperCase(KernelCase):
    """A run at work whose artifacts the tests make; ``kind`` of the store as the class says."""

    kind = "filesystem"

    def setUp(self):
        super().setUp()
        self.set_parameters(artifact_root=str(self.folder / "store"))
        self.addCleanup(self.set_parameters, artifact_root=False)
        run_id = self.queue(self.make_workflow(steps=[{"name": "x", "run": "true"}]))
        self.run_id = run_id
        worker = f"keeper-{self.slug}"
        self.call("register_worker", worker, "host", [self.slug], 1, "1", "daemon")
        claim = self.call("claim_next_run", worker)
        self.assertEqual(claim["run_id"], run_id)
        self.epoch = claim["epoch"]
        self.call("start_workflow_run", run_id, worker, self.epoch)

    def set_parameters(self, **values):
        with self.environment() as env:
            for name, value in values.items():
                env["ir.config_parameter"].set_param(f"odooops.{name}", value)

    def add(self, key, data=b"content", expires="now() - interval '1 hour'"):
        """An artifact in the store and in the records; its id."""
        with self.environment() as env:
            store = open_store(env, self.kind)
        stored = store.put(f"{self.slug}/{self.run_id}/{key}", io.BytesIO(data))
        reply = self.query(
            f"SELECT {self.schema}.add_run_artifact(%s, %s, %s, 'text/plain', %s, %s, {expires},"
            " '{}', %s)",
            self.run_id,
            key,
            stored.url,
            len(data),
            hashlib.sha256(data).hexdigest(),
            self.epoch,
        )[0][0]
        self.assertTrue(reply["success"], reply)
        return reply["artifact_id"]

    def row(self, artifact_id):
        """(status, whether the bytes are there)"""
        with self.environment() as env:
            artifact = env["ops.run.artifact"].browse(artifact_id)
            try:
                open_store(env, self.kind).stat(artifact.artifact_url)
            except ObjectMissing:
                return artifact.status, False
            return artifact.status, True

    def expire(self):
        with self.environment() as env:
            env["ops.run.artifact"]._cron_expire()

    def events(self):
        return [
            message
            for (message,) in self.query(
                "SELECT message FROM ops_run_event"
                " WHERE run_id = %s AND event_type <> 'state_change' ORDER BY seq",
                self.run_id,
            )
        ]

    def wizard(self, env, **values):
        return env["ops.artifact.check"].create({"store": self.kind, **values})


class TestKeeper(KeeperCase):
    def test_what_has_expired_is_removed_and_then_said_to_be(self):
        old, young = self.add("old"), self.add("young", expires="now() + interval '1 hour'")
        forever = self.add("forever", expires="NULL")
        self.expire()
        self.expire()
        self.assertEqual(self.row(old), ("expired", False))
        self.assertEqual(self.row(young), ("stored", True))
        self.assertEqual(self.row(forever), ("stored", True))
        self.assertEqual(self.events(), ["Artifact old has expired"])

    def test_many_expire_in_batches(self):
        ids = [self.add(f"many/{number}") for number in range(7)]
        with patch("odoo.addons.odooops.models.ops_artifact_keeper.BATCH", 3):
            self.expire()
        self.assertEqual({self.row(number) for number in ids}, {("expired", False)})

    def test_a_crash_after_the_bytes_went_is_mended_by_the_next_pass(self):
        # Rule: R-19
        artifact = self.add("old")
        kernel = "odoo.addons.odooops.models.ops_kernel.OpsKernel._execute"
        with patch(kernel, side_effect=SystemExit), self.assertRaises(SystemExit):
            self.expire()
        self.assertEqual(self.row(artifact), ("stored", False))
        self.expire()
        self.assertEqual(self.row(artifact), ("expired", False))

    def test_what_is_on_hold_stays_until_it_is_released(self):
        # Rule: R-19
        artifact = self.add("evidence")
        with self.environment() as env:
            record = env["ops.run.artifact"].browse(artifact)
            wizard = env["ops.artifact.hold"].create(
                {"artifact_ids": record.ids, "reason": "audit"}
            )
            wizard.action_hold()
            self.assertEqual((record.held, record.hold_reason), (True, "audit"))
            self.assertTrue(record.held_at)
            self.assertEqual(record.held_by, env.user)
        self.expire()
        self.assertEqual(self.row(artifact), ("stored", True))
        self.assertEqual(self.call("run_artifact_state", self.run_id), "held")
        with self.environment() as env:
            env["ops.run.artifact"].browse(artifact).action_release()
        self.assertEqual(self.call("run_artifact_state", self.run_id), "stored")
        self.expire()
        self.assertEqual(self.row(artifact), ("expired", False))
        self.assertEqual(self.call("run_artifact_state", self.run_id), "gone")
        with self.environment() as env, self.assertRaisesRegex(UserError, "expired"):
            env["ops.run.artifact"].browse(artifact)._set_hold(True, "too late")
        with self.environment() as env, self.assertRaisesRegex(UserError, "why"):
            env["ops.run.artifact"].browse(self.add("b"))._set_hold(True, " ")

    def test_retention_may_let_artifacts_go_before_their_time(self):
        artifact, kept = self.add("a", expires="NULL"), self.add("b", expires="NULL")
        self.call("hold_artifact", kept, True, "why")
        self.assertEqual(self.call("expire_run_artifacts", self.run_id), 1)
        self.expire()
        self.assertEqual(self.row(artifact), ("expired", False))
        self.assertEqual(self.row(kept), ("stored", True))

    def test_missing_files_are_found_and_found_again(self):
        artifact, other = self.add("a", expires="NULL"), self.add("b", expires="NULL")
        with self.environment() as env:
            store = open_store(env, self.kind)
            url = env["ops.run.artifact"].browse(artifact).artifact_url
        store.delete(url)
        with self.environment() as env:
            wizard = self.wizard(env)
            wizard.action_look()
            self.assertEqual(wizard.missing_count, 1)
            self.assertIn(": a", wizard.missing_text)
        self.assertEqual(self.row(artifact), ("stored", False), "looking changes nothing")
        with self.environment() as env:
            env["ops.run.artifact"]._cron_check()
        self.assertEqual(self.row(artifact), ("missing", False))
        self.assertEqual(self.row(other), ("stored", True))
        store.put(f"{self.slug}/{self.run_id}/a", io.BytesIO(b"content"))
        with self.environment() as env:
            env["ops.run.artifact"].browse(artifact).action_look()
        self.assertEqual(self.row(artifact), ("stored", True))
        self.assertEqual(
            self.events(),
            ["Artifact a is missing in the store", "Artifact a is in the store again"],
        )

    def test_orphans_are_listed_and_removed_when_they_are_old(self):
        known = self.add("a", expires="NULL")
        with self.environment() as env:
            store = open_store(env, self.kind)
        young = store.put(f"{self.slug}/999999999/x", io.BytesIO(b"12345"))
        own = store.put(f"{self.slug}/{self.run_id}/unrecorded", io.BytesIO(b"x"))
        foreign = store.put("readme.txt", io.BytesIO(b"x"))
        with self.environment() as env:
            wizard = self.wizard(env)
            wizard.action_look()
            self.assertEqual(wizard.orphan_count, 0, "just stored")
            orphans = env["ops.artifact.keeper"]._orphans(store, timedelta(seconds=-5))
            self.assertEqual(
                [info.url for info in orphans], [young.url], "the other run is at work"
            )
            with patch.object(
                type(wizard), "_orphans", lambda self, store: [store.stat(young.url)]
            ):
                wizard.action_apply()
            self.assertEqual((wizard.orphan_count, wizard.is_done), (1, True))
        with self.assertRaises(ObjectMissing):
            store.stat(young.url)
        for url in (own.url, foreign.url):
            store.stat(url)
        self.assertEqual(self.row(known), ("stored", True))

    def test_a_copy_of_the_database_removes_nothing(self):
        artifact = self.add("old")
        with self.environment() as env:
            self.assertEqual(open_store(env, self.kind).owner("the-original"), "the-original")
        self.expire()
        self.assertEqual(self.row(artifact), ("stored", True))
        with self.environment() as env, self.assertRaisesRegex(UserError, "another database"):
            self.wizard(env).action_apply()


class TestKeeperS3(TestKeeper):
    kind = "s3"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = S3Server()
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        keys = {"ODOOOPS_S3_ACCESS_KEY": ACCESS_KEY, "ODOOOPS_S3_SECRET_KEY": SECRET_KEY}
        self.enterContext(patch.dict(os.environ, keys))
        super().setUp()
        values = (BUCKET, f"keeper/{self.slug}", self.server.endpoint, "True")
        self.set_parameters(**dict(zip((f"s3_{name}" for name in NAMES), values, strict=True)))
        self.addCleanup(self.set_parameters, **{f"s3_{name}": False for name in NAMES})

    def test_the_settings_page_tries_the_bucket(self):
        with self.environment() as env:
            settings = env["res.config.settings"].create({})
            self.assertIn(BUCKET, settings.action_odooops_test_store()["params"]["message"])
            settings.odooops_s3_bucket = "nothing-here"
            with self.assertRaisesRegex(UserError, "no bucket nothing-here"):
                settings.action_odooops_test_store()

    def test_a_store_that_is_away_loses_nothing(self):
        artifact = self.add("old")
        self.set_parameters(s3_endpoint="http://127.0.0.1:9")
        self.expire()
        with self.environment() as env:
            env["ops.run.artifact"]._cron_check()
        self.set_parameters(s3_endpoint=self.server.endpoint)
        self.assertEqual(self.row(artifact), ("stored", True))


class TestRunsWithS3(KernelCase):
    """A real worker whose store is a bucket."""

    def setUp(self):
        super().setUp()
        self.server = S3Server()
        self.addCleanup(self.server.stop)
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        self.enterContext(patch.dict(os.environ, keys))

    def start(self, *options):
        return self.start_worker(
            f"--s3-bucket={BUCKET}",
            f"--s3-endpoint={self.server.endpoint}",
            "--s3-path-style",
            "--s3-prefix=runs",
            *options,
        )

    def artifacts(self, run_id):
        rows = self.query(
            "SELECT artifact_key, artifact_url, store, metadata FROM ops_run_artifact"
            " WHERE run_id = %s ORDER BY artifact_key",
            run_id,
        )
        return {row[0]: row[1:] for row in rows}

    def test_files_folders_and_reports_of_a_run_are_kept(self):
        junit = (
            '<testsuite><testcase classname="a.B" name="t" time="1.5"/>'
            '<testcase classname="a.B" name="u"><skipped/></testcase></testsuite>'
        )
        script = (
            f"mkdir -p out/deep; echo x >'out/ü.txt'; echo y >out/deep/y; echo '{junit}' >r.xml"
        )
        run_id = self.queue(
            self.make_workflow(
                steps=[{"name": "Make", "run": script}],
                junit="*.xml",
                artifacts=[
                    {"path": "out/*.txt"},
                    {"path": "out", "archive": True},
                    {"path": "nothing", "optional": True},
                    {"path": "r.xml", "when": "on_failure"},
                ],
            )
        )
        self.start()
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual(row["status"], "succeeded", row)
        artifacts = self.artifacts(run_id)
        self.assertEqual(set(artifacts), {"out.tar.gz", "out/_.txt", "run.log.gz"})
        url, store, metadata = artifacts["out/_.txt"]
        self.assertEqual(url, f"s3://{BUCKET}/runs/{self.slug}/{run_id}/out/_.txt")
        self.assertEqual((store, metadata), ("s3", {"path": "out/ü.txt"}))
        self.assertEqual(
            row["metadata"]["tests"],
            {"total": 2, "passed": 1, "failed": 0, "errors": 0, "skipped": 1},
        )
        self.assertEqual(row["metadata"]["slowest_tests"], [{"name": "B.t", "seconds": 1.5}])

    def test_a_file_that_is_not_there_makes_a_success_a_failure(self):
        run_id = self.queue(
            self.make_workflow(
                steps=[{"name": "x", "run": "true"}], artifacts=[{"path": "dump.sql"}]
            )
        )
        self.start()
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual((row["status"], row["error_code"]), ("failed", "artifact_missing"))
        self.assertIn("dump.sql", row["error_message"])

    def test_a_file_over_the_limit_is_refused_by_name(self):
        run_id = self.queue(
            self.make_workflow(
                steps=[{"name": "x", "run": "head -c 3000000 /dev/zero >big"}],
                artifacts=[{"path": "big"}],
            )
        )
        self.start("--artifact-limit-mb=2")
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual((row["status"], row["error_code"]), ("failed", "setup_error"))
        self.assertEqual(row["error_message"], "Artifact big exceeds 2 MiB, the worker's limit.")

    def test_a_store_in_trouble_for_a_while_costs_no_run(self):
        run_id = self.queue(
            self.make_workflow(steps=[{"name": "x", "run": "echo x >a"}], artifacts=[{"path": "a"}])
        )
        self.start()
        self.wait_status(run_id, "claimed", "running", "succeeded")
        self.server.trouble(busy=8)
        row = self.wait_status(run_id, "succeeded", "failed")
        self.assertEqual(row["status"], "succeeded", row)

    def test_a_wrong_bucket_stops_the_start_with_a_sentence(self):
        worker = self.start("--s3-bucket=nothing-here")
        self.assertEqual(worker.wait(timeout=60), 2)
        (log,) = self.folder.glob("worker-*.log")
        self.assertIn("has no bucket nothing-here", log.read_text())
        self.assertNotIn("Traceback", log.read_text())


class TestFilesystemRoot(KernelCase):
    def test_the_store_of_this_server_is_a_folder_unless_told_otherwise(self):
        with self.environment() as env:
            self.assertIsInstance(open_store(env, "filesystem"), FilesystemStore)
