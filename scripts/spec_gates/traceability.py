"""Gate 5, *traceability*: feature ↔ task ↔ test ↔ code, in both directions.

A feature of the PRD needs a task that is done, or says `(planned)`. A task that is done names its
features, tests and code, and all of them exist. Every test module and every file of code belongs
to a task. Open tasks stand in `docs/roadmap.md`, which names no others.
"""

import os
import re
import sys

from . import papers, test_index
from .findings import Finding, bundles, command, read

ROADMAP = "docs/roadmap.md"
# Rooms whose files have to belong to a task.
ROOMS = (
    *(
        "benchmarks",
        "chaos",
        "cli",
        "controllers",
        "data",
        "demo",
        "devtools",
        "models",
        "prisma/src",
    ),
    *("scripts", "security", "sql", "static/src", "views", "wizard", "worker"),
)
CODE = (".py", ".sql", ".xml", ".js", ".ts", ".mjs", ".sh", ".scss", ".csv")
HIDDEN = {"__pycache__", "node_modules", "build", "generated"}
ROOT_FILES = ("hooks.py",)


def check(root):
    """Findings about features, tasks, tests and code that do not lead to each other."""
    found = []
    index = test_index.index(root)
    tasks, named = [], (set(), set())
    for bundle in bundles(root):
        features = papers.features(read(root, f"{bundle}/prd.md"))
        own = papers.tasks(read(root, f"{bundle}/tasks.md"))
        tasks += own
        found += _features(bundle, features, own)
        for task in own:
            found += _task(root, f"{bundle}/tasks.md", task, features, index, named)
    if tasks:
        where = f"in {bundles(root)[0]}/tasks.md"
        found += _unnamed(root, index, named, where)
        found += _roadmap(root, f"{bundles(root)[0]}/tasks.md", tasks)
    return found


def _features(bundle, features, tasks):
    path = f"{bundle}/prd.md"
    if not features:
        yield Finding(path, 1, "the PRD has no feature", "add `### F-01 Title` below `## Features`")
    for name, (line, planned) in features.items():
        serving = [task for task in tasks if name in task.names("Features")]
        if not serving:
            yield Finding(path, line, f"no task serves {name}", "name it in a task's `Features:`")
        elif not planned and not any(task.done for task in serving):
            wrong = f"{name} is told as there, but its tasks are open"
            yield Finding(path, line, wrong, f"end the heading with `{papers.PLANNED.strip()}`")
        elif planned and any(task.done for task in serving):
            wrong = f"{name} is told as planned, but a task of it is done"
            yield Finding(path, line, wrong, f"take `{papers.PLANNED.strip()}` out of the heading")


def _task(root, path, task, features, index, named):
    for feature in task.names("Features"):
        if feature not in features:
            line = task.facts["Features"][0]
            yield Finding(
                path, line, f"{feature} is no feature of the PRD", "correct the id, or add it"
            )
    for fact, exists, names, what in (
        ("Tests", index.has, named[0], "no test that is collected"),
        ("Code", lambda name: bool(list(covered(root, name))), named[1], "not there"),
    ):
        given = task.names(fact)
        if task.done and not given:
            yield Finding(
                path, task.line, f"{task.name} has no `{fact}:`", "name what proves that it is done"
            )
        for name in given:
            names.add(name)
            if not exists(name):
                line = task.facts[fact][0]
                yield Finding(
                    path, line, f"`{name}` is {what}", "correct the path, or open the task again"
                )


def covered(root, name):
    """Files below the root that a path, a folder (`sql/`) or a pattern (`sql/8*.sql`) names."""
    if "*" in name:
        return (each for each in root.glob(name) if each.is_file())
    path = root / name
    if path.is_dir():
        return (each for each in path.rglob("*") if each.is_file())
    return iter([path] if path.is_file() else [])


def _unnamed(root, index, named, where):
    modules = {name.split("::")[0] for name in named[0]}
    for path in sorted(index.modules):
        if path not in modules and os.path.basename(path).startswith("test_"):
            yield Finding(
                path, 1, "no task names this test", f"add it to the `Tests:` of its task {where}"
            )
    files = {path.relative_to(root).as_posix() for name in named[1] for path in covered(root, name)}
    for path in _code(root):
        if path not in files:
            yield Finding(
                path, 1, "no task names this code", f"add it to the `Code:` of its task {where}"
            )


def _code(root):
    yield from (name for name in ROOT_FILES if (root / name).is_file())
    for room in ROOMS:
        for folder, folders, files in os.walk(root / room):
            folders[:] = sorted(each for each in folders if each not in HIDDEN)
            for each in sorted(files):
                if each.endswith(CODE) and each not in ("__init__.py", "__manifest__.py"):
                    yield os.path.relpath(os.path.join(folder, each), root).replace(os.sep, "/")


def _roadmap(root, path, tasks):
    lines = read(root, ROADMAP)
    told = {}
    for number, text in enumerate(lines, 1):
        for name in re.findall(r"\bT-\d{2,3}\b", text):
            told.setdefault(name, number)
    by_name = {task.name: task for task in tasks}
    for task in tasks:
        if not task.done and task.name not in told:
            wrong = f"{task.name} is open and {ROADMAP} does not name it"
            yield Finding(path, task.line, wrong, "say there why it is open, or tick it")
    for name, number in told.items():
        if name not in by_name:
            yield Finding(
                ROADMAP, number, f"{name} is no task", f"correct the id, or add it to {path}"
            )
        elif by_name[name].done:
            yield Finding(
                ROADMAP, number, f"{name} is done", "take it out of the roadmap, or open the task"
            )


if __name__ == "__main__":
    sys.exit(command({"traceability": check}))
