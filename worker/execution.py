"""One run, from the claim to its completion: what a runner does (``runner.py``).

In order: make the work directory, start the run in the control plane, check the repository out,
make the run's database, let the config's steps or the built-in recipe work, collect artifacts, drop
the database, bring in the rest of the log, store the complete log, complete the run, remove the
work directory. Whatever goes wrong on the way ends as an error code and a sentence; the worker goes
on.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pwd
import re
import shlex
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import checkout, database, placement, repository_config, run_secrets
from .artifacts import LOG_KEY, LOG_TYPE, ArtifactRecorder, Limits
from .cache import CacheLimits, Caches
from .collecting import collect
from .control.base import Claim, ControlPlane, ControlPlaneError, Refused, Started
from .control.masked import MaskedControlPlane
from .errors import RunError, RunStopped
from .executors.base import Executor
from .executors.docker import DockerExecutor
from .guard import RunGuard
from .job import RunJob
from .log_shipping import LogLimits, RunLog
from .logs import LogLine, clean_json, clean_text
from .masking import Masker
from .recipes import get_recipe
from .recipes.base import Outcome, Recipe
from .services import Services
from .settings import Settings
from .steps import StepRunner
from .storage.base import ArtifactStore
from .workflow import validate_config, with_defaults

_logger = logging.getLogger(__name__)

INTERNAL_ERROR = "The worker itself failed while it executed the run; its own log says how."
NO_RUNS_SERVER = (
    "This worker has no PostgreSQL for the databases of runs: its setting --runs-dsn names one."
)
MAX_MESSAGE_LENGTH = 4000
MAX_METADATA_BYTES = 1_000_000
#: Seconds the completion is tried for at least, even when the lease is over: the last word may
#: still count.
COMPLETION_SECONDS = 20.0
_WORKDIR = re.compile(r"run-([0-9a-z]+)-(\d+)-(\d+)")


class Tools(NamedTuple):
    """What a run is given by its worker."""

    settings: Settings
    control: ControlPlane
    #: Runs the worker's own programs, such as git; and steps, where the operator allows processes.
    executor: Executor
    store: ArtifactStore
    worker_id: str
    namespace: str
    #: Whether the worker shall begin nothing new.
    is_stopping: Callable[[], bool]
    #: For workflows that name a tool; None where the worker has no Docker.
    docker: DockerExecutor | None = None


def workdir_name(namespace: str, run_id: int, epoch: int) -> str:
    """Name of a run's work directory: whoever finds it knows whose it was."""
    return f"run-{namespace}-{run_id}-{epoch}"


def parse_workdir_name(namespace: str, name: str) -> tuple[int, int] | None:
    """Run id and epoch of a work directory of this control plane, else None."""
    match = _WORKDIR.fullmatch(name)
    return (int(match[2]), int(match[3])) if match and match[1] == namespace else None


def remove_tree(path: Path) -> None:
    """Remove a directory with all in it, also where a program took away the right to write."""

    def make_writable(function: Callable[..., Any], name: str, _error: Any) -> None:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(os.path.dirname(name), stat.S_IRWXU)
                if not os.path.islink(name):
                    os.chmod(name, stat.S_IRWXU)
                if function in (os.unlink, os.rmdir):
                    function(name)
        except OSError as error:
            _logger.warning("%s cannot be removed: %s", name, error)

    for _attempt in range(3):
        shutil.rmtree(path, onerror=make_writable)
        if not path.exists():
            return


class Execution:
    """The execution of one claimed run; ``run`` raises nothing."""

    def __init__(self, tools: Tools, claim: Claim, guard: RunGuard) -> None:
        self.claim = claim
        self.guard = guard
        self._tools = tools
        self._masker = Masker()
        self._control = MaskedControlPlane(tools.control, self._masker)
        self._name = workdir_name(tools.namespace, claim.run_id, claim.epoch)
        self.workdir = tools.settings.work_dir / self._name
        self._job: RunJob | None = None
        self._log: RunLog | None = None
        self._metadata: dict[str, Any] = {}

    def run(self) -> None:
        """Execute the run to its end."""
        try:
            problem = self._make_workdir()
            started = self._start()
            if started:
                outcome = problem or self._guarded(lambda: self._work(started))
                self._finish(outcome)
        except ControlPlaneError as error:
            _logger.warning("Run %s was given up: %s", self.claim.run_id, error)
        except Exception:
            _logger.exception("Run %s was given up", self.claim.run_id)
        finally:
            if self._log:
                self._log.close()
            remove_tree(run_secrets.folder(self._name))
            remove_tree(self.workdir)

    def _make_workdir(self) -> Outcome | None:
        """Make the private directory; why that was impossible, as an outcome."""
        try:
            if self.workdir.exists():
                remove_tree(self.workdir)
            for name in ("", "checkout", "home", "tmp", "bin", "processes"):
                (self.workdir / name).mkdir(mode=0o700, parents=True)
            odoo = self.workdir / "bin" / "odoo"
            odoo.write_text(f'#!/bin/sh\nexec {shlex.join(self._tools.settings.odoo)} "$@"\n')
            odoo.chmod(0o700)
        except OSError as error:
            _logger.exception("The work directory of run %s cannot be made", self.claim.run_id)
            if _is_full(error):
                return Outcome(1, "disk_full", "The worker's disk is full.")
            message = f"The worker cannot make the run's work directory: {error.strerror}."
            return Outcome(1, "setup_error", message)
        return None

    def _start(self) -> Started | None:
        claim = self.claim
        if self.guard.stopped or self._tools.is_stopping():
            self._control.release_run(claim.run_id, self._tools.worker_id, claim.epoch)
            return None
        # Before the first attempt: its reply may be the one that got lost.
        sent_at = time.monotonic()
        reply = self.guard.insist(
            lambda: self._control.start_workflow_run(
                claim.run_id, self._tools.worker_id, claim.epoch
            )
        )
        if isinstance(reply, Refused):
            _logger.info("Run %s was not started: %s", claim.run_id, reply)
            return None
        self.guard.bound(sent_at, reply.deadline_seconds)
        self.guard.renew(sent_at, reply.lease_seconds)
        return reply

    def _guarded(self, work: Callable[[], Outcome]) -> Outcome:
        """Turn every way in which ``work`` may fail into an outcome."""
        try:
            return work()
        except RunError as error:
            code = None if isinstance(error, RunStopped) else error.exit_code
            return Outcome(code, error.code, error.message)
        except OSError as error:
            if _is_full(error):
                return Outcome(1, "disk_full", "The worker's disk is full.")
            _logger.exception("Run %s failed inside the worker", self.claim.run_id)
        except Exception:
            _logger.exception("Run %s failed inside the worker", self.claim.run_id)
        return Outcome(1, "internal_error", INTERNAL_ERROR)

    def _work(self, started: Started) -> Outcome:
        claim, settings = self.claim, self._tools.settings
        self._log = RunLog(
            self._control,
            claim.run_id,
            claim.epoch,
            self.workdir,
            started.next_seq,
            masker=self._masker,
            limits=LogLimits(settings.log_limit_mb << 20, settings.spool_limit_mb << 20),
        )
        self._log.start()
        workflow_type = str(claim.snapshot["workflow"]["workflow_type"])
        config = claim.snapshot.get("config") or {}
        problems = validate_config(workflow_type, config)
        recorder = ArtifactRecorder(
            self._tools.store,
            self._control,
            (claim.run_id, claim.epoch),
            str(claim.snapshot["project"]["slug"]),
            Limits.of(settings),
        )
        self._job = job = RunJob(
            claim,
            with_defaults({} if problems else config),
            self.workdir,
            guard=self.guard,
            control=self._control,
            executor=self._tools.executor,
            run_log=self._log,
            recorder=recorder,
            odoo_argv=settings.odoo,
            odoo_addons=settings.odoo_addons,
            engine_patience=settings.docker_wait_seconds,
        )
        if problems:
            reasons = "; ".join(str(problem) for problem in problems[:3])
            raise RunError("setup_error", f"The workflow's configuration is wrong: {reasons}.")
        recipe = None if job.config["steps"] else get_recipe(workflow_type)
        if not job.config["steps"] and recipe is None:
            raise RunError(
                "setup_error",
                f"There is no built-in recipe of type {workflow_type}, and no steps are given.",
            )
        return self._pipeline(job, recipe)

    def _pipeline(self, job: RunJob, recipe: Recipe | None) -> Outcome:
        """Prepare what the steps or the recipe need, let them work, clear it away."""
        settings = self._tools.settings
        job.env = self._environment(job)
        wants_checkout = recipe.needs_checkout if recipe else True
        if wants_checkout and (recipe or job.snapshot["project"].get("repository_url")):
            recipe = self._check_out(job, recipe)
        # Not before the checkout: git has no use for them, and what it starts should not have any.
        job.env.update(self._secrets(job, job.config["secrets"]))
        wants_database = recipe.needs_database if recipe else job.config["database"]

        def give_secret(name: str) -> str:
            # Of a tool: its registry wants it, no step ever sees it.
            return self._secrets(job, [{"name": name, "as": "env"}])[name]

        try:
            if wants_database and not settings.has_runs_server:
                raise RunError("setup_error", NO_RUNS_SERVER)
            if wants_database:
                prefix = database.name_prefix(self._tools.namespace)
                made = database.create(settings.runs_dsn, prefix, job.run_id, job.epoch)
                job.database = made
                self._masker.add(made.password, "PGPASSWORD")
                job.env.update(made.environment())
            image = placement.place(
                job, recipe, self._tools, run_secrets.folder(self._name), give_secret
            )
            self._metadata.update({"image": image} if image else {})
            caches = Caches(
                job,
                settings.work_dir / f"caches-{self._tools.namespace}",
                CacheLimits(settings.cache_limit_mb << 20, settings.cache_project_limit_mb << 20),
                image["image_id"] if image else None,
            )
            caches.restore()
            services = Services(job, self._tools, self.guard, self._masker)
            try:
                if job.config["services"]:
                    # The list itself: it is filled before one of them may fail.
                    self._metadata["services"] = services.facts
                    services.start(give_secret)
                outcome = recipe.run(job) if recipe else self._run_steps(job)
            finally:
                services.stop()
            self._metadata.update(outcome.metadata)
        except RunError:
            self._collect_artifacts(job, None)
            raise
        else:
            outcome = self._collect_artifacts(job, outcome)
            if not (outcome.exit_code or outcome.error_code):
                caches.save()
            return outcome
        finally:
            if job.database:
                self._drop_database(job)

    def _check_out(self, job: RunJob, recipe: Recipe | None) -> Recipe | None:
        """Fetch the commit and let its file change the config; the recipe that works then."""
        job.commit = checkout.fetch(job).commit
        self._metadata["commit"] = job.commit
        changed = repository_config.apply(job)
        if changed:
            self._metadata["config"] = changed
            kind = str(job.snapshot["workflow"]["workflow_type"])
            recipe = None if job.config["steps"] else get_recipe(kind)
            job.env = self._environment(job)
        job.env["ODOOOPS_GIT_COMMIT"] = job.commit
        return recipe

    def _secrets(self, job: RunJob, wanted: Sequence[Mapping[str, str]]) -> dict[str, str]:
        """The variables that give the steps their secrets; all are masked from here on."""
        return run_secrets.give(
            wanted,
            control=self._control,
            guard=self.guard,
            held=(job.run_id, self._tools.worker_id, job.epoch),
            key_path=self._tools.settings.secrets_key,
            masker=self._masker,
            folder_name=self._name,
        )

    def _run_steps(self, job: RunJob) -> Outcome:
        runner = StepRunner(job)
        # The list itself: it is complete when the steps end by an error, too.
        self._metadata["steps"] = runner.results
        return runner.run()

    def _environment(self, job: RunJob) -> dict[str, str]:
        """The complete environment of the run's processes; nothing of the worker's own but PATH."""
        snapshot, user = job.snapshot, _user_name()
        facts = {
            "RUN_ID": job.run_id,
            "RUN_NUMBER": job.run_number,
            "PROJECT": snapshot["project"]["slug"],
            "ODOO_VERSION": snapshot["project"].get("odoo_version"),
            "WORKFLOW": snapshot["workflow"].get("name"),
            "WORKFLOW_TYPE": snapshot["workflow"]["workflow_type"],
            "GIT_REF": snapshot.get("git_ref"),
            "GIT_COMMIT": snapshot.get("git_commit"),
            "TRIGGER": snapshot.get("trigger"),
        }
        env = {
            "PATH": f"{self.workdir / 'bin'}:{os.environ.get('PATH') or os.defpath}",
            "HOME": str(self.workdir / "home"),
            "TMPDIR": str(self.workdir / "tmp"),
            "USER": user,
            "LOGNAME": user,
            "LANG": "C.UTF-8",
            "CI": "true",
            "PYTHONUNBUFFERED": "1",
            **{f"ODOOOPS_{name}": str(value) for name, value in facts.items() if value},
        }
        if job.config["modules"]:
            env["MODULES"] = ",".join(job.config["modules"])
        return {**env, **job.config["env"]}

    def _collect_artifacts(self, job: RunJob, outcome: Outcome | None) -> Outcome:
        """Keep what the config names; None when the work ended with an error."""
        if self.guard.stopped and self.guard.grace == 0:
            return outcome or Outcome()
        result = collect(job, outcome)
        self._metadata.update(result.metadata)
        return result

    def _drop_database(self, job: RunJob) -> None:
        try:
            database.drop(self._tools.settings.runs_dsn, job.database.name)
        except RunError as error:
            _logger.warning("Run %s: %s", job.run_id, error)
            self._say("warn", f"{error.message} The worker tries again later.")

    def _say(self, level: str, message: str) -> None:
        """A line of the worker's own into the run's log, if that is possible at all."""
        if not self._log:
            return
        # Masked before its line ends go: a value may hold some.
        text = " ".join(self._masker.mask(message).split())
        text = clean_text(text.encode("utf-8", "replace"))
        try:
            self._log.write([LogLine(time.time_ns() // 1000, level, text)])
        except RunError as error:
            _logger.warning("Run %s: %s", self.claim.run_id, error)

    def _finish(self, outcome: Outcome) -> None:
        """Bring in the rest of the log, store it whole, complete the run."""
        failed = outcome.error_code or outcome.exit_code
        is_lost, stopped = self.guard.is_lost, self.guard.stopped
        if is_lost and stopped and not failed:
            # The control plane may not have noticed, but the log is not stored any more.
            outcome, failed = Outcome(None, stopped.code, stopped.message), stopped.code
        if failed:
            code = outcome.error_code or "exit_code"
            self._say("error", f"{outcome.error_message or ''} ({code})".strip())
        else:
            self._say("info", "Succeeded")
        if self._log and not is_lost:
            self._log.flush(lambda: self.guard.is_lost)
            outcome = self._store_log(outcome)
        self._complete(outcome)

    def _store_log(self, outcome: Outcome) -> Outcome:
        def store() -> Outcome:
            assert self._log is not None
            path = self._log.finish()
            if self._job:
                self._job.add_artifact(LOG_KEY, path, LOG_TYPE)
            return outcome

        stored = self._guarded(store)
        if stored is not outcome:
            _logger.warning("Run %s: its log was not stored: %s", self.claim.run_id, stored)
            if outcome.error_code or outcome.exit_code:
                return outcome
        return stored

    def _complete(self, outcome: Outcome) -> None:
        claim = self.claim
        message = outcome.error_message
        if message:
            # Masked before it is cut: half a secret would not be recognised.
            message = self._masker.mask(message)
            message = clean_text(message.encode("utf-8", "replace"))[:MAX_MESSAGE_LENGTH]
        until = max(self.guard.deadline, time.monotonic() + COMPLETION_SECONDS)
        reply: Mapping[str, Any] | Refused = self.guard.insist(
            lambda: self._control.complete_workflow_run(
                claim.run_id,
                self._tools.worker_id,
                claim.epoch,
                outcome.exit_code,
                outcome.error_code,
                message,
                self._clean_metadata(),
            ),
            until,
        )
        if isinstance(reply, Refused):
            _logger.warning("The end of run %s was refused: %s", claim.run_id, reply)
        else:
            _logger.info("Run %s: %s %s", claim.run_id, reply.get("status"), message or "")

    def _clean_metadata(self) -> Mapping[str, Any]:
        metadata = clean_json(self._metadata)
        if len(str(metadata)) > MAX_METADATA_BYTES:
            _logger.warning("Run %s: its metadata is too large", self.claim.run_id)
            return {"metadata_dropped": "It was larger than one megabyte."}
        return metadata


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
