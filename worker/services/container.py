"""Services of images: containers that share the network of the run's steps, and what holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..executors.base import ExecutorError, ProcessSpec, Sandbox
from ..executors.choice import Tool
from ..executors.docker_images import Image
from ..executors.docker_inside import Inside, listens
from ..guard import RunGuard
from ..masking import Masker
from ..workflow_schema import READY_SECONDS
from .base import STOP_SECONDS, RunService

if TYPE_CHECKING:
    from ..execution import Tools
    from ..job import RunJob

_SLEEP = ["/bin/sh", "-c", "while sleep 3600; do :; done"]


class Anchor(RunService):
    """A container of the steps' image that does nothing: its network is there from before the
    first service to after the last step, whichever of them ends first."""

    ready_seconds = 0.0

    def __init__(
        self, job: RunJob, tools: Tools, guard: RunGuard, masker: Masker, names: Sequence[str]
    ) -> None:
        super().__init__(job, tools, tools.docker, guard, masker, "", "anchor")
        self.title = "The network of the services"
        self._names = tuple(names)

    @property
    def container(self) -> str:
        """Its id, for those who join it."""
        return self._handle.container

    def _introduce(self) -> None:
        # Its end ends the run from now on.
        self._is_ready = True

    def _spec(self) -> ProcessSpec:
        job = self._job
        sandbox = Sandbox(
            job.sandbox.image,
            network=job.sandbox.network,
            names=self._names,
            labels=job.sandbox.labels,
        )
        return ProcessSpec(
            argv=_SLEEP,
            cwd=job.workdir,
            env={},
            lease_deadline=self._guard.deadline,
            limits=job.limits,
            sandbox=sandbox,
        )

    def _ask(self) -> bool:
        return True


class ContainerService(RunService):
    """A container of an image, with the limits and the isolation of its tool.

    It sees nothing of the host, the run's checkout included, and has no variables but those of its
    image and of its own ``env``.
    """

    def __init__(
        self,
        job: RunJob,
        tools: Tools,
        guard: RunGuard,
        masker: Masker,
        wanted: Mapping[str, Any],
        tool: Tool,
        image: Image,
    ) -> None:
        super().__init__(job, tools, tools.docker, guard, masker, wanted["name"])
        self._wanted, self._tool, self._image = wanted, tool, image
        ready = wanted.get("ready") or {}
        self.ready_seconds = float(ready.get("timeout", READY_SECONDS))
        self._question: list[str] | None = ready.get("command")
        if "port" in ready:
            self._question = listens(ready["port"])
        self._asked: Inside | None = None

    def _spec(self) -> ProcessSpec:
        program = self._tools.docker.program(self._image.id)
        argv = [*program.entrypoint, *(self._wanted.get("command") or program.command)]
        if not argv:
            raise ExecutorError(
                f"the image {self._image.reference} does not say what to start, so the service"
                " needs a command."
            )
        job, tool = self._job, self._tool
        sandbox = Sandbox(
            self._image.id,
            joined=job.sandbox.joined,
            read_only=tool.read_only,
            tmp_size=tool.tmp_size,
            labels=job.sandbox.labels,
            user=tool.user,
        )
        return ProcessSpec(
            argv=argv,
            cwd=Path(program.folder),
            env=dict(self._wanted.get("env") or {}),
            lease_deadline=self._guard.deadline,
            grace=STOP_SECONDS / 2,
            limits=tool.limits,
            sandbox=sandbox,
        )

    def _ask(self) -> bool:
        if self._question is None:
            return True
        if self._asked is None:
            self._asked = self._tools.docker.run_inside(self._handle, self._question)
        code = self._asked.poll()
        if code is not None:
            self._asked = None
        return code == 0

    def _what_is_missing(self) -> str:
        ready = self._wanted["ready"]
        if "port" in ready:
            return f"nothing listens on port {ready['port']}"
        if self._asked:
            return f"its check does not end ({ready['command'][0]})"
        return f"its check does not succeed ({ready['command'][0]})"
