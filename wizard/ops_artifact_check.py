"""Compare the artifact store with the records: look first, mend then."""

from contextlib import contextmanager
from datetime import timedelta

from odoo import api, fields, models
from odoo.exceptions import AccessError, UserError, ValidationError
from odoo.tools import human_size

from ..models import artifact_store
from ..worker.storage.base import StorageError

# So many are named on the screen.
MAX_LISTED = 200


class OpsArtifactCheck(models.TransientModel):
    _name = "ops.artifact.check"
    _description = "Check of the artifact store"

    store = fields.Selection(
        [("filesystem", "Filesystem"), ("s3", "S3")],
        required=True,
        default=lambda self: "s3" if artifact_store.s3_parameters(self.env) else "filesystem",
    )
    grace_hours = fields.Integer(
        "Leave alone what is younger than (hours)",
        required=True,
        default=24,
        help="Bytes are in the store before their record: an upload of just now is no orphan.",
    )
    has_looked = fields.Boolean(readonly=True)
    is_done = fields.Boolean(readonly=True)
    missing_count = fields.Integer("Missing", readonly=True)
    missing_text = fields.Text(readonly=True)
    orphan_count = fields.Integer("Orphans", readonly=True)
    orphan_size = fields.Char(readonly=True)
    orphan_text = fields.Text(readonly=True)

    @api.constrains("grace_hours")
    def _check_grace_hours(self):
        for wizard in self:
            if wizard.grace_hours < 1:
                raise ValidationError(self.env._("At least one hour, for uploads under way."))

    def action_look(self):
        """Button: list what does not fit; nothing is changed."""
        self._check_may()
        with self._told():
            missing, _found = self.env["ops.artifact.keeper"]._compare(self.store)
            orphans = self._orphans(artifact_store.open_store(self.env, self.store))
            self._show(missing, orphans)
        self.is_done = False
        return self._open()

    def action_apply(self):
        """Button: mark what is missing, remove what nobody recorded; what is so now counts."""
        self._check_may()
        keeper = self.env["ops.artifact.keeper"]
        with self._told():
            store = keeper._own_store(self.store)
            orphans = self._orphans(store)
            for info in orphans:
                store.delete(info.url)
            missing, _found = keeper._mark_missing(self.store)
            self._show(missing, orphans)
        self.is_done = True
        return self._open()

    def _orphans(self, store):
        grace = timedelta(hours=self.grace_hours)
        return list(self.env["ops.artifact.keeper"]._orphans(store, grace))

    def _show(self, missing, orphans):
        self.write(
            {
                "has_looked": True,
                "missing_count": len(missing),
                "missing_text": self._listed(
                    f"{a.run_id.project_id.slug} #{a.run_id.run_number}: {a.artifact_key}"
                    for a in missing[:MAX_LISTED]
                ),
                "orphan_count": len(orphans),
                "orphan_size": human_size(sum(info.size_bytes for info in orphans)),
                "orphan_text": self._listed(
                    f"{info.key} ({human_size(info.size_bytes)}, {info.modified:%Y-%m-%d})"
                    for info in orphans[:MAX_LISTED]
                ),
            }
        )

    @staticmethod
    def _listed(lines):
        return "\n".join(lines)

    @contextmanager
    def _told(self):
        """Tell people what a store said."""
        try:
            yield
        except StorageError as error:
            raise UserError(str(error)) from error

    def _check_may(self):
        self.ensure_one()
        if not (self.env.su or self.env.user.has_group("odooops.group_platform_admin")):
            raise AccessError(self.env._("Only platform administrators may do that."))

    def _open(self):
        return {
            "type": "ir.actions.act_window",
            "res_model": self._name,
            "res_id": self.id,
            "views": [(False, "form")],
            "target": "new",
            "name": self.env._("Check the artifact store"),
        }


class OpsArtifactHold(models.TransientModel):
    _name = "ops.artifact.hold"
    _description = "Hold of artifacts"

    artifact_ids = fields.Many2many("ops.run.artifact", required=True, readonly=True)
    reason = fields.Char(required=True)

    def action_hold(self):
        self.ensure_one()
        self.artifact_ids._set_hold(True, self.reason)
        return {"type": "ir.actions.client", "tag": "soft_reload"}
