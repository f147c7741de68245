"""Gate 3, *substance*: each file says something, no part of it is left to be written."""

import re
import sys

from . import bundle, papers
from .findings import Finding, bundles, command, read

MINIMUM_LINES = 10
# Words that stand where something is still to be written.
UNWRITTEN = re.compile(
    r"\b(to-?do|tbd|tba|fixme|xxx|lorem ipsum|place-?holder|coming soon)\b"
    r"|\bto be (?:written|defined|decided)\b"
    r"|\?\?\?|<(?:your|insert|name|description)\b[^>]*>",
    re.IGNORECASE,
)
CRITERIA = "Smart Success Criteria"


def check(root):
    """Findings about files without content, unwritten parts and empty lists and sections."""
    found = []
    for folder in bundles(root):
        for name in bundle.FILES:
            path = f"{folder}/{name}"
            lines = read(root, path)
            if lines:
                found += _of_file(path, lines)
    return found


def _of_file(path, lines):
    said = [text for text in lines if text.strip() and not text.startswith("#")]
    if len(said) < MINIMUM_LINES:
        wrong = f"{len(said)} lines of content, {MINIMUM_LINES} are the least"
        yield Finding(path, 1, wrong, "write what the file is for")
    for number, text in enumerate(lines, 1):
        unwritten = UNWRITTEN.search(text)
        if unwritten:
            wrong = f"`{unwritten[0]}` stands for something unwritten"
            yield Finding(path, number, wrong, "write it, or take the sentence out")
        if re.match(r"^ *([-*]|\d+\.)( +\[.\])? *$", text):
            yield Finding(path, number, "an empty list item", "write it, or remove it")
    sections = papers.sections(lines)
    for section, following in zip(sections, [*sections[1:], None], strict=True):
        parent = following is not None and following.level > section.level
        if not section.text() and not parent:
            yield Finding(
                path, section.line, f"`{section.title}` is empty", "fill it, or remove it"
            )
        if section.title == CRITERIA:
            yield from _figures(path, section)


def _figures(path, section):
    items = papers.items([text for _line, text in section.body])
    if not items:
        yield Finding(path, section.line, "no criterion is listed", "list them, each with a figure")
    for offset, text in items:
        if not re.search(r"\d", text):
            wrong = "a criterion without a figure"
            yield Finding(path, section.line + offset, wrong, "say how much, how many or how fast")


if __name__ == "__main__":
    sys.exit(command({"substance": check}))
