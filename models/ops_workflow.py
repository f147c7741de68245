"""A workflow: what a project can have done, and how."""

from odoo import api, fields, models
from odoo.exceptions import ValidationError

from ..worker.workflow import validate_config
from .json_text import from_text, to_text
from .roles import GUARDED_TYPES
from .statuses import STATUSES

WORKFLOW_TYPES = [
    ("build", "Build"),
    ("test", "Test"),
    ("deploy", "Deploy"),
    ("backup", "Backup"),
    ("upgrade", "Upgrade"),
]


class OpsWorkflow(models.Model):
    _name = "ops.workflow"
    _description = "Workflow"
    _order = "project_id, sequence, id"

    name = fields.Char(required=True)
    project_id = fields.Many2one("ops.project", required=True, ondelete="cascade", index=True)
    workflow_type = fields.Selection(WORKFLOW_TYPES, required=True, default="test")
    enabled = fields.Boolean(default=True, help="Disabled workflows take no new runs.")
    sequence = fields.Integer(default=10)
    git_ref = fields.Char(help="Branch or tag; the project's default branch if empty.")
    git_commit = fields.Char(help="Full commit id, to build always the same state.")
    config = fields.Json()
    config_text = fields.Text(
        "Configuration",
        compute="_compute_config_text",
        inverse="_inverse_config_text",
        help="JSON, see docs/workflows.md. Without steps the built-in recipe of the type runs.",
    )
    run_ids = fields.One2many("ops.run", "workflow_id")
    run_count = fields.Integer(compute="_compute_run_count")
    last_run_id = fields.Many2one("ops.run", compute="_compute_last_run")
    last_run_status = fields.Selection(STATUSES, compute="_compute_last_run")
    can_run = fields.Boolean(compute="_compute_can")
    can_edit = fields.Boolean(compute="_compute_can")

    _project_type_name_uniq = models.Constraint(
        "UNIQUE (project_id, workflow_type, name)",
        "The project has a workflow of this type and name already.",
    )
    _git_commit_format = models.Constraint(
        "CHECK (git_commit IS NULL OR git_commit ~ '^([0-9a-f]{40}|[0-9a-f]{64})$')",
        "A commit is given by its full id: 40 hexadecimal digits in lower case.",
    )

    @api.depends("config")
    def _compute_config_text(self):
        for workflow in self:
            workflow.config_text = to_text(workflow.config)

    def _inverse_config_text(self):
        for workflow in self:
            workflow.config = from_text(self.env, workflow.config_text)

    def _compute_run_count(self):
        counts = dict(
            self.env["ops.run"]._read_group(
                [("workflow_id", "in", self.ids)], ["workflow_id"], ["__count"]
            )
        )
        for workflow in self:
            workflow.run_count = counts.get(workflow, 0)

    def _compute_last_run(self):
        for workflow in self:
            workflow.last_run_id = self.env["ops.run"].search(
                [("workflow_id", "in", workflow.ids)], order="run_number desc", limit=1
            )
            workflow.last_run_status = workflow.last_run_id.status

    @api.depends_context("uid")
    @api.depends("project_id", "workflow_type")
    def _compute_can(self):
        for workflow in self:
            workflow.can_run = workflow.project_id._may("queue_run")
            workflow.can_edit = workflow.project_id._may(workflow._edit_operation())

    @api.constrains("config", "workflow_type")
    def _check_config(self):
        for workflow in self:
            problems = validate_config(workflow.workflow_type, workflow.config or {})
            if problems:
                raise ValidationError(
                    self.env._(
                        "The configuration of %(workflow)s is not valid:\n%(problems)s",
                        workflow=workflow.display_name,
                        problems="\n".join(f"- {p.path}: {p.reason}" for p in problems),
                    )
                )

    @api.model_create_multi
    def create(self, vals_list):
        workflows = super().create(vals_list)
        workflows._check_may_edit()
        return workflows

    def write(self, vals):
        self._check_may_edit()
        result = super().write(vals)
        self._check_may_edit()
        return result

    def unlink(self):
        self._check_may_edit()
        return super().unlink()

    def _edit_operation(self):
        """Row of the role matrix that says who may edit this workflow."""
        guarded = self.workflow_type in GUARDED_TYPES
        return "edit_guarded_workflow" if guarded else "edit_workflow"

    def _check_may_edit(self):
        for workflow in self:
            workflow.project_id._check_may(workflow._edit_operation())

    def copy_data(self, default=None):
        vals_list = super().copy_data(default)
        for workflow, vals in zip(self, vals_list, strict=True):
            if "name" not in (default or {}):
                vals["name"] = self.env._("%s (copy)", workflow.name)
        return vals_list

    def queue_run(self, **arguments):
        """Queue one run of this workflow for the current user.

        :param arguments: as of the kernel's ``queue_run``, without the prefix
        :return: the run
        :raise AccessError: without the role for it
        :raise UserError: with the kernel's sentence when it refuses
        """
        return self.env["ops.run"].browse(self._queue_run(**arguments)["run_id"])

    def _queue_run(self, **arguments):
        """As :meth:`queue_run`; returns the kernel's reply, which says whether the run is new."""
        self.ensure_one()
        self.project_id._check_may("queue_run")
        reply = self.env["ops.kernel"]._call_or_raise("queue_run", workflow_id=self.id, **arguments)
        self.env["ops.worker"]._wake_scheduled_worker()
        return reply

    def action_queue_run(self):
        """Queue a run and show it."""
        run = self.queue_run()
        return {
            "type": "ir.actions.act_window",
            "res_model": "ops.run",
            "res_id": run.id,
            "views": [(False, "form")],
        }

    def action_open_runs(self):
        self.ensure_one()
        action = self.env["ir.actions.act_window"]._for_xml_id("odooops.ops_run_action")
        return {
            **action,
            "domain": [("workflow_id", "=", self.id)],
            "context": {},
            "display_name": self.name,
        }
