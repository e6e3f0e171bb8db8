"""Which adapter trains an estimator, which losses it has, and which of its settings lrtune replaces."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import is_classifier, is_regressor
from sklearn.linear_model._stochastic_gradient import BaseSGDClassifier, BaseSGDRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.class_weight import compute_class_weight

from lrtune.errors import DataError, InputError
from lrtune.training.estimators.adapters import EstimatorAdapter, MLPAdapter, SGDAdapter, cloned
from lrtune.training.estimators.backpropagation import NetworkSteps
from lrtune.training.estimators.linear_steps import LinearSteps
from lrtune.training.estimators.losses import Criterion, DecisionLoss, Elementwise, Labels, Probability, named
from lrtune.training.estimators.skorch_nets import SKORCH, SkorchAdapter, without_owned_callbacks

if TYPE_CHECKING:
    from lrtune.training.estimators.arrays import Array

__all__ = ["adapter_for", "many_outputs", "takes_weights"]

LIKELY = ("learning_rate", "learning_rate_init", "eta0", "eta", "lr", "step_size")
MARGIN = ("pa1", "pa2")  # passive-aggressive: the step is what the margin asks for, and eta0 bounds it
MOVING = ("optimal", "invscaling", "adaptive")  # schedules of scikit-learn's own


def adapter_for(estimator: Any, rate: str | None, y: Array) -> EstimatorAdapter:
    """The adapter of an estimator (a pipeline's last step), with lrtune's settings made on a copy of it.

    `rate` names its learning-rate parameter, None where lrtune knows it; `y` are all targets. InputError where it has
    no ``partial_fit`` or no known learning rate.
    """
    template = cloned(estimator)
    name = type(template).__name__
    if isinstance(template, MLPClassifier | MLPRegressor) and template.solver == "lbfgs":
        msg = f"{name}(solver='lbfgs') has no learning rate; use solver='sgd' or solver='adam'"
        raise InputError(msg)
    inner = _inner(template)
    if not hasattr(template, "partial_fit"):
        use = (
            f"give {inner} itself"
            if inner
            else "use an estimator that has one, such as SGDClassifier, SGDRegressor, MLPClassifier or MLPRegressor"
        )
        msg = f"{name} has no partial_fit, so its training cannot be paused; {use}"
        raise InputError(msg)
    if not is_classifier(template) and not is_regressor(template):
        own = (
            "NeuralNetClassifier or NeuralNetRegressor"
            if set(template.get_params(deep=False)) >= SKORCH
            else "one that is"
        )
        msg = (
            f"{name} is neither a classifier nor a regressor, so lrtune does not know what it should learn; "
            f"give {own} (a Pipeline ends in it), or train it in a generator function of your own"
        )
        raise InputError(msg)
    if inner and (rate is None or "__" in rate):
        msg = f"{name} trains copies of {inner}, which no learning rate would reach; give {inner} itself"
        raise InputError(msg)
    _check_parameters(template, name)
    classes = np.unique(y) if is_classifier(template) else None
    notices = _owned(template, name, classes, y)
    if isinstance(template, MLPClassifier | MLPRegressor):
        _known(template, rate, "learning_rate_init")
        criterion = _criterion(template, classes)
        return MLPAdapter(
            template=template,
            rate="learning_rate_init",
            criterion=criterion,
            classes=classes,
            notices=notices,
            inner=NetworkSteps if _scikit_learns(template) else None,
        )
    if isinstance(template, BaseSGDClassifier | BaseSGDRegressor):
        if rate is not None and rate not in {"eta0", "C"}:
            _known(template, rate, "eta0")
        loss = named(template.loss, getattr(template, "epsilon", 0.1))
        criterion = DecisionLoss(loss=loss, classes=0 if classes is None else len(classes))
        return SGDAdapter(
            template=template,
            rate="eta0",
            criterion=criterion,
            classes=classes,
            notices=notices,
            inner=LinearSteps if _scikit_learns(template) else None,
        )
    skorch = hasattr(template, "train_step") and set(template.get_params(deep=False)) >= SKORCH
    kind = SkorchAdapter if skorch else EstimatorAdapter
    rate = _named_rate(template, "lr" if skorch and rate is None else rate)
    return kind(template=template, rate=rate, criterion=_criterion(template, classes), classes=classes, notices=notices)


def _scikit_learns(template: Any) -> bool:
    """Whether its class is scikit-learn's own: one derived from it may have a ``partial_fit`` of its own."""
    return type(template).__module__.startswith("sklearn.")


def _inner(template: Any) -> str:
    """The name of the estimator that a search, an ensemble or a nested Pipeline trains copies of; empty for none."""
    steps = getattr(template, "steps", None)
    inner = steps[-1][1] if steps else getattr(template, "estimator", None)
    return type(inner).__name__ if hasattr(inner, "partial_fit") else ""


def _check_parameters(template: Any, name: str) -> None:
    """scikit-learn's own check of the parameters, which is skipped at each minibatch to save time."""
    if not hasattr(template, "_parameter_constraints"):  # a user's own need not have any
        return
    try:
        template._validate_params()  # noqa: SLF001 -- what fit would call first
    except ValueError as error:
        msg = f"{name} cannot be trained as it is: {error}"
        raise InputError(msg) from error


def many_outputs(estimator: Any) -> bool:
    """Whether the estimator may be given several targets a row."""
    return is_regressor(estimator) and not isinstance(estimator, BaseSGDRegressor)


def takes_weights(estimator: Any) -> bool:
    """Whether ``partial_fit`` takes ``sample_weight``; a network of skorch's hands it on to its module."""
    if set(estimator.get_params(deep=False)) >= SKORCH:
        return False
    parameters = inspect.signature(estimator.partial_fit).parameters
    return "sample_weight" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _known(template: Any, rate: str | None, own: str) -> None:
    if rate not in {None, own}:
        name = type(template).__name__
        msg = f"the learning rate of {name} is {own} (got learning_rate_parameter={rate!r}); leave it out"
        raise InputError(msg)


def _named_rate(template: Any, rate: str | None) -> str:
    name, parameters = type(template).__name__, sorted(template.get_params(deep=False))
    if rate is None:
        guess = next((likely for likely in LIKELY if likely in parameters), "NAME")
        end = f"if one of its parameters is it, name that: learning_rate_parameter={guess!r}"
        msg = f"{name} has no learning rate that lrtune knows; {end}"
        raise InputError(msg)
    if rate not in parameters:
        near = difflib.get_close_matches(rate, parameters, n=1)
        end = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(parameters) or 'none'}"
        msg = f"{name} has no parameter {rate!r}; {end}"
        raise InputError(msg)
    return rate


def _criterion(template: Any, classes: Array | None) -> Criterion:
    if classes is None:
        poisson = isinstance(template, MLPRegressor) and getattr(template, "loss", "") == "poisson"
        return Elementwise(loss=named("poisson", 0.0)) if poisson else Elementwise()
    if hasattr(template, "predict_proba"):
        return Probability(classes=len(classes))
    if hasattr(template, "decision_function"):
        return DecisionLoss(loss=named("hinge", 0.0), classes=len(classes), direct=False)
    return Labels(names=classes)


def _owned(template: Any, name: str, classes: Array | None, y: Array) -> list[str]:
    """Replace settings that lrtune decides; a notice for each that the user made."""
    notices = []
    parameters = template.get_params(deep=False)
    moving = parameters.get("learning_rate")
    if isinstance(moving, str) and moving in MOVING:
        template.learning_rate = "constant"
        inert = " ignores eta0" if moving == "optimal" else " moves the learning rate by itself"
        notices.append(
            f'learning_rate="{moving}" of {name}{inert}; lrtune has set it to "constant" and drives the learning rate'
        )
    passive = isinstance(template, BaseSGDClassifier | BaseSGDRegressor) and "C" in parameters
    if passive or moving in MARGIN:
        notices.append(
            f"{name} takes the step that the margin asks for, and its learning rate only limits it: above some value "
            'all give the same curve; use an SGDClassifier or SGDRegressor with learning_rate="constant"'
        )
    if getattr(template, "loss", None) == "perceptron" and getattr(template, "penalty", None) is None:
        notices.append(
            f"the learning rate of {name} without a penalty only scales its weights, which begin at zero: the classes "
            'that it predicts, and their accuracy, are the same at each; set penalty="l2", or use another loss'
        )
    if parameters.get("early_stopping"):
        template.early_stopping = False
        notices.append(f"early_stopping of {name} has been turned off; lrtune decides how long a run trains")
    if parameters.get("warm_start"):
        template.warm_start = False
        notices.append(f"warm_start of {name} has been turned off; every run starts afresh")
    if set(parameters) >= SKORCH:
        template.set_params(max_epochs=1, train_split=None, batch_size=-1, verbose=0)
        notices.append(
            f"max_epochs, train_split and batch_size of {name} have been set aside; a minibatch of lrtune's is one step"
        )
        notices += without_owned_callbacks(template)
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
