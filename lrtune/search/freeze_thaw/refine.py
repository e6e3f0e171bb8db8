"""After the first full training: whatever is expected to gain most for its price, until that is below the noise.

Also whether to stop, and what else a budget is good for: settings that were never looked at, and the two
best once more under another seed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.search.base import Action, Start
from lrtune.search.freeze_thaw.candidates import free

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.search.freeze_thaw.beliefs import Beliefs, Candidate
    from lrtune.search.freeze_thaw.budget import Pace

__all__ = ["Refinement"]

Floats: TypeAlias = npt.NDArray[np.float64]

WORTH = 0.005  # regret (of the way from untrained to best) that one more full training must be expected to save,
# below which a search that may stops: the noise of many tasks
PER_TENFOLD = 4.0  # times that, added for ten times the combinations of other settings: more guesses promise more
STRICTER = 2.0  # times all that, where the answer of an earlier study is confirmed: it has looked around already
LEAST_SPENT = 2.0  # full trainings that a search must have spent on comparing before it may stop
FOLLOWED = 0.32  # of a full training, up to which a run is followed that leads the best complete one as far as it came
LEAST_CONFIRMED = 1.0  # the same where the answer of an earlier study is confirmed
CHEAPEST = 0.05  # full trainings: a gain is not divided by less
ASKED_AFTER = 3  # complete runs, after which every value of every setting gets at least one look
CONFIRM = 0.0005  # expected regret saved by one more training, below which the budget goes to repeats
NEAR_END = 3.0  # full trainings left below which repeats come before more looks around
LATE = 0.25  # of a full training, from which a run that is behind at the same fraction stays behind
KEPT = 0.5  # of what it is behind by, at least
ACROSS = 0.05  # regret by which a run may seem behind only because the other has another schedule
REPEATS = 1  # paired seeds beside the first


class Refinement:
    """What is done once a run is complete."""

    def __init__(self, beliefs: Beliefs, pace: Pace) -> None:
        self.beliefs = beliefs
        self.view = beliefs.view
        self.context = beliefs.context
        self.pace = pace

    def next(self, candidates: Sequence[Candidate]) -> Action:
        """Another run's next piece, a repeat, or the end."""
        fallen = self._held(candidates, self.beliefs.draws(candidates)[0])
        best = min(float(fallen[0, j]) for j, c in enumerate(candidates) if c.completed)
        gain = np.maximum(0, best - fallen).mean(axis=0)
        remaining = np.array([self.pace.price(c, self.pace.length) for c in candidates])
        ready = np.array([free(c) and self.pace.affords(float(p)) for c, p in zip(candidates, remaining, strict=True)])
        if not ready.any():
            return self._follow(candidates) or self.pace.end("the budget leaves no room for another full training")
        worth = np.where(ready, gain / np.maximum(remaining, CHEAPEST), -np.inf)
        pick = int(np.argmax(worth))
        if self.context.spent >= LEAST_SPENT and (led := self._follow(candidates, reserve=float(remaining[pick]))):
            return led
        if self._enough(float(gain[pick]), float(remaining[pick])):
            return self.pace.end("what the model still expects to gain is below the noise", settled=True)
        unseen = np.where(self._unseen(candidates) & ready, worth, -np.inf)
        return (
            self._repeat(float(gain[pick]))
            or self._introduce(candidates, unseen)
            or self.pace.advance(candidates[pick], self.pace.after(candidates[pick].trained), "refine")
        )

    def _held(self, candidates: Sequence[Candidate], fallen: Floats) -> Floats:
        """Draws in which a run that is late and behind a complete one, of its schedule if possible, stays behind it."""
        done = sorted(self.view.completed, key=self.beliefs.result)
        for j, c in enumerate(candidates):
            if c.observation is None or c.completed or c.trained < LATE * self.pace.length or not done:
                continue
            kind = (c.recipe.schedule, c.recipe.warmup)
            kin = next((a for a in done if (a.seen.recipe.schedule, a.seen.recipe.warmup) == kind), None)
            ahead = kin or done[0]
            if c.x < ahead.x and self.view.overfit_from(ahead) is not None:
                continue  # it has had too much of what this one has had less of
            behind = self.beliefs.behind(c.observation, ahead) - (0.0 if kin else ACROSS)
            if behind > 0:
                fallen[:, j] = np.maximum(fallen[:, j], self.beliefs.result(ahead) + KEPT * behind)
        return fallen

    def _enough(self, gain: float, remaining: float) -> bool:
        """Whether a search that may stop does, rather than finish the run that is expected to gain most."""
        worth, least = WORTH * (1 + PER_TENFOLD * math.log10(len(self.beliefs.combos))), LEAST_SPENT
        if self.beliefs.confirmed:
            worth, least = STRICTER * worth, LEAST_CONFIRMED
        return self.context.self_stopping and self.context.spent >= least and gain < worth * max(remaining, CHEAPEST)

    def _follow(self, candidates: Sequence[Candidate], reserve: float = 0.0) -> Action | None:
        """The next piece of a run right of the best that nothing has refuted: it leads, as far as it came.

        It leaves the budget for `reserve` full trainings.
        """
        best = min(self.view.completed, key=lambda a: (self.beliefs.result(a), a.number))
        ahead = {observation.number for observation in self.beliefs.ahead(best)}
        legs = [
            (self.pace.after(c.trained), c)
            for c in candidates
            if c.observation and c.observation.number in ahead and free(c)
        ]
        legs = [(until, c) for until, c in legs if until <= FOLLOWED * self.pace.length]
        legs = [(until, c) for until, c in legs if self.pace.affords(self.pace.price(c, until) + reserve)]
        if not legs:
            return None
        until, candidate = min(legs, key=lambda leg: (leg[0], leg[1].x))
        return self.pace.advance(candidate, until, "it leads as far as it came")

    def _introduce(self, candidates: Sequence[Candidate], worth: Floats) -> Action | None:
        """A first look at the best of those with a value never looked at; those without are worth -inf."""
        if len(self.view.completed) < ASKED_AFTER or not np.isfinite(worth).any():
            return None
        return self.pace.advance(candidates[int(np.argmax(worth))], self.pace.first, "a setting never looked at")

    def _unseen(self, candidates: Sequence[Candidate]) -> npt.NDArray[np.bool_]:
        """Which would be the first run with some value of a setting, shape (candidates,)."""
        tried = [set(values) for values in zip(*(observation.key for observation in self.view.arms), strict=True)]
        fresh = {
            key: any(value not in known for value, known in zip(key, tried, strict=True))
            for key in {c.key for c in candidates}
        }
        return np.array([c.observation is None and fresh[c.key] for c in candidates])

    def _repeat(self, gain: float) -> Action | None:
        """One of the two best once more, where the end of the budget is near and little is left to gain."""
        if self.context.self_stopping or self.context.left >= NEAR_END or gain >= CONFIRM:
            return None
        base = min(t.recipe.seed for t in self.context.trials)
        known = {(t.recipe.with_seed(0), t.recipe.seed - base) for t in self.context.trials}
        tops = sorted((a for a in self.view.completed if a.seen.recipe.seed == base), key=self.beliefs.result)[:2]
        for seed in range(1, REPEATS + 1):
            for observation in tops:
                if (observation.seen.recipe.with_seed(0), seed) in known or self.context.exhausted:
                    continue
                if not self.pace.affords(1):
                    return None
                params = self.context.space.params(observation.seen.recipe)
                return Start(params=params, until=self.pace.length, seed=seed, why="paired repeat")
        return None
