"""Our client: processes with one connection each, which begin together.

Processes, because threads of one Python would wait for each other; each one calls prepared
statements and reads the whole reply, snapshot included, as a worker does.
"""

import multiprocessing
import statistics
import threading
import time
import uuid
from dataclasses import dataclass

import psycopg2

from .database import Database

# Forked children need not import everything again; no thread runs when they are made.
CONTEXT = multiprocessing.get_context("fork")
START_SECONDS = 60


class BenchmarkError(RuntimeError):
    """A measurement that could not be made, or whose result would mean nothing."""


@dataclass(frozen=True)
class Together:
    """What several processes brought back, in the order of their numbers."""

    results: list
    seconds: float  # from the first begin to the last end
    cpu_seconds: float  # of all clients


def together(database, count, work, *arguments, prepared=True):
    """Call ``work(db, index, *arguments)`` in ``count`` processes at the same moment.

    :raise BenchmarkError: when one of them fails; the others are waited for
    """
    barrier = CONTEXT.Barrier(count)
    processes = []
    for index in range(count):
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(
            target=_child,
            args=(theirs, barrier, database, index, work, arguments, prepared),
            daemon=True,
        )
        process.start()
        theirs.close()
        processes.append((process, ours))
    parts = []
    for index, (process, pipe) in enumerate(processes):
        try:
            parts.append(pipe.recv())
        except EOFError:
            parts.append((f"process {index} ended without a word", 0, 0, 0, None))
        process.join()
    failures = [error for error, *_rest in parts if error]
    if failures:
        raise BenchmarkError(f"{len(failures)} of {count} connections failed, first: {failures[0]}")
    return Together(
        results=[result for *_times, result in parts],
        seconds=max(part[2] for part in parts) - min(part[1] for part in parts),
        cpu_seconds=sum(part[3] for part in parts),
    )


def _child(pipe, barrier, database, index, work, arguments, prepared):
    try:
        db = Database(database)
        if prepared:
            db.prepare()
        barrier.wait(START_SECONDS)
        began, cpu = time.monotonic(), time.process_time()
        result = work(db, index, *arguments)
        pipe.send((None, began, time.monotonic(), time.process_time() - cpu, result))
        # Its statistics reach the server's counters with the end of the session.
        db.close()
    except (psycopg2.Error, BenchmarkError, threading.BrokenBarrierError) as error:
        barrier.abort()
        pipe.send((f"{type(error).__name__}: {str(error).strip()}", 0, 0, 0, None))


def take(left):
    """Whether one more is to be done; all processes count down together."""
    with left.get_lock():
        if left.value <= 0:
            return False
        left.value -= 1
        return True


def give_back(left):
    """What was taken could not be done yet."""
    with left.get_lock():
        left.value += 1


def worker_name(index):
    return f"bench-{index}-{uuid.uuid4().hex[:8]}"


def claim(db, worker_id):
    """Claim one run: the reply, its ``run_id`` None when the queue is empty."""
    reply = db.value(f"EXECUTE claim_run('{worker_id}')")
    _check(reply)
    return reply


def start(db, worker_id, reply):
    _check(db.value(f"EXECUTE start_run({reply['run_id']}, '{worker_id}', {reply['epoch']})"))


def complete(db, worker_id, reply):
    _check(db.value(f"EXECUTE complete_run({reply['run_id']}, '{worker_id}', {reply['epoch']})"))


def _check(reply):
    if not reply["success"]:
        raise BenchmarkError(f"the kernel refused: {reply}")


def is_busy(reply):
    """Whether a reply without a run means "ask again" and not "nothing is queued"."""
    return reply["run_id"] is None and "busy" in reply["message"]


def percentile(values, percent):
    """The value below which ``percent`` of a hundred lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
