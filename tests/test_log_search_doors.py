"""Full-text search over log lines through the models, SQL logins and JSON-RPC: who finds what."""

from odoo.exceptions import UserError
from odoo.tests import TransactionCase, new_test_user, tagged

from .http_case import DoorCase
from .sql_door_case import PEOPLE, SqlDoorCase


@tagged("post_install", "-at_install")
class TestLogSearchModel(TransactionCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.env["ops.project"].search([("paused", "=", False)]).write({"paused": True})
        project = cls.env["ops.project"].create({"name": "Search", "slug": "search-model"})
        cls.workflow = cls.env["ops.workflow"].create(
            {"name": "Test", "project_id": project.id, "workflow_type": "test"}
        )
        kernel = cls.env["ops.kernel"]
        cls.run_record = cls.workflow.queue_run()
        claim = kernel._call("claim_next_run", worker_id="search-model")
        held = {"run_id": cls.run_record.id, "epoch": claim["epoch"]}
        kernel._call("start_workflow_run", worker_id="search-model", **held)
        kernel._call(
            "append_run_logs",
            **held,
            first_seq=1,
            lines=[
                {"message": "Deadlock detected", "level": "error", "metadata": {"step": "Test"}},
                {"message": "detected no deadlock", "metadata": {"step": "Install"}},
                {"message": "100% of a_b"},
            ],
        )
        cls.lines = cls.env["ops.run.log"].search([("run_id", "=", cls.run_record.id)])

    def find(self, *domain):
        return self.lines.search([("run_id", "=", self.run_record.id), *domain]).mapped("seq")

    def test_words_are_a_part_of_any_domain(self):
        self.assertEqual(self.find(("words", "=", "deadlock")), [1, 2])
        self.assertEqual(self.find(("words", "ilike", '"deadlock detected"')), [1])
        self.assertEqual(self.find(("words", "=", "deadlock -no OR 100%")), [1, 3])
        self.assertEqual(self.find(("words", "!=", "deadlock")), [3])
        self.assertEqual(self.find(("words", "=", "detected"), ("log_level", "=", "error")), [1])
        self.assertEqual(
            self.find("|", ("words", "=", "no"), ("words", "=", "a_b")),
            [2, 3],
        )

    def test_other_conditions_spare_the_batches_that_cannot_hold_a_match(self):
        """A list that would have to find more lines than the limit is refused, not waited for."""
        schema = self.env["ops.kernel"]._get_schema()
        self.env.cr.execute(
            f"CREATE OR REPLACE FUNCTION {schema}.max_searched_lines() RETURNS integer"
            " LANGUAGE sql IMMUTABLE RETURN 2"
        )
        with self.assertRaisesRegex(UserError, "rarer word"):
            self.find(("words", "=", "deadlock"))
        search = self.lines.search_count
        run = ("run_id", "=", self.run_record.id)
        for spared in (
            ("run_id", "=", self.run_record.id + 1),
            ("run_id", "in", [self.run_record.id + 1]),
            ("log_level", "in", ["debug", "warn"]),
            ("log_level", "=", "warn"),
            ("timestamp", ">", "now +1d"),
            ("timestamp", "<", "2020-01-01 00:00:00"),
        ):
            with self.subTest(spared=spared):
                self.assertEqual(search([spared, ("words", "=", "deadlock")]), 0)
        for not_spared in (
            [("timestamp", ">", "now -1d"), ("log_level", "=", "error"), run],
            ["|", ("log_level", "=", "warn"), run],
            ["!", ("log_level", "=", "warn")],
        ):
            with self.subTest(not_spared=not_spared), self.assertRaisesRegex(UserError, "rarer"):
                search([*not_spared, ("words", "=", "deadlock")])
        stranger = new_test_user(self.env, "search-stranger", groups="odooops.group_user")
        lines = self.lines.with_user(stranger)
        self.assertEqual(lines.search_count([("words", "=", "deadlock")]), 0)
        self.assertEqual(lines._read_group([("words", "=", "deadlock")], ["log_level"]), [])

    def test_a_bad_query_says_why(self):
        with self.assertRaisesRegex(UserError, "quotation mark"):
            self.find(("words", "=", '"open'))

    def test_lines_are_found_by_step(self):
        self.assertEqual(self.find(("step", "=", "Test")), [1])
        self.assertEqual(self.find(("step", "!=", "Test")), [2, 3])
        self.assertEqual(self.find(("step", "ilike", "inst")), [2])
        self.assertEqual(self.find(("step", "=", False)), [3])
        self.assertEqual(self.find(("step", "in", ["Test", "Install"])), [1, 2])

    def test_the_viewer_reads_one_step(self):
        page = self.run_record.read_log(step="Install")
        self.assertEqual([line["seq"] for line in page["lines"]], [2])


@tagged("post_install", "-at_install")
class TestLogSearchSql(SqlDoorCase):
    def test_everybody_finds_the_lines_that_they_see(self):
        self.db.rows(
            f"SELECT {self.schema}.enter_words(id, create_date, 1, 1) FROM ops_run"
            " WHERE project_id = ANY(%s)",
            self.project_ids,
        )
        found = f"SELECT run_id, seq FROM {self.schema}.search_run_logs('hello'"
        for person in PEOPLE:
            login = self.logins[person]
            with self.subTest(person=person), self.orm(self.user_by_name[person]) as env:
                mine = {(row["run_id"], row["seq"]) for row in login.rows(found + ")")}
                seen = {
                    (row["run_id"], row["seq"])
                    for row in login.rows(
                        f"SELECT run_id, seq FROM {self.schema}.run_logs WHERE message = 'hello'"
                    )
                }
                self.assertEqual(mine, seen)
                self.assertEqual(
                    bool(mine), person not in ("stranger",), "members and administrators"
                )
                if person != "stranger":
                    by_model = env["ops.run.log"].search([("words", "=", "hello")])
                    self.assertEqual({(line.run_id.id, line.seq) for line in by_model}, mine)
                foreign = login.rows(f"{found}, p_project_id => %s)", self.foreign)
                self.assertEqual(bool(foreign), person == "platform")
                foreign_run = self.runs["foreign"]["owner", "ended"]
                self.assertEqual(
                    len(login.rows(f"{found}, p_run_id => %s)", foreign_run)),
                    int(person == "platform"),
                )

    def test_an_unregistered_login_finds_nothing_and_the_words_are_nobodys(self):
        stranger = self.make_login()
        self.assertEqual(stranger.rows(f"SELECT * FROM {self.schema}.search_run_logs('hello')"), [])
        for statement in (
            "SELECT words FROM public.ops_run_log_words",
            f"SELECT {self.schema}.enter_words(1, now()::timestamp, 1, 1)",
        ):
            self.assertEqual(self.logins["owner"].attempt(statement), "42501")


@tagged("post_install", "-at_install")
class TestLogSearchJsonRpc(DoorCase):
    def setUp(self):
        super().setUp()
        self.first, self.second = self.queue(), None
        self.finish(self.first, lines=("needle one", "hay", "needle two"))
        self.second = self.queue()
        self.finish(self.second, lines=("needle three",))

    def search(self, key="developer", **params):
        answer = self.call("search_run_logs", {"query": "needle", **params}, key=key)
        return [(line["run_id"], line["seq"]) for line in answer["lines"]], answer["next_cursor"]

    def test_members_find_lines_of_their_projects(self):
        expected = [(self.second.id, 1), (self.first.id, 1), (self.first.id, 3)]
        for key in ("viewer", "developer", "platform"):
            self.assertEqual(self.search(key), (expected, None))
        self.assertEqual(self.search("foreign"), ([], None))
        self.assertEqual(self.search(run_id=self.first.id)[0], expected[1:])
        self.assertEqual(self.search(project="door-test")[0], expected)
        self.assertEqual(self.search(levels="error")[0], [])
        self.assertEqual(self.search(levels=["info"], until="2199-01-01T00:00:00Z")[0], expected)
        line = self.call("search_run_logs", {"query": "three"})["lines"][0]
        self.assertEqual(line["message"], "needle three")
        self.assertEqual(line["run_number"], self.second.run_number)
        self.assertTrue(line["timestamp"].endswith("Z"), line)

    def test_pages_follow_by_cursor(self):
        seen, cursor = [], None
        while True:
            page, cursor = self.search(limit=1, **({"cursor": cursor} if cursor else {}))
            seen += page
            if not cursor:
                break
        self.assertEqual(seen, [(self.second.id, 1), (self.first.id, 1), (self.first.id, 3)])

    def test_bad_searches_are_refused(self):
        for params in (
            {"query": '"open'},
            {"query": "-only"},
            {"query": ""},
            {"query": "a", "cursor": "W10="},
            {"query": "a", "levels": ["loud"]},
            {"query": "a", "since": "yesterday"},
            {},
        ):
            with self.subTest(params=params):
                self.assertRefused("invalid_input", "search_run_logs", params, status=400)
        for params in ({"run_id": self.first.id}, {"project": "door-test"}, {"run_id": 2**30}):
            self.assertRefused(
                "forbidden", "search_run_logs", {"query": "a", **params}, key="foreign", status=403
            )

    def test_a_log_is_read_by_step(self):
        page = self.call("read_run_logs", {"run_id": self.first.id, "step": "Install"})
        self.assertEqual(page["lines"], [])
