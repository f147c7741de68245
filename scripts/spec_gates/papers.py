"""How the four files of a bundle are read: sections, list items, features, tasks, phases."""

import re
from dataclasses import dataclass, field

HEADING = re.compile(r"^(#{1,6}) +(.+?) *$")
ITEM = re.compile(r"^( *)[-*] +(.*)$")
TASK = re.compile(r"^- \[( |x)\] \*\*(T-\d{2,3}) (.+?)\*\*$")
FACT = re.compile(r"^  - ([A-Z][A-Za-z]*): *(.*)$")
FEATURE = re.compile(r"^(F-\d{2,3}) (.+)$")
PLANNED = " (planned)"


@dataclass
class Section:
    """A heading and what stands below it, up to the next heading of any level."""

    level: int
    title: str
    line: int
    body: list = field(default_factory=list)  # (line number, text)

    def text(self):
        """Numbered lines that are not empty."""
        return [(line, text) for line, text in self.body if text.strip()]


@dataclass
class Task:
    """A task of tasks.md; ``facts`` maps the words before a colon to (line, text)."""

    name: str
    title: str
    done: bool
    line: int
    phase: str
    facts: dict = field(default_factory=dict)

    def names(self, fact):
        """What a fact lists: between backticks where it has any, else between commas."""
        _line, text = self.facts.get(fact, (self.line, ""))
        quoted = re.findall(r"`([^`]+)`", text)
        return quoted or [each.strip() for each in text.split(",") if each.strip()]


def sections(lines):
    """The headings of a Markdown text with their bodies; headings inside fences are none."""
    found, fenced = [], False
    for number, text in enumerate(lines, 1):
        if text.lstrip().startswith("```"):
            fenced = not fenced
        heading = None if fenced else HEADING.match(text)
        if heading:
            found.append(Section(len(heading[1]), heading[2], number))
        elif found:
            found[-1].body.append((number, text))
    return found


def items(lines):
    """List items as (line, text), with the lines that continue them joined."""
    found = []
    for number, text in enumerate(lines, 1):
        item = ITEM.match(text)
        if item:
            found.append((number, item[2].strip()))
        elif found and text.startswith(" ") and text.strip():
            found[-1] = (found[-1][0], f"{found[-1][1]} {text.strip()}")
    return found


def features(lines):
    """Features of a PRD as ``{id: (line, planned)}``."""
    found = {}
    for section in sections(lines):
        feature = FEATURE.match(section.title)
        if feature:
            found.setdefault(feature[1], (section.line, section.title.endswith(PLANNED)))
    return found


def tasks(lines):
    """Tasks in their order."""
    found, phase = [], ""
    fact = None
    for number, text in enumerate(lines, 1):
        heading, task, told = HEADING.match(text), TASK.match(text), FACT.match(text)
        if heading:
            phase = heading[2]
        elif task:
            found.append(Task(task[2], task[3], task[1] == "x", number, phase))
            fact = None
        elif told and found:
            fact = told[1]
            found[-1].facts[fact] = (number, told[2].strip())
        elif fact and text.startswith("    "):
            line, before = found[-1].facts[fact]
            found[-1].facts[fact] = (line, f"{before} {text.strip()}")
    return found
