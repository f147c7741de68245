"""Install the Python packages a repository asks for, for one run only.

They go into a virtual environment in the run's work directory that sees the packages of Odoo's
Python: pip leaves alone what is there, installs beside it what is missing or needed in another
version, and changes nothing outside the work directory. In a container it is the Python of the
image, which has no network unless the workflow's configuration gives it one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import RunError
from ..logs import LogLine
from .addons import Addon
from .base import Job
from .odoo import Installation

FILE = "requirements.txt"
#: Below the run's work directory.
FOLDER = "python"


def requirement_files(checkout: Path, addons: Iterable[Addon]) -> list[Path]:
    """Return requirements.txt of the repository's root and of the folders that hold modules."""
    folders = {checkout.resolve(), *(addon.path.parent for addon in addons)}
    inside = (folder for folder in sorted(folders) if folder.is_relative_to(checkout.resolve()))
    return [folder / FILE for folder in inside if (folder / FILE).is_file()]


def install(job: Job, installation: Installation, files: list[Path]) -> dict[str, str]:
    """Install what the files ask for; return the environment with which Odoo finds it.

    :raises RunError: missing_dependency with pip's own words
    """
    folder = job.workdir / FOLDER
    # A virtual environment does not see the packages of another one it was made from.
    seen = [*installation.packages, *filter(None, [installation.python_path])]
    env = {"PYTHONPATH": os.pathsep.join(seen), "PIP_NO_INPUT": "1"}
    words: list[str] = []

    def listen(line: LogLine) -> None:
        if line.message.strip():
            words.append(line.message.strip())
            del words[:-50]

    options = ["--disable-pip-version-check", "--no-cache-dir", "--no-warn-script-location"]
    commands = (
        [installation.python, "-m", "venv", "--without-pip", "--system-site-packages", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", *options]
        + [part for file in files for part in ("-r", str(file))],
    )
    for argv in commands:
        if job.execute(argv, name="pip", env=env, cwd=files[0].parent, on_line=listen):
            cause = _cause(words).rstrip(".")
            raise RunError(
                "missing_dependency",
                f"The Python packages of {FILE} could not be installed: {cause}.{_advice(job)}",
            )
    packages = [str(path) for path in folder.glob("lib/python*/site-packages")]
    given = installation.python_path
    return {"PYTHONPATH": os.pathsep.join([*packages, *([given] if given else [])])}


def _advice(job: Job) -> str:
    """Say what a container lacks that pip may have needed."""
    if not job.image or job.config["network"]:
        return ""
    return (
        f" The run's containers have no network: put the packages into {job.place}, or set"
        ' "network": true in the workflow\'s configuration.'
    )


def _cause(words: list[str]) -> str:
    """Return pip's last meaningful line."""
    errors = [word for word in words if word.upper().startswith("ERROR:")]
    chosen = (errors or words or ["pip gave no reason"])[-1]
    return chosen[6:].strip() if errors else chosen


def require_external(installation: Installation, modules: Iterable[str], place: str) -> None:
    """Raise missing_dependency when a module needs a package or a program that is not there.

    :param place: where the run's Odoo comes from, as ``Job.place``
    """
    wanted = set(modules)
    missing = [entry for entry in installation.missing if entry["module"] in wanted]
    if not missing:
        return
    kinds = {"python": "the Python package", "bin": "the program"}
    needs = [f"module “{m['module']}” needs {kinds[m['kind']]} “{m['name']}”" for m in missing]
    hint = ""
    if any(entry["kind"] == "python" for entry in missing):
        hint = f" A {FILE} in the repository is installed for the run."
    sentence = f"{'; '.join(needs)}, which the Odoo of {place} does not have.{hint}"
    raise RunError("missing_dependency", sentence[0].upper() + sentence[1:])
