"""Who may see, verify and export the trail, in the console and over HTTP."""

import json

from odoo.exceptions import AccessError
from odoo.tests import tagged

from .http_case import DoorCase

EXPORT = "/ops/audit/export"


@tagged("post_install", "-at_install")
class TestHttpAudit(DoorCase):
    def get(self, path, key="owner", method="GET", **headers):
        if key:
            headers["Authorization"] = f"Bearer {self.keys.get(key, key)}"
        self.env.flush_all()
        return self.url_open(path, headers=headers, method=method, allow_redirects=False)

    def lines(self, response):
        self.assertEqual(response.status_code, 200, response.text[:200])
        return [json.loads(line) for line in response.content.split(b"\n") if line]

    def assertRefused(self, response, code, status):
        self.assertEqual(response.status_code, status, response.text[:200])
        self.assertEqual(response.json()["code"], code)

    def make_checkpoint(self, *projects):
        """A row to look at; a real one would be committed outside this test's transaction."""
        facts = {"root": "0" * 64, "hash": "0" * 64, "key_id": "0" * 64, "number": 10**9}
        checkpoint = self.env["ops.audit.checkpoint"].create(
            {
                **facts,
                "database_uuid": "test",
                "timestamp": "2026-01-01 00:00:00",
                "public_key": "-",
                "signature": "-",
            }
        )
        for project in projects:
            self.env["ops.audit.checkpoint.project"].create(
                {"checkpoint_id": checkpoint.id, "project_id": project.id, "root": "0" * 64}
            )
        return checkpoint

    def test_an_export_holds_the_runs_of_its_project(self):
        run = self.queue()
        self.finish(run)
        response = self.get(f"{EXPORT}?project=door-test")
        lines = self.lines(response)
        self.assertEqual(lines[0]["project"], {"id": self.project.id, "slug": "door-test"})
        events = [line["message"] for line in lines if line["kind"] == "event"]
        self.assertEqual(events, ["queued", "claimed", "running", "succeeded"])
        self.assertEqual((lines[-1]["kind"], lines[-1]["event_count"]), ("end", 4))
        self.assertIn("audit-door-test.jsonl", response.headers["Content-Disposition"])
        self.assertEqual(response.headers["Content-Type"], "application/x-ndjson; charset=utf-8")
        self.assertEqual(response.headers["Cache-Control"], "no-store")

    def test_administrators_and_owners_export_their_project(self):
        path = f"{EXPORT}?project=door-test"
        for key in ("owner", "admin", "platform"):
            self.assertEqual(self.lines(self.get(path, key))[-1]["kind"], "end")
        for key in ("developer", "viewer", "foreign"):
            self.assertRefused(self.get(path, key), "forbidden", 403)
        for path in (f"{EXPORT}?project=door-other", f"{EXPORT}?project=none"):
            self.assertRefused(self.get(path), "forbidden", 403)

    def test_only_platform_administrators_export_all_projects(self):
        self.assertIsNone(self.lines(self.get(EXPORT, "platform"))[0]["project"])
        for key in ("owner", "viewer", "foreign"):
            self.assertRefused(self.get(EXPORT, key), "forbidden", 403)

    def test_strangers_are_refused_or_asked_to_log_in(self):
        self.assertRefused(self.get(EXPORT, None), "unauthorized", 401)
        self.assertRefused(self.get(EXPORT, "wrong"), "unauthorized", 401)
        self.assertRefused(self.get(EXPORT, method="POST"), "method_not_allowed", 405)
        response = self.get(f"{EXPORT}?project=door-test", None, Accept="text/html")
        self.assertIn("/web/login?redirect=/ops/audit/export", response.headers["Location"])
        self.authenticate("door_owner", "door_owner")
        self.assertEqual(
            self.lines(self.get(f"{EXPORT}?project=door-test", None))[-1]["kind"], "end"
        )

    def test_checkpoints_are_for_those_who_manage_one_of_their_projects(self):
        checkpoint = self.make_checkpoint(self.project, self.other)
        for name, allowed in (
            ("platform", True),
            ("owner", True),
            ("admin", True),
            ("developer", False),
            ("viewer", False),
            ("foreign", False),
        ):
            with self.subTest(user=name):
                seen = checkpoint.with_user(self.people[name])
                self.assertEqual(seen.has_access("read"), allowed)
                self.assertFalse(seen.has_access("write") or seen.has_access("unlink"))
        parts = self.env["ops.audit.checkpoint.project"].with_user(self.people["owner"])
        found = parts.search([("checkpoint_id", "=", checkpoint.id)])
        self.assertEqual(found.project_id, self.project)
        foreign = self.make_user("other_owner")
        self.assertFalse(checkpoint.with_user(foreign).has_access("read"))

    def test_the_buttons_follow_the_roles(self):
        self.finish(self.queue())
        for name in ("owner", "admin", "platform"):
            project = self.project.with_user(self.people[name])
            self.assertTrue(project.can_audit)
            self.assertIn("door-test", project.action_export_trail()["url"])
        for name in ("developer", "viewer"):
            project = self.project.with_user(self.people[name])
            self.assertFalse(project.can_audit)
            self.assertRaises(AccessError, project.action_export_trail)
            self.assertRaises(AccessError, project.action_verify_trail)
        checkpoints = self.env["ops.audit.checkpoint"].with_user(self.people["owner"])
        for button in ("action_make", "action_verify", "action_export"):
            self.assertRaises(AccessError, getattr(checkpoints, button))

    def test_the_buttons_of_the_list_need_no_record(self):
        self.authenticate("door_platform", "door_platform")
        self.env.flush_all()
        for button in ("action_verify", "action_export"):
            action = self.make_jsonrpc_request(
                f"/web/dataset/call_button/ops.audit.checkpoint/{button}",
                {"model": "ops.audit.checkpoint", "method": button, "args": [[]], "kwargs": {}},
            )
            self.assertIn(action["type"], ("ir.actions.client", "ir.actions.act_url"))

    def test_the_project_s_button_says_that_the_trail_holds(self):
        self.finish(self.queue())
        project = self.project.with_user(self.people["owner"])
        self.assertEqual(project.action_verify_trail()["params"]["type"], "success")

    def test_the_console_verifies_and_shows_checkpoints(self):
        self.finish(self.queue())
        self.env.flush_all()
        done = "console.log('test successful')"
        self.browser_js(
            f"/odoo/ops-projects/{self.project.id}",
            "document.querySelector('button[name=action_verify_trail]').click();"
            "setInterval(() => {"
            " const told = document.querySelector('.o_notification')?.textContent || '';"
            f" if (told.includes('as it was written')) {{ {done}; }} }}, 100)",
            "!!document.querySelector('button[name=action_export_trail]')",
            login="door_owner",
        )
        checkpoint = self.make_checkpoint(self.project)
        self.env.flush_all()
        self.browser_js(
            f"/odoo/ops-audit/{checkpoint.id}",
            done,
            "document.body.textContent.includes('Checkpoint')",
            login="door_owner",
        )
        self.browser_js(
            "/odoo/ops-audit",
            done,
            "!!document.querySelector('.o_list_view button[name=action_make]')"
            f" && document.body.textContent.includes('{checkpoint.hash[:7]}')",
            login="door_platform",
        )
