"""Where freeze-thaw may train next: paused runs, and new ones on a grid around the best, within its basin.

A decision compares a bounded number of candidates; no optimiser proposes learning rates. The more runs are complete,
the closer new ones may lie.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from lrtune.search.freeze_thaw.config import CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrtune.search.freeze_thaw.beliefs import Beliefs
    from lrtune.search.freeze_thaw.observations import Key, Observation

__all__ = ["Candidates"]

EXACT = 1e-6  # decades: no rounding makes two learning rates differ by more


class Candidates:
    """What one decision compares."""

    def __init__(self, beliefs: Beliefs) -> None:
        self.beliefs = beliefs
        self.observed = beliefs.observed
        self.context = beliefs.context
        low, high = self.context.space.lr_range
        self.range = math.log10(low), math.log10(high)

    def all(self) -> list[Observation]:
        """Complete runs, paused ones and such as could be started.

        Once one is complete: within the basin, the closer to each other the more are; where nothing is left
        there, closer still, and at last anywhere.
        """
        count = len(self.observed.completed)
        if not count:
            return self._within(CONFIG.apart, self.in_basin)
        apart = max(CONFIG.closest, 2 * CONFIG.apart / count)
        found = self._within(apart, self.in_basin)
        while apart > CONFIG.closest and not _trainable(found):
            apart = max(CONFIG.closest, apart / 2)
            found = self._within(apart, self.in_basin)
        return found if _trainable(found) else self._within(CONFIG.closest, lambda _x, _key: True)

    def _within(self, apart: float, inside: Callable[[float, Key], bool]) -> list[Observation]:
        """Those inside a region; new ones at least `apart` decades from each run."""
        done = sorted(self.observed.completed, key=self.beliefs.result)[: CONFIG.most_runs]
        paused = [run for run in self.beliefs.learning if run.trial.outcome is None and inside(run.x, run.key)]
        paused.sort(key=lambda run: (-run.trained, run.last))
        known = [*done, *paused[: CONFIG.most_runs]]
        return known if self.context.exhausted else [*known, *self._new(apart, inside)]

    def _new(self, apart: float, inside: Callable[[float, Key], bool]) -> Iterator[Observation]:
        beliefs = self.beliefs
        taken: dict[Key, list[float]] = {}
        for run in self.observed.runs:
            taken.setdefault(run.key, []).append(run.lr_x)
        bisect = (max(run.x for run in beliefs.learning) + beliefs.edge) / 2 if self.observed.completed else math.inf
        for key, middle, steps in self._grids():
            shift = beliefs.shift(key)
            for lr_x in [*self._grid(middle + shift, steps), *([bisect + shift] if math.isfinite(bisect) else [])]:
                least = EXACT if lr_x in self.range else apart  # nothing lies beyond the ends: they are tried exactly
                x = lr_x - shift
                free = x < beliefs.edge and inside(x, key)
                if free and all(abs(lr_x - other) > least for other in taken.get(key, [])):
                    yield beliefs.unstarted(lr_x, key)

    # -- the basin ---------------------------------------------------------------------------------

    def in_basin(self, x: float, key: Key) -> bool:
        """Whether it lies between complete runs that are worse than the best complete one: one basin is assumed."""
        low, high = self._basins.get(key, (-math.inf, math.inf))
        return low < x < high

    @functools.cached_property
    def _basins(self) -> dict[Key, tuple[float, float]]:
        """Under each combination of settings, the nearest complete runs (x) left and right that end clearly worse."""
        found = {}
        for key in {run.key for run in self.observed.completed}:
            done = [run for run in self.observed.completed if run.key == key]
            best = min(done, key=self.beliefs.result)
            worse = [run for run in done if self._loses(run, best)]
            # one that has overfitted does not end the basin towards less training
            left = [run.x for run in worse if run.x < best.x and self.observed.overfit_from(run) is None]
            right = [run.x for run in worse if run.x > best.x]
            found[key] = max(left, default=-math.inf), min(right, default=math.inf)
        return found

    def _loses(self, run: Observation, best: Observation) -> bool:
        """Whether a complete run ends clearly worse than the best one."""
        noise = math.hypot(self.observed.roughness(run), self.observed.roughness(best))
        margin = CONFIG.tolerance + CONFIG.sigmas * noise
        return self.beliefs.result(run) > self.beliefs.result(best) + margin

    # -- the grid ----------------------------------------------------------------------------------

    def _grids(self) -> list[tuple[Key, float, Sequence[float]]]:
        """Where runs may be started: combinations of the other settings, a middle (x), steps to both its sides."""
        beliefs = self.beliefs
        if len(beliefs.combinations) == 1:
            middles = [beliefs.best.x] if beliefs.overfit_from is None else [beliefs.best.x, beliefs.overfit_from]
            return [(beliefs.combinations[0], middle, CONFIG.grid) for middle in middles]
        expected, _ = beliefs.expected
        tops = list(dict.fromkeys(run.key for run in beliefs.by_progress))
        if not self.observed.completed:  # finish something good before asking what else is
            preferred = sorted(beliefs.combinations, key=beliefs.prior_score, reverse=True)[:2]
            return [(key, expected, CONFIG.joint_grid) for key in dict.fromkeys([*tops[:1], *preferred])]
        others = [key for key in beliefs.combinations if key not in tops[:2]]
        if len(others) > CONFIG.most_untried:
            others = [others[i] for i in beliefs.rng.choice(len(others), CONFIG.most_untried, replace=False)]
        place = min(expected, beliefs.edge - CONFIG.untried_below_edge)
        near = [(key, beliefs.best.x, CONFIG.joint_grid) for key in tops[:2]]
        return [*near, *((key, place, CONFIG.untried_grid) for key in others)]

    def _grid(self, middle: float, steps: Sequence[float]) -> list[float]:
        """Learning rates (log10) around a middle; with the ends of the range, and beyond where the best is there."""
        low, high = self.range
        near = sorted({round(float(middle + sign * step), 6) for step in steps for sign in (-1, 1)})
        inner = [x for x in near if low + CONFIG.closest < x < high - CONFIG.closest]
        if steps is not CONFIG.grid:
            return inner
        place = self.beliefs.champion.x
        lowest, highest = self.context.reach
        beyond = [x for x in near if lowest <= x < low - CONFIG.closest and place < low + CONFIG.apart]
        beyond += [x for x in near if high + CONFIG.closest < x <= highest and place > high - CONFIG.apart]
        return [low, *inner, high, *beyond]


def _trainable(candidates: list[Observation]) -> bool:
    """Whether any of them can be trained."""
    return any(run.trial.open and not run.completed for run in candidates)
