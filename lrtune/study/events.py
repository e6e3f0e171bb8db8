"""What a search tells while it runs: one frozen snapshot at every event, for whoever watches.

The study makes them, the command line draws them; the two know each other through this file alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from lrtune.core.curve import Curve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lrtune.core.outcome import Outcome
    from lrtune.core.recipe import Recipe
    from lrtune.study.result import Result

__all__ = ["EndedTrial", "Observer", "Progress", "RunningTrial"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """One run that is being trained right now.

    Attributes
    ----------
    number
        The trial's number in the Optuna study.
    recipe
        What the run was told.
    trained, until
        Epochs it stands at, and the epoch up to which it is being trained.
    """

    number: int
    recipe: Recipe
    trained: float
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTrial:
    """One trial that has just been told to the storage as finished.

    Attributes
    ----------
    number
        The trial's number in the Optuna study.
    recipe
        What the run was told.
    outcome
        How it ended.
    value
        Its result; None where it has none.
    trained
        Epochs that were paid for it.
    started
        Seconds since 1970 (UTC); with the number it tells the trial from every other one, of whatever call.
    curve
        All that it reported.
    """

    number: int
    recipe: Recipe
    outcome: Outcome
    value: float | None
    trained: float
    started: float | None = None
    curve: Curve = field(default_factory=Curve)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a search stands.

    Attributes
    ----------
    event
        One plain line for logs about what has just happened; empty if there is nothing to say. A line is told
        under the study's lock: what takes its time waits for the next snapshot without one.
    name, metric, direction, epochs
        The study: its name, what is watched, ``"minimize"`` or ``"maximize"``, epochs of one full run.
    budget, timeout, trials_limit
        The limits in full trainings, seconds and trials; None where there is none.
    spent
        Full trainings so far.
    elapsed
        Seconds since this call began.
    counts
        Number of trials by outcome group (`Outcome.group`); what has not ended is ``"open"``.
    best, best_value, best_curve
        The best recipe so far, its value, and its metric as (epoch, value) pairs.
    band
        The learning rates that look as good, (low, high); None while nothing can be said.
    training
        What is being trained right now.
    ended
        The trials that have finished with this event, already stored.
    warnings
        What the user should be told, one sentence each; all so far.
    result
        The answer, in the last snapshot of all; None while the search goes on.
    """

    event: str = ""
    name: str = ""
    metric: str = "valid_loss"
    direction: str = "minimize"
    epochs: int = 1
    budget: float | None = None
    timeout: float | None = None
    trials_limit: int | None = None
    spent: float = 0.0
    elapsed: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    best: Recipe | None = None
    best_value: float | None = None
    best_curve: tuple[tuple[float, float], ...] = ()
    band: tuple[float, float] | None = None
    training: tuple[RunningTrial, ...] = ()
    ended: tuple[EndedTrial, ...] = ()
    warnings: tuple[str, ...] = ()
    result: Result | None = None

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the pace so far and the limits; None while there is nothing to go by."""
        guesses = [self._at_pace(self.spent, self.budget), self._at_pace(self._finished, self.trials_limit)]
        if self.timeout is not None:
            guesses.append(max(0.0, self.timeout - self.elapsed))
        known = [guess for guess in guesses if guess is not None]
        return min(known) if known else None

    @property
    def _finished(self) -> int:
        return sum(count for group, count in self.counts.items() if group != "open")

    def _at_pace(self, done: float, limit: float | None) -> float | None:
        if limit is None or done <= 0:
            return None
        return max(0.0, limit - done) * self.elapsed / done


Observer: TypeAlias = "Callable[[Progress], None]"
"""Whoever watches: called at every event, between two pieces of training."""
