"""The comparison of strategies: one study at equal budget over several seeds, and how sure its winner is."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.space import Space
from lrtune.errors import InputError, SearchError
from lrtune.reporting import tables
from lrtune.search.base import UNLIMITED_BUDGET
from lrtune.search.baselines.tuning_free import WAYS, refusal
from lrtune.search.registry import NAMES, make
from lrtune.study.trials.study_reader import read
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lrtune.core.records import StudyRecord
    from lrtune.study.events import Observer

Floats: TypeAlias = npt.NDArray[np.float64]

__all__ = ["DEFAULT", "THRESHOLDS", "Comparison", "compare"]

DEFAULT = ("freeze-thaw", "tpe", "random", "grid", "top-k", "optuna")
"""Compared by default, with the optimizers that need no tuning where they can train the study."""

THRESHOLDS = (0.02, 0.01, 0.005)
"""Normalised regrets; for each the cost at which a search came so near to the best is measured."""

RESAMPLES = 2000
SURE = 0.95
FEWEST_SEEDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The searches that were compared.

    Attributes
    ----------
    records
        The study of each strategy and seed.
    best
        The best value that any of them found; regret is the distance to it.
    budget
        Full trainings that each could spend.
    left_out
        Why a default was not compared, one sentence each.
    """

    records: Mapping[tuple[str, int], StudyRecord]
    best: float
    budget: float
    left_out: tuple[str, ...] = ()

    @property
    def strategies(self) -> list[str]:
        """In the order in which they were asked for."""
        return list(dict.fromkeys(strategy for strategy, _ in self.records))

    @own_errstate()
    def runs(self) -> pd.DataFrame:
        """One row a strategy and seed: ``regret`` at the end and ``cost to`` each threshold, infinite if never."""
        rows = []
        for (strategy, seed), record in self.records.items():
            steps = tables.regret(record, best=self.best)
            column = "normalised" if steps["normalised"].notna().any() else "regret"
            row: dict[str, Any] = {"strategy": strategy, "seed": seed, "cost": record.cost}
            row["regret"] = float(steps[column].min()) if len(steps) else math.inf
            for threshold in THRESHOLDS:
                there = steps.loc[steps[column] <= threshold, "cost"]
                row[f"cost to {threshold:.1%}"] = float(there.min()) if len(there) else math.inf
            rows.append(row)
        return pd.DataFrame(rows)

    @own_errstate()
    def table(self) -> pd.DataFrame:
        """One row a strategy: medians over the seeds, infinite where half of them never got there."""
        runs = self.runs()
        columns = [name for name in runs.columns if name not in {"strategy", "seed"}]
        return runs.groupby("strategy", sort=False)[columns].median().reset_index()

    @own_errstate()
    def verdict(self) -> str:
        """Who won by how much, or that it cannot be told; one sentence."""
        runs = self.runs()
        if len(self.strategies) == 1:
            return f"{self.strategies[0]} was compared with nothing"
        column = next((c for c in ("cost to 1.0%", "cost to 2.0%") if np.isfinite(runs[c]).any()), "regret")
        scores = {  # by seed, shape (seeds,); infinite costs count as twice the budget
            str(name): np.minimum(part[column].to_numpy(np.float64), 2 * self.budget)
            for name, part in runs.sort_values("seed", kind="stable").groupby("strategy", sort=False)
        }
        first, second = sorted(scores, key=lambda name: (np.median(scores[name]), scores[name].mean()))[:2]
        seeds = len(scores[first])
        if seeds < FEWEST_SEEDS:
            return f"{seeds} seed{'s' * (seeds > 1)} cannot tell {first} from {second}: run {FEWEST_SEEDS} or more"
        if _share_better(scores[first], scores[second]) < SURE:
            return f"it cannot be told from {seeds} seeds whether {first} or {second} is better"
        return self._won(scores, column, first, second)

    def _won(self, scores: Mapping[str, Floats], column: str, first: str, second: str) -> str:
        seeds = len(scores[first])
        if column == "regret":
            return f"{first} ended nearest to the best, ahead of {second}, over {seeds} seeds; none came within 2 %"
        mine, other = float(np.median(scores[first])), float(np.median(scores[second]))
        near = column.removeprefix("cost to ")
        if mine > self.budget:
            there = [int((scores[name] <= self.budget).sum()) for name in (first, second)]
            return f"{first} came within {near} in {there[0]} of {seeds} searches, {second} in {there[1]}"
        won = f"{first} came within {near} at {mine:.2f} full trainings"
        if other > self.budget:
            return f"{won}; {second} mostly never did within {self.budget:g}"
        return f"{won}, {other / mine:.1f} times cheaper than {second}"


def _share_better(one: Floats, other: Floats) -> float:
    """Share of paired bootstrap resamples over the seeds in which one is better on average."""
    draws = np.random.default_rng(0).integers(0, len(one), (RESAMPLES, len(one)))
    return float(((one - other)[draws].mean(axis=1) < 0).mean())


def compare(
    trainer: Any,
    space: Any,
    *,
    strategies: Sequence[str] | None = None,
    seeds: int = 3,
    budget: float | None = None,
    storage: Any = None,
    name: str = "compare",
    observer: Callable[[str, int], Observer | None] | None = None,
    **question: Any,
) -> Comparison:
    """Run strategies on the same study at equal budget.

    Parameters
    ----------
    trainer, space
        As for :func:`lrtune.study.tuning.tune`.
    strategies
        Names of :data:`lrtune.search.registry.NAMES`, and ``"prodigy"`` and ``"schedule-free-adamw"``, which
        need no tuning and train once (:mod:`lrtune.search.baselines.tuning_free`). By default :data:`DEFAULT` and
        those two where they can train the study.
    seeds
        Searches of each strategy.
    budget
        Full trainings that each search may spend; 6 unless given.
    storage, name
        Where the searches are kept, each as a study ``NAME/STRATEGY/SEED``; the same call again resumes.
    observer
        Makes the observer of a search from its strategy and seed.
    question
        What else :func:`lrtune.study.tuning.tune` takes: ``epochs``, ``metric``, ``direction``, ``value``, ...

    Raises
    ------
    InputError
        If a strategy is unknown or cannot train the study, or none or no seed is given.
    SearchError
        If no search completed a single trial.
    """
    space = space if isinstance(space, Space) else Space.from_mapping(space)
    names, left_out = _chosen(strategies, trainer, space)
    if not names or seeds < 1:
        msg = f"compare needs at least one strategy and one seed (got {len(names)} and {seeds})"
        raise InputError(msg)
    budget = UNLIMITED_BUDGET if budget is None else budget
    first = int(question.pop("seed", 0) or 0)
    records: dict[tuple[str, int], StudyRecord] = {}
    for seed in range(first, first + seeds):
        for strategy in names:
            watch = observer(strategy, seed) if observer is not None else None
            options = {**question, "seed": seed, "budget": budget, "name": f"{name}/{strategy}/{seed}"}
            record = _searched(strategy, trainer, space, storage=storage, observer=watch, **options)
            if record is not None:
                records[strategy, seed] = record
    values = [float(r.best.value) for r in records.values() if r.best is not None and r.best.value is not None]
    if not values:
        msg = "no search completed a single trial: raise the budget, or lower the range of the learning rate"
        raise SearchError(msg)
    sign = next(iter(records.values())).sign
    nearest = sign * min(sign * value for value in values)
    return Comparison(records=records, best=nearest, budget=budget, left_out=left_out)


def _searched(strategy: str, trainer: Any, space: Space, **options: Any) -> StudyRecord | None:
    """The record of one search, also of one without a completed trial."""
    way = WAYS.get(strategy)
    here = space if way is None else way.space(space)
    try:
        result = tune(trainer, here, strategy=strategy if way is None else way, **options)
    except SearchError as error:
        if error.result is None:
            raise
        result = error.result
    return None if result.study is None else dataclasses.replace(read(result.study), strategy=strategy)


def _chosen(asked: Sequence[str] | None, trainer: Any, space: Space) -> tuple[list[str], tuple[str, ...]]:
    """The names to compare, each once, and why defaults are left out."""
    for name in asked or ():
        _check(name)
    names = list(dict.fromkeys([*DEFAULT, *WAYS] if asked is None else asked))
    reasons = {name: refusal(WAYS[name], trainer, space) for name in names if name in WAYS}
    refused = tuple(reason for reason in reasons.values() if reason is not None)
    if asked is not None and refused:
        msg = f"{refused[0]}; leave it out of the strategies"
        raise InputError(msg)
    return [name for name in names if reasons.get(name) is None], refused


def _check(name: str) -> None:
    if name in WAYS:
        return
    near = difflib.get_close_matches(name, [*NAMES, *WAYS], n=1)
    if near and near[0] in WAYS and name not in NAMES:
        msg = f"there is no strategy {name!r}; did you mean {near[0]!r}?"
        raise InputError(msg)
    make(name)
