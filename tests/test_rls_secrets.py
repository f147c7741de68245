"""Secrets at the SQL door: nobody reads them, and only the holder of a running run is given any."""

import json
import uuid

import psycopg2.errorcodes

from odoo.tests import tagged

from .sql_door_case import PEOPLE, SqlDoorCase

TABLES = ("ops_secret", "ops_secret_value", "ops_secret_change")
DENIED = psycopg2.errorcodes.INSUFFICIENT_PRIVILEGE


@tagged("post_install", "-at_install")
class TestRlsSecrets(SqlDoorCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.worker = cls.make_login(granted="ops_worker")

    @classmethod
    def _delete_everything(cls):
        cls.db.rows("BEGIN")
        cls.db.rows("ALTER TABLE ops_secret_change DISABLE TRIGGER USER")
        cls.db.rows("DELETE FROM ops_secret_change WHERE project_id = ANY(%s)", cls.project_ids)
        cls.db.rows("ALTER TABLE ops_secret_change ENABLE TRIGGER USER")
        cls.db.rows("COMMIT")
        return super()._delete_everything()

    def setUp(self):
        super().setUp()
        self.secret_ids = {
            (name, environment): self.make_secret(name, environment, protected)
            for name, environment, protected in (
                ("TOKEN", None, False),
                ("TOKEN", "dev", False),
                ("DEPLOY", None, True),
                ("OTHER", None, False),
            )
        }
        self.make_secret("TOKEN", None, False, project_id=self.foreign, sealed="Zm9yZWlnbg==")
        self.addCleanup(
            self.db.rows, "DELETE FROM ops_secret WHERE project_id = ANY(%s)", self.project_ids
        )
        self.worker_id = str(uuid.uuid4())
        # What waits in other projects must not be claimed here.
        others = [
            row["id"]
            for row in self.db.rows(
                "UPDATE ops_project SET paused = true"
                " WHERE id <> %s AND paused IS NOT TRUE RETURNING id",
                self.own,
            )
        ]
        self.addCleanup(
            self.db.rows, "UPDATE ops_project SET paused = false WHERE id = ANY(%s)", others
        )

    def make_secret(self, name, environment, protected, project_id=None, sealed="c2VhbGVk"):
        secret_id = self.db.value(
            "INSERT INTO ops_secret (project_id, name, environment, protected)"
            " VALUES (%s, %s, %s, %s) RETURNING id",
            *(project_id or self.own, name, environment, protected),
        )
        reply = self.db.call(
            "set_secret_value", secret_id=secret_id, key_id="0123456789abcdef", sealed=sealed
        )
        self.assertTrue(reply["success"], reply)
        return secret_id

    def running(self, workflow_type="test", secrets=("TOKEN",), metadata=None, start=True):
        """A run that the worker holds; its secrets as its workflow has them when it is queued."""
        workflow_id = self.workflow(self.own, workflow_type)
        self.db.rows(
            "UPDATE ops_workflow SET config = config || jsonb_build_object('secrets', %s::jsonb)"
            " WHERE id = %s",
            json.dumps(list(secrets)),
            workflow_id,
        )
        queued = self.db.call("queue_run", workflow_id=workflow_id, metadata=metadata or {})
        run_id = queued["run_id"]
        self.db.rows("UPDATE ops_run SET priority = 1000 WHERE id = %s", run_id)
        claim = self.worker.call("claim_next_run", worker_id=self.worker_id)
        self.assertEqual(claim["run_id"], run_id)
        held = {"run_id": run_id, "worker_id": self.worker_id, "epoch": claim["epoch"]}
        if start:
            self.assertTrue(self.worker.call("start_workflow_run", **held)["success"])
        return held

    def end(self, held):
        reply = self.worker.call("complete_workflow_run", exit_code=0, **held)
        self.assertTrue(reply["success"], reply)

    def test_no_login_reads_or_writes_a_table_of_secrets(self):
        # Rule: R-27
        for login in (*(self.logins[person] for person in PEOPLE), self.worker):
            for table in TABLES:
                for statement in (
                    f"SELECT * FROM public.{table}",
                    f"SELECT count(*) FROM public.{table}",
                    f"INSERT INTO public.{table} DEFAULT VALUES",
                    f"DELETE FROM public.{table}",
                    f"COPY public.{table} TO STDOUT",
                ):
                    self.assertEqual(login.attempt(statement), DENIED, (login.role, statement))

    def test_a_login_that_is_granted_the_tables_by_mistake_still_sees_no_row(self):
        login = self.logins["platform"]
        for table in TABLES:
            self.db.rows(f"GRANT SELECT ON public.{table} TO {login.role}")
            try:
                self.assertEqual(login.value(f"SELECT count(*) FROM public.{table}"), 0, table)
            finally:
                self.db.rows(f"REVOKE SELECT ON public.{table} FROM {login.role}")

    def test_nobody_but_a_worker_calls_the_functions(self):
        held = self.running()
        arguments = "%s, %s, %s"
        for person in PEOPLE:
            self.assertEqual(
                self.logins[person].attempt(
                    f"SELECT {self.schema}.run_secrets({arguments})", *held.values()
                ),
                DENIED,
            )
        for function, values in (
            ("set_secret_value", (self.secret_ids["TOKEN", None], "x", "")),
            ("reseal_secret", (self.secret_ids["TOKEN", None], "", "x", "")),
            ("record_secret_change", (self.secret_ids["TOKEN", None], "set")),
            ("list_secrets_to_reseal", ("", 0, 10)),
            ("list_secret_keys", ()),
            ("secrets_to_mask", (held["run_id"],)),
        ):
            marks = ", ".join(["%s"] * len(values))
            for login in (self.logins["platform"], self.worker):
                statement = f"SELECT * FROM {self.schema}.{function}({marks})"
                self.assertEqual(login.attempt(statement, *values), DENIED, function)
        self.end(held)

    def test_the_holder_of_a_running_run_and_nobody_else(self):
        held = self.running(start=False)
        self.assertRefused(self.worker.call("run_secrets", **held), "invalid_state")
        self.assertTrue(self.worker.call("start_workflow_run", **held)["success"])
        for wrong, code in (
            ({"epoch": held["epoch"] + 1}, "stale_epoch"),
            ({"worker_id": str(uuid.uuid4())}, "not_holder"),
            ({"run_id": self.runs["foreign"]["owner", "queued"]}, "stale_epoch"),
            ({"run_id": -1}, "not_found"),
            ({"epoch": None}, "invalid_input"),
            ({"worker_id": None}, "invalid_input"),
        ):
            with self.subTest(wrong=wrong):
                self.assertRefused(self.worker.call("run_secrets", **{**held, **wrong}), code)
        reply = self.worker.call("run_secrets", **held)
        self.assertEqual([secret["sealed"] for secret in reply["secrets"]], ["c2VhbGVk"])
        self.end(held)
        self.assertRefused(self.worker.call("run_secrets", **held), "stale_epoch")

    def test_only_what_the_snapshot_names_of_the_project_and_environment(self):
        def given(secrets, **options):
            held = self.running(secrets=secrets, **options)
            reply = self.worker.call("run_secrets", **held)
            self.end(held)
            names = [(item["name"], item["environment"]) for item in reply["secrets"]]
            return names, reply["missing"], reply["withheld"]

        self.assertEqual(given([]), ([], [], []))
        self.assertEqual(given(["TOKEN"]), ([("TOKEN", None)], [], []))
        file = {"name": "TOKEN", "as": "file"}
        dev = {"metadata": {"environment": "dev"}}
        self.assertEqual(given([file], **dev), ([("TOKEN", "dev")], [], []))
        self.assertEqual(given(["OTHER"], **dev), ([("OTHER", None)], [], []))
        prod = {"metadata": {"environment": "prod"}}
        self.assertEqual(given(["TOKEN"], **prod), ([("TOKEN", None)], [], []))
        self.assertEqual(given(["DEPLOY", "NONE"]), ([], ["NONE"], ["DEPLOY"]))
        deploy = {"workflow_type": "deploy"}
        self.assertEqual(given(["DEPLOY"], **deploy), ([("DEPLOY", None)], [], []))

    def test_a_workflow_edited_after_queueing_gives_no_more(self):
        held = self.running(secrets=["TOKEN"])
        self.db.rows(
            'UPDATE ops_workflow SET config = config || \'{"secrets": ["OTHER"]}\' WHERE id = %s',
            self.workflow(self.own, "test"),
        )
        reply = self.worker.call("run_secrets", **held)
        self.assertEqual([item["name"] for item in reply["secrets"]], ["TOKEN"])
        self.end(held)

    def test_the_trail_of_the_run_says_once_what_it_was_given(self):
        held = self.running(secrets=["TOKEN", "OTHER"])
        for _repeated in range(3):
            self.worker.call("run_secrets", **held)
        events = self.db.rows(
            "SELECT payload FROM ops_run_event WHERE run_id = %s AND message = 'secrets given'",
            held["run_id"],
        )
        names = [event["payload"] for event in events]
        self.assertEqual(names, [{"epoch": held["epoch"], "names": ["OTHER", "TOKEN"]}])
        self.end(held)
