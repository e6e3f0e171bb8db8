"""How a scikit-learn estimator gets a recipe's settings and is trained by one minibatch.

Three kinds: linear models trained by SGD, multilayer perceptrons, and any other with ``partial_fit``. An
:class:`EstimatorAdapter` knows which parameter is the learning rate, which settings lrtune replaces, and what a recipe
may change; :func:`lrtune.training.estimators.adapter_factory.adapter_for` chooses it.
"""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, clone

from lrtune.errors import RecipeError
from lrtune.training.estimators.losses import Criterion, mean
from lrtune.training.estimators.state import load_fitted, save_fitted
from lrtune.training.setups import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Setup, State
    from lrtune.training.estimators.arrays import Array, TrainingArrays
    from lrtune.training.estimators.inner_steps import Epoch, InnerSteps

__all__ = ["EstimatorAdapter", "EstimatorStepper", "MLPAdapter", "SGDAdapter", "cloned"]

MAX_SEED = 2**32  # NumPy's RandomState takes 32 bits
OURS = ("learning_rate", "shuffle")
"""Parameters that lrtune sets, so that it drives the learning rate and the order of the rows."""


@dataclass(slots=True)
class EstimatorStepper:
    """A copy of the user's estimator with a recipe's settings; `begun` once it has seen a minibatch.

    `inner` trains it where it has begun; None for ``partial_fit``.
    """

    estimator: Any
    adapter: EstimatorAdapter
    begun: bool = False
    inner: InnerSteps | None = None

    def train(self, data: TrainingArrays, epoch: Epoch, begin: int, end: int) -> Iterator[tuple[float, float]]:
        """Train by the minibatches of an epoch from `begin` to `end`; yield the loss and the weight of each.

        It may be some minibatches ahead of what it has yielded.
        """
        for position in range(begin, end):
            if self.begun and self.inner is not None:
                yield from self.inner.train(self, data, epoch, position, end)
                return
            batch = data.take(epoch.batch(position, position + 1))
            weights = self.adapter.weights(batch)
            yield self.step(batch, epoch.rates[position]), float(len(batch) if weights is None else weights.sum())

    def copied(self, inner: InnerSteps | None) -> EstimatorStepper:
        """Another one that has learned the same."""
        return EstimatorStepper(copy.deepcopy(self.estimator), self.adapter, begun=self.begun, inner=inner)

    def step(self, batch: TrainingArrays, rate: float) -> float:
        """Train by one minibatch at a learning rate; its mean loss before the update.

        A minibatch whose weights are all zero changes nothing, and its loss is NaN.
        """
        if batch.weight is not None and not batch.weight.any():
            if not self.begun:
                self._fit(batch, 0.0, None)
            return math.nan
        loss = self.adapter.loss_before(self, batch)
        self._fit(batch, rate, batch.weight)
        return self.adapter.loss_after(self, batch) if loss is None else loss

    def _fit(self, batch: TrainingArrays, rate: float, weight: Array | None) -> None:
        self.adapter.set_rate(self.estimator, rate, len(batch))
        extra: dict[str, Any] = {} if weight is None else {"sample_weight": weight}
        if self.adapter.classes is not None and not self.begun:
            extra["classes"] = self.adapter.classes
        self.estimator.partial_fit(batch.X, batch.y, **extra)
        self.begun = True

    def losses(self, table: TrainingArrays) -> float:
        """The mean loss on some rows."""
        rows = [self.adapter.criterion.rows(self.estimator, piece.X, piece.target) for piece in table.pieces()]
        return mean(rows[0] if len(rows) == 1 else np.concatenate(rows), self.adapter.weights(table))


@dataclass(slots=True, kw_only=True)
class EstimatorAdapter:
    """Any estimator with ``partial_fit`` and a learning-rate parameter that the user names.

    Attributes
    ----------
    template
        The estimator, unfitted, with lrtune's settings.
    rate
        Name of its learning-rate parameter.
    criterion
        Its loss.
    classes
        The classes, or None for a regressor.
    notices
        Settings that have been replaced, one sentence each.
    inner
        What trains the estimator in place of ``partial_fit``; None for nothing.
    untouched
        What an estimator holds that is ready for its first row; None where ``partial_fit`` has to make it ready.
    """

    draws: ClassVar[bool] = True
    """Whether it may draw from the process's global generators, as a user's own estimator may."""

    optimizer_attribute: ClassVar[str | None] = None
    """The attribute with the optimizer, which has the learning rate after the first minibatch; None for none."""

    template: Any
    rate: str
    criterion: Criterion
    classes: Array | None
    notices: list[str] = field(default_factory=list)
    inner: type[InnerSteps] | None = None
    untouched: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The estimator's name."""
        return type(self.template).__name__

    @property
    def solver(self) -> str:
        """The name of the optimizer: an estimator's own solver, else stochastic gradient descent."""
        return str(getattr(self.template, "solver", "sgd"))

    def member(self, *given: Any) -> Any:
        """One in training, of another kind than most; None for most."""
        del given

    def saved(self, estimator: Any) -> State:
        """What an estimator has learned; UnsavableError if it cannot be written as numbers."""
        return save_fitted(estimator)

    def load(self, saved: State, estimator: Any) -> None:
        """Give an estimator that has seen a minibatch what another had learned; InputError if it does not fit."""
        load_fitted(saved, estimator)

    @property
    def class_weight(self) -> dict[Any, float] | None:
        """Weights of the classes that have one in the loss that the estimator minimises."""
        given = getattr(self.template, "class_weight", None)
        return given if self.classes is not None and isinstance(given, dict) else None

    def weights(self, table: TrainingArrays) -> Array | None:
        """Weight of each row in the loss, its class's included; None where all count alike."""
        given = self.class_weight
        if given is None or self.classes is None:
            return table.weight
        by_class = np.array([given.get(name, 1.0) for name in self.classes.tolist()], dtype=np.float64)[table.target]
        return by_class if table.weight is None else by_class * table.weight

    def stepper(self, recipe: Recipe) -> EstimatorStepper:
        """A fresh estimator for a recipe; RecipeError where the estimator cannot do what it asks for."""
        self.check(recipe)
        estimator = cloned(self.template)
        parameters = estimator.get_params(deep=True)
        if "random_state" in parameters:
            # A number needs no saving. Seeding a generator takes 60 us a minibatch; unshuffled, it is drawn from once.
            seed = recipe.seed % MAX_SEED
            estimator.random_state = seed if self.draws else np.random.RandomState(seed)
        for name, value in parameters.items():
            if name.endswith("__random_state") and isinstance(value, np.random.RandomState):  # its state is not saved
                estimator.set_params(**{name: recipe.seed % MAX_SEED})
        for name, value in self.changes(recipe).items():
            setattr(estimator, name, value)
        if self.untouched is not None:
            vars(estimator).update(copy.deepcopy(self.untouched))
        inner = None if self.inner is None else self.inner()
        return EstimatorStepper(estimator, self, begun=self.untouched is not None, inner=inner)

    def check(self, recipe: Recipe) -> None:
        """Refuse what the estimator has no parameter for."""
        if recipe.optimizer is not None:
            self._check_optimizer(recipe)
        asks = recipe.momentum or recipe.weight_decay is not None
        parameters = self.template.get_params(deep=False) if asks else {}
        if recipe.momentum and "momentum" not in parameters:
            raise _refused(self.name, "momentum", recipe.momentum, "it has none; leave momentum out of the space")
        if recipe.weight_decay is not None and "alpha" not in parameters:
            raise _refused(
                self.name, "weight_decay", recipe.weight_decay, "it has no penalty; leave it out of the space"
            )
        if recipe.layer_decay is not None:
            raise _refused(self.name, "layer_decay", recipe.layer_decay, "only TorchTrainer knows layers; leave it out")

    def _check_optimizer(self, recipe: Recipe) -> None:
        if recipe.optimizer != "sgd":
            raise _refused(self.name, "optimizer", recipe.optimizer, 'leave optimizer out of the space, or set "sgd"')

    def changes(self, recipe: Recipe) -> dict[str, Any]:
        """Parameters that a recipe sets beyond the learning rate."""
        changed = {} if recipe.weight_decay is None else {"alpha": recipe.weight_decay}
        return changed | ({"momentum": recipe.momentum} if recipe.momentum else {})

    def setup(self, recipe: Recipe, given: Any) -> Setup:
        """How an estimator is trained under a recipe, beyond what its own parameters say.

        Parameters
        ----------
        recipe
            The recipe.
        given
            The estimator as the user made it.

        Returns
        -------
        Setup
            ``estimator``, its class's name; ``rate``, the name of its learning rate; ``kept_by``, the attribute with
            the optimizer, or None; ``settings``, the parameters that are not the user's.
        """
        theirs = given.get_params(deep=False)
        mine = self.stepper(recipe).estimator.get_params(deep=False)
        settings = {name: plain(mine[name]) for name in OURS if name in mine and name != self.rate}
        for name, value in mine.items():
            if name not in {self.rate, "random_state"} and repr(value) != repr(theirs.get(name)):
                settings[name] = plain(value)
        if "random_state" in mine:
            settings["random_state"] = recipe.seed % MAX_SEED
        return {"estimator": self.name, "rate": self.rate, "kept_by": self.optimizer_attribute, "settings": settings}

    def set_rate(self, estimator: Any, rate: float, rows: int) -> None:
        """Set the learning rate of the next minibatch, of so many rows."""
        del rows
        if type(estimator).set_params is BaseEstimator.set_params:
            setattr(estimator, self.rate, rate)
        else:  # one that has to hand it on, as skorch's does to the optimizer that it made
            estimator.set_params(**{self.rate: rate})

    def loss_before(self, stepper: EstimatorStepper, batch: TrainingArrays) -> float | None:
        """The loss before the update; None where it is known only after it."""
        if stepper.begun:
            return stepper.losses(batch)
        # An unfitted estimator has no loss; a copy that was fitted at a learning rate of zero has.
        copy = EstimatorStepper(estimator=cloned(stepper.estimator), adapter=self, begun=True)
        extra = {} if self.classes is None else {"classes": self.classes}
        try:
            self.set_rate(copy.estimator, 0.0, len(batch))
            copy.estimator.partial_fit(batch.X, batch.y, **extra)
            return copy.losses(batch)
        except (ArithmeticError, AttributeError, TypeError, ValueError):  # it takes no learning rate of zero
            return None

    def loss_after(self, stepper: EstimatorStepper, batch: TrainingArrays) -> float:
        """The loss where it was not known before the update."""
        return stepper.losses(batch)


class SGDAdapter(EstimatorAdapter):
    """Linear models trained by SGD: they update after each row, whatever the batch."""

    __slots__ = ()
    draws = False

    def loss_before(self, stepper: EstimatorStepper, batch: TrainingArrays) -> float | None:
        """From the coefficients, at the price of one product."""
        return stepper.losses(batch)

    def check(self, recipe: Recipe) -> None:
        """Weight decay needs a penalty to scale."""
        EstimatorAdapter.check(self, recipe)
        if recipe.weight_decay is not None and self.template.penalty is None:
            why = "its penalty is None; set penalty='l2' or leave weight_decay out of the space"
            raise _refused(self.name, "weight_decay", recipe.weight_decay, why)


class MLPAdapter(EstimatorAdapter):
    """Multilayer perceptrons: after the first minibatch their optimizer holds the learning rate."""

    __slots__ = ()
    draws = False
    optimizer_attribute = "_optimizer"

    def _check_optimizer(self, recipe: Recipe) -> None:
        if recipe.optimizer not in {"sgd", "adam"}:
            raise _refused(self.name, "optimizer", recipe.optimizer, 'choose "sgd" or "adam"')

    def check(self, recipe: Recipe) -> None:
        """Momentum belongs to SGD, and lies below 1."""
        EstimatorAdapter.check(self, recipe)
        if recipe.momentum is None:
            return
        if self._solver(recipe) != "sgd":
            raise _refused(self.name, "momentum", recipe.momentum, "adam has none; leave it out, or choose sgd")
        if recipe.momentum > 1:
            raise _refused(self.name, "momentum", recipe.momentum, "it must lie in [0, 1]")

    def _solver(self, recipe: Recipe) -> str:
        return recipe.optimizer or str(self.template.solver)

    def changes(self, recipe: Recipe) -> dict[str, Any]:
        """Solver, momentum and penalty."""
        changed = EstimatorAdapter.changes(self, recipe)
        changed["solver"] = self._solver(recipe)
        if recipe.momentum is not None:
            changed["momentum"] = recipe.momentum
        return changed

    def set_rate(self, estimator: Any, rate: float, rows: int) -> None:
        """On the optimizer where there is one; Adam computes its step from the initial rate."""
        estimator.learning_rate_init = rate
        estimator.batch_size = rows  # partial_fit would split a larger batch
        optimizer = getattr(estimator, "_optimizer", None)
        if optimizer is not None:
            optimizer.learning_rate_init = optimizer.learning_rate = rate

    def loss_before(self, stepper: EstimatorStepper, batch: TrainingArrays) -> float | None:
        """None: the update's own forward pass measures it."""
        del stepper, batch
        return None

    def loss_after(self, stepper: EstimatorStepper, batch: TrainingArrays) -> float:
        """The loss of the forward pass, penalty included."""
        del batch
        stepper.estimator.loss_curve_ = []  # one number a minibatch, for ever
        return float(stepper.estimator.loss_)


def _refused(name: str, what: str, value: object, why: str) -> RecipeError:
    return RecipeError(f"recipe: {name} cannot take {what} {value!r}: {why}")


def cloned(estimator: Any) -> Any:
    """A fresh copy, without the warning that a deprecated class gives whenever it is made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return clone(estimator)
