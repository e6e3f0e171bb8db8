"""The trainer of scikit-learn estimators with ``partial_fit``, alone or at the end of a Pipeline.

lrtune sets the learning rate, the order of the rows and the length of the training; all other settings are the
user's. A run trains in minibatches and can be paused after any of them.
"""

from __future__ import annotations

import contextlib
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics._scorer import _BaseScorer
from sklearn.pipeline import Pipeline

from lrtune.core.recipe import Recipe
from lrtune.errors import DataError, InputError
from lrtune.schedules import parse
from lrtune.training import checkpoint
from lrtune.training.base import Baseline
from lrtune.training.estimators import arrays
from lrtune.training.estimators.adapter_factory import takes_weights
from lrtune.training.estimators.adapters import EstimatorAdapter, EstimatorStepper, SGDAdapter, cloned
from lrtune.training.estimators.compiled_sgd import untouched
from lrtune.training.estimators.fitted import column_names
from lrtune.training.estimators.inner_steps import difference
from lrtune.training.estimators.linear_stack import LinearStacks, expected, joint
from lrtune.training.estimators.preparation import prepared
from lrtune.training.estimators.run import REFUSALS, EstimatorMember, EstimatorTask, quiet
from lrtune.training.estimators.scorers import LOSSES, scorers_of
from lrtune.training.estimators.state import UnsavableError, save_fitted
from lrtune.training.final import trained_model
from lrtune.training.member_run import MemberRun
from lrtune.training.out_of_memory import first_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lrtune.core.curve import Direction
    from lrtune.training.base import Run, Setup
    from lrtune.training.member_run import JointRun

__all__ = ["SklearnTrainer"]

DEFAULT_BATCH = 32
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
PER_ROW = "linear models of scikit-learn update after each row: batch_size only sets how often the schedule moves"
ANY_RECIPE = Recipe(lr=1.0)
SMALL_LR = 1e-3
PAIR = 2  # a search takes what a run costs beside others for the same in each company, and most are of two
FORMAT = "lrtune-estimator-1"


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
        Rows a step where the recipe says nothing; None takes the estimator's own number, else 32. The linear models
        update after each row, whatever the batch: there it only sets how often the schedule moves.

    Notes
    -----
    ``train_loss`` is the mean over the minibatches since the last full epoch, each measured before its
    update. ``valid_loss`` is the estimator's own loss, see :mod:`lrtune.training.estimators.losses`. In both rows
    count by their class where the estimator has a ``class_weight``. A metric-driven schedule (``plateau``) is updated
    with the held-out loss at the end of each epoch, or with the first metric for ``mode=max``.

    scikit-learn's own linear models and perceptrons are trained by what lies beneath ``partial_fit``, without its fixed
    cost; by ``partial_fit``, with a notice, where that is found to train otherwise. A linear model's minibatches at one
    learning rate, up to 32 in a row, are as one ``partial_fit`` of all their rows, which equals one for each but for
    rounding. Recipes that are started together, with the same seed, batch size and epochs, are trained together where
    that is cheaper: as each alone, but for rounding.

    Raises
    ------
    DataError
        If the table cannot be learned from.
    InputError
        If the estimator or a metric cannot be used.
    """

    stacks_in_step = True
    saves = True
    """Whether all that the estimator learns can be written as numbers."""

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
        self._pipeline, last = _parts(estimator)
        self._estimator = estimator
        default = _batch_size(batch_size, last)
        scorers = scorers_of(metrics)
        self._split = "given" if valid is not None else f"{valid_fraction:g} of the rows, seed {split_seed}"
        data = prepared(
            X,
            y,
            sample_weight,
            valid,
            fraction=valid_fraction,
            seed=split_seed,
            pipeline=self._pipeline,
            estimator=last,
            rate=learning_rate_parameter,
        )
        self.task = EstimatorTask(
            adapter=data.adapter,
            train=data.train,
            valid=data.valid,
            scorers=scorers,
            batch_size=default,
            given=estimator,
            steps=data.steps,
            columns=None if data.steps is not None else column_names(X),
        )
        self._rate = learning_rate_parameter
        rows, columns = data.shape
        self._data = f"{rows} x {columns}, sha256 {arrays.digest(X, y, sample_weight, *(valid or ()))[:16]}"
        self._notices = [*data.adapter.notices, *data.notices]
        self._try_out()

    def _try_out(self) -> None:
        """Train on one minibatch, save and score, so that errors come before any search."""
        task = self.task
        name = task.adapter.name
        if task.train.weight is not None and not takes_weights(task.adapter.template):
            msg = f"{name} takes no sample_weight; leave it out, or use another estimator"
            raise DataError(msg)
        stepper = task.untrained(ANY_RECIPE) or self._stepped(SMALL_LR)
        try:
            task.adapter.saved(stepper.estimator)
            self._check_rate()
        except UnsavableError as error:
            self.saves = False
            self._notices.append(f"runs of {name} cannot be saved, because {error}; a restart begins anew")
        self._check_inner_steps(stepper)
        for metric, scorer in task.scorers.items():
            try:
                with quiet():
                    task.score(metric, stepper.estimator)
            except (AttributeError, TypeError, ValueError) as error:
                own = "" if isinstance(scorer, _BaseScorer) else "; a scorer takes (estimator, X, y)"
                why = f"({first_line(error)}){own}"
                msg = f"the metric {metric!r} cannot score {name} on this table {why}; choose another"
                raise InputError(msg) from error

    def _stepped(self, lr: float) -> EstimatorStepper:
        """The estimator after one minibatch; InputError if it cannot be trained at all."""
        try:
            return self.task.stepped(ANY_RECIPE, lr)
        except REFUSALS as error:
            msg = f"{self.task.adapter.name} cannot be trained on this table: {first_line(error)}"
            raise InputError(msg) from error

    def _check_inner_steps(self, begun: EstimatorStepper) -> None:
        """Give way to ``partial_fit``, with a notice, where what lies beneath it trains otherwise."""
        task = self.task
        if task.adapter.inner is None:
            return
        with quiet():
            differs = difference(task.adapter.inner, begun, task.first_batch(ANY_RECIPE))
        if differs:
            task.adapter.inner = None
            self._notices.append(
                f"{task.adapter.name} is trained by partial_fit, several times slower: its compiled steps in "
                f"scikit-learn {sklearn.__version__} are not those that lrtune knows ({differs})"
            )
        elif isinstance(task.adapter, SGDAdapter):
            task.adapter.untouched = untouched(begun.estimator)

    def _check_rate(self) -> None:
        """A notice where the parameter that the user names as the learning rate changes nothing."""
        adapter = self.task.adapter
        if type(adapter) is not EstimatorAdapter:
            return
        one, other = (save_fitted(self._stepped(lr).estimator) for lr in (SMALL_LR, 10 * SMALL_LR))
        if checkpoint.encode(one) == checkpoint.encode(other):
            self._notices.append(
                f"{adapter.rate} of {adapter.name} changed nothing in the first minibatch; is it its learning rate?"
            )

    @property
    def optimizer(self) -> str:
        """A multilayer perceptron's own solver, else stochastic gradient descent."""
        return self.task.adapter.solver

    @property
    def directions(self) -> Mapping[str, Direction]:
        """The better side of each metric: of all scorers a greater number is better."""
        better: dict[str, Direction] = dict.fromkeys(self.task.scorers, "maximize")
        return better | dict.fromkeys(LOSSES, "minimize")

    @property
    def notices(self) -> Sequence[str]:
        """Settings that have been replaced, one sentence each."""
        return tuple(self._notices)

    def start(self, recipes: Sequence[Recipe], /) -> MemberRun[EstimatorMember]:
        """Start a run of copies of the estimator, one for each recipe.

        Raises
        ------
        RecipeError
            If the estimator cannot do what a recipe asks for.
        """
        task = self.task
        for recipe in recipes:
            if recipe.batch_size is not None and isinstance(task.adapter, SGDAdapter) and PER_ROW not in self._notices:
                self._notices.append(PER_ROW)
        parts = [(number, recipe, task, self._setup) for number, recipe in enumerate(recipes)]
        members = [task.adapter.member(*given) or EstimatorMember(*given) for given in parts]
        identity = {"format": FORMAT, "work": self.fingerprint(), "recipes": [recipe.to_json() for recipe in recipes]}
        return MemberRun(members, identity if self.saves else None, LinearStacks())

    def together(self, runs: Sequence[Run], /) -> JointRun[EstimatorMember] | None:
        """See :class:`.Trainer`; None but for linear models at the same step of the same seed, where it pays."""
        return joint(self.task, runs)

    def stack_speedup(self, recipe: Recipe, members: int, /) -> float:
        """How many times faster so many runs like this one are side by side; 1 where two of them go one by one."""
        member = EstimatorMember(0, recipe, self.task, self._setup)
        return expected(member, members) if expected(member, PAIR) > 1 else 1.0

    def refit(self, recipe: Recipe, X: Any, y: Any, *, sample_weight: Any = None) -> Any:  # noqa: N803 -- scikit-learn's name
        """A fitted estimator trained anew under a recipe on all these rows, with nothing held out.

        Its earlier steps, where it is a Pipeline, are fitted on all of them too. A metric-driven schedule is updated
        with what these rows themselves give.

        Raises
        ------
        DataError
            If the table cannot be learned from.
        SearchError
            If training diverges.
        """
        whole = (X, y) if sample_weight is None else (X, y, sample_weight)
        anew = SklearnTrainer(
            self._estimator,
            X,
            y,
            valid=whole,
            sample_weight=sample_weight,
            metrics=self.task.scorers,
            learning_rate_parameter=self._rate,
            batch_size=self.task.batch_size,
        )
        return trained_model(anew, recipe)

    def _setup(self, recipe: Recipe) -> Setup:
        """How a run of a recipe is set up beyond it."""
        task = self.task
        _, given = _parts(self._estimator)
        return {
            "library": "sklearn",
            **task.adapter.setup(recipe, given),
            "pipeline": self._pipeline is not None,
            "only_step": isinstance(self._estimator, Pipeline) and self._pipeline is None,
            "classifies": task.adapter.classes is not None,
            "weighted": task.train.weight is not None,
            "steps": recipe.epochs * task.steps_per_epoch(recipe),
            "batch_size": task.rows_per_step(recipe),
            "hears": task.watched(parse(recipe.schedule)),
        }

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Minibatches of an epoch; the last one may be smaller."""
        return self.task.steps_per_epoch(recipe)

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        """The metric of the untrained estimator and of the best constant, on the held-out part.

        For ``train_loss`` both on the training part.
        """
        task = self.task
        if metric not in LOSSES and metric not in task.scorers:
            return Baseline()
        stepper = task.untrained(recipe)
        part = task.train if metric == "train_loss" else task.valid
        with quiet():
            if metric in LOSSES:
                untrained = None if stepper is None else stepper.losses(part)
                chance: float | None = task.adapter.criterion.constant(part.target, task.adapter.weights(part))
            else:
                untrained = None if stepper is None else task.score(metric, stepper.estimator)
                chance = self._chance(metric)
        undefined = untrained is not None and _finite(untrained) is None
        return Baseline(untrained=_finite(untrained), chance=_finite(chance), undefined=undefined)

    def _chance(self, metric: str) -> float | None:
        """The score of a constant prediction; None where the scorer takes none."""
        valid = self.task.valid
        dummy = DummyRegressor() if self.task.adapter.classes is None else DummyClassifier(strategy="prior")
        dummy.fit(valid.X, valid.y, sample_weight=valid.weight)
        try:
            return self.task.score(metric, dummy)
        except (AttributeError, TypeError, ValueError):  # e.g. a scorer of decision values
            return None

    def fingerprint(self) -> Mapping[str, str]:
        """The data by size and hash, the estimator by its parameters, and what is held out."""
        return dict(self._fingerprint)

    @cached_property
    def _fingerprint(self) -> Mapping[str, str]:
        adapter = self.task.adapter
        found = {"data": self._data, "held out": self._split, "estimator": _described(self._estimator, adapter)}
        return found if adapter.class_weight is None else found | {"loss": "rows weighted by class_weight"}


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


def _described(estimator: Any, adapter: EstimatorAdapter) -> str:
    """The estimator by its parameters that are not their defaults, without learning rate and seed."""
    plain = cloned(estimator)
    last = plain.steps[-1][1] if isinstance(plain, Pipeline) else plain
    defaults = None
    with contextlib.suppress(TypeError), quiet():  # some have arguments without defaults
        defaults = type(last)()
    for name in ("random_state", "learning_rate", adapter.rate):
        if name in last.get_params(deep=False):
            setattr(last, name, getattr(defaults, name, None))
    shown = BaseEstimator.__repr__(plain, N_CHAR_MAX=10**6)  # its own may take no length, as skorch's
    return " ".join(ADDRESS.sub("", shown).split())


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
