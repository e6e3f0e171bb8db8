"""Learning-rate sensitivity (Wortsman et al. 2023), and the regret over the cost of the search."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting.tables.trials import score

if TYPE_CHECKING:
    from lrtune.core.records import StudyRecord

__all__ = ["INTERVAL", "regret", "sensitivity"]

Floats: TypeAlias = npt.NDArray[np.float64]

PER_DECADE = 4  # cells of the envelope
WINDOW_DECADES = 3.0  # Wortsman et al. (2023) vary the learning rate over three orders of magnitude
INTERVAL = (0.05, 0.95)  # quantiles of all resampling
MIN_CELLS = 3


@own_errstate()
def sensitivity(record: StudyRecord, *, resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """The learning-rate sensitivity of Wortsman et al. (2023), "Small-scale proxies", section 2.1.

    The mean over log lr of min(result, untrained) - best: what a learning rate drawn blindly would lose. At every
    learning rate the best trial of its quarter decade counts, a diverged one as the untrained model, a pruned one as
    where it stopped; between them it is interpolated. Intervals (5 % to 95 %) come from resampling the trials.

    Returns
    -------
    pandas.DataFrame
        One row for the range searched and one for three decades around the best: ``over``, ``low_lr``, ``high_lr``,
        ``sensitivity`` (in the metric), ``low``, ``high``, ``normalised`` (by untrained - best). Empty where fewer
        than three learning rates or no untrained level are known.
    """
    untrained, best = record.untrained, record.best
    columns = ["over", "low_lr", "high_lr", "sensitivity", "low", "high", "normalised"]
    points = _points(record)
    if untrained is None or best is None or best.value is None or len(points) < MIN_CELLS:
        return pd.DataFrame(columns=columns)
    top, floor = record.sign * untrained, record.sign * best.value
    log_low, log_high = (math.log10(end) for end in record.space.lr_range)
    centre = math.log10(best.recipe.lr)
    half = WINDOW_DECADES / 2
    windows = {
        "the range searched": (log_low, log_high),
        "three decades around the best": (max(centre - half, log_low), min(centre + half, log_high)),
    }
    rng = np.random.default_rng(seed)
    rows = []
    for name, (low, high) in windows.items():
        value = _mean_loss(points, low, high, top, floor)
        draws = (points[rng.integers(len(points), size=len(points))] for _ in range(resamples))
        resampled = [_mean_loss(draw, low, high, top, floor) for draw in draws]
        # Resampling loses the best trial of a cell as often as not: only the spread is taken from it.
        bounds = np.maximum(np.quantile(resampled, INTERVAL) - np.median(resampled) + value, 0.0)
        scale = top - floor
        rows.append((name, 10**low, 10**high, value, bounds[0], bounds[1], value / scale if scale > 0 else math.nan))
    return pd.DataFrame(rows, columns=columns)


def _points(record: StudyRecord) -> Floats:
    """Log learning rate and :func:`score` of every closed trial that has one, shape (n, 2)."""
    pairs = [(math.log10(t.recipe.lr), score(t, record)) for t in record.records if t.outcome is not None]
    return np.array([pair for pair in pairs if not math.isnan(pair[1])], dtype=np.float64).reshape(-1, 2)


def _mean_loss(points: Floats, low: float, high: float, top: float, floor: float) -> float:
    cells = np.floor(points[:, 0] * PER_DECADE).astype(int)
    order = np.unique(cells)
    best = np.array([points[cells == cell][points[cells == cell, 1].argmin()] for cell in order])
    grid = np.linspace(low, high, 200)
    loss = np.interp(grid, best[:, 0], np.minimum(best[:, 1], top)) - floor
    return float(np.maximum(loss, 0.0).mean())


@own_errstate()
def regret(record: StudyRecord, *, best: float | None = None) -> pd.DataFrame:
    """How good the best full training was, over what had been spent by then.

    The `best` value known, e.g. of a dense sweep, is by default the best of the study itself.

    Returns
    -------
    pandas.DataFrame
        One row a full training, in the order of their ends: ``number``, ``cost`` (full trainings spent by then),
        ``value``, ``best`` (so far), ``regret`` (to the best known, in the metric), ``normalised`` (by untrained -
        best known; NaN where the untrained level is unknown).
    """
    spent = _spent(record)
    rows = [
        (trial.number, spent[trial.number], trial.value)
        for trial in sorted(record.records, key=lambda t: (spent.get(t.number, 0.0), t.number))
        if trial.completed
    ]
    frame = pd.DataFrame(rows, columns=["number", "cost", "value"])
    signed = record.sign * frame["value"]
    frame["best"] = record.sign * signed.cummin()
    known = record.sign * best if best is not None else signed.min() if len(frame) else math.nan
    untrained = record.untrained
    frame["regret"] = record.sign * frame["best"] - known
    scale = math.nan if untrained is None else record.sign * untrained - known
    frame["normalised"] = frame["regret"] / scale if scale > 0 else math.nan
    return frame


def _spent(record: StudyRecord) -> dict[int, float]:
    """Full trainings that had been spent when each trial ended; by the clock where it was kept, else in order."""
    ends = [(s.at + s.seconds, s.epochs, trial.number) for trial in record.records for s in trial.segments]
    if len({number for _, _, number in ends}) < len(record.records):
        ends = [(float(trial.number), trial.trained, trial.number) for trial in record.records]
    total, spent = 0.0, {}
    for _, epochs, number in sorted(ends):
        total += epochs
        spent[number] = total / record.epochs
    return spent
