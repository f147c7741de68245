"""Checkpoints of the trail: signed statements about all event chains, each chained to the last.

The kernel collects and hashes (``sql/85_audit.sql``); this model signs with a key that lies
outside the database, and verifies. What is signed is described in ``docs/audit.md``.
"""

import logging

from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED

from odoo import api, fields, models
from odoo.exceptions import AccessError, UserError
from odoo.sql_db import db_connect

from . import audit_key

_logger = logging.getLogger(__name__)

# So many problems a person reads; the export and verify_audit.py give all of them.
MAX_PROBLEMS = 50


class OpsAuditCheckpoint(models.Model):
    _name = "ops.audit.checkpoint"
    _description = "Audit checkpoint"
    _order = "number desc"
    _rec_name = "number"
    _log_access = False

    number = fields.Integer(required=True, readonly=True, aggregator=None)
    database_uuid = fields.Char("Database", required=True, readonly=True)
    timestamp = fields.Datetime(required=True, readonly=True)
    prev_hash = fields.Char("Previous Hash", readonly=True)
    run_count = fields.Integer("Runs", readonly=True, help="Runs with events since the last one.")
    event_count = fields.Integer("Events", readonly=True, help="Events since the last one.")
    root = fields.Char(readonly=True, required=True, help="Hash over the roots of the projects.")
    hash = fields.Char(readonly=True, required=True, help="SHA-256 of the signed statement.")
    key_id = fields.Char(readonly=True, required=True, help="Fingerprint of the key.")
    public_key = fields.Text(readonly=True, required=True)
    signature = fields.Char(readonly=True, required=True)
    project_ids = fields.One2many("ops.audit.checkpoint.project", "checkpoint_id", readonly=True)
    # No default: the checkpoints of the first version, which have none, cannot be changed.
    statement_version = fields.Integer("Version", readonly=True, aggregator=None)
    expiry_number = fields.Integer(
        "Last Expiry", readonly=True, aggregator=None, help="The last record of retention it signs."
    )
    expiry_hash = fields.Char(readonly=True)

    _number_uniq = models.Constraint("UNIQUE (number)", "This checkpoint number is taken.")

    @api.depends("number")
    def _compute_display_name(self):
        for checkpoint in self:
            checkpoint.display_name = self.env._("Checkpoint %s", checkpoint.number)

    # -- making -------------------------------------------------------------------------

    @api.model
    def _make(self):
        """Cover every event that is committed and not yet covered; commits at once.

        :return: number of the new checkpoint, or None when nothing has happened
        :raise UserError: the key cannot be read
        """
        kernel = self.env["ops.kernel"]
        key = audit_key.load(self.env.cr.dbname)
        database = self.env["ir.config_parameter"].sudo().get_param("database.uuid")
        with db_connect(self.env.cr.dbname).cursor() as cr:
            cr._cnx.set_isolation_level(ISOLATION_LEVEL_READ_COMMITTED)
            prepared = kernel._execute(
                cr, "prepare_checkpoint", {"database_uuid": database, "key_id": key.key_id}
            )
            if prepared["number"] is None:
                return None
            signed = {
                "prepared": prepared,
                "public_key": key.public_pem,
                "signature": key.sign(prepared["statement"]),
            }
            kernel._execute(cr, "add_checkpoint", signed)
        self.env.invalidate_all(flush=False)
        # A log that is kept on another host is a second witness.
        _logger.info("audit checkpoint %s: %s", prepared["number"], prepared["statement"])
        return prepared["number"]

    @api.model
    def _cron_make(self):
        """Scheduled action: one checkpoint over what has happened since the last."""
        self._make()

    def action_make(self):
        """Button: a checkpoint now."""
        self._check_platform_admin()
        number = self._make()
        if number is None:
            message = self.env._("Nothing has happened since the last checkpoint.")
        else:
            message = self.env._("Checkpoint %s is signed.", number)
        return self._notification(message, reload=True)

    # -- verifying ----------------------------------------------------------------------

    @api.model
    def _verify(self, project=None):
        """Problems of the whole trail, or of one project's, as sentences; none when it holds.

        The caller has checked the access.
        """
        kernel = self.env["ops.kernel"]
        where = {"project_id": project.id} if project else {}
        problems = [
            self.env._("checkpoint %(number)s: %(problem)s", **row)
            for row in kernel._rows("verify_checkpoints", **where)
        ]
        problems += [
            self.env._("expiry %(number)s: %(problem)s", **row)
            for row in kernel._rows("verify_expiries")
        ]
        problems += [
            self.env._("checkpoint %s: the signature does not fit", number)
            for number in self._unsigned_numbers()
        ]
        problems += [
            self.env._("run %(run_id)s, event %(seq)s: %(problem)s", **row)
            for row in kernel._rows("verify_trail", **where)
        ]
        return problems

    @api.model
    def _unsigned_numbers(self):
        """Numbers of the checkpoints whose signature is not that of their statement."""
        return [
            row["number"]
            for row in self.env["ops.kernel"]._rows("list_checkpoints")
            if not audit_key.is_signed(row["statement"], row["signature"], row["public_key"])
            or audit_key.fingerprint(row["public_key"]) != row["key_id"]
        ]

    @api.model
    def _verify_and_tell(self, project=None):
        """A notification that the trail holds; UserError with the problems when it does not."""
        problems = self._verify(project)
        if problems:
            shown = problems[:MAX_PROBLEMS]
            if len(problems) > len(shown):
                shown.append(self.env._("… and %s more", len(problems) - len(shown)))
            raise UserError(self.env._("The event trail was altered:\n") + "\n".join(shown))
        return self._notification(self.env._("The event trail is as it was written and signed."))

    def action_verify(self):
        """Button: verify the trail of all projects."""
        self._check_platform_admin()
        return self._verify_and_tell()

    def action_export(self):
        """Button: download the trail of all projects."""
        self._check_platform_admin()
        return {"type": "ir.actions.act_url", "url": "/ops/audit/export", "target": "download"}

    @api.model
    def _check_platform_admin(self):
        if not (self.env.su or self.env.user.has_group("odooops.group_platform_admin")):
            raise AccessError(self.env._("Only platform administrators may do that."))

    @api.model
    def _notification(self, message, reload=False):
        params = {"type": "success", "message": message}
        if reload:
            params["next"] = {"type": "ir.actions.client", "tag": "soft_reload"}
        return {"type": "ir.actions.client", "tag": "display_notification", "params": params}


class OpsAuditCheckpointProject(models.Model):
    _name = "ops.audit.checkpoint.project"
    _description = "Audit checkpoint of a project"
    _order = "checkpoint_id desc, project_id"
    _rec_name = "project_id"
    _log_access = False

    checkpoint_id = fields.Many2one(
        "ops.audit.checkpoint", required=True, readonly=True, ondelete="restrict", index=True
    )
    project_id = fields.Many2one(
        "ops.project", required=True, readonly=True, ondelete="restrict", index=True
    )
    run_count = fields.Integer("Runs", readonly=True)
    event_count = fields.Integer("Events", readonly=True)
    root = fields.Char(readonly=True, required=True, help="Hash over the heads of its runs.")

    _checkpoint_project_uniq = models.Constraint(
        "UNIQUE (checkpoint_id, project_id)", "A checkpoint names each project once."
    )
