"""Where the steps of a run are executed: in a container of their tool's image, or as processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RunError
from .executors.base import ExecutorError, Sandbox
from .executors.choice import Tool, default_limits, read_tool
from .executors.docker import LABEL_CONTROL_PLANE, LABEL_EPOCH, LABEL_RUN, LABEL_WORKER

if TYPE_CHECKING:
    from .execution import Tools
    from .job import RunJob
    from .recipes.base import Recipe

#: Of a run's work directory, what its containers see.
SHARED_FOLDERS = ("checkout", "home", "tmp")


def place(job: RunJob, recipe: Recipe | None, tools: Tools, secrets: Path) -> dict[str, Any] | None:
    """Give ``job`` its executor; return the facts about the image, None without a container.

    Built-in recipes use the worker's own Odoo and its files: they run as processes.

    :param secrets: the folder of the run's secret files, if it was given any
    :raises RunError: setup_error, disk_full
    """
    row, limits = job.snapshot.get("tool"), default_limits(tools.settings)
    try:
        if row and tools.docker and recipe is None:
            return _contain(job, read_tool(row, limits), tools, secrets)
        if not tools.settings.allow_process:
            what = "a built-in recipe" if recipe else "a workflow without a tool"
            raise ExecutorError(
                f"This worker may not start local processes, which {what} needs:"
                " start it with --allow-process, or give the workflow a tool and steps."
            )
    except ExecutorError as error:
        raise RunError(error.code, str(error)) from error
    if row:
        job.log("info", f"Not in a container of the tool {row['tool_name']}")
    job.use(tools.executor, limits)
    return None


def _contain(job: RunJob, tool: Tool, tools: Tools, secrets: Path) -> dict[str, Any]:
    image = tools.docker.resolve(
        tool.image,
        tool.digest,
        say=lambda line: job.log("info", line),
        check=job.check,
    )
    facts = {"tool": tool.name, **image.to_dict()}
    # Now, as a worker that dies later cannot say it any more.
    exact = image.digest or image.id
    job.event("info", f"The steps run in the image {image.reference} ({exact}).", facts)
    if "PATH" not in job.config["env"]:
        # The image's own search path; the worker's means nothing in there.
        job.env.pop("PATH", None)
    sandbox = Sandbox(
        image.id,
        folders=[job.workdir / name for name in SHARED_FOLDERS],
        read_only_folders=[secrets] if secrets.is_dir() else [],
        network=job.config["network"],
        read_only=tool.read_only,
        tmp_size=tool.tmp_size,
        labels={
            LABEL_CONTROL_PLANE: tools.namespace,
            LABEL_RUN: str(job.run_id),
            LABEL_EPOCH: str(job.epoch),
            LABEL_WORKER: tools.worker_id,
        },
    )
    job.use(tools.docker, tool.limits, sandbox)
    return facts
