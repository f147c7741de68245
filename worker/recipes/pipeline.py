"""What building and testing have in common: find the modules, install them, report them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg2

from ..errors import RunError
from . import addons as addons_room
from . import odoo, requirements
from .addons import Addon
from .base import Job, Outcome
from .odoo import (
    Causes,
    Installation,
    addons_path,
    link_addons,
    probe,
    run_odoo,
    write_config,
    write_run_addons,
)

MANIFEST_KEY = "manifest.json"
#: What programs and PostgreSQL say when they cannot write any more.
DISK_FULL = "No space left on device"
#: Read once: after an upgrade the file is another one, or gone.
_CHECKER = Path(__file__).with_name("sources.py").read_text(encoding="utf-8")
_CHECKER_TIMEOUT = 300.0
#: See ``base.Recipe``.
FOLDERS = (odoo.DATA, requirements.FOLDER)
READ_ONLY_FOLDERS = (odoo.LINKS, odoo.CONFIG, odoo.RUN_ADDONS)


@dataclasses.dataclass
class Pipeline:
    """The state of one run between its steps."""

    job: Job
    #: modules the run is about
    modules: list[str] = dataclasses.field(default_factory=list)
    #: those and all they depend on that lie in the repository, dependencies first
    addons: list[Addon] = dataclasses.field(default_factory=list)
    installation: Installation | None = None
    #: {commit, subject, author_date}
    commit: dict[str, str] = dataclasses.field(default_factory=dict)
    #: name of a module -> checksum of its files
    checksums: dict[str, str] = dataclasses.field(default_factory=dict)
    #: folder with links to the repository's modules
    links: Path | None = None
    #: what Odoo's environment has beside the job's
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    #: seconds per step
    durations: dict[str, float] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step of the run's log whose duration goes into the report."""
        started = time.monotonic()
        try:
            with self.job.step(name):
                yield
        finally:
            self.durations[name] = round(time.monotonic() - started, 3)

    def prepare(self) -> None:
        """Do everything that can be found out or made ready before Odoo installs anything.

        :raises RunError: no_addons, unknown_module, syntax_error, missing_dependency, setup_error
        """
        with self.step("Modules"):
            self.commit = dataclasses.asdict(self.job.source)
            self._find_modules()
            self._check_sources()
        files = requirements.requirement_files(self.job.checkout_dir, self.addons)
        if files:
            with self.step("Requirements"):
                self.env |= requirements.install(self.job, self.installation, files)
                self.installation = probe(self.job, self.links, self.env)
        names = addons_room.closure(
            self.modules,
            {addon.name: addon for addon in self.addons},
            self.installation.modules,
            self.installation.series,
        )
        requirements.require_external(self.installation, names, self.job.place)

    def _find_modules(self) -> None:
        job = self.job
        url = job.snapshot["project"].get("repository_url") or ""
        root_name = addons_room.root_module_name(job.config, url)
        found = addons_room.find_addons(job.checkout_dir, root_name)
        usable = [addon for addon in found.values() if addon.installable and not addon.problem]
        self.links = link_addons(job, usable)
        write_run_addons(job)
        self.installation = probe(job, self.links, self.env)
        own = {addon.name for addon in usable}
        odoo_modules = {n: d for n, d in self.installation.modules.items() if n not in own}
        series = self.installation.series
        self.modules = addons_room.selected_modules(job.config, found, odoo_modules)
        names = addons_room.closure(self.modules, found, odoo_modules, series)
        self.addons = [found[name] for name in names if name in own]
        for addon in found.values():
            if addon.problem:
                job.log("warn", f"Module {addon.name} is left out: {addon.problem}")
        # Now, before the code of the repository runs and may write into it.
        self.checksums = self._checksums()
        self._warn_of_versions()
        job.log(
            "info",
            f"Odoo {self.installation.odoo_version}, Python {self.installation.python_version}"
            f" of {job.place}",
        )
        job.log("info", f"Modules: {', '.join(self.modules)}")
        others = [addon.name for addon in self.addons if addon.name not in self.modules]
        if others:
            job.log("info", f"Needed from the repository: {', '.join(others)}")

    def _checksums(self) -> dict[str, str]:
        checkout = self.job.checkout_dir.resolve()
        found = {}
        for addon in self.addons:
            if not addon.path.resolve().is_relative_to(checkout):
                raise RunError(
                    "setup_error",
                    f"The folder of module {addon.name} was moved out of the checkout.",
                )
            found[addon.name] = addons_room.checksum(addon.path)
        return found

    def _warn_of_versions(self) -> None:
        """Say when the project, the modules and the run's Odoo are not of the same series."""
        series = self.installation.series
        wanted = self.job.snapshot["project"].get("odoo_version")
        if wanted and wanted != series:
            message = f"The project is made for Odoo {wanted}, {self.job.place} has Odoo {series}."
            self.job.log("warn", message)
            self.job.event("warning", message, {"project": wanted, "installed": series})
        for addon in self.addons:
            if addon.version.count(".") > 2 and not addon.version.startswith(f"{series}."):
                self.job.log(
                    "warn", f"Module {addon.name} {addon.version} is not made for Odoo {series}."
                )

    def _check_sources(self) -> None:
        """Check that the files of the modules can be read.

        All problems go to the log, the first one into the error.
        """
        job = self.job
        folders = [str(addon.path) for addon in self.addons]
        if not folders:
            return
        checkout = str(job.checkout_dir.resolve())
        argv = [self.installation.python, "-I", "-c", _CHECKER, checkout, *folders]
        answer = job.capture(argv, timeout=_CHECKER_TIMEOUT, cwd=job.workdir)
        try:
            problems = json.loads(answer.stdout) if answer.exit_code == 0 else None
        except ValueError:
            problems = None
        if problems is None:
            raise RunError(
                "syntax_error",
                "Python could not read the sources of the modules at all.",
                answer.exit_code or 1,
            )
        lines = [f"{p['file']}:{p['line']}: {p['message']}" for p in problems]
        for line in lines:
            job.log("error", line)
        if lines:
            more = f" ({len(lines) - 1} more in the log)" if len(lines) > 1 else ""
            raise RunError("syntax_error", f"{lines[0]}{more}")

    def run_odoo(
        self, arguments: Sequence[str], options: Mapping[str, object], env: Mapping[str, str]
    ) -> tuple[int, Causes]:
        """Install the modules; return Odoo's exit code and the errors it logged."""
        config = write_config(self.job, options)
        addons = addons_path(self.job, self.links, self.installation.addons_path)
        causes = Causes(self.repository_paths)
        argv = ["-i", ",".join(self.modules), "--stop-after-init", *arguments]
        return run_odoo(self.job, addons, config, argv, {**self.env, **env}, causes), causes

    def not_installed(self) -> dict[str, str]:
        """Ask the database which modules are not installed: name -> state.

        Odoo ends with 0 also when it left modules out.

        :raises RunError: database_error
        """
        try:
            with (
                contextlib.closing(self.job.database.connect()) as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("SELECT to_regclass('ir_module_module') IS NOT NULL")
                states = {}
                if cursor.fetchone()[0]:
                    cursor.execute("SELECT name, state FROM ir_module_module")
                    states = dict(cursor.fetchall())
        except psycopg2.Error as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise RunError(
                "database_error", f"The run's database cannot be read: {words[0]}"
            ) from error
        wanted = {name: states.get(name, "unknown to Odoo") for name in self.modules}
        return {name: state for name, state in wanted.items() if state != "installed"}

    def install_outcome(
        self, exit_code: int, causes: Causes, missing: Mapping[str, str]
    ) -> Outcome | None:
        """Return the failed outcome of an installation, None when everything is installed."""
        if exit_code == 0 and not missing:
            return None
        what = f"Odoo ended with exit code {exit_code}"
        if missing:
            what = f"Odoo did not install {', '.join(sorted(missing))}"
        cause = causes.sentence()
        return Outcome(
            exit_code=exit_code or 1,
            error_code="disk_full" if DISK_FULL in cause else "install_failed",
            error_message=f"{what}: {cause}" if cause else f"{what}; its log says why.",
            metadata={**self.metadata(), "not_installed": dict(missing)},
        )

    def repository_paths(self, text: str) -> str:
        """Return the text with paths of the work directory turned into paths of the repository."""
        for addon in self.addons:
            folder = "" if addon.folder == "." else f"{addon.folder}/"
            text = text.replace(f"{self.links / addon.name}/", folder)
        return text.replace(f"{self.job.checkout_dir.resolve()}/", "")

    def metadata(self) -> dict[str, Any]:
        """Return what a run's metadata says about what it built."""
        versions = {addon.name: addon.version for addon in self.addons}
        return {
            "commit_subject": self.commit["subject"],
            "modules": {name: versions.get(name, "") for name in self.modules},
            "odoo_version": self.installation.odoo_version,
            "python_version": self.installation.python_version,
        }

    def add_manifest(self, **more: Any) -> None:
        """Store manifest.json: what exactly was built, with what and how long it took."""
        job = self.job
        content = {
            "run_id": job.run_id,
            "run_number": job.run_number,
            "project": job.snapshot["project"].get("slug"),
            "workflow_type": job.snapshot["workflow"].get("workflow_type"),
            "git_ref": job.snapshot.get("git_ref"),
            "commit": self.commit,
            "requested_modules": self.modules,
            "modules": [
                {
                    "name": addon.name,
                    "version": addon.version,
                    "folder": addon.folder,
                    "sha256": self.checksums[addon.name],
                }
                for addon in self.addons
            ],
            "image": dict(job.image) if job.image else None,
            "odoo_version": self.installation.odoo_version,
            "python_version": self.installation.python_version,
            "postgresql_version": self._postgresql_version(),
            "durations": self.durations,
            **more,
        }
        path = job.workdir / MANIFEST_KEY
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        job.add_artifact(MANIFEST_KEY, path, "application/json")

    def _postgresql_version(self) -> str:
        with contextlib.closing(self.job.database.connect()) as connection:
            return connection.info.parameter_status("server_version") or ""
