"""Linear models with many learning rates at once: all read the same rows in the same order.

The compiled loop of scikit-learn trains one weight vector after the other. Here K members with C columns each are K x C
vectors that see a row together: within a minibatch of n rows X only the decision values P = X w and the products
G = X X' are needed, for a row j moves the decision value of a later row i by G_ij times its update. Equal to single
runs but for rounding: sums are made in another order.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy import sparse
from scipy.special import expit

from lrtune.training.estimators.losses import means
from lrtune.training.estimators.run import EstimatorMember, quiet
from lrtune.training.member_run import JointRun, MemberRun, SideBySide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lrtune.training.base import Report, Run
    from lrtune.training.estimators.arrays import Array, TrainingArrays
    from lrtune.training.estimators.losses import DecisionLoss
    from lrtune.training.estimators.run import EstimatorTask

__all__ = ["LinearStacks", "expected", "joint", "stackable"]

PAYS = 1.1  # speedup from which it is taken to pay
LARGEST_GRADIENT = 1e12  # scikit-learn's MAX_DLOSS
MOST_SHRINKAGE = 1.0  # of a penalty within a minibatch, as -log of the factor: more is left to the compiled loop
CHUNK = 64  # minibatches whose losses are computed at once
OVERFLOWED = (
    "Floating-point under-/overflow occurred at epoch #1. "
    "Scaling input data with StandardScaler or MinMaxScaler might help."
)  # as the compiled loop says it


def _squared_insensitive(value: Array, target: Array, epsilon: float) -> Array:
    error = value - target
    found: Array = 2.0 * np.sign(error) * np.maximum(0.0, np.abs(error) - epsilon)
    return found


GRADIENTS: Mapping[str, Callable[[Array, Array, float], Array]] = {
    "hinge": lambda value, sign, _: np.where(value * sign <= 1.0, -sign, 0.0),
    "perceptron": lambda value, sign, _: np.where(value * sign <= 0.0, -sign, 0.0),
    "squared_hinge": lambda value, sign, _: -2.0 * sign * np.maximum(0.0, 1.0 - value * sign),
    "log_loss": lambda value, share, _: np.subtract(expit(value, out=value), share, out=value),
    "squared_error": lambda value, target, _: value - target,
    "huber": lambda value, target, epsilon: np.clip(value - target, -epsilon, epsilon),
    "epsilon_insensitive": lambda value, target, epsilon: np.sign(value - target) * (np.abs(value - target) > epsilon),
    "squared_epsilon_insensitive": _squared_insensitive,
}
"""Derivatives of the losses by the decision value, by scikit-learn's names; the value may be overwritten."""

BOUNDED = {"hinge", "perceptron", "log_loss", "huber", "epsilon_insensitive"}


class LinearStacks(SideBySide[EstimatorMember]):
    """Trains estimators in turn, and those together that can be."""

    def advance(self, members: Sequence[EstimatorMember], steps: int, *, evaluate: bool) -> Sequence[Sequence[Report]]:
        """The reports of each of these members; after an exception none that was trained with others can go on."""
        groups = stackable(members)
        self.sizes = {}
        try:
            for group in groups:
                with quiet(), contextlib.suppress(MemoryError):  # then each for itself
                    train_together(group, steps)
                    self.sizes |= dict.fromkeys(group, len(group))
            return super().advance(members, steps, evaluate=evaluate)
        except BaseException:  # KeyboardInterrupt, too
            for member in (member for group in groups for member in group):
                member.interrupted = True
                member.end()
            raise
        finally:
            for member in members:
                member.prepared = None


def speedup(members: int, columns: int, features: int) -> float:
    """Steps of a member a second, of so many linear models at once over one by one.

    A rule by shapes, and no timing, so that a search decides the same on any machine. Its numbers are fitted to
    what ``studies/benchmarks/sklearn_speed.py`` finds: the time of one model is proportional to its weights and 60 more
    for each column, that of many at once to 2,500, and 25 and a tenth of the features more for each column.
    """
    vectors = members * columns
    return vectors * (features + 60) / (2500 + vectors * (25 + 0.1 * features))


def stackable(members: Sequence[EstimatorMember]) -> list[list[EstimatorMember]]:
    """Members that may be trained together, by the rows that they read: groups of at least two."""
    if len(members) < 2:  # noqa: PLR2004 -- nobody to share with
        return []
    groups: dict[tuple[Any, ...], list[EstimatorMember]] = {}
    for member in members:
        if _fits(member):
            recipe = member.recipe
            groups.setdefault((recipe.seed, recipe.epochs, member.rows, member.step), []).append(member)
    return [group for group in groups.values() if _pays(group)]


def _fits(member: EstimatorMember) -> bool:
    task, stepper = member.task, member.stepper
    if stepper is None or stepper.inner is None or not stepper.begun or member.schedule.metric_driven:
        return False
    estimator, X = stepper.estimator, task.train.X  # noqa: N806 -- scikit-learn's name
    plain = not sparse.issparse(X) and X.dtype == np.float64 and task.train.weight is None
    moved = getattr(estimator, "learning_rate", "constant") == "constant" and not hasattr(estimator, "C")
    gentle = member.recipe.lr * float(getattr(estimator, "alpha", np.inf)) * member.rows <= MOST_SHRINKAGE
    return bool(
        plain
        and moved
        and gentle
        and getattr(estimator, "loss", "") in GRADIENTS
        and getattr(estimator, "penalty", "") in {None, "l2"}
        and not getattr(estimator, "average", True)
        and getattr(estimator, "class_weight", None) is None
    )


def expected(member: EstimatorMember, members: int) -> float:
    """The speedup of so many members like this one; 1 where they go one by one."""
    if members < 2 or not _fits(member):  # noqa: PLR2004 -- nobody to share with
        return 1.0
    found = speedup(members, *np.atleast_2d(member.estimator.coef_).shape)
    return found if found >= PAYS else 1.0


def _pays(group: Sequence[EstimatorMember]) -> bool:
    return len(group) > 1 and speedup(len(group), *np.atleast_2d(group[0].estimator.coef_).shape) >= PAYS


def joint(task: EstimatorTask, runs: Sequence[Run]) -> JointRun[EstimatorMember] | None:
    """A run of the members of other runs of a task; None where no two of them would be trained together."""
    given = [member for run in runs if isinstance(run, MemberRun) for member in run.members]
    members = [member for member in given if isinstance(member, EstimatorMember) and member.task is task]
    if len(members) < len(given) or not all(isinstance(run, MemberRun) for run in runs):
        return None
    able = stackable([member for member in members if not member.done])
    return JointRun(members, LinearStacks()) if able else None


def train_together(members: Sequence[EstimatorMember], steps: int) -> None:
    """Train members of one group by up to `steps` minibatches, and leave to each what it is to find at each step."""
    lead = members[0]
    told: list[list[tuple[float, float] | ValueError]] = [[] for _ in members]
    stack, step, end = _Stack(members), lead.step, min(lead.step + steps, lead.total_steps)
    while step < end:
        epoch, position = divmod(step, lead.per_epoch)
        count = min(CHUNK, end - step, lead.per_epoch - position)
        order = lead.order(epoch)[position * lead.rows : (position + count) * lead.rows]
        rates = np.array([member.rates(epoch)[position : position + count] for member in members])
        for before, new in zip(told, stack.train(lead.task.train.take(order), rates, lead.rows), strict=True):
            before.extend(new)
        step += count
    stack.finish(step - lead.step)
    for member, own in zip(members, told, strict=True):
        member.prepared = _each(own)


def _each(told: Sequence[tuple[float, float] | ValueError]) -> Iterator[tuple[float, float]]:
    for found in told:
        if isinstance(found, ValueError):
            raise found
        yield found


class _Stack:
    """The vectors of all members, shape (K x C, columns of X)."""

    def __init__(self, members: Sequence[EstimatorMember]) -> None:
        self.members = members
        self.estimators = [member.estimator for member in members]
        first = self.estimators[0]
        self.weights = np.concatenate([np.atleast_2d(estimator.coef_) for estimator in self.estimators])
        self.intercepts = np.concatenate([estimator.intercept_ for estimator in self.estimators])
        self.columns = len(self.intercepts) // len(members)
        self.alpha = np.repeat(
            [float(estimator.alpha) if estimator.penalty else 0.0 for estimator in self.estimators], self.columns
        )
        self.gradient, self.epsilon = GRADIENTS[first.loss], float(getattr(first, "epsilon", 0.0))
        self.bounded, self.moves = first.loss in BOUNDED, bool(first.fit_intercept)
        self.shrinks = bool(self.alpha.any())
        self.shares = first.loss == "log_loss"  # whose targets are 0 and 1
        self.rows, self.scales = 0, np.empty((0, 0))

    def train(self, part: TrainingArrays, rates: Array, rows: int) -> Iterator[list[tuple[float, float] | ValueError]]:
        """Train by the minibatches of `part` at `rates` (members, minibatches); of each member what it finds."""
        criterion = cast("DecisionLoss", self.members[0].task.adapter.criterion)
        targets = criterion.targets(part.target).reshape(len(part), -1)
        targets = np.tile(targets > 0.0 if self.shares else targets, (1, len(self.members))).astype(np.float64)
        decisions, sound = np.empty_like(targets), []
        for number, begin in enumerate(range(0, len(part), rows)):
            minibatch = slice(begin, min(begin + rows, len(part)))
            decisions[minibatch] = self._update(
                part.X[minibatch], targets[minibatch], np.repeat(rates[:, number], self.columns)
            )
            finite = np.isfinite(self.weights).all(axis=1) & np.isfinite(self.intercepts)
            sound.append(finite.reshape(len(self.members), -1).all(axis=1))
        self.rows += len(part)
        for member in range(len(self.members)):
            own = decisions[:, member * self.columns : (member + 1) * self.columns]
            losses = criterion.losses(own if self.columns > 1 else own[:, 0], part.target)
            yield [
                (loss, float(min(rows, len(part) - begin))) if fine[member] else ValueError(OVERFLOWED)
                for loss, begin, fine in zip(means(losses, rows), range(0, len(part), rows), sound, strict=True)
            ]

    def _update(self, X: Array, targets: Array, rates: Array) -> Array:  # noqa: N803 -- scikit-learn's name
        """One pass over the rows of a minibatch; decision values before it.

        As in the compiled loop w = s v: an update of u by a row x adds u x / s to v, and s shrinks for the penalty.
        """
        products, between = X @ self.weights.T, X @ X.T
        before = products + self.intercepts
        scales = self._scales(rates, len(X))
        updates, scale, value = np.empty_like(targets), None, np.empty_like(rates)
        factors = -rates / scales
        for row, product in enumerate(products):
            np.dot(between[row, :row], updates[:row], out=value)
            value += product
            if scale is not None:
                value *= scale
            value += self.intercepts
            gradient = self.gradient(value, targets[row], self.epsilon)
            if not self.bounded:
                gradient = np.clip(gradient, -LARGEST_GRADIENT, LARGEST_GRADIENT)
            np.multiply(gradient, factors[row], out=updates[row])
            if self.moves:
                gradient *= rates
                self.intercepts -= gradient
            scale = scales[row] if self.shrinks else None
        self.weights += updates.T @ X
        self.weights *= scales[-1][:, np.newaxis]
        return before  # type: ignore[no-any-return]  # of Any

    def _scales(self, rates: Array, rows: int) -> Array:
        """What the penalty leaves of the vectors after each row, shape (rows, vectors)."""
        shrink = 1.0 - rates * self.alpha
        if rows != len(self.scales) or not np.array_equal(shrink, self.scales[0]):
            self.scales = np.cumprod(np.broadcast_to(shrink, (rows, len(shrink))), axis=0)
        return self.scales

    def finish(self, steps: int) -> None:
        """Give the estimators what they have learned."""
        for number, estimator in enumerate(self.estimators):
            own = slice(number * self.columns, (number + 1) * self.columns)
            estimator.coef_[...] = self.weights[own].reshape(estimator.coef_.shape)
            estimator.intercept_[...] = self.intercepts[own]
            estimator.t_ += self.rows
            member = self.members[number]
            if member.stepper is not None and member.stepper.inner is not None:
                member.stepper.inner.restore(None)  # no piece of its own has begun
            epoch, position = divmod(member.step + steps - 1, member.per_epoch)
            member.task.adapter.set_rate(estimator, member.rates(epoch)[position], member.rows)
