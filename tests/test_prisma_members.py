"""The typed client as members of different projects, over logins of their own: each sees the rows
of their projects in every model and relation, and nobody else's."""

from odoo.tests import tagged

from ..models.sql_roles import VIEWS
from . import prisma_program
from .sql_door_case import SqlDoorCase

# What belongs to no project shows to every user of OdooOps.
REGISTERS = ("tools", "upgrade_advisories")


@tagged("post_install", "-at_install")
class TestPrismaMembers(SqlDoorCase):
    @classmethod
    def setUpClass(cls):
        prisma_program.compiled()
        super().setUpClass()
        with cls.committed() as env:
            env["ops.project.membership"].create(
                {"project_id": cls.foreign, "user_id": cls.newcomer, "role": "viewer"}
            )
        cls.rows_of["foreign"]["project_memberships"] = {
            row["id"]
            for row in cls.db.rows(
                "SELECT id FROM ops_project_membership WHERE project_id = %s", cls.foreign
            )
        }
        cls.logins["newcomer"] = cls.make_login(cls.newcomer, granted="ops_reader")
        cls.seen = {
            person: prisma_program.visible(login.role, login.password)
            for person, login in cls.logins.items()
            if person in ("viewer", "newcomer", "stranger")
        }

    def ids(self, person, view):
        model = self.seen[person]["models"][view]
        self.assertEqual(model["count"], len(model["ids"]), view)
        return set(model["ids"])

    def test_each_member_sees_the_rows_of_their_project_and_no_others(self):
        for view in set(VIEWS) - set(REGISTERS):
            with self.subTest(view=view):
                own, foreign = self.rows_of["own"][view], self.rows_of["foreign"][view]
                self.assertTrue(own and foreign, "the test has made no row")
                self.assertEqual(self.ids("viewer", view), own)
                self.assertEqual(self.ids("newcomer", view), foreign)
                self.assertFalse(own & foreign)

    def test_an_outsider_sees_no_row_of_any_project(self):
        for view in set(VIEWS) - set(REGISTERS):
            self.assertEqual(self.ids("stranger", view), set(), view)
        for name, pairs in self.seen["stranger"]["relations"].items():
            self.assertEqual(pairs, [], name)

    def test_relations_lead_to_rows_of_the_same_project_only(self):
        for person, project in (("viewer", "own"), ("newcomer", "foreign")):
            rows = set().union(*(self.rows_of[project].values()))
            reached = 0
            for name, pairs in self.seen[person]["relations"].items():
                reached += len(pairs)
                self.assertLessEqual({row for pair in pairs for row in pair}, rows, name)
            self.assertGreater(reached, 20)

    def test_enumerations_count_what_one_sees(self):
        for person, project in (("viewer", "own"), ("newcomer", "foreign")):
            statuses = self.seen[person]["enumerations"]["runs.status"]
            self.assertEqual(sum(statuses.values()), len(self.rows_of[project]["runs"]))
        self.assertFalse(any(self.seen["stranger"]["enumerations"]["runs.status"].values()))

    def test_registers_show_to_every_user(self):
        for view in REGISTERS:
            for person in self.seen:
                self.assertIn(self.registers[view], self.ids(person, view), (person, view))
