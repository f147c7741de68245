"""Gate 2, *structure*: titles and required sections, in their order."""

import re
import sys

from . import papers
from .findings import Finding, bundles, command, read

# Per file: the word of its title, and the sections of the second level that it has to have.
REQUIRED = {
    "constitution.md": (
        "Constitution",
        ["Non-Negotiable Rules", "Scope", "Out of scope", "Data ownership"],
    ),
    "prd.md": (
        "PRD",
        [
            "Problem",
            "Users and stories",
            "Features",
            "Acceptance criteria",
            "Smart Success Criteria",
        ],
    ),
    "plan.md": ("Plan", []),
    "tasks.md": ("Tasks", []),
}
PHASE = re.compile(r"^Phase (\d+): .+")
PHASE_FACTS = ("Verified by", "Files")
TASK_FACTS = ("Owner", "Deliverable", "DoD", "Features")


def check(root):
    """Findings about titles, sections, phases and the lines each task has to have."""
    found = []
    for bundle in bundles(root):
        for name, (title, titles) in REQUIRED.items():
            path, lines = f"{bundle}/{name}", read(root, f"{bundle}/{name}")
            if lines:
                found += _headings(path, papers.sections(lines), title, titles)
        found += _phases(root, bundle)
        found += _tasks(root, bundle)
    return found


def _headings(path, sections, title, titles):
    first = sections[0] if sections else None
    if (
        not first
        or first.line != 1
        or first.level != 1
        or first.title.split()[0].rstrip(":") != title
    ):
        yield Finding(
            path, 1, f"the first line is not the title `# {title}`", "begin the file with it"
        )
    for section in sections[1:]:
        if section.level == 1:
            yield Finding(path, section.line, "a second title", "make it a section (`##`)")
    there = [section.title for section in sections if section.level == 2]
    for wanted in titles:
        if wanted not in there:
            yield Finding(path, 1, f"the section `## {wanted}` is missing", "add it")


def _phases(root, bundle):
    path = f"{bundle}/plan.md"
    sections = papers.sections(read(root, path))
    planned = [section for section in sections if PHASE.match(section.title)]
    if sections and not planned:
        yield Finding(path, 1, "the plan has no phase", "add `## Phase 1: …`")
    for number, section in enumerate(planned, 1):
        if int(PHASE.match(section.title)[1]) != number:
            yield Finding(
                path, section.line, f"phase {number} is expected here", "number phases from 1"
            )
        body = "\n".join(text for _line, text in section.body)
        for fact in PHASE_FACTS:
            if f"**{fact}:**" not in body:
                yield Finding(path, section.line, f"the phase has no `**{fact}:**`", "add the line")
    known = {section.title for section in planned}
    path = f"{bundle}/tasks.md"
    for section in papers.sections(read(root, path)):
        if section.level == 2 and section.title not in known:
            wrong = f"`{section.title}` is no phase of plan.md"
            yield Finding(path, section.line, wrong, "give both the same heading")


def _tasks(root, bundle):
    path = f"{bundle}/tasks.md"
    lines = read(root, path)
    seen = set()
    for number, text in enumerate(lines, 1):
        if re.match(r"^\s*- \[.?\]", text) and not papers.TASK.match(text):
            yield Finding(
                path, number, "a checkbox that is no task", "write `- [ ] **T-01 Title**`"
            )
    for task in papers.tasks(lines):
        if task.name in seen:
            yield Finding(
                path, task.line, f"{task.name} is there twice", "give it a number of its own"
            )
        seen.add(task.name)
        if not PHASE.match(task.phase):
            yield Finding(
                path, task.line, f"{task.name} is in no phase", "move it below a `## Phase`"
            )
        for fact in TASK_FACTS:
            if not task.facts.get(fact, (0, ""))[1]:
                yield Finding(
                    path, task.line, f"{task.name} has no `{fact}:`", f"add `  - {fact}: …`"
                )


if __name__ == "__main__":
    sys.exit(command({"structure": check}))
