"""Build the demo's git repository from the files in ``demo/repository``.

The demo project needs a real repository with a good branch (``main``) and one whose tests fail
(``broken-booking``). Author, dates and files are fixed, so every machine gets the same commits.
Needs only the standard library and git; reads no git configuration of the user.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent / "demo"
SOURCES = DEMO / "repository"
BROKEN_PATCH = DEMO / "broken-booking.patch"
BROKEN_BRANCH = "broken-booking"
AUTHOR_NAME = "OdooOps Demo"
AUTHOR_EMAIL = "demo@example.com"
# What a module folder may hold besides the files that belong to the repository.
IGNORED = ("__pycache__", "*.pyc", ".*")


class _Repository:
    """Runs git in one folder with a fixed identity and without foreign configuration."""

    def __init__(self, path: Path):
        self.path = path

    def git(self, *arguments: str, date: str = "") -> str:
        """Run git and return its output.

        :param date: author and committer date of a commit, ISO 8601 with offset
        :raises subprocess.CalledProcessError: when git fails
        """
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.path),
            "LC_ALL": "C",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CEILING_DIRECTORIES": str(self.path.parent),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_AUTHOR_NAME": AUTHOR_NAME,
            "GIT_AUTHOR_EMAIL": AUTHOR_EMAIL,
            "GIT_COMMITTER_NAME": AUTHOR_NAME,
            "GIT_COMMITTER_EMAIL": AUTHOR_EMAIL,
        }
        if date:
            environment |= {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        settings = ["core.autocrlf=false", "core.fileMode=false", "core.hooksPath=/dev/null"]
        options = [part for setting in settings for part in ("-c", setting)]
        return subprocess.run(
            # Another user (the one that set the demo up) may own the folder.
            ["git", "-c", f"safe.directory={self.path}", *options, *arguments],
            cwd=self.path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def commit(self, message: str, date: str) -> None:
        """Commit everything in the folder."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--no-gpg-sign", "--message", message, date=date)


def build(target: Path) -> dict:
    """Make the demo repository in ``target``, replacing an older one.

    The repository is built beside ``target`` and moved there as a whole, and one that already has
    the right commits stays untouched, so the function may be called at any time.

    :param target: the folder of the repository; its parents are created
    :return: ``path`` and the commit hashes of the branches: ``main`` and ``broken``
    :raises FileExistsError: when ``target`` holds anything else than an earlier demo repository
    :raises subprocess.CalledProcessError: when git fails
    """
    target = Path(target).resolve()
    if target.exists() and any(target.iterdir()) and not _is_ours(target):
        raise FileExistsError(f"{target} exists and is not the demo repository.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-repository-", dir=target.parent) as folder:
        fresh = Path(folder) / "repository"
        fresh.mkdir()
        fresh.chmod(0o755)
        _fill(_Repository(fresh))
        commits = _commits(fresh)
        if commits != _commits(target):
            shutil.rmtree(target, ignore_errors=True)
            fresh.rename(target)
    return {"path": str(target), **commits}


def _is_ours(path: Path) -> bool:
    """Tell whether all commits in the folder are the demo's, so that nobody's work is replaced."""
    if not (path / ".git").is_dir():
        return False
    try:
        authors = _Repository(path).git("log", "--all", "--format=%ae").split()
    except subprocess.CalledProcessError:
        return False
    return set(authors) == {AUTHOR_EMAIL}


def _commits(path: Path) -> dict:
    """Return the commit hashes of the demo branches, {} when there is no such repository."""
    if not (path / ".git").is_dir():
        return {}
    repository = _Repository(path)
    try:
        return {
            "main": repository.git("rev-parse", "--verify", "refs/heads/main"),
            "broken": repository.git("rev-parse", "--verify", f"refs/heads/{BROKEN_BRANCH}"),
        }
    except subprocess.CalledProcessError:
        return {}


def _fill(repository: _Repository) -> None:
    """Make the commits of both branches; the folder ends on ``main``."""
    repository.git("init", "--quiet", "--initial-branch=main", "--template=")
    _copy(repository, "README.md", "demo_equipment")
    repository.commit("Add the equipment register", "2026-01-12T09:00:00+00:00")
    _copy(repository, "demo_equipment_booking")
    repository.commit("Book equipment by the hour", "2026-01-19T14:30:00+00:00")
    repository.git("checkout", "--quiet", "-b", BROKEN_BRANCH)
    repository.git("apply", str(BROKEN_PATCH))
    repository.commit("Simplify the search for overlapping bookings", "2026-02-02T16:45:00+00:00")
    repository.git("checkout", "--quiet", "main")


def _copy(repository: _Repository, *names: str) -> None:
    """Copy files and folders of the sources into the repository."""
    for name in names:
        source = SOURCES / name
        if source.is_dir():
            ignore = shutil.ignore_patterns(*IGNORED)
            shutil.copytree(source, repository.path / name, ignore=ignore)
        else:
            shutil.copyfile(source, repository.path / name)
