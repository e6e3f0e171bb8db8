"""The state of one process's part of a search as data, and what the budget still allows (`left`, `whole_steps`)."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from optuna.exceptions import UpdateFinishedTrialError

from lrtune.core.divergence import STUCK_SHARE, learned
from lrtune.core.effect import alike
from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.errors import LockLostError
from lrtune.search.base import UNLIMITED_BUDGET, SearchContext, TrialView
from lrtune.storage import study_lock
from lrtune.study.trials.study_reader import BESIDE, SPACE
from lrtune.training.base import stack_speedup

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.divergence import Baseline
    from lrtune.core.effect import Alike
    from lrtune.core.recipe import Recipe
    from lrtune.core.records import TrialRecord
    from lrtune.search.base import Strategy
    from lrtune.study.engine.run_cache import RunCache
    from lrtune.study.events import Observer
    from lrtune.study.settings import Settings
    from lrtune.study.trials.active_searches import ActiveSearches
    from lrtune.study.trials.stored_trial import StoredTrial
    from lrtune.study.trials.trial_store import TrialStore
    from lrtune.training.base import Trainer
    from lrtune.workers.pool import WorkerContext

__all__ = ["SearchState"]

T = TypeVar("T")

MEASURED = 8
"""Runs that are trained together to measure what one costs beside others."""

FINALISTS = 3
"""Completed trials of which the trained models are kept: a repeat under another seed may change which is the best."""

FINEST_SHARE = 0.02
"""Share of a full training that is the shortest segment worth asking for, where an epoch is longer than that."""


@dataclass(slots=True, kw_only=True)
class SearchState:
    """One process's part of a search.

    Attributes
    ----------
    space, lr_range
        What is searched, widened as it is by now; and the learning-rate range that the study was made with.
    started
        When this call began, on the monotonic clock.
    baseline
        The metric without training; None until the trainer was asked.
    warnings
        One sentence each; :meth:`all_warnings` adds that the range was widened.
    trials
        Every trial as of the last decision.
    training
        The claimed trials that this process trains right now.
    apart
        Whether runs are no longer trained side by side, because something was raised there.
    prices
        See :meth:`beside_price`, by batch size and optimizer.
    reported, band
        What the observer has had: numbers of ended trials; the band, and of how many completed trials it was computed.
    ended_before
        Numbers of the trials that had ended before this call; None until the first decision.
    finest
        The space and its shortest segment worth asking for, in epochs; None until it was computed.
    differ
        Whether two runs are known to differ, see :meth:`alike`.
    idle_rounds
        Decisions in a row to wait although no worker trains anything.
    """

    trainer: Trainer
    settings: Settings
    strategy: Strategy
    space: Space
    lr_range: tuple[float, float]
    trial_store: TrialStore
    run_cache: RunCache
    active_searches: ActiveSearches
    started: float
    place: WorkerContext
    should_stop: Callable[[], bool] = bool
    observer: Observer | None = None
    baseline: Baseline | None = None
    warnings: list[str] = field(default_factory=list)
    trials: list[StoredTrial] = field(default_factory=list)
    training: tuple[StoredTrial, ...] = ()
    apart: bool = False
    prices: dict[str, float] = field(default_factory=dict)
    reported: set[int] = field(default_factory=set)
    band: tuple[tuple[float, float] | None, int] = (None, 0)
    ended_before: frozenset[int] | None = None
    finest: tuple[Space, float] | None = None
    differ: bool = False
    idle_rounds: int = 0

    @property
    def deadline(self) -> float:
        """When the search is to end, on the monotonic clock; infinite without a time limit."""
        timeout = self.settings.limits.timeout
        return math.inf if timeout is None else self.started + timeout

    def with_study_lock(self, act: Callable[[], T]) -> T:
        """Do under the study's lock what depends on what is read there.

        All of it is done again, from the reading on, where a restart of the server took the lock away in the middle,
        since other workers may have decided meanwhile, and where a trial was ended in the dashboard, without the lock.
        """
        storage, name = self.trial_store.storage, self.trial_store.study.study_name
        while True:
            with contextlib.suppress(LockLostError, UpdateFinishedTrialError), study_lock(storage, name, fenced=True):
                return act()

    def refresh(self) -> None:
        """Read the space and every trial again, and take over what dead workers had claimed."""
        stored = self.trial_store.attributes()[SPACE]
        if stored != self.space.to_json():  # widened by another worker
            self.space = Space.from_json(stored)
        self.active_searches.renew()
        self.trials = self.trial_store.recover(self.trial_store.trials())
        closed = {trial.number for trial in self.trials if trial.closed}
        self.run_cache.keep({trial.number for trial in self.trials} - closed, closed - self.finalists())

    def replace(self, trial: StoredTrial) -> None:
        """Take a trial in place of the one with its number, or as a new one."""
        kept = [other for other in self.trials if other.number != trial.number]
        self.trials = sorted([*kept, trial], key=lambda other: other.number)

    def finalists(self, *more: TrialRecord) -> set[int]:
        """Numbers of the completed trials, `more` among them, that may be the answer: their trained models are kept."""
        sign = 1.0 if self.settings.direction == "minimize" else -1.0
        records = [*(trial.record for trial in self.trials), *more]
        done = [record for record in records if record.outcome is Outcome.COMPLETED]
        valued = [(sign * record.value, record.number) for record in done if record.value is not None]
        return {number for _, number in heapq.nsmallest(FINALISTS, valued)}

    @property
    def widened(self) -> bool:
        """Whether the learning-rate range is another one than was asked for."""
        return self.space.lr_range != self.lr_range

    def all_warnings(self) -> list[str]:
        """The warnings, and first that the range was widened, if it was."""
        if not self.widened:
            return self.warnings
        low, high = self.space.lr_range
        what = f"the best learning rate lay at the end of the range, which was widened to {low:g} to {high:g}"
        return [what, *self.warnings]

    # -- what the strategy sees ------------------------------------------------------------------------

    def context(self) -> SearchContext:
        """All that the strategy may base its decision on."""
        limits = self.settings.limits
        return SearchContext(
            space=self.space,
            epochs=self.settings.epochs,
            direction=self.settings.direction,
            trials=[self.view(trial) for trial in self.trials],
            spent=self.trial_store.spent(self.trials),
            budget=self._budget(),
            self_stopping=not limits.any or limits.worth is not None,
            worth=limits.worth,
            widen=self._widening_left(),
            untrained=self.baseline.untrained if self.baseline else None,
            finest=self._finest(),
            seed=self.settings.seed,
            exhausted=self.exhausted,
            timed=limits.budget is None and limits.machine_budget is not None,
        )

    @property
    def exhausted(self) -> bool:
        """Whether the number of trials is reached."""
        limit = self.settings.limits.trials
        return limit is not None and len(self.trials) >= limit

    @property
    def busy(self) -> bool:
        """Whether any worker trains a trial."""
        return any(trial.claim for trial in self.trials)

    def _budget(self) -> float | None:
        """Full trainings that may be spent: as asked for, and never without any limit, as the points of a grid are."""
        limits = self.settings.limits
        if limits.machine_budget is not None:
            saved = self.trial_store.spent(self.trials) - self.machine_time()
            return min(limits.machine_budget + saved, math.inf if limits.budget is None else limits.budget)
        if limits.any or limits.worth is not None or self.settings.points is not None:
            return limits.budget
        return max(UNLIMITED_BUDGET, self.settings.spent + 1.0)

    def view(self, trial: StoredTrial) -> TrialView:
        """The trial as the strategy sees it; one whose run is in this memory has no epochs to repay."""
        view = self.trial_store.view(trial)
        return dataclasses.replace(view, repaid_epochs=0.0) if self.run_cache.holds(trial.number) else view

    def _widening_left(self) -> float:
        """Decades by which the range may still be widened."""
        (low, high), (now_low, now_high) = self.lr_range, self.space.lr_range
        used = math.log10(low / now_low) + math.log10(now_high / high)
        return max(0.0, round(self.settings.widen - used, 9))  # a rest that is a rounding error is none

    def _finest(self) -> float:
        """Epochs of the shortest segment worth asking for, by the recipe in the middle of the space."""
        if self.finest is None or self.finest[0] is not self.space:
            import numpy as np

            from lrtune.search.samplers.samplers import from_unit

            epochs = self.settings.epochs
            middle = self.space.recipe(from_unit(self.space, np.full(len(self.space.names), 0.5)), epochs=epochs)
            steps = self.trainer.steps_per_epoch(middle)
            finest = 1.0 if steps == 1 else min(1.0, max(1.0 / steps, FINEST_SHARE * epochs))
            self.finest = (self.space, finest)
        return self.finest[1]

    def learned_above(self, recipe: Recipe) -> bool:
        """Whether a run at a higher learning rate, all else equal, became clearly better than the baseline.

        Only runs count that were trained as long as a run must be before it can be called stuck: many improve a little
        before they no longer do.
        """
        least = STUCK_SHARE * self.settings.epochs
        curves = (
            trial.record.curve
            for trial in self.trials
            if trial.record.recipe.lr > recipe.lr
            and dataclasses.replace(trial.record.recipe, lr=recipe.lr, seed=recipe.seed) == recipe
        )
        metric, direction = self.settings.metric, self.settings.direction
        return any(curve.trained > least and learned(curve.of(metric)[1], self.baseline, direction) for curve in curves)

    def alike(self) -> Alike | None:
        """The runs that report the same numbers, whatever their learning rate; None where any two differ."""
        if self.differ:  # for good: curves only grow
            return None
        runs = [(t.record.recipe, t.record.curve, t.record.outcome is Outcome.COMPLETED) for t in self.trials]
        same = alike(runs, self.settings.metric, self.space.lr_range)
        self.differ = same is None
        return same

    def beside_price(self, recipe: Recipe) -> float:
        """The time that a run takes beside others, as a share of what it takes alone; 1 where none is trained so.

        Measured once for each batch size and optimizer, and kept with the study, so that it decides the same again.
        """
        if self.apart:
            return 1.0
        key = f"{recipe.batch_size} {recipe.optimizer}"
        if key not in self.prices:
            self.prices |= self.trial_store.attributes().get(BESIDE, {})
        if key not in self.prices:
            speedup = stack_speedup(self.trainer, recipe, MEASURED)
            price = (MEASURED / speedup - 1) / (MEASURED - 1)
            self.prices[key] = round(price, 3)
            self.with_study_lock(lambda: self.trial_store.set_attributes({BESIDE: self.prices}))
        return self.prices[key]

    # -- what may be spent -----------------------------------------------------------------------------

    def whole_steps(self, until: float, recipe: Recipe, paid: float) -> float:
        """The epoch at which a segment ends: `until` rounded up to a whole step, but no further than the budget.

        Of the run's epochs, the `paid` ones cost nothing.
        """
        steps = self.trainer.steps_per_epoch(recipe)
        end = min(math.ceil(until * steps * (1 - 1e-9)), recipe.epochs * steps)
        budget = self._budget()
        if budget is not None:
            left = (budget - self.trial_store.spent(self.trials)) * self.settings.epochs + paid
            end = min(end, math.floor(left * steps * (1 + 1e-9)))
        return end / steps

    def machine_time(self) -> float:
        """The time that all has taken, in full trainings of one run alone, with the segments in training."""
        saved = sum(trial.record.saved_epochs for trial in self.trials)
        return self.trial_store.spent(self.trials) - saved / self.settings.epochs

    def left(self) -> float:
        """Epochs that the budget still allows."""
        budget = self._budget()
        if budget is None:
            return math.inf
        return (budget * (1 + 1e-9) - self.trial_store.spent(self.trials)) * self.settings.epochs
