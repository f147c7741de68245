"""Measurements of the kernel: claims alone, life cycles, and many workers on one project."""

import time

import psycopg2

from . import driver, fill, invariants
from .database import Database, writes_per

CONNECTIONS = 8


class Site:
    """One database with the addon, its fill and a connection for what is not measured."""

    def __init__(self, name, progress):
        self.db = Database(name)
        self.name = name
        self.finished = 0
        self.fill = fill.Fill(self.db, fill.make_projects(self.db), progress)

    def grow(self, finished):
        """Add finished runs up to ``finished``; the problems in a sample of their chains."""
        if finished <= self.finished:
            return []
        self.fill.add_finished(finished - self.finished)
        self.finished = finished
        return invariants.of_chains(self.db, self.fill.sample(invariants.VERIFIED))

    def close(self):
        self.db.close()


# -- claims ---------------------------------------------------------------------------------


def claims(site, queued, count):
    """Milliseconds of ``count`` claims, one after the other: (in the client, in the server).

    The run is started and completed between two claims, unmeasured, so that no more than one
    is ever active. The queue falls from ``queued`` by ``count``.
    """
    site.fill.set_queued(queued)
    client, server, done = driver.together(site.name, 1, _claim, count).results[0]
    problems = invariants.of_finished(site.db, done) + invariants.of_rest(site.db, queued - count)
    return client, server, problems


def _claim(db, index, count):
    worker = driver.worker_name(index)
    client, server, done = [], [], []
    with db.connection.cursor() as cr:
        for _ in range(count):
            began = time.perf_counter()
            cr.execute("EXECUTE timed_claim(%s)", (worker,))
            before, reply, after = cr.fetchone()
            client.append((time.perf_counter() - began) * 1000)
            if reply["run_id"] is None:
                raise driver.BenchmarkError(f"nothing was claimed: {reply}")
            server.append((after - before).total_seconds() * 1000)
            driver.start(db, worker, reply)
            driver.complete(db, worker, reply)
            done.append(reply["run_id"])
    return client, server, done


# -- life cycles ----------------------------------------------------------------------------


def drain(site, queued, count, connections=CONNECTIONS):
    """Claim, start and complete ``count`` of ``queued`` runs.

    :return: a dict with rate, seconds, cpu (of the clients, in processors), writes, problems
    """
    site.fill.set_queued(queued)
    left = driver.CONTEXT.Value("q", count)
    before = site.db.writes()
    result = driver.together(site.name, connections, _cycle, left)
    done = [run_id for part in result.results for run_id in part]
    if not done:
        raise driver.BenchmarkError("no life cycle was completed")
    return {
        "rate": len(done) / result.seconds,
        "seconds": result.seconds,
        "cpu": result.cpu_seconds / result.seconds,
        "writes": writes_per(len(done), before, site.db.writes()),
        "problems": invariants.of_finished(site.db, done)
        + invariants.of_rest(site.db, queued - len(done)),
    }


def _cycle(db, index, left):
    worker = driver.worker_name(index)
    done = []
    while driver.take(left):
        reply = driver.claim(db, worker)
        if reply["run_id"] is None:
            if driver.is_busy(reply):
                driver.give_back(left)
                continue
            break
        driver.start(db, worker, reply)
        driver.complete(db, worker, reply)
        done.append(reply["run_id"])
    return done


def commit_rate(site, seconds, connections=CONNECTIONS):
    """Updates of one row each, committed one by one, per second: what the server can do."""
    db = site.db
    db.rows("CREATE TABLE bench_counter (id int PRIMARY KEY, n int) WITH (fillfactor = 50)")
    try:
        db.rows("INSERT INTO bench_counter SELECT n, 0 FROM generate_series(0, %s) n", connections)
        result = driver.together(site.name, connections, _commit, seconds, prepared=False)
        return sum(result.results) / result.seconds
    finally:
        db.rows("DROP TABLE bench_counter")


def _commit(db, index, seconds):
    db.rows("PREPARE bump (integer) AS UPDATE bench_counter SET n = n + 1 WHERE id = $1")
    until, count = time.monotonic() + seconds, 0
    with db.connection.cursor() as cr:
        while time.monotonic() < until:
            cr.execute("EXECUTE bump(%s)", (index,))
            count += 1
    return count


# -- one project, everybody at once ---------------------------------------------------------

MAX_RUNNING = 5
BACKLOG = 200


def crowd(site, seconds, workers=8, enqueuers=8):
    """Workers and enqueuers on one project that allows fewer runs than there are workers.

    One more connection looks all the time at how many runs are active. Enqueuers pause while
    a backlog waits, so that everything is finished in the end.

    :return: a dict with runs, rate, errors (number by SQLSTATE), most_active, problems
    """
    site.fill.set_queued(0)
    ((project, workflow),) = fill.make_projects(site.db, 1, MAX_RUNNING)
    state = {name: driver.CONTEXT.Value("q", 0) for name in ("queued", "finished", "enqueuing")}
    state["enqueuing"].value = enqueuers
    # Whatever is not finished by then was lost, and the invariants say so.
    state["end"] = time.monotonic() + 2 * seconds + 30
    deadlocks = _deadlocks(site.db)
    result = driver.together(
        site.name, workers + enqueuers + 1, _join_crowd, workers, enqueuers, project, workflow,
        seconds, state,
    )  # fmt: skip
    finished, queued, errors = [], [], {}
    for part in result.results:
        finished += part.get("finished", [])
        queued += part.get("queued", [])
        for code, count in part.get("errors", {}).items():
            errors[code] = errors.get(code, 0) + count
    most_active = result.results[-1]["most_active"]
    problems = invariants.of_finished(site.db, finished) + invariants.of_rest(site.db, 0)
    if sorted(queued) != sorted(finished):
        problems.append(f"{len(queued)} runs were queued, {len(finished)} were finished")
    if most_active > MAX_RUNNING:
        problems.append(f"{most_active} runs were active where {MAX_RUNNING} were allowed")
    if errors:
        problems.append(f"callers saw errors, by SQLSTATE: {errors}")
    return {
        "runs": len(finished),
        "rate": len(finished) / result.seconds,
        "errors": errors,
        "deadlocks": _deadlocks(site.db) - deadlocks,
        "most_active": most_active,
        "problems": problems,
    }


def _deadlocks(db):
    db.rows("SELECT pg_stat_clear_snapshot()")
    return db.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


def _join_crowd(db, index, workers, enqueuers, project, workflow, seconds, state):
    if index < workers:
        return _crowd_worker(db, index, state)
    if index < workers + enqueuers:
        return _crowd_enqueuer(db, workflow, seconds, state)
    return _crowd_watcher(db, project, state)


def _crowd_enqueuer(db, workflow, seconds, state):
    until, queued, errors = time.monotonic() + seconds, [], {}
    while time.monotonic() < until:
        if state["queued"].value - state["finished"].value > BACKLOG:
            time.sleep(0.01)
            continue
        reply = _guarded(errors, db.value, f"EXECUTE queue_run({workflow})")
        if reply:
            queued.append(reply["run_id"])
            _add(state["queued"], 1)
    _add(state["enqueuing"], -1)
    return {"queued": queued, "errors": errors}


def _crowd_worker(db, index, state):
    worker, finished, errors = driver.worker_name(index), [], {}
    while not _is_over(state):
        reply = _guarded(errors, driver.claim, db, worker)
        if not reply or reply["run_id"] is None:
            time.sleep(0.002)
            continue
        # A caller repeats what failed under it, as a worker does.
        for step in (driver.start, driver.complete):
            while _guarded(errors, step, db, worker, reply) is False:
                time.sleep(0.001)
        finished.append(reply["run_id"])
        _add(state["finished"], 1)
    return {"finished": finished, "errors": errors}


def _crowd_watcher(db, project, state):
    most = 0
    while not _is_over(state):
        most = max(
            most,
            db.value(
                "SELECT count(*) FROM ops_run WHERE project_id = %s"
                " AND status IN ('claimed', 'running')",
                project,
            ),
        )
        time.sleep(0.005)
    return {"most_active": most}


def _is_over(state):
    all_done = state["finished"].value >= state["queued"].value
    return not state["enqueuing"].value and all_done or time.monotonic() > state["end"]


def _add(counter, number):
    with counter.get_lock():
        counter.value += number


def _guarded(errors, function, *arguments):
    """The function's result, or False after an error of the database, which is counted."""
    try:
        return function(*arguments)
    except psycopg2.Error as error:
        code = error.pgcode or type(error).__name__
        errors[code] = errors.get(code, 0) + 1
        if sum(errors.values()) > 1000:
            raise
        return False
