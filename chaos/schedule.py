"""What breaks when: one list made from a seed, so that a storm can be repeated.

Only the plan is repeated. What each blow hits depends on how far the runs have come by then.
"""

from __future__ import annotations

import random
from typing import NamedTuple

#: Between two blows of one kind, seconds on the average. PostgreSQL goes down more rarely: after
#: each start nothing is reaped for one lease, and lost runs hold their places for so long.
WORKER_GAP = 8.0
STORE_GAP = 35.0
DOCKER_GAP = 50.0
POSTGRES_GAP = 120.0
#: A lease lasts 60 seconds; what is frozen for longer finds that it has lost everything.
BEYOND_LEASE = 70.0
LONG_FREEZES_PER_MINUTE = 0.4
#: What happens to a worker, and how often beside the others: to its agent alone, to the process of
#: one of its runs, to the agent and all of them.
WORKER_BLOWS = {
    "kill": 3,
    "kill_runner": 3,
    "kill_all": 3,
    "freeze": 2,
    "freeze_all": 2,
    "drain": 1,
}


class Blow(NamedTuple):
    """At second ``at`` of the storm ``kind`` happens to ``target`` for ``seconds``."""

    at: float
    kind: str
    target: int
    seconds: float


def make(seed: int, seconds: float, workers: int, has_docker: bool = True) -> list[Blow]:
    """All blows of a storm of so many seconds, in the order of time."""
    chance = random.Random(seed)
    blows: list[Blow] = []

    def spread(gap: float) -> list[float]:
        """Times so far apart on the average, at least one, never in the last seconds."""
        count = max(1, round(seconds / gap))
        part = (seconds - 2) / count
        return [part * (number + chance.random()) for number in range(count)]

    for at in spread(WORKER_GAP):
        kind = chance.choices(tuple(WORKER_BLOWS), tuple(WORKER_BLOWS.values()))[0]
        blows.append(Blow(at, kind, chance.randrange(workers), chance.uniform(1, 12)))
    for at in spread(60 / LONG_FREEZES_PER_MINUTE):
        # It wakes within the storm, if that lasts so long.
        at *= max(0.0, 1 - (BEYOND_LEASE + 2) / seconds)
        blows.append(Blow(at, "freeze_all", chance.randrange(workers), BEYOND_LEASE))
    for at in spread(STORE_GAP):
        kind = chance.choice(("store_freeze", "store_cut", "store_busy"))
        blows.append(Blow(at, kind, 0, chance.uniform(3, 15)))
    for at in spread(POSTGRES_GAP):
        kind = chance.choice(("postgres_fast", "postgres_crash"))
        blows.append(Blow(at * 0.8, kind, 0, chance.uniform(0, 8)))
    for at in spread(DOCKER_GAP) if has_docker else ():
        kind = chance.choice(("docker_kill", "docker_freeze"))
        blows.append(Blow(at, kind, 0, chance.uniform(1, 8)))
    return sorted(blows)
