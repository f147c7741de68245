"""The recipe of workflow type ``build``: install the modules into an empty database."""

from __future__ import annotations

from .base import Job, Outcome, Recipe
from .pipeline import FOLDERS, READ_ONLY_FOLDERS, Pipeline


class BuildRecipe(Recipe):
    """Checks the modules of the repository and installs them with all they depend on."""

    workflow_type = "build"
    folders = FOLDERS
    read_only_folders = READ_ONLY_FOLDERS

    def run(self, job: Job) -> Outcome:
        """Succeed when Odoo says 0 and its database says that every module is installed."""
        pipeline = Pipeline(job)
        pipeline.prepare()
        with pipeline.step("Install"):
            exit_code, causes = pipeline.run_odoo(["--no-http"], {"http_enable": False}, {})
            missing = pipeline.not_installed()
        failed = pipeline.install_outcome(exit_code, causes, missing)
        pipeline.add_manifest(installed=failed is None)
        return failed or Outcome(metadata=pipeline.metadata())
