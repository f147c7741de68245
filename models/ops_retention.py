"""Lets old history go: makes partitions ahead, carries out what the kernel's plan allows.

What may go is decided in ``sql/87_retention.sql``; here it is called and committed step by step.
"""

import logging
import time

from odoo import api, models
from odoo.sql_db import db_connect

_logger = logging.getLogger(__name__)

# Odoo ends a scheduled action at limit_time_real, 120 s where nobody has set it.
BUDGET_SECONDS = 60


class OpsRetention(models.AbstractModel):
    _name = "ops.retention"
    _description = "Retention"

    @api.model
    def _plan(self):
        """The dry run: a dict per partition, project's lines or runs, with action and reason."""
        return self.env["ops.kernel"]._rows("retention_plan")

    @api.model
    def _cron_expire(self):
        """Scheduled action. What does not fit into its time goes on with the next call, soon."""
        if not self._expire(time.monotonic() + BUDGET_SECONDS):
            self.env.ref("odooops.ir_cron_expire_history")._trigger()

    @api.model
    def _expire(self, deadline):
        """Do what the plan allows, each step committed, until a time of the monotonic clock.

        :return: whether all of it was done; False when the time was over first
        """
        kernel = self.env["ops.kernel"]
        made = kernel._call_committed("maintain_partitions")
        if not made["success"]:
            _logger.info("retention: %s", made["error"])
        # On a cursor of its own, closed before the first step: whoever has read a partition in a
        # transaction that is open keeps it from being dropped.
        with db_connect(self.env.cr.dbname).cursor() as cr:
            plan = self.with_env(self.env(cr=cr))._plan()
        lines = [line for line in plan if line["action"] != "keep"]
        return all(self._expire_line(line, deadline) for line in lines)

    def _expire_line(self, line, deadline):
        """Call the kernel for one line of the plan until nothing is left of it; True when so."""
        names = {"what": line["what"], "name": line["name"], "project_id": line["project_id"]}
        total = 0
        while time.monotonic() < deadline:
            reply = self.env["ops.kernel"]._call_committed("expire_batch", **names)
            if not reply["success"]:
                _logger.info("retention: %s", reply["error"])
                return True
            total += reply["rows"]
            if reply.get("recorded"):
                # Signed before they go: see docs/retention.md.
                self.env["ops.audit.checkpoint"]._make()
            elif not reply["rows"] or line["action"] == "drop":
                if total:
                    _logger.info("retention: %s %s: %s rows", line["action"], line["name"], total)
                return True
        return False
