"""The same replay through `lrtune.tune` and a generator function: what a user's own training loop would see."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import lrtune
from lrtune.errors import LrtuneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulate import Play
    from tables import Problem

    from lrtune.core.recipe import Recipe

__all__ = ["through_tune"]


def through_tune(
    strategy: str,
    problem: Problem,
    *,
    seed: int,
    budget: float | None,
    stop_at: float | None = None,
) -> tuple[Play, Any]:
    """What a strategy did when `lrtune.tune` ran it, counted by the generator's yields, and its result."""
    from simulate import Play

    played = Play()
    yields = 0

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        nonlocal yields
        params = {"lr": recipe.lr, **{name: getattr(recipe, name) for name in problem.choices}}
        for epoch, value in enumerate(problem.curve(params), start=1):
            yields += 1
            if epoch == problem.epochs and math.isfinite(value):
                played.finished.append((yields / problem.epochs, problem.regret(params)))
            yield {"valid": float(value)}

    def solved() -> bool:
        return stop_at is not None and played.cost_to(stop_at) < math.inf

    result = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = lrtune.tune(
                train,
                lrtune.Space(lr=problem.lr_range, **problem.choices),
                epochs=problem.epochs,
                metric="valid",
                strategy=strategy,
                budget=budget,
                seed=seed,
                widen=0.0,
                should_stop=solved,
            )
    except LrtuneError as error:  # stopped by ourselves, or nothing completed: the counts say which
        played.why = str(error)
    played.cost = yields / problem.epochs
    return played, result
