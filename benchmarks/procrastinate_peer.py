"""procrastinate as a peer of benchmarks/peers.py: its own asyncio worker.

In this process or, as its first argument says, in several that share the jobs: one keeps to one
processor. The connector's pool has a connection per job and one more for LISTEN. Run by a Python
of its own (requirements/bench.txt), so it imports nothing of this package.
"""

import asyncio
import json
import logging
import sys
import time
from importlib.metadata import version

import procrastinate

SECONDS_BETWEEN = 0.02
MAX_CONNECTIONS = 32

logging.disable(logging.WARNING)
app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(min_size=4, max_size=MAX_CONNECTIONS)
)
begun = []  # when jobs that do nothing began
waited = []
finished = asyncio.Event()


@app.task(name="nothing")
async def nothing():
    """A job without work."""
    begun.append(time.monotonic())


@app.task(name="measure", pass_context=True)
async def measure(context):
    """How long this job has waited, by the database's clock."""
    row = await app.connector.execute_query_one_async(
        "SELECT (extract(epoch FROM clock_timestamp() - at) * 1000)::float AS waited"
        " FROM procrastinate_events WHERE job_id = %(job_id)s AND type = 'deferred'",
        job_id=context.job.id,
    )
    waited.append(row["waited"])
    finished.set()


async def queue(count):
    """Defer so many jobs, in batches as its documentation advises for many."""
    for begin in range(0, count, 1000):
        await nothing.batch_defer_async(*({} for _ in range(min(1000, count - begin))))
    async with app.connector.pool.connection() as connection:
        await connection.set_autocommit(True)
        for table in ("procrastinate_jobs", "procrastinate_events"):
            await connection.execute(f"VACUUM (ANALYZE) {table}")
        await connection.set_autocommit(False)
    return {}


async def drain(count, connections):
    """Let a worker or several run until the queue is empty."""
    done = await _count("succeeded")
    if PROCESSES == 1:
        times = [await _work(connections)]
    else:
        times = await _work_together(connections // PROCESSES)
    completed = await _count("succeeded") - done
    if completed != count:
        raise RuntimeError(f"{completed} of {count} jobs succeeded")
    return {
        "seconds": max(last for _first, last in times) - min(first for first, _last in times),
        "jobs": count,
    }


async def _work(connections):
    """One worker, to the end of the queue: when its first job began, and when it had ended."""
    begun.clear()
    await app.run_worker_async(wait=False, concurrency=connections, install_signal_handlers=False)
    last = time.monotonic()
    return begun[0] if begun else last, last


async def _work_together(connections):
    """The same by several processes; all of them have one monotonic clock."""
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, __file__, "one-of-several", str(connections),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]  # fmt: skip
    try:
        for worker in workers:
            await worker.stdout.readline()
        for worker in workers:
            worker.stdin.write(b"\n")
        return [json.loads(await worker.stdout.readline()) for worker in workers]
    finally:
        for worker in workers:
            worker.stdin.close()
            await worker.wait()


async def be_one_of_several(connections):
    """Say so when connected, wait for the word, work, and tell the times."""
    async with app.open_async():
        _say({})
        if await asyncio.to_thread(sys.stdin.readline):
            _say(await _work(connections))


async def waits(count):
    """One job at a time for an idle worker."""
    waited.clear()
    worker = asyncio.create_task(app.run_worker_async(install_signal_handlers=False))
    await asyncio.sleep(1)
    for _ in range(count):
        finished.clear()
        await measure.defer_async()
        await asyncio.wait_for(finished.wait(), 60)
        await asyncio.sleep(SECONDS_BETWEEN)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    return {"milliseconds": list(waited)}


async def _count(status):
    row = await app.connector.execute_query_one_async(
        "SELECT count(*) AS n FROM procrastinate_jobs"
        " WHERE status = %(status)s::procrastinate_job_status",
        status=status,
    )
    return row["n"]


async def main():
    """Answer commands until stdin ends."""
    commands = {"queue": queue, "drain": drain, "waits": waits}
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        _say({"version": version("procrastinate")})
        while line := await asyncio.to_thread(sys.stdin.readline):
            request = json.loads(line)
            try:
                _say(await commands[request.pop("command")](**request))
            except Exception as error:  # noqa: BLE001 - the caller reports it
                _say({"error": f"{type(error).__name__}: {error}"})


def _say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if sys.argv[1] == "one-of-several":
    asyncio.run(be_one_of_several(int(sys.argv[2])))
else:
    PROCESSES = int(sys.argv[1])
    asyncio.run(main())
