"""The event trail as JSON Lines, for ``scripts/odooops/verify_audit.py``; see docs/audit.md.

Memory is bounded: rows come through server-side cursors and leave as lines. All of them are
read in the one snapshot of the cursor's REPEATABLE READ transaction.
"""

import json
import uuid
from contextlib import contextmanager

from odoo.tools import SQL

FORMAT = "odooops audit 2"
CHUNK_ROWS = 500
CHUNK_BYTES = 64 * 1024

CHECKPOINT_FIELDS = (
    "version",
    "number",
    "database_uuid",
    "timestamp",
    "prev_hash",
    "run_count",
    "event_count",
    "root",
    "key_id",
    "expiry_number",
    "expiry_hash",
    "hash",
    "public_key",
    "signature",
    "projects",
)
EXPIRY_FIELDS = (
    *("number", "timestamp", "prev_hash", "range_from", "range_to", "checkpoint_number"),
    *("run_count", "event_count", "root", "user_id", "hash", "projects"),
)
EVENT_FIELDS = ("seq", "event_type", "timestamp", "message", "payload", "prev_hash", "hash")


def export_bytes(cr, schema, database_uuid, project=None):
    """The lines in UTF-8, in parts of some 64 KiB.

    :param cr: an Odoo cursor in which nothing has been read yet
    :param schema: name of the kernel's schema
    :param project: id and slug of the project, a tuple; None exports all of them
    """
    part, size = [], 0
    for line in _lines(cr, schema, database_uuid, project):
        data = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"
        part.append(data)
        size += len(data)
        if size >= CHUNK_BYTES:
            yield b"".join(part)
            part, size = [], 0
    yield b"".join(part)


def _lines(cr, schema, database_uuid, project):
    counts = {"checkpoint": 0, "expiry": 0, "run": 0, "event": 0}
    for line in _counted_lines(cr, schema, database_uuid, project):
        if line["kind"] in counts:
            counts[line["kind"]] += 1
        yield line
    yield {"kind": "end", **{f"{kind}_count": count for kind, count in counts.items()}}


def _counted_lines(cr, schema, database_uuid, project):
    cr.execute(
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )
    yield {
        "kind": "export",
        "format": FORMAT,
        "database_uuid": database_uuid,
        "timestamp": cr.fetchone()[0],
        "project": project and {"id": project[0], "slug": project[1]},
    }
    for kind, fields, function in (
        ("checkpoint", CHECKPOINT_FIELDS, "list_checkpoints"),
        ("expiry", EXPIRY_FIELDS, "list_expiries"),
    ):
        names = SQL(", ").join(SQL.identifier(name) for name in fields)
        query = SQL("SELECT %s FROM %s()", names, SQL.identifier(schema, function))
        with _rows(cr, query) as rows:
            for row in rows:
                yield {"kind": kind, **dict(zip(fields, row, strict=True))}
    for project_id in [project[0]] if project else _project_ids(cr):
        yield from _runs_with_events(cr, project_id)


def _project_ids(cr):
    cr.execute(
        "SELECT id FROM ops_project UNION SELECT project_id FROM ops_audit_head"
        " UNION SELECT project_id FROM ops_audit_expiry_run ORDER BY 1"
    )
    return [project_id for (project_id,) in cr.fetchall()]


def _runs_with_events(cr, project_id):
    """Each run with the heads that checkpoints hold of it, followed by its events."""
    with _rows(cr, _run_query(project_id)) as runs, _rows(cr, _event_query(project_id)) as events:
        event = next(events, None)
        for run_id, run_number, event_seq, event_hash, heads, expired in runs:
            yield {
                "kind": "run",
                "project_id": project_id,
                "run_id": run_id,
                "run_number": run_number,
                "event_seq": event_seq,
                "event_hash": event_hash,
                "heads": heads,
                "expired": expired,
            }
            while event and event[0] <= run_id:
                fields = dict(zip(EVENT_FIELDS, event[1:], strict=True))
                yield {"kind": "event", "run_id": event[0], **fields}
                event = next(events, None)


def _run_query(project_id):
    """Runs of the project, and those that are gone but stand in a checkpoint."""
    return SQL(
        "SELECT run_id, r.run_number, r.event_seq, r.event_hash, coalesce(h.heads, '[]'), x.expired"
        " FROM (SELECT id AS run_id, run_number, event_seq, event_hash"
        "       FROM ops_run WHERE project_id = %s) r"
        " FULL JOIN (SELECT run_id, jsonb_agg(jsonb_build_array("
        "                checkpoint_number, event_seq, event_hash) ORDER BY checkpoint_number"
        "            ) AS heads"
        "            FROM ops_audit_head WHERE project_id = %s GROUP BY run_id) h USING (run_id)"
        " FULL JOIN (SELECT run_id, jsonb_build_array("
        "                expiry_number, event_seq, event_hash) AS expired"
        "            FROM ops_audit_expiry_run WHERE project_id = %s) x USING (run_id)"
        " ORDER BY run_id",
        project_id,
        project_id,
        project_id,
    )


def _event_query(project_id):
    """Their events. The payload goes as text: as jsonb prints it, it is part of the hash."""
    return SQL(
        "SELECT e.run_id, e.seq, e.event_type,"
        ' to_char(e.timestamp, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\'),'
        " coalesce(e.message, ''), coalesce(e.payload, '{}')::text, e.prev_hash, e.hash"
        " FROM ops_run_event_row e"
        " WHERE e.run_id IN (SELECT id FROM ops_run WHERE project_id = %s"
        "                    UNION SELECT run_id FROM ops_audit_head WHERE project_id = %s)"
        " ORDER BY e.run_id, e.seq",
        project_id,
        project_id,
    )


@contextmanager
def _rows(cr, query):
    """Rows of a query through a server-side cursor."""
    with cr._cnx.cursor(name=f"odooops_{uuid.uuid4().hex}") as named:
        named.itersize = CHUNK_ROWS
        named.execute(query.code, query.params)
        yield iter(named)
