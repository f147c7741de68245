"""A wizard that makes a registration token for hosts of workers, and shows it once."""

import shlex
from datetime import timedelta

from odoo import api, fields, models
from odoo.exceptions import AccessError, ValidationError
from odoo.http import db_list

MAX_HOURS = 24 * 30
MAX_HOSTS = 100


class OpsRegistrationToken(models.TransientModel):
    _name = "ops.registration.token"
    _description = "New registration token"

    name = fields.Char("Description", required=True, help="For which hosts.")
    hours = fields.Integer("Valid for (hours)", required=True, default=24)
    hosts = fields.Integer("For so many hosts", required=True, default=1)
    token = fields.Char(readonly=True, copy=False)
    commands = fields.Text("On the Host", compute="_compute_commands")

    @api.depends("token")
    def _compute_commands(self):
        """What is typed on the host. The first one asks for the token: it is in no history."""
        options = f"--control-url {shlex.quote(self.get_base_url())}"
        if len(db_list(force=True)) > 1:
            options += f" --control-database {shlex.quote(self.env.cr.dbname)}"
        for wizard in self:
            wizard.commands = (
                f"odooops-worker register {options}\nodooops-worker {options} --allow-process"
            )

    @api.constrains("hours", "hosts")
    def _check_bounds(self):
        for wizard in self:
            if not 1 <= wizard.hours <= MAX_HOURS:
                raise ValidationError(
                    self.env._("A registration token is valid for 1 to %s hours.", MAX_HOURS)
                )
            if not 1 <= wizard.hosts <= MAX_HOSTS:
                raise ValidationError(
                    self.env._("A registration token is for 1 to %s hosts.", MAX_HOSTS)
                )

    def action_generate(self):
        """Make the token; the answer shows it, nothing can show it again."""
        self.ensure_one()
        if not self.env.user.has_group("odooops.group_platform_admin"):
            raise AccessError(self.env._("Only a platform administrator registers workers."))
        _record, text = self.env["ops.worker.token"]._make(
            "registration", self.name, timedelta(hours=self.hours), uses_left=self.hosts
        )
        return {
            "type": "ir.actions.act_window",
            "res_model": self._name,
            "views": [(False, "form")],
            "target": "new",
            "name": self.env._("Your registration token"),
            # In the context, not in the table: the token is stored nowhere as plain text.
            "context": {
                "default_name": self.name,
                "default_hours": self.hours,
                "default_hosts": self.hosts,
                "default_token": text,
            },
        }
