"""Servers of a run's own beside its steps: PostgreSQL as a process of the worker, or images.

They begin before the steps and end with the run, whatever becomes of it: they are started by the
executors, like steps, so they end before the lease does and their leftovers are found like those
of steps. ``start`` and ``stop`` belong to the run's thread.

**A service of an image and the steps share one network, which has nothing but the loopback.** A
container that does nothing holds it (the *anchor*); the others join it, and each service's name
stands for 127.0.0.1 in there. So there is no way out, not even to the worker's host, and nothing
is reachable from outside. A port is taken once in such a network.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import placement
from ..errors import RunError
from ..executors.base import ExecutorError
from ..executors.choice import default_limits, read_tool
from ..masking import Masker
from .base import RunService
from .container import Anchor, ContainerService
from .postgres import PostgresService, folders

if TYPE_CHECKING:
    from ..execution import Tools
    from ..guard import RunGuard
    from ..job import RunJob

__all__ = ["Services", "folders"]

STEP = "Services"
NEEDS_DOCKER = (
    "Services of images need steps in containers, and this worker has no Docker: give the workflow"
    ' the label "docker", or start the worker with --docker.'
)


class Services:
    """All services of one run. After ``stop`` nothing is left of them."""

    def __init__(self, job: RunJob, tools: Tools, guard: RunGuard, masker: Masker) -> None:
        self._job, self._tools, self._guard, self._masker = job, tools, guard, masker
        self._running: list[RunService] = []
        #: What they are, for the run's metadata: name, and the image of those that have one.
        self.facts: list[dict[str, Any]] = []

    def start(self, give_secret: Callable[[str], str]) -> None:
        """Start them all, then wait until each is ready.

        The run's environment and its containers know them from now on. Whoever calls this calls
        ``stop`` at the end.

        :param give_secret: name → value of a secret that the tool of a service names
        :raises RunError: service_failed, setup_error and what an image may lack
        """
        if not self._job.config["services"]:
            return
        with self._job.step(STEP):
            try:
                made = [self._make_process(*each) for each in self._wanted(is_image=False)]
                images = self._make_containers(give_secret)
            except ExecutorError as error:
                raise RunError(error.code, str(error)) from error
            for service in (*made, *images):
                self._launch(service)
            for service in (*made, *images):
                service.wait_ready()
                seconds = time.monotonic() - service.began
                self._job.log("info", f"{service.title_when_ready} is ready after {seconds:.1f} s")

    def stop(self) -> None:
        """End them, bring the end of their output into the run's log, remove what they had."""
        with contextlib.ExitStack() as ends:
            # In the reverse order, and each of them whatever becomes of the others.
            for service in self._running:
                ends.callback(service.finish)
            running, self._running = self._running, []
            for service in running:
                service.ask_to_end()

    def _wanted(self, is_image: bool) -> list[tuple[int, dict[str, Any]]]:
        found = enumerate(self._job.config["services"])
        return [(number, each) for number, each in found if ("tool" in each) == is_image]

    def _make_process(self, number: int, wanted: dict[str, Any]) -> RunService:
        prefix = wanted.get("prefix", "")
        self.facts.append({"name": wanted["name"]})
        return PostgresService(
            self._job, self._tools, self._guard, self._masker, wanted["name"], number, prefix
        )

    def _make_containers(self, give_secret: Callable[[str], str]) -> list[ContainerService]:
        """Those of images; all images are there before one starts."""
        wanted = [each for _number, each in self._wanted(is_image=True)]
        if not wanted:
            return []
        if self._job.sandbox is None:
            raise ExecutorError(NEEDS_DOCKER)
        services = []
        for each in wanted:
            # Its run was queued when this tool was registered.
            row = self._job.snapshot["service_tools"][each["tool"]]
            tool = read_tool(row, default_limits(self._tools.settings))
            what = f"service {each['name']} runs"
            image, found = placement.resolve(self._job, self._tools, tool, give_secret, what)
            self.facts.append({"name": each["name"], **found})
            services.append(
                ContainerService(
                    self._job, self._tools, self._guard, self._masker, each, tool, image
                )
            )
        names = [each["name"] for each in wanted]
        anchor = Anchor(self._job, self._tools, self._guard, self._masker, names)
        self._launch(anchor)
        self._job.widen(joined=anchor.container, network=False, names=())
        return services

    def _launch(self, service: RunService) -> None:
        # It is known before it is started: a start that fails half way leaves something, too.
        self._running.append(service)
        service.launch()
