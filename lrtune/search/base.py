"""What a strategy is shown and what it may answer, and what actions cost, for strategies to plan with.

A strategy keeps no state: :meth:`Strategy.next` is a function of the :class:`SearchContext` alone, its seed included.
So a search that was killed goes on where it stopped, and workers need no messages from each other. The engine
(:mod:`lrtune.study.engine`) asks for the next action and carries it out.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.core.outcome import Outcome
from lrtune.core.parameters import HIGHEST_LR, LOWEST_LR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.core.space import Space

__all__ = [
    "UNLIMITED_BUDGET",
    "Action",
    "Continue",
    "Finish",
    "SearchContext",
    "Start",
    "Stop",
    "Strategy",
    "TrialView",
    "Wait",
]

Floats: TypeAlias = npt.NDArray[np.float64]

UNLIMITED_BUDGET = 6.0
"""Full trainings after which a search without any limit ends at the latest, and which a comparison gives to each."""

ROUNDING = 1e-9
"""Full trainings: more than the rounding of summed prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialView:
    """One trial, as a strategy sees it.

    Attributes
    ----------
    number
        The trial's number in the Optuna study.
    recipe
        Its learning rate and other settings.
    epochs, values
        The metric's curve: epochs (increasing, may be fractional) and values in the metric's own sign, of equal
        length, 0 before the first report. The last values of a diverged run may be non-finite.
    outcome
        How it ended; None while it is paused or running.
    result
        Its result under the study's value rule where it is completed, e.g. the mean of its last epochs.
    until
        The epoch to which a worker is training it now; None when none does.
    mine
        Whether the asking process may continue it: a generator's run lives in one process.
    repaid_epochs
        Epochs that continuing it trains a second time because its state was lost; they are paid.
    reached
        Epochs trained; more than the last of `epochs` where its latest steps did not report the metric.
    """

    number: int
    recipe: Recipe
    epochs: Floats
    values: Floats
    outcome: Outcome | None = None
    result: float | None = None
    until: float | None = None
    mine: bool = True
    repaid_epochs: float = 0.0
    reached: float = 0.0

    @property
    def trained(self) -> float:
        """Epochs trained so far, whatever was reported there."""
        return max(self.reached, float(self.epochs[-1]) if len(self.epochs) else 0.0)

    @property
    def open(self) -> bool:
        """Whether it is paused and may be continued by the asking process."""
        return self.outcome is None and self.until is None and self.mine


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchContext:
    """All that a strategy may base its next decision on.

    Attributes
    ----------
    space
        What is searched (already widened, where it was).
    epochs
        Epochs of one full training, at least 1. Yields of a generator trainer.
    direction
        Whether a smaller or a larger metric is better.
    trials
        Every trial of the study, in the order of their numbers.
    spent
        Cost so far in full trainings, that of segments being trained included.
    budget
        The most that may be spent, in full trainings; None for no such limit. Never to be overspent:
        the sum of ``spent`` and of what an action asks for stays at or below it.
    self_stopping
        Whether the strategy may end the search of its own accord (no limit was given, or `worth`).
    worth
        What one more full training must be expected to gain, as a share of what training gains over the untrained
        model, for a search that ends of its own accord to go on; None leaves it to the strategy.
    widen
        How many decades the learning-rate range may still be widened.
    untrained
        The metric's value before training, where the trainer knows it.
    finest
        The shortest segment worth training, in epochs (1 for generators; less where a trainer can evaluate
        within an epoch).
    seed
        The search's seed. Derive every random number from it and from the trials.
    exhausted
        Whether the limit on the number of trials is reached: only Continue, Stop and Finish remain.
    beside
        Numbers of the trials whose segments have been claimed for this worker and have not begun: the next action joins
        them, and all are trained side by side as one stacked model (:meth:`can_join`). Empty where the next
        segment starts alone. :class:`Wait` lets them begin.
    beside_price
        The time that a run takes beside others, as a share of what it takes alone.
    timed
        Whether `budget` comes from a limit of time, which runs beside others use less of.
    """

    space: Space
    epochs: int
    direction: Literal["minimize", "maximize"] = "minimize"
    trials: Sequence[TrialView] = ()
    spent: float = 0.0
    budget: float | None = None
    self_stopping: bool = False
    worth: float | None = None
    widen: float = 0.0
    untrained: float | None = None
    finest: float = 1.0
    seed: int = 0
    exhausted: bool = False
    beside: tuple[int, ...] = ()
    beside_price: float = 1.0
    timed: bool = False

    def can_join(self, recipe: Recipe) -> bool:
        """Whether a run may be trained in one stack with those of `beside`: equal batch size and optimizer."""
        others = (trial.recipe for trial in self.trials if trial.number in self.beside)
        return all((r.batch_size, r.optimizer) == (recipe.batch_size, recipe.optimizer) for r in others)

    @property
    def by_time(self) -> bool:
        """Whether time is what is to be saved, and not full trainings: a run beside others adds little of the one."""
        return self.timed or self.self_stopping or self.budget is None

    @property
    def left(self) -> float:
        """Full trainings that may still be spent; infinite without a budget."""
        return math.inf if self.budget is None else self.budget - self.spent

    @property
    def busy(self) -> bool:
        """Whether any trial is being trained now, by whomever."""
        return any(trial.until is not None for trial in self.trials)

    def limited(self) -> SearchContext:
        """The same with :data:`UNLIMITED_BUDGET` where there is no budget."""
        return self if self.budget is not None else dataclasses.replace(self, budget=UNLIMITED_BUDGET)

    def price(self, trial: TrialView, until: float) -> float:
        """Full trainings that training a trial on, up to an epoch, costs."""
        return (until - trial.trained + trial.repaid_epochs) / self.epochs

    def affords(self, price: float) -> bool:
        """Whether the budget still holds so many full trainings."""
        return price <= self.left + ROUNDING

    @property
    def to_finish(self) -> float:
        """Full trainings that the open run closest to its end still needs.

        1 where no run is open, 0 once one is complete. A search that spends what this reserves completes none.
        """
        if any(trial.outcome is Outcome.COMPLETED for trial in self.trials):
            return 0.0
        pending = [trial for trial in self.trials if trial.outcome is None]
        done = [max(trial.trained - trial.repaid_epochs, trial.until or 0.0) for trial in pending]
        return 1 - max(done, default=0.0) / self.epochs

    def leaves_an_end(self, trained: float, until: float, repaid_epochs: float = 0.0) -> bool:
        """Whether the budget holds a segment from an epoch to another, and then the end of the run closest to it."""
        price = (until - trained + repaid_epochs) / self.epochs
        return self.affords(price + min(self.to_finish, 1 - until / self.epochs))

    @property
    def reach(self) -> tuple[float, float]:
        """log10 of the lowest and highest learning rate that may be asked for: the range as far as it may widen."""
        low, high = (math.log10(end) for end in self.space.lr_range)
        return max(low - self.widen, math.log10(LOWEST_LR)), min(high + self.widen, math.log10(HIGHEST_LR))

    @property
    def sign(self) -> float:
        """+1 if the metric is minimised, -1 if it is maximised."""
        return 1.0 if self.direction == "minimize" else -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Start a new trial and train it up to an epoch.

    Attributes
    ----------
    params
        The point of the space; None leaves it to the study's Optuna sampler.
    until
        Train up to this epoch.
    seed
        Added to the study's own seed for the run (0: the same weights and data order as every other
        trial, so that trials are paired; 1, 2, ... for repeats).
    why
        A few words for the log, e.g. ``"first look"``.
    """

    params: Mapping[str, Any] | None
    until: float
    seed: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continue:
    """Train a paused trial on, up to an epoch."""

    number: int
    until: float
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Prune a paused trial."""

    number: int
    outcome: Outcome = Outcome.PRUNED
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to do until a trial that is being trained elsewhere reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """End the search; what is still paused is pruned.

    Attributes
    ----------
    why
        One sentence for the result's ``stopped_because``.
    settled
        Whether it ends because nothing is left to gain, and not because a limit does not let it go on.
    """

    why: str = "the search is complete"
    settled: bool = False


Action: TypeAlias = Start | Continue | Stop | Wait | Finish


class Strategy(Protocol):
    """Decides what trains next, and how far.

    It may have an attribute ``joins``: true where it reads :attr:`SearchContext.beside`, and so may be asked for runs
    that are trained side by side.
    """

    @property
    def name(self) -> str:
        """The name under which a study file selects it."""

    def next(self, context: SearchContext, /) -> Action:
        """The next action; a function of the context alone."""
