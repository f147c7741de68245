"""Caches of real runs: kept and found again, never shared too far, never followed outside."""

import fcntl
import io
import os
import tarfile
import uuid

from odoo.addons.odooops.worker.workflow import validate_config

from .test_worker_checkout import commit, git
from .worker_common import FolderCase, KernelCase

#: Shows what was found, and makes something to find.
SCRIPT = 'echo "found $(cat deps/word 2>/dev/null)"; mkdir -p deps/sub; echo "$WORD" > deps/word'
CACHE = [{"path": "deps", "key": ["lock"], "name": "Dependencies"}]


class TestSchema(FolderCase):
    def test_paths_that_lead_elsewhere_are_refused(self):
        for path in ("/etc", "../x", "a/../b", "~/../x", ".", "a/.", "a*", "a\\b", ""):
            problems = validate_config("test", {"cache": [{"path": path, "key": ["lock"]}]})
            self.assertIn("cache[0].path", str(problems[0]))
            problems = validate_config("test", {"cache": [{"path": "deps", "key": [path]}]})
            self.assertIn("cache[0].key[0]", str(problems[0]))
        for path in (".venv", "~/.cache/pip", "a/b..c"):
            self.assertEqual(
                validate_config("test", {"cache": [{"path": path, "key": ["a/lock"]}]}), []
            )
        problems = validate_config("test", {"cache": [{"path": "deps", "key": []}]})
        self.assertEqual(str(problems[0]), "cache[0].key must hold at least 1 entries")


class TestCaches(KernelCase):
    def setUp(self):
        super().setUp()
        self.repository = self.folder / "repository"
        self.repository.mkdir()
        git(self.repository, "init", "--quiet", "-b", "main")
        commit(self.repository, "lock", "one")
        self.use_repository(self.project_id)

    def use_repository(self, project_id):
        with self.environment() as env:
            env["ops.project"].browse(project_id).repository_url = str(self.repository)

    def queue_word(self, word, script=SCRIPT, workflow_type="test", ref=(None, None), **config):
        steps = [{"name": "Work", "run": script}]
        config = {"cache": CACHE, "env": {"WORD": word}, "steps": steps, **config}
        workflow_id = self.make_workflow(f"{word} {uuid.uuid4()}", workflow_type, **config)
        reply = self.call("queue_run", workflow_id, *ref)
        self.assertTrue(reply["success"], reply)
        return reply["run_id"]

    def execute(self, word, *options, **config):
        """Run to the end; the run's messages.

        :param ref: branch and commit, as they are queued
        """
        run_id = self.queue_word(word, **config)
        self.work_off(*options)
        row, messages = self.run_row(run_id), self.messages(run_id)
        self.assertIn(row["status"], ("succeeded", "failed"))
        return messages

    def work_off(self, *options):
        self.assertEqual(self.start_worker("--until-idle", *options).wait(60), 0)

    def files(self):
        return sorted(path for path in (self.folder / "work").rglob("*") if path.is_file())

    def test_a_run_finds_what_a_success_with_the_same_key_left(self):
        messages = self.execute("one")
        self.assertIn("found ", messages)
        self.assertIn("Dependencies: nothing is kept for this key yet", messages)
        messages = self.execute("two")
        self.assertIn("found one", messages)
        self.assertIn("Dependencies: restored deps", messages)
        self.assertIn("found one", self.execute("three"), "The second run changed the cache.")
        commit(self.repository, "lock", "two")
        self.assertIn("found ", self.execute("four"))
        self.assertIn("found four", self.execute("five"))
        self.assertEqual(len(self.files()), 2)

    def test_a_failure_leaves_nothing_behind(self):
        self.execute("one", script=f"{SCRIPT}; exit 1")
        self.assertIn("found ", self.execute("two"))

    def test_deployments_and_other_projects_have_caches_of_their_own(self):
        self.execute("test")
        self.assertIn("found ", self.execute("deploy", workflow_type="deploy"))
        self.assertIn("found test", self.execute("build", workflow_type="build"))
        self.assertIn("found deploy", self.execute("upgrade", workflow_type="upgrade"))
        with self.environment() as env:
            slug = f"{self.slug}-other"
            other = env["ops.project"].create({"name": slug, "slug": slug}).id
        first, self.project_id = self.project_id, other
        try:
            self.use_repository(other)
            self.assertIn("found ", self.execute("other"))
        finally:
            self._remove_project()
            self.project_id = first

    def test_a_branch_reads_the_default_branch_and_writes_for_itself(self):
        git(self.repository, "checkout", "--quiet", "-b", "feature")
        tip = commit(self.repository, "code", "of somebody who may push")
        git(self.repository, "tag", "v1")
        git(self.repository, "branch", "late")
        git(self.repository, "checkout", "--quiet", "main")
        self.assertIn("found ", self.execute("feature", ref=("feature", None)))
        self.assertIn("found feature", self.execute("again", ref=("feature", tip)))
        self.assertIn("found ", self.execute("tag", ref=("v1", None)))
        # Queued for the default branch, with a commit that is not its end.
        self.assertIn("found ", self.execute("pretended", ref=("main", tip)))
        self.assertIn("found pretended", self.execute("again", ref=(None, tip)))
        self.assertIn("found ", self.execute("main"), "Nothing of that reaches the default branch.")
        kept = len(self.files())
        messages = self.execute("late", ref=("late", None))
        self.assertIn("found main", messages)
        self.assertIn("Dependencies: restored deps, of the default branch", messages)
        head = git(self.repository, "rev-parse", "main")
        self.assertIn("found main", self.execute("ci", ref=("main", head)))
        self.assertEqual(len(self.files()), kept, "What was found is not kept again.")

    def test_a_project_cannot_push_out_the_caches_of_others(self):
        script = f"{SCRIPT}; head -c 400000 /dev/urandom > deps/noise"
        with self.environment() as env:
            slug = f"{self.slug}-other"
            other = env["ops.project"].create({"name": slug, "slug": slug}).id
        self.execute("quiet", script=script)
        (quiet,) = self.files()
        first, self.project_id = self.project_id, other
        try:
            self.use_repository(other)
            for number in range(3):
                commit(self.repository, "lock", f"flood {number}")
                self.execute("flood", "--cache-limit-mb=1", script=script)
            self.assertTrue(quiet.exists(), "The most goes first, not the oldest.")
            commit(self.repository, "lock", "flood")
            messages = self.execute("flood", "--cache-project-limit-mb=1", script=script)
            self.assertEqual(len(self.files()), 3)
            script = f"{SCRIPT}; head -c 900000 /dev/urandom > deps/noise"
            commit(self.repository, "lock", "more")
            messages = self.execute("flood", "--cache-project-limit-mb=1", script=script)
            self.assertIn(
                "Removed the longest unused cache, as those of the project exceed the limit",
                messages,
            )
            self.assertEqual(len(self.files()), 2)
            self.assertTrue(quiet.exists())
        finally:
            self._remove_project()
            self.project_id = first

    def test_many_empty_files_are_large(self):
        script = f"{SCRIPT}; cd deps; seq 1500 | xargs touch"
        messages = self.execute("many", "--cache-limit-mb=1", script=script)
        self.assertTrue(any("exceed the worker's limit of 1 MiB" in text for text in messages))
        self.assertEqual(self.files(), [])

    def test_a_folder_below_home_is_kept_too(self):
        script = 'cat ~/.cache/x/word || true; mkdir -p ~/.cache/x; echo "$WORD" > ~/.cache/x/word'
        cache = [{"path": "~/.cache/x", "key": ["lock"]}]
        self.execute("at home", script=script, cache=cache)
        self.assertIn("at home", self.execute("again", script=script, cache=cache))

    def test_runs_at_the_same_time_leave_one_whole_cache(self):
        runs = [self.queue_word(f"word {n}", script=f"sleep 1; {SCRIPT}") for n in range(4)]
        self.work_off("--capacity=4")
        self.assertEqual({self.run_row(run)["status"] for run in runs}, {"succeeded"})
        self.assertEqual(len(self.files()), 1)
        self.assertIn("found word ", "\n".join(self.execute("late")))

    def test_half_a_cache_goes_when_nobody_writes_it_any_more(self):
        self.execute("one")
        (whole,) = self.files()
        dead, written = (whole.with_name(f"{name}.part") for name in ("dead", "written"))
        dead.touch()
        with open(written, "xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            commit(self.repository, "lock", "two")
            self.execute("two")
            self.assertEqual((dead.exists(), written.exists()), (False, True))

    def test_the_longest_unused_goes_when_all_exceed_the_limit(self):
        script = f"{SCRIPT}; head -c 700000 /dev/urandom > deps/noise"
        self.execute("one", script=script)
        (first,) = self.files()
        commit(self.repository, "lock", "two")
        messages = self.execute("two", "--cache-limit-mb=1", script=script)
        self.assertIn("Removed the longest unused cache, as all exceed the limit", messages)
        self.assertEqual(len(self.files()), 1)
        self.assertFalse(first.exists())
        commit(self.repository, "lock", "three")
        script = f"{SCRIPT}; head -c 1500000 /dev/zero > deps/noise"
        messages = self.execute("three", "--cache-limit-mb=1", script=script)
        self.assertTrue(any("exceed the worker's limit of 1 MiB" in text for text in messages))
        messages = self.execute("four", "--cache-limit-mb=0")
        self.assertIn("This worker keeps no caches (--cache-limit-mb=0).", messages)

    def poison(self, *members):
        self.execute("one")
        (path,) = self.files()
        with tarfile.open(path, "w:gz") as archive:
            for name, kind, target in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.size = kind, target, 0
                content = None
                if kind == tarfile.REGTYPE:
                    info.size, content = 4, io.BytesIO(b"evil")
                archive.addfile(info, content)
        return path

    def test_members_that_lead_outside_are_not_followed(self):
        outside = self.folder / "outside"
        for members in (
            [("deps/../../../../../outside", tarfile.REGTYPE, "")],
            [("deps/link", tarfile.SYMTYPE, str(self.folder)),
             ("deps/link/outside", tarfile.REGTYPE, "")],
            [("deps/null", tarfile.CHRTYPE, "")],
            [("deps/hard", tarfile.LNKTYPE, "/etc/passwd")],
        ):  # fmt: skip
            with self.subTest(members=members):
                path = self.poison(*members)
                messages = self.execute("two")
                self.assertIn("found ", messages)
                warnings = [text for text in messages if "Dependencies: not restored: " in text]
                self.assertEqual(len(warnings), 1, messages)
                self.assertFalse(outside.exists())
                # The bad one is gone and the run left a good one in its place.
                self.assertIn("found two", self.execute("three"))
                path.unlink()

    def test_a_damaged_cache_is_a_warning(self):
        self.execute("one")
        (path,) = self.files()
        path.write_bytes(path.read_bytes()[:60])
        messages = self.execute("two")
        self.assertIn("found ", messages)
        self.assertTrue(any("Dependencies: not restored" in text for text in messages))

    def test_links_of_the_repository_lead_nowhere(self):
        outside = self.folder / "outside"
        outside.mkdir()
        os.symlink(outside, self.repository / "there")
        commit(self.repository, "lock", "linked")
        cache = [{"path": "there/deps", "key": ["lock"]}]
        script = "echo word > there/word; mkdir -p there/deps"
        messages = self.execute("one", script=script, cache=cache)
        self.assertIn("there/deps: not kept, as there/deps is no folder", messages)
        self.assertEqual(self.files(), [])

    def test_what_the_repository_has_stays(self):
        self.execute("one")
        (self.repository / "deps").mkdir()
        commit(self.repository, "deps/word", "tracked")
        messages = self.execute("two")
        self.assertIn("found tracked", messages)
        self.assertIn("Dependencies: not restored, as deps is there already", messages)
