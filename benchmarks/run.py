"""`make bench`: the kernel measured beside other queues, in databases made for it.

Subjects are independent; `--only` chooses. Progress goes to stderr, the table to stdout, and every
row at once to the results file. The exit code is 1 when an invariant did not hold, never for
being slow.
"""

import argparse
import contextlib
import datetime
import os
import shlex
import statistics
import sys
import time
from pathlib import Path

import psycopg2

from . import bare, docs, kernel, latency, log_rows, peers, worker_rows
from .database import Database, machine
from .driver import BenchmarkError, percentile
from .report import Report, Row

BARE = "its rows alone"
SUBJECTS = ("cycle", "latency", "crowd", "claim", "logs", "output", "artifacts", "docker")
# A target that names these sizes is judged at these sizes only.
FULL_FINISHED, FULL_QUEUED, FULL_CROWD_SECONDS = 5_000_000, 100_000, 60
CYCLES_PER_CELL = 5000
QUICK = {
    "finished": "0,2000", "queued": "50,300", "seconds": 1, "rounds": 1, "claims": 25,
    "crowd_seconds": 4, "runs": 3, "log_lines": "2000,2000,5000",
    "output": "5000,2", "artifact_mib": 20, "containers": 3,
}  # fmt: skip


def main():
    options = _options()
    if options.render:
        docs.write(Report.load(options.results))
        return 0
    bench = Bench(options)
    try:
        bench.run()
        bench.report.complete = set(options.only or SUBJECTS) == set(SUBJECTS)
        bench.report.save()
        if options.write_docs:
            docs.write(bench.report)
    except KeyboardInterrupt:
        _progress("interrupted: what follows is what was measured until then")
        raise
    finally:
        sys.stdout.write(bench.report.text() + "\n")
        sys.stdout.flush()
        bench.close()
    return 1 if bench.report.problems else 0


def _options():
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="seconds instead of minutes: does it hold?")
    add("--only", default="", help=f"subjects out of {','.join(SUBJECTS)}")
    add("--finished", default="0,1000000,5000000", help="numbers of finished runs")
    add("--queued", default="1000,100000", help="numbers of queued runs")
    add(
        "--log-lines",
        default="100000,1000000,5000000",
        help="lines that are stored for time, lines of the run that is paged through, lines of"
        " all runs that are searched",
    )
    add("--scale", type=float, default=1, help="multiplies the numbers of runs and lines")
    add("--seconds", type=float, default=10, help="of each round of life cycles")
    add("--rounds", type=int, default=3, help="of which each figure is the median")
    add("--peer-jobs", type=int, default=8, help="that other queues execute at once")
    add("--claims", type=int, default=300, help="per round and cell; five rounds")
    add("--crowd-seconds", type=float, default=60)
    add("--runs", type=int, default=100, help="runs whose wait for a worker is measured")
    add("--output", default="50000,30", help="lines a second that a step prints, and seconds")
    add("--artifact-mib", type=int, default=2048, help="size of the file that is stored")
    add("--containers", type=int, default=40, help="that are started each way")
    add("--no-peers", action="store_true", help="leave other queues out")
    add("--write-docs", action="store_true", help="write docs/benchmarks.md and its plots")
    add("--render", action="store_true", help="write them from the results of the last time")
    add("--results", type=Path, default=Path(os.environ.get("ODOOOPS_BENCH_RESULTS", "bench.json")))
    parser.set_defaults(**(QUICK if "--quick" in sys.argv else {}))
    options = parser.parse_args()
    options.output = [int(number) for number in options.output.split(",")]
    for name in ("finished", "queued", "log_lines"):
        numbers = [int(float(text) * options.scale) for text in getattr(options, name).split(",")]
        setattr(options, name, numbers if name == "log_lines" else sorted(numbers))
    options.only = [name for name in options.only.split(",") if name]
    if unknown := set(options.only) - set(SUBJECTS):
        parser.error(f"there is no subject {', '.join(sorted(unknown))}")
    return options


def _progress(text):
    sys.stderr.write(f"  {time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


class Bench:
    """The subjects, in the databases that ``make bench`` has made."""

    def __init__(self, options):
        self.options = options
        self.peers, self.missing = {}, {}
        self.sites = {}
        self.graphile_rate = None
        with contextlib.closing(Database(os.environ["ODOOOPS_BENCH_DB"])) as db:
            facts = machine(db)
        arguments = shlex.join(sys.argv[1:])
        self.report = Report(
            command=f'make bench ARGS="{arguments}"' if arguments else "make bench",
            date=datetime.date.today().isoformat(),
            machine=facts,
            scale={
                name.replace("_", " "): str(getattr(options, name)).strip("[]")
                for name in QUICK
            },
            file=options.results,
        )  # fmt: skip

    def run(self):
        if not (self.options.quick or self.options.no_peers):
            self.peers, self.missing = peers.start_all(_progress)
            self.report.machine.update(
                (name, self.peers[name].version)
                for name in (peers.GRAPHILE, peers.PROCRASTINATE)
                if name in self.peers
            )
        else:
            self.missing = dict.fromkeys(peers.NAMES, "left out")
        for name in self.options.only or SUBJECTS:
            _progress(f"-- {name}")
            try:
                getattr(self, f"measure_{name}")()
            except (RuntimeError, psycopg2.Error) as error:
                # The other subjects do not need it; the exit code tells.
                _progress(f"FAILED: {error}")
                self.report.add_problems(name, [f"not measured: {str(error).strip()}"])

    def close(self):
        for each in (*self.peers.values(), *self.sites.values()):
            each.close()

    def site(self, name):
        """A site by name: ``work``, ``none`` (finished) or ``filled``."""
        if name not in self.sites:
            database = os.environ[f"ODOOOPS_BENCH_{name.upper()}_DB"]
            self.sites[name] = kernel.Site(database, _progress)
        return self.sites[name]

    def add(self, *arguments, **named):
        _progress(str(self.report.add(Row(*arguments, **named))))

    def not_measured(self, subject, name, reason, unit=""):
        self.add(subject, name, None, unit, note=reason)

    # -- life cycles beside the peers -----------------------------------------------------

    def measure_cycle(self):
        """Rounds in which all queues take turns."""
        subject, options, site = "Life cycles", self.options, self.site("work")

        def ours(count):
            # As the peers do when they have queued.
            site.fill.set_queued(count)
            site.fill.vacuum()
            return kernel.drain(site, count, count)

        def of_peer(peer):
            return lambda count: peer.drain(count, options.peer_jobs)

        def of_rows(count):
            return bare.drain(site, count, kernel.CONNECTIONS)

        drains = {"OdooOps": ours, BARE: of_rows}
        drains.update((name, of_peer(peer)) for name, peer in self.peers.items())
        counts, results, commits = {}, {name: [] for name in drains}, []
        warm_up = 100 if options.quick else 500
        for number in range(options.rounds + 1):
            for name in list(results):
                try:
                    result = drains[name](counts.get(name, warm_up))
                except BenchmarkError as error:
                    if name not in self.peers:
                        raise
                    self.missing[name] = str(error)
                    self.peers.pop(name).close()
                    del results[name]
                    continue
                if name not in counts:
                    counts[name] = max(50, int(result["rate"] * options.seconds))
                    continue
                results[name].append(result)
                self.report.add_problems(subject, result.get("problems", []))
                _progress(f"round {number}, {name}: {result['rate']:.0f}/s")
            commits.append(kernel.commit_rate(site, min(3, options.seconds)))
        rates = {
            name: statistics.median(result["rate"] for result in found)
            for name, found in results.items()
        }
        self.graphile_rate = rates.get(peers.GRAPHILE)
        cpu = statistics.median(result["cpu"] for result in results["OdooOps"])
        self._cycle_rows(subject, rates, statistics.median(commits), cpu)
        for name, found in results.items():
            self._write_rows(subject, name, found)

    def _cycle_rows(self, subject, rates, commits, cpu):
        ours = rates["OdooOps"]
        self.add(
            subject, "OdooOps", ours, "/s", ours / commits, "single-row commits",
            note=f"its clients took {cpu:.2f} CPUs",
        )  # fmt: skip
        self.add(subject, BARE, rates[BARE], "/s", rates[BARE] / commits, "single-row commits")
        self.add(subject, f"OdooOps beside {BARE}", ours, "/s", ours / rates[BARE], BARE)
        for name, target in (
            (peers.GRAPHILE, "cycle_graphile"),
            (peers.PROCRASTINATE, "cycle_procrastinate"),
            (peers.PROCRASTINATE_TWICE, ""),
        ):
            if name not in rates:
                self.not_measured(subject, name, self.missing[name], "jobs/s")
                continue
            self.add(
                subject, name, rates[name], "jobs/s", rates[name] / commits, "single-row commits"
            )
            self.add(
                subject, f"OdooOps beside {name}", ours, "/s", ours / rates[name], name, target
            )
            self.add(
                subject, f"{BARE} beside {name}", rates[BARE], "/s", rates[BARE] / rates[name],
                name,
            )  # fmt: skip
        self.add(subject, "single-row commits, 8 connections", commits, "/s")

    def _write_rows(self, subject, name, found):
        for what, field, unit in (
            ("WAL per life cycle", "wal_bytes", "bytes"),
            ("row versions left behind per life cycle", "dead", ""),
            ("of them HOT", "hot", ""),
        ):
            value = statistics.median(getattr(result["writes"], field) for result in found)
            self.add(f"{subject}: what they write", f"{name}, {what}", value, unit)

    # -- queue_run to started -------------------------------------------------------------

    def measure_latency(self):
        """One idle worker; ours, then the peers."""
        subject = "queue_run to started"
        self._wait_rows(subject, "OdooOps", latency.waits(self.site("work"), self.options.runs))
        for name in (peers.GRAPHILE, peers.PROCRASTINATE):
            if name in self.peers:
                self._wait_rows(subject, name, self.peers[name].waits(self.options.runs))
            else:
                self.not_measured(subject, name, self.missing[name], "ms")

    def _wait_rows(self, subject, name, waits):
        for percent in (50, 90, 99):
            self.add(subject, f"{name}, p{percent}", percentile(waits, percent), "ms")

    # -- one project, everybody at once ---------------------------------------------------

    def measure_crowd(self):
        subject = "One project, 8 workers, 8 enqueuers"
        result = kernel.crowd(self.site("work"), self.options.crowd_seconds)
        self.report.add_problems(subject, result["problems"])
        self.add(subject, "runs queued and finished", result["runs"], "", note=(
            f"{result['rate']:.0f}/s, at most {result['most_active']} active"
            f" of {kernel.MAX_RUNNING} allowed"
        ))  # fmt: skip
        self.add(
            subject, "errors seen by a caller", sum(result["errors"].values()), "",
            target="crowd_errors" if self.options.crowd_seconds >= FULL_CROWD_SECONDS else "",
            note=", ".join(result["errors"]),
        )  # fmt: skip
        self.add(subject, "deadlocks the server resolved", result["deadlocks"], "")

    # -- by size --------------------------------------------------------------------------

    def measure_claim(self):
        """Claims and life cycles for every number of finished and queued runs."""
        options = self.options
        for finished in options.finished:
            site = self.site("filled")
            self.report.add_problems("Finished runs", site.grow(finished))
            for queued in options.queued:
                _progress(f"{finished:,} finished, {queued:,} queued")
                self._claim_cell(site, finished, queued)
                self._cycle_cell(site, finished, queued)

    def _claim_cell(self, site, finished, queued):
        subject, options = "Claim alone", self.options
        base, smallest = self.site("none"), options.queued[0]
        count = min(options.claims, smallest)
        base_times, times, server_times = [], [], []
        for _ in range(options.rounds + 2):
            for where, backlog, into in ((base, smallest, base_times), (site, queued, times)):
                client, server, problems = kernel.claims(where, backlog, count)
                into += client
                self.report.add_problems(subject, problems)
                if into is times:
                    server_times += server
        name = f"{finished:,} finished, {queued:,} queued"
        p50, p99 = percentile(times, 50), percentile(times, 99)
        base_p99 = percentile(base_times, 99)
        reference = f"0 finished, {smallest:,} queued"
        is_full = finished >= FULL_FINISHED and queued >= FULL_QUEUED
        self.add(
            subject, f"{name}, p50", p50, "ms", p50 / percentile(base_times, 50), reference,
            note=f"in the server: {percentile(server_times, 50):.2f} ms",
        )  # fmt: skip
        self.add(
            subject, f"{name}, p99", p99, "ms", p99 / base_p99, reference,
            target="claim_growth" if is_full else "",
            note=f"in the server: {percentile(server_times, 99):.2f} ms",
        )  # fmt: skip

    def _cycle_cell(self, site, finished, queued):
        subject = "Life cycles by size"
        results = [
            kernel.drain(site, queued, min(queued, CYCLES_PER_CELL))
            for _ in range(self.options.rounds)
        ]
        for result in results:
            self.report.add_problems(subject, result["problems"])
        rate = statistics.median(result["rate"] for result in results)
        ratio = rate / self.graphile_rate if self.graphile_rate else None
        self.add(
            subject, f"{finished:,} finished, {queued:,} queued", rate, "/s", ratio,
            peers.GRAPHILE if ratio else "",
        )  # fmt: skip

    # -- logs -----------------------------------------------------------------------------

    def measure_logs(self):
        connection = self.site("work").db.connection
        for row in log_rows.rows(connection, *self.options.log_lines):
            self.add("Log lines", **row)

    # -- the worker -----------------------------------------------------------------------

    def measure_output(self):
        found = worker_rows.output(self.site("work"), *self.options.output, self.options.rounds)
        self.report.add_problems("Output of a run", found["problems"])
        for row in found["rows"]:
            self.add("Output of a run", **row)

    def measure_artifacts(self):
        for row in worker_rows.artifacts(self.options.artifact_mib, self.options.rounds):
            self.add("Artifacts in S3", **row)

    def measure_docker(self):
        for row in worker_rows.containers(self.options.containers):
            self.add("Start of a container", **row)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
