"""The snapshot that the observer of a search gets at each event (:class:`Progress`), for displays, logs, trackers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lrtune.core.recipe import Recipe
    from lrtune.core.records import TrialRecord
    from lrtune.search.base import TrialView
    from lrtune.study.result import Result

__all__ = ["Observer", "Progress"]

SHOWN = 0.005
"""Full trainings of time saved that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The state of a search at one event.

    Attributes
    ----------
    event
        One line for logs about what has just happened; empty if nothing has. A snapshot with a line is sent under
        the study's lock: an observer that takes long should wait for the next one without.
    budget, timeout, trials_limit
        The limits in full trainings, seconds and trials; None where there is none.
    machine_budget
        The limit on `machine_time`; None where there is none.
    spent, machine_time
        Full trainings so far; and the time of so many runs alone that they took, less where runs trained side by side;
        None where that is not known.
    elapsed
        Seconds since this call began.
    counts
        Trials by outcome group (`Outcome.group`), those that have not ended as ``"open"``.
    best, best_value, best_curve, band
        The best recipe so far, its value, its metric as (epoch, value) pairs, and the learning rates that look as good,
        (low, high); None while that is unknown.
    training
        The trials in training, with ``until``, the epoch up to which each is trained.
    ended
        The trials that have ended since the snapshot before, already stored; their outcome is not None.
    result
        The answer, in the last snapshot; None before.
    """

    event: str = ""
    name: str = ""
    metric: str = "valid_loss"
    direction: str = "minimize"
    epochs: int = 1
    budget: float | None = None
    timeout: float | None = None
    trials_limit: int | None = None
    machine_budget: float | None = None
    spent: float = 0.0
    machine_time: float | None = None
    elapsed: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    best: Recipe | None = None
    best_value: float | None = None
    best_curve: tuple[tuple[float, float], ...] = ()
    band: tuple[float, float] | None = None
    training: tuple[TrialView, ...] = ()
    ended: tuple[TrialRecord, ...] = ()
    warnings: tuple[str, ...] = ()
    result: Result | None = None

    @property
    def spending(self) -> str:
        """``"1.25 of 4 full trainings, in the time of 0.80"``; the time only where it differs, or is limited."""
        limit, most = ("" if one is None else f" of {one:g}" for one in (self.budget, self.machine_budget))
        shown = f"{self.spent:.2f}{limit} full trainings"
        if self.machine_time is None or (self.machine_budget is None and self.spent - self.machine_time < SHOWN):
            return shown
        return f"{shown}, in the time of {self.machine_time:.2f}{most}"

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the pace so far and the limits; None while there is nothing to go by."""
        finished = sum(count for group, count in self.counts.items() if group != "open")
        guesses = [
            self._at_pace(self.spent, self.budget),
            self._at_pace(self.machine_time or 0.0, self.machine_budget),
            self._at_pace(finished, self.trials_limit),
        ]
        if self.timeout is not None:
            guesses.append(max(0.0, self.timeout - self.elapsed))
        return min((guess for guess in guesses if guess is not None), default=None)

    def _at_pace(self, done: float, limit: float | None) -> float | None:
        if limit is None or done <= 0:
            return None
        return max(0.0, limit - done) * self.elapsed / done


Observer: TypeAlias = "Callable[[Progress], None]"
"""Called at every event, between two segments of training."""
