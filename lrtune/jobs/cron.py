"""Cron expressions: five fields in a time zone, read as Debian's cron reads them, also where clocks change.

Where clocks change, cron(8) treats two kinds of lines differently, and so does this module. A line whose minute or
hour field begins with a star runs through: it fires at every minute of which the clock shows a matching time, so
also in the hour that autumn repeats, and not in the one that spring leaves out. Any other line names times of day:
one that is shown twice fires the first time only, and one that is skipped fires at once after the gap, if the gap
has three hours at most.

Own code, because the libraries tried here answer some of these questions differently. APScheduler 3.11 takes 0 for
Monday, joins the two day fields by *and*, and fires a repeated time of day twice. cronsim 2.8 follows Debian, but
where clocks move by half an hour (Australia/Lord_Howe) it leaves out times such as 2:00 of ``0 */2 * * *``; the test
of this module counts minute by minute.
"""

from __future__ import annotations

import bisect
import datetime as dt
import functools
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lrtune.errors import StudyFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

__all__ = ["SUNDAY", "WORDS", "Cron"]

WORDS = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 1", "monthly": "0 0 1 * *"}
"""Expressions of ``every = "weekly"`` and the like; a week begins on Monday."""

NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
"""The short words of crontab(5), where a week begins on Sunday."""

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
SUNDAY = 7  # besides 0
HOURS, HOUR = 24, dt.timedelta(hours=1)
FARTHEST = 366 * 41  # days: a 29 February that is a given weekday may be 40 years away
LONGEST_GAP = dt.timedelta(hours=3)  # cron(8): what moves the clock farther is a correction, and makes up for nothing
ZERO, SECOND, DAY = dt.timedelta(), dt.timedelta(seconds=1), dt.timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


FIELDS = (
    _Field(name="minute", low=0, high=59),
    _Field(name="hour", low=0, high=23),
    _Field(name="day of the month", low=1, high=31),
    _Field(name="month", low=1, high=12, names=MONTHS),
    _Field(name="day of the week", low=0, high=SUNDAY, names=WEEKDAYS),
)


@dataclass(frozen=True, kw_only=True)
class Cron:
    """When a cron line of five fields, read in a time zone, fires.

    Raises
    ------
    StudyFileError
        If the text is not such a line, or names a day that never comes.
    """

    text: str
    zone: ZoneInfo

    def __post_init__(self) -> None:
        if next(self._days(dt.date(2000, 1, 1), 1), None) is None:
            msg = f"{self.text!r} never fires: no year has such a day; correct the day or the month"
            raise StudyFileError(msg)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The five fields as texts; a short word such as ``@daily`` is written out."""
        text = self.text.strip().lower()
        if text.startswith("@") and text not in NICKNAMES:
            msg = f"{self.text[:40]!r} is no cron expression; known are {', '.join(NICKNAMES)}, or five fields"
            raise StudyFileError(msg)
        parts = NICKNAMES.get(text, text).split()
        if len(parts) != len(FIELDS):
            msg = f'{self.text!r} has {len(parts)} fields, a cron expression has 5, such as "0 3 * * 1"'
            raise StudyFileError(msg)
        return tuple(parts)

    @cached_property
    def values(self) -> tuple[frozenset[int], ...]:
        """The values of each field; Sunday is 0."""
        *found, week = [_values(part, spec) for part, spec in zip(self.fields, FIELDS, strict=True)]
        return (*found, frozenset(day % SUNDAY for day in week))

    @property
    def either_day(self) -> bool:
        """Whether one of the two day fields is enough: so where neither begins with a star (crontab(5))."""
        return not self.fields[2].startswith("*") and not self.fields[4].startswith("*")

    @property
    def runs_through(self) -> bool:
        """Whether it is a rhythm and not a time of day, for cron(8): its minute or hour field begins with a star."""
        return self.fields[0].startswith("*") or self.fields[1].startswith("*")

    def previous(self, at: dt.datetime) -> dt.datetime:
        """The last time at or before `at`, in UTC."""
        shown = self._shown_before(at)
        extra = self._hour_later(shown)
        return shown if extra is None or extra > at else extra

    def next(self, after: dt.datetime) -> dt.datetime:
        """The first time after `after`, in UTC."""
        shown = self._shown_after(after)
        extra = self._hour_later(self._shown_before(after)) if self._hourly else None
        return shown if extra is None or not after < extra < shown else extra

    @property
    def _hourly(self) -> bool:
        return self.runs_through and len(self.values[1]) == HOURS

    def _hour_later(self, shown: dt.datetime) -> dt.datetime | None:
        """An hour after a time, where a line for all hours has to fire by then."""
        later = shown + HOUR
        return later if self._hourly and self._on(later.astimezone(self.zone).date()) else None

    def _shown_before(self, at: dt.datetime) -> dt.datetime:
        """The last time at or before `at` that is a time of the clock."""
        days = self._days(at.astimezone(self.zone).date() + DAY, -1)
        day = next(day for day in days if self._fires(day, last=at))
        return max(self._fires(day, last=at)[-1:] + self._fires(day - DAY, last=at)[-1:])

    def _shown_after(self, after: dt.datetime) -> dt.datetime:
        """The first time after `after` that is a time of the clock."""
        days = self._days(after.astimezone(self.zone).date() - DAY, 1)
        day = next(day for day in days if self._fires(day, after=after))
        return min(self._fires(day, after=after)[:1] + self._fires(day + DAY, after=after)[:1])

    def _days(self, start: dt.date, step: int) -> Iterator[dt.date]:
        days = (start + count * step * DAY for count in range(FARTHEST))
        return (day for day in days if self._on(day))

    def _on(self, day: dt.date) -> bool:
        _, _, days, months, week = self.values
        in_month, in_week = day.day in days, day.isoweekday() % SUNDAY in week
        return day.month in months and ((in_month or in_week) if self.either_day else (in_month and in_week))

    def _fires(
        self, day: dt.date, *, after: dt.datetime | None = None, last: dt.datetime | None = None
    ) -> tuple[dt.datetime, ...]:
        """Times of that day that come after `after`, up to `last`; ascending, in UTC.

        Clocks that are set back over midnight show the end of one day again after the next one began, so the
        nearest time may be one of the neighbouring day.
        """
        minutes, hours, *_ = self.values
        found = _times(day, hours, minutes, self.zone, self.runs_through) if self._on(day) else ()
        begin = 0 if after is None else bisect.bisect_right(found, after)
        end = len(found) if last is None else bisect.bisect_right(found, last)
        return found[begin:end]


@functools.lru_cache(maxsize=64)
def _times(
    day: dt.date,
    hours: frozenset[int],
    minutes: frozenset[int],
    zone: ZoneInfo,
    runs_through: bool,  # noqa: FBT001 -- only ever called above
) -> tuple[dt.datetime, ...]:
    """When a clock shows these times on that day, ascending, in UTC."""
    found = set()
    for hour in hours:
        for minute in minutes:
            first = dt.datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            second = first.replace(fold=1)
            gap = (second.utcoffset() or ZERO) - (first.utcoffset() or ZERO)  # PEP 495: negative where shown twice
            if gap <= ZERO:
                found.add(first.astimezone(dt.UTC))
                if runs_through:
                    found.add(second.astimezone(dt.UTC))
            elif not runs_through and gap <= LONGEST_GAP:
                found.add(_change(second.astimezone(dt.UTC), first.astimezone(dt.UTC), zone))
    return tuple(sorted(found))


def _change(low: dt.datetime, high: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """When clocks change, between a time before it and one at or after it: found by halving, to the second."""
    after = high.astimezone(zone).utcoffset()
    while high - low > SECOND:
        middle = low + (high - low) // 2
        low, high = (low, middle) if middle.astimezone(zone).utcoffset() == after else (middle, high)
    return high.replace(microsecond=0)


def _values(text: str, spec: _Field) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        if slash and not re.fullmatch(r"[1-9]\d{0,2}", step):
            raise _refused(spec, part)
        low, high = (spec.low, spec.high) if span == "*" else _span(span, spec, open_end=bool(slash))
        if low > high:
            raise _refused(spec, part)
        found |= set(range(low, high + 1, int(step or 1)))
    return frozenset(found)


def _span(text: str, spec: _Field, *, open_end: bool) -> tuple[int, int]:
    """The ends of ``"5"``, ``"1-5"`` or ``"mon-fri"``; ``"5/10"`` goes on to the end of the field."""
    first, dash, last = text.partition("-")
    low = _value(first, spec, text)
    if dash:
        return low, _value(last, spec, text)
    return low, spec.high if open_end else low


def _value(text: str, spec: _Field, shown: str) -> int:
    if text in spec.names:
        return spec.names.index(text) + spec.low
    if not re.fullmatch(r"\d{1,2}", text, re.ASCII) or not spec.low <= int(text) <= spec.high:
        raise _refused(spec, shown)
    return int(text)


def _refused(spec: _Field, text: str) -> StudyFileError:
    names = f", or {spec.names[0]} to {spec.names[-1]}" if spec.names else ""
    allowed = f"*, a number from {spec.low} to {spec.high}{names}, a range 1-5, a list 1,3 or a step */2"
    return StudyFileError(f"the {spec.name} {text[:40]!r} of a cron expression must be {allowed}")
