"""Records of retention in the trail: whose events are gone on purpose, since when, by whom.

Written by the kernel (``sql/86_expiry.sql``), append-only, each chained to the last; the next
checkpoint signs the last of them, and only then the events go. See ``docs/retention.md``.
"""

from odoo import api, fields, models


class OpsAuditExpiry(models.Model):
    _name = "ops.audit.expiry"
    _description = "Expiry of events"
    _order = "number desc"
    _rec_name = "number"
    _log_access = False

    number = fields.Integer(required=True, readonly=True, aggregator=None)
    timestamp = fields.Datetime(required=True, readonly=True)
    prev_hash = fields.Char("Previous Hash", readonly=True)
    range_from = fields.Datetime("Queued From", required=True, readonly=True)
    range_to = fields.Datetime("Queued Before", required=True, readonly=True)
    checkpoint_number = fields.Integer(
        "Held by Checkpoint",
        readonly=True,
        required=True,
        aggregator=None,
        help="The last checkpoint at that time; this one or those before hold all the events.",
    )
    run_count = fields.Integer("Runs", readonly=True, required=True)
    event_count = fields.Integer("Events", readonly=True, required=True)
    projects = fields.Json(
        "Roots", readonly=True, required=True, help="Each project's id, and the root over its runs."
    )
    project_names = fields.Char("Projects", compute="_compute_project_names")
    root = fields.Char(readonly=True, required=True, help="Hash over the roots of the projects.")
    user_id = fields.Many2one("res.users", "By", readonly=True, ondelete="restrict")
    hash = fields.Char(readonly=True, required=True)

    _number_uniq = models.Constraint("UNIQUE (number)", "This number is taken.")

    @api.depends("projects")
    def _compute_project_names(self):
        for expiry in self:
            ids = [project_id for project_id, _root in expiry.projects]
            projects = self.env["ops.project"].with_context(active_test=False)
            slugs = {p.id: p.slug for p in projects.search([("id", "in", ids)])}
            expiry.project_names = ", ".join(slugs.get(each, f"{each}") for each in ids)

    @api.depends("number")
    def _compute_display_name(self):
        for expiry in self:
            expiry.display_name = self.env._("Expiry %s", expiry.number)
