"""The workflow config: what is refused, with path and reason, and the defaults."""

import json
import unittest
from pathlib import Path

import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odoo.addons import odooops
from odoo.addons.odooops.worker.errors import ERROR_CODES, RunError
from odoo.addons.odooops.worker.workflow import expire_seconds, validate_config, with_defaults
from odoo.addons.odooops.worker.workflow_schema import CONFIG_SCHEMA, WORKFLOW_TYPES, published

STEPS = [{"name": "Hello", "run": "echo hello"}]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
configs = st.dictionaries(
    st.sampled_from([*CONFIG_SCHEMA["properties"], "unknown"]), json_values, max_size=4
)

#: The machine may be busy with other things.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class TestWorkflowConfig(unittest.TestCase):
    def problems(self, config, workflow_type="test"):
        return [str(problem) for problem in validate_config(workflow_type, config)]

    def assert_problem(self, text, config, workflow_type="test"):
        self.assertIn(text, "\n".join(self.problems(config, workflow_type)))

    def test_the_full_example_of_the_contract_is_accepted(self):
        config = {
            "tool": "odoo:19.0",
            "timeout": 3600,
            "retry": {"max": 1, "on": ["worker_lost"]},
            "concurrency_group": "deploy-production",
            "labels": ["docker"],
            "env": {"MODULES": "sale_extra"},
            "secrets": ["DEPLOY_KEY"],
            "database": True,
            "steps": [{"name": "Install", "run": "odoo -d $PGDATABASE -i $MODULES", "timeout": 60}],
            "artifacts": [{"path": "odoo.log", "expire_in": "30 days"}],
        }
        for workflow_type in WORKFLOW_TYPES:
            self.assertEqual(self.problems(config, workflow_type), [])

    def test_types_with_a_recipe_need_no_steps_and_the_others_do(self):
        for workflow_type in ("build", "test"):
            self.assertEqual(self.problems({}, workflow_type), [])
        for workflow_type in ("deploy", "backup", "upgrade"):
            self.assert_problem("steps is missing", {}, workflow_type)
            self.assertEqual(self.problems({"steps": STEPS}, workflow_type), [])

    def test_a_misspelt_setting_is_refused_with_a_suggestion(self):
        self.assert_problem("timout is not a known setting, did you mean timeout?", {"timout": 1})
        self.assert_problem(
            "steps[0].foo is not a known setting", {"steps": [{**STEPS[0], "foo": 1}]}
        )

    def test_wrong_values_are_named_with_path_and_reason(self):
        self.assert_problem("timeout must be between 1 and 86400", {"timeout": 0})
        self.assert_problem("timeout must be a whole number", {"timeout": True})
        self.assert_problem("retry.max must be between 0 and 10", {"retry": {"max": 11}})
        self.assert_problem("retry.on[0] must be one of", {"retry": {"on": ["bad_luck"]}})
        self.assert_problem("steps[0].run is missing", {"steps": [{"name": "x"}]})
        self.assert_problem("steps must hold at least 1 entries", {"steps": []})
        self.assert_problem("env.lower is not a name", {"env": {"lower": "x"}})
        self.assert_problem("env.A must not hold a NUL", {"env": {"A": "x\0y"}})
        self.assert_problem("env.A must be a text", {"env": {"A": 1}})
        self.assert_problem("is reserved", {"env": {"ODOOOPS_RUN_ID": "1"}})
        self.assert_problem("also named in secrets", {"env": {"A": "x"}, "secrets": ["A"]})
        self.assert_problem("lone surrogate", {"env": {"A": "\ud800"}})
        self.assert_problem("given twice", {"env": {"MODULES": "a"}, "modules": ["b"]})
        self.assert_problem("The configuration must be a mapping", [])

    def test_artifact_paths_cannot_leave_the_checkout(self):
        for path in ("/etc/passwd", "../x", "a/../x", "a/..", "a\\b", "a\0b"):
            self.assert_problem("artifacts[0].path must be a path", {"artifacts": [{"path": path}]})
        for path in ("odoo.log", "a..b/*.xml", "**/*.log", ".coverage", ".", "**", "a/**/b/**"):
            self.assertEqual(self.problems({"artifacts": [{"path": path}]}), [])

    def test_two_stars_stand_alone_and_not_often(self):
        for path in ("a**", "**b", "a/***/b", "**/*/**/*/**"):
            for config in ({"artifacts": [{"path": path}]}, {"junit": path}):
                self.assert_problem("** stands between slashes, twice at most", config)

    def test_a_line_end_does_not_hide_behind_the_end_of_a_pattern(self):
        self.assert_problem("env.A\n is not a name", {"env": {"A\n": "x"}})
        self.assert_problem("labels[0]", {"labels": ["docker\n"]})

    def test_defaults_are_complete_and_leave_the_original_alone(self):
        config = {"env": {"MODULES": "a, b"}}
        full = with_defaults(config)
        self.assertEqual(full["timeout"], 3600)
        self.assertEqual(full["modules"], ["a", "b"])
        self.assertEqual(set(full), set(CONFIG_SCHEMA["properties"]))
        full["env"]["X"] = "y"
        self.assertEqual(config, {"env": {"MODULES": "a, b"}})

    def test_durations_are_counted_in_seconds(self):
        self.assertEqual(expire_seconds("30 days"), 30 * 86400)
        self.assertEqual(expire_seconds("1 hour"), 3600)
        with self.assertRaises(ValueError):
            expire_seconds("soon")

    def test_the_published_schemas_are_valid_and_those_of_the_code(self):
        docs = Path(odooops.__file__).resolve().parent / "docs"
        for name, schema in published().items():
            with self.subTest(name=name):
                written = json.loads((docs / name).read_text(encoding="utf-8"))
                jsonschema.Draft202012Validator.check_schema(written)
                self.assertEqual(written, schema, "Run: python3 -m worker.workflow_schema")

    @unhurried
    @given(configs, st.sampled_from(WORKFLOW_TYPES))
    def test_whatever_is_given_is_judged_and_what_is_accepted_gets_defaults(self, config, kind):
        if not validate_config(kind, config):
            self.assertEqual(validate_config(kind, json.loads(json.dumps(config))), [])
            self.assertEqual(set(with_defaults(config)), set(CONFIG_SCHEMA["properties"]))

    def test_an_unknown_error_code_cannot_be_raised(self):
        self.assertEqual(RunError("timeout", "Too long.").code, "timeout")
        with self.assertRaises(ValueError):
            RunError("bad_luck", "…")
        self.assertTrue(all(text.endswith(".") for text in ERROR_CODES.values()))
