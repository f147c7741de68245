"""Which steps a config's list stands for, in which order, and what is wrong between them.

A step comes after the steps it needs: those its ``needs`` names, else all steps before it. The
order is that of the list, except that a step whose needs stand below it waits for them. A matrix
makes several steps of one entry, which stand together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .workflow_schema import MAX_COMBINATIONS, MAX_STEPS

Step = Mapping[str, Any]


class PlannedStep(NamedTuple):
    """One step to run: an entry of the list, or one combination of its matrix."""

    #: as it is shown, unlike others of its matrix: ``Test (PYTHON=3.11)``
    name: str
    #: position of its entry in the list
    index: int
    step: Step
    variables: Mapping[str, str]
    #: positions of the entries it comes after
    needs: frozenset[int]

    @property
    def when(self) -> str:
        """``on_success``, ``always`` or ``on_failure``."""
        return self.step.get("when", "on_success")


def plan(steps: Sequence[Step]) -> list[PlannedStep]:
    """The steps of a valid list in the order in which they are run."""
    needs = [_needs(steps, index) for index in range(len(steps))]
    planned: list[PlannedStep] = []
    left = list(range(len(steps)))
    done: set[int] = set()
    while left:
        index = next(each for each in left if needs[each] <= done)
        left.remove(index)
        done.add(index)
        for variables in _combinations(steps[index]):
            pairs = ", ".join(f"{name}={value}" for name, value in variables.items())
            name = steps[index]["name"] + (f" ({pairs})" if pairs else "")
            planned.append(
                PlannedStep(name, index, steps[index], variables, frozenset(needs[index]))
            )
    return planned


def problems(steps: Sequence[Step]) -> Iterator[tuple[str, str]]:
    """Path and reason of what is wrong between well-formed steps."""
    names = [step["name"] for step in steps]
    total, has_bad_needs = 0, False
    for index, step in enumerate(steps):
        for position, name in enumerate(step.get("needs", ())):
            reason = _need_problem(steps, names, index, name)
            if reason:
                has_bad_needs = True
                yield f"steps[{index}].needs[{position}]", reason
        count = 1
        for values in step.get("matrix", {}).values():
            count *= len(values)
        if count > MAX_COMBINATIONS:
            yield (
                f"steps[{index}].matrix",
                f"has {count} combinations, and {MAX_COMBINATIONS} are allowed",
            )
        if "fail_fast" in step and "matrix" not in step:
            yield f"steps[{index}].fail_fast", "has a meaning only beside matrix"
        total += count
    if total > MAX_STEPS:
        yield "steps", f"has {total} steps with all combinations, and {MAX_STEPS} are allowed"
    if not has_bad_needs:
        yield from _circle(steps)


def _need_problem(steps: Sequence[Step], names: Sequence[str], index: int, name: str) -> str | None:
    if name not in names:
        return f"names {name}, and there is no such step"
    if name == names[index]:
        return f"names {name}, which is the step itself"
    if names.count(name) > 1:
        return f"names {name}, and {names.count(name)} steps have that name"
    needed = steps[names.index(name)]
    if needed.get("when") == "on_failure" and steps[index].get("when") in (None, "on_success"):
        return f"names {name}, which runs after a failure only"
    return None


def _needs(steps: Sequence[Step], index: int) -> set[int]:
    """Positions of the entries that this one comes after."""
    step = steps[index]
    if "needs" in step:
        names = [each["name"] for each in steps]
        return {names.index(name) for name in step["needs"]}
    # A step for failures is passed over when all goes well: nothing waits for its success.
    is_ordinary = step.get("when", "on_success") == "on_success"
    return {
        each
        for each in range(index)
        if not (is_ordinary and steps[each].get("when") == "on_failure")
    }


def _combinations(step: Step) -> list[dict[str, str]]:
    """The variables of each combination; one without any when there is no matrix."""
    matrix = step.get("matrix", {})
    return [
        dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())
    ]


def _circle(steps: Sequence[Step]) -> Iterator[tuple[str, str]]:
    """The first circle, at the first of its steps that says what it needs."""
    needs = [_needs(steps, index) for index in range(len(steps))]
    left, done = set(range(len(steps))), set()
    while ready := {index for index in left if needs[index] <= done}:
        left -= ready
        done |= ready
    if not left:
        return
    # Every step that is left needs another one that is left, so this comes round.
    path = [min(left)]
    while path[-1] not in path[:-1]:
        path.append(min(needs[path[-1]] & left))
    circle = path[path.index(path[-1]) :]
    at = min(index for index in circle if "needs" in steps[index])
    text = " → ".join(steps[index]["name"] for index in circle)
    silent = [steps[index]["name"] for index in circle if "needs" not in steps[index]]
    hint = f"; {silent[0]} has no needs and so comes after all steps before it" if silent else ""
    yield f"steps[{at}].needs", f"leads in a circle: {text}{hint}"
