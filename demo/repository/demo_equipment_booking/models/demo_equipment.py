"""Equipment knows its bookings."""

from odoo import fields, models


class DemoEquipment(models.Model):
    """Adds the bookings to a piece of equipment."""

    _inherit = "demo.equipment"

    booking_ids = fields.One2many("demo.equipment.booking", "equipment_id", string="Bookings")
