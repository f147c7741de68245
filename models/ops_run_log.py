"""Lines of the runs' logs. Written in batches by the kernel, read by page.

The model reads a view, as ``ops_run_event.py`` says.
"""

from odoo import api, fields, models
from odoo.tools import SQL

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
    step = fields.Char(compute="_compute_metadata")
    logger = fields.Char(compute="_compute_metadata")
    timestamp = fields.Datetime(required=True, readonly=True)
    words = fields.Char(
        "Full text", search="_search_words", store=False, help="Words, phrases, or and -not."
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
    def _search_words(self, operator, value):
        if operator not in ("ilike", "=", "like"):
            return NotImplemented

        def to_sql(model, alias, query):
            return SQL(
                "to_tsvector('simple', %s) @@ websearch_to_tsquery('simple', %s)",
                SQL.identifier(alias, "message"),
                value,
            )

        return fields.Domain.custom(to_sql=to_sql)

    @api.model
    def _in_run(self, run_id):
        """Condition for the lines of a run. Its time, as a value, leaves one partition to plan."""
        rows = self.env.execute_query(SQL("SELECT create_date FROM ops_run WHERE id = %s", run_id))
        queued_at = rows[0][0] if rows else None
        return SQL("run_id = %s AND run_queued_at = %s::timestamp", run_id, queued_at)

    @api.model
    def _page(self, run_id, after, limit, search=None, levels=None):
        """Lines of one run behind ``after``, as dicts; the caller has checked the access."""
        conditions = [self._in_run(run_id), SQL("seq > %s", after)]
        if search:
            pattern = search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            conditions.append(SQL("message ILIKE %s", f"%{pattern}%"))
        if levels:
            conditions.append(SQL("log_level = ANY(%s)", list(levels)))
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
        counts = self.env.execute_query(
            SQL(
                "SELECT log_level, count(*), max(seq) FROM ops_run_log WHERE %s GROUP BY log_level",
                self._in_run(run_id),
            )
        )
        return {
            "last_seq": max((last for _level, _count, last in counts), default=0),
            "levels": {level: count for level, count, _last in counts},
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
