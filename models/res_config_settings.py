"""Settings of the control plane."""

from odoo import api, fields, models
from odoo.exceptions import UserError

from ..worker.storage.base import StorageError
from . import artifact_store, audit_key
from .sql_roles import SQL_ROLES


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
    odooops_s3_bucket = fields.Char("Bucket", config_parameter="odooops.s3_bucket")
    odooops_s3_prefix = fields.Char("Prefix", config_parameter="odooops.s3_prefix")
    odooops_s3_endpoint = fields.Char("Endpoint", config_parameter="odooops.s3_endpoint")
    odooops_s3_region = fields.Char("Region", config_parameter="odooops.s3_region")
    odooops_s3_path_style = fields.Boolean(
        "Path style",
        config_parameter="odooops.s3_path_style",
        help="endpoint/bucket/key in place of bucket.endpoint/key, as many servers want it.",
    )
    odooops_s3_ca_bundle = fields.Char(
        "CA bundle",
        config_parameter="odooops.s3_ca_bundle",
        help="File on this server with the certificates to trust.",
    )
    odooops_schema = fields.Char("Schema", compute="_compute_odooops_schema")
    odooops_sql_roles = fields.Text("SQL Roles", compute="_compute_odooops_sql_roles")
    odooops_sql_statements = fields.Text("SQL Statements", compute="_compute_odooops_sql_roles")

    odooops_close_statement = fields.Text(
        "Statement that closes the database", compute="_compute_odooops_close_statement"
    )

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

    @api.depends_context("uid")
    def _compute_odooops_sql_roles(self):
        roles = self.env["ops.sql.role"]
        states = roles._states()
        labels = {
            "ready": self.env._("ready"),
            "missing": self.env._("missing"),
            "foreign": self.env._("not made by OdooOps"),
            "unsafe": self.env._("unsafe: it may create objects in the schema public"),
            "not_granted": self.env._("without its rights in this database"),
        }
        for settings in self:
            settings.odooops_sql_roles = "\n".join(
                f"{role.name}: {labels[states[role.name]]} ({role.purpose})" for role in SQL_ROLES
            )
            settings.odooops_sql_statements = roles._statements(states)

    @api.depends_context("uid")
    def _compute_odooops_close_statement(self):
        roles = self.env["ops.sql.role"]
        statement = roles._close_statement() if roles._is_open_to_public() else False
        for settings in self:
            settings.odooops_close_statement = statement

    def action_odooops_test_store(self):
        """Store, read and remove a few bytes with the settings on the screen."""
        self.check_access("write")
        parameters = {name: self[f"odooops_s3_{name}"] or "" for name in artifact_store.PARAMETERS}
        parameters["path_style"] = bool(parameters["path_style"])
        try:
            artifact_store.open_bucket(parameters).check()
        except StorageError as error:
            raise UserError(str(error)) from error
        message = self.env._("Stored, read and removed a file in bucket %s.", parameters["bucket"])
        return {
            "type": "ir.actions.client",
            "tag": "display_notification",
            "params": {"type": "success", "message": message},
        }

    def action_odooops_apply_sql_roles(self):
        """Make and grant the roles of the SQL door again."""
        self.check_access("write")
        self.env["ops.sql.role"]._apply()
        return {"type": "ir.actions.client", "tag": "reload"}
