{
    "name": "OdooOps",
    "summary": "Control plane for self-hosted Odoo: workflows, runs, logs, artifacts and proof",
    "version": "19.0.1.0.0",
    "category": "Productivity/OdooOps",
    "author": "OdooOps contributors",
    "license": "LGPL-3",
    "depends": ["base", "web", "bus"],
    "external_dependencies": {"python": ["jsonschema"]},
    "data": [
        "security/odooops_groups.xml",
        "security/ir.model.access.csv",
        "security/odooops_rules.xml",
        "data/kernel.xml",
        "data/ir_cron.xml",
    ],
    "assets": {
        "web.assets_backend": ["odooops/static/src/**/*"],
        "web.assets_tests": ["odooops/static/tests/tours/**/*"],
    },
    "uninstall_hook": "uninstall_hook",
    "application": True,
}
