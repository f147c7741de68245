"""The role matrix at the ORM's door: who reads, edits, queues, cancels, manages."""

from odoo.exceptions import AccessError, ValidationError
from odoo.fields import Command
from odoo.tests import TransactionCase, new_test_user, tagged

ROLES = ("viewer", "developer", "admin", "owner")


@tagged("post_install", "-at_install")
class TestModelsAccess(TransactionCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        groups = "odooops.group_user"
        cls.users = {
            name: new_test_user(cls.env, login=f"ops-{name}", groups=groups)
            for name in (*ROLES, "stranger", "other_developer")
        }
        cls.platform_admin = new_test_user(
            cls.env, login="ops-platform", groups="odooops.group_platform_admin"
        )
        cls.project = (
            cls.env["ops.project"]
            .with_user(cls.users["owner"])
            .create({"name": "Access", "slug": "access-test"})
            .sudo()
        )
        cls.env["ops.project.membership"].create(
            [
                {"project_id": cls.project.id, "user_id": cls.users[name].id, "role": role}
                for name, role in (
                    ("viewer", "viewer"),
                    ("developer", "developer"),
                    ("admin", "admin"),
                    ("other_developer", "developer"),
                )
            ]
        )
        cls.workflows = {
            workflow_type: cls.env["ops.workflow"].create(
                {
                    "name": workflow_type.title(),
                    "project_id": cls.project.id,
                    "workflow_type": workflow_type,
                    "config": {"steps": [{"name": "Say", "run": "echo hello"}]},
                }
            )
            for workflow_type in ("test", "deploy")
        }

    def test_administrators_and_owners_let_the_repository_change_the_configuration(self):
        def allow(user):
            self.project.with_user(user).repository_config = "all"

        self.assertMay({"admin", "owner"}, (*ROLES, "stranger"), allow)
        reply = self.workflows["test"].with_user(self.users["developer"]).queue_run()
        snapshot = reply.sudo().snapshot
        self.assertEqual(snapshot["project"]["repository_config"], "all")

    def assertMay(self, allowed, names, action):
        """Exactly the users in ``allowed`` out of ``names`` may do ``action(user)``."""
        for name in names:
            with self.subTest(user=name):
                if name in allowed:
                    action(self.users[name])
                else:
                    with self.assertRaises(AccessError), self.env.cr.savepoint():
                        action(self.users[name])

    def test_the_creator_of_a_project_owns_it(self):
        membership = self.project.membership_ids.filtered(lambda m: m.role == "owner")
        self.assertEqual(membership.user_id, self.users["owner"])

    def test_a_project_is_created_with_its_workflows_and_members_at_once(self):
        project = (
            self.env["ops.project"]
            .with_user(self.users["stranger"])
            .create(
                {
                    "name": "At once",
                    "slug": "at-once",
                    "workflow_ids": [Command.create({"name": "Test", "workflow_type": "test"})],
                    "membership_ids": [
                        Command.create({"user_id": self.users["viewer"].id, "role": "viewer"})
                    ],
                }
            )
        )
        self.assertEqual(project.my_role, "owner")
        self.assertEqual(project.workflow_ids.mapped("name"), ["Test"])
        self.assertEqual(len(project.membership_ids), 2)

    def test_strangers_see_nothing(self):
        run = self.workflows["test"].queue_run()
        stranger = self.users["stranger"]
        for record in (self.project, self.workflows["test"], run, run.event_ids):
            self.assertTrue(record.with_user(self.users["viewer"]).has_access("read"))
            self.assertFalse(record.with_user(stranger).has_access("read"), record._name)
            self.assertFalse(
                self.env[record._name].with_user(stranger).search([("id", "in", record.ids)])
            )
        self.assertTrue(run.with_user(self.platform_admin).has_access("read"))

    def test_developers_queue_every_type(self):
        for workflow in self.workflows.values():
            self.assertMay(
                {"developer", "admin", "owner"},
                (*ROLES, "stranger"),
                lambda user, workflow=workflow: workflow.with_user(user).queue_run(),
            )

    def test_a_run_remembers_who_asked_for_it(self):
        run = self.workflows["test"].with_user(self.users["developer"]).queue_run()
        self.assertEqual(run.requested_by, self.users["developer"])
        self.assertEqual(run.event_ids.payload["user_id"], self.users["developer"].id)

    def test_developers_edit_build_and_test_only(self):
        for workflow_type, allowed in (
            ("test", {"developer", "admin", "owner"}),
            ("deploy", {"admin", "owner"}),
        ):
            workflow = self.workflows[workflow_type]
            self.assertMay(
                allowed,
                (*ROLES, "stranger"),
                lambda user, workflow=workflow: workflow.with_user(user).write({"name": user.name}),
            )
            self.assertMay(
                allowed,
                (*ROLES, "stranger"),
                lambda user, workflow=workflow: workflow.with_user(user).copy(
                    {"name": f"copy of {user.name}"}
                ),
            )

    def test_a_developer_cannot_turn_a_test_into_a_deployment(self):
        workflow = self.workflows["test"].with_user(self.users["developer"])
        with self.assertRaises(AccessError):
            workflow.write({"workflow_type": "deploy"})

    def test_developers_cancel_and_restart_their_own_runs_managers_all(self):
        def cancel_own(user):
            run = self.workflows["test"].with_user(self.users["developer"]).queue_run()
            run.with_user(user).cancel("enough")
            self.assertEqual(run.status, "canceled")
            run.with_user(user).restart()

        self.assertMay(
            {"developer", "admin", "owner"},
            (*ROLES, "other_developer", "stranger"),
            cancel_own,
        )

    def test_nobody_writes_what_the_kernel_writes(self):
        # Rule: R-04
        run = self.workflows["test"].queue_run()
        for user in (*self.users.values(), self.platform_admin):
            for record in (run, run.event_ids):
                for operation in ("write", "unlink"):
                    with self.assertRaises(AccessError):
                        record.with_user(user).check_access(operation)
                with self.assertRaises(AccessError):
                    self.env[record._name].with_user(user).check_access("create")

    def test_managers_manage_members_but_only_owners_owners(self):
        newcomer = new_test_user(self.env, login="ops-new", groups="odooops.group_user")

        def add(user, role):
            membership = (
                self.env["ops.project.membership"]
                .with_user(user)
                .create({"project_id": self.project.id, "user_id": newcomer.id, "role": role})
            )
            membership.sudo().unlink()

        self.assertMay({"admin", "owner"}, ROLES, lambda user: add(user, "viewer"))
        self.assertMay({"owner"}, ROLES, lambda user: add(user, "owner"))
        admin_membership = self.project.membership_ids.filtered(lambda m: m.role == "admin")
        with self.assertRaises(AccessError):
            admin_membership.with_user(self.users["admin"]).role = "owner"

    def test_a_project_keeps_an_owner(self):
        # Rule: R-25
        owner = self.project.membership_ids.filtered(lambda m: m.role == "owner")
        with self.assertRaises(ValidationError), self.env.cr.savepoint():
            owner.with_user(self.users["owner"]).role = "viewer"
        with self.assertRaises(ValidationError), self.env.cr.savepoint():
            owner.with_user(self.users["owner"]).unlink()

    def test_only_owners_archive(self):
        self.assertMay(
            {"owner"}, ROLES, lambda user: self.project.with_user(user).write({"active": False})
        )

    def test_tools_and_advisories_are_the_platforms(self):
        tool = self.env["ops.tool"].create(
            {"tool_name": "access-tool", "version": "1", "docker_image": "x:1"}
        )
        self.assertTrue(tool.with_user(self.users["viewer"]).has_access("read"))
        self.assertFalse(tool.with_user(self.users["owner"]).has_access("write"))
        self.assertTrue(tool.with_user(self.platform_admin).has_access("write"))
