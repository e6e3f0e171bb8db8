"""scikit-learn estimators as trainers: anything with ``partial_fit``, alone or at the end of a Pipeline.

lrtune owns the learning rate, the order of the rows and the length of the training; all else stays as
the user's estimator says. A run trains in minibatches and can be cut after any of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.metrics._scorer import _BaseScorer
from sklearn.pipeline import Pipeline

from lrtune.core.recipe import Recipe
from lrtune.errors import DataError, InputError
from lrtune.schedules import for_recipe, parse
from lrtune.training import checkpoint
from lrtune.training.base import Baseline
from lrtune.training.estimators import arrays, state
from lrtune.training.estimators.adapter_factory import takes_weights
from lrtune.training.estimators.adapters import EstimatorAdapter, EstimatorStepper, LinearKind, cloned
from lrtune.training.estimators.preparation import Raw, check_valid
from lrtune.training.estimators.run import OVERFLOW, MinibatchRun, quiet
from lrtune.training.out_of_memory import first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.curve import Direction
    from lrtune.schedules import Schedule
    from lrtune.training.base import Setup

__all__ = ["SklearnTrainer"]

LOSSES = ("train_loss", "valid_loss")
DEFAULT_BATCH = 32
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
PER_ROW = "linear models of scikit-learn update after each row: batch_size only sets how often the schedule moves"
ANY_RECIPE = Recipe(lr=1.0)
SMALL_RATE = 1e-3


class SklearnTrainer:
    """Trains a scikit-learn estimator by minibatches.

    Parameters
    ----------
    estimator
        `SGDClassifier`, `SGDRegressor`, `MLPClassifier`, `MLPRegressor`, `Perceptron`, or any other
        classifier or regressor with ``partial_fit``; or a `Pipeline` that ends in one, whose earlier
        steps are fitted once, on the training part. It is never changed: runs train copies.
    X, y
        The table: arrays, lists, sparse matrices or pandas frames; n rows.
    valid
        Held-out rows ``(X, y)`` or ``(X, y, sample_weight)``; None splits them off.
    valid_fraction
        Share of the rows that is split off, stratified by class where it fits.
    split_seed
        Seed of the split; the same for all recipes, so that their losses compare.
    sample_weight
        Weights of the rows, shape (n,), in training and in every held-out number.
    metrics
        What to measure besides ``train_loss`` and ``valid_loss``: names of scikit-learn's scorers, in
        their own sign, e.g. ``"accuracy"`` or ``"neg_log_loss"``; or a mapping of names of your own to
        scorers, e.g. ``{"f2": make_scorer(fbeta_score, beta=2)}``.
    learning_rate_parameter
        Name of the estimator's learning rate where lrtune does not know it.
    batch_size
        Rows a step where the recipe says nothing; None takes the estimator's own number, else 32. The
        linear models update after each row, whatever the batch: there it only sets how often the
        schedule moves.

    Notes
    -----
    ``train_loss`` is the mean over the minibatches since the last full epoch, each measured before its
    update. ``valid_loss`` is the estimator's own loss, see :mod:`lrtune.training.estimators.losses`. In both rows
    count by their class where the estimator has a ``class_weight``. A schedule that listens
    (``plateau``) hears the loss at the end of each epoch, or the first metric for ``mode=max``.

    Raises
    ------
    DataError
        If the table cannot be learned from.
    InputError
        If the estimator or a metric cannot be used.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,  # noqa: N803 -- scikit-learn's name
        y: Any,
        *,
        valid: tuple[Any, ...] | None = None,
        valid_fraction: float = 0.25,
        split_seed: int = 0,
        sample_weight: Any = None,
        metrics: Iterable[str] | Mapping[str, Any] = (),
        learning_rate_parameter: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        if not 0 < valid_fraction < 1:
            msg = f"valid_fraction must lie between 0 and 1 (got {valid_fraction!r}); 0.25 holds out a quarter"
            raise InputError(msg)
        check_valid(valid)
        self._pipeline, last = _parts(estimator)
        self._estimator = estimator
        self._batch_size = _batch_size(batch_size, last)
        self._scorers = _scorers(metrics)
        self._split = "given" if valid is not None else f"{valid_fraction:g} of the rows, seed {split_seed}"
        raw = Raw(X, y, sample_weight, valid, fraction=valid_fraction, seed=split_seed)
        self._shape = raw.shape
        self._kind, train, held = raw.prepared(self._pipeline, last, learning_rate_parameter)
        self.train, self.valid = train, held
        self._digest = arrays.digest(X, y, sample_weight, *(valid or ()))
        self._notices = [*self._kind.notices, *raw.notices]
        self._unsavable: str | None = None
        self._try_out()

    def _try_out(self) -> None:
        """One minibatch before any training, so that what cannot work is said at once."""
        name = self._kind.name
        if (self.train.weight is not None) and not takes_weights(self._kind.template):
            msg = f"{name} takes no sample_weight; leave it out, or use another estimator"
            raise DataError(msg)
        stepper = self.untrained(ANY_RECIPE) or self._stepped(SMALL_RATE)
        try:
            state.taken(stepper.estimator)
            self._check_rate()
        except state.UnsavableError as error:
            self._unsavable = str(error)
            self._notices.append(f"runs of {name} cannot be saved, because {error}; a restart begins anew")
        for metric in self._scorers:
            try:
                with quiet():
                    self._score(metric, stepper.estimator)
            except (AttributeError, TypeError, ValueError) as error:
                own = "" if isinstance(self._scorers[metric], _BaseScorer) else "; a scorer takes (estimator, X, y)"
                why = f"({first_line(error)}){own}"
                msg = f"the metric {metric!r} cannot score {name} on this table {why}; choose another"
                raise InputError(msg) from error

    def _stepped(self, rate: float) -> EstimatorStepper:
        """The estimator after one minibatch.

        Raises
        ------
        InputError
            If it cannot be trained at all.
        """
        stepper = self._kind.stepper(ANY_RECIPE)
        try:
            with quiet():
                stepper.step(self.train.take(np.arange(self.rows_per_step(ANY_RECIPE))), rate)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            msg = f"{self._kind.name} cannot be trained on this table: {first_line(error)}"
            raise InputError(msg) from error
        return stepper

    def _check_rate(self) -> None:
        """Tell the user of a learning rate that changes nothing: only a parameter of their choice can be one."""
        if type(self._kind) is not EstimatorAdapter:
            return
        one, other = (state.taken(self._stepped(rate).estimator) for rate in (SMALL_RATE, 10 * SMALL_RATE))
        if checkpoint.encode(one) == checkpoint.encode(other):
            rate = self._kind.rate
            self._notices.append(
                f"{rate} of {self._kind.name} changed nothing in the first minibatch; is it its learning rate?"
            )

    @property
    def saves(self) -> bool:
        """Whether all that the estimator learns can be written as numbers."""
        return self._unsavable is None

    @property
    def optimizer(self) -> str:
        """A multilayer perceptron's own solver, else stochastic gradient descent."""
        return str(getattr(self._kind.template, "solver", "sgd"))

    @property
    def directions(self) -> Mapping[str, Direction]:
        """The better side of each metric: of all scorers a greater number is better."""
        better: dict[str, Direction] = dict.fromkeys(self._scorers, "maximize")
        return better | dict.fromkeys(LOSSES, "minimize")

    @property
    def notices(self) -> Sequence[str]:
        """Settings that have been replaced, one sentence each."""
        return tuple(self._notices)

    @property
    def kind(self) -> EstimatorAdapter:
        """How the estimator is trained."""
        return self._kind

    def start(self, recipes: Sequence[Recipe], /) -> MinibatchRun:
        """Start a run of copies of the estimator, one for each recipe.

        Raises
        ------
        RecipeError
            If the estimator cannot do what a recipe asks for.
        """
        for recipe in recipes:
            for_recipe(recipe, recipe.epochs * self.steps_per_epoch(recipe))
            if recipe.batch_size is not None and isinstance(self._kind, LinearKind) and PER_ROW not in self._notices:
                self._notices.append(PER_ROW)
        return MinibatchRun(self, recipes)

    def rows_per_step(self, recipe: Recipe) -> int:
        """Rows of a minibatch, at most those of the training part."""
        return min(recipe.batch_size or self._batch_size, len(self.train))

    def setup(self, recipe: Recipe) -> Setup:
        """How a run of a recipe is set up beyond it."""
        _, given = _parts(self._estimator)
        return {
            "library": "sklearn",
            **self._kind.setup(recipe, given),
            "pipeline": self._pipeline is not None,
            "only_step": isinstance(self._estimator, Pipeline) and self._pipeline is None,
            "classifies": self._kind.classes is not None,
            "weighted": self.train.weight is not None,
            "steps": recipe.epochs * self.steps_per_epoch(recipe),
            "batch_size": self.rows_per_step(recipe),
            "hears": self.hears(parse(recipe.schedule)),
        }

    def hears(self, schedule: Schedule) -> str:
        """What a schedule that listens hears: the held-out loss, or for `mode=max` the first metric."""
        return "valid_loss" if schedule.hears_losses else next(iter(self._scorers), "valid_loss")

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Minibatches of an epoch; the last one may be smaller."""
        return -(-len(self.train) // self.rows_per_step(recipe))

    def untrained(self, recipe: Recipe) -> EstimatorStepper | None:
        """The estimator as it is before training; None where it takes no learning rate of zero."""
        stepper = self._kind.stepper(recipe)
        rows = np.arange(self.rows_per_step(recipe))
        batch = self.train.take(rows)
        try:
            with quiet():
                stepper.step(arrays.TrainingArrays(X=batch.X, y=batch.y, target=batch.target, weight=None), 0.0)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            return None
        return stepper

    def evaluate(self, stepper: EstimatorStepper) -> dict[str, float]:
        """The held-out loss and all metrics; NaN where a number is not defined."""
        values = {"valid_loss": stepper.losses(self.valid)}
        for name in self._scorers:
            try:
                values[name] = float(self._score(name, stepper.estimator))
            except ValueError as error:
                if not OVERFLOW.search(str(error)):
                    raise
                values[name] = float("nan")
        return values

    def _score(self, name: str, estimator: Any) -> float:
        extra = {} if self.valid.weight is None else {"sample_weight": self.valid.weight}
        return float(self._scorers[name](estimator, self.valid.X, self.valid.y, **extra))

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        """The metric of the untrained estimator and of the best constant, on the held-out part.

        For ``train_loss`` both on the training part.
        """
        if metric not in LOSSES and metric not in self._scorers:
            return Baseline()
        stepper = self.untrained(recipe)
        with quiet():
            untrained = None if stepper is None else self._worth(metric, stepper)
            chance = self._chance(metric)
        undefined = untrained is not None and _finite(untrained) is None
        return Baseline(untrained=_finite(untrained), chance=_finite(chance), undefined=undefined)

    def _worth(self, metric: str, stepper: EstimatorStepper) -> float:
        if metric in LOSSES:
            return stepper.losses(self.train if metric == "train_loss" else self.valid)
        return self._score(metric, stepper.estimator)

    def _chance(self, metric: str) -> float | None:
        if metric in LOSSES:
            table = self.train if metric == "train_loss" else self.valid
            return self._kind.criterion.constant(table.target, self._kind.weights(table))
        dummy = DummyRegressor() if self._kind.classes is None else DummyClassifier(strategy="prior")
        dummy.fit(self.valid.X, self.valid.y, sample_weight=self.valid.weight)
        try:
            return self._score(metric, dummy)
        except (AttributeError, TypeError, ValueError):  # e.g. a scorer of decision values
            return None

    def fingerprint(self) -> Mapping[str, str]:
        """The data by size and hash, the estimator by its parameters, and what is held out."""
        return dict(self._fingerprint)

    @cached_property
    def _fingerprint(self) -> Mapping[str, str]:
        rows, columns = self._shape
        found = {
            "data": f"{rows} x {columns}, sha256 {self._digest[:16]}",
            "held out": self._split,
            "estimator": _described(self._estimator, self._kind),
        }
        return found if self._kind.class_weight is None else found | {"loss": "rows weighted by class_weight"}


def _parts(estimator: Any) -> tuple[Pipeline | None, Any]:
    """The steps to be fitted once, and the estimator to be trained."""
    if not isinstance(estimator, BaseEstimator):
        needed = "an estimator of scikit-learn is needed, or one that derives from its BaseEstimator"
        msg = f"{needed} (got {_shown(estimator)})"
        raise InputError(msg)
    if not isinstance(estimator, Pipeline):
        return None, estimator
    for _, step in estimator.steps:
        if isinstance(step, type):
            msg = f"a step of the pipeline is {_shown(step)}: a Pipeline is made of estimators, not of their classes"
            raise InputError(msg)
    last = estimator.steps[-1][1] if estimator.steps else None
    if not isinstance(last, BaseEstimator):
        msg = f"the last step of the pipeline must be an estimator of scikit-learn (got {last!r})"
        raise InputError(msg)
    return (estimator[:-1] if len(estimator.steps) > 1 else None), last


def _shown(given: Any) -> str:
    if not callable(given):
        return repr(given) if isinstance(given, str) else type(given).__name__
    kind = "class" if isinstance(given, type) else "function"
    return f"the {kind} {getattr(given, '__name__', type(given).__name__)}; call it"


def _batch_size(given: int | None, estimator: Any) -> int:
    if given is not None and given < 1:
        msg = f"batch_size must be at least 1 (got {given!r})"
        raise InputError(msg)
    own = getattr(estimator, "batch_size", None)
    return given or (own if isinstance(own, int) and own > 0 else DEFAULT_BATCH)


def _scorers(metrics: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Scorers by the names under which they are reported."""
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        msg = (
            f"metrics is a list of names or a mapping of names to scorers (got {metrics!r}); write metrics=['accuracy']"
        )
        raise InputError(msg)
    given = metrics if isinstance(metrics, Mapping) else dict(zip(*[list(metrics)] * 2, strict=True))
    for name in given:
        if not isinstance(name, str):
            msg = f"a scorer of your own needs a name (got {name!r} without one); write metrics={{'score': ...}}"
            raise InputError(msg)
    return {name: _scorer(scorer) for name, scorer in given.items() if name not in LOSSES}


def _scorer(name: Any) -> Any:
    try:
        return get_scorer(name)
    except (ValueError, TypeError):
        near = difflib.get_close_matches(str(name), [*LOSSES, *get_scorer_names()], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see sklearn.metrics.get_scorer_names()"
        msg = f"the metric {name!r} is none of train_loss, valid_loss and scikit-learn's scorers; {hint}"
        raise InputError(msg) from None


def _described(estimator: Any, kind: EstimatorAdapter) -> str:
    """The estimator by its parameters that are not their defaults, without learning rate and seed."""
    plain = cloned(estimator)
    last = plain.steps[-1][1] if isinstance(plain, Pipeline) else plain
    defaults = cloned(type(last)()) if _has_defaults(last) else None
    for name in ("random_state", "learning_rate", kind.rate):
        if name in last.get_params(deep=False):
            setattr(last, name, getattr(defaults, name, None))
    shown = BaseEstimator.__repr__(plain, N_CHAR_MAX=10**6)  # its own may take no length, as skorch's
    return " ".join(ADDRESS.sub("", shown).split())


def _has_defaults(estimator: Any) -> bool:
    try:
        with quiet():
            type(estimator)()
    except TypeError:
        return False
    return True


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
