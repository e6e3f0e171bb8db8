"""A scikit-learn estimator in training by minibatches: its steps, its held-out loss and scores, its saved state.

The order of the rows is a function of seed and epoch, so a run can be paused, saved and resumed after any minibatch.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import config_context

from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.training.estimators.arrays import Array, IndexedRows, TrainingArrays
from lrtune.training.estimators.fitted import finished, last_step, recipe_parameters
from lrtune.training.estimators.inner_steps import Epoch
from lrtune.training.global_state import GlobalState
from lrtune.training.member import MinibatchMember, TrainingStopped
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule
    from lrtune.training.base import Setup, State
    from lrtune.training.estimators.adapters import EstimatorAdapter, EstimatorStepper

__all__ = ["REFUSALS", "EstimatorMember", "EstimatorTask", "quiet"]

OVERFLOW = re.compile(r"under-/overflow|non-finite parameter|contains NaN|contains infinity|too large for dtype")
"""What scikit-learn's ValueErrors say when weights or predictions have overflowed."""

UNSEEDED = contextlib.nullcontext()

ORDER_BYTES = 2**22  # of orders of the rows that are kept, since the runs of a search share their seed

REFUSALS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What an estimator raises that cannot train at a learning rate, or on a table."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without NumPy's and scikit-learn's warnings and repeated checks: overflow is judged by the numbers."""
    with (
        np.errstate(all="ignore"),
        config_context(assume_finite=True, skip_parameter_validation=True),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorTask:
    """What is trained, on what, and how it is scored: the same for all runs of a trainer.

    `batch_size` are the rows of a minibatch where the recipe does not say; `steps` the fitted earlier steps of a
    Pipeline, or None; `given` the estimator as the user made it; `columns` the names of a frame's columns, or None.
    """

    adapter: EstimatorAdapter
    train: TrainingArrays
    valid: TrainingArrays
    scorers: Mapping[str, Any]
    batch_size: int
    given: Any
    steps: Any
    columns: Any
    _orders: dict[tuple[int, int], Array] = field(default_factory=dict, repr=False)

    def order(self, seed: int, epoch: int) -> Array:
        """The order of the rows in an epoch, shape (n,); it is not to be changed."""
        found = self._orders.get((seed, epoch))
        if found is None:
            found = np.random.default_rng([seed, epoch]).permutation(len(self.train))
            if (len(self._orders) + 1) * found.nbytes > ORDER_BYTES:
                self._orders.clear()
            self._orders[seed, epoch] = found
        return found

    def rows_per_step(self, recipe: Recipe) -> int:
        """Rows of a minibatch, at most those of the training part."""
        return min(recipe.batch_size or self.batch_size, len(self.train))

    def steps_per_epoch(self, recipe: Recipe) -> int:
        """Minibatches of an epoch; the last one may be smaller."""
        return -(-len(self.train) // self.rows_per_step(recipe))

    def first_batch(self, recipe: Recipe) -> TrainingArrays:
        """The first rows of the training part, as many as a minibatch has."""
        return self.train.take(np.arange(self.rows_per_step(recipe)))

    def untrained(self, recipe: Recipe) -> EstimatorStepper | None:
        """The estimator fitted at a learning rate of zero; None where it takes none."""
        stepper, batch = self.adapter.stepper(recipe), self.first_batch(recipe)
        try:
            with quiet():
                stepper.step(TrainingArrays(X=batch.X, y=batch.y, target=batch.target, weight=None), 0.0)
        except REFUSALS:
            return None
        return stepper

    def stepped(self, recipe: Recipe, lr: float) -> EstimatorStepper:
        """The estimator after one minibatch."""
        stepper = self.adapter.stepper(recipe)
        with quiet():
            stepper.step(self.first_batch(recipe), lr)
        return stepper

    def evaluate(self, stepper: EstimatorStepper) -> dict[str, float]:
        """The held-out loss and all scores; NaN where predictions have overflowed."""
        values = {"valid_loss": stepper.losses(self.valid)}
        for name in self.scorers:
            try:
                values[name] = self.score(name, stepper.estimator)
            except ValueError as error:
                if not OVERFLOW.search(str(error)):
                    raise
                values[name] = math.nan
        return values

    def score(self, name: str, estimator: Any) -> float:
        """A score on the held-out part."""
        extra = {} if self.valid.weight is None else {"sample_weight": self.valid.weight}
        table = np.asarray(self.valid.X) if isinstance(self.valid.X, IndexedRows) else self.valid.X
        return float(self.scorers[name](estimator, table, self.valid.y, **extra))

    def watched(self, schedule: Schedule) -> str:
        """What a metric-driven schedule is updated with: the held-out loss, or for `mode=max` the first score."""
        return "valid_loss" if schedule.minimizes else next(iter(self.scorers), "valid_loss")


class EstimatorMember(MinibatchMember):
    """One estimator in training; `setup` returns how a recipe is set up beyond its own fields."""

    def __init__(self, number: int, recipe: Recipe, task: EstimatorTask, setup: Callable[[Recipe], Setup]) -> None:
        super().__init__(number, recipe, task.steps_per_epoch(recipe))
        self.task, self._setup = task, setup
        self.rows = task.rows_per_step(recipe)
        self.stepper: EstimatorStepper | None = task.adapter.stepper(recipe)
        self._order: tuple[int, Any] = (-1, None)
        self.prepared: Iterator[tuple[float, float]] | None = None
        """Losses and weights of the next minibatches where it has been trained by them already, with others."""

    @property
    def estimator(self) -> Any:
        """The estimator as it is now; None after the end."""
        return None if self.stepper is None else self.stepper.estimator

    @property
    def _training(self) -> EstimatorStepper:
        if self.stepper is None:
            msg = "the run has been closed"
            raise InputError(msg)
        return self.stepper

    def setup(self) -> Setup:
        """How it was set up beyond its recipe."""
        return self._setup(self.recipe)

    def watched(self) -> str:
        """Name of the value by which a metric-driven schedule is updated."""
        return self.task.watched(self.schedule)

    def stopped(self, error: Exception) -> TrainingStopped | None:
        """Overflow and out of memory are outcomes."""
        if isinstance(error, ValueError) and OVERFLOW.search(str(error)):
            why = f"the weights overflowed at step {self.step} ({first_line(error)})"
            return TrainingStopped(Outcome.NON_FINITE, why, {"train_loss": math.nan})
        if is_out_of_memory(error):
            why = f"memory ran out at step {self.step}: {first_line(error)}"
            return TrainingStopped(Outcome.OUT_OF_MEMORY, why)
        return None

    def train_to(self, target: int, *, evaluate: bool) -> dict[str, float]:
        """Train up to a step; what is measured there must be finite."""
        with self._quiet():
            values = super().train_to(target, evaluate=evaluate)
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingStopped(Outcome.NON_FINITE, f"{name} was {value} at step {self.step}", values)
        return values

    def _quiet(self) -> AbstractContextManager[None]:
        """Where no code of scikit-learn's own is called, only NumPy has something to be quiet about."""
        stepper, criterion = self.stepper, self.task.adapter.criterion
        bare = stepper is not None and stepper.begun and stepper.inner is not None and not self.task.scorers
        return np.errstate(all="ignore") if bare and getattr(criterion, "direct", False) else quiet()

    def train(self, epoch: int, begin: int, end: int) -> None:
        """Train on the minibatches of an epoch from position `begin` to `end`."""
        data = self.task.train
        steps = self.prepared
        if steps is None:
            steps = self._training.train(data, Epoch(self.order(epoch), self.rows, self.rates(epoch)), begin, end)
        before, rows, draws = epoch * len(data), len(data), self.task.adapter.draws
        for position in range(begin, end):
            self.step += 1  # the step at which something is found is the step that found it
            self.samples = before + min((position + 1) * self.rows, rows)
            with self._seeded() if draws else UNSEEDED:
                loss, weight = next(steps)
            if weight > 0:
                self.record(loss, weight)

    def order(self, epoch: int) -> Array:
        """The order of the rows in an epoch."""
        if self._order[0] != epoch:
            self._order = (epoch, self.task.order(self.recipe.seed, epoch))
        return self._order[1]  # type: ignore[no-any-return]  # of Any

    def _seeded(self) -> AbstractContextManager[None]:
        """The global generators seeded by recipe and step, for an estimator that may draw from them."""
        return GlobalState(int(np.random.SeedSequence([self.recipe.seed, self.step]).generate_state(1)[0])).active()

    def evaluate(self) -> dict[str, float]:
        """The held-out loss and all scores."""
        return self.task.evaluate(self._training)

    def model(self) -> Any:
        """The estimator with the recipe's parameters, at the end of its fitted Pipeline where it has one."""
        task = self.task
        parameters = recipe_parameters(task.adapter, self.recipe, last_step(task.given), self.rows)
        return finished(self._training.estimator, parameters, task.given, task.steps, task.columns)

    def end(self) -> None:
        """Free the estimator."""
        super().end()
        self.stepper = None

    def state(self) -> State:
        """What :meth:`restore` takes."""
        return {
            "step": self.step,
            "done": self.done,
            "lr": self.lr,
            "loss_sum": self.loss_sum,
            "loss_weight": self.loss_weight,
            "guard": dict(self.guard.state()),
            "schedule": dict(self.schedule.state()),
            "learned": self.task.adapter.saved(self.estimator)
            if self.stepper is not None and self.stepper.begun
            else None,
            "piece": None if self.stepper is None or self.stepper.inner is None else self.stepper.inner.state(),
        }

    def restore(self, saved: State | None) -> None:
        """Continue from a state; None of a member that had been given up."""
        if saved is None:
            self.end()
            return
        self.reset()
        self.step, self.done = int(saved["step"]), bool(saved["done"])
        epochs, position = divmod(self.step, self.per_epoch)
        self.samples = epochs * len(self.task.train) + min(position * self.rows, len(self.task.train))
        self.loss_sum, self.loss_weight = float(saved["loss_sum"]), float(saved["loss_weight"])
        self.guard.restore(saved["guard"])
        self.schedule.restore(saved["schedule"])
        self._order = (-1, None)
        self.stepper = self.task.adapter.stepper(self.recipe)
        if saved["learned"] is not None:  # numbers are put into an estimator that has seen a minibatch
            if not self.stepper.begun:
                self.stepper = self.task.untrained(self.recipe) or self.task.stepped(self.recipe, self.recipe.lr)
            self.task.adapter.load(saved["learned"], self.estimator)
        if self.stepper.inner is not None:
            self.stepper.inner.restore(saved.get("piece"))  # a state of old has none
