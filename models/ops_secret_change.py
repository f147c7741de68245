"""What happened to the secrets of a project, by whom and when. Append-only, written by the kernel.

It names the secret and never tells anything about its value. A project that ever had a secret
can be archived, not deleted.
"""

from odoo import fields, models

ACTIONS = [
    ("set", "Set"),
    ("replaced", "Replaced"),
    ("removed", "Removed"),
    ("protected", "Protected"),
    ("unprotected", "Unprotected"),
    ("resealed", "Sealed with a new key"),
]


class OpsSecretChange(models.Model):
    _name = "ops.secret.change"
    _description = "Change of a secret"
    _order = "id desc"
    _log_access = False

    project_id = fields.Many2one(
        "ops.project", required=True, readonly=True, ondelete="restrict", index=True
    )
    name = fields.Char("Secret", required=True, readonly=True)
    environment = fields.Char(readonly=True)
    action = fields.Selection(ACTIONS, required=True, readonly=True)
    user_id = fields.Many2one("res.users", "By", readonly=True, ondelete="restrict")
    changed_at = fields.Datetime("When", required=True, readonly=True)
