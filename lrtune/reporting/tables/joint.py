"""What it costs to fix batch size, schedule and the other settings, and how the best rate grows with batch size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting.tables.response import INTERVAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.records import StudyRecord, TrialRecord

__all__ = ["batch_exponent", "worth"]

Floats: TypeAlias = npt.NDArray[np.float64]

MOST_LEVELS = 8
RANGE_LEVELS = 3
MIN_EACH = 4  # closed trials of a level
RULES = {"linear": 1.0, "square root": 0.5}


@own_errstate()
def worth(record: StudyRecord, *, resamples: int = 300, seed: int = 0) -> pd.DataFrame:
    """What it costs to fix a setting at one of its levels, the learning rate still searched.

    A level's best is the best of as many trials as every other level has (drawn again and again), so that a level
    that was tried more often does not win by that; pruned and diverged trials count as tries. A range is cut into
    three levels of equal counts.

    Returns
    -------
    pandas.DataFrame
        ``setting``, ``level`` (text), ``trials``, ``completed``, ``best`` (the metric), ``loss`` (how much worse than
        the best level, in the metric, zero or more), ``low``, ``high`` (5 % to 95 %, from the draws). Levels with fewer
        than 4 closed trials are left out; so are settings with fewer than two levels left.
    """
    closed = [t for t in record.records if t.outcome is not None]
    rng = np.random.default_rng(seed)
    rows = []
    for name in record.space.names:
        if name == "lr":
            continue
        levels = {k: v for k, v in _levels(closed, name).items() if len(v) >= MIN_EACH and any(t.completed for t in v)}
        if len(levels) < 2:  # noqa: PLR2004 -- nothing to compare
            continue
        each = min(len(members) for members in levels.values())
        values = {k: np.array([_value(t, record) for t in members]) for k, members in levels.items()}
        draws = np.array([[rng.choice(v, each).min() for v in values.values()] for _ in range(resamples)])
        draws = draws[np.isfinite(draws).all(axis=1)]
        # The best level is fixed over the draws, or its own chance would hide what the others lose.
        winner = int(np.argmin(np.median(draws, axis=0))) if len(draws) else 0
        for column, (level, members) in enumerate(levels.items()):
            loss = draws[:, column] - draws[:, winner]
            middle, low, high = map(float, np.quantile(loss, (0.5, *INTERVAL)) if len(loss) else (math.nan,) * 3)
            best = record.sign * float(values[level].min())
            rows.append(
                (name, level, len(members), sum(t.completed for t in members), best, max(middle, 0.0), low, high)
            )
    return pd.DataFrame(rows, columns=["setting", "level", "trials", "completed", "best", "loss", "low", "high"])


def _value(trial: TrialRecord, record: StudyRecord) -> float:
    return record.sign * trial.value if trial.completed and trial.value is not None else math.inf


def _levels(trials: Sequence[TrialRecord], name: str) -> dict[str, list[TrialRecord]]:
    """Trials by level of a setting, in the order of the levels."""
    with_setting = [t for t in trials if t.params.get(name) is not None]
    distinct = sorted({t.params[name] for t in with_setting}, key=lambda v: (isinstance(v, str), v))
    if len(distinct) <= MOST_LEVELS:
        return {_text(level): [t for t in with_setting if t.params[name] == level] for level in distinct}
    numbers = np.array([float(t.params[name]) for t in with_setting])
    cuts = np.quantile(numbers, np.linspace(0, 1, RANGE_LEVELS + 1))
    cells = np.clip(np.searchsorted(cuts, numbers, side="right") - 1, 0, RANGE_LEVELS - 1)
    return {
        f"{cuts[i]:.3g} to {cuts[i + 1]:.3g}": [t for t, cell in zip(with_setting, cells, strict=True) if cell == i]
        for i in range(RANGE_LEVELS)
    }


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


@own_errstate()
def batch_exponent(record: StudyRecord, *, resamples: int = 300, seed: int = 0) -> pd.DataFrame:
    """The exponent p of lr proportional to batch^p, fitted to the best learning rate of each batch size.

    The best one of a batch size is the vertex of a parabola through the better half of its completed trials, in log lr
    against the result; where that does not open upwards, the mean log lr of its best three. The line through them is
    weighted by their counts; the interval (5 % to 95 %) comes from resampling the trials within each batch size.

    Returns
    -------
    pandas.DataFrame
        Rows ``fitted``, ``linear`` (Goyal et al. 2017) and ``square root`` (Malladi et al. 2022): ``rule``, ``p``,
        ``low``, ``high``, ``agrees`` (whether the interval holds it), ``intercept`` (log10 of the learning rate at
        batch size 1). ``frame.attrs["centres"]`` holds batch size to best learning rate. Empty where fewer than two
        batch sizes have 4 completed trials.
    """
    groups = _batches(record)
    columns = ["rule", "p", "low", "high", "agrees", "intercept"]
    if len(groups) < 2:  # noqa: PLR2004 -- no line through one point
        return pd.DataFrame(columns=columns)
    rng = np.random.default_rng(seed)
    slope, intercept = _line(groups)
    drawn = [
        _line({batch: points[rng.integers(len(points), size=len(points))] for batch, points in groups.items()})[0]
        for _ in range(resamples)
    ]
    low, high = (float(end) for end in np.quantile(drawn, INTERVAL))
    middle = float(np.mean([math.log10(batch) for batch in groups]))
    level = intercept + slope * middle
    rules = [(name, p, math.nan, math.nan, low <= p <= high, level - p * middle) for name, p in RULES.items()]
    frame = pd.DataFrame([("fitted", slope, low, high, True, intercept), *rules], columns=columns)
    frame.attrs["centres"] = {batch: 10 ** _centre(points) for batch, points in groups.items()}
    return frame


def _batches(record: StudyRecord) -> dict[float, Floats]:
    """Log learning rate and result of the completed trials, shape (n, 2), by batch size."""
    completed = [t for t in record.records if t.completed and t.params.get("batch_size") is not None]
    groups = _levels(completed, "batch_size")
    found = {}
    for trials in groups.values():
        if len(trials) >= MIN_EACH:
            batch = round(float(np.exp(np.mean([math.log(t.params["batch_size"]) for t in trials]))), 6)
            found[batch] = np.array([(math.log10(t.recipe.lr), _value(t, record)) for t in trials])
    return found


def _line(groups: dict[float, Floats]) -> tuple[float, float]:
    x = np.log10(list(groups))
    y = np.array([_centre(points) for points in groups.values()])
    weights = np.sqrt([len(points) for points in groups.values()])
    slope, intercept = np.polyfit(x, y, 1, w=weights)
    return float(slope), float(intercept)


def _centre(points: Floats) -> float:
    """Log10 of the best learning rate."""
    order = np.argsort(points[:, 1])
    better = points[order[: max(MIN_EACH, len(points) // 2)]]
    x, y = better[:, 0], better[:, 1]
    if len(np.unique(x)) >= MIN_EACH and np.ptp(y) > 0:
        a, b, _ = np.polyfit(x - x.mean(), y / np.ptp(y), 2)
        vertex = x.mean() - b / (2 * a) if a > 0 else math.inf
        if x.min() <= vertex <= x.max():
            return float(vertex)
    return float(points[order[:3], 0].mean())
