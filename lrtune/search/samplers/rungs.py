"""Rungs: where along its training a run is compared with others, and when it is given up.

The rule is asynchronous successive halving (Li et al. 2020, "A System for Massively Parallel
Hyperparameter Tuning", algorithm 2) with two additions: runs are compared at equal fractions of the
schedule, within a schedule family first because early losses rank badly across families (DESIGN
section 6), and never during warmup.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lrtune import schedules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.search.base import SearchContext, TrialView

__all__ = ["REDUCTION", "family", "next_rung", "rungs", "should_stop", "value_at"]

REDUCTION = 3
"""One run in so many goes on from each rung (the usual eta of successive halving)."""

FAMILY_PEERS = 3
"""Runs of the same family, the judged one included, from which on the family decides alone."""

POOLED_PEERS = 6
"""Runs of all families together from which on they may decide; then the better half goes on."""


def rungs(epochs: float, finest: float) -> tuple[float, ...]:
    """Epochs at which runs are compared, ascending: 1/9 and 1/3 of the run, and its end.

    Rungs are multiples of the finest piece of training worth asking for, and never closer than it.
    """
    looks: list[float] = []
    for power in (2, 1):
        at = max(round(epochs / REDUCTION**power / finest), 1) * finest
        if at < epochs - finest / 2 and (not looks or at > looks[-1]):
            looks.append(at)
    return (*looks, float(epochs))


def next_rung(trained: float, epochs: float, finest: float) -> float:
    """The first rung beyond what is trained."""
    return next((rung for rung in rungs(epochs, finest) if rung > trained * (1 + 1e-9)), float(epochs))


def family(recipe: Recipe) -> tuple[str, float]:
    """Runs of one family are compared first: the same schedule and the same warmup."""
    return schedules.parse(recipe.schedule).family, recipe.warmup


def value_at(seen: TrialView, epoch: float) -> float | None:
    """The metric where the run stood at an epoch (the last report at or before it); None before its first."""
    index = int(np.searchsorted(seen.epochs, epoch * (1 + 1e-9), side="right")) - 1
    if index < 0 or seen.trained < epoch * (1 - 1e-9):
        return None
    value = float(seen.values[index])
    return value if math.isfinite(value) else None


def should_stop(candidate: TrialView, context: SearchContext) -> bool:
    """Whether a paused run should be given up at the rung where it stands."""
    epoch = candidate.trained
    if epoch <= _warmup_epochs(candidate.recipe, context.epochs):
        return False
    value = value_at(candidate, epoch)
    if value is None:
        return False
    peers = [peer for peer in context.trials if peer.number != candidate.number]
    near = _values([p for p in peers if family(p.recipe) == family(candidate.recipe)], epoch)
    if len(near) + 1 >= FAMILY_PEERS:
        return _rank(value, near, context.sign) >= max(1, (len(near) + 1) // REDUCTION)
    pooled = _values([p for p in peers if epoch > _warmup_epochs(p.recipe, context.epochs)], epoch)
    if len(pooled) + 1 >= POOLED_PEERS:
        return _rank(value, pooled, context.sign) >= (len(pooled) + 1) // 2
    return False


def _warmup_epochs(recipe: Recipe, epochs: float) -> float:
    return recipe.warmup * epochs if recipe.warmup < 1 else 0.0


def _values(peers: Sequence[TrialView], epoch: float) -> list[float]:
    found = (value_at(peer, epoch) for peer in peers if peer.outcome is None or not peer.outcome.diverged)
    return [value for value in found if value is not None]


def _rank(value: float, others: Sequence[float], sign: float) -> int:
    """How many of the others are strictly better."""
    return sum(sign * other < sign * value for other in others)
