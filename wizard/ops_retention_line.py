"""The dry run of retention as a list: what would go now, what stays, and why."""

from odoo import api, fields, models
from odoo.exceptions import AccessError
from odoo.tools import human_size

from ..models.fields import BigInteger


class OpsRetentionLine(models.TransientModel):
    _name = "ops.retention.line"
    _description = "Line of the retention plan"
    _order = "id"

    what = fields.Selection(
        [
            ("logs_partition", "Log lines of a week"),
            ("log_lines", "Log lines of a project"),
            ("events_partition", "Events of a month"),
            ("runs", "Runs of a project"),
        ],
        readonly=True,
    )
    name = fields.Char("Partition or Project", readonly=True)
    project_id = fields.Many2one("ops.project", readonly=True)
    row_count = BigInteger("Rows", readonly=True)
    size_bytes = BigInteger("Bytes", readonly=True)
    size_text = fields.Char("Size", compute="_compute_size_text")
    action = fields.Selection(
        [("drop", "Drop"), ("delete", "Delete"), ("keep", "Keep")], readonly=True
    )
    reason = fields.Char(readonly=True)

    @api.depends("size_bytes")
    def _compute_size_text(self):
        for line in self:
            line.size_text = human_size(line.size_bytes) if line.size_bytes else False

    @api.model
    def action_plan(self):
        """Judge now, and show it."""
        if not (self.env.su or self.env.user.has_group("odooops.group_platform_admin")):
            raise AccessError(self.env._("Only platform administrators may do that."))
        lines = self.sudo().create(self.env["ops.retention"]._plan())
        action = self.env["ir.actions.act_window"]._for_xml_id(
            "odooops.ops_retention_line_action_list"
        )
        return {**action, "domain": [("id", "in", lines.ids)]}
