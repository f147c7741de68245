"""What is left of a storm, read from the database, the store and the witnesses, for the judge."""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import witness
from .workload import ARTIFACT, Project, Workflow

LOG_KEY = "run.log.gz"
BATCH = 200


@dataclass
class Artifact:
    """One recorded artifact, and what the store gave for it (None: nothing)."""

    key: str
    checksum: str
    stored_checksum: str | None
    content: bytes = b""


@dataclass
class Run:
    """One run as the control plane tells it. ``lines``: that its step prints when it is whole."""

    id: int
    project: str
    group: str | None
    lines: int
    status: str
    error_code: str | None
    error_message: str | None
    epoch: int
    retry_of: int | None
    states: list[str] = field(default_factory=list)
    chain_problems: list[str] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    #: Whether the log says that the end of the output may be missing.
    is_output_cut: bool = False
    complete_log: list[str] | None = None
    artifacts: dict[str, Artifact] = field(default_factory=dict)


@dataclass
class History:
    """Everything the judge looks at."""

    queued: list[int]
    runs: dict[int, Run]
    executions: list[witness.Execution]
    #: Project or group → how many may be active, and the most that anybody saw in the database.
    limits: dict[str, int]
    most_seen: dict[str, int]
    settled: bool = True
    leftovers: list[str] = field(default_factory=list)

    def chain(self, run_id: int) -> list[Run]:
        """The run and its retries, in their order."""
        found, retries = [], self.retries
        at: int | None = run_id
        while at is not None and at in self.runs and self.runs[at] not in found:
            found.append(self.runs[at])
            at = retries.get(at, [None])[0]
        return found

    @functools.cached_property
    def retries(self) -> dict[int, list[int]]:
        """Run → the runs that were queued in its place."""
        retries: dict[int, list[int]] = {}
        for run in self.runs.values():
            if run.retry_of is not None:
                retries.setdefault(run.retry_of, []).append(run.id)
        return retries


def limits_of(projects: list[Project]) -> dict[str, int]:
    """By project, and by project and group: how many runs may be active at once."""
    limits = {project.slug: project.max_running for project in projects}
    for project in projects:
        for workflow in project.workflows:
            if workflow.group:
                limits[f"{project.slug}/{workflow.group}"] = 1
    return limits


def read_runs(
    db: Any, projects: list[Project], fetch: Callable[[str], bytes | None]
) -> dict[int, Run]:
    """All runs of the projects with their events, lines and artifacts.

    :param db: `benchmarks.database.Database`
    :param fetch: bytes of an artifact by its URL, None when it is not there
    """
    workflows = {flow.id: flow for project in projects for flow in project.workflows}
    rows = db.rows(
        "SELECT id, workflow_id, status, error_code, error_message, epoch, retry_of FROM ops_run"
        " WHERE project_id = ANY(%s) ORDER BY id",
        [project.id for project in projects],
    )
    runs = {}
    for run_id, workflow_id, *facts in rows:
        workflow: Workflow = workflows[workflow_id]
        runs[run_id] = Run(run_id, workflow.project, workflow.group, workflow.lines, *facts)
    ids = list(runs)
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        _read_events(db, runs, part)
        _read_lines(db, runs, part)
        _read_artifacts(db, runs, part, fetch)
    return runs


def _read_events(db: Any, runs: dict[int, Run], part: list[int]) -> None:
    for run_id, message in db.rows(
        "SELECT run_id, message FROM ops_run_event WHERE run_id = ANY(%s)"
        " AND event_type = 'state_change' ORDER BY run_id, seq",
        part,
    ):
        runs[run_id].states.append(message)
    for run_id, seq, problem in db.rows(
        f"SELECT v.run_id, v.seq, v.problem FROM unnest(%s::int[]) r, {db.schema}.verify_events(r)"
        " v",
        part,
    ):
        runs[run_id].chain_problems.append(f"event {seq}: {problem}")


def _read_lines(db: Any, runs: dict[int, Run], part: list[int]) -> None:
    for run_id, seq, message, is_printed, is_cut in db.rows(
        "SELECT run_id, seq, message, metadata ->> 'stream' = 'stdout',"
        " coalesce(metadata ->> 'marker' = 'output_cut', false) FROM ops_run_log"
        " WHERE run_id = ANY(%s) ORDER BY run_id, seq",
        part,
    ):
        run = runs[run_id]
        run.seqs.append(seq)
        run.messages.append(message)
        run.is_output_cut |= is_cut
        if is_printed:
            run.printed.append(message)


def _read_artifacts(
    db: Any, runs: dict[int, Run], part: list[int], fetch: Callable[[str], bytes | None]
) -> None:
    for run_id, key, url, checksum in db.rows(
        "SELECT run_id, artifact_key, artifact_url, checksum FROM ops_run_artifact"
        " WHERE run_id = ANY(%s)",
        part,
    ):
        data = fetch(url)
        stored = None if data is None else hashlib.sha256(data).hexdigest()
        kept = data if data is not None and key == ARTIFACT else b""
        runs[run_id].artifacts[key] = Artifact(key, checksum, stored, kept)
        if key == LOG_KEY and data is not None:
            lines = gzip.decompress(data).decode().splitlines()
            runs[run_id].complete_log = [line.split("\t", 4)[4] for line in lines]
