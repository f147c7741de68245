"""The file .odooops.yml: who may use it, what it may change, and hostile ones."""

import os
import unittest

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from odoo.addons.odooops.worker import repository_config
from odoo.addons.odooops.worker.errors import RunError
from odoo.addons.odooops.worker.repository_config import FILE_NAME, is_allowed, merged, parse, read
from odoo.addons.odooops.worker.workflow_schema import CONFIG_SCHEMA, REPOSITORY_KEYS

from .test_worker_checkout import commit, git
from .worker_common import FolderCase, KernelCase

STEPS = [{"name": "Hello", "run": "echo hello"}]
WORKFLOW = {"workflow_type": "test", "name": "Nightly"}
words = st.sampled_from(
    ["a", "&x", "*x", "<<:", "- ", ": ", "{", "}", "[", "]", ",", "\n", "  ", "!!int", "!!bool"]
    + [
        "!!binary",
        "!!set",
        "!!omap",
        "!!timestamp",
        "'",
        '"',
        "|",
        ">",
        "?",
        "%YAML 1.1",
        "---",
        "1",
    ]
)


class TestFile(FolderCase):
    def read_text(self, text):
        (self.folder / FILE_NAME).write_text(text)
        return read(self.folder, WORKFLOW)

    def assert_refused(self, reason, text=None):
        with self.assertRaises(RunError) as caught:
            self.read_text(text) if text is not None else read(self.folder, WORKFLOW)
        self.assertEqual(caught.exception.code, "setup_error")
        self.assertIn(reason, caught.exception.message)
        self.assertTrue(caught.exception.message.startswith(FILE_NAME))

    def test_the_name_of_a_workflow_wins_over_its_type(self):
        text = "types:\n  test: {timeout: 1}\n  build: {timeout: 2}\n"
        override = self.read_text(text)
        self.assertEqual((override.path, override.config), ("types.test", {"timeout": 1}))
        override = self.read_text(text + "workflows:\n  Nightly: {timeout: 3}\n")
        self.assertEqual((override.path, override.config), ("workflows.Nightly", {"timeout": 3}))
        self.assertIsNone(self.read_text("workflows:\n  Other: {timeout: 3}\n"))
        self.assertIsNone(self.read_text("# nothing yet\n"))

    def test_aliases_and_merge_keys_work_within_bounds(self):
        override = self.read_text(
            "types:\n  build: &base {database: true, timeout: 5}\n  test: {<<: *base, timeout: 6}\n"
        )
        self.assertEqual(override.config, {"database": True, "timeout": 6})

    def test_what_is_no_such_file_is_refused_with_its_place(self):
        self.assert_refused(
            "types.tets is not a known setting, did you mean test?", "types: {tets: {}}"
        )
        self.assert_refused("must be a mapping", "- 1")
        self.assert_refused("types.test must be a mapping", "types:\n  test:\n")
        self.assert_refused("is not valid YAML: line 2, column", "types:\n  test: {a: [}\n")
        self.assert_refused(
            "line 3: the key test stands there twice", "types:\n  test: {}\n  test: {}"
        )
        self.assert_refused("line 2: the key must be a text", "types:\n  yes: {}\n")
        self.assert_refused(
            "could not determine a constructor", "types: !!python/object:os.system {}"
        )
        self.assert_refused("is not valid YAML", "types: {test: {timeout: !!int ''}}")
        self.assert_refused("is not valid YAML", "types: {test: {database: !!bool maybe}}")

    def test_bombs_and_loops_are_refused_at_once(self):
        lines = ["a0: &a0 {x: lol}"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
        self.assert_refused("stands for more than 512 KiB", "\n".join(lines))
        merges = ["a0: &a0 {x: lol}"]
        merges += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30)]
        self.assert_refused("stands for more than 512 KiB", "\n".join(merges))
        text = f"a: &a {'x' * 60000}\nb: [{', '.join(['*a'] * 1000)}]"
        self.assert_refused("stands for more than 512 KiB", text)
        self.assert_refused("an alias stands inside of what it names", "a: &a [*a]")
        self.assert_refused("is nested too deeply", "a: " + "[" * 60 + "]" * 60)
        self.assert_refused("is nested too deeply", "a: " + "[" * 100000)
        self.assert_refused("is larger than 256 KiB", "#" * (300 << 10))

    def test_only_a_regular_file_is_read(self):
        (self.folder / FILE_NAME).symlink_to("/etc/passwd")
        self.assert_refused("must be a regular file, not a link")
        (self.folder / FILE_NAME).unlink()
        (self.folder / FILE_NAME).mkdir()
        self.assert_refused("must be a regular file")
        (self.folder / FILE_NAME).rmdir()
        os.mkfifo(self.folder / FILE_NAME)
        self.assert_refused("is not a regular file")

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
    @given(st.lists(words, max_size=30).map(" ".join) | st.binary(max_size=40))
    def test_any_text_is_a_value_or_is_refused_in_a_sentence(self, text):
        try:
            parse(text if isinstance(text, bytes) else text.encode())
        except RunError as error:
            self.assertEqual(error.code, "setup_error")


class TestMerged(unittest.TestCase):
    def merge(self, stored, **wanted):
        override = repository_config.Override("types.test", wanted, "")
        return merged("test", stored, override)

    def assert_refused(self, reason, stored, **wanted):
        with self.assertRaises(RunError) as caught:
            self.merge(stored, **wanted)
        self.assertIn(reason, caught.exception.message)

    def test_a_key_takes_the_place_of_the_stored_one_as_a_whole(self):
        stored = {"env": {"A": "1", "B": "2"}, "steps": STEPS, "labels": ["docker"]}
        self.assertEqual(
            self.merge(stored, env={"A": "3"}),
            {"env": {"A": "3"}, "steps": STEPS, "labels": ["docker"]},
        )

    def test_what_counted_when_the_run_was_queued_cannot_be_changed(self):
        for key in set(CONFIG_SCHEMA["properties"]) - set(REPOSITORY_KEYS):
            with self.subTest(key=key):
                self.assert_refused(
                    f"types.test.{key} cannot be set in the repository: it counts when the run is"
                    " queued",
                    {},
                    **{key: None},
                )

    def test_a_shorter_time_is_allowed_and_a_longer_one_is_not(self):
        self.assertEqual(self.merge({"timeout": 60}, timeout=30)["timeout"], 30)
        self.assert_refused("timeout must not exceed the 60 seconds", {"timeout": 60}, timeout=61)
        self.assert_refused("timeout must not exceed the 3600 seconds", {}, timeout=7200.0)

    def test_secrets_and_network_are_handed_out_by_the_stored_config_only(self):
        stored = {"secrets": ["ONE", {"name": "TWO", "as": "file"}], "network": True}
        self.assertEqual(self.merge(stored, secrets=["TWO"])["secrets"], ["TWO"])
        self.assertFalse(self.merge(stored, network=False)["network"])
        self.assert_refused(
            "types.test.secrets[0] names THREE, which the workflow's own configuration does not",
            stored,
            secrets=[{"name": "THREE"}],
        )
        self.assert_refused("types.test.network cannot be allowed", {}, network=True)

    def test_what_the_schema_refuses_is_refused_with_path_and_reason(self):
        self.assert_refused(
            "types.test.steps[0].run is missing; types.test.stepz is not a known setting",
            {},
            steps=[{"name": "x"}],
            stepz=1,
        )
        self.assert_refused(
            "types.test.env.PORT must be a text (put it in quotes)", {}, env={"PORT": 8069}
        )
        self.assert_refused("types.test.env.A is also named", {"secrets": ["A"]}, env={"A": "x"})

    def test_the_setting_of_the_project_decides(self):
        def allowed(setting, kind):
            return is_allowed(
                {"project": {"repository_config": setting}, "workflow": {"workflow_type": kind}}
            )

        self.assertEqual([allowed("all", kind) for kind in ("test", "deploy")], [True, True])
        self.assertEqual(
            [allowed("build_test", kind) for kind in ("build", "backup")], [True, False]
        )
        self.assertEqual([allowed("no", "test"), allowed(None, "test")], [False, False])


class TestRuns(KernelCase):
    def setUp(self):
        super().setUp()
        self.repository = self.folder / "repository"
        self.repository.mkdir()
        git(self.repository, "init", "--quiet", "-b", "main")
        self.set(repository_url=str(self.repository), repository_config="build_test")

    def set(self, **values):
        with self.environment() as env:
            env["ops.project"].browse(self.project_id).write(values)

    def execute(self, text, workflow_type="test", **config):
        commit(self.repository, FILE_NAME, text)
        config = {"steps": [{"name": "Stored", "run": "echo stored"}], **config}
        run_id = self.queue(
            self.make_workflow(f"Workflow {workflow_type}", workflow_type, **config)
        )
        worker = self.start_worker("--until-idle")
        self.assertEqual(worker.wait(60), 0)
        return run_id, self.run_row(run_id)

    def test_the_file_of_the_commit_changes_the_run_and_is_recorded(self):
        run_id, row = self.execute(
            "types:\n  test:\n    env: {WHO: world}\n"
            "    steps:\n    - name: Hello\n      run: |\n        echo hello $WHO\n"
        )
        self.assertEqual(row["status"], "succeeded", row)
        self.assertIn("hello world", self.messages(run_id))
        self.assertIn(".odooops.yml (types.test) sets env, steps", self.messages(run_id))
        self.assertEqual(row["metadata"]["config"]["env"], {"WHO": "world"})
        self.assertEqual([each["name"] for each in row["metadata"]["steps"]], ["Hello"])
        ((payload,),) = self.query(
            "SELECT payload FROM ops_run_event WHERE run_id = %s AND message LIKE '.odooops%%'",
            run_id,
        )
        self.assertEqual((payload["path"], len(payload["sha256"])), ("types.test", 64))

    def test_a_wrong_file_fails_the_run_with_path_and_reason(self):
        _run_id, row = self.execute("types: {test: {step: []}}\n")
        self.assertEqual((row["status"], row["error_code"]), ("failed", "setup_error"))
        self.assertEqual(
            row["error_message"],
            ".odooops.yml: types.test.step is not a known setting, did you mean steps?.",
        )

    def test_a_deployment_does_not_listen_to_whoever_may_push(self):
        text = "types: {deploy: {steps: [{name: Mine, run: echo mine}]}}\n"
        run_id, row = self.execute(text, "deploy")
        self.assertEqual(row["status"], "succeeded", row)
        messages = self.messages(run_id)
        self.assertIn("stored", messages)
        self.assertIn(".odooops.yml is not read: the project does not allow that here.", messages)
        self.set(repository_config="all")
        git(self.repository, "commit", "--quiet", "--allow-empty", "-m", "Again")
        with self.environment() as env:
            workflow = env["ops.workflow"].search([("project_id", "=", self.project_id)])
        run_id = self.queue(workflow.id)
        self.assertEqual(self.start_worker("--until-idle").wait(60), 0)
        self.assertIn("mine", self.messages(run_id))

    def test_steps_take_the_place_of_the_built_in_recipe(self):
        commit(self.repository, FILE_NAME, "types: {build: {steps: [{name: A, run: echo own}]}}\n")
        run_id = self.queue(self.make_workflow("Build", "build"))
        self.assertEqual(self.start_worker("--until-idle").wait(60), 0)
        self.assertEqual(self.run_row(run_id)["status"], "succeeded")
        self.assertIn("own", self.messages(run_id))

    def test_a_shorter_time_counts(self):
        _run_id, row = self.execute(
            "types: {test: {timeout: 2, steps: [{name: Hang, run: sleep 71331}]}}\n"
        )
        self.assertEqual(row["error_code"], "timeout")
        self.assertIn("The run took longer than its 2 seconds", row["error_message"])
