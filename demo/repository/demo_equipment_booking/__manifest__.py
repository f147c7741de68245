{
    "name": "Equipment Booking",
    "summary": "Book equipment by the hour, without double bookings",
    "version": "19.0.1.0.0",
    "category": "Inventory",
    "license": "LGPL-3",
    "author": "OdooOps Demo",
    "website": "https://example.com/equipment",
    "depends": ["demo_equipment"],
    "data": [
        "security/ir.model.access.csv",
        "views/demo_equipment_booking_views.xml",
    ],
}
