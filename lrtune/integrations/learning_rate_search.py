"""scikit-learn's own shape of a search: :class:`LearningRateSearchCV`, an estimator that finds its learning rate.

It is a :class:`sklearn.model_selection.BaseSearchCV`, as ``GridSearchCV`` is, and has its methods from there: to
predict, to score, and to hand metadata on. The search itself is :func:`lrtune.tune`.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import time
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
from scipy.stats import rankdata
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state, check_X_y, column_or_1d, indexable
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.multiclass import check_classification_targets

from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.errors import InputError, SearchError
from lrtune.study.trials.study_reader import read
from lrtune.study.tuning import tune
from lrtune.training.estimators.adapter_factory import many_outputs
from lrtune.training.estimators.arrays import FEWEST_ROWS, length
from lrtune.training.estimators.fitted import last_step, recipe_parameters
from lrtune.training.estimators.folds import FoldsTrainer
from lrtune.training.estimators.trainer import SklearnTrainer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna

    from lrtune.core.recipe import Recipe
    from lrtune.core.records import StudyRecord, TrialRecord
    from lrtune.study.result import Result

__all__ = ["LearningRateSearchCV"]

LOSS, SCORE = "valid_loss", "score"
MOST_SEED = 2**31 - 1
NEXT_BEST = {Outcome.STUCK, Outcome.PRUNED, Outcome.INTERRUPTED, None}
"""How trials ended that may be taken where none was trained to its end."""


class LearningRateSearchCV(BaseSearchCV):  # type: ignore[misc]  # scikit-learn has no types
    """Finds an estimator's learning rate, then trains it on all rows.

    Parameters
    ----------
    estimator
        A classifier or regressor with ``partial_fit``, such as `SGDClassifier` or `MLPClassifier`, or a `Pipeline` that
        ends in one; see :class:`.SklearnTrainer`.
    lr
        Range of the learning rate, searched on a log scale.
    schedule, batch_size, warmup
        A value, or a list of those to search: names of :mod:`lrtune.schedules`, rows of a minibatch, and fractions of
        all steps. None leaves the learning rate constant, the estimator's own batch size, and no warmup.
    epochs
        Epochs of one full training.
    budget, worth, timeout
        When to end: after so many full trainings; when one more is expected to gain less than this share; after so many
        seconds. With none of them the search ends by itself, at 6 full trainings at the latest. With ``cv`` a full
        training is one on all folds.
    scoring
        A scorer's name, or a scorer. None takes the estimator's own loss on held-out rows, which tells learning rates
        apart with less noise than a score does; ``best_score_`` is its negative then, and :meth:`score` the
        estimator's own.
    refit
        Whether to train the best recipe anew, on all rows; without it there is nothing to predict with.
    cv
        None holds out one part, ``validation_fraction`` of the rows. An integer, a splitter or an iterable of splits:
        each learning rate trains on all folds at once, paused and continued, and the mean over the folds counts.
    validation_fraction
        Share of the rows that is held out without ``cv``, stratified by class.
    learning_rate_parameter
        The estimator's learning rate by name, where lrtune does not know it.
    random_state
        Seed of the search, of the held-out part and of every training.

    Attributes
    ----------
    best_estimator_
        The estimator trained on all rows under the best recipe, schedule included.
    best_params_
        What was set on it; ``max_iter`` are the epochs. With a schedule the learning rate is its peak, and only
        ``best_estimator_`` has been trained by it.
    best_score_, best_index_
        The best recipe's held-out score, and its place in ``cv_results_``.
    cv_results_
        Arrays with one entry a trial, as `GridSearchCV` has them, with ``epochs`` (trained of it) and ``outcome``. The
        score of a trial that was stopped early, or diverged, is NaN.
    result_
        The :class:`lrtune.Result`: the band of learning rates that are as good, the edge, the cost, the report.
    classes_, n_features_in_, feature_names_in_, n_splits_, refit_time_, scorer_
        As of `GridSearchCV`.

    Examples
    --------
    ::

        search = LearningRateSearchCV(SGDClassifier(), lr=(1e-5, 10.0), epochs=20, random_state=0).fit(X, y)
        search.best_params_["eta0"], search.predict(X)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "estimator": [HasMethods(["fit"])],
        "lr": [tuple, list],
        "epochs": [Interval(numbers.Integral, 1, None, closed="left")],
        "scoring": BaseSearchCV._parameter_constraints["scoring"],  # noqa: SLF001 -- of the class it derives from
        "refit": ["boolean"],
        "cv": ["cv_object"],
        "validation_fraction": [Interval(numbers.Real, 0, 1, closed="neither")],
        "learning_rate_parameter": [str, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        lr: tuple[float, float] = (1e-5, 10.0),
        schedule: str | Sequence[str] | None = None,
        batch_size: int | Sequence[int] | None = None,
        warmup: float | Sequence[float] | None = None,
        epochs: int = 20,
        budget: float | None = None,
        worth: float | None = None,
        timeout: float | None = None,
        scoring: Any = None,
        refit: bool = True,
        cv: Any = None,
        validation_fraction: float = 0.25,
        learning_rate_parameter: str | None = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.lr = lr
        self.schedule = schedule
        self.batch_size = batch_size
        self.warmup = warmup
        self.epochs = epochs
        self.budget = budget
        self.worth = worth
        self.timeout = timeout
        self.scoring = scoring
        self.refit = refit
        self.cv = cv
        self.validation_fraction = validation_fraction
        self.learning_rate_parameter = learning_rate_parameter
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:  # noqa: N803 -- scikit-learn's name
        """Find the learning rate, and train on all rows.

        Parameters
        ----------
        X, y
            The table, n rows: arrays, lists, sparse matrices or pandas frames.
        params
            ``sample_weight``, shape (n,), in training and (where the scorer takes it) in the score; ``groups`` of the
            splitter. With scikit-learn's metadata routing they reach who has asked for them.

        Raises
        ------
        InputError
            If something given cannot be used; it is a ValueError too.
        SearchError
            If every run diverged, or the training code failed. Where none was trained to its end otherwise, as in a
            very small budget or where there is nothing to learn, what looked best is taken, with a ConvergenceWarning.
        """
        self._validate_params()
        scorer = self._scorer()
        X, y = indexable(X, y)  # noqa: N806 -- scikit-learn's name
        routed = self._get_routed_params_for_fit(params)
        weight = self._weight(routed.estimator.fit)
        X, y = self._checked(X, y)  # noqa: N806 -- scikit-learn's name
        seed = self._seed()
        trainer = self._trainer((X, y, weight), routed, seed)
        metric = LOSS if self.scoring is None else SCORE
        try:
            found = self._search(trainer, metric, seed)
        except SearchError as error:
            found = error.result
            if found is None or _next_best(_record(found), metric) is None:
                raise
            warnings.warn(f"what looked best so far is taken: {error}", ConvergenceWarning, stacklevel=2)
        self.scorer_, self.multimetric_ = scorer, False
        self.n_splits_ = len(trainer.folds) if isinstance(trainer, FoldsTrainer) else 1
        best = self._tabulate(_record(found), trainer, metric)
        if self.refit:
            begun = time.monotonic()
            self.best_estimator_ = trainer.refit(best.recipe, X, y, sample_weight=weight)
            self.refit_time_ = time.monotonic() - begun
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
            found = dataclasses.replace(found, winner=None)  # it holds the table
        self.result_ = found
        return self

    def _search(self, trainer: SklearnTrainer | FoldsTrainer, metric: str, seed: int) -> Result:
        return tune(
            trainer,
            Space(lr=self.lr, schedule=self.schedule, batch_size=self.batch_size, warmup=self.warmup),
            epochs=self.epochs,
            metric=metric,
            budget=self.budget,
            worth=self.worth,
            timeout=self.timeout,
            seed=seed,
        )

    def set_callbacks(self, *callbacks: Any) -> Self:
        """Refused: a search has none of the tasks that scikit-learn's callbacks are told of.

        Raises
        ------
        InputError
            If any are given.
        """
        if callbacks:
            msg = f"{type(self).__name__} calls no callbacks; a search of lrtune.tune is watched by its observer"
            raise InputError(msg)
        return self

    def __sklearn_tags__(self) -> Any:
        """The estimator's, but for several labels a row, which cannot be learned."""
        tags = super().__sklearn_tags__()
        if tags.classifier_tags is not None:
            tags.classifier_tags.multi_label = False
        return tags

    def _scorer(self) -> Any:
        """The one scorer."""
        if isinstance(self.scoring, list | tuple | dict):
            msg = f"scoring must be one scorer, by which a learning rate is judged (got {self.scoring!r}); name one"
            raise InputError(msg)
        return self._get_scorers()[0]

    def _weight(self, given: Mapping[str, Any]) -> Any:
        """The rows' weights, out of what is for the estimator's ``fit``."""
        own = "sample_weight"
        names = {own}
        if isinstance(self.estimator, Pipeline):
            names.add(f"{self.estimator.steps[-1][0]}__{own}")
        others = sorted(set(given) - names)
        if others:
            msg = f"fit takes sample_weight and groups (got {others[0]!r}): training is by partial_fit; leave it out"
            raise InputError(msg)
        return next((given[name] for name in sorted(names) if given.get(name) is not None), None)

    def _checked(self, X: Any, y: Any) -> tuple[Any, Any]:  # noqa: N803 -- scikit-learn's name
        """The table, checked as scikit-learn's estimators check theirs; a Pipeline's first step checks its own."""
        classifies = is_classifier(self.estimator)
        rows = length(X, "X")
        if rows < FEWEST_ROWS:
            msg = f"a search holds out some of the rows: give at least {FEWEST_ROWS} (got n_samples = {rows})"
            raise InputError(msg)
        if y is None:
            msg = f"{type(self).__name__} requires y to be passed, but the target y is None"
            raise InputError(msg)
        if isinstance(self.estimator, Pipeline):
            return X, y
        outputs = many_outputs(self.estimator)
        checked, targets = check_X_y(
            X, y, accept_sparse="csr", multi_output=outputs, y_numeric=not classifies, estimator=self
        )
        if classifies:
            check_classification_targets(targets)
        if targets.ndim > 1 and targets.shape[1] == 1:
            targets = column_or_1d(targets, warn=True)
        return (X if hasattr(X, "iloc") else checked), targets  # a frame's names are learned too

    def _seed(self) -> int:
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(MOST_SEED))

    def _trainer(self, table: tuple[Any, Any, Any], routed: Any, seed: int) -> SklearnTrainer | FoldsTrainer:
        """What trains on one part of a table (X, y, sample_weight), or on all folds."""
        X, y, weight = table  # noqa: N806 -- scikit-learn's name
        scored = _Weighted(self._scorer(), weighted=routed.scorer.score.get("sample_weight") is not None)
        options: dict[str, Any] = {
            "sample_weight": weight,
            "metrics": {} if self.scoring is None else {SCORE: scored},
            "learning_rate_parameter": self.learning_rate_parameter,
        }
        estimator = clone(self.estimator)
        if self.cv is None:
            return SklearnTrainer(estimator, X, y, valid_fraction=self.validation_fraction, split_seed=seed, **options)
        folds = check_cv(self.cv, y, classifier=is_classifier(estimator))
        return FoldsTrainer(estimator, X, y, splits=folds.split(X, y, **routed.splitter.split), **options)

    def _tabulate(self, record: StudyRecord, trainer: SklearnTrainer | FoldsTrainer, metric: str) -> TrialRecord:
        """``cv_results_`` and what is read off it; the best trial."""
        sign = -1.0 if metric == LOSS else 1.0
        first = trainer.folds[0] if isinstance(trainer, FoldsTrainer) else trainer
        parameters = [self._parameters(first, trial.recipe) for trial in record.records]
        scores = np.array([[sign * score for score in _scores(t, metric, self.n_splits_)] for t in record.records])
        means = np.array([math.nan if t.value is None else sign * t.value for t in record.records])
        ranks = rankdata(np.where(np.isnan(means), np.inf, -means), method="min").astype(np.int32)
        times = [sum(segment.seconds for segment in trial.segments) for trial in record.records]
        names = sorted({name for given in parameters for name in given})
        self.cv_results_ = {
            "mean_fit_time": np.array(times),
            **{f"param_{name}": np.ma.array([given.get(name) for given in parameters]) for name in names},
            "params": parameters,
            **{f"split{fold}_test_score": scores[:, fold] for fold in range(self.n_splits_)},
            "mean_test_score": means,
            "std_test_score": scores.std(axis=1),
            "rank_test_score": ranks,
            "epochs": np.array([trial.curve.trained for trial in record.records]),
            "outcome": np.array([trial.outcome.key if trial.outcome else "open" for trial in record.records]),
        }
        best = record.best or _next_best(record, metric) or record.records[0]
        self.best_index_ = record.records.index(best)
        self.best_score_ = float(means[self.best_index_])
        self.best_params_ = parameters[self.best_index_]
        return best

    def _parameters(self, trainer: SklearnTrainer, recipe: Recipe) -> dict[str, Any]:
        """What a recipe sets on the estimator, under the names that ``set_params`` takes."""
        task = trainer.task
        found = recipe_parameters(task.adapter, recipe, last_step(self.estimator), task.rows_per_step(recipe))
        found.pop("random_state", None)
        prefix = f"{self.estimator.steps[-1][0]}__" if isinstance(self.estimator, Pipeline) else ""
        return {f"{prefix}{name}": value for name, value in found.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class _Weighted:
    """A scorer that is given the rows' weights only where they are routed to it."""

    scorer: Any
    weighted: bool = dataclasses.field(kw_only=True)

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803 -- scikit-learn's name
        given = {"sample_weight": sample_weight} if self.weighted and sample_weight is not None else {}
        return float(self.scorer(estimator, X, y, **given))


def _record(found: Result) -> StudyRecord:
    """All that the search recorded."""
    return read(cast("optuna.Study", found.study))


def _next_best(record: StudyRecord, metric: str) -> TrialRecord | None:
    """Where no run was trained to its end, the one that looked best of those that did not blow up; None for none."""
    finite = [trial for trial in record.records if trial.outcome in NEXT_BEST and len(trial.curve.of(metric)[1])]
    return min(finite, key=lambda trial: record.sign * float(trial.curve.of(metric)[1][-1]), default=None)


def _scores(trial: TrialRecord, metric: str, folds: int) -> list[float]:
    """What each fold reported at the end; NaN of a trial that did not come there."""
    if trial.value is None or trial.curve.last is None:
        return [math.nan] * folds
    values = trial.curve.last.values
    return [float(values.get(f"split{fold}_{metric}", trial.value)) for fold in range(folds)]
