from . import demo_equipment_category
from . import demo_equipment
