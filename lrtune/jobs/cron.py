"""A cron expression: five fields, as Vixie's cron reads them, in a time zone, safe when clocks change.

Not APScheduler's own reading of such a line: there 0 is Monday and not Sunday, the two day fields are
joined by *and* where cron joins them by *or*, and a time that the autumn repeats fires twice (3.11).
Here a time of day that occurs twice fires at its first occurrence, and one that spring leaves out fires
as much after the gap as it stood within it: once a day, whatever the clocks do.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from lrtune.errors import StudyFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

__all__ = ["WORDS", "Cron", "weekdays"]

WORDS = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 1", "monthly": "0 0 1 * *"}
"""What ``every = "weekly"`` stands for; a week begins on Monday."""

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
SUNDAY = 7  # besides 0
FARTHEST = 366 * 41  # days: a 29 February that is a given weekday may be 40 years away


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
    """When a cron line fires.

    Attributes
    ----------
    text
        The five fields.
    zone
        In which they are read.

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
    def values(self) -> tuple[frozenset[int], ...]:
        """The values of each field."""
        parts = self.text.split()
        if len(parts) != len(FIELDS):
            msg = f'{self.text!r} has {len(parts)} fields, a cron expression has 5, such as "0 3 * * 1"'
            raise StudyFileError(msg)
        *found, _ = [_values(part.lower(), spec) for part, spec in zip(parts, FIELDS, strict=True)]
        return (*found, weekdays(parts[4]))

    def previous(self, at: dt.datetime) -> dt.datetime:
        """The last time at or before `at`, in UTC."""
        day = at.astimezone(self.zone).date() + dt.timedelta(days=1)
        return next(fire for found in self._days(day, -1) for fire in reversed(self._fires(found)) if fire <= at)

    def next(self, after: dt.datetime) -> dt.datetime:
        """The first time after `after`, in UTC."""
        day = after.astimezone(self.zone).date() - dt.timedelta(days=1)
        return next(fire for found in self._days(day, 1) for fire in self._fires(found) if fire > after)

    def _days(self, start: dt.date, step: int) -> Iterator[dt.date]:
        for count in range(FARTHEST):
            day = start + dt.timedelta(days=count * step)
            if self._on(day):
                yield day

    def _on(self, day: dt.date) -> bool:
        _, _, days, months, weekdays = self.values
        if day.month not in months:
            return False
        _, _, day_text, _, weekday_text = self.text.split()
        in_month, in_week = day.day in days, day.isoweekday() % SUNDAY in weekdays
        # Two restricted day fields are joined by "or" (crontab(5)); one that begins with a star restricts nothing.
        if day_text.startswith("*") or weekday_text.startswith("*"):
            return in_month and in_week
        return in_month or in_week

    def _fires(self, day: dt.date) -> list[dt.datetime]:
        """Times of that day, ascending, in UTC; those of a gap fall together with later ones and count once."""
        minutes, hours, *_ = self.values
        local = (dt.datetime(day.year, day.month, day.day, h, m, tzinfo=self.zone) for h in hours for m in minutes)
        return sorted({moment.astimezone(dt.UTC) for moment in local})


def weekdays(text: str) -> frozenset[int]:
    """The days that the last field names, Sunday as 0."""
    return frozenset(value % SUNDAY for value in _values(text.lower(), FIELDS[4]))


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
