"""`make chaos`: runs in two projects with limits, workers, and a storm; then the judgement.

The storm breaks PostgreSQL, the store, the Docker engine and the workers by a schedule made from a
seed, which is printed. After it everything is mended, and the queue must come to rest within a
time. The figures go to stdout; the exit code is 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import os
import random
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import boto3
import psycopg2
from botocore.config import Config

from benchmarks.database import Database, machine

from . import history, judge, schedule, witness, workload
from .world import World, patiently

#: Runs are queued during this part of the storm; what the rest of it hits is at work.
QUEUEING = 0.85
#: What a storm leaves behind is over after two leases: PostgreSQL's start keeps everything from
#: being reaped for one, the lost runs of that time hold theirs. The rest is for doing it again.
SETTLE_SECONDS = 240
COLLECT_SECONDS = 60
SAMPLE_SECONDS = 0.1
DATABASE_ERRORS = (psycopg2.OperationalError, psycopg2.InterfaceError)
PATIENCE = 120
QUICK = {"minutes": 1.5, "runs": 250}


def main() -> int:
    options = _options()
    # Ended politely or by a closed terminal, the servers must go, too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    # A shell starts what is in its background with this one ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(os.environ["ODOOOPS_CHAOS_FOLDER"])
    with Storm(options, folder) as storm:
        found = storm.run()
        problems = judge.problems(found)
        facts = {
            "command": _command(options),
            **storm.facts(),
            **judge.figures(found),
        }
    for name, value in facts.items():
        sys.stdout.write(f"  {name}: {value}\n")
    for problem in problems:
        sys.stdout.write(f"BROKEN: {problem}\n")
    lost = sum(1 for _sentence in judge.lost(found))
    twice = sum(1 for _sentence in (*judge.accepted_twice(found), *judge.executed(found)))
    gaps = sum(1 for _sentence in judge.logs(found))
    over = sum(1 for _sentence in judge.limits(found))
    sys.stdout.write(
        f"{lost} lost, {twice} accepted or executed twice, {over} times over a limit,"
        f" {gaps} logs with gaps; {'BROKEN' if problems else 'all promises hold'}\n"
    )
    return 1 if problems else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="three minutes in all, for CI")
    add("--minutes", type=float, default=10, help="how long the storm lasts")
    add("--runs", type=int, default=2000)
    add("--workers", type=int, default=6)
    add("--seed", type=int, default=None, help="of the schedule, as an earlier storm printed it")
    add("--settle-seconds", type=float, default=SETTLE_SECONDS, help="for coming to rest after it")
    parser.set_defaults(**(QUICK if "--quick" in sys.argv else {}))
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1_000_000)
    return options


def _command(options: argparse.Namespace) -> str:
    return (
        f'make chaos ARGS="--minutes {options.minutes:g} --runs {options.runs}'
        f' --workers {options.workers} --seed {options.seed}"'
    )


def say(text: str) -> None:
    sys.stderr.write(f"  {time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


class Line:
    """A connection to the database that is made anew after each of its ends."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._db: Database | None = None

    def __call__(self, method: str, *arguments: Any) -> Any:
        """A method of ``Database``, repeated while the server is away."""
        return patiently(lambda: self._try(method, *arguments), self._patience, DATABASE_ERRORS)

    def _try(self, method: str, *arguments: Any) -> Any:
        try:
            if self._db is None:
                self._db = Database(os.environ["PGDATABASE"])
            return getattr(self._db, method)(*arguments)
        except DATABASE_ERRORS:
            self.close()
            raise

    def close(self) -> None:
        if self._db is not None:
            with contextlib.suppress(*DATABASE_ERRORS):
                self._db.close()
        self._db = None


class Sampler:
    """Looks at the numbers of active runs all the time, on a connection of its own."""

    def __init__(self, limits: dict[str, int]) -> None:
        self.most = dict.fromkeys(limits, 0)
        self.count = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _loop(self) -> None:
        line = Line(patience=0)
        while not self._end.wait(SAMPLE_SECONDS):
            with contextlib.suppress(*DATABASE_ERRORS):
                for slug, group, number in line("rows", _ACTIVE):
                    name = f"{slug}/{group}" if group else slug
                    if name in self.most:
                        self.most[name] = max(self.most[name], number)
                self.count += 1
        line.close()


# A project's row counts the runs of its groups, too.
_ACTIVE = """
SELECT p.slug, r.concurrency_group, count(*)
FROM ops_run r JOIN ops_project p ON p.id = r.project_id
WHERE r.status IN ('claimed', 'running')
GROUP BY GROUPING SETS ((p.slug), (p.slug, r.concurrency_group))
"""


class Storm:
    """One storm, from the first worker's start to the last look."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.line = Line()
        self.facts_of_machine = machine(Database(os.environ["PGDATABASE"]))
        self.world = World(folder, options.workers)
        if self.world.no_docker:
            say(f"no run goes into a container: {self.world.no_docker}")
        self.projects = self._with_database(
            lambda db: workload.make(db, str(self.world.witness), self.world.image)
        )
        self.limits = history.limits_of(self.projects)
        self.queued: list[int] = []
        self.struck: dict[str, int] = {}
        self.hit = 0
        self.settled_after: float | None = None
        folders = [worker.work_dir for worker in self.world.workers]
        self.collector = witness.Collector(folders, self.world.witness)
        self.samples = 0

    def __enter__(self) -> Storm:
        return self

    def __exit__(self, *_error: Any) -> None:
        self.world.close()

    @staticmethod
    def _with_database(call: Any) -> Any:
        with contextlib.closing(Database(os.environ["PGDATABASE"])) as db:
            return call(db)

    def run(self) -> history.History:
        """The whole of it; what is left of it."""
        options = self.options
        say(f"seed {options.seed}: {_command(options)}")
        self.collector.start()
        for worker in self.world.workers:
            worker.start()
        self._wait_for_workers()
        sampler = Sampler(self.limits)
        self._blow()
        self.world.mend()
        settled = self._settle()
        sampler.stop()
        self.samples = sampler.count
        left = self._collected() if settled else self._with_database(self.world.leftovers)
        self.collector.stop()
        say("judging")
        return history.History(
            self.queued,
            self._with_database(self._read),
            witness.read(self.world.witness),
            self.limits,
            sampler.most,
            settled,
            left,
        )

    def _wait_for_workers(self) -> None:
        """A storm before the first worker lives would break nothing."""
        count = f"SELECT count(*) FROM {self._schema()}.live_workers()"
        until = time.monotonic() + PATIENCE
        while self.line("value", count) < len(self.world.workers):
            if time.monotonic() > until:
                raise RuntimeError("the workers do not start; their logs are in .local/chaos/work")
            time.sleep(0.2)

    def facts(self) -> dict[str, object]:
        """What the storm was."""
        machine_facts = self.facts_of_machine
        settled = "never" if self.settled_after is None else f"{self.settled_after:.0f} s"
        return {
            "machine": f"{machine_facts['processor']}, {machine_facts['memory']}",
            "date": time.strftime("%Y-%m-%d"),
            "PostgreSQL": machine_facts["PostgreSQL"],
            "containers": self.world.no_docker or "a share of the runs",
            "blows": ", ".join(f"{kind} {self.struck[kind]}" for kind in sorted(self.struck)),
            "runs in the hands of workers that were struck": self.hit,
            "workers started": sum(worker.starts for worker in self.world.workers),
            "at rest after the storm": settled,
            "looks at the numbers of active runs": self.samples,
        }

    # -- the storm --------------------------------------------------------------------------

    def _blow(self) -> None:
        """Queue runs and break things, each at its time."""
        options, seconds = self.options, self.options.minutes * 60
        chosen = workload.choose(self.projects, options.runs, options.seed)
        step = seconds * QUEUEING / len(chosen)
        waiting = deque((number * step, flow) for number, flow in enumerate(chosen))
        blows = deque(
            schedule.make(options.seed, seconds, options.workers, self.world.engine is not None)
        )
        # (when, number, what mends): the number keeps functions from being compared.
        mending: list[tuple[float, int, Any, Any]] = []
        broken: dict[tuple[str, int], int] = {}
        began, number = time.monotonic(), 0
        while True:
            now = time.monotonic() - began
            for worker in self.world.workers:
                worker.keep()
            if mending and mending[0][0] <= now:
                _when, _number, key, mend = heapq.heappop(mending)
                broken.pop(key)
                mend()
            elif blows and blows[0].at <= now:
                blow = blows.popleft()
                key = (_subject(blow.kind), blow.target)
                if key in broken:
                    # Still broken by an earlier one.
                    continue
                self._tell(now, blow, key[0])
                mend = self.world.blow(blow.kind, blow.target, blow.seconds)
                broken[key] = number = number + 1
                until = time.monotonic() - began + blow.seconds
                heapq.heappush(mending, (min(until, seconds), number, key, mend))
            elif waiting and waiting[0][0] <= now:
                self._queue(waiting, broken)
            elif now >= seconds and not waiting:
                return
            else:
                time.sleep(0.02)

    def _tell(self, now: float, blow: schedule.Blow, subject: str) -> None:
        self.struck[blow.kind] = self.struck.get(blow.kind, 0) + 1
        what = blow.kind
        if subject == "worker":
            runs = self.world.workers[blow.target].runs()
            what = f"{blow.kind} worker {blow.target} with {runs} runs"
            self.hit += runs
        say(f"{now:5.0f} s: {what}, {blow.seconds:.0f} s")

    def _queue(self, waiting: deque[tuple[float, Any]], broken: dict[tuple[str, int], int]) -> None:
        """Queue the next run, unless PostgreSQL is down: who mends it must not wait here."""
        if ("postgres", 0) in broken:
            time.sleep(0.02)
            return
        _when, flow = waiting[0]
        # The key makes one run of a call whose reply was lost and its repeat.
        key = f"chaos-{len(self.queued)}"
        reply = self.line(
            "value", f"SELECT {self._schema()}.queue_run(%s, p_idempotency_key => %s)", flow.id, key
        )
        if not reply["success"]:
            raise RuntimeError(f"the kernel refused to queue a run: {reply}")
        self.queued.append(reply["run_id"])
        waiting.popleft()

    def _schema(self) -> str:
        return self.facts_of_machine.setdefault("schema", self._with_database(lambda db: db.schema))

    # -- after it ---------------------------------------------------------------------------

    def _settle(self) -> bool:
        """Wait until every run has ended; whether that came in time."""
        began, said = time.monotonic(), 0.0
        while True:
            left = self.line(
                "rows",
                "SELECT status, count(*) FROM ops_run WHERE status IN ('queued', 'claimed',"
                " 'running') GROUP BY status ORDER BY status",
            )
            waited = time.monotonic() - began
            if not left:
                self.settled_after = waited
                say(f"at rest {waited:.0f} s after the storm")
                return True
            if waited > self.options.settle_seconds:
                say(f"not at rest: {left}")
                return False
            if waited > said + 15:
                said = waited
                say(f"{waited:5.0f} s after the storm: {dict(left)}")
            time.sleep(0.5)

    def _collected(self) -> list[str]:
        """What is left behind when the workers have had time to clear it away."""
        until = time.monotonic() + COLLECT_SECONDS
        while True:
            left = self._with_database(self.world.leftovers)
            if not left or time.monotonic() > until:
                return left
            time.sleep(1)

    def _read(self, db: Database) -> dict[int, history.Run]:
        settings = self.world.store_settings
        client = boto3.client(
            "s3",
            endpoint_url=settings["endpoint"],
            region_name="us-east-1",
            aws_access_key_id=settings["access_key"],
            aws_secret_access_key=settings["secret_key"],
            config=Config(s3={"addressing_style": "path"}),
        )
        return history.read_runs(db, self.projects, lambda url: self.world.fetch(client, url))


def _subject(kind: str) -> str:
    """What a blow hits: two of one subject do not overlap."""
    name = kind.partition("_")[0]
    return name if name in ("postgres", "store", "docker") else "worker"


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
