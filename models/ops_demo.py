"""What makes the demo real: a git repository on disk, and runs in the queue."""

import os

from odoo import api, models


class OpsDemo(models.AbstractModel):
    _name = "ops.demo"
    _description = "Demo data"

    @api.model
    def _queue_runs(self):
        """Point the demo project at its repository and queue the runs that demonstrate it.

        The environment variable ``ODOOOPS_DEMO_REPOSITORY`` names the git repository made at
        set-up. Without it there is nothing to build, and nothing is queued.
        """
        repository = os.environ.get("ODOOOPS_DEMO_REPOSITORY")
        project = self.env.ref("odooops.ops_project_demo")
        if not repository or self.env["ops.run"].search_count(
            [("project_id", "=", project.id)], limit=1
        ):
            return
        project.repository_url = repository
        self.env.ref("odooops.ops_workflow_demo_build").queue_run(git_ref="main")
        test = self.env.ref("odooops.ops_workflow_demo_test")
        test.queue_run(git_ref="main")
        test.queue_run(git_ref="broken-booking")
