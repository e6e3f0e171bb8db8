"""A training loop of your own: any generator function of a recipe, one yield an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import lrtune

if TYPE_CHECKING:
    from collections.abc import Iterator

rng = np.random.default_rng(0)
rows = rng.normal(size=(400, 5))
targets = rows @ rng.normal(size=5) + 0.1 * rng.normal(size=400)


def train(recipe: lrtune.Recipe) -> Iterator[dict[str, float]]:
    weights = np.zeros(5)
    for _ in range(recipe.epochs):
        for begin in range(0, 300, 20):
            batch = slice(begin, begin + 20)
            error = rows[batch] @ weights - targets[batch]
            weights -= recipe.lr * rows[batch].T @ error / 20
        loss = float(np.mean((rows[300:] @ weights - targets[300:]) ** 2))
        yield {"valid_loss": loss}  # here the search may pause it, for as long as it likes


if __name__ == "__main__":
    space = lrtune.Space(lr=(1e-5, 10.0))
    result = lrtune.tune(train, space, epochs=9, budget=4.0, seed=0)
    print(f"learning rate {result.best_recipe.lr:.3g}, loss {result.best_value:.4g}")
    print(f"for {result.cost:.2g} full trainings; {result.stopped_because}")
    print(result.trials()[["lr", "outcome", "value"]])
