"""scikit-learn estimators as trainers: anything with ``partial_fit``, alone or at the end of a Pipeline.

lrtune owns the learning rate, the order of the rows and the length of the training; all else stays as
the user's estimator says. A run trains in minibatches and can be cut after any of them.
"""

from __future__ import annotations

import difflib
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.pipeline import Pipeline

from lrtune.errors import DataError, InputError
from lrtune.recipe import Recipe
from lrtune.schedules import for_recipe
from lrtune.training import fitted, tables
from lrtune.training.base import Baseline
from lrtune.training.minibatches import OVERFLOW, MinibatchRun, quiet
from lrtune.training.steppers import Kind, Stepper, cloned, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.training.tables import Array, Table

__all__ = ["SklearnTrainer"]

LOSSES = ("train_loss", "valid_loss")
DEFAULT_BATCH = 32
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
ANY_RECIPE = Recipe(lr=1.0)


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
        their own sign, e.g. ``"accuracy"`` or ``"neg_log_loss"``.
    learning_rate_parameter
        Name of the estimator's learning rate where lrtune does not know it.
    batch_size
        Rows a step where the recipe says nothing; None takes the estimator's own number, else 32. The
        linear models update after each row, whatever the batch: there it only sets how often the
        schedule moves.

    Notes
    -----
    ``train_loss`` is the mean over the minibatches since the last full epoch, each measured before its
    update. ``valid_loss`` is the estimator's own loss, see :mod:`lrtune.training.losses`.

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
        metrics: Sequence[str] = (),
        learning_rate_parameter: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        if not 0 < valid_fraction < 1:
            msg = f"valid_fraction must lie between 0 and 1 (got {valid_fraction!r}); 0.25 holds out a quarter"
            raise InputError(msg)
        self._pipeline, last = _parts(estimator)
        self._estimator = estimator
        self._batch_size = _batch_size(batch_size, last)
        self._scorers = {name: _scorer(name) for name in metrics if name not in LOSSES}
        self._split = "given" if valid is not None else f"{valid_fraction:g} of the rows, seed {split_seed}"
        self._digest = tables.digest(X, y, sample_weight, *(valid or ()))
        raw = _Raw(X, y, sample_weight, valid, fraction=valid_fraction, seed=split_seed)
        self._shape = raw.shape
        self._kind, train, held = raw.prepared(self._pipeline, last, learning_rate_parameter)
        self.train, self.valid = train, held
        self._notices = [*self._kind.notices, *raw.notices]
        self._unsavable: str | None = None
        self._try_out()

    def _try_out(self) -> None:
        """One minibatch at a learning rate of zero, so that what cannot work is said before any training."""
        stepper = self.untrained(ANY_RECIPE)
        if stepper is None:
            return
        try:
            fitted.taken(stepper.estimator)
        except fitted.UnsavableError as error:
            self._unsavable = str(error)
            self._notices.append(f"runs of {self._kind.name} cannot be saved, because {error}; a restart begins anew")
        for name in self._scorers:
            try:
                with quiet():
                    self._score(name, stepper.estimator)
            except (AttributeError, TypeError, ValueError) as error:
                text = str(error).splitlines()[0][:200]
                msg = f"the metric {name!r} cannot score {self._kind.name} on this table ({text}); choose another"
                raise InputError(msg) from error

    @property
    def saves(self) -> bool:
        """Whether all that the estimator learns can be written as numbers."""
        return self._unsavable is None

    @property
    def notices(self) -> Sequence[str]:
        """Settings that have been replaced, one sentence each."""
        return tuple(self._notices)

    @property
    def kind(self) -> Kind:
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
        return MinibatchRun(self, recipes)

    def rows_per_step(self, recipe: Recipe) -> int:
        """Rows of a minibatch, at most those of the training part."""
        return min(recipe.batch_size or self._batch_size, len(self.train))

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Minibatches of an epoch; the last one may be smaller."""
        return -(-len(self.train) // self.rows_per_step(recipe))

    def untrained(self, recipe: Recipe) -> Stepper | None:
        """The estimator as it is before training; None where it takes no learning rate of zero."""
        stepper = self._kind.stepper(recipe)
        rows = np.arange(self.rows_per_step(recipe))
        batch = self.train.take(rows)
        try:
            with quiet():
                stepper.step(tables.Table(X=batch.X, y=batch.y, target=batch.target, weight=None), 0.0)
        except (ArithmeticError, TypeError, ValueError):
            return None
        return stepper

    def evaluate(self, stepper: Stepper) -> dict[str, float]:
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
        return Baseline(untrained=_finite(untrained), chance=_finite(chance))

    def _worth(self, metric: str, stepper: Stepper) -> float:
        if metric in LOSSES:
            return stepper.losses(self.train if metric == "train_loss" else self.valid)
        return self._score(metric, stepper.estimator)

    def _chance(self, metric: str) -> float | None:
        if metric in LOSSES:
            table = self.train if metric == "train_loss" else self.valid
            return self._kind.criterion.constant(table.target, table.weight)
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
        return {
            "data": f"{rows} x {columns}, sha256 {self._digest[:16]}",
            "held out": self._split,
            "estimator": _described(self._estimator, self._kind),
        }


class _Raw:
    """The table as the user gave it, until it is split and prepared."""

    def __init__(self, X: Any, y: Any, weight: Any, valid: Any, *, fraction: float, seed: int) -> None:  # noqa: N803
        self.X, self.y, self.weight = X, y, weight
        self.valid, self.fraction, self.seed = valid, fraction, seed
        self.notices: list[str] = []
        rows = _same_length(X, y, "X", "y")
        self.shape = rows, int(getattr(X, "shape", (rows, 0))[1]) if len(getattr(X, "shape", ())) > 1 else _width(X)

    def prepared(self, pipeline: Pipeline | None, last: Any, rate: str | None) -> tuple[Kind, Table, Table]:
        """The kind of estimator, the training part and the held-out part, both as numbers."""
        classifier = is_classifier(last)
        outputs = not classifier
        y = tables.targets(self.y, classifier=classifier, outputs=outputs)
        weight = tables.weights(self.weight, len(y))
        if self.valid is None:
            codes = np.unique(y, return_inverse=True)[1] if classifier else None
            first, second, stratified = tables.held_out(codes, len(y), self.fraction, self.seed)
            if classifier and not stratified:
                self.notices.append("the held-out part is not stratified: some class has too few rows for it")
            parts = [(tables.rows_of(self.X, r), y[r], None if weight is None else weight[r]) for r in (first, second)]
        else:
            parts = [(self.X, y, weight), self._given(classifier=classifier, outputs=outputs)]
        if parts[0][1].dtype.kind != parts[1][1].dtype.kind and classifier:
            msg = f"y holds {parts[0][1].dtype} and the held-out y {parts[1][1].dtype}; classes must be of one kind"
            raise DataError(msg)
        kind = kind_of(last, rate, np.concatenate([parts[0][1], parts[1][1]]))
        (train_x, train_y, train_w), (valid_x, valid_y, valid_w) = parts
        train_x, valid_x = _transformed(pipeline, train_x, train_y, valid_x)
        return kind, _table(kind, train_x, train_y, train_w), _table(kind, valid_x, valid_y, valid_w)

    def _given(self, *, classifier: bool, outputs: bool) -> tuple[Any, Array, Array | None]:
        if not isinstance(self.valid, tuple) or len(self.valid) not in {2, 3}:
            msg = "valid must be (X, y) or (X, y, sample_weight)"
            raise InputError(msg)
        X, y, *rest = self.valid  # noqa: N806
        _same_length(X, y, "the held-out X", "the held-out y")
        plain = tables.targets(y, classifier=classifier, outputs=outputs, fewest=1, what="the held-out y")
        weight = tables.weights(rest[0] if rest else None, len(plain), what="the held-out sample_weight")
        return X, plain, weight


def _parts(estimator: Any) -> tuple[Pipeline | None, Any]:
    """The steps to be fitted once, and the estimator to be trained."""
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        shown = f"the class {estimator.__name__}; call it" if isinstance(estimator, type) else type(estimator).__name__
        msg = f"an estimator of scikit-learn is needed (got {shown})"
        raise InputError(msg)
    if not isinstance(estimator, Pipeline):
        return None, estimator
    last = estimator.steps[-1][1]
    return (estimator[:-1] if len(estimator.steps) > 1 else None), last


def _batch_size(given: int | None, estimator: Any) -> int:
    if given is not None and given < 1:
        msg = f"batch_size must be at least 1 (got {given!r})"
        raise InputError(msg)
    own = getattr(estimator, "batch_size", None)
    return given or (own if isinstance(own, int) and own > 0 else DEFAULT_BATCH)


def _scorer(name: str) -> Any:
    try:
        return get_scorer(name)
    except (ValueError, TypeError):
        near = difflib.get_close_matches(str(name), [*LOSSES, *get_scorer_names()], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see sklearn.metrics.get_scorer_names()"
        msg = f"the metric {name!r} is none of train_loss, valid_loss and scikit-learn's scorers; {hint}"
        raise InputError(msg) from None


def _same_length(X: Any, y: Any, first: str, second: str) -> int:  # noqa: N803
    rows, others = tables.length(X, first), tables.length(y, second)
    if rows != others:
        msg = f"{first} has {rows} rows and {second} has {others}; they must be equally many"
        raise DataError(msg)
    if rows == 0:
        msg = f"{first} has no rows"
        raise DataError(msg)
    return rows


def _width(X: Any) -> int:  # noqa: N803
    try:
        return len(X[0])
    except (TypeError, IndexError, KeyError):
        return 1


def _transformed(pipeline: Pipeline | None, train: Any, y: Array, valid: Any) -> tuple[Any, Any]:
    """Both parts as numbers, by the pipeline's earlier steps where there are any."""
    if pipeline is None:
        return tables.features(train), tables.features(valid, what="the held-out X")
    steps = cloned(pipeline)
    try:
        train, valid = steps.fit_transform(train, y), steps.transform(valid)
    except ValueError as error:
        text = str(error).splitlines()[0][:200]
        msg = f"the earlier steps of the pipeline cannot take this table ({text}); mend the table or the steps"
        raise DataError(msg) from error
    what = "X after the pipeline's earlier steps"
    return tables.features(train, what=what), tables.features(valid, what=what)


def _table(kind: Kind, X: Any, y: Array, weight: Array | None) -> Table:  # noqa: N803
    if kind.classes is None:
        return tables.Table(X=X, y=y, target=y, weight=weight)
    return tables.Table(X=X, y=y, target=np.searchsorted(kind.classes, y), weight=weight)


def _described(estimator: Any, kind: Kind) -> str:
    """The estimator by its parameters that are not their defaults, without learning rate and seed."""
    plain = cloned(estimator)
    last = plain.steps[-1][1] if isinstance(plain, Pipeline) else plain
    defaults = cloned(type(last)()) if _has_defaults(last) else None
    for name in ("random_state", "learning_rate", kind.rate):
        if name in last.get_params(deep=False):
            setattr(last, name, getattr(defaults, name, None))
    return " ".join(ADDRESS.sub("", plain.__repr__(N_CHAR_MAX=10**6)).split())


def _has_defaults(estimator: Any) -> bool:
    try:
        with quiet():
            type(estimator)()
    except TypeError:
        return False
    return True


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
