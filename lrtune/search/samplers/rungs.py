"""The pruning rule of the sampling strategies: where runs are compared along their training, and when one is stopped.

The rule is asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning",
algorithm 2) with two additions: runs are compared at equal fractions of the schedule, within a schedule family first
because early losses rank badly across families, and never during warmup.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lrtune import schedules
from lrtune.search.samplers.config import CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.search.base import SearchContext, TrialView

__all__ = ["family", "next_rung", "should_stop", "value_at"]


def next_rung(trained: float, epochs: float, finest: float) -> float:
    """The first rung beyond the epochs trained: 1/9 or 1/3 of the run, or its end.

    Rungs are multiples of the shortest segment worth training, and never closer than it.
    """
    for power in (2, 1):
        rung = max(round(epochs / CONFIG.reduction**power / finest), 1) * finest
        if trained * (1 + 1e-9) < rung < epochs - finest / 2:
            return rung
    return float(epochs)


def family(recipe: Recipe) -> tuple[str, float]:
    """Runs of one family are compared first: the same schedule and the same warmup."""
    return schedules.parse(recipe.schedule).family, recipe.warmup


def value_at(trial: TrialView, epoch: float) -> float | None:
    """The metric at an epoch (the last report at or before it); None before its first, or where it is not finite."""
    index = int(np.searchsorted(trial.epochs, epoch * (1 + 1e-9), side="right")) - 1
    if index < 0 or trial.trained < epoch * (1 - 1e-9):
        return None
    value = float(trial.values[index])
    return value if math.isfinite(value) else None


def should_stop(trial: TrialView, context: SearchContext) -> bool:
    """Whether a paused run should be given up at the rung that it reached."""
    epoch = trial.trained
    value = value_at(trial, epoch)
    if epoch <= _warmup_epochs(trial.recipe, context.epochs) or value is None:
        return False
    peers = [peer for peer in context.trials if peer.number != trial.number]
    near = _values([peer for peer in peers if family(peer.recipe) == family(trial.recipe)], epoch)
    if len(near) + 1 >= CONFIG.family_peers:
        return _rank(value, near, context.sign) >= max(1, (len(near) + 1) // CONFIG.reduction)
    pooled = _values([peer for peer in peers if epoch > _warmup_epochs(peer.recipe, context.epochs)], epoch)
    enough = len(pooled) + 1 >= CONFIG.pooled_peers
    return enough and _rank(value, pooled, context.sign) >= (len(pooled) + 1) // 2


def _warmup_epochs(recipe: Recipe, epochs: float) -> float:
    return recipe.warmup * epochs if recipe.warmup < 1 else 0.0


def _values(peers: Sequence[TrialView], epoch: float) -> list[float]:
    found = (value_at(peer, epoch) for peer in peers if peer.outcome is None or not peer.outcome.diverged)
    return [value for value in found if value is not None]


def _rank(value: float, others: Sequence[float], sign: float) -> int:
    """How many of the others are strictly better."""
    return sum(sign * other < sign * value for other in others)
