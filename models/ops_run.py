"""A run: one execution of a workflow, from the queue to its end.

Rows are made and changed by kernel functions only. This model reads them, and carries the
actions of people: cancel, restart, look.
"""

import logging

from odoo import api, fields, models
from odoo.exceptions import UserError
from odoo.tools import SQL

from .fields import LastJson
from .ops_workflow import WORKFLOW_TYPES
from .statuses import STATUSES, TERMINAL

_logger = logging.getLogger(__name__)

# As LOG_KEY in worker/artifacts.py: the artifact that holds the complete log.
LOG_KEY = "run.log.gz"

TRIGGERS = [
    ("manual", "Manual"),
    ("api", "API"),
    ("webhook", "Webhook"),
    ("schedule", "Schedule"),
    ("retry", "Retry"),
]


class OpsRun(models.Model):
    _name = "ops.run"
    _description = "Run"
    _order = "id desc"

    project_id = fields.Many2one("ops.project", required=True, ondelete="restrict", readonly=True)
    workflow_id = fields.Many2one(
        "ops.workflow", required=True, ondelete="restrict", readonly=True, index=True
    )
    workflow_type = fields.Selection(WORKFLOW_TYPES, required=True, readonly=True)
    run_number = fields.Integer(
        required=True, readonly=True, aggregator=None, help="Counts up within its project."
    )
    status = fields.Selection(
        STATUSES,
        required=True,
        readonly=True,
        default="queued",
        group_expand="_group_expand_status",
    )
    claimed_by = fields.Char("Worker", readonly=True)
    claimed_at = fields.Datetime(readonly=True)
    started_at = fields.Datetime(readonly=True)
    deadline = fields.Datetime(
        readonly=True, help="A run that has not ended by then is failed, whatever its worker says."
    )
    finished_at = fields.Datetime(readonly=True)
    duration = fields.Float(compute="_compute_duration", help="Seconds from start to end, or now.")
    exit_code = fields.Integer(readonly=True, aggregator=None)
    has_exit_code = fields.Boolean(compute="_compute_has_exit_code")
    error_code = fields.Char(readonly=True)
    error_message = fields.Text(readonly=True)
    idempotency_key = fields.Char(readonly=True)
    git_ref = fields.Char(readonly=True)
    git_commit = fields.Char(readonly=True)
    short_commit = fields.Char("Commit", compute="_compute_short_commit")
    priority = fields.Integer(
        readonly=True, required=True, default=0, aggregator=None, help="Higher goes first."
    )
    available_at = fields.Datetime(readonly=True, required=True)
    trigger = fields.Selection(TRIGGERS, required=True, readonly=True, default="manual")
    retry_of = fields.Many2one(
        "ops.run", readonly=True, ondelete="restrict", index="btree_not_null"
    )
    attempt = fields.Integer(readonly=True, required=True, default=1, aggregator=None)
    requested_by = fields.Many2one("res.users", readonly=True, ondelete="restrict")
    cancel_requested_at = fields.Datetime(readonly=True)
    canceled_by = fields.Many2one("res.users", readonly=True, ondelete="restrict")
    cancel_reason = fields.Char(readonly=True)
    concurrency_group = fields.Char(readonly=True)
    labels = fields.Json(readonly=True)
    # Most of the row, which changes some ten times; it never does.
    snapshot = LastJson(readonly=True, prefetch=False)
    metadata = fields.Json(readonly=True)
    epoch = fields.Integer(readonly=True, required=True, default=0, aggregator=None)
    event_seq = fields.Integer(readonly=True, required=True, default=0, aggregator=None)
    event_hash = fields.Char(readonly=True)
    waiting_for = fields.Char(compute="_compute_waiting_for")
    failed_tests = fields.Text(compute="_compute_test_result")
    test_summary = fields.Char("Tests", compute="_compute_test_result")
    step_lines = fields.Text("Steps", compute="_compute_step_lines")
    event_ids = fields.One2many("ops.run.event", "run_id")
    artifact_ids = fields.One2many("ops.run.artifact", "run_id")
    artifact_count = fields.Integer(compute="_compute_artifact_count")
    can_cancel = fields.Boolean(compute="_compute_can")
    can_restart = fields.Boolean(compute="_compute_can")

    _project_run_number_uniq = models.Constraint(
        "UNIQUE (project_id, run_number)", "This run number is taken."
    )
    # Every transition makes a new entry in each index, so there are no more of them than are
    # used. _project_run_number_uniq, read backwards, gives the newest runs of a project.
    _idempotency_key = models.UniqueIndex(
        "(project_id, idempotency_key) WHERE idempotency_key IS NOT NULL",
        "This idempotency key is taken.",
    )
    # The order of claiming within a project.
    _claim = models.Index("(project_id, priority DESC, available_at, id) WHERE status = 'queued'")
    _concurrency_group = models.Index(
        "(project_id, concurrency_group, priority DESC, available_at, id)"
        " WHERE status = 'queued' AND concurrency_group IS NOT NULL"
    )
    _active = models.Index("(project_id) WHERE status IN ('claimed', 'running')")
    # Retention asks for the runs of a month or a week. They lie together, as they were queued, so
    # a summary of pages finds them; an entry per run would cost each transition one more.
    _queued_at = models.Index("USING brin (create_date) WITH (autosummarize = on)")

    @api.depends("project_id", "run_number")
    def _compute_display_name(self):
        for run in self:
            run.display_name = f"{run.project_id.slug} #{run.run_number}"

    @api.model
    def _search_display_name(self, operator, value):
        """``demo #12``, ``#12`` or ``12`` find run 12; text finds projects."""
        text = str(value or "")
        number = text.rpartition("#")[2].strip()
        if operator in ("ilike", "=", "like") and number.isdigit():
            domain = fields.Domain("run_number", "=", int(number))
            slug = text.rpartition("#")[0].strip()
            return domain & fields.Domain("project_id.slug", "=", slug) if slug else domain
        return fields.Domain("project_id.slug", operator, value)

    @api.model
    def _group_expand_status(self, statuses, domain):
        """Kanban shows every state as a column, empty ones too; only "claimed" is over at once."""
        return [name for name, _label in STATUSES if name != "claimed" or name in statuses]

    @api.depends("started_at", "finished_at")
    def _compute_duration(self):
        now = fields.Datetime.now()
        for run in self:
            end = run.finished_at or now
            run.duration = (end - run.started_at).total_seconds() if run.started_at else 0.0

    @api.depends("status", "error_code")
    def _compute_has_exit_code(self):
        """The ORM reads NULL as 0, and 0 means success: ask PostgreSQL."""
        rows = self.env.execute_query(
            SQL("SELECT id FROM ops_run WHERE exit_code IS NOT NULL AND id = ANY(%s)", self.ids)
        )
        with_exit_code = {run_id for (run_id,) in rows}
        for run in self:
            run.has_exit_code = run.id in with_exit_code

    @api.depends("git_commit", "metadata")
    def _compute_short_commit(self):
        for run in self:
            facts = run.metadata or {}
            commit = run.git_commit or facts.get("commit")
            run.short_commit = str(commit or "")[:10]

    def _compute_waiting_for(self):
        for run in self:
            waiting = run.status == "queued"
            run.waiting_for = (
                self.env["ops.kernel"]._rows("explain_wait", run_id=run.id)[0]["explain_wait"][
                    "message"
                ]
                if waiting
                else False
            )

    @api.depends("metadata")
    def _compute_test_result(self):
        for run in self:
            tests = (run.metadata or {}).get("tests") or {}
            run.test_summary = ", ".join(
                f"{tests[outcome]} {outcome}"
                for outcome in ("passed", "failed", "errors", "skipped")
                if tests.get(outcome)
            )
            failed = (run.metadata or {}).get("failed_tests") or []
            run.failed_tests = "\n".join(self._describe_failed_test(test) for test in failed)

    @api.depends("metadata")
    def _compute_step_lines(self):
        for run in self:
            # Of the worker's making, yet not ours: whoever completes a run may write anything.
            steps = (run.metadata or {}).get("steps")
            steps = steps if isinstance(steps, list) else []
            run.step_lines = "\n".join(
                f"{step.get('status')!s:<10} {step.get('seconds', 0):>9.1f} s  {step.get('name')}"
                + (f" ({step['reason']})" if step.get("reason") else "")
                for step in steps
                if isinstance(step, dict) and isinstance(step.get("seconds", 0), (int, float))
            )

    @api.model
    def _describe_failed_test(self, test):
        """One line: which test, where it failed and why, as far as the worker said."""
        if isinstance(test, str):
            return test
        name = test.get("name") or ".".join(filter(None, (test.get("class"), test.get("method"))))
        place = ":".join(str(part) for part in (test.get("file"), test.get("line")) if part)
        return "  ".join(filter(None, (name or test.get("id"), place, test.get("message"))))

    def _compute_artifact_count(self):
        counts = dict(
            self.env["ops.run.artifact"]._read_group(
                [("run_id", "in", self.ids)], ["run_id"], ["__count"]
            )
        )
        for run in self:
            run.artifact_count = counts.get(run, 0)

    @api.depends_context("uid")
    @api.depends("status", "requested_by")
    def _compute_can(self):
        for run in self:
            allowed = run._may_cancel()
            ended = run.status in TERMINAL
            run.can_cancel = allowed and not ended and not run.cancel_requested_at
            run.can_restart = allowed and ended

    def _may_cancel(self):
        """Developers may cancel and restart their own runs, managers every run."""
        self.ensure_one()
        own = self.requested_by == self.env.user
        return self.project_id._may("cancel_own_run" if own else "cancel_run")

    def _check_may_cancel(self):
        own = self.requested_by == self.env.user
        self.project_id._check_may("cancel_own_run" if own else "cancel_run")

    def cancel(self, reason=None):
        """Cancel the run for the current user; see the kernel's ``cancel_run``."""
        self.ensure_one()
        self._check_may_cancel()
        return self.env["ops.kernel"]._call_or_raise(
            "cancel_run", run_id=self.id, reason=reason or None
        )

    def restart(self):
        """Queue the same work once more and return the new run."""
        self.ensure_one()
        self._check_may_cancel()
        reply = self.env["ops.kernel"]._call_or_raise("retry_run", run_id=self.id)
        self.env["ops.worker"]._wake_scheduled_worker()
        return self.browse(reply["run_id"])

    def action_cancel(self):
        for run in self:
            run.cancel()

    def action_restart(self):
        """Restart and show the new run."""
        return {
            "type": "ir.actions.act_window",
            "res_model": "ops.run",
            "res_id": self.restart().id,
            "views": [(False, "form")],
        }

    def action_open_log(self):
        self.ensure_one()
        action = self.env["ir.actions.act_window"]._for_xml_id("odooops.ops_run_log_action")
        return {**action, "domain": [("run_id", "=", self.id)], "context": {}}

    def _count_events(self):
        """As many as are there: none when retention has let them go."""
        return self.env["ops.run.event"].search_count([("run_id", "=", self.id)])

    def action_verify_events(self):
        """Compute the chain of events again and say whether it holds."""
        self.ensure_one()
        self.check_access("read")
        problems = self.env["ops.kernel"]._rows("verify_events", run_id=self.id)
        message = self.env._("All %s events are as they were written.", self.event_seq)
        if not self._count_events():
            message = self.env._("The events have expired; a signed checkpoint holds the record.")
        if problems:
            raise UserError(
                self.env._("The event trail was altered:\n")
                + "\n".join(f"#{row['seq']}: {row['problem']}" for row in problems)
            )
        return {
            "type": "ir.actions.client",
            "tag": "display_notification",
            "params": {
                "type": "success",
                "message": message,
            },
        }

    def read_log(self, after=0, limit=500, search=None, levels=None, step=None):
        """A page of the run's log, for the viewer.

        :param int after: sequence of the last line already seen
        :param int limit: at most so many lines, 1 to 1000
        :param str search: only lines that contain this text, any case
        :param list levels: only lines of these levels
        :param str step: only lines of this step
        :return: ``lines`` (seq, timestamp in UTC with microseconds, log_level, message, step),
            ``next_after`` to go on from, ``status`` of the run, and ``more``: whether lines
            follow at once
        """
        self.ensure_one()
        self.check_access("read")
        limit = max(1, min(int(limit), 1000))
        self.invalidate_recordset(["status"])
        # Status first: a run that has ended writes no more, so nothing is missed after it.
        status = self.status
        lines = self.env["ops.run.log"]._page(self.id, int(after), limit, search, levels, step)
        return {
            "lines": lines,
            "next_after": lines[-1]["seq"] if lines else after,
            "more": len(lines) == limit,
            "status": status,
            "ended": status in TERMINAL,
        }

    def read_log_outline(self):
        """What the viewer shows around the log, so that it need not read all of it.

        :return: ``last_seq`` of the log, ``levels`` with the number of lines of each level,
            ``steps`` in order (name, seq of the first line, seconds or None while it goes on),
            ``log_artifact_id`` of the complete log or False, ``status``, ``ended``
        """
        self.ensure_one()
        self.check_access("read")
        self.invalidate_recordset(["status"])
        status = self.status
        complete = self.artifact_ids.filtered(lambda artifact: artifact.artifact_key == LOG_KEY)
        return {
            **self.env["ops.run.log"]._outline(self.id),
            "log_artifact_id": complete[:1].id,
            "status": status,
            "ended": status in TERMINAL,
        }

    @api.model
    def _cron_reap_lost_runs(self):
        """Scheduled action: find the runs whose worker is gone."""
        reply = self.env["ops.kernel"]._call_committed("reap_lost_runs")
        if reply.get("requeued") or reply.get("failed"):
            _logger.warning(
                "lost runs: %s back in the queue, %s failed", reply["requeued"], reply["failed"]
            )
