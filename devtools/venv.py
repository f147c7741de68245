"""Virtual environments and the packages in them."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time

from . import paths, processes
from .errors import SetupError
from .progress import note, step

TRIES = 3
BACK_OFF_SECONDS = 4  # doubled after each failed try
# pip's words when the index answers, but has nothing that fits; trying again does not help.
NOT_FOR_THIS_PYTHON = re.compile(r"Could not find a version .*\(from versions: (?!none)")


def python(venv=paths.VENV):
    """The interpreter of a virtual environment."""
    return venv / "bin" / "python"


def ensure(groups, venv=paths.VENV):
    """Make the virtual environment and install `requirements/<group>.txt` for each group.

    Does nothing for what is already there: each group leaves a stamp with its file's hash.
    """
    _create(venv)
    for group in groups:
        requirements = paths.REQUIREMENTS / f"{group}.txt"
        stamp = venv / "stamps" / group
        wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
        if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
            continue
        with step(f"Installing Python packages ({group})"):
            _install(venv, requirements, group)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(wanted, encoding="ascii")


def link_packages(folder, venv=paths.VENV):
    """Make the packages in `folder` (Odoo's) importable, after the environment's own."""
    (site,) = venv.glob("lib/python*/site-packages")
    line = f"{folder}\n"
    link = site / "odoo.pth"
    if not link.exists() or link.read_text(encoding="utf-8") != line:
        link.write_text(line, encoding="utf-8")


def _create(venv):
    if _works(venv):
        return
    if venv.exists():
        # Of another Python, or torn by an interrupted start.
        shutil.rmtree(venv)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    log = paths.LOGS / "venv.log"
    with step(f"Making a virtual environment with Python {version}"):
        processes.run_logged(
            [sys.executable, "-m", "venv", venv],
            log,
            failure=(
                "No virtual environment could be made: on Debian and Ubuntu install the package "
                f"python3-venv (or python{version}-venv)."
            ),
        )


def _works(venv):
    """Whether it is whole and made with the Python that runs this program."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not (venv / "lib" / f"python{version}" / "site-packages" / "pip").is_dir():
        return False
    started = subprocess.run(
        [python(venv), "-c", "import pip"], stderr=subprocess.DEVNULL, check=False
    )
    return started.returncode == 0


def _install(venv, requirements, group):
    log = paths.LOGS / f"pip-{group}.log"
    # Compiling everything takes longer than Python needs for what is imported in the end.
    argv = [python(venv), "-m", "pip", "install", "--no-input", "--no-compile", "-r", requirements]
    if group == "postgres":
        argv.append("--no-deps")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_USER")
    }
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    for attempt in range(1, TRIES + 1):
        try:
            processes.run_logged(
                argv,
                log,
                env=environment,
                failure=(
                    f"The Python packages of requirements/{group}.txt could not be installed after "
                    f"{TRIES} tries: is the network, or a proxy or index for pip, set up?"
                ),
            )
        except SetupError:
            if NOT_FOR_THIS_PYTHON.search(processes.tail(log)):
                raise processes.failed(
                    f"A version pinned in requirements/{group}.txt does not exist for Python "
                    f"{sys.version.split()[0]} on this machine: start again with another one, "
                    "`make PYTHON=/path/to/python3 ...`.",
                    log,
                    lines=3,
                ) from None
            if attempt == TRIES:
                raise
            wait = BACK_OFF_SECONDS * 2 ** (attempt - 1)
            note(f"pip failed (see {log}); next try in {wait} s")
            time.sleep(wait)
        else:
            return
