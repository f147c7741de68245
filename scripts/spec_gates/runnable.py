"""Blocks of documents that are marked as runnable: how they are found, and how they run.

The mark stands alone on the line before the block (a blank line may lie between): ``<!-- run
-->`` in Markdown, ``.. run`` in reStructuredText. Blocks without a language, and those of ``sh``,
``bash`` and ``console`` (lines after ``$ ``), are given to bash; blocks of ``sql`` to the
database of PG*, and are rolled back. All blocks run in one scratch copy of the checkout, in the
order of the documents, each in a shell of its own with a clean environment.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import NamedTuple

from .findings import Finding

MARKS = {".md": re.compile(r"^<!-- run -->$"), ".rst": re.compile(r"^\.\. run$")}
SHELLS = ("", "sh", "bash", "console")
# The longest of them makes a virtual environment with nothing in a cache.
LIMIT_SECONDS = 120
LEFT_OUT = shutil.ignore_patterns(
    ".local", "node_modules", "__pycache__", ".ruff_cache", ".pytest_cache", "generated"
)
# What a block may know of the machine: where programs are, and which database is its own.
PASSED_ON = ("PATH", "PGHOST", "PGPORT", "PGUSER", "PGPASSFILE", "PGPASSWORD", "PGDATABASE")
TODO = "make it work as written, or take the mark away"


class Block(NamedTuple):
    """A marked block: its document, the line of its first command, language and text."""

    path: str
    line: int
    language: str
    text: str


def blocks(name, lines):
    """Marked blocks of one document, and findings about marks that stand before none."""
    suffix = Path(name).suffix
    found, problems = [], []
    for number, text in enumerate(lines):
        if not MARKS.get(suffix, MARKS[".md"]).match(text.strip()):
            continue
        block = (_indented if suffix == ".rst" else _fenced)(name, lines, number + 1)
        if block is None:
            wrong = "a mark without a block"
            problems.append(
                Finding(name, number + 1, wrong, "put it right before the block it is for")
            )
        elif block.language not in (*SHELLS, "sql"):
            wrong = f"nothing here runs a block of `{block.language}`"
            problems.append(
                Finding(name, number + 1, wrong, "mark blocks of sh, console and sql only")
            )
        else:
            found.append(block)
    return found, problems


def _fenced(name, lines, start):
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start == len(lines) or not lines[start].lstrip().startswith("```"):
        return None
    language = lines[start].strip().strip("`").strip()
    body = []
    for text in lines[start + 1 :]:
        if text.strip().startswith("```"):
            break
        body.append(text)
    return Block(name, start + 2, language, textwrap.dedent("\n".join(body)))


def _indented(name, lines, start):
    while start < len(lines) and lines[start].strip() in ("", "::"):
        start += 1
    if start < len(lines) and (
        match := re.match(r"^\.\. code-block:: (\w+)$", lines[start].strip())
    ):
        language, start = match[1], start + 1
    else:
        language = ""
    body = []
    for text in lines[start:]:
        if text.strip() and not text.startswith(" "):
            break
        body.append(text)
    text = textwrap.dedent("\n".join(body)).strip("\n")
    skipped = next((n for n, each in enumerate(body) if each.strip()), 0)
    return Block(name, start + skipped + 1, language, text) if text.strip() else None


def run(root, marked):
    """Run the blocks and give a finding for each that fails."""
    if not marked:
        return []
    found = []
    with tempfile.TemporaryDirectory(prefix="odooops-documents-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        checkout = Path(folder) / "odooops"
        shutil.copytree(root, checkout, symlinks=True, ignore=LEFT_OUT)
        for block in marked:
            problem = _sql(block.text) if block.language == "sql" else _shell(block, checkout, home)
            if problem:
                found.append(Finding(block.path, block.line, f"the block fails: {problem}", TODO))
    return found


def _shell(block, checkout, home):
    text = block.text
    if block.language == "console":
        text = "\n".join(line[2:] for line in text.splitlines() if line.startswith("$ "))
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment |= {"HOME": str(home), "LANG": "C.UTF-8"}
    # A session of its own, so that what a block leaves behind can be ended with it.
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=checkout, env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _none = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return f"it took more than {LIMIT_SECONDS} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode == 0:
        return None
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return f"exit code {process.returncode}" + (f", {lines[-1][:200]}" if lines else "")


def _sql(text):
    try:
        import psycopg2
    except ImportError as error:
        return f"{error}; `make spec-gates` has it"
    try:
        connection = psycopg2.connect("")
        try:
            with connection.cursor() as cursor:
                cursor.execute(text)
        finally:
            connection.rollback()
            connection.close()
    except psycopg2.Error as error:
        return " ".join(str(error).split())[:200]
    return None
