"""Lines of the runs' logs. Written in batches by the kernel, read by page.

The model reads a view, as ``ops_run_event.py`` says.
"""

import time

from odoo import api, fields, models
from odoo.exceptions import UserError
from odoo.tools import SQL

from .ops_kernel import KernelRefusal

# Odoo ends a scheduled action at limit_time_real, 120 s where nobody has set it.
INDEX_BUDGET_SECONDS = 30
LOG_LEVELS = [("debug", "Debug"), ("info", "Info"), ("warn", "Warning"), ("error", "Error")]


class OpsRunLog(models.Model):
    _name = "ops.run.log"
    _description = "Run log line"
    _order = "run_id.id desc, seq"
    _auto = False
    _log_access = False
    _rec_name = "message"

    run_id = fields.Many2one("ops.run", required=True, readonly=True)
    seq = fields.Integer("Line", required=True, readonly=True, aggregator=None)
    log_level = fields.Selection(LOG_LEVELS, required=True, readonly=True)
    message = fields.Text(readonly=True)
    metadata = fields.Json(readonly=True)
    step = fields.Char(compute="_compute_metadata", search="_search_step")
    logger = fields.Char(compute="_compute_metadata")
    timestamp = fields.Datetime(required=True, readonly=True)
    words = fields.Char(
        "Full text",
        search="_search_words",
        store=False,
        help='Words, "phrases", beginnings*, -exclusions and OR.',
    )

    def init(self):
        """As the events' model."""
        self.env["ops.kernel"]._make_history()

    @api.depends("metadata")
    def _compute_metadata(self):
        for line in self:
            line.step = (line.metadata or {}).get("step")
            line.logger = (line.metadata or {}).get("logger")

    @api.model
    def _search_step(self, operator, value):
        """By the step's name or a part of it; lines outside of steps have none."""
        if operator == "ilike":
            pattern = (
                "%" + value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            )
            return fields.Domain.custom(
                to_sql=lambda model, alias, query: SQL(
                    "coalesce(%s ->> 'step' ILIKE %s, false)",
                    SQL.identifier(alias, "metadata"),
                    pattern,
                )
            )
        if operator != "in":
            return NotImplemented
        names = [name for name in value if name]
        without = len(names) < len(value)

        def to_sql(model, alias, query):
            step = SQL("%s ->> 'step'", SQL.identifier(alias, "metadata"))
            condition = SQL("coalesce(%s = ANY(%s), false)", step, names)
            return SQL("(%s OR (%s) IS NULL)", condition, step) if without else condition

        return fields.Domain.custom(to_sql=to_sql)

    @api.model
    def _search_words(self, operator, value):
        """Lines that match a query of the kernel's full-text search.

        :raise KernelRefusal: a query that cannot be searched for, with the reason
        """
        if operator not in ("in", "=", "ilike", "like"):
            return NotImplemented
        values = value if operator == "in" else [value]
        bounds = self.env.context.get("ops_log_bounds") or SQL("true")
        return fields.Domain.OR(self._matches(str(query or ""), bounds) for query in values)

    @api.model
    def _search(self, domain, *arguments, **options):
        """Let the search for words pass over batches that hold no line for the other conditions."""
        domain = fields.Domain(domain)
        model = self
        if any(condition.field_expr == "words" for condition in domain.iter_conditions()):
            model = self.with_context(ops_log_bounds=self._batch_bounds(domain))
        return super(OpsRunLog, model)._search(domain, *arguments, **options)

    def _batch_bounds(self, domain):
        """Condition over the batches ``w``, from the conditions that all lines must meet."""
        bounds = [SQL("true")]
        if not self.env.su:
            projects = self.env["ops.project"].with_context(active_test=False)._search([])
            in_projects = projects.subselect()
            bounds.append(
                SQL(
                    "w.run_id IN (SELECT r.id FROM ops_run r WHERE r.project_id IN %s)", in_projects
                )
            )
        is_and = getattr(domain, "OPERATOR", None) == "&"
        for condition in domain.children if is_and else [domain]:
            if getattr(condition, "field_expr", None) in ("run_id", "log_level", "timestamp"):
                bounds += self._batch_bound(condition.optimize_full(self))
        return SQL(" AND ").join(bounds)

    @staticmethod
    def _batch_bound(condition):
        """What a condition on a line says of its batch; nothing where it has another form."""
        name = getattr(condition, "field_expr", None)
        operator, value = getattr(condition, "operator", None), getattr(condition, "value", None)
        if name == "run_id" and operator == "in" and all(type(each) is int for each in value):
            return [SQL("w.run_id = ANY(%s)", list(value))]
        if name == "log_level" and operator == "in":
            columns = [f"{level}_lines" for level, _label in LOG_LEVELS if level in value]
            return [
                SQL("(%s)", SQL(" OR ").join(SQL("w.%s > 0", SQL.identifier(c)) for c in columns))
            ][: len(columns)]
        if name == "timestamp" and operator in (">", ">="):
            return [SQL("w.last_time >= %s", value)]
        if name == "timestamp" and operator in ("<", "<="):
            return [SQL("w.first_time <= %s", value)]
        return []

    def _matches(self, query_text, bounds):
        kernel = self.env["ops.kernel"]
        reply = kernel._rows("read_log_query", query=query_text)[0]["read_log_query"]
        if not reply["success"]:
            raise KernelRefusal(reply)
        schema = kernel._get_schema()
        batches = SQL(
            "(SELECT w.* FROM %s(%s::tsquery) w WHERE %s)",
            SQL.identifier(schema, "matching_batches"),
            reply["words"],
            bounds,
        )
        self._check_effort(schema, batches)
        log_text, lower_text = (
            SQL.identifier(schema, "log_text"),
            SQL.identifier(schema, "lower_text"),
        )
        alternatives = SQL(" OR ").join(
            SQL(
                "(%s(l.message) LIKE %s AND %s(l.message) LIKE ALL(%s::text[])"
                " AND %s(l.message) NOT LIKE ALL(%s::text[]))",
                *(lower_text, alternative["hint"]),
                *(log_text, alternative["all"], log_text, alternative["none"]),
            )
            for alternative in reply["alternatives"]
        )

        def to_sql(model, alias, query):
            return SQL(
                "(%s, %s) IN (SELECT l.id, l.run_queued_at"
                " FROM %s w JOIN ops_run_log l ON l.run_queued_at = w.run_queued_at"
                " AND l.run_id = w.run_id AND l.seq BETWEEN w.first_seq AND w.last_seq WHERE %s)",
                SQL.identifier(alias, "id"),
                SQL.identifier(alias, "run_queued_at"),
                batches,
                alternatives,
            )

        return fields.Domain.custom(to_sql=to_sql)

    def _check_effort(self, schema, batches):
        """A list is sorted and counted: all its lines must be found first, unlike the pages of
        ``search_run_logs``."""
        rows = self.env.execute_query(
            SQL(
                "SELECT sum(b.last_seq - b.first_seq + 1) > %s() FROM %s b",
                SQL.identifier(schema, "max_searched_lines"),
                batches,
            )
        )
        if rows[0][0]:
            raise UserError(
                self.env._(
                    "Too many lines may hold these words. Add a rarer word, or choose a run, a"
                    " level or a time. Scripts and SQL can read all matches page by page:"
                    " search_run_logs."
                )
            )

    @api.model
    def _in_run(self, run_id):
        """Condition for the lines of a run. Its time, as a value, leaves one partition to plan."""
        rows = self.env.execute_query(SQL("SELECT create_date FROM ops_run WHERE id = %s", run_id))
        queued_at = rows[0][0] if rows else None
        return SQL("run_id = %s AND run_queued_at = %s::timestamp", run_id, queued_at)

    @api.model
    def _page(self, run_id, after, limit, search=None, levels=None, step=None):
        """Lines of one run behind ``after``, as dicts; the caller has checked the access."""
        conditions = [self._in_run(run_id), SQL("seq > %s", after)]
        if search:
            pattern = search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            conditions.append(SQL("message ILIKE %s", f"%{pattern}%"))
        if levels:
            conditions.append(SQL("log_level = ANY(%s)", list(levels)))
        if step:
            conditions.append(SQL("metadata ->> 'step' = %s", step))
        return self.env.execute_query_dict(
            SQL(
                'SELECT seq, to_char(timestamp, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') AS timestamp,'
                " log_level, message, metadata ->> 'step' AS step,"
                " metadata ->> 'logger' AS logger, metadata ->> 'stream' AS stream,"
                " metadata ->> 'ansi' AS ansi"
                " FROM ops_run_log WHERE %s ORDER BY seq LIMIT %s",
                SQL(" AND ").join(conditions),
                limit,
            )
        )

    @api.model
    def _outline(self, run_id):
        """Last line, lines per level and steps of one run; the caller has checked the access."""
        # Counted when they were stored, per batch: the viewer asks every few seconds.
        ((last_seq, *counts),) = self.env.execute_query(
            SQL(
                "SELECT coalesce(max(last_seq), 0), sum(debug_lines), sum(info_lines),"
                " sum(warn_lines), sum(error_lines) FROM ("
                " SELECT last_seq, debug_lines, info_lines, warn_lines, error_lines"
                " FROM ops_run_log_words WHERE %(run)s UNION ALL"
                " SELECT last_seq, debug_lines, info_lines, warn_lines, error_lines"
                " FROM ops_run_log_tail WHERE %(run)s) b",
                run=self._in_run(run_id),
            )
        )
        levels = zip((level for level, _label in LOG_LEVELS), counts, strict=True)
        return {
            "last_seq": last_seq,
            "levels": {level: int(count) for level, count in levels if count},
            "steps": self._steps(run_id),
        }

    @api.model
    def _steps(self, run_id):
        """The steps by their marker lines: where each begins, how long it took."""
        steps = []
        for row in self.env.execute_query_dict(
            SQL(
                "SELECT seq, metadata ->> 'marker' AS marker, metadata ->> 'step' AS name,"
                " (metadata ->> 'seconds')::float AS seconds FROM ops_run_log"
                " WHERE %s AND metadata ->> 'marker' IN ('start', 'end') ORDER BY seq",
                self._in_run(run_id),
            )
        ):
            if row["marker"] == "start":
                steps.append({"name": row["name"], "seq": row["seq"], "seconds": None})
                continue
            begun = [s for s in steps if s["name"] == row["name"] and s["seconds"] is None]
            if begun:
                begun[-1]["seconds"] = row["seconds"]
        return steps

    @api.model
    def _cron_index(self):
        """Scheduled action: enter the words of lines whose workers are gone. What does not fit into
        its time waits for the next; searches read it meanwhile."""
        kernel, deadline = self.env["ops.kernel"], time.monotonic() + INDEX_BUDGET_SECONDS
        while kernel._call_committed("index_run_logs")["lines"]:
            if time.monotonic() > deadline:
                return
