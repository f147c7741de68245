"""Categories of equipment."""

from odoo import api, fields, models


class DemoEquipmentCategory(models.Model):
    """A kind of equipment, such as measuring devices."""

    _name = "demo.equipment.category"
    _description = "Equipment category"
    _order = "name"

    name = fields.Char(required=True, translate=True)
    equipment_ids = fields.One2many("demo.equipment", "category_id")
    equipment_count = fields.Integer(compute="_compute_equipment_count")

    @api.depends("equipment_ids")
    def _compute_equipment_count(self):
        for category in self:
            category.equipment_count = len(category.equipment_ids)
