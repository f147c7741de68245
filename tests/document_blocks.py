"""The code blocks of the documents and the commands in them, as a reader would type them."""

import json
import re
import shlex
import textwrap
from typing import NamedTuple

from .document_commands import ROOT

SHELLS = ("", "sh", "bash", "console")


class Block(NamedTuple):
    """A code block of a document: the heading above it, its language, first line and text."""

    document: str
    heading: str
    language: str
    line: int
    text: str


def documents():
    """The documents whose commands people type, by name."""
    names = ["README.rst", "worker/README.rst", "CONTRIBUTING.md", "SECURITY.md"]
    names += [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in sorted(names)}


def blocks(name, text):
    """The code blocks of one document."""
    return list((_literal if name.endswith(".rst") else _fenced)(name, text.splitlines()))


def _fenced(name, lines):
    heading, opened = "", None
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("```"):
            if opened:
                body = textwrap.dedent("\n".join(lines[opened : number - 1]))
                yield Block(name, heading, lines[opened - 1].strip("` "), opened + 1, body)
            opened = None if opened else number
        elif not opened and re.match(r"#+ ", line):
            heading = line.lstrip("# ")


def _literal(name, lines):
    heading = ""
    for number, line in enumerate(lines, 1):
        if line and set(line) == {"="}:
            heading = lines[number - 2]
        if not line.rstrip().endswith("::") or line.startswith(".."):
            continue
        indent = len(line) - len(line.lstrip())
        # An item of a list begins behind its number.
        indent += len(re.match(r"(\d+\. )?", line.lstrip())[0])
        body = []
        for text in lines[number:]:
            if text.strip() and not text.startswith(" " * (indent + 1)):
                break
            body.append(text)
        text = textwrap.dedent("\n".join(body)).strip("\n")
        yield Block(name, heading, "json" if _is_json(text) else "", number + 2, text)


def _is_json(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def commands(block):
    """The commands of a block; a quoted text or a backslash goes on in the next line."""
    if block.language == "sql" or re.match("CREATE ", block.text):
        return [block.text]
    if block.language not in SHELLS:
        return []
    found, begun = [], ""
    for line in block.text.splitlines():
        if not begun and block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        begun += line
        if begun.strip() and not begun.endswith("\\") and _is_whole(begun):
            found.append(begun)
        elif begun.strip():
            begun += "\n"
            continue
        begun = ""
    return found + ([begun] if begun else [])


def _is_whole(text):
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True
