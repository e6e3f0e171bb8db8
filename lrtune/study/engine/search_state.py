"""Where a search stands: what this process knows of it, and what may still be spent."""

from __future__ import annotations

import contextlib
import dataclasses
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
from lrtune.study.trials.study_reader import RANGE, SPACE
from lrtune.workers.pool import WorkerContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.divergence import Baseline
    from lrtune.core.effect import Alike
    from lrtune.core.recipe import Recipe
    from lrtune.search.base import Strategy
    from lrtune.study.engine.notifier import Watched
    from lrtune.study.engine.run_cache import RunCache
    from lrtune.study.settings import Settings
    from lrtune.study.trials.active_searches import ActiveSearches
    from lrtune.study.trials.stored_trial import StoredTrial
    from lrtune.study.trials.trial_store import TrialStore
    from lrtune.training.base import Trainer

__all__ = ["WIDENED", "SearchState"]

T = TypeVar("T")

FINEST_SHARE = 0.02
"""Share of a full training below which a look says too little, where an epoch is longer than that."""

WIDENED = "the best learning rate lay at the end of the range"


@dataclass(slots=True, kw_only=True)
class SearchState:
    """One process's part of a search.

    Attributes
    ----------
    trainer, settings, strategy
        What is searched, and how.
    space
        What is searched; grows when it is widened.
    ledger, garage
        What outlives the process, and the runs.
    should_stop
        Asked often: whether to stop from outside.
    deadline
        On the monotonic clock; None for none.
    listen
        Called with one line after every event, and with an empty one between.
    baseline
        What knowing nothing is worth; None until the trainer was asked.
    place
        Where this process stands among workers.
    attendance
        Who else searches the study.
    widened, learned
        Called when the space was widened, and when the baseline is known.
    """

    trainer: Trainer
    settings: Settings
    strategy: Strategy
    space: Space
    trial_store: TrialStore
    run_cache: RunCache
    active_searches: ActiveSearches
    should_stop: Callable[[], bool]
    deadline: float | None
    listen: Callable[[str, Watched], object]
    widened: Callable[[Space], object]
    learned: Callable[[Baseline], object]
    place: WorkerContext = field(default_factory=WorkerContext)
    baseline: Baseline | None = None
    warnings: list[str] = field(default_factory=list)
    entries: list[StoredTrial] = field(default_factory=list)
    training: tuple[StoredTrial, float] | None = None
    origin: tuple[float, ...] | None = None
    ended_before: frozenset[int] | None = None
    finest: tuple[Space, float] | None = None
    differ: bool = False
    idle: int = 0

    def with_study_lock(self, act: Callable[[], T]) -> T:
        """Do under the study's lock what depends on what is read there.

        Where a restart of the server takes the lock away in the middle, others may have decided since; and
        whoever ends a trial in the dashboard asks for no lock. Then all of it is done anew, from the reading on.
        """
        storage, name = self.trial_store.storage, self.trial_store.study.study_name
        while True:
            with contextlib.suppress(LockLostError, UpdateFinishedTrialError), study_lock(storage, name, fenced=True):
                return act()

    def refresh(self) -> None:
        """Read every trial again, taking over what dead processes held."""
        self._take_space()
        self.active_searches.renew()
        self.entries = self.trial_store.recover(self.trial_store.entries())
        ended = {entry.number for entry in self.entries if entry.closed}
        self.run_cache.keep({entry.number for entry in self.entries} - ended, ended)

    def _take_space(self) -> None:
        """The space as it is by now: this search may have widened it before it was resumed, or another worker."""
        attributes = self.trial_store.attributes()
        if attributes[SPACE] != self.space.to_json():
            self.space = Space.from_json(attributes[SPACE])
        if list(attributes[RANGE]) != list(self.space.lr_range):
            low, high = self.space.lr_range
            kept = [warning for warning in self.warnings if not warning.startswith(WIDENED)]
            self.warnings[:] = [f"{WIDENED}, which was widened to {low:g} to {high:g}", *kept]

    def replace(self, entry: StoredTrial) -> None:
        """Take an entry in place of the one of the same trial, or as a new one."""
        kept = [other for other in self.entries if other.number != entry.number]
        self.entries = sorted([*kept, entry], key=lambda other: other.number)

    # -- what a strategy is shown ----------------------------------------------------------------------

    def context(self) -> SearchContext:
        """All that the strategy may base its decision on."""
        limits = self.settings.limits
        return SearchContext(
            space=self.space,
            epochs=self.settings.epochs,
            direction=self.settings.direction,
            trials=[self.seen(entry) for entry in self.entries],
            spent=self.trial_store.spent(self.entries),
            budget=self._budget(),
            self_stopping=not limits.any,
            widen=self._widening_left(),
            untrained=self.baseline.untrained if self.baseline else None,
            finest=self._finest(),
            seed=self.settings.seed,
            exhausted=self.exhausted,
        )

    @property
    def exhausted(self) -> bool:
        """Whether the number of trials is reached."""
        limit = self.settings.limits.trials
        return limit is not None and len(self.entries) >= limit

    def _budget(self) -> float | None:
        """Full trainings that may be spent: as asked for, and never without any end."""
        limits = self.settings.limits
        if limits.any or self.settings.points is not None:  # a grid of so many points is a limit too
            return limits.budget
        return max(UNLIMITED_BUDGET, self.settings.spent + 1.0)

    def seen(self, entry: StoredTrial) -> TrialView:
        """The trial as a strategy sees it; a run in this memory has lost nothing."""
        seen = self.trial_store.seen(entry)
        return dataclasses.replace(seen, repaid_epochs=0.0) if self.run_cache.holds(entry.number) else seen

    def _widening_left(self) -> float:
        if self.origin is None:  # what was asked for never changes, so it is read once
            self.origin = tuple(self.trial_store.attributes().get(RANGE, self.space.lr_range))
        low, high = self.origin
        now_low, now_high = self.space.lr_range
        used = math.log10(low / now_low) + math.log10(now_high / high)
        return max(0.0, round(self.settings.widen - used, 9))  # what rounding leaves of a decade is none

    def _finest(self) -> float:
        if self.finest is None or self.finest[0] is not self.space:  # the same for as long as the space is
            self.finest = (self.space, self._finest_of(self.space))
        return self.finest[1]

    def _finest_of(self, space: Space) -> float:
        import numpy as np

        from lrtune.search.samplers.samplers import from_unit

        middle = space.recipe(from_unit(space, np.full(len(space.names), 0.5)), epochs=self.settings.epochs)
        steps = self.trainer.steps_per_epoch(middle)
        if steps == 1:
            return 1.0
        return min(1.0, max(1.0 / steps, FINEST_SHARE * self.settings.epochs))

    def learned_above(self, recipe: Recipe) -> bool:
        """Whether a run with a higher learning rate, all else equal, is clearly better than knowing nothing.

        Only one that came as far as a run must before it can be called stuck: many learn a little before they do not.
        """
        far = STUCK_SHARE * self.settings.epochs
        curves = (
            entry.record.curve
            for entry in self.entries
            if entry.record.recipe.lr > recipe.lr
            and dataclasses.replace(entry.record.recipe, lr=recipe.lr, seed=recipe.seed) == recipe
        )
        metric, direction = self.settings.metric, self.settings.direction
        return any(curve.trained > far and learned(curve.of(metric)[1], self.baseline, direction) for curve in curves)

    def alike(self) -> Alike | None:
        """The runs that agree, whatever their learning rate; None where any two differ."""
        if self.differ:  # for good: curves only grow
            return None
        records = [entry.record for entry in self.entries]
        runs = [(record.recipe, record.curve, record.outcome is Outcome.COMPLETED) for record in records]
        same = alike(runs, self.settings.metric, self.space.lr_range)
        self.differ = same is None
        return same

    # -- what may be spent -----------------------------------------------------------------------------

    def whole_steps(self, until: float, recipe: Recipe, paid: float) -> float:
        """The end of a piece on a step of the run: the next one, or the one before where the budget ends."""
        steps = self.trainer.steps_per_epoch(recipe)
        total = recipe.epochs * steps
        after = min(math.ceil(until * steps * (1 - 1e-9)), total)
        budget = self._budget()
        if budget is not None:
            left = (budget - self.trial_store.spent(self.entries)) * self.settings.epochs + paid
            after = min(after, math.floor(left * steps * (1 + 1e-9)))
        return after / steps

    def left(self) -> float:
        """Epochs that the budget still allows."""
        budget = self.settings.limits.budget
        if budget is None:
            return math.inf
        return (budget * (1 + 1e-9) - self.trial_store.spent(self.entries)) * self.settings.epochs
