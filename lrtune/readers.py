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
"""Standard errors of the smoothed loss that a fall must exceed to count as one: the lowest of some thirty
independent values lies 2.2 standard errors down by chance."""

BEGUN = 0.1
"""Share of the whole fall at which it counts as begun."""

LOST = 0.5
"""Share of the whole fall, given back, at which a run counts as beyond its edge."""


def smooth(lrs: Numbers, losses: Numbers) -> tuple[Floats, Floats]:
    """Level and slope (per decade) of the loss at each learning rate, each of shape (n,).

    A running median of five, then a local line in log10 lr under a Gaussian kernel, through the finite losses
    alone. NaN where fewer than three of them lie within two kernel widths.

    Raises
    ------
    InputError
        If the lists differ in length, or the learning rates are not positive and increasing.
    """
    x, clean, _, _ = _prepared(lrs, losses)
    return _local_line(x, clean)


def steepest(lrs: Numbers, losses: Numbers) -> float | None:
    """Where the loss falls fastest per decade."""
    fall = _fall(lrs, losses)
    return None if fall is None else fall.lr(int(np.nanargmin(fall.slope[: fall.bottom + 1])))


def valley(lrs: Numbers, losses: Numbers) -> float | None:
    """The middle, in log lr, of the way from the onset of the fall to the minimum (the idea of fastai's ``valley``)."""
    fall = _fall(lrs, losses)
    return None if fall is None else float(10 ** ((fall.x[fall.onset] + fall.x[fall.bottom]) / 2))


def sliding(lrs: Numbers, losses: Numbers) -> float | None:
    """The last place before the minimum at which the loss falls at half of its fastest rate or more.

    The idea of fastai's ``slide``: come from the high end until the slope is that of a healthy descent.
    """
    fall = _fall(lrs, losses)
    if fall is None:
        return None
    slope = fall.slope[: fall.bottom + 1]
    return fall.lr(int(np.flatnonzero(slope <= 0.5 * np.nanmin(slope))[-1]))


def minimum_over_ten(lrs: Numbers, losses: Numbers) -> float | None:
    """A tenth of the learning rate with the least smoothed loss (fastai's ``minimum``)."""
    fall = _fall(lrs, losses)
    return None if fall is None else fall.lr(fall.bottom) / 10


def onset(lrs: Numbers, losses: Numbers) -> float | None:
    """Where the fall has begun: below it a short sweep cannot tell learning from standing still."""
    fall = _fall(lrs, losses)
    return None if fall is None else fall.lr(fall.onset)


def edge(lrs: Numbers, losses: Numbers) -> float | None:
    """Where, above the minimum, half of the fall is given back, or the losses end; None if neither happens.

    A sweep that never falls has an edge where it explodes.
    """
    x, clean, start, noise = _prepared(lrs, losses)
    held = np.flatnonzero(np.isfinite(clean))
    if len(held) < FEWEST:
        return None
    fall = _fall(lrs, losses)
    if fall is None:
        beyond = np.flatnonzero(clean > start + max(10 * noise, 0.5 * abs(start)))
    else:
        beyond = fall.bottom + np.flatnonzero(fall.level[fall.bottom :] > fall.least + LOST * fall.depth)
    if len(beyond):
        return float(10 ** x[beyond[0]])
    return float(10 ** x[held[-1]]) if held[-1] < len(x) - 1 else None


READERS: Mapping[str, Callable[[Numbers, Numbers], float | None]] = {
    "steepest": steepest,
    "valley": valley,
    "sliding": sliding,
    "minimum / 10": minimum_over_ten,
    "edge": edge,
}


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
    x, clean, start, noise = _prepared(lrs, losses)
    level, slope = _local_line(x, clean)
    if not np.isfinite(level).any():
        return None
    bottom = int(np.nanargmin(level))
    least = float(level[bottom])
    together = np.sum(np.abs(x - x[bottom]) <= 2 * WIDTH)  # losses that make one smoothed level
    rounding = 1e-9 * max(abs(start), abs(least))
    if start - least <= max(NOISE * noise / np.sqrt(max(together, 1)), rounding):
        return None
    before = np.flatnonzero(level[: bottom + 1] > start - BEGUN * (start - least))
    return _Fall(
        x=x,
        level=level,
        slope=slope,
        onset=int(before[-1]) if len(before) else 0,
        bottom=bottom,
        least=least,
        depth=start - least,
    )


def _prepared(lrs: Numbers, losses: Numbers) -> tuple[Floats, Floats, float, float]:
    """log10 lr; losses without spikes, explosions and infinities; their level at the start; their noise."""
    rates, y = np.asarray(lrs, dtype=np.float64), np.array(losses, dtype=np.float64)
    if rates.shape != y.shape or rates.ndim != 1:
        msg = f"a sweep is two lists of one length (got shapes {rates.shape} and {y.shape}); give a loss for each rate"
        raise InputError(msg)
    if len(rates) and not (rates[0] > 0 and np.isfinite(rates[-1]) and (np.diff(rates) > 0).all()):
        msg = f"a sweep's learning rates must be positive, finite and increasing (got {rates[0]:g} ... {rates[-1]:g})"
        raise InputError(msg)
    held = np.flatnonzero(np.isfinite(y))
    x, clean = np.log10(rates), np.full(len(y), np.nan)
    if len(held) < FEWEST:
        return x, clean, np.nan, np.nan
    start = float(np.median(y[held][: max(3, round(START * len(y)))]))
    # The median of the differences of normal noise is 0.954 standard deviations; of the first half, before all moves.
    noise = float(np.median(np.abs(np.diff(y[held][: max(FEWEST, len(y) // 2)]))) / 0.954)
    quiet = _median_of_five(y[held])
    clean[held] = np.minimum(quiet, start + CEILING * max(start - float(quiet.min()), noise))
    return x, clean, start, noise


def _median_of_five(values: Floats) -> Floats:
    padded = np.concatenate((values[2:0:-1], values, values[-2:-4:-1]))
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1), dtype=np.float64)


def _local_line(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Value and slope at each x of the weighted least-squares line through what lies around it."""
    held = np.isfinite(y)
    dx = x[None, held] - x[:, None]
    weights = np.exp(-0.5 * (dx / WIDTH) ** 2)
    s0, s1, s2 = weights.sum(1), (weights * dx).sum(1), (weights * dx**2).sum(1)
    t0, t1 = weights @ y[held], (weights * dx) @ y[held]
    determinant = s0 * s2 - s1**2
    enough = ((np.abs(dx) <= 2 * WIDTH).sum(1) >= 3) & (determinant > 1e-9 * s0 * s2)  # noqa: PLR2004 -- a line and one more
    level, slope = np.full(len(x), np.nan), np.full(len(x), np.nan)
    level[enough] = ((s2 * t0 - s1 * t1) / np.where(enough, determinant, 1.0))[enough]
    slope[enough] = ((s0 * t1 - s1 * t0) / np.where(enough, determinant, 1.0))[enough]
    return level, slope
