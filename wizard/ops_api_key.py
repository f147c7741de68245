"""A wizard that makes an API key for scripts, CI and workers, and shows it once.

Odoo's own preferences make only keys without a scope, which open everything their user may
do. A key of ours opens the JSON-RPC door and nothing else.
"""

from datetime import timedelta

from odoo import api, fields, models
from odoo.exceptions import ValidationError

SCOPE = "odooops"


class OpsApiKey(models.TransientModel):
    _name = "ops.api.key"
    _description = "New API key"

    name = fields.Char("Description", required=True, help="What will use it.")
    days = fields.Integer("Valid for (days)", required=True, default=30)
    key = fields.Char(readonly=True, copy=False)

    @api.constrains("days")
    def _check_days(self):
        for wizard in self:
            if wizard.days < 1:
                raise ValidationError(self.env._("A key is valid for at least one day."))

    def action_generate(self):
        """Make the key; the answer shows it, nothing can show it again."""
        self.ensure_one()
        expiration = fields.Datetime.now() + timedelta(days=self.days)
        key = self.env["res.users.apikeys"]._generate(SCOPE, self.name, expiration)
        return {
            "type": "ir.actions.act_window",
            "res_model": self._name,
            "views": [(False, "form")],
            "target": "new",
            "name": self.env._("Your new API key"),
            # In the context, not in the table: the key is stored nowhere as plain text.
            "context": {"default_name": self.name, "default_days": self.days, "default_key": key},
        }
