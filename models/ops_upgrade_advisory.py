"""Upgrade advisories: what to know before a project moves to another Odoo version."""

from odoo import api, fields, models

SEVERITIES = [("low", "Low"), ("medium", "Medium"), ("high", "High"), ("critical", "Critical")]


class OpsUpgradeAdvisory(models.Model):
    _name = "ops.upgrade.advisory"
    _description = "Upgrade advisory"
    _order = "from_version desc, id desc"
    _rec_name = "title"

    title = fields.Char(required=True)
    from_version = fields.Char(required=True, default="19.0")
    to_version = fields.Char(required=True)
    severity = fields.Selection(SEVERITIES, required=True, default="medium")
    description = fields.Text()
    migration_guide = fields.Text()
    affects_modules = fields.Char(help="Technical names, separated by commas; empty for all.")
    project_ids = fields.Many2many(
        "ops.project",
        string="Concerned Projects",
        compute="_compute_project_ids",
        search="_search_project_ids",
    )
    acknowledgement_ids = fields.One2many("ops.upgrade.acknowledgement", "advisory_id")
    open_project_count = fields.Integer(
        "Not Acknowledged", compute="_compute_project_ids", help="Concerned projects to look at it."
    )

    _version_format = models.Constraint(
        r"CHECK (from_version ~ '^\d+\.\d+$' AND to_version ~ '^\d+\.\d+$')",
        "An Odoo version reads like 19.0.",
    )

    @api.depends("from_version", "acknowledgement_ids.project_id")
    def _compute_project_ids(self):
        """Projects the user sees that run the version the advisory starts from."""
        for advisory in self:
            advisory.project_ids = self.env["ops.project"].search(
                [("odoo_version", "=", advisory.from_version)]
            )
            advisory.open_project_count = len(
                advisory.project_ids - advisory.acknowledgement_ids.project_id
            )

    @api.model
    def _search_project_ids(self, operator, value):
        if operator != "in":
            return NotImplemented
        versions = self.env["ops.project"].browse(value).mapped("odoo_version")
        return [("from_version", "in", versions)]

    def action_acknowledge(self):
        """Note for each project the user manages that somebody has read this."""
        for advisory in self:
            for project in advisory.project_ids - advisory.acknowledgement_ids.project_id:
                if project._may("manage_project"):
                    self.env["ops.upgrade.acknowledgement"].create(
                        {"advisory_id": advisory.id, "project_id": project.id}
                    )


class OpsUpgradeAcknowledgement(models.Model):
    _name = "ops.upgrade.acknowledgement"
    _description = "Acknowledgement of an upgrade advisory"
    _order = "acknowledged_at desc, id desc"

    advisory_id = fields.Many2one(
        "ops.upgrade.advisory", required=True, ondelete="cascade", index=True
    )
    project_id = fields.Many2one("ops.project", required=True, ondelete="cascade", index=True)
    acknowledged_by = fields.Many2one(
        "res.users", required=True, readonly=True, default=lambda self: self.env.user
    )
    acknowledged_at = fields.Datetime(required=True, readonly=True, default=fields.Datetime.now)

    _advisory_project_uniq = models.Constraint(
        "UNIQUE (advisory_id, project_id)", "The project has acknowledged this advisory already."
    )

    @api.model_create_multi
    def create(self, vals_list):
        acknowledgements = super().create(vals_list)
        acknowledgements.project_id._check_may("manage_project")
        return acknowledgements
