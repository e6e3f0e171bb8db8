"""What a learning-rate sweep says: pure functions of two lists, the learning rates and the losses reported there.

Every reader takes learning rates (positive, increasing) and the loss at each, of equal length, and returns a
learning rate, or None where the sweep has nothing to say. Losses may be negative, NaN or infinite anywhere:
what is not finite is left out, a lone spike is passed over, and what lies far above the start is cut off.
Slopes are taken against the logarithm of the learning rate.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from lrtune.core.numpy_errors import own_errstate
from lrtune.errors import InputError
from lrtune.search.lr_range.config import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["READERS", "edge", "minimum_over_ten", "sliding", "smooth", "steepest", "valley"]

Floats: TypeAlias = npt.NDArray[np.float64]
Numbers: TypeAlias = "Sequence[float] | Floats"
Reader: TypeAlias = "Callable[[Numbers, Numbers], float | None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class _CleanSweep:
    """A sweep: log10 lr; losses without spikes and non-finite values; the same cut off far above the start.

    `start` is their level before anything happens, `noise` the standard deviation around their trend.
    """

    x: Floats
    quiet: Floats
    clean: Floats
    start: float = np.nan
    noise: float = np.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fall:
    """A sweep that falls: log10 lr, smoothed loss, its slope; the fall's begin and end (indices), its two levels."""

    x: Floats
    level: Floats
    slope: Floats
    onset: int
    bottom: int
    start: float
    least: float

    def lr(self, index: int) -> float:
        return float(10 ** self.x[index])


def _reader(rule: Callable[[_Fall], float]) -> Reader:
    """The reader of a rule for sweeps that fall; None where one does not."""

    @own_errstate()
    @functools.wraps(rule)
    def read(lrs: Numbers, losses: Numbers) -> float | None:
        fall = _fall(_prepared(lrs, losses))
        return None if fall is None else rule(fall)

    return read


@_reader
def steepest(fall: _Fall) -> float:
    """Where the loss falls fastest per decade."""
    return fall.lr(int(np.nanargmin(fall.slope[: fall.bottom + 1])))


@_reader
def valley(fall: _Fall) -> float:
    """The middle, in log lr, of the way from the onset of the fall to the minimum (the idea of fastai's ``valley``)."""
    return float(10 ** ((fall.x[fall.onset] + fall.x[fall.bottom]) / 2))


@_reader
def sliding(fall: _Fall) -> float:
    """The last place before the minimum at which the loss falls at half of its fastest rate or more.

    The idea of fastai's ``slide``: come from the high end until the slope is that of a healthy descent.
    """
    slope = fall.slope[: fall.bottom + 1]
    return fall.lr(int(np.flatnonzero(slope <= 0.5 * np.nanmin(slope))[-1]))


@_reader
def minimum_over_ten(fall: _Fall) -> float:
    """A tenth of the learning rate with the least smoothed loss (fastai's ``minimum``)."""
    return fall.lr(fall.bottom) / 10


@own_errstate()
def edge(lrs: Numbers, losses: Numbers) -> float | None:
    """Where, above the minimum, half of the fall is given back, or the losses end; None if neither happens.

    A sweep that never falls has an edge where it explodes.
    """
    sweep = _prepared(lrs, losses)
    held = np.flatnonzero(np.isfinite(sweep.clean))
    if len(held) < CONFIG.fewest_losses:
        return None
    fall = _fall(sweep)
    if fall is None:
        limit = sweep.start + CONFIG.rise * sweep.noise + CONFIG.rounding * abs(sweep.start)
        beyond = np.flatnonzero(sweep.quiet > limit)
    else:
        limit = fall.least + CONFIG.lost * (fall.start - fall.least)
        beyond = fall.bottom + np.flatnonzero(fall.level[fall.bottom :] > limit)
    if len(beyond):
        return float(10 ** sweep.x[beyond[0]])
    return float(10 ** sweep.x[held[-1]]) if held[-1] < len(sweep.x) - 1 else None


READERS: Mapping[str, Reader] = {
    "steepest": steepest,
    "valley": valley,
    "sliding": sliding,
    "minimum / 10": minimum_over_ten,
    "edge": edge,
}


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
    sweep = _prepared(lrs, losses)
    level, slope, _ = _local_line(sweep.x, sweep.clean)
    return level, slope


def _fall(sweep: _CleanSweep) -> _Fall | None:
    """The fall of a sweep; None where it never falls by more than its noise."""
    level, slope, spread = _local_line(sweep.x, sweep.clean)
    if not np.isfinite(level).any():
        return None
    bottom = int(np.nanargmin(level))
    start, least = sweep.start, float(level[bottom])
    # The start is a median of its losses, whose variance is pi / 2 times that of a mean.
    error = sweep.noise * np.sqrt(spread[bottom] ** 2 + np.pi / 2 / _starting(len(level)))
    if start - least <= max(CONFIG.noise * error, CONFIG.rounding * max(abs(start), abs(least))):
        return None
    before = np.flatnonzero(level[: bottom + 1] > start - CONFIG.begun * (start - least))
    begin = int(before[-1]) if len(before) else 0
    return _Fall(x=sweep.x, level=level, slope=slope, onset=begin, bottom=bottom, start=start, least=least)


def _prepared(lrs: Numbers, losses: Numbers) -> _CleanSweep:
    """The sweep without spikes and non-finite losses; all NaN where there are too few finite ones."""
    rates, y = np.asarray(lrs, dtype=np.float64), np.array(losses, dtype=np.float64)
    if rates.shape != y.shape or rates.ndim != 1:
        msg = f"a sweep is two lists of one length (got shapes {rates.shape} and {y.shape}); give a loss for each rate"
        raise InputError(msg)
    if len(rates) and not (rates[0] > 0 and np.isfinite(rates[-1]) and (np.diff(rates) > 0).all()):
        msg = f"a sweep's learning rates must be positive, finite and increasing (got {rates[0]:g} ... {rates[-1]:g})"
        raise InputError(msg)
    held = np.flatnonzero(np.isfinite(y))
    x, quiet = np.log10(rates), np.full(len(y), np.nan)
    if len(held) < CONFIG.fewest_losses:
        return _CleanSweep(x=x, quiet=quiet, clean=quiet)
    start = float(np.median(y[held][: _starting(len(y))]))
    # The median of the differences of normal noise is 0.954 standard deviations; of the first half, before all moves.
    first = y[held][: max(CONFIG.fewest_losses, len(y) // 2)]
    noise = float(np.median(np.abs(np.diff(first))) / 0.954)
    quiet[held] = np.median(sliding_window_view(np.pad(y[held], 2, mode="reflect"), 5), axis=1)
    ceiling = start + CONFIG.ceiling * max(start - float(quiet[held].min()), noise)
    return _CleanSweep(x=x, quiet=quiet, clean=np.minimum(quiet, ceiling), start=start, noise=noise)


def _starting(steps: int) -> int:
    """How many losses make the start of a sweep."""
    return max(3, round(CONFIG.start * steps))


def _local_line(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Value and slope at each x of the weighted least-squares line through what lies around it.

    And the standard deviation of that value for noise of one.
    """
    held = np.isfinite(y)
    dx = x[None, held] - x[:, None]
    weights = np.exp(-0.5 * (dx / CONFIG.width) ** 2)
    s0, s1, s2 = weights.sum(1), (weights * dx).sum(1), (weights * dx**2).sum(1)
    determinant = s0 * s2 - s1**2
    few = (np.abs(dx) <= 2 * CONFIG.width).sum(1) < CONFIG.fewest_near
    bare = few | (determinant <= CONFIG.rounding * s0 * s2)
    scale = np.where(bare, 1.0, determinant)[:, None]
    at = weights * (s2[:, None] - s1[:, None] * dx) / scale
    along = weights * (s0[:, None] * dx - s1[:, None]) / scale
    level, slope = at @ y[held], along @ y[held]
    level[bare], slope[bare] = np.nan, np.nan
    return level, slope, np.sqrt((at**2).sum(1))
