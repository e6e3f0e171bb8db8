"""How much each setting mattered: Optuna's importance, and one that counts pruned and diverged trials too."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Outcome
from lrtune.reporting.tables.response import INTERVAL
from lrtune.reporting.tables.trials import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.records import StudyRecord, TrialRecord

__all__ = ["importance"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.intp]

MIN_TRIALS = 8
MOST_CELLS = 10
PER_CELL = 8  # trials in a cell of a numeric setting, at least
DISAGREE = 0.25  # shares of the first setting this far apart are worth a warning
OPTUNA_MOST = 2000  # its density estimate takes seconds beyond; the best of them are kept by drawing evenly


@own_errstate()
def importance(record: StudyRecord, *, resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """How much each searched setting mattered.

    ``share`` is the part of the variance of the trials' *ranks* that the setting explains alone (the correlation
    ratio eta^2, corrected for the number of its cells as in Kelley 1935): a diverged trial ranks last, a pruned one
    by its last report but not before the median of the completed ones. What the shares leave of 1 is interaction and
    noise. Its interval (5 % to 95 %) comes from resampling the trials. ``optuna`` is Optuna's PED-ANOVA (Watanabe
    et al. 2023), which counts completed trials only and sums to 1.

    Returns
    -------
    pandas.DataFrame
        ``setting``, ``share``, ``low``, ``high``, ``optuna`` (NaN where it is not known), the largest share first;
        ``frame.attrs["warning"]`` is one sentence where the two disagree, else empty. Empty below 8 closed trials.
    """
    closed = [t for t in record.records if t.outcome is not None and not math.isnan(score(t, record))]
    names = [name for name in record.space.names if any(name in t.params for t in closed)]
    columns = ["setting", "share", "low", "high", "optuna"]
    enough = len(closed) >= MIN_TRIALS
    ranks = _ranks(closed, record)
    by_optuna = _optuna(record, names) if enough else {}
    rng = np.random.default_rng(seed)
    rows = []
    for name in names if enough else ():
        cells = _cells([t.params.get(name) for t in closed])
        share = _explained(ranks, cells)
        draws = [rng.integers(len(closed), size=len(closed)) for _ in range(resamples)]
        low, high = np.quantile([_explained(ranks[draw], cells[draw]) for draw in draws], INTERVAL)
        rows.append((name, share, min(low, share), max(high, share), by_optuna.get(name, math.nan)))
    frame = pd.DataFrame(rows, columns=columns).sort_values("share", ascending=False, ignore_index=True)
    frame.attrs["warning"] = _warning(frame, closed)
    return frame


def _ranks(closed: Sequence[TrialRecord], record: StudyRecord) -> Floats:
    scores = np.array([score(trial, record) for trial in closed], dtype=np.float64)
    completed = [s for t, s in zip(closed, scores, strict=True) if t.outcome is Outcome.COMPLETED]
    middle = float(np.median(completed)) if completed else -math.inf
    pruned = np.array([trial.outcome is Outcome.PRUNED for trial in closed], dtype=bool)
    scores[pruned] = np.maximum(scores[pruned], middle)
    return np.asarray(pd.Series(scores).rank(), dtype=np.float64)


def _cells(values: Sequence[object]) -> Ints:
    """The cell of each value: a choice is its own, numbers with many values are cut into cells of equal counts."""
    distinct = list(dict.fromkeys(values))
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct)
    if not numeric or len(distinct) <= MOST_CELLS:
        index = {value: i for i, value in enumerate(distinct)}
        return np.array([index[value] for value in values], dtype=np.intp)
    numbers = np.array(values, dtype=np.float64)
    count = max(2, min(MOST_CELLS, len(numbers) // PER_CELL))
    return np.asarray(np.searchsorted(np.quantile(numbers, np.linspace(0, 1, count + 1)[1:-1]), numbers), dtype=np.intp)


def _explained(ranks: Floats, cells: Ints) -> float:
    """Share of the variance that lies between cells, corrected for their number; at least 0."""
    n = len(ranks)
    counts = np.bincount(cells)
    sums = np.bincount(cells, weights=ranks)
    used = int((counts > 0).sum())
    total = float(((ranks - ranks.mean()) ** 2).sum())
    if total <= 0 or used < 2 or n <= used:  # noqa: PLR2004 -- one cell explains nothing
        return 0.0
    means = sums[counts > 0] / counts[counts > 0]
    between = float((counts[counts > 0] * (means - ranks.mean()) ** 2).sum())
    return max(0.0, 1.0 - (1.0 - between / total) * (n - 1) / (n - used))


def _optuna(record: StudyRecord, names: Sequence[str]) -> dict[str, float]:
    """Optuna's own answer on the completed trials; empty where it has none."""
    import optuna

    space = record.space.distributions()
    done = [t for t in record.records if t.completed and set(names) <= set(t.params)]
    done = [t for t in done if record.space.contains(dict(t.params))]
    if len(done) > OPTUNA_MOST:
        done = [done[i] for i in np.linspace(0, len(done) - 1, OPTUNA_MOST).round().astype(int)]
    if len(done) < MIN_TRIALS or len({t.value for t in done}) == 1:
        return {}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction=record.direction)
        study.add_trials(
            [optuna.trial.create_trial(params=dict(t.params), distributions=dict(space), value=t.value) for t in done]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(
                study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
            )
    except (ValueError, RuntimeError, ZeroDivisionError):  # too few distinct values for its densities
        return {}
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: float(value) for name, value in found.items()}


def _warning(frame: pd.DataFrame, closed: Sequence[TrialRecord]) -> str:
    if len(frame) < 2 or frame["optuna"].isna().any():  # noqa: PLR2004 -- nothing to disagree about
        return ""
    first, optuna_first = str(frame["setting"].iloc[0]), str(frame["setting"].iloc[int(frame["optuna"].argmax())])
    share = frame["share"] / max(float(frame["share"].sum()), 1e-12)
    apart = abs(float(share.iloc[0]) - float(frame["optuna"].iloc[0]))
    if first == optuna_first and apart < DISAGREE:
        return ""
    left_out = sum(t.outcome is not Outcome.COMPLETED for t in closed)
    if not left_out:
        return ""
    claim = f"gives {first} another weight" if first == optuna_first else f"puts {optuna_first} first"
    return (
        f"Optuna's importance counts completed trials only and {claim}; "
        f"with the {left_out} pruned and diverged trials counted, {first} comes first."
    )
