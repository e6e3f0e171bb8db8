"""The losses that scikit-learn's estimators minimise, as one number a row, and those of the best constant prediction.

scikit-learn computes them in Cython inside of ``partial_fit`` and has no public function for them; here they are
for held-out rows and for a minibatch before its update. What ``valid_loss`` means for an estimator:

==============================  =====================================================================
estimator                       loss of a row
==============================  =====================================================================
``SGDClassifier`` and similar   its ``loss`` at the decision value; with more than two classes the sum
                                of its one-vs-rest losses, which is what it minimises. For
                                ``perceptron`` the hinge loss: its own is zero for a model of zeros.
``SGDRegressor`` and similar    its ``loss``; ``squared_error`` is half the squared error, as there
``MLPClassifier``               log loss
``MLPRegressor``                half the squared error, mean over the outputs; Poisson's where asked
other classifiers               log loss of ``predict_proba``, else hinge loss of
                                ``decision_function``, else the share of wrong answers
other regressors                half the squared error
==============================  =====================================================================

It is the mean over the rows, weighted by `sample_weight` and by the estimator's `class_weight`, without penalties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import xlogy

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Criterion", "DecisionLoss", "Elementwise", "Labels", "Probability", "mean", "means", "named"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

FARTHEST = 40.0  # a decision value beyond it changes no loss in double precision


def _hinge(target: Floats, decision: Floats, _: float = 0.0) -> Floats:
    return np.maximum(0.0, 1.0 - target * decision)


def _modified_huber(target: Floats, decision: Floats, _: float) -> Floats:
    """Zhang 2004: squared hinge, linear beyond a margin of -1."""
    margin = target * decision
    return np.where(margin >= -1.0, np.maximum(0.0, 1.0 - margin) ** 2, -4.0 * margin)


def _half_squared(target: Floats, decision: Floats, _: float = 0.0) -> Floats:
    return 0.5 * (target - decision) ** 2


def _huber(target: Floats, decision: Floats, epsilon: float) -> Floats:
    """Half the squared error up to `epsilon`, linear beyond."""
    error = np.abs(target - decision)
    return np.where(error <= epsilon, 0.5 * error**2, epsilon * error - 0.5 * epsilon**2)


def _insensitive(target: Floats, decision: Floats, epsilon: float) -> Floats:
    """Absolute error beyond `epsilon`."""
    return np.maximum(0.0, np.abs(target - decision) - epsilon)


NAMED: dict[str, Callable[[Floats, Floats, float], Floats]] = {
    "hinge": _hinge,
    "squared_hinge": lambda target, decision, _: _hinge(target, decision) ** 2,
    "perceptron": _hinge,
    "log_loss": lambda target, decision, _: np.logaddexp(0.0, -target * decision),
    "modified_huber": _modified_huber,
    "squared_error": _half_squared,
    "poisson": lambda target, decision, _: xlogy(target, target / decision) - target + decision,
    "huber": _huber,
    "epsilon_insensitive": _insensitive,
    "squared_epsilon_insensitive": lambda target, decision, epsilon: _insensitive(target, decision, epsilon) ** 2,
}
"""Of targets (signs or values), decision values and `epsilon`, by scikit-learn's names."""


def named(name: str, epsilon: float) -> Callable[[Floats, Floats], Floats]:
    """The loss of scikit-learn's name."""
    loss = NAMED[name]
    return lambda target, decision: loss(target, decision, epsilon)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionLoss:
    """Loss of decision values, for estimators with ``coef_`` or a ``decision_function``.

    Attributes
    ----------
    loss
        Of targets and decisions.
    classes
        Number of classes; 0 for a regressor.
    direct
        Whether ``coef_`` and ``intercept_`` can be used, without scikit-learn's checks.
    """

    loss: Callable[[Floats, Floats], Floats]
    classes: int
    direct: bool = True

    def rows(self, estimator: Any, X: Any, target: Any) -> Floats:  # noqa: N803 -- scikit-learn's name
        """Losses of the rows; those of a model of zeros before the first fit."""
        return self.losses(self._decision(estimator, X), target)

    def losses(self, decision: Floats, target: Any) -> Floats:
        """Losses of rows from their decision values, shape (n, classes), or (n,) where there is one value a row."""
        losses = self.loss(self.targets(target), decision)
        return losses.sum(axis=1) if self.classes > 2 else losses  # noqa: PLR2004 -- one column for two classes

    def targets(self, target: Any) -> Floats:
        """What decisions are compared with: values, or signs of classes, shape (n, classes), for two classes (n,)."""
        return self._signs(target) if self.classes else np.asarray(target)

    def _decision(self, estimator: Any, X: Any) -> Floats:  # noqa: N803 -- scikit-learn's name
        if not self.direct:
            return np.asarray(estimator.decision_function(X), dtype=np.float64)
        coef = getattr(estimator, "coef_", None)
        if coef is None:
            many = self.classes > 2  # noqa: PLR2004 -- one column for two classes
            return np.zeros((X.shape[0], self.classes) if many else X.shape[0])
        decision = np.asarray(X @ np.atleast_2d(coef).T + estimator.intercept_, dtype=np.float64)
        return decision if decision.shape[1] > 1 else decision[:, 0]

    def _signs(self, codes: Any) -> Floats:
        if self.classes == 2:  # noqa: PLR2004 -- one column for two classes
            return np.where(codes == 1, 1.0, -1.0)
        signs = np.full((len(codes), self.classes), -1.0)
        signs[np.arange(len(codes)), codes] = 1.0
        return signs

    def constant(self, target: Any, weight: Floats | None) -> float:
        """The best constant decision values, one for each column, found by search: the losses are convex."""
        targets = self._signs(target) if self.classes else np.asarray(target, dtype=np.float64)
        columns = targets.reshape(len(targets), -1).T
        return float(sum(self._best(column, weight) for column in columns))

    def _best(self, column: Floats, weight: Floats | None) -> float:
        low, high = (-FARTHEST, FARTHEST) if self.classes else (float(column.min()), float(column.max()))

        def loss(constant: float) -> float:
            return mean(self.loss(column, np.full_like(column, constant)), weight)

        if not low < high:
            return loss(low)
        found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9 * (high - low)})
        return float(found.fun)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probability:
    """Log loss of ``predict_proba``."""

    classes: int

    def rows(self, estimator: Any, X: Any, target: Any) -> Floats:  # noqa: N803 -- scikit-learn's name
        """Losses of the rows."""
        share = np.asarray(estimator.predict_proba(X), dtype=np.float64)
        share = share / share.sum(axis=1, keepdims=True)
        chosen = share[np.arange(len(share)), target]
        losses: Floats = -np.log(np.clip(chosen, np.finfo(np.float64).eps, None))
        return losses

    def constant(self, target: Any, weight: Floats | None) -> float:
        """The entropy of the classes."""
        counts = np.bincount(target, weights=weight, minlength=self.classes)
        share = counts / counts.sum()
        return float(-xlogy(share, share).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Share of wrong answers, for a classifier with `predict` alone."""

    names: npt.NDArray[Any]

    def rows(self, estimator: Any, X: Any, target: Any) -> Floats:  # noqa: N803 -- scikit-learn's name
        """1 where it is wrong."""
        wrong: Floats = (np.asarray(estimator.predict(X)) != self.names[target]).astype(np.float64)
        return wrong

    def constant(self, target: Any, weight: Floats | None) -> float:
        """The share of all but the commonest class."""
        counts = np.bincount(target, weights=weight, minlength=len(self.names))
        return float(1.0 - counts.max() / counts.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """Loss of ``predict``, mean over the outputs."""

    loss: Callable[[Floats, Floats], Floats] = _half_squared

    def rows(self, estimator: Any, X: Any, target: Any) -> Floats:  # noqa: N803 -- scikit-learn's name
        """Losses of the rows."""
        prediction = np.asarray(estimator.predict(X), dtype=np.float64)
        return self.loss(target, prediction.reshape(np.shape(target))).reshape(len(target), -1).mean(axis=1)  # type: ignore[no-any-return]  # scikit-learn is untyped

    def constant(self, target: Any, weight: Floats | None) -> float:
        """Of the mean, which is the best for the squared error and for Poisson's."""
        values = np.asarray(target, dtype=np.float64).reshape(len(target), -1)
        middle = np.broadcast_to(np.average(values, axis=0, weights=weight), values.shape)
        return mean(self.loss(values, middle).mean(axis=1), weight)


Criterion: TypeAlias = DecisionLoss | Probability | Labels | Elementwise
"""A loss for each row of a fitted estimator, and the mean loss of the best constant prediction.

Targets are class numbers 0 .. K-1 for classifiers, values for regressors.
"""


def mean(losses: Floats, weight: Floats | None) -> float:
    """The weighted mean of losses; NaN where all weights are zero."""
    if weight is None:
        return float(losses.mean())
    total = float(weight.sum())
    return float(losses @ weight) / total if total > 0 else float("nan")


def means(losses: Floats, rows: int) -> list[float]:
    """The mean of each `rows` losses in a row; the last ones may be fewer."""
    full = len(losses) // rows * rows
    found: list[float] = losses[:full].reshape(-1, rows).mean(axis=1).tolist()
    return [*found, float(losses[full:].mean())] if full < len(losses) else found
