"""A project: one repository with its workflows, its runs and its members."""

import re
import unicodedata

from odoo import api, fields, models
from odoo.exceptions import AccessError, ValidationError

from ..worker.checkout import checked_url
from ..worker.errors import RunError
from .roles import MATRIX, ROLES
from .statuses import STATUSES

SLUG = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")
# How many runs a project's card shows as coloured bars.
RECENT_RUNS = 16

# What only members with a role may write, so not before there is an owner.
MANAGED = ("membership_ids", "workflow_ids", "secret_ids")


class OpsProject(models.Model):
    _name = "ops.project"
    _description = "Project"
    _order = "name, id"

    name = fields.Char(required=True)
    slug = fields.Char(
        required=True,
        copy=False,
        help="Short name for scripts and addresses: lower-case words joined by dashes.",
    )
    workspace_key = fields.Char(
        compute="_compute_workspace_key",
        precompute=True,
        store=True,
        readonly=False,
        required=True,
        copy=False,
        help="Key of the workspace in other systems: lower-case letters, digits, underscores.",
    )
    odoo_version = fields.Char(required=True, default="19.0")
    active = fields.Boolean(default=True)
    repository_url = fields.Char(
        "Repository URL", help="URL or path from which workers fetch the code."
    )
    default_branch = fields.Char(required=True, default="main")
    description = fields.Text()
    config = fields.Json()
    repository_config = fields.Selection(
        [
            ("no", "Not read"),
            ("build_test", "For builds and tests"),
            ("all", "For all workflows"),
        ],
        string="File .odooops.yml",
        default="no",
        required=True,
        help="Whether this file in the repository may change the configuration of a run. Whoever"
        " may push decides then what the steps do; those of deploy, backup and upgrade may have"
        " protected secrets.",
    )
    max_running = fields.Integer(
        default=2, required=True, help="So many runs of the project may be active at a time."
    )
    paused = fields.Boolean(help="Runs wait in the queue until the project goes on.")
    log_retention_days = fields.Integer(
        "Keep Log Lines",
        default=90,
        required=True,
        help="Days after a run's end; 0 keeps them for ever. The complete log stays as an artifact."
        " Lines of a run that has no such artifact stay as long as the run.",
    )
    event_retention_days = fields.Integer(
        "Keep Events",
        default=0,
        required=True,
        help="Days after a run's end; 0 keeps them for ever. Events of a month go together: when"
        " the time of all projects has passed and checkpoints hold them.",
    )
    run_retention_days = fields.Integer(
        "Keep Runs",
        default=0,
        required=True,
        help="Days after their end; 0 keeps them for ever. A run goes after its events, and not"
        " while it has stored artifacts or a kept run restarted it.",
    )
    membership_ids = fields.One2many("ops.project.membership", "project_id")
    workflow_ids = fields.One2many("ops.workflow", "project_id")
    my_role = fields.Selection(ROLES, compute="_compute_my_role")
    can_manage = fields.Boolean(compute="_compute_can")
    can_archive = fields.Boolean(compute="_compute_can")
    can_audit = fields.Boolean(compute="_compute_can")
    workflow_count = fields.Integer(compute="_compute_counts")
    run_count = fields.Integer(compute="_compute_counts")
    active_run_count = fields.Integer(compute="_compute_counts")
    failed_run_count = fields.Integer(compute="_compute_counts")
    last_run_id = fields.Many2one("ops.run", compute="_compute_last_run")
    last_run_status = fields.Selection(STATUSES, compute="_compute_last_run")
    recent_runs = fields.Json(compute="_compute_last_run", help="The last runs, oldest first.")
    color = fields.Integer()

    _slug_uniq = models.Constraint("UNIQUE (slug)", "Another project has this slug.")
    _slug_format = models.Constraint(
        f"CHECK (slug ~ '{SLUG.pattern}')",
        "A slug consists of lower-case letters and digits, in words joined by single dashes.",
    )
    _workspace_key_uniq = models.Constraint(
        "UNIQUE (workspace_key)", "Another project has this workspace key."
    )
    _workspace_key_format = models.Constraint(
        "CHECK (workspace_key ~ '^[a-z][a-z0-9_]*$')",
        "A workspace key begins with a letter and holds lower-case letters, digits, underscores.",
    )
    _odoo_version_format = models.Constraint(
        r"CHECK (odoo_version ~ '^\d+\.\d+$')", "An Odoo version reads like 19.0."
    )
    _max_running_positive = models.Constraint(
        "CHECK (max_running BETWEEN 1 AND 1000)", "Between 1 and 1000 runs may be active at a time."
    )

    _retention_days = models.Constraint(
        "CHECK (least(log_retention_days, event_retention_days, run_retention_days) >= 0"
        " AND greatest(log_retention_days, event_retention_days, run_retention_days) <= 36500)",
        "Days of retention lie between 1 and 36500; 0 keeps for ever.",
    )
    # What explains a thing stays as long as the thing: log lines may go first, runs last.
    _retention_order = models.Constraint(
        "CHECK ((run_retention_days = 0 OR"
        " event_retention_days BETWEEN 1 AND run_retention_days)"
        " AND (event_retention_days = 0 OR"
        " log_retention_days BETWEEN 1 AND event_retention_days))",
        "Log lines cannot be kept longer than events, nor events longer than runs; 0 means for"
        " ever.",
    )

    @api.depends("slug")
    def _compute_workspace_key(self):
        for project in self:
            if project.workspace_key or not project.slug:
                continue
            key = project.slug.replace("-", "_")
            project.workspace_key = (key if key[0].isalpha() else f"p_{key}") + "_workspace"

    @api.depends_context("uid")
    @api.depends("membership_ids.user_id", "membership_ids.role")
    def _compute_my_role(self):
        memberships = (
            self.env["ops.project.membership"]
            .sudo()
            .search([("project_id", "in", self.ids), ("user_id", "=", self.env.uid)])
        )
        role_by_project = {m.project_id.id: m.role for m in memberships}
        for project in self:
            project.my_role = role_by_project.get(project.id, False)

    @api.depends_context("uid")
    @api.depends("my_role")
    def _compute_can(self):
        for project in self:
            project.can_manage = project._may("manage_project")
            project.can_archive = project._may("archive_project")
            project.can_audit = project._may("audit_project")

    def _compute_counts(self):
        counts = {}
        for project, status, count in self.env["ops.run"]._read_group(
            [("project_id", "in", self.ids)], ["project_id", "status"], ["__count"]
        ):
            counts[project.id, status] = count
        workflows = dict(
            self.env["ops.workflow"]._read_group(
                [("project_id", "in", self.ids)], ["project_id"], ["__count"]
            )
        )
        for project in self:
            by_status = {status: n for (pid, status), n in counts.items() if pid == project.id}
            project.workflow_count = workflows.get(project, 0)
            project.run_count = sum(by_status.values())
            project.active_run_count = sum(
                by_status.get(status, 0) for status in ("queued", "claimed", "running")
            )
            project.failed_run_count = by_status.get("failed", 0)

    def _compute_last_run(self):
        for project in self:
            runs = self.env["ops.run"].search(
                [("project_id", "in", project.ids)], order="run_number desc", limit=RECENT_RUNS
            )
            project.last_run_id = runs[:1]
            project.last_run_status = runs[:1].status
            project.recent_runs = [
                {"id": run.id, "name": run.display_name, "status": run.status}
                for run in reversed(runs)
            ]

    @api.onchange("name")
    def _onchange_name(self):
        """Propose a slug, so that a name and an address are enough to begin."""
        if self.name and not self.slug:
            plain = unicodedata.normalize("NFKD", self.name).encode("ascii", "ignore").decode()
            self.slug = "-".join(re.findall(r"[a-z0-9]+", plain.lower()))

    @api.constrains("repository_url", "default_branch")
    def _check_repository(self):
        for project in self:
            if project.repository_url:
                try:
                    checked_url(project.repository_url)
                except RunError as error:
                    raise ValidationError(str(error)) from error
            if project.default_branch.startswith("-"):
                raise ValidationError(self.env._("A branch's name must not begin with a dash."))

    @api.model_create_multi
    def create(self, vals_list):
        """Whoever creates a project owns it.

        Members and workflows given with it are added afterwards: by then the creator is its
        owner and may do so.
        """
        later = [{name: vals[name] for name in MANAGED if name in vals} for vals in vals_list]
        projects = super().create(
            [{k: v for k, v in vals.items() if k not in MANAGED} for vals in vals_list]
        )
        self.env["ops.project.membership"].sudo().create(
            [{"project_id": p.id, "user_id": self.env.uid, "role": "owner"} for p in projects]
        )
        for project, vals in zip(projects, later, strict=True):
            if vals:
                project.write(vals)
        return projects

    def write(self, vals):
        # Owners alone decide what ends a project's history.
        if not {"active", "event_retention_days", "run_retention_days"}.isdisjoint(vals):
            self._check_may("archive_project")
        return super().write(vals)

    def copy_data(self, default=None):
        vals_list = super().copy_data(default)
        for project, vals in zip(self, vals_list, strict=True):
            vals.setdefault("slug", f"{project.slug}-copy")
            if "name" not in (default or {}):
                vals["name"] = self.env._("%s (copy)", project.name)
        return vals_list

    def _may(self, operation):
        """Whether the current user's role allows ``operation`` of the matrix in each project."""
        if self.env.su or self.env.user.has_group("odooops.group_platform_admin"):
            return True
        return all(project.my_role in MATRIX[operation] for project in self)

    def _check_may(self, operation):
        """Raise AccessError unless :meth:`_may`."""
        if not self._may(operation):
            raise AccessError(
                self.env._("Your role in this project does not allow that. Ask one of its owners.")
            )

    def action_open_runs(self):
        self.ensure_one()
        action = self.env["ir.actions.act_window"]._for_xml_id("odooops.ops_run_action")
        return {
            **action,
            "domain": [("project_id", "=", self.id)],
            "context": {"default_project_id": self.id},
            "display_name": self.name,
        }

    def action_open_workflows(self):
        self.ensure_one()
        action = self.env["ir.actions.act_window"]._for_xml_id("odooops.ops_workflow_action")
        return {
            **action,
            "domain": [("project_id", "=", self.id)],
            "context": {"default_project_id": self.id},
            "display_name": self.name,
        }

    def action_verify_trail(self):
        """Compute all event chains of the project again, and compare them with the checkpoints."""
        self.ensure_one()
        self.check_access("read")
        self._check_may("audit_project")
        return self.env["ops.audit.checkpoint"]._verify_and_tell(self)

    def action_export_trail(self):
        """Download the event trail, for ``scripts/odooops/verify_audit.py``."""
        self.ensure_one()
        self.check_access("read")
        self._check_may("audit_project")
        url = f"/ops/audit/export?project={self.slug}"
        return {"type": "ir.actions.act_url", "url": url, "target": "download"}

    def action_pause(self):
        self._check_may("manage_project")
        self.paused = True

    def action_resume(self):
        self._check_may("manage_project")
        self.paused = False
