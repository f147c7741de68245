"""Gate 7, *documents*: links, anchors, paths and `make` targets resolve; marked commands run.

Looks at README.rst, the Markdown files of the root, `worker/README.rst`, `docs/` and `spec/`. A
block is marked by the line before it: `<!-- run -->` in Markdown, `.. run` in reStructuredText;
see `runnable.py`.
"""

import re
import sys
from pathlib import Path
from urllib.parse import unquote

from . import runnable
from .findings import Finding, command

MARKDOWN_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?\)")
RST_LINK = re.compile(r"`[^`<]+<([^>`]+)>`_|^\.\. (?:image|figure|include):: (\S+)")
CODE = re.compile(r"(`{1,2})([^`]+?)\1")
# What may stand in a path that is told in prose: no blanks, no variables, no options.
PATH = re.compile(r"^[A-Za-z0-9_.][A-Za-z0-9_.*-]*(?:/[A-Za-z0-9_.*-]+)*/?$")
TARGET = re.compile(r"^make ([a-z][a-z-]*)\b")
TEST = re.compile(r"^test_[a-z0-9_]+$")
GENERATED = (".local/", "prisma/generated", "prisma/build")


def documents(root):
    """The documents below the root, in order."""
    names = ["README.rst", "worker/README.rst"]
    found = [root / name for name in names if (root / name).is_file()]
    found += sorted(root.glob("*.md"))
    for folder in ("docs", "spec", ".github"):
        found += sorted([*(root / folder).rglob("*.md"), *(root / folder).rglob("*.rst")])
    return found


def check(root):
    """Findings about what documents name and is not there, and about marked commands that fail."""
    found, blocks = [], []
    names = _Names(root)
    for path in documents(root):
        name = path.relative_to(root).as_posix()
        lines = path.read_text(encoding="utf-8").splitlines()
        outside = list(_prose(lines, path.suffix))
        for number, text in outside:
            found += _links(root, path, name, number, text)
            found += names.missing(name, number, text)
        marked, problems = runnable.blocks(name, lines)
        blocks += marked
        found += problems
    return found + runnable.run(root, blocks)


def _prose(lines, suffix):
    """Numbered lines outside of code blocks."""
    fenced = False
    for number, text in enumerate(lines, 1):
        if suffix == ".md" and text.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not (suffix == ".rst" and text.startswith("    ")):
            yield number, text


def _links(root, document, name, number, text):
    pattern = MARKDOWN_LINK if document.suffix == ".md" else RST_LINK
    for link in pattern.finditer(CODE.sub("", text) if document.suffix == ".md" else text):
        target = next(filter(None, link.groups()))
        if re.match(r"[a-z]+:", target):
            continue
        path, _hash, anchor = unquote(target).partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or not file.is_relative_to(Path(root).resolve()):
            yield Finding(
                name, number, f"the link `{target}` leads nowhere", "correct it, or remove it"
            )
        elif anchor and anchor not in _anchors(file):
            wrong = f"`{target}`: there is no heading `{anchor}`"
            yield Finding(name, number, wrong, "link a heading that is there")


def _anchors(file):
    """Names that headings of a document get where it is shown: small letters, `-` for blanks."""
    if file.suffix not in (".md", ".rst"):
        return set()
    lines = file.read_text(encoding="utf-8").splitlines()
    if file.suffix == ".md":
        titles = [
            text.lstrip("#").strip() for _n, text in _prose(lines, ".md") if text.startswith("#")
        ]
    else:
        titles = [
            text.strip() for text, below in zip(lines, lines[1:], strict=False)
            if text.strip() and re.fullmatch(r"([=\-~^\"'*+])\1{2,}", below)
        ]  # fmt: skip
    anchors = set()
    for title in titles:
        plain = re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-")
        count = sum(
            each == plain or re.fullmatch(rf"{re.escape(plain)}-\d+", each) is not None
            for each in anchors
        )
        anchors.add(f"{plain}-{count}" if count else plain)
    return anchors


class _Names:
    """Files, `make` targets and tests by which prose may call things."""

    def __init__(self, root):
        self.root = root
        self.rooms = {each.name for each in root.iterdir()}
        makefile = root / "Makefile"
        text = makefile.read_text(encoding="utf-8") if makefile.is_file() else ""
        phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
        self.targets = set(phony[1].split()) if phony else set()
        self.tests = {path.stem for path in (root / "tests").glob("test_*.py")}

    def missing(self, name, number, text):
        """Findings about one line of prose."""
        for code in CODE.finditer(text):
            said = code[2].strip()
            target = TARGET.match(said)
            if target and target[1] not in self.targets:
                wrong = f"`make {target[1]}` is no target of the Makefile"
                yield Finding(name, number, wrong, "correct it, or remove it")
            elif TEST.match(said) and not self._is_test(said):
                yield Finding(name, number, f"`{said}` is no test module", "name one of tests/")
            elif self._is_path(said) and not self._exists(said):
                yield Finding(
                    name, number, f"`{said}` is not there", "correct the path, or remove it"
                )

    def _is_test(self, said):
        return said in self.tests

    def _is_path(self, said):
        said = re.sub(r"(::.*|:\d+)$", "", said)
        if not PATH.match(said) or said.startswith(GENERATED):
            return False
        first, slash, _rest = said.partition("/")
        return bool(slash) and first in self.rooms

    def _exists(self, said):
        said = re.sub(r"(::.*|:\d+)$", "", said)
        if "*" in said:
            return any(self.root.glob(said))
        return (self.root / said).exists()


if __name__ == "__main__":
    sys.exit(command({"documents": check}))
