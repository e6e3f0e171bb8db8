"""What a search has seen, as arrays: every run's place, how far it came and what it showed, scaled to one measure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune import schedules
from lrtune.outcome import Outcome
from lrtune.search.landscape import Points

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.recipe import Recipe
    from lrtune.search.base import Seen, Situation

__all__ = ["SETTINGS", "Arm", "Profiles", "View", "alikeness", "place", "points", "settings"]

Floats: TypeAlias = npt.NDArray[np.float64]

LOOKS = 4  # points of a curve that the model is shown, at t, t/2, t/4, ...
SMOOTHING = 1.4  # a look is the mean of the reports within this factor of its time
SETTINGS = ("batch_size", "schedule", "warmup", "optimizer", "momentum", "weight_decay", "layer_decay")
FLAT = 0.01  # of its level: changes by less than this are none
HUGE = 1e100  # beyond which values are as bad as can be, and squares still are numbers
EXPLODED = 3.0  # times what slow runs showed first: more is no sign of the untrained model
FEW = 3  # arms or reports from which something can be said
NEIGHBOURS = 1.5  # decades from the first run that leaves a plateau to others that may be about to
BROAD = 0.9  # decades over which a basin is never flat
STAYS = 0.2  # of what a high learning rate spoils stays when it is annealed away
GRID = 128  # points at which a schedule is summed


@dataclass(frozen=True, slots=True)
class Arm:
    """One run as the model sees it.

    Attributes
    ----------
    seen
        The trial.
    x
        log10 of its batch-scaled learning rate.
    key
        Its other settings.
    values
        Its curve, smaller is better; finite values only.
    """

    seen: Seen
    x: float
    key: tuple[Any, ...]
    values: Floats

    @property
    def number(self) -> int:
        """The trial's number."""
        return self.seen.number

    @property
    def completed(self) -> bool:
        """Whether it was trained to its end."""
        return self.seen.outcome is Outcome.COMPLETED and len(self.values) > 0

    @property
    def diverged(self) -> bool:
        """Whether it was judged to have diverged."""
        return self.seen.outcome is not None and self.seen.outcome.diverged


def place(recipe: Recipe, situation: Situation) -> float:
    """log10 of the learning rate, scaled by the batch size where that is searched."""
    space = situation.space
    return math.log10(space.scaled_lr(space.params(recipe)))


def settings(recipe: Recipe) -> tuple[Any, ...]:
    """Everything but the learning rate, hashable."""
    return tuple(getattr(recipe, name) for name in SETTINGS)


class View:
    """All arms of a situation, and the measure in which they are compared.

    Attributes
    ----------
    arms
        All trials that say something, in the order of their numbers.
    alive, completed
        Those that show something and have not diverged; those among them that are trained to their end.
    low, high
        The values that are 0 and 1 in the model's measure.
    """

    def __init__(self, situation: Situation) -> None:
        self.situation = situation
        self.length = float(situation.epochs)
        self.arms = [self._arm(seen) for seen in situation.trials]
        self.alive = [arm for arm in self.arms if len(arm.values) and not arm.diverged]
        self.completed = [arm for arm in self.alive if arm.completed]
        self._measure()

    def _arm(self, seen: Seen) -> Arm:
        values = self.situation.sign * np.asarray(seen.values, dtype=np.float64)
        finite = np.isfinite(values)
        upto = len(values) if finite.all() else int(np.argmin(finite))
        values = np.clip(values[:upto], -HUGE, HUGE)
        return Arm(seen, place(seen.recipe, self.situation), settings(seen.recipe), values)

    def _measure(self) -> None:
        best = min(self.alive, key=lambda arm: (float(arm.values[-1]), arm.number), default=None)
        self.low = 0.0 if best is None else float(best.values[-1])
        given = self.situation.untrained
        if given is not None and math.isfinite(given):
            high = self.situation.sign * given
        else:
            high = self._high_from_firsts(best)
        self.high = high if high > self.low else self.low + max(abs(self.low), 1e-12)

    def _high_from_firsts(self, best: Arm | None) -> float:
        """About what the untrained model showed: what slow runs, and those stuck at chance, showed first.

        What has exploded showed more, and is left out.
        """
        above = sorted(float(arm.values[0]) - self.low for arm in self.alive if arm.values[0] > self.low)
        if best is None or not above:
            return self.low
        slow = max((float(arm.values[0]) - self.low for arm in self.alive if arm.x <= best.x), default=0.0)
        allowed = EXPLODED * (slow if slow > 0 else above[0])
        return self.low + max(rise for rise in above if rise <= max(allowed, above[0]))

    def scaled(self, value: Any) -> Any:
        """0 the best seen so far, 1 the untrained model."""
        return (value - self.low) / (self.high - self.low)

    def at(self, arm: Arm, fraction: float) -> float:
        """What an arm showed at a fraction of the training, scaled; infinite where it has not been or diverged."""
        epochs = arm.seen.epochs[: len(arm.values)]
        if arm.diverged or not len(epochs) or epochs[-1] < fraction * self.length - 1e-9:
            return math.inf
        upto = fraction * self.length
        held = (epochs <= upto + 1e-9) & (epochs > upto / SMOOTHING)
        value = arm.values[held].mean() if held.any() else np.interp(upto, epochs, arm.values)
        return float(self.scaled(value))

    def roughness(self, arm: Arm) -> float:
        """Noise of one report of an arm, scaled: what is left of its curve beside its neighbours."""
        if len(arm.values) <= FEW:
            return 0.0
        bends = arm.values[1:-1] - 0.5 * (arm.values[:-2] + arm.values[2:])
        late = bends[len(bends) // 3 :]
        spread = float(np.median(np.abs(late))) / 0.6745 / math.sqrt(1.5)
        return min(1.0, spread / (self.high - self.low))

    @property
    def plateau(self) -> list[Arm]:
        """The best arms where they show the same over a decade: nothing learns yet, and looks tell nothing."""
        held = self._level({arm.number: float(arm.values[-1]) for arm in self.alive})
        return [] if any(arm.completed for arm in held) else held

    @property
    def left_behind(self) -> list[Arm]:
        """Neighbours of the best arm still on a plateau that it has left since: they were not seen so late."""
        if not self.alive or self.completed:
            return []
        best = min(self.alive, key=lambda arm: (float(arm.values[-1]), arm.number))
        behind = [arm for arm in self.alive if arm.seen.trained < best.seen.trained]
        if not behind:
            return []
        then = np.interp(max(arm.seen.trained for arm in behind), best.seen.epochs[: len(best.values)], best.values)
        held = self._level({arm.number: float(arm.values[-1]) for arm in behind} | {best.number: float(then)})
        near = [arm for arm in held if arm is not best and abs(arm.x - best.x) <= NEIGHBOURS]
        return near if best in held else []

    def _level(self, values: Mapping[int, float]) -> list[Arm]:
        """The arms that show about the best of these values, if they span a range over which a basin is never flat."""
        if len(values) < FEW:
            return []
        best = min(values.values())
        level = max(abs(v) for v in values.values() if v - best <= FLAT * abs(v))
        held = [arm for arm in self.alive if values.get(arm.number, math.inf) - best <= FLAT * level]
        span = max(arm.x for arm in held) - min(arm.x for arm in held)
        return held if len(held) >= FEW and span >= BROAD else []

    def looks(self, arm: Arm) -> list[tuple[float, float]]:
        """Points of its curve for the model: (fraction of the training, scaled value), the latest first."""
        epochs = arm.seen.epochs[: len(arm.values)]
        found: list[tuple[float, float]] = []
        limit = float(epochs[-1])
        for k in range(LOOKS):
            held = (epochs <= limit + 1e-9) & (epochs > limit / SMOOTHING)
            if not held.any():
                break
            exact = k == 0 and arm.completed
            value = arm.values[-1] if exact else arm.values[held].mean()
            when = epochs[-1] if exact else epochs[held].mean()
            found.append((float(when) / self.length, float(self.scaled(value))))
            earlier = epochs[epochs <= limit / 2 + 1e-9]
            if not len(earlier):
                break
            limit = float(earlier[-1])
        return found


class Profiles:
    """The summed and the present learning-rate multiplier of recipes, cached by their schedule."""

    def __init__(self, length: float) -> None:
        self._length = length
        self._known: dict[tuple[Any, ...], tuple[Floats, Floats]] = {}

    def of(self, recipe: Recipe, fraction: float) -> tuple[float, float]:
        """(multiplier summed up to a fraction of the run, multiplier there)."""
        key = (recipe.schedule, recipe.warmup)
        if key not in self._known:
            schedule = schedules.for_recipe(recipe, GRID)
            level = np.asarray(schedule((np.arange(GRID) + 0.5) / GRID), dtype=np.float64)
            self._known[key] = (np.cumsum(level) / GRID, level)
        area, level = self._known[key]
        spot = max(0.0, fraction * GRID)
        left = np.concatenate([[0.0], area])
        summed = float(np.interp(spot, np.arange(GRID + 1), left))
        return max(summed, 1e-6), float(level[min(GRID - 1, int(spot))])


def points(places: Sequence[tuple[float, float, Recipe, int, int]], profiles: Profiles) -> Points:
    """Places (x, fraction, recipe, group, run) as the model's arrays."""
    profile = [profiles.of(recipe, fraction) for _, fraction, recipe, _, _ in places]
    return Points(
        x=np.array([p[0] for p in places]),
        t=np.array([p[1] for p in places]),
        area=np.array([p[0] for p in profile]),
        level=np.array([STAYS + (1 - STAYS) * p[1] for p in profile]),
        group=np.array([p[3] for p in places], dtype=np.int64),
        run=np.array([p[4] for p in places], dtype=np.int64),
    )


def alikeness(keys: Sequence[tuple[Any, ...]]) -> Floats:
    """Correlation between combinations of the other settings, shape (n, n): 1 where they are equal.

    Each setting that differs takes away a part: a number by its distance in decades, a name by half.
    """
    found = np.ones((len(keys), len(keys)))
    for i, one in enumerate(keys):
        for j, two in enumerate(keys[:i]):
            apart = sum(_apart(a, b) for a, b in zip(one, two, strict=True))
            found[i, j] = found[j, i] = math.exp(-apart)
    return found


def _apart(one: Any, two: Any) -> float:
    if one == two:
        return 0.0
    if isinstance(one, int | float) and isinstance(two, int | float):
        if one > 0 and two > 0:
            return min(0.2, 0.15 * abs(math.log10(one / two)))
        return 0.1
    return 0.2
