"""A schedule as it can be asked: a name, a function of the number of updates, and what it says of itself."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from lrtune.schedules.base import Floats

__all__ = ["MOST_STEPS", "Source", "one_by_one"]

MOST_STEPS = 1_000_000  # a schedule is asked once for each update


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A schedule of another library's, or one of lrtune's.

    Attributes
    ----------
    name
        What it is, e.g. ``"torch CosineAnnealingLR"``.
    rates
        The learning rates of its first positions, shape (n,), for a number n of them.
    length
        Updates of the run, where it says so.
    peak
        The learning rate that it was made for, where it says so.
    every
        Updates between two positions: more than 1 where it moves once an epoch.
    accumulate
        Micro-batches to an update, where it says so.
    counts_updates
        Whether its host counts updates whatever the accumulation; else it counts calls, which a loop may make for
        every micro-batch.
    fields
        What it says of a recipe beyond the schedule: batch size, weight decay, optimizer.
    schedule
        The recipe's schedule and warmup, where they need no finding out.
    at
        The updates that are known, where it is a log; None where all are.
    notes
        Remarks of the reader's.
    """

    name: str
    rates: Callable[[int], Floats]
    length: int | None = None
    peak: float | None = None
    every: int = 1
    accumulate: int = 1
    counts_updates: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)
    schedule: Mapping[str, Any] | None = None
    at: npt.NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()


def one_by_one(call: Callable[[Any], Any], name: str) -> Callable[[int], Floats]:
    """The rates of a function of the step, asked with an array where it takes one."""

    def rates(count: int) -> Floats:
        some = sorted({0, min(1, count - 1), count // 3, count // 2, count - 1})
        with contextlib.suppress(Exception):  # written for numbers only: then it is asked with numbers
            whole = np.asarray(call(np.arange(count)), dtype=np.float64)
            if whole.shape == (count,) and all(whole[t] == _number(call(t)) for t in some):
                return whole
        try:
            return np.array([_number(call(t)) for t in range(count)])
        except Exception as error:
            msg = f"schedule_of: {name} fails as a function of the step ({type(error).__name__}: {error}); give one "
            raise InputError(msg + "that takes the number of the update and returns the learning rate") from error

    return rates


def _number(value: Any) -> float:
    return float(value.item() if hasattr(value, "item") else value)
