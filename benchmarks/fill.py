"""Millions of finished runs and any number of queued ones, made in minutes.

They are copies of runs that really went through the kernel: one run per project is queued,
claimed, started and completed by its functions, and then copied with other numbers and times.
A column that the kernel gains later is copied along. Triggers are switched off for that, and so
are indexes and foreign keys while many rows come; they are made again from their own definitions.

Queued runs have their event, with its true hash. Of the finished ones a share has all of its
events: events are found by their run alone, so more of them would deepen one index, and take
longer than everything else here.
"""

import contextlib
import time
import uuid

from psycopg2.extras import Json

from . import driver

PROJECTS = 20
CHUNK = 250_000
# From here on it pays to build the indexes anew.
MANY = 100_000
# Finished runs lie behind one another in this time, up to now.
HISTORY_DAYS = 300
EVENTS_SHARE = 20  # one of so many finished runs has its events

# What the runs' snapshots hold; nobody executes them.
REPOSITORY = "https://git.example.com/bench.git"
CONFIG = {
    "modules": ["sale_extra", "stock_extra"],
    "timeout": 3600,
    "retry": {"max": 1, "on": ["worker_lost"]},
    "env": {"ODOO_LOG": "info"},
}


def make_projects(db, count=PROJECTS, max_running=1000, config=CONFIG, repository_url=REPOSITORY):
    """Projects with one workflow each; returns pairs of project id and workflow id."""
    made = []
    for _ in range(count):
        key = uuid.uuid4().hex[:8]
        project = db.value(
            "INSERT INTO ops_project (name, slug, workspace_key, odoo_version, default_branch,"
            " repository_url, active, max_running) VALUES (%s, %s, %s, '19.0', 'main',"
            " %s, true, %s) RETURNING id",
            f"Bench {key}", f"bench-{key}", f"bench_{key}", repository_url, max_running,
        )  # fmt: skip
        workflow = db.value(
            "INSERT INTO ops_workflow (name, project_id, workflow_type, enabled, config)"
            " VALUES ('Tests', %s, 'test', true, %s) RETURNING id",
            project, Json(config),
        )  # fmt: skip
        made.append((project, workflow))
    return made


class Fill:
    """The rows of one database. ``projects`` are pairs of project id and workflow id."""

    def __init__(self, db, projects, progress):
        self.db = db
        self.projects = projects
        self.progress = progress
        self.events = db.relation("ops_run_event")
        db.prepare()
        self._copy_templates()

    def _copy_templates(self):
        """One finished run per project, through the kernel, and its rows as they were queued."""
        db, schema = self.db, self.db.schema
        runs = [
            db.value(f"SELECT {schema}.queue_run(%s)", workflow)["run_id"]
            for _project, workflow in self.projects
        ]
        db.rows(
            "CREATE TEMP TABLE queued_template AS SELECT * FROM ops_run WHERE id = ANY(%s)", runs
        )
        worker = driver.worker_name(0)
        while (reply := driver.claim(db, worker))["run_id"]:
            driver.start(db, worker, reply)
            driver.complete(db, worker, reply)
        db.rows(
            "CREATE TEMP TABLE finished_template AS SELECT * FROM ops_run WHERE id = ANY(%s)", runs
        )
        db.rows(
            f"CREATE TEMP TABLE event_template AS SELECT * FROM {self.events}"
            " WHERE run_id = ANY(%s)",
            runs,
        )
        for name in ("queued_template", "finished_template", "event_template"):
            db.rows(f"ANALYZE {name}")

    def counts(self):
        """Finished and queued runs."""
        return self.db.rows(
            "SELECT count(*) FILTER (WHERE status = 'succeeded'),"
            " count(*) FILTER (WHERE status = 'queued') FROM ops_run"
        )[0]

    # -- finished -------------------------------------------------------------------------

    def add_finished(self, count):
        """Add so many finished runs, then vacuum and analyze as a server does in time."""
        if count <= 0:
            return
        began, done = time.monotonic(), 0
        with self._bulk(count):
            while done < count:
                part = min(CHUNK, count - done)
                self._new_runs(part, done / count, part / count)
                self._hash_chains(
                    EVENTS_SHARE, self.db.value("SELECT max(seq) FROM event_template")
                )
                self._insert_runs("finished_template", _FINISHED)
                self._insert_events()
                done += part
                self.progress(f"{done:,} of {count:,} finished runs")
        self.vacuum()
        self.progress(f"filled in {time.monotonic() - began:.0f} s")

    def sample(self, count):
        """Some of the runs made last that have events."""
        rows = self.db.rows("SELECT id FROM new_hash ORDER BY random() LIMIT %s", count)
        return [run_id for (run_id,) in rows]

    # -- queued ---------------------------------------------------------------------------

    def set_queued(self, count):
        """Bring the queue to so many runs, all of them available now."""
        queued = self.db.value("SELECT count(*) FROM ops_run WHERE status = 'queued'")
        if queued < count:
            with self._bulk(count - queued):
                self._new_runs(count - queued, 1, 0)
                self._hash_chains(1, 1)
                self._insert_runs("queued_template", _QUEUED)
                self._insert_events()
        elif queued > count:
            self._remove_queued(queued - count)
        if abs(count - queued) > MANY // 10:
            self.vacuum()

    def _remove_queued(self, count):
        with self._bulk(0):
            self.db.rows(
                "CREATE TEMP TABLE removed ON COMMIT DROP AS SELECT id FROM ops_run"
                " WHERE status = 'queued' ORDER BY id DESC LIMIT %s",
                count,
            )
            self.db.rows(f"DELETE FROM {self.events} WHERE run_id IN (SELECT id FROM removed)")
            self.db.rows("DELETE FROM ops_run WHERE id IN (SELECT id FROM removed)")

    # -- one function per table -----------------------------------------------------------

    def _new_runs(self, count, begin, share):
        """Which runs are to be made: table ``new_run`` with id, number, time and project.

        :param begin: where in the history they begin, 0 its start, 1 now
        :param share: how much of the history they take
        """
        db = self.db
        rank = {project: index for index, (project, _workflow) in enumerate(self.projects)}
        first_id = db.value("SELECT nextval('ops_run_id_seq')")
        db.rows("SELECT setval('ops_run_id_seq', %s)", first_id + count)
        db.rows("DROP TABLE IF EXISTS project_rank, new_run")
        db.rows(
            "CREATE TEMP TABLE project_rank AS SELECT p AS project_id,"
            " (%s::jsonb ->> p::text)::int AS rank,"
            f" nextval(format('{db.schema}.%%I', 'run_number_' || p)) AS first_number"
            " FROM unnest(%s) p",
            Json(rank), list(rank),
        )  # fmt: skip
        db.rows(
            "CREATE TEMP TABLE new_run AS SELECT %s + n AS id, p.project_id,"
            " (p.first_number + n / %s)::int AS run_number,"
            " (now() AT TIME ZONE 'UTC') - make_interval(secs => 86400.0 * %s * (%s - %s * n / %s))"
            " - interval '2 minutes' AS queued_at"
            " FROM generate_series(0, %s - 1) n JOIN project_rank p ON p.rank = n %% %s",
            first_id, len(rank), HISTORY_DAYS, 1 - begin, share, count, count, len(rank),
        )  # fmt: skip
        db.rows("ANALYZE new_run")
        db.rows(
            f"SELECT setval(format('{db.schema}.%%I', 'run_number_' || project_id),"
            " first_number + %s) FROM project_rank",
            count // len(rank) + 1,
        )

    def _hash_chains(self, share, length):
        """Table ``new_hash``: the first ``length`` hashes of the chain of every ``share``-th new
        run, by the kernel's own function. Only these runs get events."""
        db = self.db
        steps = " ".join(
            f"CROSS JOIN LATERAL (SELECT {db.schema}.event_hash("
            f"    {f'h{seq - 1}.hash' if seq > 1 else 'NULL'}, n.id, e.seq, e.event_type,"
            f"    {_EVENT['timestamp'].replace('t.seq', 'e.seq')}, e.message, e.payload) AS hash"
            f"  FROM event_of e WHERE e.of_project = n.project_id AND e.seq = {seq}) h{seq}"
            for seq in range(1, length + 1)
        )
        hashes = ", ".join(f"h{seq}.hash" for seq in range(1, length + 1))
        db.rows("DROP TABLE IF EXISTS new_hash")
        db.rows(
            "CREATE TEMP TABLE new_hash AS WITH event_of AS MATERIALIZED ("
            "    SELECT t.project_id AS of_project, e.* FROM event_template e"
            "    JOIN finished_template t ON t.id = e.run_id)"
            f" SELECT n.id, ARRAY[{hashes}] AS hashes FROM new_run n {steps} WHERE n.id %% %s = 0",
            share,
        )
        db.rows("ANALYZE new_hash")

    def _insert_runs(self, template, overrides):
        """Table ops_run: the template's row of the project, but for what ``overrides`` says."""
        self._insert(
            "ops_run",
            overrides,
            f"new_run n JOIN {template} t ON t.project_id = n.project_id"
            " LEFT JOIN new_hash h ON h.id = n.id",
        )

    def _insert_events(self):
        """Table ops_run_event: as many of the template's events as there are hashes."""
        self._insert(
            self.events,
            _EVENT,
            "new_run n JOIN new_hash h ON h.id = n.id"
            " JOIN finished_template f ON f.project_id = n.project_id"
            " JOIN event_template t ON t.run_id = f.id AND t.seq <= cardinality(h.hashes)"
            " ORDER BY n.id, t.seq",
        )

    def _insert(self, table, overrides, source):
        columns = [
            name
            for (name,) in self.db.rows(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
                " AND NOT attisdropped AND attgenerated = ''"
                " AND NOT (attname = 'id' AND %s) ORDER BY attnum",
                table, "id" not in overrides,
            )
        ]  # fmt: skip
        values = ", ".join(overrides.get(name, f't."{name}"') for name in columns)
        names = ", ".join(f'"{name}"' for name in columns)
        self.db.rows(f"INSERT INTO {table} ({names}) SELECT {values} FROM {source}")

    # -- around it ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _bulk(self, count):
        """One transaction without triggers; for many rows without indexes and foreign keys."""
        tables = ("ops_run", self.events)
        self.db.rows("BEGIN")
        try:
            for table in tables:
                self.db.rows(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            again = []
            if count >= MANY:
                self.db.rows("SET LOCAL maintenance_work_mem = '512MB'")
                again = [statement for table in tables for statement in self._strip(table)]
            yield
            for statement in again:
                self.db.rows(statement)
            for table in tables:
                self.db.rows(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        except BaseException:
            self.db.rows("ROLLBACK")
            raise
        self.db.rows("COMMIT")

    def _strip(self, table):
        """Drop what each row would have to pass; returns the statements that bring it back."""
        keys = self.db.rows(
            "SELECT c.conname, pg_get_constraintdef(c.oid) FROM pg_constraint c"
            " WHERE c.conrelid = %s::regclass AND c.conparentid = 0"
            # What others refer to stays.
            " AND (c.contype = 'f' OR c.contype = 'u' AND NOT EXISTS ("
            "     SELECT FROM pg_constraint o WHERE o.contype = 'f' AND o.conindid = c.conindid))"
            " ORDER BY c.contype DESC, c.conname",
            table,
        )
        again = []
        for name, definition in keys:
            self.db.rows(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
            again.append(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}')
        indexes = self.db.rows(
            "SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)"
            " FROM pg_index i WHERE i.indrelid = %s::regclass"
            " AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)",
            table,
        )
        for name, definition in indexes:
            self.db.rows(f"DROP INDEX {name}")
            # Of a partitioned table: made for its partitions, too.
            again.append(definition.replace(" ON ONLY ", " ON "))
        return again

    def vacuum(self):
        """Vacuum and analyze what was filled, as a server does by itself in time."""
        for table in ("ops_run", self.events):
            self.db.rows(f"VACUUM (ANALYZE) {table}")


_QUEUED = {
    "id": "n.id",
    "run_number": "n.run_number",
    "event_hash": "h.hashes[1]",
    **dict.fromkeys(("create_date", "write_date", "available_at"), "n.queued_at"),
}
_FINISHED = {
    **_QUEUED,
    "event_hash": "coalesce(h.hashes[t.event_seq], encode(sha256(int4send(n.id)), 'hex'))",
    "claimed_at": "n.queued_at + interval '1 second'",
    "started_at": "n.queued_at + interval '2 seconds'",
    "finished_at": "n.queued_at + interval '1 minute'",
    "write_date": "n.queued_at + interval '1 minute'",
}
_EVENT = {
    "run_id": "n.id",
    "prev_hash": "h.hashes[t.seq - 1]",
    "hash": "h.hashes[t.seq]",
    "timestamp": "n.queued_at + (t.seq - 1) * interval '1 second'",
    # Where events are partitioned: the day the run was queued.
    "run_queued_at": "n.queued_at",
}
