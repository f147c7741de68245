"""Where the steps of a run are executed: in a container of their tool's image, or as processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RunError
from .executors.base import ExecutorError, Relay, Sandbox
from .executors.choice import Tool, default_limits, read_tool
from .executors.docker import LABEL_CONTROL_PLANE, LABEL_EPOCH, LABEL_RUN, LABEL_WORKER
from .executors.docker_images import Credentials, Image

if TYPE_CHECKING:
    from .execution import Tools
    from .job import RunJob
    from .recipes.base import Recipe

#: Of a run's work directory, what its containers see.
SHARED_FOLDERS = ("checkout", "home", "tmp")


def place(
    job: RunJob,
    recipe: Recipe | None,
    tools: Tools,
    secrets: Path,
    give_secret: Callable[[str], str],
) -> dict[str, Any] | None:
    """Give ``job`` its executor; return the facts about the image, None without a container.

    :param recipe: what works in there; None: the steps of the workflow's configuration
    :param secrets: the folder of the run's secret files, if it was given any
    :param give_secret: name → value of a secret that the run's tool names
    :raises RunError: setup_error, registry_unavailable, disk_full
    """
    row, limits = job.snapshot.get("tool"), default_limits(tools.settings)
    try:
        if row and tools.docker:
            tool = read_tool(row, limits)
            return _contain(job, recipe, tool, tools, secrets, give_secret)
        if not tools.settings.allow_process:
            why = "and has no Docker" if row else "which a workflow without a tool needs"
            raise ExecutorError(
                f"This worker may not start local processes, {why}: start it with --allow-process,"
                " or with --docker and give the workflow a tool."
            )
    except ExecutorError as error:
        raise RunError(error.code, str(error)) from error
    if row:
        job.log("info", f"Not in a container of the tool {row['tool_name']}")
    job.use(tools.executor, limits)
    return None


def _contain(
    job: RunJob,
    recipe: Recipe | None,
    tool: Tool,
    tools: Tools,
    secrets: Path,
    give_secret: Callable[[str], str],
) -> dict[str, Any]:
    what = "built-in recipe runs" if recipe else "steps run"
    image, facts = resolve(job, tools, tool, give_secret, what)
    if "PATH" not in job.config["env"]:
        # The image's own search path; the worker's means nothing in there.
        job.env.pop("PATH", None)
    job.image, job.odoo_argv, job.odoo_addons = facts, tool.odoo, ()
    writable, helpers = list(SHARED_FOLDERS), [secrets] if secrets.is_dir() else []
    if recipe:
        writable += recipe.folders
        helpers += [job.workdir / name for name in recipe.read_only_folders]
        helpers += recipe.helpers
        for name in (*recipe.folders, *recipe.read_only_folders):
            (job.workdir / name).mkdir(mode=0o700, exist_ok=True)
    sandbox = Sandbox(
        image.id,
        folders=[job.workdir / name for name in writable],
        read_only_folders=helpers,
        network=job.config["network"],
        relays=_relays(job),
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


def _relays(job: RunJob) -> list[Relay]:
    """The way to the run's database, as its environment names it."""
    found = job.database.environment() if job.database else {}
    return [Relay(found["PGHOST"], found.get("PGPORT") or "5432")] if "PGHOST" in found else []


def resolve(
    job: RunJob, tools: Tools, tool: Tool, give_secret: Callable[[str], str], what: str
) -> tuple[Image, dict[str, Any]]:
    """The image of a tool, pulled if need be, and the facts about it, which are in the trail then.

    :param what: who runs in it, with its verb: ``steps run``
    :raises ExecutorError: it cannot be had
    """
    image = tools.docker.resolve(
        tool.image,
        tool.digest,
        say=lambda line: job.log("info", line),
        check=job.check,
        credentials=_credentials(tool, give_secret),
    )
    facts = {"tool": tool.name, **image.to_dict()}
    # Now, as a worker that dies later cannot say it any more.
    exact = image.digest or image.id
    job.event("info", f"The {what} in the image {image.reference} ({exact}).", facts)
    return image, facts


def _credentials(tool: Tool, give_secret: Callable[[str], str]) -> Credentials | None:
    auth = tool.registry_auth
    if auth is None:
        return None
    return lambda: {"username": auth.username, "password": give_secret(auth.password_secret)}
