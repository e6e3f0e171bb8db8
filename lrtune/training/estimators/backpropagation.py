"""Multilayer perceptrons trained by their own backpropagation and optimizer, minibatch by minibatch.

The private parts of scikit-learn's perceptrons that are used, and stand nowhere else in lrtune: ``_backprop``,
``_optimizer`` and ``_update_no_improvement_count``.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import is_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.training.base import State
    from lrtune.training.estimators.adapters import EstimatorStepper
    from lrtune.training.estimators.arrays import Array, TrainingArrays
    from lrtune.training.estimators.inner_steps import Epoch

__all__ = ["NetworkSteps"]

# ruff: noqa: SLF001 -- this is the module where a perceptron's private parts stand


class NetworkSteps:
    """Trains perceptrons as ``partial_fit`` does; a loss is that of the update's own forward pass, penalty included."""

    def state(self) -> State | None:
        """None: the estimator holds all."""
        return None

    def restore(self, saved: State | None) -> None:
        """Nothing is held."""

    def train(
        self, stepper: EstimatorStepper, data: TrainingArrays, epoch: Epoch, begin: int, end: int
    ) -> Iterator[tuple[float, float]]:
        """Train by minibatches."""
        for position in range(begin, end):
            batch = data.take(epoch.batch(position, position + 1))
            weights = stepper.adapter.weights(batch)
            weight = float(len(batch) if weights is None else weights.sum())
            if batch.weight is not None and not batch.weight.any():
                yield float("nan"), weight
                continue
            stepper.adapter.set_rate(stepper.estimator, epoch.rates[position], len(batch))
            yield _step(stepper.estimator, batch), weight


def _step(estimator: Any, batch: TrainingArrays) -> float:
    rows, empty = len(batch), [None] * (estimator.n_layers_ - 1)
    loss, coefs, intercepts = estimator._backprop(
        batch.X, _targets(estimator, batch), batch.weight, [batch.X, *empty], empty[:], empty[:], empty[:]
    )
    estimator._optimizer.update_params(estimator.coefs_ + estimator.intercepts_, coefs + intercepts)
    estimator.n_iter_ = 1
    estimator.t_ += rows
    estimator.loss_ = loss * rows / rows  # a mean over its one minibatch, rounded as there
    estimator.loss_curve_ = [estimator.loss_]
    estimator._update_no_improvement_count(False, None, None, None)  # noqa: FBT003 -- no early stopping
    estimator.loss_curve_ = []
    if not all(np.isfinite(numbers).all() for numbers in chain(estimator.coefs_, estimator.intercepts_)):
        msg = "Solver produced non-finite parameter weights. The input data may contain large values"
        raise ValueError(msg)
    return float(estimator.loss_)


def _targets(estimator: Any, batch: TrainingArrays) -> Array:
    """Targets as backpropagation takes them, shape (rows, outputs)."""
    if not is_classifier(estimator):
        return batch.y.reshape(len(batch), -1)
    if estimator.n_outputs_ == 1:
        return np.equal(batch.target, 1)[:, np.newaxis]
    return np.equal(batch.target[:, np.newaxis], np.arange(estimator.n_outputs_))
