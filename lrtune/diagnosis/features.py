"""What can be measured on a bare series of numbers: its noise, its trend, its bursts, its alternation.

Every function takes values of shape (n,), smaller is better, all finite, and knows nothing of learning rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Burst", "alternation", "bursts", "noise", "settled", "smooth", "trend"]

Floats: TypeAlias = npt.NDArray[np.float64]

TO_SIGMA = 1.4826  # the standard deviation of a normal sample over its median absolute deviation
BURST_SIGMAS = 6.0  # Iglewicz & Hoaglin (1993) call 3.5 an outlier; a curve of 100 reports needs more
TREND_POINTS = 60  # comparing all pairs of more costs time and says no more


def noise(values: Floats) -> float:
    """Standard deviation from report to report, as if white, from second differences.

    A smooth trend cancels in second differences, whose variance is 6 sigma^2 for white noise; the median
    absolute deviation is not moved by a few spikes. Follows Rice (1984), eq. 2.2, and Gasser et al. (1986).
    """
    if len(values) < 4:
        return 0.0
    second = np.diff(values, n=2)
    # The steep start of a curve is no noise: only the later part counts where there is enough of it.
    later = second[len(second) // 3 :] if len(second) >= 9 else second
    return float(TO_SIGMA * np.median(np.abs(later - np.median(later))) / np.sqrt(6.0))


def smooth(values: Floats, half: int | None = None) -> Floats:
    """Running median over up to ``2 * half + 1`` reports, narrower at both ends so that trends are not bent."""
    n = len(values)
    half = max(1, min(n // 10, 10)) if half is None else half
    half = min(half, (n - 1) // 2)
    if half < 1:
        return values.copy()
    course = np.empty(n)
    course[half : n - half] = np.median(np.lib.stride_tricks.sliding_window_view(values, 2 * half + 1), axis=1)
    for reach in range(half):
        course[reach] = np.median(values[: 2 * reach + 1])
        course[n - 1 - reach] = np.median(values[n - 1 - 2 * reach :])
    return course


def settled(values: Floats, share: float = 0.1) -> float:
    """The level at the end: the median of the last tenth, of at least three reports."""
    return float(np.median(values[-max(3, round(len(values) * share)) :]))


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
    if n < 4:
        return 0.0, 1.0
    pairs = n * (n - 1) / 2
    score = float(np.sign(thin[None, :] - thin[:, None])[np.triu_indices(n, 1)].sum())
    z = max(abs(score) - 1.0, 0.0) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return score / pairs, math.erfc(z / math.sqrt(2.0))


def alternation(values: Floats) -> float:
    """How regularly it goes up and down: minus the lag-1 correlation of first differences, -1 to 1.

    White noise has 1/2, a smooth trend about -1, an oscillation of period two has 1.
    """
    later = values[len(values) // 4 :]
    if len(later) < 6:
        return 0.0
    steps = np.diff(later)
    steps = steps - steps.mean()  # the median would lie on one of the two sides of an oscillation
    scale = TO_SIGMA * float(np.median(np.abs(steps)))
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
    reached = np.minimum.accumulate(smooth(values, 1))
    above = values - np.concatenate(([values[0]], reached[:-1]))
    high = above > max(BURST_SIGMAS * sigma, least)
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
