"""Cross-validation as one training: a member is the estimators of all folds of a recipe, paused and continued together.

What it reports is the mean over the folds, and beside it each fold's own number (``split0_valid_loss``). Folds of
unequal size have unequally many minibatches an epoch; at each step all are at the same place of their schedule, to
within one minibatch, and at the end of an epoch exactly.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from lrtune.core.curve import Point
from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.training.base import Baseline, Report
from lrtune.training.estimators.arrays import rows_of
from lrtune.training.estimators.trainer import SklearnTrainer
from lrtune.training.member import Member
from lrtune.training.member_run import MemberRun

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lrtune.core.curve import Direction
    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Setup, State

__all__ = ["FoldsTrainer"]

FORMAT = "lrtune-folds-1"


class FoldsTrainer:
    """Trains a scikit-learn estimator on every fold of a cross-validation.

    Parameters
    ----------
    estimator, X, y, sample_weight
        As of :class:`.SklearnTrainer`; n rows.
    splits
        The folds: pairs of the row numbers to train on and those held out, as of ``split`` of a splitter.
    options
        Further options of :class:`.SklearnTrainer`.

    Raises
    ------
    InputError
        If there are no folds, or as of :class:`.SklearnTrainer`.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,  # noqa: N803 -- scikit-learn's name
        y: Any,
        *,
        splits: Iterable[tuple[Any, Any]],
        sample_weight: Any = None,
        **options: Any,
    ) -> None:
        self.folds = [_fold(estimator, (X, y, sample_weight), rows, options) for rows in splits]
        if not self.folds:
            msg = "the splitter makes no folds; give one that makes at least one, or leave cv out"
            raise InputError(msg)
        self.saves = all(fold.saves for fold in self.folds)

    @property
    def optimizer(self) -> str:
        """As of the estimator."""
        return self.folds[0].optimizer

    @property
    def directions(self) -> Mapping[str, Direction]:
        """The better side of each metric."""
        return self.folds[0].directions

    @property
    def notices(self) -> Sequence[str]:
        """Those of all folds, each once."""
        return tuple(dict.fromkeys(notice for fold in self.folds for notice in fold.notices))

    def start(self, recipes: Sequence[Recipe], /) -> MemberRun[FoldsMember]:
        """Start a run: for each recipe a copy of the estimator for each fold.

        Raises
        ------
        RecipeError
            If the estimator cannot do what a recipe asks for.
        """
        members = [FoldsMember(number, recipe, self) for number, recipe in enumerate(recipes)]
        identity = {"format": FORMAT, "recipes": [recipe.to_json() for recipe in recipes]}
        return MemberRun(members, identity if self.saves else None)

    def steps_per_epoch(self, recipe: Recipe, /) -> int:
        """Minibatches of an epoch in the smallest fold."""
        return min(fold.steps_per_epoch(recipe) for fold in self.folds)

    def baseline(self, recipe: Recipe, metric: str, /) -> Baseline:
        """The mean over the folds, where each knows it."""
        found = [fold.baseline(recipe, metric) for fold in self.folds]
        return Baseline(
            untrained=_mean([baseline.untrained for baseline in found]),
            chance=_mean([baseline.chance for baseline in found]),
            undefined=any(baseline.undefined for baseline in found),
        )

    def refit(self, recipe: Recipe, X: Any, y: Any, *, sample_weight: Any = None) -> Any:  # noqa: N803 -- scikit-learn's name
        """One estimator trained anew on all these rows, as :meth:`.SklearnTrainer.refit` does."""
        return self.folds[0].refit(recipe, X, y, sample_weight=sample_weight)

    def fingerprint(self) -> Mapping[str, str]:
        """That of the first fold, with the data of each."""
        first, *others = (fold.fingerprint() for fold in self.folds)
        return {**first, **{f"data of fold {i}": other["data"] for i, other in enumerate(others, start=1)}}


class FoldsMember(Member):
    """A recipe in training on all folds; a step is one minibatch of the smallest."""

    def __init__(self, number: int, recipe: Recipe, trainer: FoldsTrainer) -> None:
        super().__init__(number, recipe)
        self.runs = [fold.start([recipe]) for fold in trainer.folds]
        self.per_epoch = trainer.steps_per_epoch(recipe)
        self._steps = [fold.steps_per_epoch(recipe) for fold in trainer.folds]
        self.step = 0

    def advance(self, steps: int, *, evaluate: bool) -> Sequence[Report]:
        """Train every fold by up to `steps` steps; one report."""
        target = min(self.step + steps, self.recipe.epochs * self.per_epoch)
        points = []
        for fold, run in enumerate(self.runs):
            (report,) = run.advance(self._own(fold, target) - self._own(fold, self.step), evaluate=evaluate)
            if report.outcome not in {None, Outcome.COMPLETED}:
                reached = -(-report.point.step * self.per_epoch // self._steps[fold])
                why = f"in fold {fold}: {report.why}"
                point = self._point(min(target, reached), [report.point], report.point.values)
                return (Report(member=self.number, point=point, outcome=report.outcome, why=why),)
            points.append(report.point)
        self.step = target
        ended = Outcome.COMPLETED if target == self.recipe.epochs * self.per_epoch else None
        return (Report(member=self.number, point=self._point(target, points, _values(points)), outcome=ended),)

    def _own(self, fold: int, step: int) -> int:
        """A fold's own step where all are at that one."""
        return -(-step * self._steps[fold] // self.per_epoch)

    def _point(self, step: int, points: Sequence[Point], values: Mapping[str, float]) -> Point:
        samples = sum(point.samples or 0 for point in points)
        return Point(step=step, epoch=step / self.per_epoch, samples=samples, values=dict(values), lr=points[0].lr)

    def setup(self) -> Setup:
        """How the first fold was set up."""
        return self.runs[0].setup()

    def model(self) -> Any:
        """There is none: an InputError that says what to do."""
        msg = f"each of the {len(self.runs)} folds has a model of its own; train one on all rows: result.refit(X, y)"
        raise InputError(msg)

    def finish(self) -> None:
        """What was learned stays until the run is closed."""
        self.done = True

    def end(self) -> None:
        """Free the estimators."""
        super().end()
        for run in self.runs:
            run.close()

    def state(self) -> State:
        """What :meth:`restore` takes."""
        states = [run.state() for run in self.runs]
        if None in states:
            raise TypeError
        return {"step": self.step, "done": self.done, "folds": states}

    def restore(self, saved: State) -> None:
        """Continue from a state of the same folds."""
        for run, state in zip(self.runs, saved["folds"], strict=True):
            run.restore(state)
        self.step, self.done = int(saved["step"]), bool(saved["done"])


def _fold(estimator: Any, table: tuple[Any, Any, Any], split: tuple[Any, Any], options: Any) -> SklearnTrainer:
    """The trainer of one fold of a table (X, y, sample_weight)."""
    train, test = ([rows_of(data, rows, copied=False) for data in table if data is not None] for rows in split)
    weight = train[2] if len(train) > 2 else None  # noqa: PLR2004 -- the third of the table
    return SklearnTrainer(estimator, train[0], train[1], valid=tuple(test), sample_weight=weight, **options)


def _values(points: Sequence[Point]) -> dict[str, float]:
    """The mean over the folds of what each reports, and what each reports of its held-out part."""
    names = [name for name in points[0].values if all(name in point.values for point in points)]
    means = {name: fmean(point.values[name] for point in points) for name in names}
    own = {
        f"split{fold}_{name}": point.values[name]
        for name in names
        if name != "train_loss"
        for fold, point in enumerate(points)
    }
    return {**means, **own}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
