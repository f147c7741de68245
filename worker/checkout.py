"""Bring the commit of a run into its checkout directory.

URL and ref come from users and are not trusted: they never reach a shell, cannot become options of
git, and git runs without the configuration, hooks, templates or credentials of the user the worker
runs as. A password in the URL goes to git through a credential file that is removed again, so that
neither git's output nor the checkout shows it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import RunError

if TYPE_CHECKING:
    from .logs import LogLine
    from .recipes.base import Job

SCHEMES = ("https", "http", "ssh", "git", "file")
FULL_SHA = re.compile(r"[0-9a-f]{40}")
#: Seconds after which a repository that does not answer counts as unreachable.
ANSWER_TIMEOUT = 120.0
#: user@host:path, git's short form of ssh URLs.
_SCP_LIKE = re.compile(r"(?:[\w.+-]+@)?[\w.-]+:(?!/?/)[^:].*")
#: What `git check-ref-format` refuses, and a leading dash, which would be an option.
_BAD_REF = re.compile(r"^[-/]|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|[/.]$|\.lock$|^@$")
# Begins at the colon: the name of the scheme would be tried from each letter of a long word, and a
# server may answer with a megabyte of them.
_USER_IN_URL = re.compile(r"(?<=\w)(://)[^/\s'\"]*@")


@dataclasses.dataclass(frozen=True)
class Checkout:
    """The commit in the checkout directory."""

    #: 40 hex digits
    commit: str
    #: first line of the commit message
    subject: str
    #: ISO 8601 with offset, as git recorded it
    author_date: str


def fetch(job: Job) -> Checkout:
    """Fetch the run's commit into ``job.checkout_dir`` with all its submodules.

    The commit is ``git_commit`` of the snapshot when given, else what ``git_ref`` (branch, tag or
    full hash), else the project's default branch, points to now. The directory must be absent or
    empty. ``job.source`` tells what was fetched: nobody needs to ask git after the run's own code
    could write into the checkout.

    :raises RunError: setup_error, repository_unreachable or unknown_ref
    """
    snapshot = job.snapshot
    url = checked_url(snapshot["project"].get("repository_url"))
    ref = snapshot.get("git_ref") or snapshot["project"].get("default_branch") or "main"
    commit = snapshot.get("git_commit") or None
    if commit and not FULL_SHA.fullmatch(commit):
        raise RunError("unknown_ref", f"“{commit}” is not the full hash of a commit.")
    if _BAD_REF.search(ref):
        raise RunError("unknown_ref", f"“{ref}” is not a valid name of a branch or tag.")
    if not commit and FULL_SHA.fullmatch(ref):
        commit = ref
    with job.step("Checkout"), _private_configuration(job.workdir, url) as config:
        return _Fetch(job, url, config).fetch(ref, commit)


def describe(job: Job) -> Checkout:
    """Return which commit is in ``job.checkout_dir``.

    :raises RunError: internal_error when it holds no commit
    """
    answer = job.capture(
        ["git", "log", "-1", "--no-show-signature", "--format=%H%n%aI%n%s"],
        env={"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"},
        cwd=job.checkout_dir,
    )
    commit, author_date, subject, *_ = [*answer.stdout.splitlines(), "", "", ""]
    if answer.exit_code or not FULL_SHA.fullmatch(commit):
        raise RunError("internal_error", "git could not tell which commit is checked out.")
    return Checkout(commit=commit, subject=subject, author_date=author_date)


def checked_url(url: str | None) -> str:
    """Return the repository's URL when git may be given it.

    :raises RunError: setup_error when it is missing, relative, an option or of a scheme that runs
        programs
    """
    if not url:
        raise RunError("setup_error", "The project has no repository URL.")
    # A folder's name may hold a blank, a URL writes it as %20.
    unfit = r"[\x00-\x1f\x7f]" if url.startswith("/") else r"[\x00-\x20\x7f]"
    if re.search(unfit, url) or url.startswith("-") or "::" in url:
        raise RunError("setup_error", f"“{redacted(url)}” cannot be used as a repository URL.")
    scheme, separator, _ = url.partition("://")
    known = scheme in SCHEMES if separator else url.startswith("/") or _SCP_LIKE.fullmatch(url)
    with contextlib.suppress(ValueError):
        urllib.parse.urlsplit(url)
        if known:
            return url
    raise RunError(
        "setup_error",
        f"“{redacted(url)}” is not a repository URL:"
        " use https, ssh, git or file, or an absolute path.",
    )


def redacted(text: str) -> str:
    """Return the text without user names and passwords in URLs."""
    return _USER_IN_URL.sub(r"\1***@", text)


class _Fetch:
    """One checkout: the job, the URL without its password, and git's environment."""

    def __init__(self, job: Job, url: str, config: Path):
        self.job = job
        self.url, _ = _without_password(url)
        self.shown = redacted(url)
        self.is_local = local_path(url) is not None
        self.directory = job.checkout_dir
        self.last_words = ""
        self.env = {
            "GIT_CONFIG_GLOBAL": str(config),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=30",
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
            "GIT_CEILING_DIRECTORIES": str(self.directory.parent),
            "GIT_LFS_SKIP_SMUDGE": "1",
            "LC_ALL": "C",
        }

    def fetch(self, ref: str, commit: str | None) -> Checkout:
        """See ``fetch`` above; ``commit`` wins over ``ref``."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._must("init", "--quiet", "--template=")
        self._must("remote", "add", "--", "origin", self.url)
        source = commit or self._resolve(ref)
        self.job.source_ref = self._ref_of(ref, commit) if commit else source
        self.job.log("info", f"Fetching {commit or ref} from {self.shown}")
        if not self._fetch(source):
            self._fetch_with_history(ref, commit)
        self._must("checkout", "--quiet", "--detach", commit or "FETCH_HEAD")
        if (self.directory / ".gitmodules").is_file():
            self._fetch_submodules()
        result = self.job.source = describe(self.job)
        self.job.log(
            "info", f"Checked out {result.commit} “{result.subject}” of {result.author_date}"
        )
        return result

    def _resolve(self, ref: str) -> str:
        """Return the full name of a branch or, when there is none of that name, a tag."""
        found, last_words = self._look_up(ref)
        if found is None:
            raise self._unreachable(last_words)
        for full_ref in found:
            return full_ref
        raise RunError("unknown_ref", f"{self.shown} has no branch or tag “{ref}”.")

    def _ref_of(self, ref: str, commit: str) -> str:
        """The full name of ``ref`` when it ends with that commit, else nothing.

        Who queues a run names both, and the commit need not be on the branch. Only caches want to
        know, so only for them git asks once more.
        """
        allowed = self.job.snapshot["project"].get("repository_config") not in (None, "no")
        if not self.job.config.get("cache") and not allowed:
            return ""
        found, _last_words = self._look_up(ref)
        return next((name for name, end in (found or {}).items() if end == commit), "")

    def _look_up(self, ref: str) -> tuple[dict[str, str] | None, str]:
        """What has that name: hashes by full names, the first one is meant. None when the
        repository does not answer, and what git said then."""
        candidates = [f"refs/heads/{ref}", f"refs/tags/{ref}"]
        if ref.startswith("refs/"):
            candidates.insert(0, ref)
        answer = self.job.capture(
            self._argv("ls-remote", "--refs", "--", "origin", *candidates),
            env=self.env,
            cwd=self.directory,
            timeout=ANSWER_TIMEOUT,
        )
        if answer.exit_code:
            return None, answer.stderr
        lines = [line.partition("\t") for line in answer.stdout.splitlines()]
        ends = {name: end for end, _tab, name in lines}
        return {name: ends[name] for name in candidates if name in ends}, ""

    def _fetch(self, *refspecs: str, depth: int | None = 1) -> bool:
        """Fetch refs or commits; without ``depth`` the whole history. Return whether it worked."""
        shallow = [f"--depth={depth}"] if depth else []
        return not self._git("fetch", "--quiet", "--no-tags", *shallow, "--", "origin", *refspecs)

    def _fetch_with_history(self, ref: str, commit: str | None) -> None:
        """Second way, for servers that serve no single commits or no shallow clones."""
        self.job.log("info", "That did not work; trying again with the whole history")
        if not commit:
            if not self._fetch(ref, depth=None):
                raise self._unreachable(self.last_words)
            return
        self._resolve_any()
        everything = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        if not self._fetch(*everything, depth=None):
            raise self._unreachable(self.last_words)
        if self._git("cat-file", "-e", f"{commit}^{{commit}}"):
            raise RunError(
                "unknown_ref", f"{self.shown} has no commit {commit} on any branch or tag."
            )

    def _resolve_any(self) -> None:
        """Raise repository_unreachable when the repository does not answer at all."""
        answer = self.job.capture(
            self._argv("ls-remote", "--heads", "--", "origin"),
            env=self.env,
            cwd=self.directory,
            timeout=ANSWER_TIMEOUT,
        )
        if answer.exit_code:
            raise self._unreachable(answer.stderr)

    def _fetch_submodules(self) -> None:
        # A repository from the network has no business with this host's files.
        allowed = "file:git:http:https:ssh" if self.is_local else "git:http:https:ssh"
        arguments = ("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
        env = {"GIT_ALLOW_PROTOCOL": allowed}
        # Servers that serve no single commits need the history.
        if self._git(*arguments, env=env) and self._git(*arguments[:-1], env=env):
            raise RunError(
                "repository_unreachable",
                f"A submodule of {self.shown} could not be fetched: {self._cause(self.last_words)}",
            )

    def _argv(self, *arguments: str) -> list[str]:
        return ["git", *arguments]

    def _git(self, *arguments: str, env: dict[str, str] | None = None) -> int:
        """Run git, its output goes to the run's log; return the exit code."""
        self.last_words = ""
        return self.job.execute(
            self._argv(*arguments),
            name="git",
            env=self.env | (env or {}),
            cwd=self.directory,
            on_line=self._remember,
        )

    def _remember(self, line: LogLine) -> None:
        self.last_words += line.message + "\n"

    def _must(self, *arguments: str) -> None:
        if self._git(*arguments):
            words = self._cause(self.last_words)
            raise RunError("setup_error", f"git {arguments[0]} failed: {words}")

    def _unreachable(self, words: str) -> RunError:
        for line in redacted(words).splitlines():
            self.job.log("error", line)
        return RunError(
            "repository_unreachable",
            f"The repository {self.shown} could not be read: {self._cause(words)}",
        )

    def _cause(self, words: str) -> str:
        """Return the line of git's output that says most: its first fatal error."""
        lines = [line.strip() for line in redacted(words).splitlines() if line.strip()]
        fatal = [line for line in lines if line.startswith(("fatal: ", "error: ", "ERROR: "))]
        chosen = (fatal or lines[-1:] or ["git gave no reason"])[0]
        return chosen.partition(": ")[2] if fatal else chosen


def local_path(url: str) -> Path | None:
    """Return the folder a URL means on this host, None when it means another host."""
    if url.startswith("/"):
        return Path(url)
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        return Path(urllib.parse.unquote(parts.path))
    return None


def _without_password(url: str) -> tuple[str, str | None]:
    """Split an http(s) URL into the URL without user and password, and the credential for it.

    A bare user name of ssh URLs stays: it is no secret and needed.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return url, None
    credential, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl(), f"{parts.scheme}://{credential}@{host}"


@contextlib.contextmanager
def _private_configuration(workdir: Path, url: str) -> Iterator[Path]:
    """Write the only configuration git reads, and remove it together with the credentials."""
    folder = workdir / "git"
    folder.mkdir(mode=0o700)
    try:
        sections = [
            "[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\tautocrlf = false\n",
            "[init]\n\tdefaultBranch = run\n",
            # Background work would outlive the checkout.
            "[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n",
            "[advice]\n\tdetachedHead = false\n",
            '[protocol "ext"]\n\tallow = never\n',
        ]
        path = local_path(url)
        if path is not None:
            # The configured repository may belong to another user, no other folder may.
            trusted = {path, path / ".git", path.resolve(), path.resolve() / ".git"}
            entries = "".join(f"\tdirectory = {_quoted(str(entry))}\n" for entry in sorted(trusted))
            sections.append(f"[safe]\n{entries}")
        _, credential = _without_password(url)
        if credential:
            store = folder / "credentials"
            _write_private(store, credential + "\n")
            helper = "store --file='" + str(store).replace("'", "'\\''") + "'"
            sections.append(f"[credential]\n\thelper = {_quoted(helper)}\n")
        config = folder / "config"
        _write_private(config, "".join(sections))
        yield config
    finally:
        shutil.rmtree(folder)


def _quoted(value: str) -> str:
    """Return the value as a quoted string of a git configuration file."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
