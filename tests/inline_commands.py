"""Commands, options and functions that a document names within a sentence: which are not there.

What looks like none of them, a JSON value or a file's name, is left to others: the gate *documents*
looks at paths.
"""

import argparse
import re
import shlex
import subprocess

import odoo.release
from odoo.tools import config

from ..worker.settings import add_arguments
from .document_commands import ROOT

CODE = re.compile(r"(`{1,2})([^`]+?)\1")
CALL = re.compile(r"^([A-Za-z_][\w.]*)\([^()]*\)$")
OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)")
ASSIGNMENT = re.compile(r"^[A-Z_]+=")
#: Options of others' programs.
OTHERS = {"--pwprompt": "createuser", "--limit-time-real": "odoo"}
#: Others' programs, and which of their commands documents name. git is asked.
PROGRAMS = {
    "git": None,
    "docker": {"compose", "login", "pull", "run"},
    "pip": {"wheel"},
    "kill": {"-9"},
    "cp": None,
}
#: PostgreSQL's own functions.
BUILTIN = {"lower", "replace", "translate"}


def codes(name, text):
    """Numbered inline codes of a document outside of its blocks."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not (name.endswith(".rst") and line.startswith("    ")):
            for code in CODE.finditer(line):
                yield number, code[2].strip()


def worker_options():
    """Options of every worker."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return set(parser._option_string_actions)


class Names:
    """What there is: targets, scripts, modules, options, functions."""

    def __init__(self):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        self.targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split())
        self.scripts = {path.name: path for path in (ROOT / "scripts").glob("*/*.sh")}
        self.worker = worker_options()
        self.kernel = self._functions("sql/*.sql", r"FUNCTION \S*?(\w+)\(")
        self.python = self._functions("[a-z]*/**/*.py", r"\bdef (\w+)\(")
        self.options = self.worker | self._options("cli/*.py", "chaos/run.py", "benchmarks/*.py")
        self.options |= self._options("scripts/*/*.sh", "scripts/*/*.py") | set(OTHERS)

    def _sources(self, *patterns):
        paths = (path for pattern in patterns for path in ROOT.glob(pattern))
        return "\n".join(path.read_text(encoding="utf-8") for path in paths)

    def _functions(self, pattern, definition):
        return set(re.findall(definition, self._sources(pattern)))

    def _options(self, *patterns):
        return set(OPTION.findall(self._sources(*patterns)))

    def problem(self, code):
        """Why a command, an option or a call is wrong; None when it is right or none of them."""
        if call := CALL.match(code):
            return self._call(*call.groups())
        if code.startswith("--"):
            return self._unknown(code, self.options)
        try:
            words = shlex.split(code)
        except ValueError:
            return None
        while words and ASSIGNMENT.match(words[0]):
            words = words[1:]
        return self._command(code, words) if words else None

    def _command(self, code, words):
        program, *rest = words
        if program == "make" and rest:
            return self._make(*rest)
        if program.endswith(".sh"):
            return self._script(code, program)
        if program == "odooops-worker":
            if rest and not rest[0].startswith("-") and rest[0] != "register":
                return f"odooops-worker has no command {rest[0]}"
            return self._unknown(code, self.worker | {"--help"})
        if program in ("python", "python3") and rest[:1] == ["-m"]:
            return self._module(code, rest[1])
        if program == "odoo" and rest:
            return self._odoo(code, rest[0])
        if program.startswith(".local/venv-lint/bin/"):
            tool = program.rpartition("/")[2]
            pinned = (ROOT / "requirements" / "lint.txt").read_text(encoding="utf-8")
            return None if f"\n{tool}==" in pinned else f"{tool} is not in requirements/lint.txt"
        if rest and program in PROGRAMS:
            return self._of_others(program, rest[0])
        return None

    def _make(self, target, *arguments):
        if target == "…":
            return None
        if target not in self.targets:
            return f"the Makefile has no target {target}"
        source = {"bench": "benchmarks/run.py", "chaos": "chaos/run.py"}.get(target)
        return self._unknown(" ".join(arguments), self._options(source)) if source else None

    def _script(self, code, program):
        path = self.scripts.get(program.rpartition("/")[2])
        if "*" in program:
            return None if any(ROOT.glob(program)) else f"{program} is not there"
        if path is None or "/" in program and (ROOT / program).resolve() != path:
            return None if any(ROOT.glob(f"*/{program}")) else f"{program} is no script"
        return self._unknown(code, set(OPTION.findall(path.read_text(encoding="utf-8"))))

    def _module(self, code, name):
        path = ROOT / name.replace(".", "/")
        source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else None
        if source is None and not (path / "__main__.py").is_file():
            return f"there is no module {name}"
        return self._unknown(code, self._options(str(source.relative_to(ROOT))) if source else (
            self.worker if name == "worker" else set()))  # fmt: skip

    def _odoo(self, code, command):
        known = {path.stem for path in (ROOT / "cli").glob("*.py")}
        known |= {path.stem for path in (_odoo_folder() / "cli").glob("*.py")}
        if not command.startswith("-") and command not in known:
            return f"odoo has no command {command}"
        options = [each for each in OPTION.findall(code) if not config.parser.has_option(each)]
        return self._unknown(" ".join(options), self.options)

    def _of_others(self, program, command):
        if PROGRAMS[program] is not None and command not in PROGRAMS[program]:
            return f"{program} {command}: look whether there is that, and name it in PROGRAMS"
        if program == "git":
            asked = subprocess.run(
                ["git", command, "-h"], capture_output=True, text=True, check=False
            )
            if not asked.stdout.startswith(f"usage: git {command}"):
                return f"git has no command {command}"
        return None

    def _call(self, name):
        *packages, function = name.split(".")
        if packages and packages[0] not in ("ops", "public"):
            source = (ROOT / "/".join(packages)).with_suffix(".py")
            there = source.is_file() and f"def {function}(" in source.read_text(encoding="utf-8")
        else:
            there = function in self.kernel | BUILTIN or not packages and function in self.python
        return None if there else f"there is no function {name}"

    def _unknown(self, code, known):
        unknown = [each for each in OPTION.findall(code) if each not in known]
        return f"unknown: {', '.join(unknown)}" if unknown else None


def _odoo_folder():
    return type(ROOT)(odoo.release.__file__).resolve().parent


def problems(texts):
    """Lines about everything named in documents that is not there; ``texts`` by their name."""
    names = Names()
    return [
        f"{name}:{number}: `{code}`: {wrong}"
        for name, text in texts.items()
        for number, code in codes(name, text)
        if (wrong := names.problem(code))
    ]
