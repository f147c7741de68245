"""What the addon must undo itself when it is uninstalled.

Odoo drops the tables of the models and the records that came with the addon. The kernel's own
schema and tables are unknown to the ORM and go here, while the tables of the models still exist; so
do records that people made in Odoo's own models. What stays on purpose: docs/operate.md.
"""

from .wizard.ops_api_key import SCOPE

PARAMETERS = "odooops."


def uninstall_hook(env):
    """Remove the records about this addon in Odoo's models, the kernel, and, when this was the last
    database of the server that had one, the database roles."""
    models = [name for name, cls in env.registry.items() if cls._original_module == "odooops"]
    attachments = env["ir.attachment"].sudo()
    # Both kinds: a search without the field finds only those that are no field's value.
    attachments.search(
        [("res_model", "in", models), "|", ("res_field", "=", False), ("res_field", "!=", False)]
    ).unlink()
    env["ir.filters"].with_context(active_test=False).search([("model_id", "in", models)]).unlink()
    env["ir.exports"].search([("resource", "in", models)]).unlink()
    env["res.users.apikeys"].sudo().search([("scope", "=", SCOPE)]).unlink()
    env["ir.config_parameter"].sudo().search([("key", "=like", f"{PARAMETERS}%")]).unlink()
    env["ops.kernel"]._remove()
    env["ops.sql.role"]._drop_unused()
