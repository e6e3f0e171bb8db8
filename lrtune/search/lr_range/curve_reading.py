"""What a learning-rate sweep says: pure functions of two lists, the learning rates and the losses seen there.

Every reader takes learning rates (positive, increasing) and the loss at each, of equal length, and returns a
learning rate, or None where the sweep has nothing to say. Losses may be negative, NaN or infinite anywhere:
what is not finite is left out, a lone spike is passed over, and what lies far above the start counts as "far
above" and no more. Slopes are taken against the logarithm of the learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.core.numpy_errors import own_errstate
from lrtune.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["READERS", "edge", "minimum_over_ten", "onset", "sliding", "smooth", "steepest", "valley"]

Floats: TypeAlias = npt.NDArray[np.float64]
Numbers: TypeAlias = "Sequence[float] | Floats"

WIDTH = 0.2
"""Standard deviation of the smoothing kernel, in decades of learning rate."""

FEWEST = 8
"""Finite losses below which there is nothing to read."""

START = 0.15
"""Share of the sweep that counts as its start: the learning rate is still too small to matter there."""

CEILING = 2.0
"""Losses are cut off at this many falls above the start, so that an explosion does not smear backwards."""

NOISE = 4.0
"""Standard errors that a fall must exceed to count as one: the lowest of some thirty independent values lies
2.2 standard errors down by chance."""

RISE = 10.0
"""Standard deviations of the losses above the start at which a sweep that never falls counts as exploded."""

BEGUN = 0.1
"""Share of the whole fall at which it counts as begun."""

FEWEST_NEAR = 3
"""Losses within two kernel widths below which there is no level: a line needs two, and one to disagree."""

ROUNDING = 1e-9
"""Relative size of what is rounding."""

LOST = 0.5
"""Share of the whole fall, given back, at which a run counts as beyond its edge."""


@own_errstate()
def smooth(lrs: Numbers, losses: Numbers) -> tuple[Floats, Floats]:
    """Level and slope (per decade) of the loss at each learning rate, each of shape (n,).

    A running median of five, then a local line in log10 lr under a Gaussian kernel, through the finite losses
    alone. NaN where fewer than three of them lie within two kernel widths.

    Raises
    ------
    InputError
        If the lists differ in length, or the learning rates are not positive and increasing.
    """
    seen = _prepared(lrs, losses)
    level, slope, _ = _local_line(seen.x, seen.clean)
    return level, slope


@own_errstate()
def steepest(lrs: Numbers, losses: Numbers) -> float | None:
    """Where the loss falls fastest per decade."""
    fall = _fall(lrs, losses)
    return None if fall is None else fall.lr(int(np.nanargmin(fall.slope[: fall.bottom + 1])))


@own_errstate()
def valley(lrs: Numbers, losses: Numbers) -> float | None:
    """The middle, in log lr, of the way from the onset of the fall to the minimum (the idea of fastai's ``valley``)."""
    fall = _fall(lrs, losses)
    return None if fall is None else float(10 ** ((fall.x[fall.onset] + fall.x[fall.bottom]) / 2))


@own_errstate()
def sliding(lrs: Numbers, losses: Numbers) -> float | None:
    """The last place before the minimum at which the loss falls at half of its fastest rate or more.

    The idea of fastai's ``slide``: come from the high end until the slope is that of a healthy descent.
    """
    fall = _fall(lrs, losses)
    if fall is None:
        return None
    slope = fall.slope[: fall.bottom + 1]
    return fall.lr(int(np.flatnonzero(slope <= 0.5 * np.nanmin(slope))[-1]))


@own_errstate()
def minimum_over_ten(lrs: Numbers, losses: Numbers) -> float | None:
    """A tenth of the learning rate with the least smoothed loss (fastai's ``minimum``)."""
    fall = _fall(lrs, losses)
    return None if fall is None else fall.lr(fall.bottom) / 10


@own_errstate()
def onset(lrs: Numbers, losses: Numbers) -> float | None:
    """Where the fall has begun: below it a short sweep cannot tell learning from standing still."""
    fall = _fall(lrs, losses)
    return None if fall is None else fall.lr(fall.onset)


@own_errstate()
def edge(lrs: Numbers, losses: Numbers) -> float | None:
    """Where, above the minimum, half of the fall is given back, or the losses end; None if neither happens.

    A sweep that never falls has an edge where it explodes.
    """
    seen = _prepared(lrs, losses)
    held = np.flatnonzero(np.isfinite(seen.clean))
    if len(held) < FEWEST:
        return None
    fall = _fall(lrs, losses)
    if fall is None:
        beyond = np.flatnonzero(seen.quiet > seen.start + RISE * seen.noise + ROUNDING * abs(seen.start))
    else:
        beyond = fall.bottom + np.flatnonzero(fall.level[fall.bottom :] > fall.least + LOST * fall.depth)
    if len(beyond):
        return seen.lr(int(beyond[0]))
    return seen.lr(int(held[-1])) if held[-1] < len(seen.x) - 1 else None


READERS: Mapping[str, Callable[[Numbers, Numbers], float | None]] = {
    "steepest": steepest,
    "valley": valley,
    "sliding": sliding,
    "minimum / 10": minimum_over_ten,
    "edge": edge,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _CleanSweep:
    """A sweep as it is looked at: log10 lr; losses without spikes and infinities, and without explosions too.

    `start` is their level before anything happens, `noise` the standard deviation around their trend.
    """

    x: Floats
    quiet: Floats
    clean: Floats
    start: float = np.nan
    noise: float = np.nan

    def lr(self, index: int) -> float:
        return float(10 ** self.x[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fall:
    """A sweep that falls: the smoothed loss, and where it starts to fall and is lowest (indices)."""

    x: Floats
    level: Floats
    slope: Floats
    onset: int
    bottom: int
    least: float
    depth: float

    def lr(self, index: int) -> float:
        return float(10 ** self.x[index])


def _fall(lrs: Numbers, losses: Numbers) -> _Fall | None:
    """The fall of a sweep; None where it never falls by more than its noise."""
    seen = _prepared(lrs, losses)
    level, slope, spread = _local_line(seen.x, seen.clean)
    if not np.isfinite(level).any():
        return None
    bottom = int(np.nanargmin(level))
    least = float(level[bottom])
    # The start is a median of its losses, whose variance is pi / 2 times that of a mean.
    error = seen.noise * np.sqrt(spread[bottom] ** 2 + np.pi / 2 / _starting(len(level)))
    if seen.start - least <= max(NOISE * error, ROUNDING * max(abs(seen.start), abs(least))):
        return None
    start = seen.start
    before = np.flatnonzero(level[: bottom + 1] > start - BEGUN * (start - least))
    return _Fall(
        x=seen.x,
        level=level,
        slope=slope,
        onset=int(before[-1]) if len(before) else 0,
        bottom=bottom,
        least=least,
        depth=start - least,
    )


def _prepared(lrs: Numbers, losses: Numbers) -> _CleanSweep:
    """The sweep as it is looked at; all NaN where there are too few finite losses."""
    rates, y = np.asarray(lrs, dtype=np.float64), np.array(losses, dtype=np.float64)
    if rates.shape != y.shape or rates.ndim != 1:
        msg = f"a sweep is two lists of one length (got shapes {rates.shape} and {y.shape}); give a loss for each rate"
        raise InputError(msg)
    if len(rates) and not (rates[0] > 0 and np.isfinite(rates[-1]) and (np.diff(rates) > 0).all()):
        msg = f"a sweep's learning rates must be positive, finite and increasing (got {rates[0]:g} ... {rates[-1]:g})"
        raise InputError(msg)
    held = np.flatnonzero(np.isfinite(y))
    x, quiet = np.log10(rates), np.full(len(y), np.nan)
    if len(held) < FEWEST:
        return _CleanSweep(x=x, quiet=quiet, clean=quiet)
    start = float(np.median(y[held][: _starting(len(y))]))
    # The median of the differences of normal noise is 0.954 standard deviations; of the first half, before all moves.
    noise = float(np.median(np.abs(np.diff(y[held][: max(FEWEST, len(y) // 2)]))) / 0.954)
    quiet[held] = _median_of_five(y[held])
    ceiling = start + CEILING * max(start - float(quiet[held].min()), noise)
    return _CleanSweep(x=x, quiet=quiet, clean=np.minimum(quiet, ceiling), start=start, noise=noise)


def _starting(steps: int) -> int:
    """How many losses make the start of a sweep."""
    return max(3, round(START * steps))


def _median_of_five(values: Floats) -> Floats:
    padded = np.concatenate((values[2:0:-1], values, values[-2:-4:-1]))
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1), dtype=np.float64)


def _local_line(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Value and slope at each x of the weighted least-squares line through what lies around it.

    And the standard deviation of that value for noise of one.
    """
    held = np.isfinite(y)
    dx = x[None, held] - x[:, None]
    weights = np.exp(-0.5 * (dx / WIDTH) ** 2)
    s0, s1, s2 = weights.sum(1), (weights * dx).sum(1), (weights * dx**2).sum(1)
    determinant = s0 * s2 - s1**2
    bare = ((np.abs(dx) <= 2 * WIDTH).sum(1) < FEWEST_NEAR) | (determinant <= ROUNDING * s0 * s2)
    scale = np.where(bare, 1.0, determinant)[:, None]
    at = weights * (s2[:, None] - s1[:, None] * dx) / scale
    along = weights * (s0[:, None] * dx - s1[:, None]) / scale
    level, slope = at @ y[held], along @ y[held]
    level[bare], slope[bare] = np.nan, np.nan
    return level, slope, np.sqrt((at**2).sum(1))
