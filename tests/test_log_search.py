"""Full-text search over log lines: what matches, what is refused, and that it reads by index."""

import re
from datetime import datetime, timedelta, timezone

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odoo import SUPERUSER_ID, api
from odoo.modules.registry import Registry
from odoo.tests import tagged
from odoo.tests.common import get_db_name

from .kernel_case import KernelCase

MINUTE = timedelta(minutes=1)
BEGIN = datetime(2026, 1, 12, 10, 0, tzinfo=timezone.utc)

# What the hypothesis test makes lines and queries of.
TOKENS = (
    *("foo", "Foo", "foobar", "ba", "bar", "École", "éCOLE", "a_b", "axb", "x-y", "42", "ΣΑΣ"),
    *("σασ", "日本語", "日本", "%", "or", "100%", "Ж", "c++"),
)
SEPARATORS = (" ", "  ", ".", ", ", "/", "\t", "—", "\u00a0", ": ", "['", "\n")
SIGNS = re.compile(r"[\s!\"'(),./:;<=>?\[\\\]`{|}—…«»‘’“”]+")


def words_of(text):
    """The words of a text, as the documentation says: the naive twin of the kernel's."""
    lowered = "".join(character.lower() for character in text)
    return [word[:500] for word in SIGNS.split(lowered) if word]


class Term:
    """A term of a query: how it is written, and which lines have it."""

    def __init__(self, text, *, phrase=False, prefix=False):
        self.written = (f'"{text}"' if phrase else text) + ("*" if prefix else "")
        self.words = words_of(text)
        self.prefix = prefix

    def is_in(self, line):
        size = len(self.words)
        for first in range(len(line) - size + 1):
            *whole, last = line[first : first + size]
            if whole == self.words[:-1] and (
                last.startswith(self.words[-1]) if self.prefix else last == self.words[-1]
            ):
                return True
        return False


TERMS = st.builds(
    Term, st.sampled_from(TOKENS), prefix=st.booleans(), phrase=st.booleans()
) | st.builds(
    lambda tokens, separator, prefix: Term(separator.join(tokens), phrase=True, prefix=prefix),
    st.lists(st.sampled_from(TOKENS), min_size=2, max_size=3),
    st.sampled_from((" ", "  ", ".", ", ", "—")),
    st.booleans(),
)
ALTERNATIVES = st.tuples(st.lists(TERMS, max_size=3), st.lists(TERMS, max_size=2))
LINES = st.lists(
    st.lists(st.tuples(st.sampled_from(TOKENS), st.sampled_from(SEPARATORS)), max_size=6).map(
        lambda pairs: "".join(token + separator for token, separator in pairs)
    ),
    min_size=1,
    max_size=8,
)


class LogSearchCase(KernelCase):
    def setUp(self):
        super().setUp()
        _worker, self.run_id, self.epoch = self.start()
        self.next_seq = 1

    def append(self, *messages, first_seq=None, **line):
        """Store one batch of lines; returns the number of the first."""
        first_seq = first_seq or self.next_seq
        reply = self.db.call(
            "append_run_logs",
            run_id=self.run_id,
            epoch=self.epoch,
            first_seq=first_seq,
            lines=[{"message": message, **line} for message in messages],
        )
        self.assertTrue(reply["success"], reply)
        self.next_seq = reply["next_seq"]
        return first_seq

    def rows(self, query, **filters):
        filters = {"run_id": self.run_id, **filters}
        named = "".join(f", p_{name} => %s" for name in filters)
        return self.db.rows(
            f"SELECT * FROM {self.db.schema}.search_run_logs(%s{named})", query, *filters.values()
        )

    def search(self, query, **filters):
        """Numbers of the lines that match."""
        rows = self.rows(query, **filters)
        self.assertFalse([row["problem"] for row in rows if row["problem"]])
        return [row["seq"] for row in rows]

    def index(self):
        """Enter the words of the run's lines; returns of how many."""
        return self.db.value(f"SELECT {self.db.schema}.enter_tail(%s)", self.run_id)

    def batches(self, table="ops_run_log_words"):
        """First and last line of each row of words, or of each batch whose words are missing."""
        return [
            (row["first_seq"], row["last_seq"])
            for row in self.db.rows(
                f"SELECT first_seq, last_seq FROM {table} WHERE run_id = %s ORDER BY first_seq",
                self.run_id,
            )
        ]


@tagged("post_install", "-at_install")
class TestLogSearch(LogSearchCase):
    def test_each_operator(self):
        self.append(
            "2026-01-12 10:00:00,123 42 INFO demo odoo.sql_db: Deadlock detected, retrying",
            "detected a deadlock",
            "connection refused by db-1 (100%)",
            "Connecting to DB-1",
            "nothing",
        )
        for query, seqs in (
            ("deadlock", [1, 2]),
            ("DEADLOCK detected", [1, 2]),
            ('"deadlock detected"', [1]),
            ('"Deadlock   detected"', [1]),
            ("deadlock -retrying", [2]),
            ('deadlock -"deadlock detected"', [2]),
            ("conn*", [3, 4]),
            ('"connecting t"*', [4]),
            ("conn* -refus*", [4]),
            ("retrying OR refused", [1, 3]),
            ("deadlock -a OR db-1 -refused", [1, 4]),
            ("odoo.sql_db:", [1]),
            ("sql", []),
            ("sql*", [1]),
            ("100%", [3]),
            ("100_", []),
            ('"detected retrying"', [1]),
            ("deadlock or nothing", []),
            ("... deadlock !", [1, 2]),
            ('db-1"connection refused"', [3]),
            # The time of the line is asked for by its filters.
            ("123", []),
            ('"42 info"', [1]),
        ):
            with self.subTest(query=query):
                self.assertEqual(self.search(query), seqs)

    def test_a_query_that_cannot_be_answered_is_refused_with_the_reason(self):
        self.append("a word")
        for query, reason in (
            (None, "word that must be there"),
            ("", "word that must be there"),
            ("  ", "word that must be there"),
            ("-word", "word that must be there"),
            ("a OR -word", "word that must be there"),
            ("OR a", "word that must be there"),
            ("a OR", "word that must be there"),
            ("?! ...", "word that must be there"),
            ("*", "word that must be there"),
            ('"a word', "quotation mark"),
            ("x" * 1001, "1000 characters"),
            ("a " * 51, "50 words"),
        ):
            with self.subTest(query=query):
                (row,) = self.rows(query)
                self.assertIn(reason, row["problem"])
                self.assertIsNone(row["seq"])
        for filters in (
            {"limit": 0},
            {"limit": 1001},
            {"limit": None},
            {"levels": ["loud"]},
            {"since": "infinity"},
        ):
            with self.subTest(filters=filters):
                (row,) = self.rows("a", **filters)
                self.assertTrue(row["problem"])

    def test_filters_by_level_step_and_time(self):
        self.append("word 1", level="info", metadata={"step": "Install"}, timestamp=str(BEGIN))
        self.append("word 2", level="error", metadata={"step": "Test"}, timestamp=str(BEGIN))
        self.append("word 3", level="warn", timestamp=str(BEGIN + MINUTE))
        self.assertEqual(self.search("word", levels=["error", "warn"]), [2, 3])
        self.assertEqual(self.search("word", levels=["debug"]), [])
        self.assertEqual(self.search("word", step="Install"), [1])
        self.assertEqual(self.search("word", since=BEGIN + MINUTE), [3])
        self.assertEqual(self.search("word", until=BEGIN + MINUTE), [1, 2])
        self.assertEqual(self.search("word", until=BEGIN), [])
        self.assertEqual(self.search("word", levels=["error"], step="Test", since=BEGIN), [2])
        self.assertEqual(self.search("word", project_id=self.project), [1, 2, 3])
        self.assertEqual(self.search("word", project_id=-1), [])

    def test_pages_follow_each_other_over_runs(self):
        self.append("needle", "hay", "needle")
        self.append("needle")
        older = self.run_id
        _worker, self.run_id, self.epoch = self.start()
        self.next_seq = 1
        self.append("hay", "needle")
        newer = self.run_id
        seen, place = [], {}
        for _page in range(4):
            (row,) = self.rows("needle", run_id=None, project_id=self.project, limit=1, **place)
            seen.append((row["run_id"], row["seq"]))
            place = {"after_run_id": row["run_id"], "after": row["seq"]}
        self.assertEqual(seen, [(newer, 2), (older, 1), (older, 3), (older, 4)])
        self.assertEqual(
            self.rows("needle", run_id=None, project_id=self.project, limit=1, **place), []
        )
        self.assertEqual(self.search("needle", run_id=older, after=1), [3, 4])

    def test_a_search_that_has_looked_at_enough_says_where_to_go_on(self):
        for number in range(4):
            self.append(f"one {number} two")
        self.db.rows("BEGIN")
        self.addCleanup(self.db.rows, "ROLLBACK")
        self.db.rows(
            f"CREATE OR REPLACE FUNCTION {self.db.schema}.max_searched_lines()"
            " RETURNS integer LANGUAGE sql IMMUTABLE RETURN 150"
        )
        # A batch counts as 50 lines at least. Each has both words, none has the phrase.
        (row,) = self.rows('"one two"')
        self.assertIn("go on", row["problem"])
        self.assertEqual((row["run_id"], row["seq"]), (self.run_id, 3))
        self.assertEqual(self.rows('"one two"', after=3), [])
        *found, stop = self.rows("one")
        self.assertEqual([line["seq"] for line in found], [1, 2, 3])
        self.assertEqual([line["seq"] for line in self.rows("one", after=stop["seq"])], [4])

    def test_words_of_any_script(self):
        self.append(
            "ÉCOLE «Straße» ΣΑΣ", "日本語のログ、エラー", "naïve\u00a0café—bar…", "\x1b[31mred"
        )
        for query, seqs in (
            ("école", [1]),
            ("STRAße", [1]),
            ("σασ", [1]),
            ("エラー", [2]),
            ("日本*", [2]),
            ("CAFÉ", [3]),
            ('"naïve café bar"', [3]),
            ("cafe", []),
        ):
            with self.subTest(query=query):
                self.assertEqual(self.search(query), seqs)

    def test_long_words_count_by_their_beginning(self):
        long = "é" * 500
        self.append(f"{long}x y", long, "a" * 65536, "b" * 2047 + " tail", "ab " * 400)
        for _time in ("in the tail", "indexed"):
            self.assertEqual(self.search(long), [1, 2])
            self.assertEqual(self.search(f"{long}z"), [1, 2])
            self.assertEqual(self.search(f'"{long} y"'), [1])
            self.assertEqual(self.search("a" * 800), [3])
            self.assertEqual(self.search("aaaa*"), [3])
            self.assertEqual(self.search("tail"), [4])
            self.assertEqual(self.search("ab"), [5])
            self.index()

    def test_a_batch_of_a_megabyte_of_different_words_is_split(self):
        lines = [
            " ".join(f"w{number * 6000 + word}" for word in range(6000)) for number in range(40)
        ]
        self.append(*lines)
        self.assertEqual(self.index(), 40)
        batches = self.batches()
        self.assertGreater(len(batches), 1)
        self.assertEqual(batches[0][0], 1)
        self.assertEqual(batches[-1][1], 40)
        for (_first, last), (first, _last) in zip(batches, batches[1:], strict=False):
            self.assertEqual(first, last + 1)
        self.assertEqual(self.search("w0"), [1])
        self.assertEqual(self.search("w239999"), [40])
        self.assertEqual(self.search("w119999 OR w120000"), [20, 21])

    def test_capitals_that_grow_when_lowered_fit_too(self):
        words = [f"{'Ⱥ' * 12}{number}" for number in range(17000)]
        self.append(*(" ".join(words[first : first + 500]) for first in range(0, 17000, 500)))
        self.index()
        self.assertEqual(self.search(f"{'ⱥ' * 12}16999"), [34])

    def test_a_repeated_batch_enters_no_words_again(self):
        self.append("one", "two")
        self.append("one", "two", first_seq=1)
        self.append("two", "three", first_seq=2)
        self.append("four", first_seq=4)
        self.assertEqual(self.batches("ops_run_log_tail"), [(1, 2), (3, 3), (4, 4)])
        self.assertEqual(self.search("two OR three"), [2, 3])
        self.assertEqual(self.index(), 4)
        self.append("one", "two", "three", "four", first_seq=1)
        self.assertEqual(self.index(), 0)
        self.assertEqual(self.batches(), [(1, 4)])
        self.assertEqual(self.search("two OR three"), [2, 3])

    def test_repeated_batches_at_the_same_time_enter_their_words_once(self):
        lines = [{"message": f"number {number}"} for number in range(300)]
        self.in_parallel(
            4,
            lambda index, db: db.call(
                "append_run_logs",
                run_id=self.run_id,
                epoch=self.epoch,
                first_seq=1,
                lines=lines,
            ),
        )
        self.assertEqual(self.batches("ops_run_log_tail"), [(1, 300)])

    def test_a_refused_batch_leaves_nothing(self):
        reply = self.db.call(
            "append_run_logs",
            run_id=self.run_id,
            epoch=self.epoch,
            first_seq=1,
            lines=[{"message": "good"}, {"message": "bad", "level": "loud"}],
        )
        self.assertRefused(reply, "invalid_input")
        self.assertIn("line 2:", reply["error"])
        self.assertEqual(self.batches("ops_run_log_tail"), [])
        self.assertEqual(self.append("good"), 1)

    def test_a_line_without_words_is_stored(self):
        self.append("", " ", "...", "\t")
        self.assertEqual(self.index(), 4)
        self.append("word")
        self.assertEqual(self.index(), 1)
        self.assertEqual(self.batches(), [(1, 4), (5, 5)])
        self.assertEqual(self.search("word"), [5])

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        lines=LINES,
        alternatives=st.lists(ALTERNATIVES, min_size=1, max_size=3),
        is_indexed=st.booleans(),
    )
    def test_a_search_finds_what_a_naive_matcher_finds(self, lines, alternatives, is_indexed):
        query = " OR ".join(
            " ".join([term.written for term in have] + [f"-{term.written}" for term in lack])
            for have, lack in alternatives
        )
        first_seq = self.append(*lines)
        if is_indexed:
            self.index()
        rows = self.rows(query, after=first_seq - 1, limit=1000)
        if not all(have for have, _lack in alternatives):
            self.assertTrue(rows[0]["problem"], query)
            return
        expected = [
            number
            for number, line in enumerate(map(words_of, lines), start=first_seq)
            if any(
                all(term.is_in(line) for term in have)
                and not any(term.is_in(line) for term in lack)
                for have, lack in alternatives
            )
        ]
        self.assertEqual([row["seq"] for row in rows], expected, (query, lines))

    def test_the_update_enters_the_words_of_lines_that_have_none(self):
        self.append(*(f"number {number}" for number in range(900)), "x" * 3000)
        self.append(*("y" * 60000 for _number in range(30)))
        self.index()
        before = self._all_words()
        self.append("late")
        before.add(("late",))
        with Registry(get_db_name()).cursor() as cr:
            env = api.Environment(cr, SUPERUSER_ID, {})
            cr.execute("DELETE FROM ops_run_log_words")
            cr.execute("COMMENT ON TABLE ops_run_log_words IS NULL")
            env["ops.kernel"]._apply()
            cr.execute("SELECT count(*) FROM ops_run_log_words")
            (rows,) = cr.fetchone()
            cr.execute(self.ALL_WORDS, [self.run_id])
            self.assertEqual(set(cr.fetchall()), before)
            cr.execute("SELECT count(*) FROM ops_run_log_tail")
            self.assertEqual(cr.fetchone()[0], 0, "none is entered twice")
            env["ops.kernel"]._apply()
            cr.execute("SELECT count(*) FROM ops_run_log_words")
            self.assertEqual(cr.fetchone()[0], rows)
            cr.rollback()

    ALL_WORDS = (
        "SELECT DISTINCT word FROM ops_run_log_words, unnest(tsvector_to_array(words)) AS word"
        " WHERE run_id = %s"
    )

    def _all_words(self):
        return {(row["word"],) for row in self.db.rows(self.ALL_WORDS, self.run_id)}

    def test_search_and_pages_read_the_lines_by_index(self):
        for batch in range(10):
            self.append(*(f"line {batch} {number}" for number in range(1000)))
            if batch == 7:
                self.index()
        self.append("needle")
        for table in ("ops_run_log_line", "ops_run_log_words"):
            self.db.rows(f"ANALYZE {table}")
        self.db.rows("BEGIN")
        self.addCleanup(self.db.rows, "ROLLBACK")
        scans = (
            "SELECT coalesce(sum(seq_scan), 0)::integer AS seq_scan,"
            " coalesce(sum(idx_scan), 0)::integer AS idx_scan"
            " FROM pg_stat_xact_user_tables WHERE relname LIKE 'ops_run_log_line%%' AND %s"
        )
        for query in ("needle", "line", '"line 7 99"*'):
            self.assertTrue(self.search(query))
        with Registry(get_db_name()).cursor() as cr:
            page = api.Environment(cr, SUPERUSER_ID, {})["ops.run.log"]
            self.assertEqual(len(page._page(self.run_id, 9000, 500)), 500)
            cr.execute(scans, [True])
            read_by_page = cr.fetchone()
        (read,) = self.db.rows(scans, True)
        self.assertEqual(read["seq_scan"], 0)
        self.assertGreater(read["idx_scan"], 0)
        self.assertEqual(read_by_page, (0, 1))
