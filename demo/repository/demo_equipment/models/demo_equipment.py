"""Pieces of equipment and their life cycle."""

from odoo import fields, models
from odoo.exceptions import UserError


class DemoEquipment(models.Model):
    """One piece of equipment; its code is what stands on the label."""

    _name = "demo.equipment"
    _description = "Equipment"
    _order = "code"
    _rec_names_search = ["name", "code"]

    name = fields.Char(required=True)
    code = fields.Char(required=True, copy=False, help="The code on the label.")
    category_id = fields.Many2one("demo.equipment.category", index=True)
    state = fields.Selection(
        [
            ("available", "Available"),
            ("maintenance", "In maintenance"),
            ("retired", "Retired"),
        ],
        default="available",
        required=True,
        copy=False,
    )
    location = fields.Char()
    acquired_on = fields.Date()
    note = fields.Text()

    _code_uniq = models.Constraint("UNIQUE (code)", "Another piece of equipment has this code.")

    def action_start_maintenance(self):
        """Take available equipment out of use for maintenance.

        :raises UserError: for equipment that is not available
        """
        for equipment in self:
            if equipment.state != "available":
                raise UserError(
                    self.env._(
                        "%s is not available, so it cannot go into maintenance.", equipment.name
                    )
                )
        self.state = "maintenance"

    def action_end_maintenance(self):
        """Make equipment in maintenance available again."""
        self.filtered(lambda equipment: equipment.state == "maintenance").state = "available"

    def action_retire(self):
        """Retire equipment for good; there is no way back."""
        self.state = "retired"
