"""An image that holds a real Odoo, made without a registry: of the tests' own Python and Odoo.

It is made like the official one where that matters: Odoo is started by ``odoo`` in PATH, the
environment names a configuration file (ODOO_RC) with addons of the image's own, a folder for data
that the worker's user cannot write, and a database server that is none of ours, and there is no
user of the worker's number. Its files lie elsewhere than on the host, so that nothing can be found
by chance.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import odoo

from ..devtools import embedded

IMAGE = "odooops-test-odoo:19.0"
#: A module of the image's own addons.
IMAGE_MODULE = "image_extra"
#: Odoo's server-wide modules; with what they depend on they are all that the demo project needs.
MODULES = ("base", "web", "rpc")
#: What a shell's command lines may use, of busybox.
APPLETS = ("sh", "sleep", "env", "ls", "cat", "id", "cmp", "cp", "ln", "mkdir", "readlink")
POSTGRES_PROGRAMS = ("psql", "pg_dump", "pg_restore")
PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
LAUNCHER = f"""#!/usr/bin/{PYTHON}
import sys
sys.path.insert(0, "/opt/odoo")
import odoo.cli
odoo.cli.main()
"""
CONFIG = (
    "[options]\naddons_path = /mnt/extra-addons\ndb_host = db.invalid\ndata_dir = /var/lib/odoo\n"
)
EXTRA_MANIFEST = "{'name': 'Of the image', 'version': '19.0.1.0.0', 'depends': ['base']}"
CHANGES = ["ENV ODOO_RC=/etc/odoo/odoo.conf", "ENV PYTHONPATH=/opt/python", "USER 101"]
#: Packages of the tests' environment that Odoo has no use for.
NOT_PACKED = re.compile(r"pixeltable|moto|boto|nodejs|_?pytest|pylint|hypothesis|docker|ruff")
#: Folders that neither an installation nor the demo project's tests read.
NOT_OF_PYTHON = {
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tkinter",
}
NOT_OF_MODULES = {"i18n", "tests", "lib", "src", "fonts"}


@cache
def make_odoo_image(client):
    """Import the image into an engine, once; return its name. Takes about half a minute."""
    with tempfile.TemporaryDirectory(prefix="odooops-image-", dir="/var/tmp") as folder:
        path = Path(folder) / "image.tar"
        with tarfile.open(path, "w", dereference=True) as archive:
            _fill(_Image(archive, Path(folder)))
        repository, tag = IMAGE.split(":")
        client.import_image_from_file(str(path), repository, tag, changes=CHANGES)
    return IMAGE


class _Image:
    """The archive of an image's files."""

    def __init__(self, archive, folder):
        self.archive = archive
        self.folder = folder

    def add_text(self, target, text, mode=0o644):
        """Put a small file into the image."""
        path = self.folder / "small"
        path.write_text(text)
        path.chmod(mode)
        self.archive.add(path, target)

    def add(self, source, target, is_wanted=lambda path: True):
        """Put a file or folder into the image, without what it never needs."""
        for path, name in _walk(Path(source), target):
            if is_wanted(path):
                self.archive.add(path, name, recursive=False)


def _walk(source, target):
    if not source.is_dir():
        if source.exists():
            yield source, target
        return
    for folder, _folders, names in os.walk(source):
        below = os.path.relpath(folder, source)
        for name in names:
            path = Path(folder, name)
            if path.exists():
                yield path, os.path.normpath(f"{target}/{below}/{name}")


def _fill(image):
    busybox = shutil.which("busybox", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    image.archive.add(busybox, "bin/busybox")
    for applet in APPLETS:
        link = tarfile.TarInfo(f"bin/{applet}")
        link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
        image.archive.addfile(link)
    stdlib = Path(sysconfig.get_path("stdlib"))
    packages = Path(sysconfig.get_path("purelib"))
    manifests = _manifests(Path(odoo.__path__[0]) / "addons")
    modules = _with_dependencies(manifests, MODULES)
    # A database that an Odoo with all modules has made holds these, too.
    by_themselves = _installed_by_themselves(manifests, modules)
    packed = modules | by_themselves | {"__init__.py"}

    def is_python(path):
        return (
            not NOT_OF_PYTHON.intersection(path.relative_to(stdlib).parts) and path.suffix != ".a"
        )

    def is_packed(path):
        parts = path.relative_to(packages).parts
        is_foreign = "locale-data" in parts and not path.name.startswith(("root", "en"))
        return not NOT_PACKED.match(parts[0]) and "tests" not in parts and not is_foreign

    def is_needed(path):
        parts = path.relative_to(odoo.__path__[0]).parts
        if parts[0] != "addons":
            return True
        if parts[1] in by_themselves and parts[2:] == ("__manifest__.py",):
            return False
        if parts[1:3] == ("mail", "tools"):
            # html_editor imports it, and does not depend on mail.
            return True
        return parts[1] in packed and not NOT_OF_MODULES.intersection(parts[2:-1])

    python = Path(os.path.realpath(sys.executable))
    image.add(python, f"usr/bin/{PYTHON}")
    image.add(stdlib, f"usr/lib/{PYTHON}", is_python)
    image.add(packages, "opt/python", is_packed)
    image.add(Path(odoo.__path__[0]), "opt/odoo/odoo", is_needed)
    _add_manifests(image, manifests, by_themselves, manifests.keys() - packed)
    path = f"{embedded.programs()}:{os.environ['PATH']}"
    programs = [Path(shutil.which(name, path=path)) for name in POSTGRES_PROGRAMS]
    binaries = [python, *programs, *stdlib.glob("lib-dynload/*.so")]
    binaries += [path for path in packages.rglob("*.so") if is_packed(path)]
    for name, path in _libraries(binaries, packages).items():
        image.add(path, name)
    image.add_text("usr/bin/odoo", LAUNCHER, 0o755)
    image.add_text("usr/bin/python3", f'#!/bin/sh\nexec {PYTHON} "$@"\n', 0o755)
    for program in programs:
        image.add(program, f"usr/bin/{program.name}")
    image.add_text("etc/odoo/odoo.conf", CONFIG)
    image.add_text(f"mnt/extra-addons/{IMAGE_MODULE}/__init__.py", "")
    image.add_text(f"mnt/extra-addons/{IMAGE_MODULE}/__manifest__.py", EXTRA_MANIFEST)


def _add_manifests(image, manifests, by_themselves, others):
    """Those of modules that are in the image and not installed unless asked for, and of others,
    which are not."""
    for name in by_themselves:
        # Installations in this image are to be short.
        manifest = {**manifests[name], "auto_install": False}
        image.add_text(f"opt/odoo/odoo/addons/{name}/__manifest__.py", repr(manifest))
    for name in others:
        # Of the others only what the data of module base rely on: their categories.
        known = {
            key: manifests[name][key] for key in ("name", "category") if key in manifests[name]
        }
        image.add_text(f"opt/odoo/odoo/addons/{name}/__manifest__.py", repr(known))
        image.add_text(f"opt/odoo/odoo/addons/{name}/__init__.py", "")


def _manifests(addons):
    """Odoo's modules: name → manifest."""
    return {
        path.parent.name: ast.literal_eval(path.read_text())
        for path in addons.glob("*/__manifest__.py")
    }


def _with_dependencies(manifests, names):
    """The modules and all that they depend on."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += manifests[name].get("depends", ())
    return found


def _installed_by_themselves(manifests, modules):
    """What Odoo installs beside the modules without being asked."""
    found = set(modules)
    while True:
        more = set()
        for name, manifest in manifests.items():
            wanted = manifest.get("auto_install")
            needed = manifest.get("depends", ()) if wanted is True else wanted
            is_meant = wanted and not manifest.get("countries") and name not in found
            if is_meant and found.issuperset(needed):
                more |= _with_dependencies(manifests, [name])
        if not more - found:
            return found - set(modules)
        found |= more


def _libraries(binaries, packages):
    """Path in the image → path here, of the system's libraries that the binaries are linked to."""
    listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    found = {}
    for path in set(re.findall(r"(/\S+) \(0x", listed)):
        if not Path(path).is_relative_to(packages):
            # The loader is asked for by its path, the others are found in the usual folder.
            found[path.lstrip("/") if "ld-linux" in path else f"lib/{Path(path).name}"] = path
    return found
