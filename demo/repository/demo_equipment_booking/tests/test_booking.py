"""What a booking promises."""

from odoo.exceptions import UserError, ValidationError
from odoo.tests import TransactionCase


class TestBooking(TransactionCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.equipment = cls.env["demo.equipment"].create({"name": "Laser cutter", "code": "L-001"})

    def _book(self, start, stop, purpose="Prototype"):
        """Return a draft booking on 2 March 2026 from ``start`` to ``stop`` ("HH:MM")."""
        return self.env["demo.equipment.booking"].create(
            {
                "name": purpose,
                "equipment_id": self.equipment.id,
                "start": f"2026-03-02 {start}:00",
                "stop": f"2026-03-02 {stop}:00",
            }
        )

    def test_hours_of_a_booking(self):
        self.assertEqual(self._book("09:00", "10:30").hours, 1.5)

    def test_overlap_is_refused(self):
        self._book("09:00", "11:00", purpose="Signs").action_confirm()
        with self.assertRaisesRegex(ValidationError, "already booked for “Signs”"):
            self._book("10:00", "12:00").action_confirm()

    def test_a_booking_may_start_when_another_ends(self):
        self._book("09:00", "11:00").action_confirm()
        following = self._book("11:00", "12:00")
        following.action_confirm()
        self.assertEqual(following.state, "confirmed")

    def test_canceled_booking_frees_the_equipment(self):
        canceled = self._book("09:00", "11:00")
        canceled.action_confirm()
        canceled.action_cancel()
        following = self._book("10:00", "12:00")
        following.action_confirm()
        self.assertEqual(following.state, "confirmed")

    def test_equipment_in_maintenance_cannot_be_booked(self):
        self.equipment.action_start_maintenance()
        with self.assertRaisesRegex(UserError, "Laser cutter is not available"):
            self._book("09:00", "11:00").action_confirm()
