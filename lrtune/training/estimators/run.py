"""A run of scikit-learn estimators in minibatches: it can be cut, saved and continued after any of them.

Nothing depends on where it is cut: the order of the rows is a function of seed and epoch, the learning
rate a function of the step (or of what was measured at the ends of epochs, for a schedule that listens),
and the training loss adds up from the start of each epoch.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from sklearn import config_context

from lrtune.core.curve import Point
from lrtune.core.divergence import StepGuard
from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.schedules import for_recipe
from lrtune.training.base import Report
from lrtune.training.estimators import state as fitted
from lrtune.training.global_state import Ambient
from lrtune.training.out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from lrtune.core.recipe import Recipe
    from lrtune.schedules import Schedule
    from lrtune.training.base import Setup, State
    from lrtune.training.estimators.adapters import EstimatorAdapter, EstimatorStepper
    from lrtune.training.estimators.arrays import TrainingArrays

__all__ = ["OVERFLOW", "MinibatchRun", "quiet"]

FORMAT = "lrtune-estimator-1"
OVERFLOW = re.compile(r"under-/overflow|non-finite parameter|contains NaN|contains infinity|too large for dtype")
"""What scikit-learn's ValueErrors say when weights or predictions have overflowed."""


class EstimatorTask(Protocol):
    """What a run needs to know of its trainer."""

    train: TrainingArrays

    @property
    def kind(self) -> EstimatorAdapter: ...
    @property
    def saves(self) -> bool: ...
    def rows_per_step(self, recipe: Recipe) -> int: ...
    def steps_per_epoch(self, recipe: Recipe, /) -> int: ...
    def untrained(self, recipe: Recipe) -> EstimatorStepper | None: ...
    def evaluate(self, stepper: EstimatorStepper) -> dict[str, float]: ...
    def hears(self, schedule: Schedule) -> str: ...
    def setup(self, recipe: Recipe) -> Setup: ...
    def fingerprint(self) -> Mapping[str, str]: ...


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Overflow is judged by its numbers, not by warnings; what was checked once is not checked each step."""
    with (
        np.errstate(all="ignore"),
        config_context(assume_finite=True, skip_parameter_validation=True),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


class _Fault(Exception):  # noqa: N818 -- a message within this module, not an error
    """The member ends by an outcome; it never leaves this module."""

    def __init__(self, outcome: Outcome, why: str, values: Mapping[str, float]) -> None:
        super().__init__(why)
        self.outcome, self.why, self.values = outcome, why, values


class EstimatorMember:
    """One estimator in training, and how far it is."""

    def __init__(self, work: EstimatorTask, recipe: Recipe) -> None:
        self.work, self.recipe = work, recipe
        self.rows, self.per_epoch = work.rows_per_step(recipe), work.steps_per_epoch(recipe)
        self.last_step = recipe.epochs * self.per_epoch
        self.stepper: EstimatorStepper | None = work.kind.stepper(recipe)
        self.schedule = for_recipe(recipe, self.last_step)
        self.guard = StepGuard()
        self.done = False
        self.step = 0
        self.lr: float | None = None
        self.loss_sum, self.loss_weight = 0.0, 0.0
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)
        self._rates = np.empty(0)

    @property
    def samples(self) -> int:
        """Rows seen."""
        epochs, steps = divmod(self.step, self.per_epoch)
        return epochs * len(self.work.train) + min(steps * self.rows, len(self.work.train))

    def advance(self, steps: int, *, evaluate: bool) -> Report:
        """Train by up to so many minibatches and say where it stands; the run fills its number in."""
        outcome, why, values = None, "", {}
        try:
            for _ in range(min(steps, self.last_step - self.step)):
                self._train()
            values = self._measured(evaluate=evaluate)
            if self.step == self.last_step:
                outcome, self.done = Outcome.COMPLETED, True
        except Exception as error:
            fault = self._fault(error)
            if fault is None:
                raise
            outcome, why, values = fault.outcome, fault.why, dict(fault.values)
            self.done, self.stepper = True, None
        samples, epoch = self.samples, self.step / self.per_epoch
        point = Point(step=self.step, epoch=epoch, samples=samples, values=values, lr=self.lr)
        return Report(member=0, point=point, outcome=outcome, why=why)

    def _fault(self, error: Exception) -> _Fault | None:
        """The outcome that an exception stands for; None where it is the user's own."""
        if isinstance(error, _Fault):
            return error
        if isinstance(error, ValueError) and OVERFLOW.search(str(error)):
            why = f"the weights overflowed at step {self.step} ({first_line(error)})"
            return _Fault(Outcome.NON_FINITE, why, {"train_loss": math.nan})
        if is_out_of_memory(error):
            return _Fault(Outcome.OUT_OF_MEMORY, f"memory ran out at step {self.step}: {first_line(error)}", {})
        return None

    def _train(self) -> None:
        """One minibatch."""
        epoch, index = divmod(self.step, self.per_epoch)
        if epoch != self._epoch:
            self._prepare(epoch)
        if index == 0:
            self.loss_sum, self.loss_weight = 0.0, 0.0
        batch = self.work.train.take(self._order[index * self.rows : (index + 1) * self.rows])
        self.step += 1  # the step at which something is found is the step that found it
        self.lr = float(self._rates[index])
        with self._drawing():
            loss = self._estimator.step(batch, self.lr)
        weights = self.work.kind.weights(batch)
        weight = float(len(batch) if weights is None else weights.sum())
        if weight > 0:
            self.loss_sum += loss * weight
            self.loss_weight += weight
            self._judge(loss)
        if self.schedule.listens and self.step % self.per_epoch == 0:
            self._tell()

    def _drawing(self) -> AbstractContextManager[None]:
        """What the estimator draws from the process's generators is a function of recipe and step alone."""
        if not self.work.kind.draws:
            return contextlib.nullcontext()
        return Ambient(int(np.random.SeedSequence([self.recipe.seed, self.step]).generate_state(1)[0])).active()

    def _prepare(self, epoch: int) -> None:
        """Row order and learning rates of an epoch: functions of recipe and epoch alone."""
        self._epoch = epoch
        self._order = np.random.default_rng([self.recipe.seed, epoch]).permutation(len(self.work.train))
        steps = np.arange(epoch * self.per_epoch, (epoch + 1) * self.per_epoch)
        self._rates = self.recipe.lr * np.asarray(self.schedule(steps / self.last_step))

    @property
    def _estimator(self) -> EstimatorStepper:
        if self.stepper is None:
            msg = "the run has been closed"
            raise InputError(msg)
        return self.stepper

    def _judge(self, loss: float) -> None:
        outcome = self.guard.see(loss)
        if outcome is not None:
            raise _Fault(outcome, self.guard.why, {"train_loss": loss})

    def _tell(self) -> None:
        """Let a schedule that listens hear how the epoch went."""
        heard = self.work.evaluate(self._estimator)[self.work.hears(self.schedule)]
        self.schedule.update(heard, progress=self.step / self.last_step)

    def _measured(self, *, evaluate: bool) -> dict[str, float]:
        values = {"train_loss": self.loss_sum / self.loss_weight} if self.loss_weight > 0 else {}
        if evaluate:
            values |= self.work.evaluate(self._estimator)
        for name, value in values.items():
            if not math.isfinite(value):
                raise _Fault(Outcome.NON_FINITE, f"{name} was {value} at step {self.step}", values)
        return values

    def state(self) -> State:
        """All that it takes to go on."""
        learned = None if self.stepper is None or not self.stepper.begun else fitted.taken(self.stepper.estimator)
        return {
            "step": self.step,
            "done": self.done,
            "lr": self.lr,
            "loss_sum": self.loss_sum,
            "loss_weight": self.loss_weight,
            "guard": dict(self.guard.state()),
            "schedule": dict(self.schedule.state()),
            "learned": learned,
        }

    def restore(self, saved: State) -> None:
        """Go on from a state."""
        self.step, self.done, self.lr = int(saved["step"]), bool(saved["done"]), saved["lr"]
        self.loss_sum, self.loss_weight = float(saved["loss_sum"]), float(saved["loss_weight"])
        self.guard.restore(saved["guard"])
        self.schedule.restore(saved["schedule"])
        self._epoch = -1
        self.stepper = self.work.kind.stepper(self.recipe)
        if saved["learned"] is None:
            return
        self.stepper = self.work.untrained(self.recipe) or self._primed()
        fitted.pour(saved["learned"], self.stepper.estimator)

    def _primed(self) -> EstimatorStepper:
        """An estimator that has seen one minibatch, for one that takes no learning rate of zero."""
        stepper = self.work.kind.stepper(self.recipe)
        with quiet():
            stepper.step(self.work.train.take(np.arange(self.rows)), self.recipe.lr)
        return stepper


class MinibatchRun:
    """Estimators side by side; see :class:`lrtune.training.base.Run` for what each method promises."""

    def __init__(self, work: EstimatorTask, recipes: Sequence[Recipe]) -> None:
        self._work = work
        self._recipes = tuple(recipes)
        self._members: list[EstimatorMember | None] = [EstimatorMember(work, recipe) for recipe in recipes]

    @property
    def recipes(self) -> Sequence[Recipe]:
        """What each member was told."""
        return self._recipes

    @property
    def alive(self) -> tuple[int, ...]:
        """The members that can go on."""
        return tuple(n for n, member in enumerate(self._members) if member is not None and not member.done)

    def advance(self, steps: int, /, *, evaluate: bool = True) -> list[Report]:
        """Train every member alive by up to `steps` minibatches; one report for each.

        Raises
        ------
        Exception
            Whatever a user's own estimator raises, except for overflow and running out of memory.
        """
        if steps < 1:
            return []
        reports = []
        with quiet():
            for number in self.alive:
                member = self._members[number]
                if member is not None:
                    report = member.advance(steps, evaluate=evaluate)
                    reports.append(Report(member=number, point=report.point, outcome=report.outcome, why=report.why))
        return reports

    def estimator(self, member: int) -> Any:
        """The estimator of a member as it is now; None where it has been given up."""
        held = self._members[member]
        return None if held is None or held.stepper is None else held.stepper.estimator

    def setup(self) -> Setup:
        """How the first member was set up beyond its recipe."""
        return self._work.setup(self._recipes[0])

    def drop(self, members: Iterable[int], /) -> None:
        """Give members up."""
        for number in members:
            self._members[number] = None

    def state(self) -> State | None:
        """All members; None where the estimator cannot be saved."""
        if not self._work.saves:
            return None
        return {
            "format": FORMAT,
            "work": dict(self._work.fingerprint()),
            "recipes": [recipe.to_json() for recipe in self._recipes],
            "members": [None if member is None else member.state() for member in self._members],
        }

    def restore(self, state: State, /) -> None:
        """Go on from a state.

        Raises
        ------
        InputError
            If the state belongs to something else, or is damaged.
        """
        mine = {
            "format": FORMAT,
            "work": dict(self._work.fingerprint()),
            "recipes": [r.to_json() for r in self._recipes],
        }
        for name, value in mine.items():
            if state.get(name) != value:
                msg = f"the state belongs to another run (its {name} differs); start the run again"
                raise InputError(msg)
        try:
            for number, saved in enumerate(state["members"]):
                self._members[number] = None if saved is None else self._restored(self._recipes[number], saved)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            msg = f"the state is damaged ({type(error).__name__}: {error}); start the run again"
            raise InputError(msg) from error

    def _restored(self, recipe: Recipe, saved: State) -> EstimatorMember:
        member = EstimatorMember(self._work, recipe)
        member.restore(saved)
        return member

    def suspend(self) -> None:
        """Nothing to do: it holds host memory alone."""

    def close(self) -> None:
        """Free all estimators."""
        self._members = [None for _ in self._members]
