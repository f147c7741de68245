"""Files a run left behind: where their bytes are, and the checksum that proves them."""

import logging
import re

from odoo import api, fields, models
from odoo.exceptions import UserError
from odoo.tools import human_size

from ..worker.storage.base import INLINE_TYPES, ObjectMissing, StorageError
from . import artifact_store
from .fields import BigInteger
from .roles import SENSITIVE_TYPES

_logger = logging.getLogger(__name__)

CONTENT_TYPE = re.compile(r"^[\w.+-]+/[\w.+-]+(; *[\w-]+=[\w.+-]+)*$", re.ASCII)
# How long a presigned address lives: time enough to begin a download, none to pass it on.
PRESIGNED_SECONDS = 60


class OpsRunArtifact(models.Model):
    _name = "ops.run.artifact"
    _description = "Run artifact"
    _order = "run_id.id desc, artifact_key"
    _rec_name = "artifact_key"

    run_id = fields.Many2one(
        "ops.run", required=True, readonly=True, ondelete="restrict", index=True
    )
    artifact_key = fields.Char("Name", required=True, readonly=True)
    artifact_url = fields.Char("Place", required=True, readonly=True)
    checksum = fields.Char("SHA-256", required=True, readonly=True)
    content_type = fields.Char(readonly=True)
    size_bytes = BigInteger(readonly=True)
    size_text = fields.Char("Size", compute="_compute_size_text")
    expires_at = fields.Datetime("Expires", readonly=True)
    store = fields.Selection(
        [("filesystem", "Filesystem"), ("s3", "S3")], required=True, readonly=True
    )
    status = fields.Selection(
        [("stored", "Stored"), ("expired", "Expired"), ("missing", "Missing")],
        required=True,
        readonly=True,
    )
    metadata = fields.Json(readonly=True)
    held = fields.Boolean("On Hold", readonly=True, help="Kept beyond its time.")
    hold_reason = fields.Char(readonly=True)
    held_by = fields.Many2one("res.users", readonly=True, ondelete="restrict")
    held_at = fields.Datetime("Held Since", readonly=True)
    may_hold = fields.Boolean(compute="_compute_may_hold")

    _run_key_uniq = models.Constraint(
        "UNIQUE (run_id, artifact_key)", "The run has an artifact of this name already."
    )
    _expiring = models.Index("(expires_at) WHERE status <> 'expired' AND expires_at IS NOT NULL")
    _url = models.Index("(artifact_url)")

    @api.depends("size_bytes")
    def _compute_size_text(self):
        for artifact in self:
            artifact.size_text = human_size(artifact.size_bytes)

    @api.depends_context("uid")
    @api.depends("run_id.project_id")
    def _compute_may_hold(self):
        for artifact in self:
            artifact.may_hold = artifact.run_id.project_id._may("manage_project")

    # -- downloading --------------------------------------------------------------------

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
        return artifact_store.filesystem_root(self.env)

    def _look(self):
        """Make sure that the bytes are there, and let the record say so or not.

        :return: the store
        :raise ObjectMissing: they are not
        :raise StorageError: nobody knows, the store itself cannot be used
        """
        self.ensure_one()
        store = artifact_store.open_store(self.env, self.store)
        try:
            store.stat(self.artifact_url)
        except ObjectMissing:
            self._report(False)
            raise
        self._report(True)
        return store

    def _report(self, present):
        if self.status != ("stored" if present else "missing"):
            self.env["ops.kernel"]._call("report_artifact", artifact_id=self.id, present=present)

    def _download_name(self):
        """The name a file had where it was found; keys hold fewer characters."""
        original = (self.metadata or {}).get("path")
        name = original if isinstance(original, str) else ""
        key = self.artifact_key.rpartition("/")[2]
        return key if key.endswith(".tar.gz") else name.rpartition("/")[2] or key

    def _download_type(self):
        """As the worker recorded it, when it is one."""
        given = self.content_type or ""
        if not CONTENT_TYPE.match(given):
            return "application/octet-stream"
        return f"{given}; charset=utf-8" if given == "text/plain" else given

    def _may_be_shown(self):
        """Whether a browser may show it in place of saving it."""
        return (self.content_type or "") in INLINE_TYPES

    def action_download(self):
        self._check_may_download()
        return {"type": "ir.actions.act_url", "url": f"/ops/artifacts/{self.id}", "target": "self"}

    def action_look(self):
        """Button: see whether the bytes are where they should be."""
        self._check_may_download()
        try:
            self._look()
        except ObjectMissing as error:
            _logger.info("%s", error)  # The record says so now.
        except StorageError as error:
            raise UserError(str(error)) from error
        return {"type": "ir.actions.client", "tag": "soft_reload"}

    # -- keeping and letting go -----------------------------------------------------------

    def _set_hold(self, held, reason=None):
        """Keep the artifacts beyond their time, or no longer.

        :raise KernelRefusal: one has expired, or the reason is missing
        """
        self.check_access("read")
        self.run_id.project_id._check_may("manage_project")
        for artifact in self.sorted(lambda artifact: (artifact.run_id.id, artifact.id)):
            self.env["ops.kernel"]._call_or_raise(
                "hold_artifact", artifact_id=artifact.id, held=held, reason=reason
            )

    def action_hold(self):
        """Button: ask why, then keep."""
        self.run_id.project_id._check_may("manage_project")
        return {
            "type": "ir.actions.act_window",
            "name": self.env._("Keep beyond its time"),
            "res_model": "ops.artifact.hold",
            "views": [(False, "form")],
            "target": "new",
            "context": {"default_artifact_ids": self.ids},
        }

    def action_release(self):
        """Button: let it go when its time has come."""
        self._set_hold(False)

    @api.model
    def _cron_expire(self):
        """Scheduled action: remove what has expired, and what broken uploads left."""
        self.env["ops.artifact.keeper"]._expire()

    @api.model
    def _cron_check(self):
        """Scheduled action: find out which recorded artifacts are gone. Removes nothing."""
        keeper = self.env["ops.artifact.keeper"]
        for kind in keeper._kinds():
            keeper._mark_missing(kind)
