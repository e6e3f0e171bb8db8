"""What three finders suggest from a sweep, by their published formulas, written anew: for comparison alone.

Each takes the learning rates and the raw minibatch losses of one sweep and returns a learning rate, or None.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


def averaged(losses: Sequence[float], beta: float, *, debias: bool) -> list[float]:
    """The exponential average of all three; one NaN stays in it for ever."""
    result: list[float] = []
    mean = 0.0 if debias else losses[0]
    for step, loss in enumerate(losses, start=1):
        mean = beta * mean + (1 - beta) * loss
        result.append(mean / (1 - beta**step) if debias else mean)
    return result


def stopped(lrs: Sequence[float], losses: Sequence[float], times: float) -> tuple[np.ndarray, np.ndarray]:
    """Their early stop: the averaged loss exceeds so many times its best."""
    best = math.inf
    for step, loss in enumerate(losses):
        best = min(best, loss)
        if step > 0 and loss > times * best:
            return np.array(lrs[: step + 1]), np.array(losses[: step + 1])
    return np.array(lrs), np.array(losses)


def torch_lr_finder(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """davidtvs/pytorch-lr-finder 0.2, ``LRFinder.plot(skip_start=10, skip_end=5, suggest_lr=True)``.

    The steepest slope per step, of the losses averaged with ``smooth_f=0.05``; ``diverge_th=5``.
    """
    rates, means = stopped(lrs, averaged(losses, 0.95, debias=False), 5)
    rates, means = rates[10:-5], means[10:-5]
    return float(rates[int(np.gradient(means).argmin())]) if len(means) > 1 else None


def lightning(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Lightning 2.6, ``_LRFinder.suggestion(skip_begin=10, skip_end=1)``: the steepest slope against linear lr.

    Losses averaged with beta 0.98; ``early_stop_threshold=4``.
    """
    rates, means = stopped(lrs, averaged(losses, 0.98, debias=True), 4)
    rates, means = rates[10:-1], means[10:-1]
    held = np.isfinite(means)
    rates, means = rates[held], means[held]
    return float(rates[int(np.gradient(means, rates).argmin())]) if len(means) > 1 else None


def fastai_valley(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Fastai 2.8, ``valley``: two thirds (one and a half of three parts, cut to steps) into the longest fall.

    The longest decreasing subsequence of the averaged losses, first tenth and last five steps left out.
    """
    rates, means = _fastai(lrs, losses)
    if len(means) < 2:
        return None
    lengths = [1] * len(means)
    end = start = 0
    for i in range(1, len(means)):
        for j in range(i):
            if means[i] < means[j] and lengths[i] < lengths[j] + 1:
                lengths[i] = lengths[j] + 1
            if lengths[end] < lengths[i]:
                end, start = i, i - lengths[i]
    third = (end - start) / 3
    return float(rates[max(start, 0) + int(third) + int(third / 2)])


def fastai_minimum(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Fastai 2.8, ``minimum``: a tenth of the learning rate with the least averaged loss."""
    rates, means = _fastai(lrs, losses)
    return float(rates[int(means.argmin())] / 10) if len(means) else None


def _fastai(lrs: Sequence[float], losses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    rates, means = stopped(lrs, averaged(losses, 0.98, debias=True), 4)
    return rates[10:-5], means[10:-5]


FINDERS = {
    # the rule, and the sweep that its tool makes by default: first and last learning rate, steps
    "torch-lr-finder 0.2": (torch_lr_finder, 1e-7, 10.0, 100),
    "Lightning 2.6": (lightning, 1e-8, 1.0, 100),
    "fastai 2.8 valley": (fastai_valley, 1e-7, 10.0, 100),
    "fastai 2.8 minimum / 10": (fastai_minimum, 1e-7, 10.0, 100),
}
