"""`make lint`: ruff, pylint-odoo, shellcheck and the size of files and functions. Needs no Odoo.

`make hooks` lets git run the quick ones of them before each commit (`.pre-commit-config.yaml`).
"""

import ast
import os
import shutil
import subprocess

from . import needs, paths, venv
from .errors import SetupError
from .progress import note, say

FILE_LINES = 500
FUNCTION_LINES = 60
# One file on purpose: an auditor takes it alone, from the source.
FILE_LINES_OF = {"scripts/odooops/verify_audit.py": 650}
# Material for runs, not code of the project.
EXCLUDED = "demo/repository/"


def lint(_arguments):
    """Run every check, also after one has failed; return 1 if any did."""
    paths.prepare_local()
    venv.ensure(["lint"], paths.LINT_VENV)
    files = _files()
    results = {
        "ruff check": _run(["ruff", "check", "."]),
        "ruff format": _run(["ruff", "format", "--check", "."]),
        # Through the link: pylint must see a package named like the module.
        "pylint-odoo": _run(
            ["pylint", f"--rcfile={paths.ROOT / '.pylintrc'}", "odooops"], cwd=paths.ADDONS
        ),
        "shellcheck": _shellcheck(files),
        "sizes": _sizes(files),
    }
    failed = [name for name, ok in results.items() if not ok]
    say(f"make lint: {'FAILED: ' + ', '.join(failed) if failed else 'ok'}")
    return 1 if failed else 0


def hooks(_arguments):
    """Install the tools, and the hooks by which git runs them; return 1 if pre-commit cannot."""
    paths.prepare_local()
    venv.ensure(["lint"], paths.LINT_VENV)
    argv = [str(venv.python(paths.LINT_VENV)), "-m", "pre_commit", "install"]
    return 1 if subprocess.run(argv, cwd=paths.ROOT, check=False).returncode else 0


def too_long(name, text):
    """Sentences about a Python file and its functions that have grown too long."""
    found = []
    lines = text.count("\n")
    most = FILE_LINES_OF.get(name, FILE_LINES)
    if lines > most:
        found.append(f"{name}: {lines} lines; a file has at most {most}")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                found.append(
                    f"{name}:{node.lineno}: {node.name} has {length} lines; "
                    f"a function has at most {FUNCTION_LINES}"
                )
    return found


def _files():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=paths.ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        raise SetupError("`make lint` works in a git checkout only: clone the project with git.")
    names = {os.fsdecode(name) for name in listed.stdout.split(b"\0") if name}
    return sorted(
        name for name in names
        if not name.startswith(EXCLUDED) and (paths.ROOT / name).is_file()
    )  # fmt: skip


def _run(argv, cwd=paths.ROOT):
    program, *arguments = map(str, argv)
    command = [str(venv.python(paths.LINT_VENV)), "-m", program, *arguments]
    # pylint would leave its statistics in the home folder.
    environment = {**os.environ, "PYLINTHOME": str(paths.LOCAL / "pylint")}
    ok = subprocess.run(command, cwd=cwd, env=environment, check=False).returncode == 0
    say(
        f"{program} {arguments[0] if program == 'ruff' else ''}".rstrip()
        + (": ok" if ok else ": FAILED")
    )
    return ok


def _shellcheck(files):
    scripts = [name for name in files if _is_shell(name)]
    if not scripts:
        return True
    if shutil.which("shellcheck") is None:
        if "shellcheck" in needs.required():
            raise SetupError("shellcheck is missing (ODOOOPS_REQUIRE asks for it).")
        note("shellcheck is missing, shell scripts are not checked (apt-get install shellcheck)")
        return True
    ok = subprocess.run(["shellcheck", "-x", *scripts], cwd=paths.ROOT, check=False).returncode == 0
    say(f"shellcheck of {len(scripts)} scripts: {'ok' if ok else 'FAILED'}")
    return ok


def _is_shell(name):
    if name.endswith((".sh", ".bash")):
        return True
    if "." in os.path.basename(name):
        return False
    with open(paths.ROOT / name, "rb") as stream:
        first = stream.readline(100)
    return first.startswith(b"#!") and first.rstrip().endswith((b"sh", b"bash"))


def _sizes(files):
    found = []
    for name in files:
        if name.endswith(".py"):
            found += too_long(name, (paths.ROOT / name).read_text(encoding="utf-8"))
    for sentence in found:
        say(sentence)
    say(f"sizes: {'FAILED' if found else 'ok'}")
    return not found
