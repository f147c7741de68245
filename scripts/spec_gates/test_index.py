"""Which tests there are: read from the sources, without running anything.

A test counts as collected when its module is imported by `tests/__init__.py` and its class, or a
class that inherits it, is a test case. It counts as skipped when a decorator or its body says so.
"""

import ast
import re
from dataclasses import dataclass, field

RULE = re.compile(r"^\s*# Rule: (.+)$")


@dataclass
class Test:
    """A method ``test_…``; ``rules`` are the ids of the constitution that its comments name."""

    path: str
    of_class: str
    name: str
    line: int
    end: int
    skipped: bool
    collected: bool = False


@dataclass
class Index:
    """All tests of a checkout, and the comments that name rules: (path, line, id, test or None)."""

    tests: list = field(default_factory=list)
    named: list = field(default_factory=list)
    modules: set = field(default_factory=set)  # paths that tests/__init__.py imports

    def has(self, name):
        """Whether ``path`` or ``path::Class::test`` (or ``path::Class``) is a collected test."""
        path, *parts = name.split("::")
        return any(
            each.collected
            and each.path == path
            and parts == [each.of_class, each.name][: len(parts)]
            for each in self.tests
        )


@dataclass
class _Class:
    path: str
    name: str
    bases: list
    skipped: bool
    methods: list


def index(root):
    """Read `tests/` below the root."""
    found, classes = Index(), []
    for path in sorted((root / "tests").glob("*.py")):
        name = f"tests/{path.name}"
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        if path.name == "__init__.py":
            found.modules = {
                f"tests/{alias.name}.py"
                for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
            }  # fmt: skip
        classes += [_class(name, node) for node in tree.body if isinstance(node, ast.ClassDef)]
        found.named += [
            (name, number, rule.strip())
            for number, line in enumerate(text.splitlines(), 1)
            if RULE.match(line)
            for rule in RULE.match(line)[1].split(",")
        ]
    found.tests = [test for each in classes for test in each.methods]
    _mark_collected(found, classes)
    found.named = [
        (path, line, rule, _around(found.tests, path, line)) for path, line, rule in found.named
    ]
    return found


def _class(path, node):
    skipped = any(_skips(each) for each in node.decorator_list)
    methods = [
        Test(
            path, node.name, each.name,
            min([each.lineno, *(one.lineno for one in each.decorator_list)]), each.end_lineno,
            skipped or any(_skips(one) for one in each.decorator_list) or _skips_inside(each),
        )
        for each in node.body
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
    ]  # fmt: skip
    bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
    return _Class(path, node.name, bases, skipped, methods)


def _skips(decorator):
    return "skip" in ast.unparse(decorator).lower()


def _skips_inside(function):
    """A skip that is not under a condition: the first statements decide."""
    return any(
        isinstance(each, ast.Expr | ast.Raise)
        and re.search(r"skipTest|SkipTest", ast.unparse(each))
        for each in function.body
    )


def _mark_collected(found, classes):
    by_name = {}
    for each in classes:
        by_name.setdefault(each.name, []).append(each)

    def bases_of(of):
        for name in of.bases:
            near = [each for each in by_name.get(name, ()) if each.path == of.path]
            yield from near or by_name.get(name, ())

    def is_case(of, seen=()):
        known = list(bases_of(of))
        foreign = [name for name in of.bases if name not in by_name]
        return bool(foreign) or any(
            is_case(each, (*seen, of)) for each in known if each not in seen
        )

    def mark(of):
        for test in of.methods:
            test.collected = True
        for each in bases_of(of):
            mark(each)

    for each in classes:
        if each.path in found.modules and not each.skipped and is_case(each):
            mark(each)


def _around(tests, path, line):
    for test in tests:
        if test.path == path and test.line <= line <= test.end:
            return test
    return None
