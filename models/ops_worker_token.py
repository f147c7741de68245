"""Tokens of workers at the JSON-RPC door: how a host without access to the database gets in.

A platform administrator makes a *registration token*, which is good for a few hosts and a short
time. A host exchanges it for a *worker token* of its own. Both are random and stored as SHA-256
only; they expire and can be revoked. A worker token acts for the workers that registered with it
and for nobody else's.
"""

import hashlib
import secrets
from datetime import timedelta

from odoo import api, fields, models
from odoo.exceptions import AccessError, ValidationError
from odoo.sql_db import db_connect
from odoo.tools import SQL

PREFIXES = {"registration": "oprt_", "worker": "opwt_"}
#: Days a worker token is valid; its worker renews it when a third of them is left.
WORKER_DAYS = 90
#: A renewed token's predecessor is good for so long: the reply may have been lost.
RENEWAL_OVERLAP = timedelta(hours=1)
#: The use of a token is written down not more often than this.
USE_PRECISION = timedelta(minutes=5)


def token_hash(token):
    """What is stored of a token. It holds 256 random bits, so a fast hash without salt will do."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


class OpsWorkerToken(models.Model):
    _name = "ops.worker.token"
    _description = "Worker token"
    _order = "id desc"

    name = fields.Char("Description", required=True, help="For which host or purpose.")
    kind = fields.Selection(
        [("registration", "Registration"), ("worker", "Worker")],
        required=True,
        readonly=True,
        default="registration",
    )
    token_hash = fields.Char(required=True, readonly=True, copy=False, groups=fields.NO_ACCESS)
    previous_hash = fields.Char(readonly=True, copy=False, groups=fields.NO_ACCESS)
    previous_until = fields.Datetime(readonly=True, copy=False)
    expires_at = fields.Datetime(required=True, readonly=True)
    revoked_at = fields.Datetime(readonly=True, copy=False)
    revoked_by = fields.Many2one("res.users", readonly=True, copy=False)
    last_used_at = fields.Datetime(readonly=True, copy=False, help="To within five minutes.")
    uses_left = fields.Integer(
        readonly=True, aggregator=None, help="So many hosts may still register with it."
    )
    registration_id = fields.Many2one(
        "ops.worker.token", "Made With", readonly=True, index="btree_not_null"
    )
    worker_ids = fields.One2many("ops.worker", "token_id", readonly=True)
    state = fields.Selection(
        [("valid", "Valid"), ("used", "Used up"), ("expired", "Expired"), ("revoked", "Revoked")],
        compute="_compute_state",
    )

    _token_hash_uniq = models.Constraint("UNIQUE (token_hash)", "This token exists already.")

    @api.depends("expires_at", "revoked_at", "uses_left")
    def _compute_state(self):
        now = fields.Datetime.now()
        for token in self:
            if token.revoked_at:
                token.state = "revoked"
            elif token.expires_at <= now:
                token.state = "expired"
            elif token.kind == "registration" and token.uses_left < 1:
                token.state = "used"
            else:
                token.state = "valid"

    @api.model
    def _make(self, kind, name, lifetime, **values):
        """A new token.

        :param lifetime: timedelta
        :return: (record, the token as text: it is nowhere else)
        """
        text = PREFIXES[kind] + secrets.token_urlsafe(32)
        token = self.sudo().create(
            {
                "kind": kind,
                "name": name,
                "token_hash": token_hash(text),
                "expires_at": fields.Datetime.now() + lifetime,
                **values,
            }
        )
        return token, text

    @api.model
    def _find(self, text):
        """The valid token of this text, or an empty recordset; notes that it was used."""
        now, digest = fields.Datetime.now(), token_hash(text)
        current = fields.Domain("token_hash", "=", digest)
        previous = fields.Domain("previous_hash", "=", digest)
        token = self.sudo().search(
            current | previous & fields.Domain("previous_until", ">", now), limit=1
        )
        if token.state != "valid" or not text.startswith(PREFIXES[token.kind]):
            return self.browse()
        if not token.last_used_at or token.last_used_at < now - USE_PRECISION:
            # Whoever cannot lock it leaves it to the request that can.
            self.env.execute_query(
                SQL(
                    "UPDATE ops_worker_token SET last_used_at = now() AT TIME ZONE 'UTC'"
                    " WHERE id IN (SELECT id FROM ops_worker_token WHERE id = %s"
                    " FOR NO KEY UPDATE SKIP LOCKED) RETURNING id",
                    token.id,
                )
            )
            token.invalidate_recordset(["last_used_at"])
        return token

    def action_revoke(self):
        """Button: it opens nothing any more, from the next request on."""
        if not self.env.user.has_group("odooops.group_platform_admin"):
            raise AccessError(self.env._("Only a platform administrator revokes tokens."))
        self.filtered(lambda token: not token.revoked_at).sudo().write(
            {"revoked_at": fields.Datetime.now(), "revoked_by": self.env.uid}
        )

    @api.ondelete(at_uninstall=False)
    def _unlink_except_valid(self):
        if any(token.state == "valid" for token in self):
            raise ValidationError(self.env._("Revoke the token first."))

    # -- at the JSON-RPC door -----------------------------------------------------------

    def _exchange(self, name):
        """Give a host its worker token for this registration token.

        :return: dict with ``token``, ``expires_at`` and ``valid_days``
        """
        self.ensure_one()
        # Two exchanges of the last use: PostgreSQL lets one of them through, Odoo repeats the
        # other, which then finds the token used up.
        self.sudo().uses_left -= 1
        token, text = self._make(
            "worker", name, timedelta(days=WORKER_DAYS), registration_id=self.id
        )
        return token._reply(text)

    def _renew(self):
        """Another text and another term for this worker token; the reply as of :meth:`_exchange`.

        The old text is good for another hour, should the reply be lost. Who then asks again with
        the old one has not got what was made meanwhile: that goes, and the old one stays.
        """
        self.ensure_one()
        text = PREFIXES[self.kind] + secrets.token_urlsafe(32)
        now = fields.Datetime.now()
        values = {
            "token_hash": token_hash(text),
            "expires_at": now + timedelta(days=WORKER_DAYS),
        }
        used = token_hash(self.env.context.get("ops_token_text") or "")
        if used != self.sudo().previous_hash:
            values["previous_hash"] = self.sudo().token_hash
            values["previous_until"] = min(self.expires_at, now + RENEWAL_OVERLAP)
        self.sudo().write(values)
        return self._reply(text)

    def _reply(self, text):
        return {
            "success": True,
            "token": text,
            "expires_at": self.expires_at.isoformat() + "Z",
            "valid_days": WORKER_DAYS,
        }

    def _may_act(self, worker_id=None, run_id=None):
        """Whether what is named belongs to a worker of this token.

        Looks with a transaction of its own: the request's may have begun before the claim. A run
        that nobody holds is left to the kernel's answer.
        """
        with db_connect(self.env.cr.dbname).cursor() as cr:
            cr.execute(
                SQL(
                    "SELECT NOT EXISTS (SELECT FROM ops_run_lease l"
                    "   LEFT JOIN ops_worker w ON w.worker_id = l.worker_id"
                    "   WHERE l.run_id = %(run_id)s AND w.token_id IS DISTINCT FROM %(token)s)"
                    " AND (%(worker_id)s::text IS NULL OR EXISTS (SELECT FROM ops_worker w"
                    "   WHERE w.worker_id = %(worker_id)s AND w.token_id = %(token)s))",
                    run_id=run_id,
                    worker_id=worker_id,
                    token=self.id,
                )
            )
            return cr.fetchone()[0]
