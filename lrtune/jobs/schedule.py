"""When a job is due: a schedule divides time into periods, and each period is run once.

All times are in UTC. A time zone matters only where a schedule names a time of day, and then it is the job file's,
not the machine's: a job keeps its periods when it is moved, or the machine's zone or clock changes.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from lrtune.errors import StudyFileError

__all__ = ["MONDAY", "Due", "DueKind", "Every", "JobSchedule", "due", "seconds_of"]

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MONDAY = dt.datetime(1970, 1, 5, tzinfo=dt.UTC)
LONGEST = 366 * 86_400 * 10
MOST_COUNTED = 10_000
LATE_SHARE = 0.1  # of a period: a run that starts later than that is a catch-up


class JobSchedule(Protocol):
    """Divides time into periods; a period begins each time that the schedule fires, and is named by that time."""

    def previous(self, at: dt.datetime, /) -> dt.datetime:
        """The last time at or before `at`, in UTC."""

    def next(self, after: dt.datetime, /) -> dt.datetime:
        """The first time after `after`, in UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """Periods of a fixed length, counted from `start` both ways: 7 days are 168 hours also where clocks change."""

    seconds: int
    start: dt.datetime = MONDAY

    def previous(self, at: dt.datetime) -> dt.datetime:
        """The last time at or before `at`, in UTC."""
        step = dt.timedelta(seconds=self.seconds)
        return self.start + step * ((at - self.start) // step)

    def next(self, after: dt.datetime) -> dt.datetime:
        """The first time after `after`, in UTC."""
        return self.previous(after) + dt.timedelta(seconds=self.seconds)


def seconds_of(text: str) -> int:
    """``"90s"``, ``"30m"``, ``"12h"``, ``"7d"`` or ``"2w"`` in seconds.

    Raises
    ------
    StudyFileError
        If it is none of these, or longer than ten years.
    """
    match = re.fullmatch(r"([1-9]\d{0,8}) ?([smhdw])", text, re.ASCII)
    seconds = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < seconds <= LONGEST:
        msg = f'{text[:40]!r} is no length of time: write a number and s, m, h, d or w, such as "7d"'
        raise StudyFileError(msg)
    return seconds


class DueKind(Enum):
    """What is to be done now."""

    RUN = "it is due"
    RESUME = "the run of this period was interrupted and goes on"
    DONE = "the run of this period is done"
    SKIP = "the period has begun too long ago, and is not to be caught up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What is due.

    Attributes
    ----------
    period
        The period that it is done for: when it began.
    missed
        Periods between the last one that was run and this one, which are not run any more, and this one where it
        began too long ago.
    next
        When the next period begins.
    """

    kind: DueKind
    period: dt.datetime
    missed: int
    next: dt.datetime


def due(
    schedule: JobSchedule,
    now: dt.datetime,
    *,
    last: dt.datetime | None = None,
    running: dt.datetime | None = None,
    catch_up: bool = True,
    late: float | None = None,
) -> Due:
    """What is due now; a pure function.

    Parameters
    ----------
    schedule
        Of the job.
    now
        The time; aware.
    last
        The last period that was done; None before the first one.
    running
        The period of a run that was begun and not ended.
    catch_up
        Whether a period that has begun too long ago is run all the same: once, however many were missed.
    late
        Seconds after its beginning at which a period counts as missed; a tenth of a period by default.
    """
    period = schedule.previous(now)
    following = schedule.next(now)
    if last is not None and period <= last:  # "<": the clock was set back
        return Due(kind=DueKind.DONE, period=last, missed=0, next=schedule.next(max(now, last)))
    if running == period:
        return Due(kind=DueKind.RESUME, period=period, missed=0, next=following)
    allowed = LATE_SHARE * (following - period).total_seconds() if late is None else late
    is_late = last is not None and (now - period).total_seconds() > allowed
    missed = 0 if last is None else _between(schedule, last, period) + is_late
    kind = DueKind.SKIP if is_late and not catch_up else DueKind.RUN
    return Due(kind=kind, period=period, missed=missed, next=following)


def _between(schedule: JobSchedule, last: dt.datetime, period: dt.datetime) -> int:
    """Periods that began after `last` and before `period`; 10,000 at most."""
    if isinstance(schedule, Every):
        return max(0, (period - last) // dt.timedelta(seconds=schedule.seconds) - 1)
    count, at = 0, schedule.next(last)
    while at < period and count < MOST_COUNTED:
        count, at = count + 1, schedule.next(at)
    return count
