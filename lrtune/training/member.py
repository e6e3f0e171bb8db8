"""The loop that trains a recipe: steps, epochs, the schedule's learning rates, evaluation, divergence at the step.

Here a metric-driven schedule is updated at the end of an epoch, ``train_loss`` is averaged over the epoch, and a run
is stopped at the step at which its loss diverged. A member trains one recipe; :class:`.MemberRun` is the
:class:`lrtune.training.base.Run` of several, the same for generators, scikit-learn and PyTorch.
"""

from __future__ import annotations

import abc
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.curve import Point
from lrtune.core.divergence import StepGuard
from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.schedules import for_recipe
from lrtune.training.base import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.training.base import Setup, State

__all__ = ["Member", "MinibatchMember", "TrainingStopped"]


class TrainingStopped(Exception):  # noqa: N818 -- an outcome, not an error
    """Training ends with an outcome; the member turns it into its last report."""

    def __init__(self, outcome: Outcome, why: str, values: Mapping[str, float] | None = None) -> None:
        super().__init__(why)
        self.outcome, self.why, self.values = outcome, why, dict(values or {})


class Member(abc.ABC):
    """One recipe in training."""

    def __init__(self, number: int, recipe: Recipe) -> None:
        self.number, self.recipe, self.done = number, recipe, False
        self.interrupted = False
        """Whether an exception came within a step: then it is in no state to continue from."""

    @abc.abstractmethod
    def advance(self, steps: int, *, evaluate: bool) -> Sequence[Report]:
        """Train by up to `steps` steps, at least 1; the last report has an outcome where training has ended."""

    @abc.abstractmethod
    def setup(self) -> Setup:
        """How it was set up beyond its recipe."""

    def finish(self) -> None:
        """Training is complete; what keeps its model until the run is closed says so here."""
        self.end()

    def end(self) -> None:
        """Free everything; may be called twice."""
        self.done = True

    def model(self) -> Any:
        """What :meth:`.MemberRun.model` hands over."""
        msg = "a run of this trainer hands over no model"
        raise InputError(msg)

    def suspend(self) -> None:  # noqa: B027 -- most have nothing to do
        """Move what lies on a device to the host."""

    def state(self) -> State:
        """What :meth:`restore` takes; TypeError where something in it cannot be saved."""
        raise TypeError

    def restore(self, saved: State) -> None:
        """Continue from a state; a member that has none is never asked to."""
        del saved
        raise TypeError

    def advance_or_end(self, steps: int, *, evaluate: bool) -> Sequence[Report]:
        """The same; it is ended after an outcome, and after an exception."""
        try:
            found = self.advance(steps, evaluate=evaluate)
        except BaseException:  # KeyboardInterrupt, too
            self.interrupted = True
            self.end()
            raise
        self.conclude(found[-1].outcome)
        return found

    def conclude(self, outcome: Outcome | None) -> None:
        """What follows a report: nothing while it can go on."""
        if outcome is Outcome.COMPLETED:
            self.finish()
        elif outcome is not None:
            self.end()


class MinibatchMember(Member):
    """A recipe trained by minibatches; losses, learning rates and divergence depend on its steps alone."""

    def __init__(self, number: int, recipe: Recipe, steps_per_epoch: int) -> None:
        super().__init__(number, recipe)
        self.per_epoch = steps_per_epoch
        self.total_steps = recipe.epochs * steps_per_epoch
        self.reset()

    def reset(self) -> None:
        """Back to step 0."""
        self.step = self.samples = 0
        self.loss_sum: float = 0.0
        self.loss_weight: float = 0
        self.guard = StepGuard()
        self.schedule = for_recipe(self.recipe, self.total_steps)
        self._rates: tuple[int, list[float]] = (-1, [])

    @abc.abstractmethod
    def train(self, epoch: int, begin: int, end: int) -> None:
        """Train on the minibatches of an epoch from position `begin` to `end`, counting :attr:`step`."""

    @abc.abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Loss and metrics of the held-out part."""

    @abc.abstractmethod
    def watched(self) -> str:
        """Name of the value by which a metric-driven schedule is updated."""

    @abc.abstractmethod
    def stopped(self, error: Exception) -> TrainingStopped | None:
        """The outcome that an exception means; None where it is an error of the user's code."""

    def check(self) -> None:
        """Raise TrainingStopped where the model is no longer finite; called at the end of each advance."""

    def finish(self) -> None:
        """What was learned stays, to be saved or handed over, until the run is closed."""
        self.done = True

    def advance(self, steps: int, *, evaluate: bool) -> Sequence[Report]:
        """Train by up to `steps` minibatches; one report."""
        return self.reported(partial(self.train_to, min(self.step + steps, self.total_steps), evaluate=evaluate))

    def reported(self, measured: Callable[[], dict[str, float]]) -> Sequence[Report]:
        """One report, of the values that a function returns or of what has ended it."""
        try:
            values = measured()
        except Exception as error:
            stop = error if isinstance(error, TrainingStopped) else self.stopped(error)
            if stop is None:
                raise
            return (self._report(stop.values, stop.outcome, stop.why),)
        return (self._report(values, Outcome.COMPLETED if self.step == self.total_steps else None),)

    def train_to(self, target: int, *, evaluate: bool) -> dict[str, float]:
        """Train up to a step and return what was measured there."""
        while self.step < target:
            epoch, position = self.begin_epoch()
            self.train(epoch, position, min(self.per_epoch, position + target - self.step))
            self.end_epoch()
        self.check()
        return self.measured(evaluate=evaluate)

    def begin_epoch(self) -> tuple[int, int]:
        """Epoch and position of the next step; at the first one of an epoch the mean loss begins anew."""
        epoch, position = divmod(self.step, self.per_epoch)
        if position == 0:
            self.loss_sum, self.loss_weight = 0.0, 0
        return epoch, position

    def end_epoch(self) -> None:
        """After the last step of an epoch a metric-driven schedule is updated."""
        if self.schedule.metric_driven and self.step % self.per_epoch == 0:
            metric = {**self.mean_loss, **self.evaluate()}[self.watched()]
            self.schedule.update(metric, progress=self.step / self.total_steps)

    def measured(self, *, evaluate: bool) -> dict[str, float]:
        """The training loss, and what is measured on the held-out part if asked."""
        return {**self.mean_loss, **(self.evaluate() if evaluate else {})}

    @property
    def mean_loss(self) -> dict[str, float]:
        """``train_loss``: the mean over the minibatches of this epoch; empty where none has counted."""
        return {"train_loss": self.loss_sum / self.loss_weight} if self.loss_weight else {}

    def record(self, loss: float, weight: float = 1) -> None:
        """Add the loss of a step to the epoch's mean, and stop where the run has diverged."""
        outcome = self.guard.see(loss)
        if outcome is not None:
            raise TrainingStopped(outcome, self.guard.why, {"train_loss": loss})
        self.loss_sum += loss * weight
        self.loss_weight += weight

    def rates(self, epoch: int) -> list[float]:
        """The learning rate of each step of an epoch, computed once an epoch, so that pauses change nothing."""
        if self._rates[0] != epoch:
            first = epoch * self.per_epoch
            progress = np.arange(first, first + self.per_epoch) / self.total_steps
            multipliers = np.asarray(self.schedule(progress), dtype=np.float64)
            self._rates = (epoch, (self.recipe.lr * multipliers).tolist())
        return self._rates[1]

    @property
    def lr(self) -> float | None:
        """The learning rate of the last step; None before the first one."""
        if not self.step:
            return None
        epoch, position = divmod(self.step - 1, self.per_epoch)
        return self.rates(epoch)[position]

    def _report(self, values: dict[str, float], outcome: Outcome | None, why: str = "") -> Report:
        epoch = self.step / self.per_epoch
        point = Point(step=self.step, epoch=epoch, samples=self.samples, values=values, lr=self.lr)
        return Report(member=self.number, point=point, outcome=outcome, why=why)
