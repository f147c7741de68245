"""Fetching commits: real git repositories, by path and over HTTP."""

import base64
import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path

from ..worker.checkout import checked_url, fetch, redacted
from ..worker.errors import RunError
from .recipe_job import LocalJob


def git(folder, *arguments):
    """Run git in a folder with an identity of its own; return its output."""
    identity = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Test"), ("EMAIL", "test@example.com"))
    }
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=folder,
        env=environment | identity,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def commit(folder, name, content):
    """Commit one file; return the commit's hash."""
    (folder / name).write_text(content)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", f"Write {name}")
    return git(folder, "rev-parse", "HEAD")


class AuthenticatedHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files to user “reader” with password “s3cret/word” only."""

    expected = "Basic " + base64.b64encode(b"reader:s3cret/word").decode()

    def do_GET(self):
        if self.headers.get("Authorization") == self.expected:
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.end_headers()

    def log_message(self, *arguments):
        """Keep the test's output clean."""


class CheckoutCase(unittest.TestCase):
    """A folder with a repository of two commits on main, a tag and a branch."""

    def setUp(self):
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(prefix="odooops-checkout-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.repository = self.folder / "repository"
        self.repository.mkdir()
        git(self.repository, "init", "--quiet", "-b", "main")
        self.first = commit(self.repository, "a.txt", "one")
        git(self.repository, "tag", "-a", "v1", "-m", "Version 1")
        self.second = commit(self.repository, "a.txt", "two")
        git(self.repository, "checkout", "--quiet", "-b", "feature/x", self.first)
        self.feature = commit(self.repository, "b.txt", "three")
        git(self.repository, "checkout", "--quiet", "main")

    def job(self, url=None, **options):
        return LocalJob(self.folder, url or self.repository, **options)

    def assert_refused(self, code, job):
        with self.assertRaises(RunError) as caught:
            fetch(job)
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        return caught.exception.message


class TestCheckout(CheckoutCase):
    def test_a_branch_gives_its_newest_commit(self):
        job = self.job()
        done = fetch(job)
        self.assertEqual(done.commit, self.second)
        self.assertEqual(done.subject, "Write a.txt")
        self.assertRegex(done.author_date, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-Z]")
        self.assertEqual((job.checkout_dir / "a.txt").read_text(), "two")
        self.assertEqual(git(job.checkout_dir, "rev-list", "--count", "HEAD"), "1")

    def test_branches_tags_and_hashes_are_found(self):
        for ref, expected in (
            ("feature/x", self.feature),
            ("v1", self.first),
            ("refs/heads/feature/x", self.feature),
            (self.first, self.first),
        ):
            with self.subTest(ref=ref):
                self.assertEqual(fetch(self.job(ref=ref)).commit, expected)

    def test_a_given_commit_wins_over_the_branch(self):
        self.assertEqual(fetch(self.job(ref="main", commit=self.first)).commit, self.first)

    def test_the_default_branch_serves_when_no_ref_is_given(self):
        self.assertEqual(fetch(self.job(ref=None)).commit, self.second)

    def test_a_file_url_works_like_a_path(self):
        self.assertEqual(fetch(self.job(url=f"file://{self.repository}")).commit, self.second)

    def test_submodules_come_along(self):
        part = self.folder / "part"
        part.mkdir()
        git(part, "init", "--quiet", "-b", "main")
        commit(part, "part.txt", "part")
        git(self.repository, "submodule", "--quiet", "add", str(part), "modules/part")
        git(self.repository, "commit", "--quiet", "-m", "Add a submodule")
        job = self.job()
        fetch(job)
        self.assertEqual((job.checkout_dir / "modules/part/part.txt").read_text(), "part")

    def test_hooks_and_configuration_of_the_home_folder_are_ignored(self):
        hooks = self.folder / "hooks"
        hooks.mkdir()
        proof = self.folder / "hook-was-run"
        (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {proof}\n")
        (hooks / "post-checkout").chmod(0o755)
        job = self.job()
        (job.workdir / ".gitconfig").write_text(f"[core]\n\thooksPath = {hooks}\n")
        fetch(job)
        self.assertFalse(proof.exists())

    @unittest.skipUnless(hasattr(os, "getuid") and os.getuid() == 0, "only root gives files away")
    def test_a_repository_of_another_user_can_be_read(self):
        for path in (self.repository, *self.repository.rglob("*")):
            os.chown(path, 12345, 12345)
        self.assertEqual(fetch(self.job()).commit, self.second)


class TestRefusals(CheckoutCase):
    def test_an_unknown_branch_is_named(self):
        message = self.assert_refused("unknown_ref", self.job(ref="nowhere"))
        self.assertIn("has no branch or tag “nowhere”", message)

    def test_an_unknown_commit_is_named(self):
        message = self.assert_refused("unknown_ref", self.job(commit="0" * 40))
        self.assertIn("has no commit " + "0" * 40, message)

    def test_a_ref_cannot_be_an_option(self):
        for ref in ("--upload-pack=touch /tmp/x", "-f", "a b", "a..b", "main~1", "a:b", "x\n"):
            with self.subTest(ref=ref):
                self.assert_refused("unknown_ref", self.job(ref=ref))

    def test_a_short_hash_is_refused(self):
        self.assert_refused("unknown_ref", self.job(commit=self.first[:10]))

    def test_a_missing_repository_is_unreachable(self):
        message = self.assert_refused("repository_unreachable", self.job(url="/no/such/repository"))
        self.assertIn("/no/such/repository", message)

    def test_urls_that_run_programs_or_are_relative_are_refused(self):
        for url in ("ext::sh -c touch% x", "--upload-pack=x", "../x", "ftp://host/x", "fd::3", ""):
            with self.subTest(url=url), self.assertRaises(RunError) as caught:
                checked_url(url)
            self.assertEqual(caught.exception.code, "setup_error")

    def test_usual_urls_are_accepted(self):
        for url in (
            "https://example.com/a.git",
            "ssh://git@example.com:22/a",
            "git@example.com:group/a.git",
            "/srv/git/a",
        ):
            self.assertEqual(checked_url(url), url)


class TestCredentials(CheckoutCase):
    @contextlib.contextmanager
    def served(self):
        """Serve the repository over HTTP as plain files; yield host and path of its URL."""
        git(self.folder, "clone", "--quiet", "--bare", str(self.repository), "served.git")
        git(self.folder / "served.git", "update-server-info")
        handler = functools.partial(AuthenticatedHandler, directory=str(self.folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield f"127.0.0.1:{server.server_port}/served.git"
            server.shutdown()
            thread.join()

    def test_a_password_works_and_is_written_nowhere(self):
        with self.served() as place:
            for commit in (None, self.first):
                job = self.job(url=f"http://reader:s3cret%2Fword@{place}", commit=commit)
                self.assertEqual(fetch(job).commit, commit or self.second)
                self.assertNotIn("s3cret", job.output)
                kept = [path for path in job.workdir.rglob("*") if path.is_file()]
                self.assertTrue(kept)
                self.assertFalse([path for path in kept if b"s3cret" in path.read_bytes()])

    def test_a_wrong_password_is_not_shown(self):
        with self.served() as place:
            job = self.job(url=f"http://reader:wr0ng-word@{place}")
            message = self.assert_refused("repository_unreachable", job)
        self.assertIn(f"http://{place}", message.replace("***@", ""))
        self.assertNotIn("wr0ng-word", message + job.output)

    def test_redaction_takes_user_and_password_away(self):
        self.assertEqual(redacted("at https://a:b@c@host/x now"), "at https://***@host/x now")
        self.assertEqual(redacted("https://token@host/x"), "https://***@host/x")
        self.assertEqual(redacted("https://host/x@y"), "https://host/x@y")

    def test_redaction_of_long_words_ends(self):
        """A server may answer with a megabyte of them; trying each letter anew takes an hour."""
        for word in ("a", "a+", "a.", "a://"):
            text = word * ((1 << 20) // len(word))
            self.assertEqual(redacted(f"{text} https://a:b@h"), f"{text} https://***@h")
