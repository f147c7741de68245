"""Files a run left behind: where their bytes are, and the checksum that proves them."""

from pathlib import Path

from odoo import api, fields, models
from odoo.exceptions import AccessError, MissingError
from odoo.tools import config, human_size

from .fields import BigInteger
from .roles import SENSITIVE_TYPES


class OpsRunArtifact(models.Model):
    _name = "ops.run.artifact"
    _description = "Run artifact"
    _order = "run_id.id desc, artifact_key"
    _rec_name = "artifact_key"

    run_id = fields.Many2one("ops.run", required=True, readonly=True, ondelete="restrict")
    artifact_key = fields.Char("Name", required=True, readonly=True)
    artifact_url = fields.Char("Place", required=True, readonly=True)
    checksum = fields.Char("SHA-256", required=True, readonly=True)
    content_type = fields.Char(readonly=True)
    size_bytes = BigInteger(readonly=True)
    size_text = fields.Char("Size", compute="_compute_size_text")
    expires_at = fields.Datetime(readonly=True)
    store = fields.Selection(
        [("filesystem", "Filesystem"), ("s3", "S3")], required=True, readonly=True
    )
    status = fields.Selection(
        [("stored", "Stored"), ("expired", "Expired"), ("missing", "Missing")],
        required=True,
        readonly=True,
    )
    metadata = fields.Json(readonly=True)

    _run_key_uniq = models.Constraint(
        "UNIQUE (run_id, artifact_key)", "The run has an artifact of this name already."
    )

    @api.depends("size_bytes")
    def _compute_size_text(self):
        for artifact in self:
            artifact.size_text = human_size(artifact.size_bytes)

    def _check_may_download(self):
        """Raise AccessError unless the current user may have the bytes."""
        self.ensure_one()
        self.check_access("read")
        sensitive = self.run_id.workflow_type in SENSITIVE_TYPES
        self.run_id.project_id._check_may(
            "download_sensitive_artifact" if sensitive else "download_artifact"
        )

    @api.model
    def _filesystem_root(self):
        """Folder of the filesystem store; workers of this host write there."""
        root = self.env["ir.config_parameter"].sudo().get_param("odooops.artifact_root")
        if root:
            return Path(root)
        return Path(config["data_dir"]) / "odooops" / self.env.cr.dbname / "artifacts"

    def _filesystem_path(self):
        """Path of the bytes.

        :raise MissingError: when the file is not there
        :raise AccessError: when the recorded place leads out of the store
        """
        self.ensure_one()
        root = self._filesystem_root().resolve()
        path = (root / self.artifact_url.removeprefix("filesystem:")).resolve()
        if not path.is_relative_to(root):
            raise AccessError(self.env._("The artifact's place lies outside the store."))
        if not path.is_file():
            raise MissingError(
                self.env._("%s is not in the artifact store any more.", self.artifact_key)
            )
        return path

    def action_download(self):
        self._check_may_download()
        return {"type": "ir.actions.act_url", "url": f"/ops/artifacts/{self.id}", "target": "self"}
