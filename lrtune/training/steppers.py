"""How each kind of scikit-learn estimator is made ready for a recipe and trained by one minibatch.

Three kinds: the linear models trained by SGD, the multilayer perceptrons, and any other with
``partial_fit``. A :class:`Kind` knows which parameter is the learning rate, which settings are lrtune's
to own, and what a recipe may change; it is chosen once, by :func:`kind_of`.
"""

from __future__ import annotations

import difflib
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.linear_model._stochastic_gradient import BaseSGDClassifier, BaseSGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.class_weight import compute_class_weight

from lrtune.errors import DataError, InputError, RecipeError
from lrtune.training.losses import Criterion, Elementwise, Labels, Linear, Probability, mean, named

if TYPE_CHECKING:
    from lrtune.recipe import Recipe
    from lrtune.training.tables import Array, Table

__all__ = ["Kind", "Stepper", "kind_of"]

MAX_SEED = 2**32  # NumPy's RandomState takes 32 bits
MOVING = ("optimal", "invscaling", "adaptive")  # schedules of scikit-learn's own


@dataclass(slots=True)
class Stepper:
    """An estimator in training; one call of :meth:`step` is one minibatch.

    Attributes
    ----------
    estimator
        The user's, made ready for a recipe.
    kind
        Of what kind it is.
    begun
        Whether it has seen a minibatch.
    """

    estimator: Any
    kind: Kind
    begun: bool = False

    def step(self, batch: Table, rate: float) -> float:
        """Train by one minibatch at a learning rate; its mean loss before the update.

        A minibatch whose weights are all zero changes nothing, and its loss is NaN.
        """
        if batch.weight is not None and not batch.weight.any():
            return float("nan")
        loss = self.kind.loss_before(self, batch)
        self.kind.set_rate(self.estimator, rate, len(batch))
        extra: dict[str, Any] = {}
        if batch.weight is not None:
            extra["sample_weight"] = batch.weight
        if self.kind.classes is not None and not self.begun:
            extra["classes"] = self.kind.classes
        self.estimator.partial_fit(batch.X, batch.y, **extra)
        self.begun = True
        return self.kind.loss_after(self, batch) if loss is None else loss

    def losses(self, table: Table) -> float:
        """The mean loss on a table."""
        return mean(self.kind.criterion.rows(self.estimator, table.X, table.target), table.weight)


@dataclass(slots=True, kw_only=True)
class Kind:
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
        What has been replaced, one sentence each.
    """

    template: Any
    rate: str
    criterion: Criterion
    classes: Array | None
    notices: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The estimator's name."""
        return type(self.template).__name__

    def stepper(self, recipe: Recipe) -> Stepper:
        """A fresh estimator for a recipe.

        Raises
        ------
        RecipeError
            If the recipe asks for something that the estimator cannot do.
        """
        self.check(recipe)
        estimator = cloned(self.template)
        parameters = estimator.get_params(deep=False)
        if "random_state" in parameters:
            estimator.random_state = recipe.seed % MAX_SEED
        for name, value in self.changes(recipe).items():
            setattr(estimator, name, value)
        return Stepper(estimator=estimator, kind=self)

    def check(self, recipe: Recipe) -> None:
        """Refuse what the estimator has no parameter for."""
        parameters = self.template.get_params(deep=False)
        if recipe.optimizer is not None:
            self._check_optimizer(recipe)
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
        """Parameters that a recipe sets, beyond the learning rate."""
        changed: dict[str, Any] = {}
        if recipe.weight_decay is not None:
            changed["alpha"] = recipe.weight_decay
        if recipe.momentum:
            changed["momentum"] = recipe.momentum
        return changed

    def set_rate(self, estimator: Any, rate: float, rows: int) -> None:
        """Set the learning rate of the next minibatch, of so many rows."""
        del rows
        setattr(estimator, self.rate, rate)

    def loss_before(self, stepper: Stepper, batch: Table) -> float | None:
        """The loss before the update; None if it comes out of the update itself."""
        if not stepper.begun:
            return self._untrained_loss(stepper, batch)
        return stepper.losses(batch)

    def _untrained_loss(self, stepper: Stepper, batch: Table) -> float | None:
        """A twin that has seen the batch at a learning rate of zero is untrained, and can be asked."""
        twin = Stepper(estimator=cloned(stepper.estimator), kind=self, begun=True)
        extra = {} if self.classes is None else {"classes": self.classes}
        try:
            self.set_rate(twin.estimator, 0.0, len(batch))
            twin.estimator.partial_fit(batch.X, batch.y, **extra)
            return twin.losses(batch)
        except (ArithmeticError, AttributeError, TypeError, ValueError):  # it takes no learning rate of zero
            return None

    def loss_after(self, stepper: Stepper, batch: Table) -> float:
        """The loss where it was not known before the update."""
        return stepper.losses(batch)


class LinearKind(Kind):
    """Linear models trained by SGD: an update after each row, whatever the batch."""

    __slots__ = ()

    def loss_before(self, stepper: Stepper, batch: Table) -> float | None:
        """From the coefficients, at the price of one product."""
        return stepper.losses(batch)

    def check(self, recipe: Recipe) -> None:
        """Weight decay needs a penalty to scale."""
        Kind.check(self, recipe)
        if recipe.weight_decay is not None and self.template.penalty is None:
            why = "its penalty is None; set penalty='l2' or leave weight_decay out of the space"
            raise _refused(self.name, "weight_decay", recipe.weight_decay, why)


class PerceptronKind(Kind):
    """Multilayer perceptrons: the optimizer holds the learning rate once there is one."""

    __slots__ = ()

    def _check_optimizer(self, recipe: Recipe) -> None:
        if recipe.optimizer not in {"sgd", "adam"}:
            raise _refused(self.name, "optimizer", recipe.optimizer, 'choose "sgd" or "adam"')

    def check(self, recipe: Recipe) -> None:
        """Momentum belongs to SGD, and lies below 1."""
        Kind.check(self, recipe)
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
        changed = Kind.changes(self, recipe)
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

    def loss_before(self, stepper: Stepper, batch: Table) -> float | None:
        """None: its own forward pass measures it before the update."""
        del stepper, batch
        return None

    def loss_after(self, stepper: Stepper, batch: Table) -> float:
        """What the forward pass measured before the update, its penalty included."""
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


def kind_of(estimator: Any, rate: str | None, y: Array) -> Kind:
    """The kind of an estimator, with lrtune's settings made on a copy of it.

    Parameters
    ----------
    estimator
        The last step, where there is a pipeline.
    rate
        Name of the learning-rate parameter; None where lrtune knows it.
    y
        The targets, training and held-out.

    Raises
    ------
    InputError
        If it cannot be trained in pieces, or its learning rate is not known.
    """
    template = cloned(estimator)
    name = type(template).__name__
    if isinstance(template, MLPClassifier | MLPRegressor) and template.solver == "lbfgs":
        msg = f"{name}(solver='lbfgs') has no learning rate; use solver='sgd' or solver='adam'"
        raise InputError(msg)
    if not hasattr(template, "partial_fit"):
        msg = (
            f"{name} has no partial_fit, so its training cannot be paused; use an estimator that has one, "
            "such as SGDClassifier, SGDRegressor, MLPClassifier or MLPRegressor"
        )
        raise InputError(msg)
    if not is_classifier(template) and not is_regressor(template):
        msg = f"{name} is neither a classifier nor a regressor; lrtune does not know what it should learn"
        raise InputError(msg)
    classes = np.unique(y) if is_classifier(template) else None
    notices = _owned(template, name, classes, y)
    if isinstance(template, MLPClassifier | MLPRegressor):
        _known(template, rate, "learning_rate_init")
        criterion = _criterion(template, classes)
        return PerceptronKind(
            template=template, rate="learning_rate_init", criterion=criterion, classes=classes, notices=notices
        )
    if isinstance(template, BaseSGDClassifier | BaseSGDRegressor):
        if rate is not None and rate not in {"eta0", "C"}:
            _known(template, rate, "eta0")
        loss = named(template.loss, getattr(template, "epsilon", 0.1))
        criterion = Linear(loss=loss, classes=0 if classes is None else len(classes))
        return LinearKind(template=template, rate="eta0", criterion=criterion, classes=classes, notices=notices)
    rate = _named_rate(template, rate)
    return Kind(template=template, rate=rate, criterion=_criterion(template, classes), classes=classes, notices=notices)


def _known(template: Any, rate: str | None, own: str) -> None:
    if rate not in {None, own}:
        name = type(template).__name__
        msg = f"the learning rate of {name} is {own} (got learning_rate_parameter={rate!r}); leave it out"
        raise InputError(msg)


def _named_rate(template: Any, rate: str | None) -> str:
    name, parameters = type(template).__name__, sorted(template.get_params(deep=False))
    if rate is None:
        msg = f"which parameter of {name} is its learning rate? Name it: learning_rate_parameter={_guess(parameters)!r}"
        raise InputError(msg)
    if rate not in parameters:
        near = difflib.get_close_matches(rate, parameters, n=1)
        end = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(parameters) or 'none'}"
        msg = f"{name} has no parameter {rate!r}; {end}"
        raise InputError(msg)
    return rate


def _guess(parameters: list[str]) -> str:
    likely = ("learning_rate", "learning_rate_init", "eta0", "eta", "lr", "step_size")
    return next((name for name in likely if name in parameters), parameters[0] if parameters else "eta0")


def _criterion(template: Any, classes: Array | None) -> Criterion:
    if classes is None:
        poisson = isinstance(template, MLPRegressor) and getattr(template, "loss", "") == "poisson"
        return Elementwise(loss=named("poisson", 0.0)) if poisson else Elementwise()
    if hasattr(template, "predict_proba"):
        return Probability(classes=len(classes))
    if hasattr(template, "decision_function"):
        return Linear(loss=named("hinge", 0.0), classes=len(classes), direct=False)
    return Labels(names=classes)


def _owned(template: Any, name: str, classes: Array | None, y: Array) -> list[str]:
    """Set what is lrtune's to own; a sentence for each setting that the user made in vain."""
    notices = []
    parameters = template.get_params(deep=False)
    moving = parameters.get("learning_rate")
    if isinstance(moving, str) and moving in MOVING:
        template.learning_rate = "constant"
        inert = " ignores eta0" if moving == "optimal" else " moves the learning rate by itself"
        notices.append(
            f'learning_rate="{moving}" of {name}{inert}; lrtune has set it to "constant" and drives the learning rate'
        )
    if parameters.get("early_stopping"):
        template.early_stopping = False
        notices.append(f"early_stopping of {name} has been turned off; lrtune decides how long a run trains")
    if parameters.get("warm_start"):
        template.warm_start = False
        notices.append(f"warm_start of {name} has been turned off; every run starts afresh")
    if "shuffle" in parameters:
        template.shuffle = False  # the run shuffles, once an epoch, from the recipe's seed
    if classes is not None and isinstance(parameters.get("class_weight"), str):
        template.class_weight = _balanced(parameters["class_weight"], classes, y)
    return notices


def _balanced(setting: str, classes: Array, y: Array) -> dict[Any, float]:
    """partial_fit takes no "balanced": the same weights as numbers."""
    if setting != "balanced":
        msg = f"class_weight={setting!r} is not known; use 'balanced', a dict or None"
        raise DataError(msg)
    values = compute_class_weight(setting, classes=classes, y=y)
    return {name: float(value) for name, value in zip(classes.tolist(), values, strict=True)}
