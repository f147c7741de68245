"""Gate 4, *constitution*: every MUST has an id, and a test that runs names it by `# Rule: R-01`."""

import re
import sys

from . import papers, test_index
from .findings import Finding, bundles, command, read

RULE = re.compile(r"^\*\*(R-\d{2,3})\*\* ")
MUST = re.compile(r"\bMUST\b")


def check(root):
    """Findings about rules that no test holds, and about tests that hold none."""
    found, rules = [], {}
    for bundle in bundles(root):
        path = f"{bundle}/constitution.md"
        lines = read(root, path)
        found += _read_rules(path, lines, rules)
    index = test_index.index(root)
    held = set()
    for path, line, rule, test in index.named:
        wrong, todo = _problem(rule, test, rules)
        if wrong:
            found.append(Finding(path, line, wrong, todo))
        else:
            held.add(rule)
    for rule, (path, line) in rules.items():
        if rule not in held:
            wrong = f"no test that runs names {rule}"
            found.append(
                Finding(path, line, wrong, f"write `# Rule: {rule}` into the test that holds it")
            )
    return found


def _read_rules(path, lines, rules):
    ruled = set()
    for line, text in papers.items(lines):
        rule = RULE.match(text)
        if rule:
            ruled.add(line)
            if rule[1] in rules:
                yield Finding(
                    path, line, f"{rule[1]} is there twice", "give it a number of its own"
                )
            rules.setdefault(rule[1], (path, line))
        if rule and not MUST.search(text):
            yield Finding(
                path, line, f"{rule[1]} has no MUST", "say what must be so, or take the id away"
            )
        if MUST.search(text) and not rule:
            ruled.add(line)
            yield Finding(
                path, line, "a MUST without an id", "begin the item with `**R-01**`, a new number"
            )
    covered = {number for start in ruled for number in _extent(lines, start)}
    for number, text in enumerate(lines, 1):
        if MUST.search(text) and number not in covered and not text.startswith("#"):
            yield Finding(path, number, "a MUST outside of the rules", "make it an item with an id")
    if lines and not rules:
        yield Finding(path, 1, "the constitution has no rule", "add `- **R-01** … MUST …`")


def _extent(lines, start):
    """The numbers of an item's lines."""
    yield start
    for number in range(start + 1, len(lines) + 1):
        text = lines[number - 1]
        if not text.startswith(" ") or papers.ITEM.match(text):
            return
        yield number


def _problem(rule, test, rules):
    if rule not in rules:
        return f"{rule} is no rule of a constitution", "correct the id, or write the rule"
    if test is None:
        return f"{rule} is named outside of a test", "move the comment into the test method"
    if not test.collected:
        return f"{test.name} is never run", "import its module in tests/__init__.py"
    if test.skipped:
        return f"{test.name} is skipped", "a rule needs a test that runs"
    return None, None


if __name__ == "__main__":
    sys.exit(command({"constitution": check}))
