"""Finding an Odoo 19.0, or fetching one.

Looked for in this order: ODOO_HOME (a source checkout or an unpacked package), an `odoo` that the
python3 in use can import, Debian's package `odoo-19` (downloaded once into the cache).
"""

import importlib.util
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import debian, paths, processes
from .errors import SetupError
from .progress import note, step

SERIES = "19.0"
PACKAGE = "odoo-19"
SUITE = "sid"  # the only suite of Debian that carries it
# Odoo's package links to these for its icons, fonts and jQuery instead of carrying them.
HELPERS = (
    "fonts-font-awesome",
    "libjs-jquery",
    "libjs-underscore",
    "libjs-jquery-form",
    "fonts-roboto-unhinted",
    "fonts-montserrat",
    "fonts-inconsolata",
    "fonts-ocr-b",
)
# Without this file no page of Odoo and no test of a page works; the others are only looks.
ESSENTIAL = "jquery.js"
GET_ONE = (
    f"Get the source of Odoo {SERIES} (git clone of the branch {SERIES}) and start again with "
    "ODOO_HOME=/path/to/it."
)


@dataclass(frozen=True)
class Odoo:
    """An Odoo on this machine: the folder that holds the package `odoo`, and where it came from."""

    packages: Path
    origin: str


def ensure():
    """Return the Odoo to use; fetch one if there is none."""
    home = os.environ.get("ODOO_HOME", "")
    if home:
        return _from_home(Path(home).expanduser())
    return _importable() or _from_debian()


def series_of(packages):
    """The series (like 19.0) of the Odoo in a folder of Python packages; None if there is none."""
    try:
        text = (packages / "odoo" / "release.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.search(
        r"^version_info\s*=\s*\(\s*['\"]?(?:saas~)?(\d+)['\"]?\s*,\s*(\d+)", text, re.M
    )
    return f"{found[1]}.{found[2]}" if found else None


def write_launcher(python):
    """Write `.local/bin/odoo`, the script by which every Odoo process is started.

    A script rather than `python -m odoo`: Odoo starts itself again as sys.argv[0], which does not
    work for the module.
    """
    text = (
        f"#!{python}\n"
        '"""Starts Odoo; written by the set-up."""\n'
        "import odoo.cli\n\n"
        'if __name__ == "__main__":\n'
        "    odoo.cli.main()\n"
    )
    launcher = paths.ODOO_LAUNCHER
    launcher.parent.mkdir(parents=True, exist_ok=True)
    if not launcher.exists() or launcher.read_text(encoding="utf-8") != text:
        launcher.write_text(text, encoding="utf-8")
        launcher.chmod(0o755)


def _from_home(home):
    candidates = [home, home / "usr/lib/python3/dist-packages"]
    candidates += sorted(home.glob("lib/python3*/site-packages"))
    for packages in candidates:
        series = series_of(packages)
        if series == SERIES:
            _tell_dangling_links(packages)
            return Odoo(packages.resolve(), f"ODOO_HOME ({home})")
        if series:
            raise SetupError(
                f"ODOO_HOME={home} is Odoo {series}, this addon is for {SERIES}. {GET_ONE}"
            )
    raise SetupError(f"ODOO_HOME={home} holds no Odoo (no odoo/release.py there). {GET_ONE}")


def _tell_dangling_links(packages):
    essential = packages / "odoo/addons/web/static/lib/jquery" / ESSENTIAL
    if essential.is_symlink() and not essential.exists():
        note(
            "the Odoo in ODOO_HOME lacks what Debian's package only links to: tests of pages fail "
            f"until {', '.join(HELPERS)} are unpacked into the same folder (dpkg -x)"
        )


def _importable():
    spec = importlib.util.find_spec("odoo")
    for location in (spec.submodule_search_locations or []) if spec else []:
        packages = Path(location).resolve().parent
        series = series_of(packages)
        if series == SERIES:
            return Odoo(packages, f"the {SERIES} that this python3 imports ({packages})")
        if series:
            note(f"python3 imports an Odoo {series}: not used, this addon is for {SERIES}")
    return None


def _from_debian():
    cache = paths.cache_dir()
    with processes.exclusive(
        cache / "lock", lambda: note("another set-up is fetching Odoo, waiting for it")
    ):
        tree = cache / PACKAGE
        packages = tree / "usr/lib/python3/dist-packages"
        if not (tree / "complete").exists():
            _fetch(cache, tree)
    series = series_of(packages)
    if series != SERIES:
        shutil.rmtree(tree)
        raise SetupError(
            f"Debian's package {PACKAGE} now holds Odoo {series}, this addon is for {SERIES}. "
            f"{GET_ONE}"
        )
    return Odoo(packages, f"Debian's package {PACKAGE} ({tree})")


def _fetch(cache, tree):
    if not debian.available():
        raise SetupError(
            f"There is no Odoo {SERIES} here and no apt-get to fetch one with. {GET_ONE}"
        )
    if shutil.disk_usage(cache).free < 2.5e9:
        raise SetupError(f"Odoo needs 2.5 GB of free space below {cache}: free some there.")
    debs = cache / "debs"
    debs.mkdir(exist_ok=True)
    with step("Fetching the package lists of the Debian mirror"):
        machine = debian.machine_apt(cache / "apt-machine")
        unstable = _unstable(cache, machine)
    with step("Fetching Odoo 19.0 (Debian package, 120 MB)"):
        deb = unstable.download(PACKAGE, debs)
        if deb is None:
            raise SetupError(f"Debian no longer has the package {PACKAGE}. {GET_ONE}")
    with step("Fetching the icons, fonts and jQuery it links to"):
        # The machine's own suite first: newer releases of these packages have moved their files,
        # and Font Awesome from 5 on has other icons than Odoo's 4.7.
        helpers = [
            (name, machine.download(name, debs) or unstable.download(name, debs))
            for name in HELPERS
        ]
    with step("Unpacking Odoo (1.3 GB)"):
        _unpack(tree, [deb, *(helper for _, helper in helpers if helper)])
    absent = [name for name, helper in helpers if helper is None]
    if absent:
        note(f"the mirror has no {', '.join(absent)}: some fonts will look different")


def _unstable(cache, machine):
    mirrors = machine.mirrors()
    if not mirrors:
        raise SetupError(
            "This machine's apt sources name no Debian mirror, so Odoo's package cannot be had. "
            f"{GET_ONE}"
        )
    for mirror in mirrors[:-1]:
        try:
            return debian.suite_apt(cache / "apt-unstable", mirror, SUITE)
        except SetupError:
            note(f"the first mirror does not serve the suite {SUITE}, trying the next")
    return debian.suite_apt(cache / "apt-unstable", mirrors[-1], SUITE)


def _unpack(tree, debs):
    unfinished = tree.with_name(f"{tree.name}.unfinished")
    for leftover in (unfinished, tree):
        if leftover.exists():
            shutil.rmtree(leftover)
    unfinished.mkdir()
    for deb in debs:
        debian.unpack(deb, unfinished)
    missing = debian.repair_links(unfinished)
    if any(link.name == ESSENTIAL for link in missing):
        raise SetupError(
            "Odoo's package lacks jQuery: the Debian mirror did not give the package libjs-jquery. "
            "Start again later, or set ODOO_HOME to a source checkout of Odoo."
        )
    if missing:
        note(f"{len(missing)} font files are missing in Odoo's package; only looks suffer")
    (unfinished / "complete").write_text("unpacked\n", encoding="ascii")
    unfinished.rename(tree)
