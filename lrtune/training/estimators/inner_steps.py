"""What may train an estimator in place of its ``partial_fit``, and the check that it does the same.

``partial_fit`` costs 0.3 ms a class whatever the rows are, most of the time of a small minibatch. What lies beneath it
is private to scikit-learn and not promised to stay, so :func:`difference` trains a few of the table's rows both ways,
and where they differ, or a part is gone, ``partial_fit`` itself trains on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from lrtune.training import checkpoint
from lrtune.training.estimators.state import save_fitted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.training.base import State
    from lrtune.training.estimators.arrays import Array, TrainingArrays

__all__ = ["Epoch", "InnerSteps", "difference"]

MOVING, CONSTANT = (0.5, 0.25), (0.25, 0.25)  # learning rates of the minibatches that are trained both ways
CLOSE = 1e-4  # losses of single precision, relative


class Epoch(NamedTuple):
    """The order of the rows in an epoch, the rows of a minibatch, and the learning rate of each minibatch."""

    order: Array
    rows: int
    rates: Sequence[float]

    def batch(self, begin: int, end: int) -> Array:
        """The rows of the minibatches from `begin` to `end`."""
        return self.order[begin * self.rows : end * self.rows]


class Begun(Protocol):
    """What :class:`.EstimatorStepper` is to this module, below which it stands."""

    @property
    def estimator(self) -> Any:
        """An estimator that has seen a minibatch."""

    def train(self, data: TrainingArrays, epoch: Epoch, begin: int, end: int, /) -> Iterator[tuple[float, float]]:
        """Train by the minibatches of an epoch from `begin` to `end`; yield the loss and the weight of each."""

    def copied(self, inner: InnerSteps | None, /) -> Begun:
        """Another one that has learned the same, trained by these steps."""


class InnerSteps(Protocol):
    """Trains an estimator that has begun, as ``partial_fit`` would."""

    def train(
        self, stepper: Any, data: TrainingArrays, epoch: Epoch, begin: int, end: int
    ) -> Iterator[tuple[float, float]]:
        """Train by the minibatches of an epoch from `begin` to `end`; yield the loss and the weight of each."""

    def state(self) -> State | None:
        """What :meth:`restore` takes, beyond what the estimator has learned."""

    def restore(self, saved: State | None) -> None:
        """Continue within an epoch."""


def difference(kind: type[InnerSteps], begun: Begun, data: TrainingArrays) -> str:
    """Train minibatches both ways; what differs, empty where nothing does.

    At learning rates of their own, estimators and losses must be the same bit for bit. At one learning rate the
    estimator must be that of a ``partial_fit`` for each minibatch, or of one for all of them.

    Parameters
    ----------
    kind
        What is to be compared with ``partial_fit``.
    begun
        An estimator that has seen a minibatch; it is not changed.
    data
        The rows of the minibatches.
    """
    rows = -(-len(data) // 2)
    order = np.arange(len(data))
    moving, constant = (Epoch(order, rows, list(rates)) for rates in (MOVING, CONSTANT))
    whole = Epoch(order, len(data), list(CONSTANT))
    try:
        ours, theirs = begun.copied(kind()), begun.copied(None)
        (one, learned), (other, expected) = _trained(ours, data, moving), _trained(theirs, data, moving)
        same = np.array_equal(one, other, equal_nan=True) and learned == expected
        told, learned = _trained(begun.copied(kind()), data, constant)
        (each, in_turn), (_, at_once) = (_trained(begun.copied(None), data, epoch) for epoch in (constant, whole))
    except (ArithmeticError, AttributeError, ImportError, LookupError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    close = np.allclose(told, each, rtol=CLOSE, atol=CLOSE, equal_nan=True)
    return "" if same and close and learned in {in_turn, at_once} else "the numbers differ"


def _trained(stepper: Begun, data: TrainingArrays, epoch: Epoch) -> tuple[Array, bytes]:
    """What it tells of the minibatches, shape (minibatches, 2), and what it has learned then."""
    told = np.array(list(stepper.train(data, epoch, 0, -(-len(data) // epoch.rows))))
    return told, checkpoint.encode(save_fitted(stepper.estimator))
