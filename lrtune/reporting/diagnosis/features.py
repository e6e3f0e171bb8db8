"""Statistics of a series of numbers: its noise, trend, bursts and alternation; no learning rate enters here.

Every function takes finite values of shape (n,), of which smaller ones are better.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Burst", "alternation", "bursts", "middle", "noise", "settled", "smooth", "trend"]

Floats: TypeAlias = npt.NDArray[np.float64]

TO_SIGMA = 1.4826  # the standard deviation of a normal sample over its median absolute deviation
BURST_SIGMAS = 6.0  # Iglewicz & Hoaglin (1993) call 3.5 an outlier; a curve of 100 reports needs more
SHORTEST = 4  # second differences of fewer leave no spread
TREND_POINTS = 60  # comparing all pairs of more costs time and says no more


def middle(values: Floats) -> float:
    """The median; ten times as fast as numpy's own on a short series, of which a large study has very many."""
    ordered = np.sort(values)
    n = len(ordered)
    return float(ordered[n // 2]) if n % 2 else float(ordered[n // 2 - 1] + ordered[n // 2]) / 2.0


def noise(values: Floats) -> float:
    """Standard deviation from report to report, as if white, from second differences.

    A smooth trend cancels in second differences, whose variance is 6 sigma^2 for white noise; the median
    absolute deviation is not moved by a few spikes. Follows Rice (1984), eq. 2.2, and Gasser et al. (1986).
    """
    if len(values) < SHORTEST:
        return 0.0
    second = values[2:] - 2.0 * values[1:-1] + values[:-2]
    # The steep start of a curve is no noise: only the later part counts where there is enough of it.
    later = second[len(second) // 3 :] if len(second) >= 2 * SHORTEST else second
    return TO_SIGMA * middle(np.abs(later - middle(later))) / math.sqrt(6.0)


def smooth(values: Floats, half: int | None = None) -> Floats:
    """Running median over up to ``2 * half + 1`` reports, narrower at both ends so that trends are not bent."""
    n = len(values)
    half = max(1, min(n // 10, 10)) if half is None else half
    half = min(half, (n - 1) // 2)
    if half < 1:
        return values.copy()
    course = np.empty(n)
    windows = values[np.arange(2 * half + 1) + np.arange(n - 2 * half)[:, None]]
    windows.sort(axis=1)
    course[half : n - half] = windows[:, half]
    for reach in range(half):
        course[reach] = middle(values[: 2 * reach + 1])
        course[n - 1 - reach] = middle(values[n - 1 - 2 * reach :])
    return course


def settled(values: Floats, share: float = 0.1) -> float:
    """The level at the end: the median of the last tenth, of at least three reports."""
    return middle(values[-max(3, round(len(values) * share)) :])


def trend(values: Floats) -> tuple[float, float]:
    """Kendall's rank correlation with time, -1 to 1, and its two-sided p-value against no trend.

    At most `TREND_POINTS` of the values are compared; the p-value is that of Mann (1945) for large samples.
    """
    thin = (
        values[np.linspace(0, len(values) - 1, TREND_POINTS).round().astype(int)]
        if len(values) > TREND_POINTS
        else values
    )
    n = len(thin)
    if n < SHORTEST:
        return 0.0, 1.0
    pairs = n * (n - 1) / 2
    score = float(np.sign(thin[None, :] - thin[:, None])[_later(n)].sum())
    z = max(abs(score) - 1.0, 0.0) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return score / pairs, math.erfc(z / math.sqrt(2.0))


@functools.cache
def _later(n: int) -> npt.NDArray[np.bool_]:
    """Of all pairs (i, j) out of n those with i < j, shape (n, n)."""
    return np.triu(np.ones((n, n), dtype=np.bool_), 1)


def alternation(values: Floats) -> float:
    """How regularly it goes up and down: minus the lag-1 correlation of first differences, -1 to 1.

    White noise has 1/2, a smooth trend about -1, an oscillation of period two has 1.
    """
    later = values[len(values) // 4 :]
    if len(later) < SHORTEST + 2:
        return 0.0
    steps = np.diff(later)
    steps = steps - steps.mean()  # the median would lie on one of the two sides of an oscillation
    scale = TO_SIGMA * middle(np.abs(steps))
    if scale <= 0:
        return 0.0
    steps = np.clip(steps, -3 * scale, 3 * scale)
    first, second = steps[:-1], steps[1:]
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return -float((first * second).sum()) / norm if norm > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """A rise far above the curve's own course, which came back.

    Attributes
    ----------
    begin, peak, end
        Indices of the first report above, of the highest one, and of the first one back.
    height
        How far the highest one lies above the course.
    """

    begin: int
    peak: int
    end: int
    height: float


def bursts(values: Floats, sigma: float, least: float) -> list[Burst]:
    """The bursts of a curve: rises above its course by six sigma and by `least`.

    The course is the lower of the running median and the best level so far, so that a burst that lasts
    is seen as well. What does not come back before the end is no burst.
    """
    threshold = max(BURST_SIGMAS * sigma, least)
    if float((values - np.minimum.accumulate(values)).max()) <= threshold:
        return []
    reached = np.minimum.accumulate(smooth(values, 1))
    above = values - np.concatenate(([values[0]], reached[:-1]))
    high = above > threshold
    found: list[Burst] = []
    start: int | None = None
    for index, is_high in enumerate(high):
        if is_high and start is None:
            start = index
        elif not is_high and start is not None:
            peak = start + int(np.argmax(above[start:index]))
            found.append(Burst(begin=start, peak=peak, end=index, height=float(above[peak])))
            start = None
    return found
