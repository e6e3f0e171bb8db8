"""Where runs may be trained on or started: a grid around the best, closer the more is known, within its basin.

Learning rates are not proposed by an optimiser. A decision compares a bounded number of candidates: the
runs there are, and places on a grid that are far enough from all of them.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.search.freeze_thaw.beliefs import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrtune.search.freeze_thaw.beliefs import Beliefs
    from lrtune.search.freeze_thaw.observations import Observation

__all__ = ["APART", "FINEST", "Places", "free"]

Floats: TypeAlias = npt.NDArray[np.float64]
Key: TypeAlias = tuple[Any, ...]

APART = 0.12  # decades between runs before one is finished; afterwards 0.24 over the number finished
FINEST = 0.02  # decades: closer runs differ by less than noise
EXACT = 1e-6  # decades: no rounding makes two learning rates differ by more
STEPS = np.array([*np.arange(0, 0.8, 0.05), *np.arange(0.8, 2.1, 0.1)])  # from the middle to where runs may start
NEAR = np.array([0.0, 0.1, 0.2, 0.3, 0.45, 0.6])  # the same, where other settings are searched too
FAR = np.array([0.0, 0.25])  # and under settings that nothing speaks for yet
BELOW_EDGE = 1 / 3  # decades below the edge at which those are looked at, at the highest
MOST_ARMS = 50  # complete and paused runs, each, that one decision looks at
MOST_OTHERS = 24  # combinations of other settings that one decision looks at
WALL = 0.01  # regret by which a complete run must lose to the best complete one for its basin to end there
SIGMAS = 2.0  # standard deviations of their difference, that it must lose by beside


class Places:
    """Where one decision may train."""

    def __init__(self, beliefs: Beliefs) -> None:
        self.beliefs = beliefs
        self.view = beliefs.view
        self.context = beliefs.context
        low, high = self.context.space.lr_range
        self.range = math.log10(low), math.log10(high)

    def candidates(self) -> list[Candidate]:
        """Runs that may be trained on, and places where one may be started; complete runs beside them.

        Once one is complete: within the basin, the closer to each other the more are; where nothing is left
        there, closer still, and at last anywhere.
        """
        count = len(self.view.completed)
        if not count:
            return self._enclosed(APART, self.within)
        apart = max(FINEST, 2 * APART / count)
        found = self._enclosed(apart, self.within)
        while apart > FINEST and not _room(found):
            apart = max(FINEST, apart / 2)
            found = self._enclosed(apart, self.within)
        return found if _room(found) else self._enclosed(FINEST, lambda _x, _key: True)

    def _enclosed(self, apart: float, within: Callable[[float, Key], bool]) -> list[Candidate]:
        """Those within, new ones so far apart."""
        found = [
            Candidate(observation.x, observation.seen.recipe, observation.key, observation)
            for observation in self._known(within)
        ]
        return found if self.context.exhausted else [*found, *self._new(apart, within)]

    def _known(self, within: Callable[[float, Key], bool]) -> list[Observation]:
        """The best complete runs, and the paused ones within that came furthest."""
        beliefs = self.beliefs
        done = sorted(self.view.completed, key=beliefs.result)[:MOST_ARMS]
        paused = [a for a in self.view.alive if a.x < beliefs.edge and a.seen.outcome is None and within(a.x, a.key)]
        paused.sort(key=lambda a: (-a.seen.trained, float(a.values[-1])))
        return [*done, *paused[:MOST_ARMS]]

    def _new(self, apart: float, within: Callable[[float, Key], bool]) -> Iterator[Candidate]:
        beliefs = self.beliefs
        taken: dict[Key, list[float]] = {}
        for observation in self.view.arms:
            taken.setdefault(observation.key, []).append(math.log10(observation.seen.recipe.lr))
        bisect = (max(a.x for a in beliefs.learning) + beliefs.edge) / 2 if self.view.completed else math.inf
        for key, middle, steps in self._around():
            shift = beliefs.shift(key)
            for x in [*self._grid(middle + shift, steps), *([bisect + shift] if math.isfinite(bisect) else [])]:
                least = EXACT if x in self.range else apart  # nothing lies beyond the ends: worth an exact look
                if (
                    x - shift < beliefs.edge
                    and within(x - shift, key)
                    and all(abs(x - other) > least for other in taken.get(key, []))
                ):
                    yield Candidate(x - shift, beliefs.recipe(x, key), key, None)

    # -- the basin ---------------------------------------------------------------------------------

    def within(self, x: float, key: Key) -> bool:
        """Whether it lies between complete runs that are worse than the best complete one: there is one basin only."""
        low, high = self._basins.get(key, (-math.inf, math.inf))
        return low < x < high

    @functools.cached_property
    def _basins(self) -> dict[Key, tuple[float, float]]:
        """Under each combination of settings, the nearest complete runs (x) left and right that end clearly worse."""
        found = {}
        for key in {observation.key for observation in self.view.completed}:
            done = [observation for observation in self.view.completed if observation.key == key]
            best = min(done, key=self.beliefs.result)
            worse = [observation for observation in done if self._loses(observation, best)]
            # one that has had too much training itself is no end of the basin towards less of it
            left = [
                observation.x
                for observation in worse
                if observation.x < best.x and self.view.overfit_from(observation) is None
            ]
            right = [observation.x for observation in worse if observation.x > best.x]
            found[key] = max(left, default=-math.inf), min(right, default=math.inf)
        return found

    def _loses(self, observation: Observation, best: Observation) -> bool:
        """Whether a complete run ends clearly worse than the best one."""
        noise = math.hypot(self.view.roughness(observation), self.view.roughness(best))
        return self.beliefs.result(observation) > self.beliefs.result(best) + WALL + SIGMAS * noise

    # -- the grid ----------------------------------------------------------------------------------

    def _around(self) -> list[tuple[Key, float, Floats]]:
        """Where runs may be started: combinations of the other settings, a middle (x), steps to both its sides."""
        beliefs = self.beliefs
        if len(beliefs.combos) == 1:
            middles = [beliefs.best.x] if beliefs.overfit_from is None else [beliefs.best.x, beliefs.overfit_from]
            return [(beliefs.combos[0], middle, STEPS) for middle in middles]
        expected, _ = beliefs.expected
        order = sorted(beliefs.learning, key=lambda a: (-a.seen.trained, float(a.values[-1]), a.number))
        tops = list(dict.fromkeys(a.key for a in order))
        if not self.view.completed:  # finish something good before asking what else is
            favourites = sorted(beliefs.combos, key=beliefs.liking, reverse=True)[:2]
            return [(key, expected, NEAR) for key in dict.fromkeys([*tops[:1], *favourites])]
        others = [key for key in beliefs.combos if key not in tops[:2]]
        if len(others) > MOST_OTHERS:
            others = [others[i] for i in beliefs.rng.choice(len(others), MOST_OTHERS, replace=False)]
        place = min(expected, beliefs.edge - BELOW_EDGE)
        return [(key, beliefs.best.x, NEAR) for key in tops[:2]] + [(key, place, FAR) for key in others]

    def _grid(self, middle: float, steps: Floats) -> list[float]:
        """Learning rates (log10) around a middle; with the ends of the range, and beyond where the best is there."""
        low, high = self.range
        near = sorted({round(float(middle + sign * step), 6) for step in steps for sign in (-1, 1)})
        inner = [x for x in near if low + FINEST < x < high - FINEST]
        if len(steps) < len(STEPS):
            return inner
        place = self.beliefs.champion.x
        lowest, highest = self.context.reach
        beyond = [x for x in near if lowest <= x < low - FINEST and place < low + APART]
        beyond += [x for x in near if high + FINEST < x <= highest and place > high - APART]
        return [low, *inner, high, *beyond]


def free(candidate: Candidate) -> bool:
    """Whether whoever asks may train it."""
    return candidate.observation is None or candidate.observation.seen.open


def _room(candidates: list[Candidate]) -> bool:
    """Whether any of them can be trained."""
    return any(free(c) and not c.completed for c in candidates)
