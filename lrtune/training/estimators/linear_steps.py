"""Linear models trained by SGD, minibatch by minibatch: which of them go through the compiled loop in one call."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lrtune.training.estimators.compiled_sgd import LinearModel, Piece, Place
from lrtune.training.estimators.losses import mean, means

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.training.base import State
    from lrtune.training.estimators.adapters import EstimatorStepper
    from lrtune.training.estimators.arrays import Array, TrainingArrays
    from lrtune.training.estimators.inner_steps import Epoch
    from lrtune.training.estimators.losses import DecisionLoss

__all__ = ["LinearSteps"]

CELL = 32  # minibatches of an epoch that are gathered, and may be trained, in one go
CELL_BYTES = 2**23  # at most, of their rows and of the coefficients before each of them


class LinearSteps:
    """Trains linear models as ``partial_fit`` does.

    Minibatches in a row at one learning rate, as a constant schedule has them, are one *piece* of up to `CELL` of them:
    it is trained as one ``partial_fit`` of all its rows would, bit for bit, and the compiled loop tells the
    coefficients before each minibatch, whose loss is thus that before its update. Any other minibatch is a piece of its
    own. Where pieces begin depends on the recipe and the table alone: a run that was paused within one trains it again
    from its beginning, so that pauses change no bit, where a cut would (through the penalty, whose factor is multiplied
    in at the end of a call).
    """

    def __init__(self) -> None:
        self._model: LinearModel | None = None
        self._places: dict[int, Place] = {}
        self._cut: State | None = None
        """Where the piece began within which training was paused, and the model there."""

    def state(self) -> State | None:
        """What :meth:`restore` takes; None unless training was paused within a piece."""
        return self._cut

    def restore(self, saved: State | None) -> None:
        """Continue within a piece."""
        self._cut = saved

    def train(
        self, stepper: EstimatorStepper, data: TrainingArrays, epoch: Epoch, begin: int, end: int
    ) -> Iterator[tuple[float, float]]:
        """Train by minibatches; the losses of a cell are computed at once, before any of them is yielded."""
        model = self._model
        if model is None or model.estimator is not stepper.estimator:
            model = self._model = LinearModel(stepper.estimator, data)
        else:
            model.refresh()
        numbers = (data.X.data if model.sparse else data.X).nbytes * epoch.rows // len(data)
        cell = max(1, min(CELL, CELL_BYTES // max(1, model.nbytes, numbers)))
        while begin < end:
            stop = min(end, begin - begin % cell + cell)
            told, error = self._cell(stepper, model, data, epoch, wanted=range(begin, stop), cell=cell)
            yield from told
            if error is not None:
                raise error
            begin = stop

    def _cell(
        self,
        stepper: EstimatorStepper,
        model: LinearModel,
        data: TrainingArrays,
        epoch: Epoch,
        *,
        wanted: range,
        cell: int,
    ) -> tuple[list[tuple[float, float]], ValueError | None]:
        """Losses and weights of minibatches of one cell, as far as there was no overflow; and the overflow."""
        rates, whole = epoch.rates, len(data) // epoch.rows if model.joins else 0

        def joined(position: int) -> bool:
            """Whether the minibatch is trained in one piece with the one before it."""
            return position < whole and position % cell != 0 and rates[position] == rates[position - 1]

        begun = -1 if self._cut is None else int(self._cut["first"])
        first = wanted.start
        while first != begun and joined(first):
            first -= 1
        if self._cut is not None and first == begun:
            model.load(self._cut)
        else:
            first = wanted.start
        pieces = [p for p in range(first, wanted.stop) if p == first or not joined(p)]
        continued = wanted.stop < len(rates) and joined(wanted.stop) and model.whole
        self._cut = None

        part = data.take(epoch.batch(first, wanted.stop))
        bounds = list(pairwise([*range(0, len(part), epoch.rows), len(part)]))
        signs, decisions = model.signs(part), np.zeros((len(part), model.columns))
        if model.sparse:
            self._places.clear()  # they read the rows of one cell
        error, trained = None, 0
        for begin, end in pairwise([*pieces, wanted.stop]):
            if continued and end == wanted.stop:
                self._cut = model.saved(begin)
            batches = bounds[begin - first : end - first]
            place = self._place(model, part.X, batches[0][1] - batches[0][0])
            done, error = place.train(model, Piece(part, signs, batches, rates[begin], decisions))
            trained += done
            if error is not None:
                break
        stepper.adapter.set_rate(stepper.estimator, rates[first + max(trained, 1) - 1], epoch.rows)
        stepper.estimator.t_ = model.t
        told = _told(stepper, part, decisions, bounds[:trained])
        return told[wanted.start - first :], error

    def _place(self, model: LinearModel, X: Any, rows: int) -> Place:  # noqa: N803 -- scikit-learn's name
        if rows not in self._places:
            self._places[rows] = Place(model, X, rows)
        return self._places[rows]


def _told(
    stepper: EstimatorStepper, part: TrainingArrays, decisions: Array, bounds: Sequence[tuple[int, int]]
) -> list[tuple[float, float]]:
    """Mean loss and weight of each minibatch; NaN where all its given weights are zero."""
    criterion, weights = cast("DecisionLoss", stepper.adapter.criterion), stepper.adapter.weights(part)
    losses = criterion.losses(decisions if decisions.shape[1] > 1 else decisions[:, 0], part.target)
    if weights is None:
        found = means(losses, bounds[0][1] if bounds else len(part))
        return [(loss, float(end - begin)) for loss, (begin, end) in zip(found, bounds, strict=False)]
    told = []
    for begin, end in bounds:
        counts = part.weight is None or part.weight[begin:end].any()
        loss = mean(losses[begin:end], weights[begin:end]) if counts else float("nan")
        told.append((loss, float(weights[begin:end].sum())))
    return told
