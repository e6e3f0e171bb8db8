"""What a run leaves: a fitted estimator of the user's kind, with the recipe's parameters in place of lrtune's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from lrtune.training.estimators.adapters import cloned

if TYPE_CHECKING:
    from lrtune.core.recipe import Recipe
    from lrtune.training.estimators.adapters import EstimatorAdapter
    from lrtune.training.estimators.arrays import Array

__all__ = ["column_names", "finished", "last_step", "recipe_parameters"]

OWN = frozenset({"shuffle", "class_weight", "verbose", "max_epochs", "train_split"})
"""Parameters that lrtune sets only because it shuffles, weighs and counts epochs by itself."""


def recipe_parameters(adapter: EstimatorAdapter, recipe: Recipe, given: Any, rows: int) -> dict[str, Any]:
    """What to set on the user's estimator for its own ``fit`` to train as the recipe says, by parameter.

    The learning rate is the recipe's, which a schedule multiplies; ``max_iter``, or skorch's ``max_epochs``, are its
    epochs, and ``batch_size`` the `rows` of a minibatch, of what has such a parameter.
    """
    settings = adapter.setup(recipe, given)["settings"]
    found = {name: value for name, value in settings.items() if name not in OWN} | {adapter.rate: recipe.lr}
    parameters = given.get_params(deep=False)
    counted = {"max_iter": recipe.epochs, "max_epochs": recipe.epochs, "batch_size": rows}
    return found | {name: value for name, value in counted.items() if name in parameters}


def finished(estimator: Any, parameters: dict[str, Any], given: Any, steps: Any, columns: Any) -> Any:
    """A trained estimator as its user would have it.

    Parameters
    ----------
    estimator
        The estimator that was trained, which is changed.
    parameters
        Those that are to differ from the user's.
    given
        The estimator, or the Pipeline that ends in it, as the user made it.
    steps
        The Pipeline's fitted earlier steps; None where there are none.
    columns
        Names of the columns of the frame that it was trained on; None without.
    """
    own = cloned(last_step(given))
    if type(estimator).set_params is BaseEstimator.set_params:  # one of another kind, as skorch's, would begin anew
        for name, value in own.get_params(deep=False).items():
            setattr(estimator, name, parameters.get(name, value))
    if columns is not None:
        estimator.feature_names_in_ = columns
    if not isinstance(given, Pipeline):
        return estimator
    fitted = [*([] if steps is None else steps.steps), (given.steps[-1][0], estimator)]
    return Pipeline(fitted, memory=given.memory, verbose=given.verbose)


def last_step(given: Any) -> Any:
    """The estimator itself, or the one that a Pipeline ends in."""
    return given.steps[-1][1] if isinstance(given, Pipeline) else given


def column_names(X: Any) -> Array | None:  # noqa: N803 -- scikit-learn's name
    """The names of a frame's columns, where all are text, as scikit-learn keeps them."""
    names = list(getattr(X, "columns", ()))
    if not names or not all(isinstance(name, str) for name in names):
        return None
    return np.asarray(names, dtype=object)
