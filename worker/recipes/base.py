"""What a recipe is, and what it may ask of the run that executes it.

A recipe is the built-in pipeline of one workflow type, used when the workflow's config has no
``steps``. It knows Odoo and git, and nothing about queues, leases, log shipping or processes: all
of these it reaches through its ``Job``.

What ``execution.py`` does around a recipe, in this order: makes the work directory, starts the run,
checks the repository out (``worker.checkout.fetch``), makes the run's database when
``needs_database`` (``worker.database.create``), calls ``Recipe.run``, collects the artifacts of the
config, drops the database, uploads the complete log, completes the run, removes the work directory.
A recipe cleans up nothing of these itself.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..logs import LogLine

if TYPE_CHECKING:
    from ..checkout import Checkout


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a recipe ended.

    ``exit_code`` 0 without ``error_code`` means success. ``error_code`` is a key of
    ``errors.ERROR_CODES``, ``error_message`` a sentence. ``metadata`` (JSON values) is merged into
    the run's metadata: test counts, failed tests, module versions.
    """

    exit_code: int | None = 0
    error_code: str | None = None
    error_message: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Captured:
    """The result of ``Job.capture``: exit code and both streams as text, cut at the limit."""

    exit_code: int
    stdout: str
    stderr: str


class Job(abc.ABC):
    """One run, as a recipe sees it."""

    run_id: int
    epoch: int
    run_number: int
    #: The snapshot of the claim: project, workflow, git_ref, git_commit, config, tool, trigger,
    #: metadata.
    snapshot: Mapping[str, Any]
    #: The workflow config with all defaults filled in (``workflow.with_defaults``).
    config: Mapping[str, Any]
    #: Private directory (0700) of this run. Everything in it is removed when the run ends.
    workdir: Path
    #: Where the repository is checked out (below ``workdir``). Default working directory of
    #: ``execute``.
    checkout_dir: Path
    #: Commit that was checked out, 40 hex digits; None while there is none.
    commit: str | None
    #: The same with its message's first line, as ``worker.checkout.fetch`` found it.
    source: Checkout | None = None
    #: full name of the branch or tag that the repository says it is the end of; empty when it says
    #: so of none, or was not asked
    source_ref: str = ""
    #: Facts about the image whose containers the run's processes run in, from now on: tool,
    #: reference, image_id, digest. None: they run as the worker does.
    image: Mapping[str, Any] | None = None
    #: Complete environment of the run's processes: PATH, HOME, LANG, TMPDIR, ODOOOPS_*, the
    #: config's env and, when the run has a database, PGHOST, PGPORT, PGUSER, PGPASSWORD,
    #: PGDATABASE. Nothing of the worker's own environment.
    env: dict[str, str]
    #: ``database.RunDatabase`` of this run (name, role, password, host, port), or None.
    database: Any
    #: The command that starts Odoo, as an argument list.
    odoo_argv: Sequence[str]
    #: Addons directories of the Odoo installation beside Odoo's own (setting --odoo-addons).
    odoo_addons: Sequence[Path]

    @property
    def place(self) -> str:
        """Where the run's Odoo comes from, for sentences."""
        return f"the image {self.image['reference']}" if self.image else "the worker"

    @abc.abstractmethod
    def step(self, name: str) -> AbstractContextManager[None]:
        """Group what is logged inside under ``name``: marker lines, duration, ``metadata.step``."""

    @abc.abstractmethod
    def execute(
        self,
        argv: Sequence[str],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        cwd: Path | None = None,
        on_line: Callable[[LogLine], None] | None = None,
    ) -> int:
        """Run a process to its end, ship its output to the run's log, return its exit code.

        A process killed by signal n gives 128 + n. ``env`` is added to ``Job.env``; ``timeout``
        (seconds) bounds this process beside the whole run's timeout; ``name`` is used in messages
        (default: the step, else argv[0]). ``on_line`` sees each line after parsing (level, logger,
        message without colour codes), in order, in the calling thread; it must be quick. Raises
        ``RunStopped`` when a timeout passed, the run was canceled or its lease was lost: let it
        pass. Raises ``RunError('setup_error')`` when argv[0] cannot be started.
        """

    @abc.abstractmethod
    def capture(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        cwd: Path | None = None,
        limit: int = 1 << 20,
    ) -> Captured:
        """Like ``execute`` for short questions (``git rev-parse``): returns the output."""

    @abc.abstractmethod
    def log(self, level: str, message: str, **metadata: Any) -> None:
        """Write a line of our own (level debug, info, warn or error) into the run's log."""

    @abc.abstractmethod
    def event(
        self, event_type: str, message: str, payload: Mapping[str, Any] | None = None
    ) -> None:
        """Append an event to the run's chain: for history, not for output."""

    @abc.abstractmethod
    def add_artifact(
        self,
        key: str,
        path: Path,
        content_type: str | None = None,
        *,
        expire_in: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the file as artifact ``key`` of this run and record it.

        ``expire_in`` like "30 days".

        ``content_type`` is guessed from the key when not given. Raises ``RunError`` when the file
        cannot be stored.
        """


class Recipe(abc.ABC):
    """The pipeline of one workflow type.

    Stateless: one object serves many runs at the same time in several threads.
    """

    #: Key of ``workflow.WORKFLOW_TYPES``.
    workflow_type: str
    #: Whether a database and role of its own is made before ``run`` and dropped after it.
    needs_database: bool = True
    #: Whether the repository is checked out before ``run``.
    needs_checkout: bool = True
    #: Of ``Job.workdir``, what a container of the run needs beside its checkout: folders it writes,
    #: folders it only reads. The worker itself follows no link in what a container may write.
    folders: Sequence[str] = ()
    read_only_folders: Sequence[str] = ()
    #: Files and folders of the worker's own that the run's processes read.
    helpers: Sequence[Path] = ()

    @abc.abstractmethod
    def run(self, job: Job) -> Outcome:
        """Do the work.

        Raise ``RunError(code, message)`` or return an ``Outcome`` that says what went wrong.
        """
