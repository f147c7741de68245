"""Fetching and unpacking Debian packages without installing them and without being root.

apt-get works here in folders of its own, with the mirror that this machine is already configured
for: nothing of the system changes, and no host name is written into the project.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

from . import paths, processes
from .errors import SetupError
from .progress import note

TRIES = 3
BACK_OFF_SECONDS = 4
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LOG = paths.LOGS / "debian.log"


class Apt:
    """apt-get with private state, either with the machine's sources or with one suite."""

    def __init__(self, folder, sources=None):
        """`sources`: the text of a sources.list; None means the machine's own sources."""
        self.folder = folder
        self.sources = sources
        for part in ("state/lists/partial", "cache/archives/partial", "empty"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        if sources is not None:
            (folder / "sources.list").write_text(sources, encoding="utf-8")

    def argv(self, *command):
        """The command line of apt-get with the private folders."""
        options = [
            f"Dir::State={self.folder / 'state'}",
            f"Dir::Cache={self.folder / 'cache'}",
            # Root's apt would change to the user _apt, which cannot enter private folders.
            "APT::Sandbox::User=",
            "Acquire::Languages=none",
            # Container images switch apt's own cache off, which makes each call slow.
            "Dir::Cache::pkgcache=pkgcache.bin",
            "Dir::Cache::srcpkgcache=srcpkgcache.bin",
            f"Acquire::Retries={TRIES}",
        ]
        if self.sources is not None:
            options += [
                f"Dir::Etc::sourcelist={self.folder / 'sources.list'}",
                f"Dir::Etc::sourceparts={self.folder / 'empty'}",
            ]
        argv = ["apt-get"]
        for option in options:
            argv += ["-o", option]
        return [*argv, *command]

    def update(self):
        """Fetch the package lists; raises SetupError when the mirror cannot be read."""
        _with_retries(self.argv("update", "--error-on=any"), self.folder)

    def download(self, package, target):
        """Fetch one package into `target` and return its path, None if the suite has none."""
        known = subprocess.run(
            self.argv("download", "--print-uris", package),
            capture_output=True,
            text=True,
            cwd=target,
            env=_environment(),
            check=False,
        )
        if known.returncode:
            return None
        name = known.stdout.split()[1]
        if not (target / name).exists():
            _with_retries(self.argv("download", package), target)
        return target / name

    def mirrors(self):
        """Addresses of the Debian mirrors whose package lists are here, the first one best."""
        listed = subprocess.run(
            self.argv("indextargets", "--format", "$(SITE) $(LABEL)", "Created-By: Packages"),
            capture_output=True,
            text=True,
            env=_environment(),
            check=False,
        ).stdout.splitlines()
        found = [line.split()[0] for line in listed if line.split()[1:] == ["Debian"]]
        return list(dict.fromkeys(found))


def machine_apt(folder):
    """apt with the machine's sources, its package lists fetched if need be."""
    apt = Apt(folder)
    if not apt.mirrors():
        _borrow_lists(folder / "state" / "lists")
    if not apt.mirrors():
        apt.update()
    return apt


def suite_apt(folder, mirror, suite):
    """apt with one suite of a mirror."""
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    apt = Apt(folder, f"deb {signed}{mirror} {suite} main\n")
    apt.update()
    return apt


def unpack(package, target):
    """Unpack a .deb; it is removed when it is broken, so that the next try fetches it anew."""
    try:
        processes.run_logged(
            ["dpkg", "-x", package, target], LOG, failure=f"{package.name} could not be unpacked."
        )
    except SetupError:
        package.unlink(missing_ok=True)
        raise


def available():
    """Whether this machine has the programs this module needs."""
    return bool(shutil.which("apt-get") and shutil.which("dpkg"))


def repair_links(tree):
    """Make dangling links in an unpacked tree resolve, and return those that could not.

    Packages of different releases keep the same file at different places; a link whose target is
    missing is pointed to a file of the same name elsewhere in the tree.
    """
    dangling = [link for link in _links(tree) if not link.exists()]
    if not dangling:
        return []
    wanted = {link.name for link in dangling} | {_target_name(link) for link in dangling}
    real = {}
    for folder, _, names in os.walk(tree):
        for name in wanted.intersection(names):
            path = Path(folder) / name
            if not path.is_symlink():
                real.setdefault(name, path)
    missing = []
    for link in dangling:
        found = real.get(link.name) or real.get(_target_name(link))
        if found is None:
            missing.append(link)
            continue
        link.unlink()
        link.symlink_to(os.path.relpath(found, link.parent))
    return missing


def _links(tree):
    for folder, folders, names in os.walk(tree):
        for name in folders + names:
            path = Path(folder) / name
            if path.is_symlink():
                yield path


def _target_name(link):
    return os.path.basename(os.readlink(link))


def _borrow_lists(target):
    """Copy the package lists the machine already has: that saves fetching them."""
    for source in Path("/var/lib/apt/lists").glob("*_*"):
        if source.is_file() and os.access(source, os.R_OK):
            shutil.copy2(source, target / source.name)


def _environment():
    return {**os.environ, "LC_ALL": "C"}


def _with_retries(argv, cwd):
    for attempt in range(1, TRIES + 1):
        try:
            processes.run_logged(
                argv,
                LOG,
                env=_environment(),
                cwd=cwd,
                failure=f"The Debian mirror did not answer, in {TRIES} tries: is there a network?",
            )
        except SetupError:
            if attempt == TRIES:
                raise
            wait = BACK_OFF_SECONDS * 2 ** (attempt - 1)
            note(f"apt-get failed (see {LOG}); next try in {wait} s")
            time.sleep(wait)
        else:
            return
