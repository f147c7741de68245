"""When a schedule is due: cron expressions in a time zone. No ORM in here, only times.

Times are naive UTC, as Odoo keeps them. The expression is read by ``cronsim``, which treats the
hours around a change to or from daylight saving time as Debian's cron does: a fixed time that the
change skips comes right after it, one that it repeats comes once.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from itertools import chain, islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

#: Expressions longer than this are refused before they are read.
MAX_LENGTH = 200
#: So many missed times at most are made up for, the newest.
MAX_CATCH_UP = 24
#: Times missed longer ago are forgotten.
CATCH_UP_WINDOW = timedelta(days=31)
#: Later than this, a time counts as missed: nobody looked when it was due.
PUNCTUALITY = timedelta(minutes=10)


class ScheduleError(ValueError):
    """The expression cannot be used; the message says why."""


def occurrences(expression: str, zone: str, after: datetime):
    """Yield the times of a schedule behind ``after``.

    :param expression: five fields of cron: minute, hour, day of month, month, day of week
    :param zone: name of a time zone, e.g. ``Europe/Brussels``
    :param after: naive UTC
    :return: iterator of naive UTC times, ascending
    :raise ScheduleError: when the expression or the zone is wrong, or no time ever fits
    """
    if len(expression) > MAX_LENGTH or len(expression.split()) != 5:
        raise ScheduleError(
            "five fields are wanted: minute, hour, day of month, month, day of week"
        )
    try:
        begin = after.replace(tzinfo=timezone.utc).astimezone(ZoneInfo(zone))
    except (KeyError, ValueError, OSError) as error:
        raise ScheduleError(f"there is no time zone {zone}") from error
    try:
        times = CronSim(expression, begin)
        # Around a change of the clocks the first time may lie before the question.
        first = next(time for time in times if time > begin)
    except (CronSimError, AssertionError) as error:
        raise ScheduleError(str(error).lower() or "it cannot be read") from error
    except StopIteration as error:
        raise ScheduleError("no day ever fits") from error
    return (time.astimezone(timezone.utc).replace(tzinfo=None) for time in chain([first], times))


def next_time(expression: str, zone: str, after: datetime) -> datetime:
    """The first time of a schedule behind ``after``; see :func:`occurrences`."""
    return next(occurrences(expression, zone, after))


def due_times(expression: str, zone: str, since: datetime, now: datetime, catch_up: str):
    """Which times from ``since`` (itself a time of the schedule) to ``now`` deserve a run.

    :param catch_up: for times that were missed: ``once`` one run for all of them together,
        ``all`` one each (the newest ``MAX_CATCH_UP``), ``skip`` none
    :return: (times to queue, how many others were due, next time); others older than
        ``CATCH_UP_WINDOW`` are not counted
    """
    times, dropped = [since], 0
    coming = occurrences(expression, zone, max(since, now - CATCH_UP_WINDOW))
    while (upcoming := next(coming)) <= now:
        times.append(upcoming)
        if len(times) > MAX_CATCH_UP:
            times.pop(0)
            dropped += 1
    if catch_up == "all":
        queued = times
    elif catch_up == "once" or times[-1] >= now - PUNCTUALITY:
        queued = times[-1:]
    else:
        queued = []
    return queued, dropped + len(times) - len(queued), upcoming


def delay(jitter: int, workflow_id: int, time: datetime) -> timedelta:
    """How much later than ``time`` the run may start: up to ``jitter`` seconds.

    The same for the same time, so that asking twice queues nothing twice.
    """
    digest = hashlib.sha256(f"{workflow_id} {time.isoformat()}".encode()).digest()
    return timedelta(seconds=int.from_bytes(digest[:8], "big") % (jitter + 1))


def preview(expression: str, zone: str, after: datetime, count: int = 3) -> list[str]:
    """The next times as people in that zone read them."""
    return [
        time.replace(tzinfo=timezone.utc)
        .astimezone(ZoneInfo(zone))
        .strftime("%a %Y-%m-%d %H:%M %Z")
        for time in islice(occurrences(expression, zone, after), count)
    ]
