"""For every role, table and operation the ORM and the SQL door give the answer of the role matrix.

The expected answer is computed from ``MATRIX`` alone. The SQL door differs in one thing on
purpose: it is read-only, for every role; what people do there goes through functions.
"""

import json
from datetime import datetime, timedelta

import psycopg2.errorcodes
from hypothesis import given, settings
from hypothesis import strategies as st

from odoo.exceptions import AccessError
from odoo.tests import HttpCase, tagged

from ..models.roles import MATRIX
from ..models.sql_roles import VIEWS
from .sql_door_case import MEMBERS, MODELS, PEOPLE, STEPS, SqlDoorCase, SqlDoorData

PERMISSION_DENIED = psycopg2.errorcodes.INSUFFICIENT_PRIVILEGE
OPERATIONS = ("read", "create", "write", "unlink")
REGISTERS = ("tools", "upgrade_advisories")
# Row of the matrix that allows an operation on the rows of a project; what is not here nobody may.
ROW_OF_MATRIX = {
    ("projects", "write"): "manage_project",
    ("projects", "unlink"): "archive_project",
    ("workflows", "create"): "edit_workflow",
    ("workflows", "write"): "edit_workflow",
    ("workflows", "unlink"): "edit_workflow",
    ("project_memberships", "create"): "manage_members",
    ("project_memberships", "write"): "manage_members",
    ("project_memberships", "unlink"): "manage_members",
    **{(view, "read"): "read" for view in VIEWS if view not in REGISTERS},
}


def expected(person, view, operation, scope):
    """The answer of the role matrix, for a row of one's own project or of a foreign one."""
    if view in REGISTERS:
        return operation == "read" or person == "platform"
    row = ROW_OF_MATRIX.get((view, operation))
    if (view, operation) == ("projects", "create"):
        return True  # everybody may have one of their own
    if person == "platform":
        return row is not None
    return row is not None and scope == "own" and person in MATRIX[row]


def allowed(action):
    """Whether the ORM lets somebody do it."""
    try:
        action()
    except AccessError:
        return False
    return True


@tagged("post_install", "-at_install")
class TestRlsParity(SqlDoorCase):
    def _cases(self):
        for person in PEOPLE:
            for view in VIEWS:
                for scope in ("own", "foreign"):
                    yield person, view, scope

    def _row(self, view, scope):
        """A committed row of the project, or of the register."""
        if view in REGISTERS:
            return self.registers[view]
        return min(self.rows_of[scope][view])

    # -- rows ---------------------------------------------------------------------------

    def test_every_operation_on_every_table_for_every_role(self):
        # Rule: R-20
        for person, view, scope in self._cases():
            for operation in OPERATIONS:
                want = expected(person, view, operation, scope)
                with self.subTest(person=person, view=view, operation=operation, scope=scope):
                    self.assertEqual(self._orm_allows(person, view, operation, scope), want)
                    self.assertEqual(
                        self._sql_allows(person, view, operation, scope),
                        want and operation == "read",
                    )

    def _sql_allows(self, person, view, operation, scope):
        """Tried on the view and on the table beneath it, which must agree."""
        row_id = self._row(view, scope)
        answers = set()
        for relation in (f"{self.schema}.{view}", f"public.{VIEWS[view]}"):
            if operation == "read":
                rows = self.logins[person].rows(f"SELECT id FROM {relation} WHERE id = %s", row_id)
                answers.add(bool(rows))
                continue
            statement = {
                "create": f"INSERT INTO {relation} (id) VALUES (-%s)",
                "write": f"UPDATE {relation} SET id = id WHERE id = %s",
                "unlink": f"DELETE FROM {relation} WHERE id = %s",
            }[operation]
            sqlstate = self.logins[person].attempt(statement, row_id)
            answers.add(sqlstate != PERMISSION_DENIED)
        self.assertEqual(len(answers), 1, "view and table give different answers")
        return answers.pop()

    def _orm_allows(self, person, view, operation, scope):
        user_id = self.user_by_name[person]
        with self.orm(user_id) as env:
            if operation == "read":
                return env[MODELS[view]].browse(self._row(view, scope)).has_access("read")
            if view in ("runs", "run_events", "run_logs", "run_artifacts"):
                return env[MODELS[view]].browse(self._row(view, scope)).has_access(operation)
            project = env["ops.project"].browse(self.own if scope == "own" else self.foreign)
            return self._orm_tries(env, view, operation, project)

    def _orm_tries(self, env, view, operation, project):
        """Really do it, on a row made for the purpose."""
        sudo = env(su=True)
        member = sudo["res.users"].browse(self.newcomer)
        values = {
            "projects": {"name": "New", "slug": "sql-door-new"},
            "workflows": {
                "name": "New",
                "project_id": project.id,
                "workflow_type": "test",
                "config": STEPS,
            },
            "project_memberships": {
                "project_id": project.id,
                "user_id": member.id,
                "role": "viewer",
            },
            "tools": {"tool_name": "new", "version": "1", "docker_image": "new:1"},
            "upgrade_advisories": {"title": "New", "to_version": "21.0"},
        }[view]
        model = env[MODELS[view]]
        if operation == "create":
            return allowed(lambda: model.create(values))
        record = model.sudo().create(values)
        if view == "projects":
            # The new project has the members of the one it stands for.
            sudo["ops.project.membership"].create(
                {"project_id": record.id, "user_id": member.id, "role": "owner"}
            )
            record.membership_ids.filtered(lambda m: m.user_id != member).unlink()
            for membership in project.sudo().membership_ids:
                membership.copy({"project_id": record.id})
        env.flush_all()
        record = record.with_env(env)
        if operation == "write":
            field = {"upgrade_advisories": "title", "tools": "docker_image"}.get(view, "name")
            change = {"role": "developer"} if view == "project_memberships" else {field: "Other"}
            return allowed(lambda: record.write(change))
        return allowed(record.unlink)

    def test_whole_tables_look_the_same_through_both_doors(self):
        for person in PEOPLE:
            self.assertSameRows(self.user_by_name[person], self.logins[person])

    # -- functions ----------------------------------------------------------------------

    def test_who_queues(self):
        for person in PEOPLE:
            for scope in ("own", "foreign"):
                for workflow_type in ("test", "deploy"):
                    workflow_id = self.workflow(getattr(self, scope), workflow_type)
                    with self.subTest(person=person, scope=scope, workflow_type=workflow_type):
                        self._compare_act(
                            person,
                            scope,
                            "queue_run",
                            lambda env, workflow_id=workflow_id: (
                                env["ops.workflow"].browse(workflow_id).queue_run()
                            ),
                            ("queue_run", {"workflow_id": workflow_id}),
                        )

    def test_who_cancels_and_restarts(self):
        for person in PEOPLE:
            for scope in ("own", "foreign"):
                for requester in ("developer", "owner"):
                    row = "cancel_own_run" if person == requester else "cancel_run"
                    for function, method, state in (
                        ("cancel_run", "cancel", "queued"),
                        ("retry_run", "restart", "ended"),
                    ):
                        run_id = self.runs[scope][requester, state]
                        with self.subTest(
                            person=person, scope=scope, run_of=requester, function=function
                        ):
                            self._compare_act(
                                person,
                                scope,
                                row,
                                lambda env, run_id=run_id, method=method: getattr(
                                    env["ops.run"].browse(run_id), method
                                )(),
                                (function, {"run_id": run_id}),
                            )

    def test_who_asks_why_a_run_waits(self):
        for person in PEOPLE:
            for scope in ("own", "foreign"):
                run_id = self.runs[scope]["owner", "queued"]
                with self.subTest(person=person, scope=scope):
                    self._compare_act(
                        person,
                        scope,
                        "read",
                        lambda env, run_id=run_id: env["ops.api"]._explain_wait(run_id),
                        ("explain_wait", {"run_id": run_id}),
                    )

    def _compare_act(self, person, scope, row, act, call):
        """ORM and SQL allow it exactly when the matrix does; nothing has happened afterwards."""
        want = person == "platform" or (scope == "own" and person in MATRIX[row])
        with self.orm(self.user_by_name[person]) as env:
            self.assertEqual(allowed(lambda: act(env)), want, "ORM")
        function, arguments = call
        with self.logins[person].rolled_back() as login:
            reply = login.call(function, **arguments)
        self.assertEqual(reply["success"], want, reply)
        if not want:
            sees = scope == "own" and person in MEMBERS
            self.assertEqual(reply["code"], "forbidden" if sees else "not_found")

    def test_the_queue_and_the_chain_show_only_what_one_sees(self):
        for person in PEOPLE:
            login = self.logins[person]
            listed = {
                row["run_id"]
                for row in login.rows(f"SELECT * FROM {self.schema}.list_queued_runs()")
            }
            for scope in ("own", "foreign"):
                want = expected(person, "runs", "read", scope)
                run_id = self.runs[scope]["owner", "queued"]
                self.assertEqual(run_id in listed, want, (person, scope))
                problems = login.rows(f"SELECT * FROM {self.schema}.verify_events(%s)", run_id)
                self.assertEqual(not problems, want, (person, scope, problems))

    def test_the_matrix_in_the_kernel_is_the_matrix_of_the_models(self):
        rows = self.db.rows(f"SELECT operation, role FROM {self.schema}.role_permission")
        self.assertEqual(
            {(row["operation"], row["role"]) for row in rows},
            {(operation, role) for operation, roles in MATRIX.items() for role in roles},
        )


@tagged("post_install", "-at_install")
class TestRlsParityOfAnyMembership(SqlDoorCase):
    """The same comparison for memberships that nobody has thought of."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with cls.committed() as env:
            cls.extra = [cls._make_project(env, f"extra{number}", {}) for number in range(2)]

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(st.lists(st.sampled_from((None, *MEMBERS)), min_size=12, max_size=12))
    def test_any_membership_shows_the_same_rows(self, roles):
        projects = (self.own, self.foreign, *self.extra)
        people = ("stranger", "developer", "platform")
        pairs = [(person, project) for person in people for project in projects]
        wanted = [
            (self.user_by_name[person], project, role)
            for (person, project), role in zip(pairs, roles, strict=True)
            if role
        ]
        user_ids = [self.user_by_name[person] for person in people]
        self.db.rows("BEGIN")
        self.db.rows("DELETE FROM ops_project_membership WHERE user_id = ANY(%s)", user_ids)
        for user_id, project, role in wanted:
            self.db.rows(
                "INSERT INTO ops_project_membership (user_id, project_id, role)"
                " VALUES (%s, %s, %s)",
                *(user_id, project, role),
            )
        self.db.rows("COMMIT")
        for person in people:
            self.assertSameRows(self.user_by_name[person], self.logins[person])
            if person != "platform":
                visible = self.logins[person].ids("projects") & set(projects)
                members = {
                    project for user, project, _role in wanted if user == self.user_by_name[person]
                }
                self.assertEqual(visible, members)


@tagged("post_install", "-at_install")
class TestRlsParityJsonRpc(SqlDoorData, HttpCase):
    """What the JSON-RPC door reads out is what the SQL door shows."""

    @classmethod
    def setUpClass(cls):
        cls.open_door()
        super().setUpClass()

    def _call(self, key, method, **params):
        document = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        response = self.url_open(
            "/ops/jsonrpc",
            data=json.dumps(document),
            headers={"Authorization": f"Bearer {key}"},
        )
        return response.json().get("result")

    def _all_ids(self, key, method, view, **params):
        """Ids over all pages."""
        ids, cursor = set(), None
        while True:
            answer = self._call(key, method, cursor=cursor, **params)
            ids |= {row["id"] for row in answer[view]}
            cursor = answer["next_cursor"]
            if not cursor:
                return ids

    def test_json_rpc_reads_the_rows_that_sql_shows(self):
        # Rule: R-20
        expires = datetime.now() + timedelta(days=1)
        for person in PEOPLE:
            user = self.env["res.users"].browse(self.user_by_name[person])
            keys = self.env["res.users.apikeys"].with_user(user).sudo()
            key, login = keys._generate("odooops", "test", expires), self.logins[person]
            for view, method in (
                ("projects", "list_projects"),
                ("workflows", "list_workflows"),
                ("runs", "list_runs"),
            ):
                with self.subTest(person=person, view=view):
                    self.assertEqual(self._all_ids(key, method, view), login.ids(view))
            for scope in ("own", "foreign"):
                self._compare_run(key, login, self.runs[scope]["owner", "ended"])

    def _compare_run(self, key, login, run_id):
        def count(view):
            return login.value(
                f"SELECT count(*) FROM {self.schema}.{view} WHERE run_id = %s", run_id
            )

        with self.subTest(login=login.role, run_id=run_id):
            run = self._call(key, "get_run", run_id=run_id)
            self.assertEqual(bool(run), run_id in login.ids("runs"))
            log = self._call(key, "read_run_logs", run_id=run_id) or {"lines": []}
            self.assertEqual(len(log["lines"]), count("run_logs"))
            artifacts = self._call(key, "list_artifacts", run_id=run_id) or {"artifacts": []}
            self.assertEqual(len(artifacts["artifacts"]), count("run_artifacts"))
            chain = self._call(key, "verify_events", run_id=run_id) or {"events": 0}
            self.assertEqual(chain["events"], count("run_events"))
