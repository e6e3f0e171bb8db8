"""Times as text: UTC, to the second."""

from __future__ import annotations

import datetime as dt

__all__ = ["stamp", "utc", "utc_now"]


def utc_now() -> dt.datetime:
    """The time now, in UTC."""
    return dt.datetime.now(tz=dt.UTC)


def stamp(at: dt.datetime) -> str:
    """``"2026-11-22T03:00:00Z"``, to the second."""
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc(text: str) -> dt.datetime:
    """The time that :func:`stamp` wrote.

    Raises
    ------
    ValueError
        If it is not one.
    """
    return dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=dt.UTC)
