"""What the tests of the HTTP doors share: projects, people of every role, and their keys."""

import json
from datetime import datetime, timedelta

from odoo import SUPERUSER_ID, api
from odoo.modules.registry import Registry
from odoo.tests import HttpCase, new_test_user
from odoo.tests.common import get_db_name

from ..models.roles import ROLES

STEPS = {"steps": [{"name": "Work", "run": "true"}]}


class WorkerTokens:
    """For a test case: two worker tokens, whose ``credentials`` go into the files of two hosts."""

    @classmethod
    def setUpClass(cls):
        # Committed before the class's own transaction begins: the kernel's transactions see it.
        with Registry(get_db_name()).cursor() as cr:
            env = api.Environment(cr, SUPERUSER_ID, {})
            tokens = env["ops.worker.token"]
            cls.token_ids, cls.credentials = [], []
            for host in ("build-1", "build-2"):
                token, text = tokens._make("worker", host, timedelta(days=90))
                cls.token_ids.append(token.id)
                cls.credentials.append(
                    {"token": text, "expires_at": f"{token.expires_at}Z", "valid_days": 90}
                )
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        with Registry(get_db_name()).cursor() as cr:
            cr.execute("DELETE FROM ops_worker_token WHERE id = ANY(%s)", [cls.token_ids])


class DoorCase(HttpCase):
    """Two projects: ``project`` with a member of each role, ``other`` with none of them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.project = cls.env["ops.project"].create({"name": "Door", "slug": "door-test"})
        cls.other = cls.env["ops.project"].create({"name": "Other", "slug": "door-other"})
        cls.workflows = {
            workflow_type: cls.make_workflow(cls.project, workflow_type)
            for workflow_type in ("build", "test", "deploy", "backup")
        }
        cls.other_workflow = cls.make_workflow(cls.other, "test")
        cls.people = {role: cls.make_member(role) for role, _label in ROLES}
        cls.people["foreign"] = cls.make_user("foreign")
        cls.people["platform"] = cls.make_user("platform", "odooops.group_platform_admin")
        cls.keys = {name: cls.make_key(user) for name, user in cls.people.items()}

    @classmethod
    def make_workflow(cls, project, workflow_type, **values):
        return cls.env["ops.workflow"].create(
            {
                "name": workflow_type.title(),
                "project_id": project.id,
                "workflow_type": workflow_type,
                "config": STEPS,
                **values,
            }
        )

    @classmethod
    def make_user(cls, name, groups="odooops.group_user"):
        return new_test_user(cls.env, login=f"door_{name}", groups=groups)

    @classmethod
    def make_member(cls, role):
        user = cls.make_user(role)
        cls.env["ops.project.membership"].create(
            {"project_id": cls.project.id, "user_id": user.id, "role": role}
        )
        return user

    @classmethod
    def make_key(cls, user, scope="odooops", expires=None):
        expires = expires or datetime.now() + timedelta(days=7)
        keys = cls.env["res.users.apikeys"].with_user(user).sudo()
        return keys._generate(scope, "test", expires)

    # -- the kernel, as a worker would use it, inside the test's transaction ----------------

    def kernel(self, function, **arguments):
        return self.env["ops.kernel"]._call(function, **arguments)

    def queue(self, workflow_type="test", user="owner", **arguments):
        """A queued run, requested by that person."""
        workflow = self.workflows[workflow_type].with_user(self.people[user])
        return workflow.queue_run(**arguments).with_user(self.env.user)

    def claim(self, run):
        """Claim that run: the only one that is queued. Returns its epoch."""
        claimed = self.kernel("claim_next_run", worker_id="door-test")
        self.assertEqual(claimed["run_id"], run.id)
        self.kernel(
            "start_workflow_run", run_id=run.id, worker_id="door-test", epoch=claimed["epoch"]
        )
        return claimed["epoch"]

    def finish(self, run, lines=(), artifacts=(), exit_code=0, **result):
        """Let a worker execute the run: log these lines, record these artifacts, complete."""
        epoch = self.claim(run)
        if lines:
            self.kernel(
                "append_run_logs",
                run_id=run.id,
                epoch=epoch,
                first_seq=1,
                lines=[{"level": "info", "message": line} for line in lines],
            )
        for artifact in artifacts:
            reply = self.kernel("add_run_artifact", run_id=run.id, epoch=epoch, **artifact)
            self.assertTrue(reply["success"], reply)
        self.kernel(
            "complete_workflow_run", run_id=run.id, epoch=epoch, exit_code=exit_code, **result
        )

    # -- the door -----------------------------------------------------------------------

    def post(self, body, key=None, **headers):
        """Send bytes, text or a document; the response of requests."""
        if not isinstance(body, bytes | str):
            body = json.dumps(body)
        if key:
            headers["Authorization"] = f"Bearer {self.keys.get(key, key)}"
        self.env.flush_all()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        response = self.url_open("/ops/jsonrpc", data=body or b" ", headers=headers)
        self.env.invalidate_all()
        return response

    def request(self, method, params=None, key="developer", **headers):
        document = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        return self.post(document, key, **headers)

    def call(self, method, params=None, key="developer", **headers):
        """The result of a call that succeeds."""
        response = self.request(method, params, key, **headers)
        self.assertEqual(response.status_code, 200, response.text)
        self.assertIn("result", response.json(), response.text)
        return response.json()["result"]

    def assertError(self, response, code, status=None):
        """The response is a JSON-RPC error of that code; returns its ``error``."""
        self.assertIn("application/json", response.headers["Content-Type"], response.text[:200])
        document = response.json()
        self.assertEqual(document["jsonrpc"], "2.0")
        self.assertEqual(document["error"]["data"]["code"], code, response.text)
        if status:
            self.assertEqual(response.status_code, status, response.text)
        self.assertTrue(document["error"]["message"])
        self.assertNotIn("Traceback", response.text)
        return document["error"]

    def assertRefused(self, code, method, params=None, key="developer", status=None, **headers):
        return self.assertError(self.request(method, params, key, **headers), code, status)
