"""Bookings: who has which piece of equipment, and when."""

from odoo import api, fields, models
from odoo.exceptions import UserError, ValidationError


class DemoEquipmentBooking(models.Model):
    """One booking of one piece of equipment for a span of time."""

    _name = "demo.equipment.booking"
    _description = "Equipment booking"
    _order = "start desc, id desc"

    name = fields.Char(string="Purpose", required=True)
    equipment_id = fields.Many2one(
        "demo.equipment", required=True, index=True, ondelete="restrict"
    )
    user_id = fields.Many2one(
        "res.users", string="Booked by", required=True, default=lambda self: self.env.user
    )
    start = fields.Datetime(required=True)
    stop = fields.Datetime(required=True)
    hours = fields.Float(compute="_compute_hours", store=True)
    state = fields.Selection(
        [("draft", "Draft"), ("confirmed", "Confirmed"), ("canceled", "Canceled")],
        default="draft",
        required=True,
        copy=False,
    )

    _stop_after_start = models.Constraint("CHECK (stop > start)", "A booking ends after its start.")

    @api.constrains("equipment_id", "start", "stop", "state")
    def _check_overlap(self):
        for booking in self.filtered(lambda b: b.state == "confirmed"):
            other = self.search(booking._overlap_domain(), limit=1)
            if other:
                raise ValidationError(
                    self.env._(
                        "%(equipment)s is already booked for “%(purpose)s” at that time.",
                        equipment=booking.equipment_id.name,
                        purpose=other.name,
                    )
                )

    @api.depends("start", "stop")
    def _compute_hours(self):
        for booking in self:
            seconds = 0
            if booking.start and booking.stop:
                seconds = (booking.stop - booking.start).total_seconds()
            booking.hours = seconds / 3600

    def action_confirm(self):
        """Confirm the bookings, which blocks the equipment for their time.

        :raises UserError: for equipment that is not available
        :raises ValidationError: when another confirmed booking overlaps
        """
        for booking in self:
            if booking.equipment_id.state != "available":
                raise UserError(
                    self.env._("%s is not available for booking.", booking.equipment_id.name)
                )
        self.state = "confirmed"

    def action_cancel(self):
        """Cancel the bookings, which frees the equipment."""
        self.state = "canceled"

    def _overlap_domain(self):
        """Return the domain of the confirmed bookings that overlap this one."""
        self.ensure_one()
        return [
            ("id", "!=", self.id),
            ("equipment_id", "=", self.equipment_id.id),
            ("state", "=", "confirmed"),
            ("start", "<", self.stop),
            ("stop", ">", self.start),
        ]
