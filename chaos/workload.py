"""The runs of a storm: two projects with limits, a concurrency group, and steps that bear witness.

A step says what it does to the control plane, by printing numbered lines, and past it, by lines in
a file of its own (`witness.py` reads them). It cannot fail: a run that ends otherwise than well has
been failed by the world around it, and must have been queued anew.
"""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass
from typing import Any

from psycopg2.extras import Json

#: Whatever the world may do to a run. Steps that did well fail for none of these causes.
RETRY = {
    "max": 10,
    "backoff": 0,
    "on": [
        "worker_lost", "lease_lost", "setup_error", "store_unavailable", "database_error",
        "internal_error",
    ],
}  # fmt: skip
#: Far beyond what a run takes: a run that meets it hangs.
TIMEOUT = 300
TICKS = 8
#: Numbered lines of an ordinary run, and of one in twenty.
LINES, MANY_LINES = 24, 3000
ARTIFACT = "out.txt"

# /bin/sh of a host and of busybox. The file of a container lies where the host sees it, and the
# container waits until the host has taken hold of it: it goes with the work directory.
STEP = """
name=${HOME%/home}; name=${name##*/run-}
if [ -d "$WITNESS" ]; then file=$WITNESS/$name; else file=witness; fi
say() { read -r now rest < /proc/uptime; echo "$1 $now $ODOOOPS_RUN_ID" >> "$file"; }
say begin
if [ "$file" = witness ]; then
    until [ "$(stat -c %h witness)" = 2 ]; do sleep 0.1; done
fi
tick=0 line=0
while [ $tick -lt $TICKS ]; do
    tick=$((tick + 1))
    while [ $((line * TICKS)) -lt $((tick * LINES)) ]; do
        line=$((line + 1))
        echo "line $line of $LINES"
    done
    say tick
    sleep 0.1
done
echo "run $ODOOOPS_RUN_ID" > out.txt
say end
"""


@dataclass(frozen=True)
class Workflow:
    """One kind of run, and what is to be seen of it."""

    id: int
    project: str
    group: str | None
    lines: int
    share: float


@dataclass
class Project:
    """A project, its limit and its workflows."""

    id: int
    slug: str
    max_running: int
    workflows: list[Workflow]


def make(db: Any, witness: str, image: str | None) -> list[Project]:
    """Two projects: a wide one, and a narrow one with a concurrency group.

    :param db: `benchmarks.database.Database`
    :param witness: folder into which steps on the host write
    :param image: of the tool by which a share of the runs go into containers; None: no containers
    """
    tool = _make_tool(db, image) if image else None
    wide, narrow = _make_project(db, "wide", 14), _make_project(db, "narrow", 4)
    plain = {"env": {"WITNESS": witness}}
    for name, share, lines, config in (
        ("Plain", 0.62, LINES, plain),
        ("Loud", 0.05, MANY_LINES, plain),
        ("Database", 0.05, LINES, {**plain, "database": True}),
        ("Container", 0.10, LINES, {"tool": tool, "labels": ["docker"]}),
    ):
        if tool or "tool" not in config:
            _add_workflow(db, wide, name, share, lines, config)
    _add_workflow(db, narrow, "Plain", 0.15, LINES, plain)
    group = {**plain, "concurrency_group": "deployment"}
    _add_workflow(db, narrow, "Group", 0.03, LINES, group)
    return [wide, narrow]


def choose(projects: list[Project], count: int, seed: int) -> list[Workflow]:
    """Of which workflow each of ``count`` runs is, by the shares; at least one of each."""
    workflows = [workflow for project in projects for workflow in project.workflows]
    chance = random.Random(seed)
    chosen = chance.choices(workflows, [workflow.share for workflow in workflows], k=count)
    chosen[: len(workflows)] = workflows[:count]
    chance.shuffle(chosen)
    return chosen


def _make_project(db: Any, kind: str, max_running: int) -> Project:
    key = uuid.uuid4().hex[:8]
    slug = f"chaos-{kind}-{key}"
    project = db.value(
        "INSERT INTO ops_project (name, slug, workspace_key, odoo_version, default_branch, active,"
        " max_running) VALUES (%s, %s, %s, '19.0', 'main', true, %s) RETURNING id",
        slug, slug, f"chaos_{key}", max_running,
    )  # fmt: skip
    return Project(project, slug, max_running, [])


def _add_workflow(
    db: Any, project: Project, name: str, share: float, lines: int, config: dict[str, Any]
) -> None:
    variables = {"TICKS": str(TICKS), "LINES": str(lines)}
    config = {
        **config,
        "env": {**config.get("env", {}), **variables},
        "steps": [{"name": "Witness", "run": STEP}],
        "artifacts": [{"path": ARTIFACT}],
        "retry": RETRY,
        "timeout": TIMEOUT,
    }
    workflow = db.value(
        "INSERT INTO ops_workflow (name, project_id, workflow_type, enabled, config)"
        " VALUES (%s, %s, 'build', true, %s) RETURNING id",
        name, project.id, Json(config),
    )  # fmt: skip
    group = config.get("concurrency_group")
    project.workflows.append(Workflow(workflow, project.slug, group, lines, share))


def _make_tool(db: Any, image: str) -> str:
    name = f"chaos-{uuid.uuid4().hex[:8]}"
    db.rows(
        "INSERT INTO ops_tool (tool_name, version, docker_image, active)"
        " VALUES (%s, '1', %s, true)", name, image,
    )  # fmt: skip
    return f"{name}:1"
