"""Lines whose words are not in the index yet: found all the same, and entered once by somebody."""

import psycopg2

from odoo.tests import TransactionCase, tagged
from odoo.tools import SQL

from .kernel_case import KernelCase
from .sql_door_case import SqlDoorCase
from .test_log_search import LogSearchCase


@tagged("post_install", "-at_install")
class TestLogTail(LogSearchCase):
    def tail(self):
        return self.batches("ops_run_log_tail")

    def index_what_is_due(self, connection=None):
        reply = (connection or self.db).call("index_run_logs")
        self.assertTrue(reply["success"], reply)
        return reply["lines"]

    def wait(self, interval):
        """Let so much time pass for the run's lines."""
        self.db.rows(
            "UPDATE ops_run_log_tail SET stored_at = stored_at - %s::interval WHERE run_id = %s",
            *(interval, self.run_id),
        )

    def put(self, function, value, kind):
        """Another limit, until the end of the test, in a transaction that is then undone."""
        self.db.rows("BEGIN")
        self.addCleanup(self.db.rows, "ROLLBACK")
        self.db.rows(
            f"CREATE OR REPLACE FUNCTION {self.db.schema}.{function}() RETURNS {kind}"
            f" LANGUAGE sql IMMUTABLE RETURN {value}"
        )

    def test_small_batches_become_one_row_of_words(self):
        for number in range(12):
            self.append(f"line {number}", "needle" if number == 7 else "hay")
        self.assertEqual(len(self.tail()), 12)
        self.assertEqual(self.search("needle"), [16])
        self.assertEqual(self.index(), 24)
        self.assertEqual((self.batches(), self.tail()), ([(1, 24)], []))
        self.assertEqual(self.search("needle"), [16])
        self.append("needle")
        self.assertEqual(self.search("needle"), [16, 25])

    def test_words_are_entered_when_a_row_is_full_or_after_half_a_minute(self):
        self.append("one")
        self.assertEqual(self.index_what_is_due(), 0)
        self.append(*(f"line {number}" for number in range(999)))
        self.assertEqual(self.index_what_is_due(), 1000)
        self.assertEqual(self.batches(), [(1, 1000)])
        self.append("more")
        self.wait("29 seconds")
        self.assertEqual(self.index_what_is_due(), 0)
        self.wait("2 seconds")
        self.assertEqual(self.index_what_is_due(), 1)
        self.assertEqual((self.batches(), self.tail()), ([(1, 1000), (1001, 1001)], []))

    def test_a_call_enters_so_many_lines_and_the_next_one_goes_on(self):
        for _batch in range(12):
            self.append(*(f"line {number}" for number in range(1000)))
        self.assertEqual(self.index_what_is_due(), 10000)
        self.assertEqual(self.tail(), [(10001, 11000), (11001, 12000)])
        self.assertEqual(len(self.search("999")), 12)
        self.assertEqual(self.index_what_is_due(), 2000)
        self.assertEqual(self.batches(), [(n + 1, n + 1000) for n in range(0, 12000, 1000)])
        self.assertEqual(len(self.search("999")), 12)

    def test_filters_hold_in_the_tail_too(self):
        self.append("word 1", level="info", timestamp="2026-01-12T10:00:00Z")
        self.append("word 2", level="error", timestamp="2026-01-12T10:01:00Z")
        self.assertEqual(self.search("word", levels=["error"]), [2])
        self.assertEqual(self.search("word", until="2026-01-12T10:01:00Z"), [1])
        self.assertEqual(self.search("word", after=1), [2])
        self.assertEqual(self.search("word", project_id=-1), [])

    def test_levels_are_counted_wherever_the_lines_stand(self):
        self.append("a", "b", level="warn")
        self.index()
        self.append("c", level="error")
        self.append("d", level="warn")
        with self.environment() as env:
            outline = env["ops.run"].browse(self.run_id).read_log_outline()
        self.assertEqual(outline["levels"], {"warn": 3, "error": 1})
        self.assertEqual(outline["last_seq"], 4)

    def test_one_enters_words_and_the_others_pass_by(self):
        self.append(*(f"line {number}" for number in range(1000)))
        first, second = self.connect(), self.connect()
        first.rows("BEGIN")
        self.assertEqual(self.index_what_is_due(first), 1000)
        self.assertEqual(self.index_what_is_due(second), 0)
        # Nobody waits: neither for a search, which finds each line once, nor to store more.
        second.rows("SET lock_timeout = '2s'")
        self.assertEqual(self.search("999"), [1000])
        reply = second.call(
            "append_run_logs",
            run_id=self.run_id,
            epoch=self.epoch,
            first_seq=1001,
            lines=[{"message": "meanwhile"}],
        )
        self.assertTrue(reply["success"], reply)
        first.rows("ROLLBACK")
        self.assertEqual((self.batches(), len(self.tail())), ([], 2))
        self.assertEqual(self.search("meanwhile"), [1001])
        self.assertEqual(self.index_what_is_due(second), 1001)
        self.assertEqual(self.batches(), [(1, 1000), (1001, 1001)])

    def test_storing_and_entering_at_the_same_time_loses_and_doubles_nothing(self):
        def work(index, db):
            for number in range(40):
                if index == 0:
                    reply = db.call(
                        "append_run_logs",
                        run_id=self.run_id,
                        epoch=self.epoch,
                        first_seq=number * 50 + 1,
                        lines=[{"message": f"batch {number}"}] * 50,
                    )
                    self.assertTrue(reply["success"], reply)
                elif index == 1:
                    db.value(f"SELECT {db.schema}.enter_tail(%s)", self.run_id)
                else:
                    db.call("index_run_logs")

        self.in_parallel(4, work)
        self.index()
        self.assertEqual(self.tail(), [])
        next_seq = 1
        for first, last in self.batches():
            self.assertEqual(first, next_seq)
            next_seq = last + 1
        self.assertEqual(next_seq, 2001)
        for number in (0, 17, 39):
            first = number * 50 + 1
            self.assertEqual(self.search(f'"batch {number}"'), list(range(first, first + 50)))

    def test_where_nobody_enters_words_storing_does(self):
        self.put("max_tail_lines", 250, "integer")
        for _batch in range(2):
            self.append(*["line"] * 100)
        self.assertEqual(len(self.tail()), 2)
        self.append(*["line"] * 100)
        self.assertEqual((self.batches(), self.tail()), ([(1, 300)], []))

    def test_single_lines_do_not_stay_for_ever(self):
        for _line in range(98):
            self.append("line")
        self.wait("6 minutes")
        self.append("line")
        self.assertEqual(len(self.tail()), 99, "looked at once per hundred lines")
        self.append("line")
        self.assertEqual((self.batches(), self.tail()), ([(1, 100)], []))

    def test_lines_that_are_gone_leave_nothing(self):
        self.append("one")
        with self.without_append_only():
            self.db.rows("DELETE FROM ops_run_log_line WHERE run_id = %s", self.run_id)
        self.assertEqual(self.search("one"), [])
        self.index()
        self.assertEqual((self.batches(), self.tail()), ([], []))

    def test_the_scheduled_action_enters_what_workers_have_left(self):
        for _batch in range(11):
            self.append(*["line"] * 1000)
        with self.environment() as env:
            env.ref("odooops.ir_cron_index_run_logs").ir_actions_server_id.run()
        self.assertEqual((len(self.batches()), self.tail()), (11, []))


@tagged("post_install", "-at_install")
class TestLogTailAndRoles(SqlDoorCase):
    def test_the_tail_is_nobodys(self):
        for statement in (
            "SELECT run_id FROM public.ops_run_log_tail",
            f"SELECT {self.schema}.enter_tail()",
            f"SELECT {self.schema}.index_run_logs()",
        ):
            for name in ("owner", "platform"):
                self.assertEqual(
                    self.logins[name].attempt(statement),
                    psycopg2.errorcodes.INSUFFICIENT_PRIVILEGE,
                    (name, statement),
                )


@tagged("post_install", "-at_install")
class TestLogTailOfTheModel(KernelCase):
    def test_a_list_is_read_from_the_tail_by_index(self):
        _worker, run_id, epoch = self.start()
        self.db.call(
            "append_run_logs",
            run_id=run_id,
            epoch=epoch,
            first_seq=1,
            lines=[{"message": "needle"}, {"message": "hay"}],
        )
        with self.environment() as env:
            found = env["ops.run.log"].search([("words", "=", "needle"), ("run_id", "=", run_id)])
            self.assertEqual(found.mapped("seq"), [1])
            waiting = env.execute_query(
                SQL("SELECT count(*) FROM ops_run_log_tail WHERE run_id = %s", run_id)
            )
        self.assertEqual(waiting, [(1,)])


@tagged("post_install", "-at_install")
class TestLogTailOfAnInstalledAddon(TransactionCase):
    def test_an_update_from_before_there_was_a_tail_keeps_the_words(self):
        kernel = self.env["ops.kernel"]
        self.env.cr.execute(
            "INSERT INTO ops_run_log_words VALUES"
            " (0, now()::timestamp, 1, 1, now(), now(), 0, 1, 0, 0, 'needle')"
        )
        words = SQL("SELECT * FROM ops_run_log_words ORDER BY run_id, first_seq")
        before = self.env.execute_query(words)
        self.env.cr.execute("DROP TABLE ops_run_log_tail")
        # As at an update: the models' init() comes first.
        kernel._make_history()
        kernel._apply()
        self.assertEqual(self.env.execute_query(words), before)
        self.assertEqual(kernel._call("index_run_logs"), {"success": True, "lines": 0})
