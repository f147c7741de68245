"""The register of workers, and the scheduled action that starts one when none is alive."""

import logging
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from odoo import api, fields, models
from odoo.tools import SQL, config

from . import artifact_store, secret_key

_logger = logging.getLogger(__name__)

ADDON_FOLDER = Path(__file__).parent.parent
# As worker_timeout_seconds() in sql/50_workers.sql.
TIMEOUT = timedelta(seconds=30)


class OpsWorker(models.Model):
    _name = "ops.worker"
    _description = "Worker"
    _order = "last_heartbeat desc, id desc"
    _log_access = False
    _rec_name = "worker_id"

    worker_id = fields.Char("Identity", required=True, readonly=True, help="One per process start.")
    host = fields.Char(readonly=True)
    labels = fields.Json("Label List", readonly=True)
    labels_text = fields.Char("Labels", compute="_compute_labels_text")
    capacity = fields.Integer(readonly=True, aggregator="sum", help="So many runs at a time.")
    version = fields.Char(readonly=True)
    kind = fields.Selection(
        [("daemon", "Daemon"), ("scheduled", "Scheduled action")], required=True, readonly=True
    )
    state = fields.Selection(
        [("active", "Active"), ("draining", "Draining"), ("stopped", "Stopped")],
        required=True,
        readonly=True,
    )
    health = fields.Selection(
        [("alive", "Alive"), ("draining", "Draining"), ("lost", "Lost"), ("stopped", "Stopped")],
        compute="_compute_health",
        search="_search_health",
    )
    token_id = fields.Many2one(
        "ops.worker.token",
        readonly=True,
        ondelete="set null",
        index="btree_not_null",
        groups="odooops.group_platform_admin",
        help="With which it came through the JSON-RPC door.",
    )
    registered_at = fields.Datetime(readonly=True)
    last_heartbeat = fields.Datetime(readonly=True)
    active_run_count = fields.Integer("Active Runs", compute="_compute_active_run_count")

    _worker_id_uniq = models.Constraint("UNIQUE (worker_id)", "This worker is registered already.")

    @api.depends("labels")
    def _compute_labels_text(self):
        for worker in self:
            worker.labels_text = ", ".join(worker.labels or [])

    @api.depends("state", "last_heartbeat")
    def _compute_health(self):
        oldest = fields.Datetime.now() - TIMEOUT
        for worker in self:
            if worker.state == "stopped":
                worker.health = "stopped"
            elif not worker.last_heartbeat or worker.last_heartbeat < oldest:
                worker.health = "lost"
            else:
                worker.health = "draining" if worker.state == "draining" else "alive"

    @api.model
    def _search_health(self, operator, value):
        if operator != "in":
            return NotImplemented
        oldest = fields.Datetime.now() - TIMEOUT
        fresh = fields.Domain("last_heartbeat", ">=", oldest)
        working = fields.Domain("state", "!=", "stopped")
        domains = {
            "stopped": fields.Domain("state", "=", "stopped"),
            "lost": working & ~fresh,
            "draining": fields.Domain("state", "=", "draining") & fresh,
            "alive": fields.Domain("state", "=", "active") & fresh,
        }
        return fields.Domain.OR(domains[health] for health in value if health in domains)

    def _compute_active_run_count(self):
        counts = dict(
            self.env.execute_query(
                SQL(
                    "SELECT worker_id, count(*) FROM ops_run_lease"
                    " WHERE worker_id = ANY(%s) GROUP BY worker_id",
                    self.mapped("worker_id"),
                )
            )
        )
        for worker in self:
            worker.active_run_count = counts.get(worker.worker_id, 0)

    # -- the scheduled action -----------------------------------------------------------

    @api.model
    def _may_execute_here(self):
        """Whether an administrator lets this server execute runs, which are not isolated here."""
        return (
            self.env["ir.config_parameter"].sudo().get_param("odooops.execute_on_this_server")
            == "True"
        )

    @api.model
    def _wake_scheduled_worker(self):
        """After this transaction, look at once instead of at the next minute."""
        if self._may_execute_here():
            self.env.ref("odooops.ir_cron_launch_worker").sudo()._trigger()

    @api.model
    def _cron_launch_worker(self):
        """Scheduled action: with queued runs and no live worker, start a detached one.

        It claims, executes and ends by itself when the queue is empty. The claim is made in
        that process, so that none is stranded when it cannot start; and nothing long happens
        here, where Odoo may kill a job at its time limit.

        :return: process id of the worker, or None when none was needed
        """
        if not self._may_execute_here():
            return None
        if self.sudo().search_count([("health", "in", ["alive"])], limit=1):
            return None
        if (
            not self.env["ops.run"]
            .sudo()
            .search_count(
                [("status", "=", "queued"), ("available_at", "<=", fields.Datetime.now())], limit=1
            )
        ):
            return None
        return self._launch_worker()

    def _launch_worker(self):
        """Start ``python -m worker`` in a session of its own; its log goes beside its data."""
        folder = Path(config["data_dir"]) / "odooops" / self.env.cr.dbname
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "worker", "--until-idle", "--kind", "scheduled"),
            "--allow-process",
            *("--artifacts", str(self.env["ops.run.artifact"]._filesystem_root())),
            *("--work-dir", str(folder / "work")),
            *("--secrets-key", str(secret_key.path_of(self.env.cr.dbname))),
        ]
        with (folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=ADDON_FOLDER,
                env=self._worker_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _logger.info("started worker process %s, log %s", process.pid, folder / "worker.log")
        return process.pid

    def _worker_environment(self):
        """The environment with Odoo's database access in libpq's variables: not in arguments,
        which every user of the host can read."""
        connection = {
            "PGDATABASE": self.env.cr.dbname,
            "PGHOST": config["db_host"],
            "PGPORT": config["db_port"],
            "PGUSER": config["db_user"],
            "PGPASSWORD": config["db_password"],
        }
        given = {name: str(value) for name, value in connection.items() if value}
        given |= artifact_store.worker_environment(self.env)
        return {**os.environ, **given, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
