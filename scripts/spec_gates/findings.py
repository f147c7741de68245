"""What a gate reports, and how its command says it."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Finding(NamedTuple):
    """One thing that is wrong: ``path`` is relative to the root, lines count from 1."""

    path: str
    line: int
    wrong: str
    todo: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.wrong}; {self.todo}"


def read(root, name):
    """Lines of a file below the root; none where there is no such file."""
    path = Path(root) / name
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def bundles(root):
    """Names of the folders below ``spec/``, relative to the root, in order."""
    folder = Path(root) / "spec"
    if not folder.is_dir():
        return []
    return sorted(f"spec/{each.name}" for each in folder.iterdir() if each.is_dir())


def run_gates(gates, root, write=print):
    """Run gates by name and tell what they find; return the exit code.

    :param gates: ``{name: check}``
    """
    passed = failed = 0
    for name, check in gates.items():
        found = sorted(set(check(Path(root))))
        for finding in found:
            write(str(finding))
        write(f"{name}: {'ok' if not found else f'{len(found)} findings'}")
        passed, failed = passed + (not found), failed + bool(found)
    write(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def command(gates, arguments=None):
    """The command line: names of gates, all when none is given; ``--root`` of another checkout."""
    parser = argparse.ArgumentParser(description="Check the papers; see CONTRIBUTING.md.")
    parser.add_argument("gates", nargs="*", choices=[*gates, []], metavar="GATE", default=[])
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to look at")
    options = parser.parse_args(arguments)
    chosen = {name: gates[name] for name in options.gates or gates}
    return run_gates(chosen, options.root, lambda line: sys.stdout.write(f"{line}\n"))
