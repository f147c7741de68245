from . import demo_equipment_booking
from . import demo_equipment
