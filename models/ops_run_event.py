"""The event trail of a run. Written by the kernel, append-only, each event chained to the last.

The model reads a view: the rows lie in partitions, which Odoo does not take for a table. The
kernel makes both (``sql/11_history.sql``).
"""

import json

from odoo import api, fields, models

EVENT_TYPES = [
    ("state_change", "State change"),
    ("error", "Error"),
    ("warning", "Warning"),
    ("info", "Information"),
]


class OpsRunEvent(models.Model):
    _name = "ops.run.event"
    _description = "Run event"
    _order = "run_id.id desc, seq"
    _auto = False
    _log_access = False

    run_id = fields.Many2one("ops.run", required=True, readonly=True)
    seq = fields.Integer("Number", required=True, readonly=True, aggregator=None)
    event_type = fields.Selection(EVENT_TYPES, required=True, readonly=True)
    message = fields.Text(readonly=True)
    payload = fields.Json(readonly=True)
    payload_text = fields.Text("Details", compute="_compute_payload_text")
    timestamp = fields.Datetime(required=True, readonly=True)
    prev_hash = fields.Char("Previous Hash", readonly=True)
    hash = fields.Char(required=True, readonly=True)

    def init(self):
        """Before the kernel is applied: Odoo looks for the view right after this."""
        self.env["ops.kernel"]._make_history()

    @api.depends("payload")
    def _compute_payload_text(self):
        for event in self:
            event.payload_text = ", ".join(
                f"{key}: {value if isinstance(value, str) else json.dumps(value)}"
                for key, value in (event.payload or {}).items()
            )

    @api.depends("run_id", "seq")
    def _compute_display_name(self):
        for event in self:
            event.display_name = f"{event.run_id.display_name} / {event.seq}"
