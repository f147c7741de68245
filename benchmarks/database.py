"""A connection to a measured database, and what the server says of itself."""

import platform
from collections import namedtuple
from pathlib import Path

import psycopg2

# What the driver executes, parsed and planned once per connection as any driver would.
PREPARED = """
PREPARE queue_run (integer) AS SELECT {schema}.queue_run($1);
PREPARE claim_run (text) AS SELECT {schema}.claim_next_run($1);
PREPARE timed_claim (text) AS
    SELECT clock_timestamp(), {schema}.claim_next_run($1), clock_timestamp();
PREPARE start_run (integer, text, integer) AS SELECT {schema}.start_workflow_run($1, $2, $3);
PREPARE complete_run (integer, text, integer) AS
    SELECT {schema}.complete_workflow_run(p_run_id => $1, p_exit_code => 0, p_worker_id => $2,
                                          p_epoch => $3);
"""
SETTINGS = (
    "fsync", "synchronous_commit", "full_page_writes", "wal_level", "wal_sync_method",
    "shared_buffers", "max_wal_size", "checkpoint_timeout", "autovacuum", "data_checksums",
)  # fmt: skip

Writes = namedtuple("Writes", "wal_bytes dead hot")


class Database:
    """One autocommit READ COMMITTED connection, as workers use."""

    def __init__(self, name):
        self.name = name
        self.connection = psycopg2.connect(dbname=name)
        self.connection.set_session(isolation_level="READ COMMITTED", autocommit=True)
        self._schema = None

    def close(self):
        self.connection.close()

    def rows(self, statement, *values):
        """All rows; an empty list for a statement that gives none."""
        with self.connection.cursor() as cr:
            cr.execute(statement, values or None)  # pylint: disable=sql-injection
            return cr.fetchall() if cr.description else []

    def value(self, statement, *values):
        """First column of the first row."""
        return self.rows(statement, *values)[0][0]

    @property
    def schema(self):
        """The kernel's schema."""
        if self._schema is None:
            self._schema = self.value(
                "SELECT nspname FROM pg_namespace"
                " WHERE obj_description(oid, 'pg_namespace') LIKE 'OdooOps kernel%'"
            )
        return self._schema

    def prepare(self):
        """Prepare the kernel's calls on this connection."""
        self.rows(PREPARED.format(schema=self.schema))

    def relation(self, name):
        """The table that holds the rows of ``name``: itself, or the one behind a view."""
        kind = self.value("SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", name)
        if kind != "v":
            return name
        return self.value(
            "SELECT c.oid::regclass::text FROM pg_depend d"
            " JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_class c ON c.oid = d.refobjid"
            " WHERE d.classid = 'pg_rewrite'::regclass AND w.ev_class = to_regclass(%s)"
            " AND c.relkind IN ('r', 'p') LIMIT 1",
            name,
        )

    def writes(self):
        """WAL position of the server, and row versions this database's tables left behind.

        Every update and delete leaves one; those of HOT updates go without a vacuum.
        """
        self.rows("SELECT pg_stat_clear_snapshot()")
        return Writes(
            *map(
                int,
                self.rows(
                    "SELECT pg_current_wal_insert_lsn() - '0/0', sum(n_tup_upd + n_tup_del),"
                    " sum(n_tup_hot_upd) FROM pg_stat_user_tables"
                )[0],
            )
        )


def writes_per(count, before, after):
    """The difference of two ``writes()``, per run."""
    return Writes(*((new - old) / count for old, new in zip(before, after, strict=True)))


def machine(db):
    """What a reader must know to compare: a dict of name and value, in the order to show."""
    facts = {
        "processor": f"{_processor()}, {_cpus()} CPUs",
        "memory": f"{_memory():.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, {_filesystem()}",
        "Python": platform.python_version(),
        "PostgreSQL": db.value("SHOW server_version"),
    }
    for name in SETTINGS:
        facts[name] = db.value("SELECT current_setting(%s)", name)
    return facts


def _processor():
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _cpus():
    return len(list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*"))) or 1


def _memory():
    line = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()[0]
    return int(line.split()[1]) / 1024**2


def _filesystem():
    """Type of the file system of this checkout, where a server of the set-up has its data."""
    here, best = Path(__file__).resolve(), ("", "unknown file system")
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _device, mount, kind, *_rest = line.split()
        if here.is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]
