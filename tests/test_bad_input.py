"""Whatever is sent to the kernel's functions: an answer, or a refusal that changed nothing.

The cases are made from the catalogue: every function that roles of the SQL door may call, each of
its parameters, values by the parameter's type. So a new function is tried without being named here.
"""

import json
import uuid

import psycopg2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extras import Json

from odoo.tests import HttpCase, tagged
from odoo.tools import mute_logger

from ..controllers.methods import PEOPLE, TOKENS, UPLOADS, WORKERS
from ..models.sql_roles import ACTING, READING, WORKING
from .http_case import DoorCase
from .kernel_case import KernelCase
from .test_kernel_state_machine import ARTIFACT

INT4 = (None, 0, -1, 2**31 - 1, -(2**31))
HUGE = "x" * 2_000_000
HUGE_JSON = {"x": HUGE}
DEEP = []
for _ in range(60):
    DEEP = [DEEP]
# By type: values that are odd, and values that are beyond every limit.
ODD = {
    "integer": INT4,
    "bigint": (*INT4, 2**63 - 1, -(2**63)),
    "text": (None, "", " ", "\x01", "\n", "'; SELECT 1 --", "ü\u202e\U0001f600", "../x", "%s"),
    "text[]": (None, [], [""], [None], ["a", "a"], [["a", "b"], ["c", "d"]]),
    "jsonb": (
        *(Json(value) for value in (None, [], {}, 1, "x", True, [1], [{}], {"a": None}, DEEP)),
        *(Json([{"run_id": id_, "epoch": 1}]) for id_ in (1.5, "1", None, 2**80, -1, True)),
        *(Json([{"message": "x", "timestamp": t}]) for t in ("infinity", "x", 5, [], {}, "")),
        Json([{"message": "x", "level": []}, 1, "x", None]),
        None,
    ),
    "timestamp with time zone": (
        *(None, "infinity", "-infinity", "4713-01-01 00:00+00 BC"),
        *("1969-12-31 23:59+00", "294276-12-31 23:59+00", "9000-01-01 00:00+00"),
    ),
    "uuid": (None, "00000000-0000-0000-0000-000000000000"),
}
OVERSIZED = {
    "text": (HUGE,),
    "text[]": ([HUGE], ["x"] * 10_000),
    "jsonb": (Json(HUGE_JSON), Json([HUGE_JSON]), Json([{"message": HUGE}] * 2), Json([1] * 9999)),
}
# What these name is looked up, or hashed; there is nothing to store.
LOOKED_UP = {"p_operation", "p_step"}
# How many rows the transaction has written. What was written and undone within it counts, too, so
# the functions that judge lines by storing them are asked what they have left.
WRITTEN = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_user_tables"
LEFT = (
    "SELECT (SELECT count(*) FROM ops_run_log_line) + (SELECT count(*) FROM ops_run_log_tail)"
    " + (SELECT sum(next_log_seq) FROM ops_run_lease)"
)
STORE_FIRST = {"append_run_log", "append_run_logs"}


class CatalogueCase(KernelCase):
    def setUp(self):
        super().setUp()
        worker_id, run_id, epoch = self.start()
        self.good = {
            "p_workflow_id": self.workflow,
            "p_run_id": run_id,
            "p_worker_id": worker_id,
            "p_epoch": epoch,
            "p_labels": ["docker"],
            "p_claim_token": str(uuid.uuid4()),
            "p_runs": Json([{"run_id": run_id, "epoch": epoch}]),
            "p_lines": Json([{"message": "x"}]),
            "p_first_seq": 1,
            "p_level": "info",
            "p_message": "x",
            "p_event_type": "info",
            "p_exit_code": 1,
            "p_capacity": 1,
            "p_state": "draining",
            "p_kind": "daemon",
            "p_operation": "read",
            "p_trigger": "manual",
            "p_priority": 0,
            "p_query": "x",
            **{f"p_{name}": value for name, value in ARTIFACT.items()},
        }

    def functions(self):
        """Per function that others may call: its parameters with their types, in order."""
        rows = self.db.rows(
            "SELECT p.proname, p.proretset, p.prorettype = 'jsonb'::regtype AS answers,"
            " coalesce(array_agg(a.name::text ORDER BY a.n)"
            "          FILTER (WHERE a.n <= p.pronargs), '{}') AS names,"
            " coalesce(array_agg(format_type(p.proargtypes[a.n - 1], NULL) ORDER BY a.n)"
            "          FILTER (WHERE a.n <= p.pronargs), '{}') AS types"
            " FROM pg_proc p LEFT JOIN unnest(p.proargnames) WITH ORDINALITY AS a (name, n) ON true"
            " WHERE p.pronamespace = %s::regnamespace AND p.proname = ANY(%s)"
            " GROUP BY p.oid ORDER BY p.proname",
            self.db.schema,
            sorted({*READING, *ACTING, *WORKING}),
        )
        self.assertEqual(len(rows), len({*READING, *ACTING, *WORKING}), "one function per name")
        return {
            row["proname"]: (dict(zip(row["names"], row["types"], strict=True)), row)
            for row in rows
        }

    def call(self, function, values):
        """Call a function, undo it; returns the reply and how many rows it has written.

        :param values: by parameter; each as (value, type)
        """
        marks = ", ".join(f"{name} => CAST(%s AS {type_})" for name, (_v, type_) in values.items())
        written = LEFT if function in STORE_FIRST else WRITTEN
        self.db.rows("BEGIN")
        try:
            before = self.db.value(written)
            rows = self.db.rows(
                f"SELECT to_jsonb({function}) AS reply FROM {self.db.schema}.{function}({marks})",
                *(value for value, _type in values.values()),
            )
            return [row["reply"] for row in rows], self.db.value(written) - before
        except psycopg2.Error as error:
            self.fail(f"{function}({str(values)[:300]}): {error}")
        finally:
            self.db.rows("ROLLBACK")

    def assertAnswered(self, function, row, values):
        """The reply is one the contract knows; returns whether it is a refusal."""
        replies, written = self.call(function, values)
        if row["proretset"]:
            # A search that cannot be made answers with a row that says why.
            return bool(replies) and bool(replies[-1].get("problem"))
        if not row["answers"]:
            return False
        (reply,) = replies
        told = f"{function}({str(values)[:300]}): {str(reply)[:300]}"
        self.assertIsInstance(reply["success"], bool, told)
        if reply["success"]:
            return False
        self.assertRegex(reply["code"], "^[a-z_]+$", told)
        self.assertNotEqual(reply["code"], "internal_error")
        self.assertRegex(reply["error"], r"^\S.{8,}", told)
        self.assertLess(len(reply["error"]), 1000, told)
        self.assertEqual(written, 0, told)
        return True


@tagged("post_install", "-at_install")
class TestBadInputSql(CatalogueCase):
    def test_every_parameter_of_every_function_with_odd_and_oversized_values(self):
        # Rule: R-32
        tried = 0
        for function, (types, row) in self.functions().items():
            good = {
                name: (self.good[name], type_) for name, type_ in types.items() if name in self.good
            }
            for name, type_ in types.items():
                for value in (*ODD[type_], *OVERSIZED.get(type_, ())):
                    tried += 1
                    with self.subTest(function=function, parameter=name, value=str(value)[:60]):
                        refused = self.assertAnswered(function, row, {**good, name: (value, type_)})
                        if value in OVERSIZED.get(type_, ()) and name not in LOOKED_UP:
                            self.assertTrue(refused, "what is too large is refused")
        self.assertGreater(tried, 500)

    @settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check_combinations(self, data):
        functions = self.functions()
        function = data.draw(st.sampled_from(sorted(functions)))
        types, row = functions[function]
        values = {}
        for name, type_ in types.items():
            choices = [*ODD[type_]]
            if name in self.good:
                choices = [self.good[name], self.good[name], *choices]
            values[name] = (data.draw(st.sampled_from(choices)), type_)
        self.assertAnswered(function, row, values)

    def test_odd_values_of_several_parameters_at_once(self):
        self.check_combinations()

    def test_a_run_that_does_not_exist_is_told_from_one_that_is_not_named(self):
        for run_id, sentence in ((2**31 - 1, "There is no run 2147483647."), (None, "run_id is")):
            for function in ("cancel_run", "retry_run", "explain_wait"):
                reply = self.db.call(function, run_id=run_id)
                self.assertRefused(reply, "not_found")
                self.assertIn(sentence, reply["error"])


# What ends the run or the worker, after which the others are refused for that.
LAST = ("complete_workflow_run", "cancel_run", "deregister_worker", "set_worker_state")
BAD_JSON = [
    *(None, True, 0, -1, 1.5, 1e308, 2**31, 2**63, 2**200, -(2**31) - 1),
    *("", " ", "x", "x" * 70_000, "a\0b", "\ud800", "infinity", "9999-12-31T23:59:59Z"),
    *("1969-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "2026-01-01", "../../x"),
    *([], [None], [[]], ["x"] * 2000, [1], {}, {"a\0": 1}, {"\udfff": 1}, {"x": "x" * 70_000}),
    *([{"run_id": "1", "epoch": 1}], [{"run_id": 2**80, "epoch": 1e300}], DEEP + [DEEP]),
    *([{"message": "x", "timestamp": "infinity"}], [{"message": "\0"}], [{"message": None}]),
]


@tagged("post_install", "-at_install")
class TestBadInputJsonRpc(CatalogueCase, HttpCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        platform = DoorCase.make_user.__func__(cls, "platform", "odooops.group_platform_admin")
        cls.keys = {"platform": DoorCase.make_key.__func__(cls, platform)}

    post = DoorCase.post

    @mute_logger("odoo.sql_db", "odoo.addons.odooops.controllers.jsonrpc")
    def test_every_parameter_of_every_method_with_every_bad_value(self):
        # Rule: R-32
        good = {
            name.removeprefix("p_"): value.adapted if isinstance(value, Json) else value
            for name, value in self.good.items()
        }
        good.update(upload_id="0" * 32, part_number=1, parts=[], tag="")
        of_tokens = {method: parameters for method, (_name, _kind, parameters) in TOKENS.items()}
        methods = sorted(
            {**PEOPLE, **WORKERS, **UPLOADS, **of_tokens}.items(), key=lambda item: item[0] in LAST
        )
        for method, parameters in methods:
            usual = {name: good[name] for name in parameters if name in good}
            for name in parameters or ["none"]:
                calls = [
                    {
                        "jsonrpc": "2.0",
                        "id": number,
                        "method": method,
                        "params": {**usual, name: value},
                    }
                    for number, value in enumerate(BAD_JSON)
                ]
                response = self.post(json.dumps(calls), "platform")
                self.assertEqual(response.status_code, 200, response.text[:300])
                self.assertNotIn("Traceback", response.text)
                answers = response.json()
                self.assertEqual(len(answers), len(calls))
                for answer, value in zip(answers, BAD_JSON, strict=True):
                    with self.subTest(method=method, parameter=name, value=str(value)[:60]):
                        if "error" in answer:
                            error = answer["error"]
                            self.assertNotEqual(error["data"]["code"], "internal_error", error)
                            self.assertRegex(error["message"], r"^\S.{8,}")
                            self.assertLess(len(error["message"]), 1000)

    @mute_logger("odoo.sql_db", "odoo.addons.odooops.controllers.jsonrpc")
    def test_params_that_are_no_object_and_names_that_are_none(self):
        for params in ([], [1], "x", 5, True, None, {"": 1}, {"x" * 9999: 1}, {"\ud800": 1}):
            for method in (*PEOPLE, *WORKERS, *UPLOADS):
                call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
                response = self.post(json.dumps(call), "platform")
                with self.subTest(method=method, params=str(params)[:40]):
                    error = response.json()["error"]
                    self.assertEqual(error["data"]["code"], "invalid_input", error)
                    self.assertLess(len(error["message"]), 1000)
