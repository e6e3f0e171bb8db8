"""The contract of the family: what a strategy is shown, and what it may answer.

A strategy owns nothing that it could not rebuild from the study: :meth:`Strategy.next` is a function
of the :class:`SearchContext` alone (and of the seed in it), so a killed search goes on exactly where it
stood, and a second worker needs no messages from the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialView:
    """One trial, as a strategy sees it.

    Attributes
    ----------
    number
        The trial's number in the Optuna study.
    recipe
        What the run was told.
    epochs, values
        The metric's curve: where it was reported (epochs, may be fractional, increasing) and its value
        there, in the metric's own sign. Non-finite values may occur at the end of a diverged run. Empty
        before the first report.
    reached
        Epochs that the run has trained; more than the last of `epochs` where it did not report the metric
        at its latest steps.
    outcome
        How it ended; None while it is paused or running and may still be continued.
    result
        Its result under the study's value rule where it is completed, e.g. the mean of its last epochs.
    until
        Up to which epoch it is being trained right now by some worker; None when nobody trains it.
    mine
        Whether whoever asks may continue it: a generator's run lives in one process and waits for it.
    repaid_epochs
        Epochs that continuing it would train a second time, because its state was lost; they are paid.
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
        """Whether it is paused, so that whoever asks may continue it."""
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
        Cost so far in full trainings, what is being trained right now included.
    budget
        The most that may be spent, in full trainings; None for no such limit. Never to be overspent:
        the sum of ``spent`` and of what an action asks for stays at or below it.
    self_stopping
        Whether the strategy may end the search of its own accord (no limit was given).
    widen
        How many decades the learning-rate range may still be widened.
    untrained
        The metric's value before training, where the trainer knows it.
    finest
        The smallest piece of training worth asking for, in epochs (1 for generators; less where a
        trainer can evaluate within an epoch).
    seed
        The search's seed. Derive every random number from it and from the trials seen.
    exhausted
        Whether the limit on the number of trials is reached: only Continue, Stop and Finish remain.
    """

    space: Space
    epochs: int
    direction: Literal["minimize", "maximize"] = "minimize"
    trials: Sequence[TrialView] = ()
    spent: float = 0.0
    budget: float | None = None
    self_stopping: bool = False
    widen: float = 0.0
    untrained: float | None = None
    finest: float = 1.0
    seed: int = 0
    exhausted: bool = False

    @property
    def left(self) -> float:
        """Full trainings that may still be spent; infinite without a budget."""
        return float("inf") if self.budget is None else self.budget - self.spent

    @property
    def to_finish(self) -> float:
        """Full trainings that the run nearest to its end still needs from where it stands, or is being trained to.

        A search that spends more than this leaves ends with nothing. 1 where no run is open, 0 once one is complete.
        """
        if any(seen.outcome is Outcome.COMPLETED for seen in self.trials):
            return 0.0
        pending = [seen for seen in self.trials if seen.outcome is None]
        done = [max(seen.trained - seen.repaid_epochs, seen.until or 0.0) for seen in pending]
        return 1 - max(done, default=0.0) / self.epochs

    def leaves_an_end(self, trained: float, until: float, repaid_epochs: float = 0.0) -> bool:
        """Whether the budget holds a piece of one run, and then what the run nearest to its end still needs."""
        price = (until - trained + repaid_epochs) / self.epochs
        needed = min(self.to_finish, 1 - until / self.epochs)
        return price + needed <= self.left * (1 + 1e-9)

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
        The point of the space; None leaves it to the strategy's Optuna sampler.
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
    """Give a paused trial up."""

    number: int
    outcome: Outcome = Outcome.PRUNED
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing to do until a trial that is being trained elsewhere reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """End the search; what is still paused is told as pruned.

    Attributes
    ----------
    why
        One sentence for the result's ``stopped_because``.
    settled
        Whether it ends because nothing is left to gain, and not because a limit does not let it go on.
    """

    why: str = field(default="the search is complete")
    settled: bool = False


Action: TypeAlias = Start | Continue | Stop | Wait | Finish


class Strategy(Protocol):
    """Decides what trains next, and how far."""

    @property
    def name(self) -> str:
        """The name under which a study file selects it."""

    def next(self, context: SearchContext, /) -> Action:
        """The next piece of work; a function of the situation alone."""
