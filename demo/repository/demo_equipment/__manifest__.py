{
    "name": "Equipment Register",
    "summary": "Keep track of equipment and its life cycle",
    "version": "19.0.1.0.0",
    "category": "Inventory",
    "license": "LGPL-3",
    "author": "OdooOps Demo",
    "website": "https://example.com/equipment",
    "depends": ["base", "web"],
    "data": [
        "security/ir.model.access.csv",
        "views/demo_equipment_views.xml",
        "views/demo_equipment_menus.xml",
    ],
    "application": True,
}
