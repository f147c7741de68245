"""The rows of a life cycle alone: as far as any kernel that writes them could get here.

The three calls of a worker as one bare statement each, on copies of the kernel's tables with
all of their indexes: the same rows in the same transactions, hash included. What makes a kernel is
left out: no trigger, no check of the caller, the state or the limits, no choice of a project, no
partitions. Nobody could use that; it says how much of a life cycle's time is the kernel's own.
"""

from . import driver
from .database import writes_per

SCHEMA = "bench_bare"
MOST_MISSED = 10_000  # claims in a row that find nothing

TABLES = f"""
DROP SCHEMA IF EXISTS {SCHEMA} CASCADE;
CREATE SCHEMA {SCHEMA};
CREATE TABLE {SCHEMA}.run (LIKE ops_run INCLUDING ALL);
CREATE TABLE {SCHEMA}.event (LIKE {{events}} INCLUDING ALL);
CREATE TABLE {SCHEMA}.lease (LIKE ops_run_lease INCLUDING ALL) WITH (fillfactor = 50);
CREATE TABLE {SCHEMA}.gate (LIKE ops_project_gate INCLUDING ALL) WITH (fillfactor = 50);
INSERT INTO {SCHEMA}.gate SELECT * FROM ops_project_gate;
INSERT INTO {SCHEMA}.run SELECT * FROM ops_run WHERE status = 'queued';
"""

# The run's next event: into its row, and from there into the table of events.
_NEXT = """
    event_seq = event_seq + 1,
    event_hash = {schema}.event_hash(event_hash, id, event_seq + 1, 'state_change',
        clock_timestamp()::timestamp, '{to}', '{payload}')
"""
_EVENT = f"""
    INSERT INTO {SCHEMA}.event (run_id, run_queued_at, seq, event_type, message, payload,
                                "timestamp", prev_hash, hash)
    SELECT id, create_date, event_seq, 'state_change', '{{to}}', '{{payload}}', clock_timestamp(),
           event_hash, event_hash FROM moved
"""
_HELD = "WHERE id = $1 AND claimed_by = $2 AND epoch = $3 RETURNING *"

PREPARED = {
    "claimed": f"""PREPARE bare_claim (text, integer) AS
WITH gate AS (
    UPDATE {SCHEMA}.gate SET last_claimed_at = clock_timestamp() WHERE project_id = $2
), moved AS (
    UPDATE {SCHEMA}.run SET status = 'claimed', epoch = epoch + 1, claimed_by = $1,
        claimed_at = clock_timestamp(), {_NEXT}
    WHERE id = (SELECT r.id FROM {SCHEMA}.run r WHERE r.project_id = $2 AND r.status = 'queued'
                ORDER BY r.priority DESC, r.available_at, r.id LIMIT 1
                FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING *
), lease AS (
    INSERT INTO {SCHEMA}.lease (run_id, epoch, worker_id, lease_until, run_queued_at)
    SELECT id, epoch, claimed_by, clock_timestamp() + interval '30 s', create_date FROM moved
), event AS ({_EVENT})
SELECT id, epoch, snapshot FROM moved, set_config('synchronous_commit', 'off', true)""",
    "running": f"""PREPARE bare_start (integer, text, integer) AS
WITH moved AS (
    UPDATE {SCHEMA}.run SET status = 'running', started_at = clock_timestamp(),
        deadline = clock_timestamp() + interval '1 h', {_NEXT} {_HELD}
), lease AS (
    UPDATE {SCHEMA}.lease SET lease_until = clock_timestamp() + interval '60 s' WHERE run_id = $1
), event AS ({_EVENT})
SELECT true FROM moved""",
    "succeeded": f"""PREPARE bare_complete (integer, text, integer) AS
WITH moved AS (
    UPDATE {SCHEMA}.run SET status = 'succeeded', exit_code = 0, finished_at = clock_timestamp(),
        {_NEXT} {_HELD}
), lease AS (
    DELETE FROM {SCHEMA}.lease WHERE run_id = $1
), event AS ({_EVENT})
SELECT true FROM moved""",
}


def drain(site, count, connections):
    """Take ``count`` runs through their life, as ``kernel.drain``, in copies of the tables.

    :return: a dict with rate and writes
    :raise BenchmarkError: when the copies do not hold what they should in the end
    """
    site.fill.set_queued(count)
    events = site.db.relation("ops_run_event")
    site.db.rows(TABLES.format(events=events))
    try:
        for table in ("run", "gate"):
            site.db.rows(f"VACUUM (ANALYZE) {SCHEMA}.{table}")
        left = driver.CONTEXT.Value("q", count)
        projects = [project for project, _workflow in site.fill.projects]
        before = site.db.writes()
        result = driver.together(
            site.name, connections, _cycle, left, projects, connections, prepared=False
        )
        done = sum(result.results)
        _check(site.db, done)
        return {
            "rate": done / result.seconds,
            "writes": writes_per(done, before, site.db.writes()),
        }
    finally:
        site.db.rows(f"DROP SCHEMA {SCHEMA} CASCADE")


def _check(db, done):
    found = db.rows(
        f"SELECT (SELECT count(*) FROM {SCHEMA}.run WHERE status = 'succeeded'),"
        f" (SELECT count(*) FROM {SCHEMA}.event), (SELECT count(*) FROM {SCHEMA}.lease)"
    )
    if found != [(done, 3 * done, 0)]:
        raise driver.BenchmarkError(f"{done} bare life cycles left these rows: {found}")


def _cycle(db, index, left, projects, connections):
    """Each connection goes round the projects, beginning at another one."""
    worker, done = driver.worker_name(index), 0
    for status, statement in PREPARED.items():
        payload = f'{{"to": "{status}", "epoch": 1, "worker_id": "{worker}"}}'
        db.rows(
            statement.replace("{schema}", db.schema)
            .replace("{to}", status)
            .replace("{payload}", payload)
        )
    turn, missed = index * len(projects) // connections, 0
    with db.connection.cursor() as cr:
        while driver.take(left):
            turn += 1
            cr.execute("EXECUTE bare_claim(%s, %s)", (worker, projects[turn % len(projects)]))
            row = cr.fetchone()
            if not row:
                # None left in this project, or others have locked its last ones.
                missed += 1
                if missed > MOST_MISSED:
                    raise driver.BenchmarkError("there are fewer runs than there should be")
                driver.give_back(left)
                continue
            missed = 0
            run_id, epoch, _snapshot = row
            for statement in (
                "EXECUTE bare_start(%s, %s, %s)",
                "EXECUTE bare_complete(%s, %s, %s)",
            ):
                cr.execute(statement, (run_id, worker, epoch))
                if cr.fetchone() != (True,):
                    raise driver.BenchmarkError(f"{statement} changed nothing")
            done += 1
    return done
