"""Settings of the control plane."""

from odoo import api, fields, models
from odoo.exceptions import UserError

from . import audit_key


class ResConfigSettings(models.TransientModel):
    _inherit = "res.config.settings"

    odooops_execute_on_this_server = fields.Boolean(
        "Execute runs on this server",
        config_parameter="odooops.execute_on_this_server",
        help="When no worker is alive, a scheduled action starts one here. Runs are then local"
        " processes without isolation: only for repositories you trust.",
    )
    odooops_artifact_root = fields.Char(
        "Artifact folder",
        config_parameter="odooops.artifact_root",
        help="Folder of the filesystem store. Empty: a folder of Odoo's data directory.",
    )
    odooops_schema = fields.Char("Schema", compute="_compute_odooops_schema")

    odooops_audit_key_id = fields.Char("Fingerprint", compute="_compute_odooops_audit_key")
    odooops_audit_public_key = fields.Text("Public key", compute="_compute_odooops_audit_key")

    @api.depends_context("uid")
    def _compute_odooops_audit_key(self):
        """The key that signs the next checkpoint; a broken one must not close the settings."""
        try:
            key = audit_key.load(self.env.cr.dbname)
            key_id, public_key = key.key_id, key.public_pem
        except UserError as error:
            key_id, public_key = False, str(error)
        for settings in self:
            settings.odooops_audit_key_id = key_id
            settings.odooops_audit_public_key = public_key

    @api.depends_context("uid")
    def _compute_odooops_schema(self):
        schema = self.env["ops.kernel"]._get_schema()
        for settings in self:
            settings.odooops_schema = schema
