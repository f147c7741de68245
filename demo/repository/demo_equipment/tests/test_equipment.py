"""The life cycle of equipment."""

from psycopg2 import IntegrityError

from odoo.exceptions import UserError
from odoo.tests import TransactionCase
from odoo.tools import mute_logger


class TestEquipment(TransactionCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.category = cls.env["demo.equipment.category"].create({"name": "Measuring devices"})
        cls.equipment = cls.env["demo.equipment"].create(
            {"name": "Oscilloscope", "code": "M-001", "category_id": cls.category.id}
        )

    def test_new_equipment_is_available(self):
        self.assertEqual(self.equipment.state, "available")
        self.assertEqual(self.category.equipment_count, 1)

    def test_maintenance_and_back(self):
        self.equipment.action_start_maintenance()
        self.assertEqual(self.equipment.state, "maintenance")
        self.equipment.action_end_maintenance()
        self.assertEqual(self.equipment.state, "available")

    def test_retired_equipment_cannot_go_into_maintenance(self):
        self.equipment.action_retire()
        with self.assertRaisesRegex(UserError, "Oscilloscope is not available"):
            self.equipment.action_start_maintenance()

    @mute_logger("odoo.sql_db")
    def test_code_is_unique(self):
        with self.assertRaises(IntegrityError), self.env.cr.savepoint():
            self.equipment.create({"name": "Multimeter", "code": "M-001"})
