"""Schedules of workflows: when a run is due, and what happens when the last one still runs.

The scheduled action queues what is due. Each time of a schedule has an idempotency key of its own,
so that it is queued once, whoever asks and however often.
"""

import logging
from datetime import timezone

from odoo import api, fields, models
from odoo.exceptions import ValidationError
from odoo.tools import SQL

from odoo.addons.base.models.res_partner import _tz_get

from . import schedules
from .statuses import TERMINAL

_logger = logging.getLogger(__name__)

MAX_JITTER = 3600
#: What is queued in one transaction: a workflow and all its due times.
BATCH = 100
# Fields that say when the next run is due.
TIMING = {"schedule", "schedule_tz", "schedule_paused", "enabled"}


class OpsWorkflow(models.Model):
    _inherit = "ops.workflow"

    schedule = fields.Char(
        help="Times in cron syntax: minute, hour, day of month, month, day of week."
        " 30 2 * * 1-5 means at 02:30 from Monday to Friday."
    )
    schedule_tz = fields.Selection(
        _tz_get, "Time Zone", default=lambda self: self.env.user.tz or "UTC"
    )
    schedule_paused = fields.Boolean(
        "Paused", help="Nothing is queued; times that pass meanwhile are not made up for."
    )
    schedule_overlap = fields.Selection(
        [
            ("skip", "Skip: no new run"),
            ("queue", "Queue: after the last one"),
            ("cancel", "Cancel the last one"),
        ],
        "When the last one has not ended",
        default="skip",
    )
    schedule_catch_up = fields.Selection(
        [
            ("once", "One run for all of them"),
            ("all", "One run each, 24 at most"),
            ("skip", "None"),
        ],
        "For times that were missed",
        default="once",
        help="A time is missed when nobody looked within ten minutes: the server was down.",
    )
    schedule_jitter = fields.Integer(
        "Spread",
        aggregator=None,
        help="Seconds by which a run may be delayed, at random: many workflows with the same times"
        " do not begin all at once.",
    )
    schedule_next_at = fields.Datetime(
        "Next Run Due", compute="_compute_schedule_next_at", store=True, readonly=True, index=True
    )
    schedule_preview = fields.Char("Next Times", compute="_compute_schedule_preview")
    schedule_note = fields.Char("Last Time", readonly=True, copy=False)

    _schedule_jitter_range = models.Constraint(
        f"CHECK (schedule_jitter IS NULL OR schedule_jitter BETWEEN 0 AND {MAX_JITTER})",
        f"The spread lies between 0 and {MAX_JITTER} seconds.",
    )

    @api.depends(*TIMING)
    def _compute_schedule_next_at(self):
        now = fields.Datetime.now()
        for workflow in self:
            wanted = workflow.schedule and workflow.enabled and not workflow.schedule_paused
            try:
                workflow.schedule_next_at = wanted and schedules.next_time(
                    workflow.schedule, workflow.schedule_tz or "UTC", now
                )
            except schedules.ScheduleError:
                # The constraint below tells the user.
                workflow.schedule_next_at = False

    @api.depends("schedule", "schedule_tz")
    def _compute_schedule_preview(self):
        now = fields.Datetime.now()
        for workflow in self:
            try:
                workflow.schedule_preview = workflow.schedule and ", ".join(
                    schedules.preview(workflow.schedule, workflow.schedule_tz or "UTC", now)
                )
            except schedules.ScheduleError as error:
                workflow.schedule_preview = str(error)

    @api.constrains("schedule", "schedule_tz")
    def _check_schedule(self):
        for workflow in self.filtered("schedule"):
            try:
                schedules.next_time(
                    workflow.schedule, workflow.schedule_tz or "UTC", fields.Datetime.now()
                )
            except schedules.ScheduleError as error:
                raise ValidationError(
                    self.env._(
                        "The schedule of %(workflow)s cannot be used: %(reason)s."
                        " An example: 30 2 * * 1-5",
                        workflow=workflow.display_name,
                        reason=error,
                    )
                ) from error

    # -- the scheduled action -----------------------------------------------------------

    @api.model
    def _cron_queue_scheduled_runs(self):
        """Scheduled action: queue what is due, one workflow per transaction."""
        for _count in range(BATCH):
            workflow = self._lock_due()
            if not workflow:
                return
            workflow._queue_due(fields.Datetime.now())
            left = self.search_count([("schedule_next_at", "<=", fields.Datetime.now())])
            # Commits. Without time left Odoo calls again for the rest.
            if not self.env["ir.cron"]._commit_progress(1, remaining=left):
                return

    def _lock_due(self):
        """A workflow that is due and that nobody else is dealing with."""
        self.flush_model()
        rows = self.env.execute_query(
            SQL(
                "SELECT id FROM ops_workflow WHERE schedule_next_at <= %s"
                " ORDER BY schedule_next_at, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED",
                fields.Datetime.now(),
            )
        )
        return self.browse([workflow_id for (workflow_id,) in rows])

    def _queue_due(self, now):
        """Queue the due runs of one workflow and say when the next one is due.

        Whatever goes wrong is noted with the workflow and does not come back at every minute.
        """
        zone = self.schedule_tz or "UTC"
        try:
            times, others, upcoming = schedules.due_times(
                self.schedule, zone, self.schedule_next_at, now, self.schedule_catch_up or "once"
            )
        except schedules.ScheduleError as error:
            self._note_schedule(self.env._("The schedule cannot be used: %s", error), False)
            return
        notes = [self._queue_at(time) for time in times]
        if others:
            notes.append(self.env._("%s earlier times were missed.", others))
        self._note_schedule(" ".join(notes), upcoming)

    def _note_schedule(self, note, upcoming):
        _logger.info("workflow %s: %s", self.id, note)
        # As SQL: the stored compute would count from now, and the user's rights do not matter.
        self.env.execute_query(
            SQL(
                "UPDATE ops_workflow SET schedule_note = %s, schedule_next_at = %s WHERE id = %s"
                " RETURNING id",
                note,
                upcoming or None,
                self.id,
            )
        )
        self.invalidate_recordset(["schedule_note", "schedule_next_at"])

    def _queue_at(self, time):
        """Queue the run of one time of the schedule, as the overlap policy wants it.

        Kernel calls commit by themselves: should this transaction be lost, the idempotency key
        finds the run again.

        :return: a sentence on what was done
        """
        kernel = self.env["ops.kernel"]
        label = fields.Datetime.to_string(time)
        key = f"schedule/{self.id}/{time.isoformat()}"
        runs = self.env["ops.run"].search(
            [
                ("workflow_id", "=", self.id),
                ("trigger", "in", ("schedule", "retry")),
                ("status", "not in", TERMINAL),
            ]
        )
        again = key in runs.mapped("idempotency_key")
        if runs and not again and self.schedule_overlap not in ("queue", "cancel"):
            return self.env._(
                "%(time)s UTC skipped: %(run)s has not ended.",
                time=label,
                run=runs[0].display_name,
            )
        reply = kernel._call_committed(
            "queue_run",
            workflow_id=self.id,
            idempotency_key=key,
            trigger="schedule",
            available_at=(time + schedules.delay(self.schedule_jitter, self.id, time)).replace(
                tzinfo=timezone.utc
            ),
            metadata={"scheduled_for": f"{time.isoformat()}Z"},
        )
        if not reply["success"]:
            return self.env._(
                "%(time)s UTC not queued: %(reason)s", time=label, reason=reply["error"]
            )
        if self.schedule_overlap == "cancel":
            reason = self.env._("Run #%s of the schedule took its place.", reply["run_number"])
            for run in runs.filtered(lambda run: run.idempotency_key != key):
                # One that has just ended by itself refuses, and that is fine.
                kernel._call_committed("cancel_run", run_id=run.id, reason=reason)
        self.env["ops.worker"]._wake_scheduled_worker()
        return self.env._(
            "%(time)s UTC queued as run #%(number)s.", time=label, number=reply["run_number"]
        )
