"""Training loops as generators, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrtune.core.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["descend"]


def descend(recipe: Recipe) -> Iterator[dict[str, float]]:
    """Gradient descent on 0.5 * (10 a^2 + b^2), with a little noise of the recipe's seed."""
    rng = np.random.default_rng(recipe.seed)
    weights = np.array([1.0, 1.0]) + 1e-3 * rng.normal(size=2)
    for _ in range(recipe.epochs):
        with np.errstate(all="ignore"):
            loss = 0.5 * float(np.array([10.0, 1.0]) @ weights**2)
            weights -= recipe.lr * np.array([10.0, 1.0]) * weights
        yield {"train_loss": loss, "valid_loss": 1.1 * loss}


GENERATOR_RECIPES = (
    Recipe(lr=0.1, epochs=5, seed=1),
    Recipe(lr=0.05, epochs=5, seed=2),
    Recipe(lr=0.01, epochs=3, seed=3),
)
