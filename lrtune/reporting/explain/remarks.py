"""What a reader of a schedule should know of it: zeros, a peak that is never reached, an end that is not the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from lrtune.schedules.base import Floats

__all__ = ["highest", "remarks"]

SMALL = 1e-9  # of the highest rate: zero, or no change
REACHED = 0.999  # of the peak
JUMP = 0.1  # of the highest rate, in one update
ENDED = 0.05  # of the run at one value
LONGER = 2  # than the longest part at one value before: else it goes in steps
LOW = 1e-3  # of the highest rate


def remarks(rates: Floats, *, peak: float | None, accumulate: int = 1) -> tuple[str, ...]:
    """One sentence each.

    Parameters
    ----------
    rates
        The learning rate of every update, shape (n,).
    peak
        What the schedule was made for, where it says so.
    accumulate
        Micro-batches to an update, where the schedule counts them.
    """
    return tuple(_remarks(np.asarray(rates, dtype=np.float64), peak, accumulate))


def _remarks(rates: Floats, peak: float | None, accumulate: int) -> Iterator[str]:
    if not np.isfinite(rates).all():
        yield f"the rate of update {int(np.argmin(np.isfinite(rates)))} is not finite"
        return
    most = float(np.max(np.abs(rates)))
    if not most:
        yield "the learning rate is zero at every update: nothing is learned"
        return
    if (rates < 0).any():
        yield f"{_updates(int((rates < 0).sum()))} below zero, first update {int(np.argmax(rates < 0))}"
    yield from _zeros(np.abs(rates) <= SMALL * most)
    if peak is not None and peak > 0:
        share = float(np.max(rates)) / peak
        if share < REACHED:
            yield f"the peak is never reached: at most {_percent(share)} of it, at update {highest(rates)}"
        elif share > 1 / REACHED:
            yield f"it rises to {_percent(share)} of the learning rate that it was given, at update {highest(rates)}"
    if accumulate > 1:
        yield f"counted in micro-batches, {accumulate} to an update, it goes {accumulate} times as fast"
    yield from _end(rates, accumulate)
    rises = np.diff(rates) > JUMP * most
    rises[: highest(rates)] = False  # before the first peak that is a short warmup
    if rises.any():
        times = int(rises.sum())
        first = int(np.argmax(rises)) + 1
        more = "" if times == 1 else f", and {times - 1} times more"
        yield f"jumps up from {rates[first - 1]:.3g} to {rates[first]:.3g} at update {first}{more}"
    elif again := _rises_again(rates):
        yield f"rises again from update {again} on"


def _zeros(zero: npt.NDArray[np.bool_]) -> Iterator[str]:
    first = len(zero) if zero.all() else int(np.argmin(zero))
    last = 0 if zero.all() else int(np.argmin(zero[::-1]))
    if first == 1:
        yield "update 0 is at zero and changes no weight"
    elif first:
        yield f"the first {_updates(first)} at zero and change no weight"
    if 0 < last < ENDED * len(zero):  # beyond that it is said of the end
        yield "the last update is at zero" if last == 1 else f"the last {_updates(last)} at zero and change no weight"
    between = int(zero.sum()) - first - last
    if between > 0:
        yield f"{_updates(between)} at zero on the way"


def _end(rates: Floats, accumulate: int) -> Iterator[str]:
    """What is said of the end."""
    most, steps = float(np.max(rates)), len(rates)
    changed = np.flatnonzero(np.abs(np.diff(rates)) > SMALL * most)
    if not len(changed):
        yield "it never changes"
        return
    last = int(changed[-1]) + 1
    tail, before = steps - last, int(np.max(np.diff([0, *(changed + 1)])))  # updates at one rate
    share = float(rates[-1]) / most if most > 0 else math.nan
    if tail >= max(ENDED * steps, LONGER * before + 1) and share < REACHED:
        why = ""
        if accumulate > 1 and last <= steps / accumulate + 1:
            why = f" because accumulation counts micro-batches, {accumulate} to an update"
        yield f"the last {_percent(tail / steps)} run at the end value, {rates[-1]:.3g}{why}"
    end = max(2 * float(rates[-1]) - float(rates[-2]), 0.0) / most  # where the next update would be
    if LOW < min(share, end) < REACHED:
        yield f"ends at {_percent(share)} of the peak"
    elif share >= REACHED:
        yield "ends at its peak"


def _rises_again(rates: Floats) -> int:
    """The update from which a rate that has fallen rises by more than a tenth of the peak; 0 where none does."""
    top = highest(rates)
    after = rates[top:]
    low = np.minimum.accumulate(after)
    up = after - low > JUMP * float(rates[top])
    if not up.any():
        return 0
    return top + int(np.argmin(after[: int(np.argmax(up)) + 1])) + 1


def highest(rates: Floats) -> int:
    """The first update at the highest rate."""
    return int(np.argmax(rates >= np.max(rates) * (1 - SMALL)))


def _updates(count: int) -> str:
    return f"{count} update{' is' if count == 1 else 's are'}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
