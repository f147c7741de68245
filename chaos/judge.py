"""Whether the promises held: sentences about a history, none when they did.

The judge believes the witnesses, not the kernel, about what was executed when. Each function checks
one promise; `tests/test_chaos.py` breaks each of them in a forged history.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .history import LOG_KEY, History, Run
from .witness import Execution
from .workload import ARTIFACT

TERMINAL = ("succeeded", "failed", "canceled")
#: Of each kind of problem so many are spelled out.
TOLD = 5


def problems(history: History) -> list[str]:
    """All that does not hold."""
    found = []
    for check in CHECKS:
        sentences = list(check(history))
        found += sentences[:TOLD]
        if len(sentences) > TOLD:
            found.append(f"… and {len(sentences) - TOLD} more of that kind")
    return found


def lost(history: History) -> Iterator[str]:
    """Every queued run ended well, by itself or by what was queued in its place."""
    if not history.settled:
        yield "the queue did not come to rest in time"
    for run_id in history.queued:
        chain = history.chain(run_id)
        if not chain:
            yield f"run {run_id} was queued and is not there"
        elif chain[-1].status not in TERMINAL:
            yield f"run {chain[-1].id} has not ended: it is {chain[-1].status}"
        elif chain[-1].status != "succeeded":
            told = " → ".join(f"{run.id} {run.error_code or run.status}" for run in chain)
            yield f"run {run_id} was given up without success: {told}"
    known = {run.id for run_id in history.queued for run in history.chain(run_id)}
    for run_id in sorted(set(history.runs) - known):
        yield f"run {run_id} belongs to nothing that was queued"


def accepted_twice(history: History) -> Iterator[str]:
    """One end per run, one success per chain, one retry per failure."""
    for run in history.runs.values():
        ends = [state for state in run.states if state in TERMINAL]
        wanted = [run.status] if run.status in TERMINAL else []
        if ends != wanted or (ends and run.states[-1] != ends[-1]):
            yield f"run {run.id} is {run.status} and has the events {', '.join(run.states)}"
        if run.states.count("running") > 1:
            yield f"run {run.id} was started {run.states.count('running')} times"
    for run_id, retries in history.retries.items():
        if len(retries) > 1:
            yield f"run {run_id} was queued anew {len(retries)} times: {retries}"
        if history.runs[run_id].status != "failed":
            yield f"run {run_id} is {history.runs[run_id].status} and was queued anew"


def executed(history: History) -> Iterator[str]:
    """Each run was executed at most once, and before its retry; each success to its end."""
    by_run: dict[int, list[Execution]] = {}
    for execution in history.executions:
        by_run.setdefault(execution.run_id, []).append(execution)
        if execution.run_id not in history.runs:
            yield f"run {execution.run_id} was executed and is not there"
        if len(execution.begins) != 1 or execution.ended > 1:
            yield f"run {execution.run_id} began {len(execution.begins)} times in one epoch"
    for run_id, executions in by_run.items():
        if len(executions) > 1:
            epochs = [execution.epoch for execution in executions]
            yield f"run {run_id} was executed {len(executions)} times, in the epochs {epochs}"
    for run in history.runs.values():
        if run.status == "succeeded" and not any(
            execution.is_complete and execution.epoch == run.epoch
            for execution in by_run.get(run.id, ())
        ):
            yield f"run {run.id} succeeded and was not executed to its end"
        for execution in by_run.get(run.retry_of or 0, ()):
            for successor in by_run.get(run.id, ()):
                if successor.begins and execution.last >= successor.begins[0]:
                    late = execution.last - successor.begins[0]
                    yield (
                        f"run {run.retry_of} was at work {late:.1f} s after its retry {run.id}"
                        " had begun"
                    )


def limits(history: History) -> Iterator[str]:
    """Never more at work than allowed, by the witnesses and by what was seen in the database."""
    for name, most in working_at_once(history).items():
        if most > history.limits[name]:
            yield f"{most} runs of {name} were at work at once, {history.limits[name]} may be"
    for name, most in history.most_seen.items():
        if most > history.limits[name]:
            yield f"{most} runs of {name} were active at once, {history.limits[name]} may be"


def working_at_once(history: History) -> dict[str, int]:
    """Project or group → the most executions that were at work at the same time."""
    moments: dict[str, list[tuple[float, int]]] = {name: [] for name in history.limits}
    for execution in history.executions:
        run = history.runs.get(execution.run_id)
        if run and execution.begins:
            names = [run.project, *([f"{run.project}/{run.group}"] if run.group else [])]
            for name in names:
                # Ends sort before begins of the same hundredth of a second.
                moments[name] += [(execution.begins[0], 1), (execution.last, -1)]
    most = {}
    for name, changes in moments.items():
        now = most[name] = 0
        for _time, change in sorted(changes):
            now += change
            most[name] = max(most[name], now)
    return most


def logs(history: History) -> Iterator[str]:
    """Numbers without a gap; of successes each printed line once, in order, in both logs."""
    for run in history.runs.values():
        if run.seqs != list(range(1, len(run.seqs) + 1)):
            yield f"the log of run {run.id} has gaps: {_first_gap(run.seqs)}"
        if run.status != "succeeded":
            continue
        expected = [f"line {number} of {run.lines}" for number in range(1, run.lines + 1)]
        if run.is_output_cut:
            expected = expected[: len(run.printed)]
        if run.printed != expected:
            yield f"the log of run {run.id} has other lines: {_difference(run.printed, expected)}"
        if run.complete_log is not None and run.complete_log != run.messages:
            where = _difference(run.complete_log, run.messages)
            yield f"{LOG_KEY} of run {run.id} has other lines: {where}"


def _first_gap(seqs: list[int]) -> str:
    for wanted, seq in enumerate(seqs, 1):
        if seq != wanted:
            return f"{seq} in the place of {wanted}"
    return "none"


def _difference(found: list[str], expected: list[str]) -> str:
    for number, (one, other) in enumerate(zip(found, expected, strict=False), 1):
        if one != other:
            return f"line {number} is {one!r} in the place of {other!r}"
    return f"{len(found)} in the place of {len(expected)}"


def artifacts(history: History) -> Iterator[str]:
    """What is recorded is in the store, byte for byte; a success has what it was to keep."""
    for run in history.runs.values():
        for artifact in run.artifacts.values():
            if artifact.stored_checksum is None:
                yield f"{artifact.key} of run {run.id} is recorded and not in the store"
            elif artifact.stored_checksum != artifact.checksum:
                yield f"{artifact.key} of run {run.id} has other bytes than are recorded"
        if run.status != "succeeded":
            continue
        missing = {ARTIFACT, LOG_KEY} - set(run.artifacts)
        if missing:
            yield f"run {run.id} succeeded without {', '.join(sorted(missing))}"
        elif run.artifacts[ARTIFACT].content != f"run {run.id}\n".encode():
            yield f"{ARTIFACT} of run {run.id} is that of another"


def chains(history: History) -> Iterator[str]:
    """The chains of events are whole, every hash computed again."""
    for run in history.runs.values():
        for problem in run.chain_problems:
            yield f"the events of run {run.id} are broken: {problem}"


def leftovers(history: History) -> Iterator[str]:
    """Nothing of a run is left behind."""
    for what in history.leftovers:
        yield f"left behind: {what}"


CHECKS: tuple[Callable[[History], Iterator[str]], ...] = (
    lost, accepted_twice, executed, limits, logs, artifacts, chains, leftovers,
)  # fmt: skip


def figures(history: History) -> dict[str, object]:
    """What to print beside the verdict."""
    runs: list[Run] = list(history.runs.values())
    again = [run for run in runs if run.retry_of is not None]
    causes: dict[str, int] = {}
    for run in runs:
        if run.error_code:
            # Numbers in it differ from run to run.
            cause = f"{run.error_code}: {re.sub('[0-9]+', 'N', run.error_message or '')}"
            causes[cause] = causes.get(cause, 0) + 1
    succeeded = {run.id for run in runs if run.status == "succeeded"}
    wasted = [e for e in history.executions if e.is_complete and e.run_id not in succeeded]
    return {
        "runs queued": len(history.queued),
        "runs in all, with those queued anew": len(runs),
        "queued anew": len(again),
        "longest chain": max((len(history.chain(run)) for run in history.queued), default=0),
        **{f"failed and queued anew, {cause}": causes[cause] for cause in sorted(causes)},
        "executions seen by witnesses": len(history.executions),
        "executed to the end, not accepted, done again": len(wasted),
        "log lines": sum(len(run.seqs) for run in runs),
        "artifacts": sum(len(run.artifacts) for run in runs),
        **{
            f"most at work at once in {_kind(name)} (allowed {history.limits[name]})": (
                f"{most} by witnesses, {history.most_seen.get(name, 0)} in the database"
            )
            for name, most in working_at_once(history).items()
        },
    }


def _kind(name: str) -> str:
    """``chaos-wide-1234abcd/deployment`` → ``wide/deployment``."""
    slug, _slash, group = name.partition("/")
    return "/".join(filter(None, (slug.split("-")[1], group)))
