"""Who a database login is: nothing a client says about itself gains it a row."""

import json

from odoo.fields import Command
from odoo.tests import tagged

from ..models.sql_roles import VIEWS
from .document_commands import fences
from .sql_door_case import PEOPLE, SqlDoorCase

MISSING_ID = 2**31 - 1
PRIVATE_TABLES = (
    *("public.ops_worker", "public.ops_run_lease", "public.ops_project_gate"),
    *("public.ops_sql_login", "public.ops_upgrade_acknowledgement", "public.res_users"),
)


@tagged("post_install", "-at_install")
class TestSqlIdentity(SqlDoorCase):
    def assertSees(self, login, person):
        """The login sees exactly what that person's own login sees; None: nothing at all."""
        for view in VIEWS:
            wanted = self.logins[person].ids(view) if person else set()
            self.assertEqual(login.ids(view), wanted, view)

    def claim(self, login, claims):
        text = claims if isinstance(claims, str) else json.dumps(claims)
        login.rows("SELECT set_config('request.jwt.claims', %s, false)", text)

    # -- what a client says -------------------------------------------------------------

    def test_a_client_that_names_a_user_itself_gains_nothing(self):
        # Rule: R-21
        login = self.logins["viewer"]
        platform = self.user_by_name["platform"]
        login.rows("SELECT set_config('odooops.user_id', %s, false)", str(platform))
        self.claim(login, {"user_id": platform})
        self.assertEqual(
            login.value(f"SELECT {self.schema}.acting_user_id()"), self.user_by_name["viewer"]
        )
        self.assertSameRows(self.user_by_name["viewer"], login)
        reply = login.call("queue_run", workflow_id=self.workflow(self.own, "test"))
        self.assertRefused(reply, "forbidden")
        reply = login.call("queue_run", workflow_id=self.workflow(self.foreign, "test"))
        self.assertRefused(reply, "not_found")

    def test_the_call_of_the_document_queues_one_run(self):
        call, _search = fences("docs/sql.md", "Functions")
        workflow_id = self.workflow(self.own, "test")
        call = call.replace("p_workflow_id => 7", f"p_workflow_id => {workflow_id}")
        call = call.replace("ops.", f"{self.schema}.")
        with self.logins["developer"].rolled_back() as login:
            first, second = login.value(call), login.value(call)
            self.assertTrue(first["success"], first)
            self.assertEqual(second["run_id"], first["run_id"], "it has an idempotency key")
            found = login.rows(
                f"SELECT workflow_id, git_ref FROM {self.schema}.runs WHERE id = %s",
                first["run_id"],
            )
        self.assertEqual(found, [{"workflow_id": workflow_id, "git_ref": "main"}])

    def test_an_unregistered_login_sees_nothing_and_is_told_why(self):
        login = self.make_login()
        login.rows(
            "SELECT set_config('odooops.user_id', %s, false)", str(self.user_by_name["owner"])
        )
        self.claim(login, {"user_id": self.user_by_name["owner"]})
        self.assertSees(login, None)
        for run_id in (self.runs["own"]["owner", "queued"], MISSING_ID):
            reply = login.call("cancel_run", run_id=run_id)
            self.assertRefused(reply, "forbidden")
            self.assertIn("SQL logins", reply["error"])

    def test_the_role_in_use_does_not_matter(self):
        login = self.make_login(
            self.user_by_name["developer"], granted="ops_reader", options="NOINHERIT"
        )
        self.assertEqual(login.attempt(f"SELECT FROM {self.schema}.runs"), "42501")
        login.rows("SET ROLE ops_reader")
        self.assertSees(login, "developer")

    def test_a_login_acts_under_the_name_of_its_user(self):
        with self.logins["developer"].rolled_back() as login:
            reply = login.call("queue_run", workflow_id=self.workflow(self.own, "test"))
            row = login.rows(
                f"SELECT requested_by, trigger FROM {self.schema}.runs WHERE id = %s",
                reply["run_id"],
            )[0]
        self.assertEqual(row, {"requested_by": self.user_by_name["developer"], "trigger": "manual"})

    def test_a_login_cannot_say_that_a_schedule_asked(self):
        for trigger, accepted in (("api", True), ("schedule", False), ("webhook", False)):
            with self.logins["developer"].rolled_back() as login:
                reply = login.call(
                    "queue_run", workflow_id=self.workflow(self.own, "test"), trigger=trigger
                )
            self.assertEqual(reply["success"], accepted, reply)

    def test_what_is_foreign_looks_like_what_does_not_exist(self):
        # Rule: R-26
        run_id = self.runs["foreign"]["owner", "queued"]
        workflow_id = self.workflow(self.foreign, "test")
        for person in ("stranger", "owner"):
            login = self.logins[person]
            for function in ("cancel_run", "retry_run", "explain_wait"):
                foreign, missing = (
                    login.call(function, run_id=each) for each in (run_id, MISSING_ID)
                )
                foreign["error"] = foreign["error"].replace(str(run_id), str(MISSING_ID))
                self.assertEqual(foreign, missing, function)
            foreign, missing = (
                login.call("queue_run", workflow_id=each, idempotency_key="key")
                for each in (workflow_id, MISSING_ID)
            )
            foreign["error"] = foreign["error"].replace(str(workflow_id), str(MISSING_ID))
            self.assertEqual(foreign, missing)

    # -- what Odoo says -----------------------------------------------------------------

    def test_an_archived_user_has_no_login(self):
        login = self._login_of_new_member("archived", "odooops.group_user")
        self.assertSees(login, "viewer")
        with self.committed() as env:
            env["res.users"].browse(self.user_ids[-1]).active = False
        self.assertSees(login, None)

    def test_a_member_who_is_no_user_of_the_addon_sees_nothing(self):
        login = self._login_of_new_member("outsider", "base.group_user")
        self.assertSameRows(self.user_ids[-1], login)
        self.assertSees(login, None)

    def test_a_group_may_be_implied_by_another(self):
        with self.committed() as env:
            group = env["res.groups"].create(
                {
                    "name": f"Bosses {self.unique}",
                    "implied_ids": [Command.link(env.ref("odooops.group_platform_admin").id)],
                }
            )
            user = env["res.users"].create(
                {
                    "name": "Boss",
                    "login": f"sql-{self.unique}-boss",
                    "group_ids": [Command.set(group.ids)],
                }
            )
            self.user_ids.append(user.id)
        login = self.make_login(user.id)
        self.assertSameRows(user.id, login)
        self.assertSees(login, "platform")
        with self.committed() as env:
            group.with_env(env).unlink()
        self.assertSees(login, None)

    def _login_of_new_member(self, name, groups):
        with self.committed() as env:
            user_id = self._make_user(env, name, groups)
            membership = env["ops.project.membership"].create(
                {"project_id": self.own, "user_id": user_id, "role": "viewer"}
            )
        self.addCleanup(self._unlink_membership, membership.id)
        return self.make_login(user_id)

    def _unlink_membership(self, membership_id):
        self.db.rows("DELETE FROM ops_project_membership WHERE id = %s", membership_id)

    # -- gateways -----------------------------------------------------------------------

    def test_a_gateway_speaks_for_the_user_it_names(self):
        gateway = self.make_login(granted="ops_gateway", gateway=True)
        self.assertSees(gateway, None)
        for person in PEOPLE:
            self.claim(gateway, {"role": "ops_gateway", "user_id": self.user_by_name[person]})
            self.assertSees(gateway, person)
        gateway.rows("SET ROLE ops_gateway")
        self.claim(gateway, {"user_id": str(self.user_by_name["developer"])})
        self.assertSees(gateway, "developer")
        with gateway.rolled_back():
            reply = gateway.call("queue_run", workflow_id=self.workflow(self.own, "test"))
            self.assertTrue(reply["success"], reply)

    def test_claims_that_cannot_be_read_name_nobody(self):
        gateway = self.make_login(granted="ops_gateway", gateway=True)
        for claims in (
            *("", "{", "null", "[]", '"x"', "1", "{}"),
            *({"user_id": value} for value in (None, True, "x", 1.5, 2**40, -1, [], {})),
            {"user_id": MISSING_ID},
        ):
            with self.subTest(claims=claims):
                self.claim(gateway, claims)
                self.assertIsNone(gateway.value(f"SELECT {self.schema}.acting_user_id()"))
                self.assertEqual(gateway.ids("projects"), set())

    def test_a_gateway_takes_the_registration_and_the_grant(self):
        registered = self.make_login(granted="ops_operator", gateway=True)
        granted = self.make_login(granted="ops_gateway")
        for login in (registered, granted):
            self.claim(login, {"user_id": self.user_by_name["owner"]})
            self.assertSees(login, None)

    # -- what nobody reads or calls -----------------------------------------------------

    def test_private_tables_and_functions_are_closed(self):
        worker = self.make_login(granted="ops_worker")
        for login in (self.logins["platform"], worker):
            for table in (*PRIVATE_TABLES, f"{self.schema}.role_permission"):
                self.assertEqual(login.attempt(f"SELECT FROM {table}"), "42501", table)
            for call in ("finish_run(1, 'failed', 1, '', '', '{}')", "requeue(1)"):
                self.assertEqual(login.attempt(f"SELECT {self.schema}.{call}"), "42501", call)
        for view in VIEWS:
            self.assertEqual(worker.attempt(f"SELECT FROM {self.schema}.{view}"), "42501")
        self.assertEqual(
            self.logins["platform"].attempt(f"SELECT {self.schema}.claim_next_run('x')"), "42501"
        )
        self.assertEqual(worker.attempt(f"SELECT {self.schema}.cancel_run(1)"), "42501")

    def test_a_grant_too_many_opens_nothing(self):
        """A database administrator granted everything: policies and checks still hold."""
        login = self.logins["viewer"]
        role = login.role
        everything = f"ALL TABLES IN SCHEMA public TO {role}"
        self.db.rows(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {everything}")
        self.db.rows(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {self.schema} TO {role}")
        self.addCleanup(self._revoke_everything, role)
        self.assertSameRows(self.user_by_name["viewer"], login)
        for table in PRIVATE_TABLES[:-1]:
            self.assertEqual(login.rows(f"SELECT * FROM {table}"), [], table)
        for table in VIEWS.values():
            with login.rolled_back():
                login.rows(f"UPDATE {table} SET id = id")
                login.rows(f"DELETE FROM {table}")
            before = self.db.value(f"SELECT count(*) FROM {table}")
            login.rows(f"DELETE FROM {table}")
            self.assertEqual(self.db.value(f"SELECT count(*) FROM {table}"), before, table)
        for function, arguments in (
            ("claim_next_run", {"worker_id": "thief"}),
            ("register_worker", {"worker_id": "thief"}),
            ("heartbeat", {"worker_id": "thief"}),
            ("reap_lost_runs", {}),
            ("index_run_logs", {}),
            ("append_run_log", {"run_id": 1, "level": "info", "message": "x"}),
            ("complete_workflow_run", {"run_id": 1, "exit_code": 0}),
        ):
            self.assertRefused(login.call(function, **arguments), "forbidden")
        self.assertEqual(login.rows(f"SELECT * FROM {self.schema}.list_leases()"), [])
        self.assertFalse(self.db.rows("SELECT id FROM ops_worker WHERE worker_id = 'thief'"))

    def _revoke_everything(self, role):
        self.db.rows(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}")
        self.db.rows(f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {self.schema} FROM {role}")

    def test_nobody_puts_functions_in_the_way(self):
        """Odoo lets everybody create objects in public, where its own queries would find them."""
        for login in (self.logins["owner"], self.make_login(granted="ops_worker")):
            for schema in ("public", self.schema):
                statement = f"CREATE FUNCTION {schema}.lower(varchar) RETURNS text RETURN ''"
                self.assertEqual(login.attempt(statement), "42501")

    def test_a_function_with_its_own_tricks_sees_no_hidden_row(self):
        """A condition that raises for what it sees is asked after the policy, not before."""
        login = self.logins["stranger"]
        rows = login.rows(f"SELECT id FROM {self.schema}.runs WHERE 1 / (id - id) > 0")
        self.assertEqual(rows, [])
