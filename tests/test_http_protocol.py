"""The JSON-RPC door: who comes in, what it answers, and that nothing breaks it."""

import json
from datetime import datetime, timedelta
from unittest.mock import patch

from odoo.tests import tagged
from odoo.tools import mute_logger

from ..controllers.jsonrpc import MAX_BODY_BYTES
from ..models.ops_api import OpsApi
from .http_case import DoorCase

MISSING_ID = 2**31 - 1


@tagged("post_install", "-at_install")
class TestKeys(DoorCase):
    def assertUnauthorized(self, response):
        error = self.assertError(response, "unauthorized", 401)
        self.assertIn("Bearer", response.headers["WWW-Authenticate"])
        return error

    def test_a_key_of_the_scope_opens_the_door_and_leaves_no_cookie(self):
        response = self.request("list_projects")
        self.assertEqual(
            [row["slug"] for row in response.json()["result"]["projects"]], ["door-test"]
        )
        self.assertNotIn("session_id", response.headers.get("Set-Cookie", ""))

    def test_no_key_and_wrong_keys_get_one_and_the_same_answer(self):
        expired = self.make_key(self.people["owner"], expires=datetime.now() - timedelta(hours=1))
        answers = {
            json.dumps(self.assertUnauthorized(self.post("{}", None, Authorization=value)))
            for value in (
                "",
                "Bearer",
                "Bearer x",
                "Basic eDp4",
                f"Bearer {expired}",
                "Bearer ''",
                f"Bearer {self.keys['owner'][:8]}",
                f"Bearer {self.keys['owner']}x",
            )
        }
        answers.add(json.dumps(self.assertUnauthorized(self.post("{}"))))
        self.assertEqual(len(answers), 1)

    def test_keys_for_everything_or_for_something_else_are_refused(self):
        # Rule: R-23
        for scope in (None, "rpc", "odooops.none"):
            with self.subTest(scope=scope):
                key = self.make_key(self.people["owner"], scope)
                self.assertUnauthorized(self.request("list_projects", key=key))

    def test_a_user_without_the_group_is_refused(self):
        key = self.make_key(self.make_user("outsider", "base.group_user"))
        self.assertUnauthorized(self.request("list_projects", key=key))

    def test_an_archived_user_is_refused(self):
        user = self.make_user("gone")
        key = self.make_key(user)
        user.active = False
        self.assertUnauthorized(self.request("list_projects", key=key))

    def test_a_browser_session_is_no_key(self):
        self.authenticate("door_owner", "door_owner")
        self.assertUnauthorized(self.request("list_projects", key=None))

    def test_only_post_is_taken(self):
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            response = self.url_open("/ops/jsonrpc", method=method)
            self.assertError(response, "method_not_allowed", 405)
            self.assertEqual(response.headers["Allow"], "POST")


@tagged("post_install", "-at_install")
class TestProtocol(DoorCase):
    def test_what_is_not_json_is_a_parse_error(self):
        bodies = (
            b" ",
            b"x",
            b"{",
            b"\xff\xfe{}",
            b'{"a": "\xc3"}',
            b"\x00",
            b"[" * 100_000,
            b"NaN",
            b'{"jsonrpc": "2.0", "id": 1, "method": "list_projects", "params": {"limit": NaN}}',
            b'{"jsonrpc": "2.0", "id": 1, "method": "list_projects", "params": {"limit": 1e999}}',
            b'{"a": "\x01"}',
            b"1" * 10_000,
        )
        for body in bodies:
            with self.subTest(body=body[:60]):
                error = self.assertError(self.post(body, "developer"), "parse_error", 400)
                self.assertEqual(error["code"], -32700)

    def test_what_is_no_request_is_invalid(self):
        documents = (
            1,
            "x",
            None,
            True,
            {},
            {"jsonrpc": "1.0", "method": "x"},
            {"jsonrpc": "2.0"},
            {"jsonrpc": "2.0", "method": 1},
            {"jsonrpc": "2.0", "method": None, "id": 1},
            {"jsonrpc": "2.0", "method": "x", "id": {}},
            {"jsonrpc": "2.0", "method": "x", "id": []},
            {"jsonrpc": "2.0", "method": "x", "id": True},
            {"jsonrpc": "2.0", "method": "x", "id": "\0"},
            [],
            [{}] * 101,
        )
        for document in documents:
            with self.subTest(document=str(document)[:60]):
                response = self.post(json.dumps(document), "developer")
                error = self.assertError(response, "invalid_request", 400)
                self.assertEqual(error["code"], -32600)
                self.assertIsNone(response.json()["id"])

    def test_unknown_methods_are_named(self):
        for method in (
            "",
            "nonsense",
            "_queue_run",
            "__class__",
            "unlink",
            "env",
            "x" * 10_000,
            "ops.run/search",
            "méthode",
        ):
            with self.subTest(method=method[:20]):
                error = self.assertRefused("unknown_method", method, status=404)
                self.assertEqual(error["code"], -32601)

    def test_wrong_parameters_are_refused_with_field_and_reason(self):
        cases = (
            ("get_run", {}, "run_id"),
            ("get_run", {"run_id": None}, "run_id"),
            ("get_run", {"run_id": "1"}, "run_id"),
            ("get_run", {"run_id": 1.5}, "run_id"),
            ("get_run", {"run_id": True}, "run_id"),
            ("get_run", {"run_id": [1]}, "run_id"),
            ("get_run", {"run_id": 0}, "run_id"),
            ("get_run", {"run_id": -1}, "run_id"),
            ("get_run", {"run_id": 2**31}, "run_id"),
            ("get_run", {"run_id": 10**300}, "run_id"),
            ("get_run", {"run_id": 1, "artifacts": 1}, "artifacts"),
            ("get_run", {"run_id": 1, "nonsense": 1}, "nonsense"),
            ("get_run", {"run_id": 1, "n\0": 1}, ""),
            ("list_runs", {"limit": 0}, "limit"),
            ("list_runs", {"limit": 501}, "limit"),
            ("list_runs", {"status": "lost"}, "status"),
            ("list_runs", {"status": ["queued", 5]}, "status"),
            ("list_runs", {"project": "a\0b"}, "project"),
            ("list_runs", {"git_ref": "\ud800"}, "git_ref"),
            ("list_runs", {"cursor": "nonsense"}, "cursor"),
            ("list_runs", {"cursor": "WyJydW5zIiwgdHJ1ZV0="}, "cursor"),
            ("queue_run", {}, "workflow_id"),
            ("queue_run", {"project": "door-test"}, "workflow_id"),
            ("queue_run", {"project": "door-test", "workflow_type": "dance"}, "workflow_type"),
            ("queue_run", {"project": "door-test", "workflow_type": "upgrade"}, "workflow_type"),
            ("queue_run", {"workflow_id": 1, "metadata": []}, "metadata"),
            ("queue_run", {"workflow_id": 1, "metadata": {"a": [{"b": "\0"}]}}, "metadata.a[0].b"),
            ("queue_run", {"workflow_id": 1, "priority": 1001}, "priority"),
            ("queue_run", {"workflow_id": 1, "available_at": "tomorrow"}, "available_at"),
            (
                "queue_run",
                {"workflow_id": 1, "available_at": "2026-01-01T00:00:00"},
                "available_at",
            ),
            (
                "queue_run",
                {"workflow_id": 1, "available_at": "9999-12-31T23:00:00-14:00"},
                "available_at",
            ),
            ("queue_run", {"workflow_id": 1, "available_at": 5}, "available_at"),
            ("queue_run", {"workflow_id": 1, "idempotency_key": ""}, "idempotency_key"),
        )
        for method, params, field in cases:
            with self.subTest(method=method, params=str(params)[:80]):
                error = self.assertRefused("invalid_input", method, params, status=400)
                self.assertEqual(error["code"], -32602)
                self.assertEqual(error["data"]["field"], field)

    def test_parameters_go_by_name(self):
        for params in ([1], [], "x", 5, True, None):
            document = {"jsonrpc": "2.0", "id": 1, "method": "get_run", "params": params}
            self.assertError(self.post(document, "developer"), "invalid_input", 400)

    def test_deep_nesting_is_refused(self):
        deep = {}
        for _ in range(200):
            deep = {"a": [deep]}
        workflow_id = self.workflows["test"].id
        error = self.assertRefused(
            "invalid_input", "queue_run", {"workflow_id": workflow_id, "metadata": deep}, status=400
        )
        self.assertIn("deep", error["message"])

    def test_a_body_that_is_too_large_is_refused(self):
        body = b'"' + b"x" * MAX_BODY_BYTES + b'"'
        self.assertError(self.post(body, "developer"), "too_large", 413)

    def test_the_content_type_does_not_matter(self):
        document = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "list_projects"})
        for content_type in (
            "application/json",
            "application/x-www-form-urlencoded",
            "text/plain",
            "multipart/form-data; boundary=x",
            "nonsense",
        ):
            response = self.post(document, "developer", Content_Type=content_type)
            self.assertIn("result", response.json(), content_type)

    def test_a_notification_is_executed_and_not_answered(self):
        document = {
            "jsonrpc": "2.0",
            "method": "queue_run",
            "params": {"workflow_id": self.workflows["test"].id, "git_ref": "noted"},
        }
        response = self.post(document, "developer")
        self.assertEqual((response.status_code, response.content), (204, b""))
        self.assertEqual(self.env["ops.run"].search_count([("git_ref", "=", "noted")]), 1)
        response = self.post({"jsonrpc": "2.0", "method": "nonsense"}, "developer")
        self.assertEqual((response.status_code, response.content), (204, b""))

    def test_a_batch_is_answered_one_by_one(self):
        workflow_id = self.workflows["test"].id
        response = self.post(
            [
                {
                    "jsonrpc": "2.0",
                    "id": "a",
                    "method": "queue_run",
                    "params": {"workflow_id": workflow_id, "git_ref": "first"},
                },
                {
                    "jsonrpc": "2.0",
                    "id": "a",
                    "method": "queue_run",
                    "params": {"workflow_id": workflow_id, "git_ref": "-bad"},
                },
                {
                    "jsonrpc": "2.0",
                    "method": "queue_run",
                    "params": {"workflow_id": workflow_id, "git_ref": "third"},
                },
                5,
                {
                    "jsonrpc": "2.0",
                    "id": None,
                    "method": "get_run",
                    "params": {"run_id": MISSING_ID},
                },
                {"jsonrpc": "2.0", "id": 2.5, "method": "list_projects"},
            ],
            "developer",
        )
        self.assertEqual(response.status_code, 200)
        answers = response.json()
        self.assertEqual([answer["id"] for answer in answers], ["a", "a", None, None, 2.5])
        self.assertTrue(answers[0]["result"]["created"])
        codes = [answer["error"]["data"]["code"] for answer in answers if "error" in answer]
        self.assertEqual(codes, ["invalid_input", "invalid_request", "forbidden"])
        refs = self.env["ops.run"].search([("project_id", "=", self.project.id)]).mapped("git_ref")
        self.assertEqual(set(refs), {"first", "third"})

    def test_a_batch_does_not_mix_transactions(self):
        batch = [
            {"jsonrpc": "2.0", "id": 1, "method": "reap_lost_runs"},
            {"jsonrpc": "2.0", "id": 2, "method": "list_projects"},
        ]
        self.assertError(self.post(batch, "platform"), "invalid_request", 400)

    def test_an_unexpected_exception_is_logged_and_not_shown(self):
        # Rule: R-33
        def fail(self, **_arguments):
            raise RuntimeError("a secret detail")

        with (
            patch.object(OpsApi, "_list_projects", fail),
            self.assertLogs("odoo.addons.odooops.controllers.dispatcher", "ERROR") as logged,
        ):
            response = self.request("list_projects")
        error = self.assertError(response, "internal_error", 500)
        self.assertNotIn("secret", response.text)
        self.assertIn(error["data"]["incident"], logged.output[0])
        self.assertIn("a secret detail", logged.output[0])

    @mute_logger("odoo.sql_db", "odoo.service.model", "odoo.http")
    def test_what_postgresql_asks_to_repeat_is_repeated(self):
        def fail(self, **_arguments):
            self.env.cr.execute("DO $$ BEGIN RAISE serialization_failure; END $$")

        tries = []
        original = OpsApi._list_projects

        def fail_twice(self, **arguments):
            tries.append(arguments)
            if len(tries) < 3:
                fail(self)
            return original(self, **arguments)

        with (
            patch.object(OpsApi, "_list_projects", fail_twice),
            patch("odoo.service.model.random.uniform", return_value=0),
        ):
            self.call("list_projects")
        self.assertEqual(len(tries), 3)

        with (
            patch.object(OpsApi, "_list_projects", fail),
            patch("odoo.service.model.random.uniform", return_value=0),
        ):
            response = self.request("list_projects")
        self.assertError(response, "busy", 503)
        self.assertEqual(response.headers["Retry-After"], "1")
