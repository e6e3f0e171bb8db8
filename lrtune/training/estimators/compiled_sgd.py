"""Linear models trained by SGD through scikit-learn's compiled loop over the rows, minibatch by minibatch.

The private parts that are used, and stand nowhere else in lrtune: ``_plain_sgd64`` and ``_plain_sgd32``, the data sets
that they read, what an estimator hands to them, and SciPy's product of a sparse matrix and a vector.
"""

from __future__ import annotations

import copy
import importlib
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.base import is_classifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.training.base import State
    from lrtune.training.estimators.arrays import Array, TrainingArrays

__all__ = ["LinearModel", "Piece", "Place", "untouched"]

SPARSE_DECAY = 0.01  # of the intercept's step where X is sparse
NEVER = float("-inf")  # the tolerance at which the compiled loop does not stop early
SMALLEST_SCALE = {64: 1e-9, 32: 1e-6}  # below it the compiled loop multiplies the scale into the weights
NONE, L2 = 0, 2  # of scikit-learn's penalties, those that do not count over the rows of a call
PASSIVE = ("pa1", "pa2")

# ruff: noqa: SLF001 -- this is the module where scikit-learn's private parts stand


def untouched(estimator: Any) -> dict[str, Any] | None:
    """What ``partial_fit`` would give an estimator before its first row, from one that was fitted at a rate of zero.

    None for one that averages, whose averages have begun.
    """
    if estimator.average:
        return None
    parameters = estimator.get_params(deep=False)
    learned = {name: value for name, value in vars(estimator).items() if name not in parameters}
    zeros = {name: np.zeros_like(learned[name]) for name in ("coef_", "intercept_")}
    return copy.deepcopy(learned) | zeros | {"t_": 1.0}


class Piece(NamedTuple):
    """Rows and their targets, shape (columns, n); which minibatches of them are trained, and at what learning rate.

    `decisions`, shape (n, columns), takes the decision values before each update.
    """

    part: TrainingArrays
    signs: Array
    batches: Sequence[tuple[int, int]]
    rate: float
    decisions: Array


class LinearModel:
    """The numbers of a linear model that has begun, as ``partial_fit`` keeps them, and what the compiled loop takes."""

    def __init__(self, estimator: Any, data: TrainingArrays) -> None:
        self.estimator = estimator
        self.bits = 32 if data.X.dtype == np.float32 else 64
        self.sparse = bool(sparse.issparse(data.X))
        self.loop = getattr(importlib.import_module("sklearn.linear_model._sgd_fast"), f"_plain_sgd{self.bits}")
        self.classes = len(estimator.classes_) if is_classifier(estimator) else 0
        self.columns = self.classes if self.classes > 2 else 1  # noqa: PLR2004 -- one column for two classes
        self.average = int(estimator.average)
        passive = hasattr(estimator, "C")  # PassiveAggressiveClassifier and its kin, which give some by themselves
        name, rule = estimator.loss, getattr(estimator, "learning_rate", "")
        if passive:
            own = "hinge" if self.classes else "epsilon_insensitive"
            name, rule = own, PASSIVE[name != own]
        loss = estimator._get_loss_function(name)
        self.low = 0.0 if name == "log_loss" else -1.0  # how the compiled loop is told of the other classes
        self.penalty = estimator._get_penalty_type(estimator.penalty)
        self.alpha = 1.0 if passive else float(estimator.alpha)
        self.before = (loss, self.penalty, self.alpha, estimator._get_l1_ratio())
        self.rule = estimator._get_learning_rate_type(rule)
        self.weights = [(1.0, 1.0)]
        if self.classes:
            given = [float(weight) for weight in estimator._expanded_class_weight]
            self.weights = [(weight, 1.0) for weight in given] if self.columns > 1 else [(given[1], given[0])]
        self.joins = not self.average and data.weight is None and self.penalty in {NONE, L2}
        rounds = self.bits == 32 and self.columns > 1  # noqa: PLR2004 -- the intercepts, at the end of each call
        self.whole = rounds or (self.penalty == L2 and self.alpha > 0)
        self._scales: dict[tuple[float, int, int], Array] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read again what the estimator has learned, which others may have changed."""
        estimator = self.estimator
        self.t = float(estimator.t_)
        self.coef = np.atleast_2d(estimator._standard_coef if self.average else estimator.coef_)
        self.averages = np.atleast_2d(estimator._average_coef) if self.average else [None] * self.columns

    @property
    def nbytes(self) -> int:
        """What the coefficients before a minibatch take."""
        return 1 if self.sparse else self.coef.nbytes

    def saved(self, first: int) -> State:
        """What :meth:`load` takes, with the position at which the model is that."""
        return {"first": first, "coef": self.coef.copy(), "intercept": self.estimator.intercept_.copy(), "t": self.t}

    def load(self, saved: State) -> None:
        """Be again what was saved."""
        self.coef[...], self.estimator.intercept_[...], self.t = saved["coef"], saved["intercept"], float(saved["t"])

    def signs(self, part: TrainingArrays) -> Array:
        """What the compiled loop takes as targets, shape (columns, n)."""
        dtype = part.X.dtype
        if not self.classes:
            return np.ascontiguousarray(part.y[np.newaxis], dtype=dtype)
        if self.columns == 1:
            return np.where(part.target == 1, 1.0, self.low).astype(dtype)[np.newaxis]
        found = np.full((self.columns, len(part)), self.low, dtype=dtype)
        found[part.target, np.arange(len(part))] = 1.0
        return found

    def call(
        self, column: int, intercepts: tuple[float, float], place: Place, rate: float, watch: _Watch | None
    ) -> Any:
        """The compiled loop over the rows in place, once, or as often as `watch` puts in others."""
        stop = (False, None, 1, 1) if watch is None else (True, watch, 1, watch.times)
        return self.loop(
            self.coef[column],
            intercepts[0],
            self.averages[column],
            intercepts[1],
            *self.before,
            place.sets[column],
            place.mask,
            *stop,
            NEVER,
            int(self.estimator.fit_intercept),
            0,
            0,
            1,
            *self.weights[column],
            self.rule,
            rate,
            0.5,
            0,
            self.t,
            SPARSE_DECAY if self.sparse else 1.0,
            self.average,
        )

    def update(self, place: Place, rate: float) -> None:
        """One pass over the rows in place; ValueError where it overflows."""
        estimator = self.estimator
        intercepts = estimator._standard_intercept if self.average else estimator.intercept_
        means = estimator._average_intercept if self.average else [0.0] * self.columns
        new = []
        for column in range(self.columns):
            both = intercepts[column], means[column]
            _, intercept, _, means[column], _ = self.call(column, both, place, rate, None)
            new.append(intercept)
        self.t += len(place.mask)
        if self.average:
            self._show(new)
        else:
            intercepts[...] = new

    def _show(self, new: list[float]) -> None:
        """Let the estimator show its averages once there are any, with all habits of ``partial_fit``.

        Among them: where averages are shown, several classes' new intercepts overwrite them, and the intercepts from
        which a classifier goes on stay as they were.
        """
        estimator, averaged = self.estimator, self.average <= self.t - 1.0
        if self.columns > 1:
            estimator.intercept_[...] = new
            standard = estimator.intercept_
        else:
            standard = np.array(new)
        if not averaged or not self.classes:
            estimator._standard_intercept = standard
        coef = estimator._average_coef if averaged else estimator._standard_coef
        estimator.coef_ = coef.reshape(1, -1) if self.classes and self.columns == 1 else coef
        intercept = estimator._average_intercept if averaged else estimator._standard_intercept
        estimator.intercept_ = intercept if self.classes else intercept.copy()

    def scales(self, rate: float, rows: int, times: int) -> Array:
        """By what the compiled loop's weights are to be multiplied before each minibatch of a piece.

        It shrinks them for the penalty by a common factor, which it multiplies in when that has become small.
        """
        if (rate, rows, times) not in self._scales:
            self._scales = {(rate, rows, times): self._new_scales(rate, rows, times)}
        return self._scales[rate, rows, times]

    def _new_scales(self, rate: float, rows: int, times: int) -> Array:
        dtype = np.dtype(f"f{self.bits // 8}").type
        shrink = dtype(max(0.0, 1.0 - rate * self.alpha)) if self.penalty == L2 else dtype(1.0)
        found = np.multiply.accumulate(np.full(rows * times, shrink))
        if found[-1] < SMALLEST_SCALE[self.bits]:
            scale = dtype(1.0)
            for later in range(int(np.argmax(found < SMALLEST_SCALE[self.bits])), len(found)):
                found[later] = scale
                scale *= shrink
                scale = dtype(1.0) if scale < SMALLEST_SCALE[self.bits] else scale
        return found[rows - 1 :: rows]


class Place:
    """Where the compiled loop reads a minibatch of so many rows, and the targets of each column.

    Dense rows are copied in; of sparse ones, those of the cell that `X` is, where they begin.
    """

    def __init__(self, model: LinearModel, X: Any, rows: int) -> None:  # noqa: N803 -- scikit-learn's name
        kinds, dtype = importlib.import_module("sklearn.utils._seq_dataset"), X.dtype
        self.sparse = model.sparse
        self.y, self.weight = np.empty((model.columns, rows), dtype=dtype), np.ones(rows, dtype=dtype)
        self.mask = np.zeros(rows, dtype=np.uint8)
        if model.sparse:
            product = importlib.import_module("scipy.sparse._sparsetools").csr_matvec
            self.rows, numbers = np.zeros(rows + 1, dtype=np.intc), X.indices.astype(np.intc, copy=False)
            self.product = partial(product, rows, X.shape[1], self.rows, numbers, X.data)
            parts = [X.data, self.rows, numbers]
        else:
            self.rows = np.empty((rows, X.shape[1]), dtype=dtype)
            parts = [self.rows]
        kind = getattr(kinds, f"{'CSR' if model.sparse else 'Array'}Dataset{model.bits}")
        self.sets = [kind(*parts, column, self.weight, 1) for column in self.y]

    def of(self, X: Any, begin: int, end: int) -> Array:  # noqa: N803 -- scikit-learn's name
        """What `rows` is to hold for the rows from `begin` to `end`."""
        return X.indptr[begin : end + 1] if self.sparse else X[begin:end]  # type: ignore[no-any-return]  # of Any

    def decide(self, coef: Array) -> Array:
        """Products of the rows in place and coefficients, shape (rows, columns)."""
        if not self.sparse:
            return self.rows @ coef.T
        found = np.zeros((len(coef), len(self.mask)), dtype=coef.dtype)
        for row, column in zip(coef, found, strict=True):
            self.product(row, column)
        return found.T

    def train(self, model: LinearModel, piece: Piece) -> tuple[int, ValueError | None]:
        """Train a piece and note the decision values before each update: how many it trained, and an overflow."""
        (begin, end), given = piece.batches[0], piece.part.weight
        if given is not None:
            if not given[begin:end].any():
                return 1, None
            self.weight[...] = given[begin:end]
        self.rows[...] = self.of(piece.part.X, begin, end)
        coef, intercept = np.atleast_2d(model.estimator.coef_), model.estimator.intercept_
        piece.decisions[begin:end] = self.decide(coef) + intercept
        if len(piece.batches) > 1:
            watch = _Watch(self, model, piece)
            error = watch.train()
            return watch.times, error
        self.y[...] = piece.signs[:, begin:end]
        try:
            model.update(self, piece.rate)
        except ValueError as overflow:
            return 0, overflow
        return 1, None


class _Watch:
    """Called by the compiled loop after each minibatch of a piece, to note what it has learned and put in the next."""

    def __init__(self, place: Place, model: LinearModel, piece: Piece) -> None:
        self.place, self.model, self.piece = place, model, piece
        self.times, self.number = len(piece.batches), 0
        self.begin, self.end = piece.batches[0][0], piece.batches[-1][1]
        self.intercepts = np.empty((model.columns, self.times))
        one = len(place.mask) if model.sparse else model.coef.shape[1]
        self.found = np.zeros((model.columns, self.times, one), dtype=model.coef.dtype)
        """Products of each minibatch and the coefficients before it where X is sparse, else the coefficients."""
        self.rows = [place.of(piece.part.X, *bounds) for bounds in piece.batches]
        self.column: tuple[Array, Array, Array, Array] = (place.y[0],) * 4

    def train(self) -> ValueError | None:
        """Train each column by all minibatches; where one overflows, the others need not come further."""
        error, intercepts, place = None, self.model.estimator.intercept_, self.place
        signs = self.piece.signs[:, self.begin : self.end].reshape(self.model.columns, len(self.rows), -1)
        for column in range(self.model.columns):
            self.number = 0
            self.column = place.y[column], signs[column], self.intercepts[column], self.found[column]
            place.rows[...], place.y[column] = self.rows[0], signs[column, 0]
            try:
                _, intercept, *_ = self.model.call(column, (intercepts[column], 0.0), place, self.piece.rate, self)
            except ValueError as overflow:
                self.times, error = self.number, ValueError(str(overflow).replace(f"#{self.number + 1}.", "#1."))
                if not self.times:
                    break
            else:
                intercepts[column] = intercept
        self.model.t += self.times * len(place.mask)
        if self.times > 1:
            self._decide()
        return error

    def __call__(self, weights: Array, intercept: float) -> float:
        """Say nothing: the loop takes a score, and goes on whatever it is."""
        self.number = number = self.number + 1
        if number < self.times:
            y, signs, intercepts, found = self.column
            self.place.rows[...] = self.rows[number]
            y[...] = signs[number]
            intercepts[number] = intercept
            if self.place.sparse:
                self.place.product(weights, found[number])
            else:
                found[number] = weights
        return 0.0

    def _decide(self) -> None:
        """Decision values before each update but the first, whose are known."""
        rows = len(self.place.mask)
        begin, end = self.begin + rows, self.begin + rows * self.times
        scales = self.model.scales(self.piece.rate, rows, self.times - 1)[:, np.newaxis]
        scaled = (self.found[:, 1 : self.times] * scales).transpose(1, 2, 0)
        if not self.place.sparse:
            scaled = self.piece.part.X[begin:end].reshape(self.times - 1, rows, -1) @ scaled
        found = scaled + self.intercepts[:, 1 : self.times].T[:, np.newaxis]
        self.piece.decisions[begin:end] = found.reshape(end - begin, -1)
