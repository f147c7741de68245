"""How fast log lines are stored and found, beside PostgreSQL's own COPY on the same server.

``ingest`` and ``search`` make their material in a project of their own, take the time on the
client (its own part included) and return plain dicts of figures. Nothing is printed. What they
leave behind goes with the database, which is made for measuring.
"""

import io
import itertools
import json
import random
import statistics
import threading
import time
import uuid
from datetime import datetime, timedelta, timezone

import psycopg2
from psycopg2.extras import Json

BATCH = 1000
PAGE = 500
# Lines that are searched while no index has their words yet: those of a second, at a busy time.
TAIL = 20_000
START = datetime(2026, 1, 12, 10, 0, tzinfo=timezone.utc)
METADATA = {"step": "Test", "stream": "stdout"}
# Stands in a few lines of the largest run and nowhere else.
RARE_WORD = "zyzzyva"
COMMON_WORD = "loading"

VOCABULARY = (
    "account sale stock purchase project crm mail website product partner invoice payment order"
    " line move picking tax journal bank company currency report menu view rule cron queue import"
    " export portal fleet event survey loyalty delivery repair quality lot route warehouse"
)
NOUNS = VOCABULARY.split()


class Lines:
    """An endless log such as Odoo writes it: about 140 bytes a line, the same in each process."""

    def __init__(self, seed=7):
        self.random = random.Random(seed)
        pick = self.random.sample
        self.modules = ["_".join(pick(NOUNS, self._some(1, 3))) for _ in range(300)]
        self.models = [".".join(pick(NOUNS, self._some(2, 3))) for _ in range(600)]
        self.files = [
            f"{self._one(self.modules)}/{kind}/{'_'.join(pick(NOUNS, 2))}_{kind}.xml"
            for kind in ("data", "views", "security", "wizard", "report")
            for _ in range(500)
        ]
        self.templates = [
            (30, self._file),
            (15, self._module),
            (10, self._model),
            (20, self._test),
            (15, self._query),
            (10, self._request),
        ]
        self.weights = list(itertools.accumulate(weight for weight, _make in self.templates))

    def __iter__(self):
        for number in itertools.count():
            moment = START + timedelta(milliseconds=7 * number)
            (_weight, make) = self.random.choices(self.templates, cum_weights=self.weights)[0]
            stamp = f"{moment:%Y-%m-%d %H:%M:%S},{moment.microsecond // 1000:03d}"
            yield f"{moment.isoformat()}", f"{stamp} 12203 {make()}"

    def _some(self, low, high):
        return self.random.randint(low, high)

    def _one(self, words):
        return self.random.choice(words)

    def _file(self):
        return f"INFO demo odoo.modules.loading: loading {self._one(self.files)}"

    def _module(self):
        seconds, queries = self._some(1, 900) / 100, self._some(1, 2000)
        return (
            f"INFO demo odoo.modules.loading: Module {self._one(self.modules)} loaded in"
            f" {seconds:.2f}s, {queries} queries (+{queries} other)"
        )

    def _model(self):
        field = f"{self._one(NOUNS)}_{self._one(NOUNS)}"
        return f"INFO demo odoo.models: Prepare computation of {self._one(self.models)}.{field}"

    def _test(self):
        module, name = self._one(self.modules), self._one(NOUNS)
        return (
            f"INFO demo odoo.addons.{module}.tests.test_{name}: Starting"
            f" Test{name.title()}.test_{self._one(NOUNS)}_{self._one(NOUNS)} ..."
        )

    def _query(self):
        table = f"{self._one(NOUNS)}_{self._one(NOUNS)}"
        ids = f"{self._some(1, 99999)}, {self._some(1, 99999)}"
        return (
            f'DEBUG demo odoo.sql_db: query: SELECT "{table}"."id" FROM "{table}" WHERE'
            f' "{table}"."id" IN ({ids}) [{self._some(1, 3000) / 1000:.3f} ms]'
        )

    def _request(self):
        return (
            f'INFO demo werkzeug: 127.0.0.1 - - "POST /web/dataset/call_kw/'
            f'{self._one(self.models)}/web_search_read HTTP/1.1" 200 - {self._some(1, 60)}'
            f" 0.{self._some(0, 999):03d} 0.{self._some(0, 999):03d}"
        )


class Door:
    """Runs that are being executed, and the kernel's functions, on one connection."""

    def __init__(self, connection):
        """:param connection: of psycopg2, autocommit, of the role that owns the tables"""
        self.connection = connection
        self.schema = self.query(
            "SELECT nspname FROM pg_namespace"
            " WHERE obj_description(oid, 'pg_namespace') LIKE 'OdooOps kernel%'"
        )[0][0]
        key = uuid.uuid4().hex[:8]
        self.worker_id = f"bench-{key}"
        self.project_id = self.query(
            "INSERT INTO ops_project (name, slug, workspace_key, odoo_version, default_branch,"
            " active, max_running) VALUES ('Logs', %s, %s, '19.0', 'main', true, 1000)"
            " RETURNING id",
            f"logs-{key}",
            f"logs_{key}",
        )[0][0]
        # A label of its own, so that no other run is claimed here and none of these elsewhere.
        self.labels = [self.worker_id]
        self.workflow_id = self.query(
            "INSERT INTO ops_workflow (name, project_id, workflow_type, enabled, config)"
            " VALUES ('Nothing', %s, 'test', true, %s) RETURNING id",
            self.project_id,
            Json({"labels": self.labels, "steps": [{"name": "Nothing", "run": "true"}]}),
        )[0][0]

    def query(self, statement, *values):
        with self.connection.cursor() as cr:
            cr.execute(statement, values or None)  # pylint: disable=sql-injection
            return cr.fetchall() if cr.description else []

    def call(self, function, *values):
        marks = ", ".join(["%s"] * len(values))
        return self.query(f"SELECT {self.schema}.{function}({marks})", *values)[0][0]

    def start(self):
        """A new running run: its id and epoch."""
        self.call("queue_run", self.workflow_id)
        claim = self.call("claim_next_run", self.worker_id, self.labels)
        self.call("start_workflow_run", claim["run_id"], self.worker_id, claim["epoch"])
        return claim["run_id"], claim["epoch"]

    def append(self, run_id, epoch, first_seq, batch):
        """Store one batch; the lines are JSON text already."""
        reply = self.call("append_run_logs", run_id, epoch, first_seq, batch)
        if not reply["success"]:
            raise RuntimeError(reply["error"])

    def index(self):
        """Enter words of stored lines, as workers do, until there is nothing left to do now."""
        while self.call("index_run_logs")["lines"]:
            pass


class Indexer:
    """What a worker does beside storing lines, on a connection of its own, while a block runs."""

    def __init__(self, door):
        self.door = door
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._work)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_error):
        self.is_over.set()
        self.thread.join()

    def _work(self):
        connection = psycopg2.connect(dbname=self.door.connection.info.dbname)
        connection.autocommit = True
        with connection.cursor() as cr:
            while True:
                # Asked first: after the end comes one more look, at all there is.
                was_over = self.is_over.is_set()
                while self._index(cr):
                    pass
                if was_over:
                    break
                time.sleep(0.005)
        connection.close()

    def _index(self, cr):
        cr.callproc(f"{self.door.schema}.index_run_logs")
        return cr.fetchone()[0]["lines"]


def ingest(connection, lines=100_000, repetitions=3):
    """Lines per second through ``append_run_logs`` in batches of 1,000, and through COPY.

    Each batch is committed; the JSON and the text for COPY are made beforehand. Meanwhile another
    connection enters the words in the index, as a worker does. COPY writes the same rows into an
    unindexed copy of the table, once as one statement and once in the same batches, each committed:
    that is as durable as what append_run_logs does. All take turns, so that a busy machine disturbs
    all of them.

    :return: per repetition (lines/s) ``stored``: until the last line was stored, and found by
        searches; ``indexed``: until the words of the last line were in the index, too;
        ``in_turn``: both by one connection, first all of the one and then all of the other;
        ``copy``, ``copy_in_batches``. Bytes per line of text
    """
    door = Door(connection)
    material = list(itertools.islice(Lines(), lines))
    batches = [_as_json(part) for part in _parts(material)]
    rows = [_as_row(number, *line) for number, line in enumerate(material, start=1)]
    copies = ["".join(part) for part in _parts(rows)]
    door.query(
        "DROP TABLE IF EXISTS bench_log;"
        " CREATE TABLE bench_log (LIKE ops_run_log_line INCLUDING DEFAULTS)"
    )
    figures = []
    for _ in range(repetitions):
        taken = {"copy": _seconds(lambda: _copy(connection, ["".join(copies)]))}
        run_id, epoch = door.start()
        begin = time.monotonic()
        with Indexer(door):
            taken["stored"] = _seconds(lambda r=run_id, e=epoch: _append(door, r, e, batches))
        taken["indexed"] = time.monotonic() - begin
        left = "SELECT coalesce(sum(last_seq - first_seq + 1), 0) FROM ops_run_log_tail"
        if door.query(f"{left} WHERE run_id = %s", run_id)[0][0] >= BATCH:
            raise RuntimeError("the second connection has not indexed all lines")
        taken["copy_in_batches"] = _seconds(lambda: _copy(connection, copies))
        run_id, epoch = door.start()
        begin = time.monotonic()
        _append(door, run_id, epoch, batches)
        door.index()
        taken["in_turn"] = time.monotonic() - begin
        figures.append({name: lines / seconds for name, seconds in taken.items()})
        door.query("TRUNCATE bench_log")
    door.query("DROP TABLE bench_log")
    return {
        "lines": lines,
        "bytes_per_line": sum(len(message) for _time, message in material) / lines,
        "repetitions": figures,
    }


def fill(connection, lines, rare=5):
    """A running run with so many lines, ``RARE_WORD`` in ``rare`` of them; its id and Door.

    The words of its lines are not in the index yet.
    """
    door = Door(connection)
    run_id, epoch = door.start()
    source = iter(Lines())
    every = max(1, lines // rare)
    for first in range(0, lines, BATCH):
        part = list(itertools.islice(source, min(BATCH, lines - first)))
        for number in range(first, first + len(part)):
            if number % every == every // 2:
                stamp, message = part[number - first]
                part[number - first] = (stamp, f"{message} {RARE_WORD}")
        door.append(run_id, epoch, first + 1, _as_json(part))
    return run_id, door


def search(connection, page_lines=1_000_000, search_lines=5_000_000, repetitions=7):
    """Milliseconds of a page of a long log and of searches among many lines.

    :return: ``pages``: by offset, of 500 lines of a run with ``page_lines``; ``searches``: by
        name ``rows`` and ``ms``, the first 100 matches among ``search_lines`` lines of all
        runs, all of them indexed but for those of one search. Each value is the median of the
        repetitions; ``worst`` the slowest of them.
    """
    run_id, door = fill(connection, page_lines)
    fill(connection, max(BATCH, search_lines - page_lines), rare=3)
    door.index()
    door.query("VACUUM ANALYZE ops_run_log_line")
    door.query("VACUUM ANALYZE ops_run_log_words")
    pages = {}
    for after in (0, page_lines // 2, page_lines - 2 * PAGE):
        pages[after] = _timed(
            repetitions,
            lambda after=after: door.query(
                f"SELECT * FROM {door.schema}.run_logs WHERE run_id = %s AND seq > %s"
                " ORDER BY seq LIMIT %s",
                *(run_id, after, PAGE),
            ),
        )
    queries = {
        "rare word": (RARE_WORD, {}),
        "prefix of a rare word": (RARE_WORD[:5] + "*", {}),
        "common word": (COMMON_WORD, {}),
        "phrase": ('"prepare computation of"', {}),
        "common words without a third": (f"{COMMON_WORD} sale* -account*", {}),
        "rare word in one run": (RARE_WORD, {"p_run_id": run_id}),
        "word that is nowhere": ("xyloglyphy", {}),
        "common word at a level it never has": (COMMON_WORD, {"p_levels": ["error"]}),
    }
    searches = {
        name: _search(door, query, filters, repetitions)
        for name, (query, filters) in queries.items()
    }
    tail = min(TAIL, page_lines)
    fill(connection, tail, rare=1)
    searches[f"rare word, {tail:,} lines not indexed yet"] = _search(
        door, RARE_WORD, {}, repetitions
    )
    return {
        "lines": door.query("SELECT count(*) FROM ops_run_log")[0][0],
        "pages": pages,
        "searches": searches,
    }


def _search(door, query, filters, repetitions):
    named = "".join(f", {name} => %s" for name in filters)
    return _timed(
        repetitions,
        lambda: door.query(
            f"SELECT * FROM {door.schema}.search_run_logs(%s{named})", query, *filters.values()
        ),
    )


def _parts(items):
    return [items[first : first + BATCH] for first in range(0, len(items), BATCH)]


def _as_json(part):
    return json.dumps(
        [
            {"timestamp": stamp, "level": "info", "message": message, "metadata": METADATA}
            for stamp, message in part
        ]
    )


def _as_row(number, stamp, message):
    message = message.replace("\\", "\\\\").replace("\t", "\\t")
    return f"1\t{stamp[:-6]}\t{number}\tinfo\t{json.dumps(METADATA)}\t{message}\t{stamp[:-6]}\n"


def _copy(connection, parts):
    with connection.cursor() as cr:
        for part in parts:
            cr.copy_expert(
                "COPY bench_log (run_id, run_queued_at, seq, log_level, metadata, message,"
                " timestamp) FROM STDIN",
                io.StringIO(part),
            )


def _append(door, run_id, epoch, batches):
    for number, batch in enumerate(batches):
        door.append(run_id, epoch, number * BATCH + 1, batch)


def _seconds(work):
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def _timed(repetitions, work):
    times = []
    for _ in range(repetitions):
        begin = time.monotonic()
        rows = work()
        times.append((time.monotonic() - begin) * 1000)
    return {"rows": len(rows), "ms": statistics.median(times), "worst": max(times)}
