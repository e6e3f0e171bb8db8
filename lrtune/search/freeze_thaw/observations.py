"""What a search has seen, as arrays: every run's place, how far it came and what it showed, scaled to one measure."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.core.outcome import Outcome
from lrtune.schedules import parse, with_warmup
from lrtune.search.freeze_thaw.model import Points

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.search.base import SearchContext, TrialView

__all__ = ["SETTINGS", "Observation", "Observations", "alikeness", "place", "points", "profile", "settings"]

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
TURN = 0.01  # of the way from untrained to best, by which a run must have become worse again
GRID = 128  # points at which a schedule is summed


@dataclass(frozen=True, slots=True)
class Observation:
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

    seen: TrialView
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


def place(recipe: Recipe, context: SearchContext) -> float:
    """log10 of the learning rate, scaled by the batch size where that is searched."""
    space = context.space
    return math.log10(space.scaled_lr(space.params(recipe)))


def settings(recipe: Recipe) -> tuple[Any, ...]:
    """Everything but the learning rate, hashable."""
    return tuple(getattr(recipe, name) for name in SETTINGS)


class Observations:
    """All arms of a situation, and the measure in which they are compared.

    Attributes
    ----------
    arms
        All trials that say something, in the order of their numbers.
    alive, completed
        Those that show something and have not diverged; those among them that are trained to their end.
    best
        The one with the best value so far; None where none is alive.
    low, high
        The values that are 0 and 1 in the model's measure.
    """

    def __init__(self, context: SearchContext) -> None:
        self.context = context
        self.length = float(context.epochs)
        self.arms = [self._arm(seen) for seen in context.trials]
        self.alive = [observation for observation in self.arms if len(observation.values) and not observation.diverged]
        self.completed = [observation for observation in self.alive if observation.completed]
        self.best = min(
            self.alive, key=lambda observation: (float(observation.values[-1]), observation.number), default=None
        )
        self._shown: dict[tuple[int, float], float] = {}
        self._overfit_from: dict[int, float | None] = {}
        self._measure()

    def _arm(self, seen: TrialView) -> Observation:
        values = self.context.sign * np.asarray(seen.values, dtype=np.float64)
        finite = np.isfinite(values)
        upto = len(values) if finite.all() else int(np.argmin(finite))
        values = np.clip(values[:upto], -HUGE, HUGE)
        return Observation(seen, place(seen.recipe, self.context), settings(seen.recipe), values)

    def _measure(self) -> None:
        self.low = 0.0 if self.best is None else float(self.best.values[-1])
        given = self.context.untrained
        if given is not None and math.isfinite(given):
            high = self.context.sign * given
        else:
            high = self._high_from_firsts(self.best)
        self.high = high if high > self.low else self.low + max(abs(self.low), 1e-12)

    def _high_from_firsts(self, best: Observation | None) -> float:
        """About what the untrained model showed: what slow runs, and those stuck at chance, showed first.

        What has exploded showed more, and is left out.
        """
        above = sorted(
            float(observation.values[0]) - self.low for observation in self.alive if observation.values[0] > self.low
        )
        if best is None or not above:
            return self.low
        slow = max(
            (float(observation.values[0]) - self.low for observation in self.alive if observation.x <= best.x),
            default=0.0,
        )
        allowed = EXPLODED * (slow if slow > 0 else above[0])
        return self.low + max(rise for rise in above if rise <= max(allowed, above[0]))

    def scaled(self, value: Any) -> Any:
        """0 the best seen so far, 1 the untrained model."""
        return (value - self.low) / (self.high - self.low)

    def at(self, observation: Observation, fraction: float) -> float:
        """What an arm showed at a fraction of the training, scaled; infinite where it has not been or diverged."""
        asked = observation.number, fraction
        if asked not in self._shown:  # all arms are compared with each other, at few fractions
            self._shown[asked] = self._at(observation, fraction)
        return self._shown[asked]

    def _at(self, observation: Observation, fraction: float) -> float:
        epochs = observation.seen.epochs[: len(observation.values)]
        if observation.diverged or not len(epochs) or observation.seen.trained < fraction * self.length - 1e-9:
            return math.inf  # beyond its last report it stands where that left it
        upto = fraction * self.length
        held = _held(epochs, upto)
        value = (
            _mean(observation.values[held]) if held.stop > held.start else np.interp(upto, epochs, observation.values)
        )
        return float(self.scaled(value))

    def roughness(self, observation: Observation) -> float:
        """Noise of one report of an arm, scaled: what is left of its curve beside its neighbours."""
        if len(observation.values) <= FEW:
            return 0.0
        bends = observation.values[1:-1] - 0.5 * (observation.values[:-2] + observation.values[2:])
        late = bends[len(bends) // 3 :]
        spread = float(np.median(np.abs(late))) / 0.6745 / math.sqrt(1.5)
        return min(1.0, spread / (self.high - self.low))

    def overfit_from(self, observation: Observation) -> float | None:
        """The fraction of the training at which an arm was best, if it has become clearly worse since."""
        if observation.number not in self._overfit_from:  # asked for every run that may have had less than it
            self._overfit_from[observation.number] = self._turn(observation)
        return self._overfit_from[observation.number]

    def _turn(self, observation: Observation) -> float | None:
        epochs = observation.seen.epochs[: len(observation.values)]
        if len(epochs) < FEW:
            return None
        means = np.array([_mean(observation.values[_held(epochs, float(upto))]) for upto in epochs])
        best = int(np.argmin(means))
        lost = float(means[-1] - means[best]) / (self.high - self.low)
        if lost <= TURN + 2 * self.roughness(observation):
            return None
        return float(epochs[best]) / self.length

    @property
    def plateaued(self) -> bool:
        """Whether nothing has learned: the best is where the untrained model was, but for noise."""
        return self.high - self.low <= FLAT * max(abs(self.low), abs(self.high))

    @property
    def plateau(self) -> list[Observation]:
        """The best arms where they show the same over a decade: nothing learns yet, and looks tell nothing."""
        held = self.level({observation.number: float(observation.values[-1]) for observation in self.alive})
        return [] if any(observation.completed for observation in held) else held

    @property
    def stalled(self) -> Observation | None:
        """The best arm where it has not become better since its first report: it may have learned all, or nothing."""
        best = self.best
        if best is None or self.completed or len(best.values) < FEW:
            return None
        return best if float(best.values[0] - best.values[-1]) <= FLAT * abs(float(best.values[-1])) else None

    @property
    def left_behind(self) -> list[Observation]:
        """Neighbours of the best arm still on a plateau that it has left since: they were not seen so late."""
        best = self.best
        if best is None or self.completed:
            return []
        behind = [observation for observation in self.alive if observation.seen.trained < best.seen.trained]
        if not behind:
            return []
        then = np.interp(
            max(observation.seen.trained for observation in behind), best.seen.epochs[: len(best.values)], best.values
        )
        held = self.level(
            {observation.number: float(observation.values[-1]) for observation in behind} | {best.number: float(then)}
        )
        near = [
            observation for observation in held if observation is not best and abs(observation.x - best.x) <= NEIGHBOURS
        ]
        return near if best in held else []

    def level(self, values: Mapping[int, float]) -> list[Observation]:
        """The arms that show about the best of these values, if they span a range over which a basin is never flat.

        `values` holds what arms show, by number; none where the arms at the best of it are too few or too close.
        """
        if len(values) < FEW:
            return []
        best = min(values.values())
        level = max(abs(v) for v in values.values() if v - best <= FLAT * abs(v))
        held = [
            observation for observation in self.alive if values.get(observation.number, math.inf) - best <= FLAT * level
        ]
        span = max(observation.x for observation in held) - min(observation.x for observation in held)
        return held if len(held) >= FEW and span >= BROAD else []

    def looks(self, observation: Observation) -> list[tuple[float, float]]:
        """Points of its curve for the model: (fraction of the training, scaled value), the latest first."""
        epochs = observation.seen.epochs[: len(observation.values)]
        found: list[tuple[float, float]] = []
        limit = float(epochs[-1])
        for k in range(LOOKS):
            held = _held(epochs, limit)
            if held.stop <= held.start:
                break
            exact = k == 0 and observation.completed
            value = observation.values[-1] if exact else _mean(observation.values[held])
            when = epochs[-1] if exact else _mean(epochs[held])
            found.append((float(when) / self.length, float(self.scaled(value))))
            earlier = int(np.searchsorted(epochs, limit / 2 + 1e-9, side="right"))
            if not earlier:
                break
            limit = float(epochs[earlier - 1])
        return found


def _held(epochs: Floats, upto: float) -> slice:
    """Which reports (of increasing epochs) a look at an epoch is the mean of; perhaps none."""
    first, last = np.searchsorted(epochs, (upto / SMOOTHING, upto + 1e-9), side="right").tolist()
    return slice(first, last)


def _mean(values: Floats) -> float:
    """As numpy's, which spends ten times as long on a few numbers."""
    return float(np.add.reduce(values)) / len(values)


@functools.lru_cache(maxsize=1024)
def profile(schedule: str, warmup: float) -> tuple[Floats, Floats]:
    """A schedule's multiplier summed up to each of GRID + 1 places of the run, and the multiplier between them.

    Shapes (GRID + 1,) and (GRID,); kept, and therefore read-only.
    """
    multiplier = with_warmup(parse(schedule), warmup, total_steps=GRID)
    level = np.array(multiplier((np.arange(GRID) + 0.5) / GRID), dtype=np.float64)
    area = np.concatenate([[0.0], np.cumsum(level) / GRID])
    level.flags.writeable = area.flags.writeable = False
    return area, level


def points(
    x: Sequence[float], t: Floats, recipes: Sequence[Recipe], group: Sequence[int], run: Sequence[int]
) -> Points:
    """Places as the model's arrays: log10 of the scaled learning rate, fraction of the run, and what it is a run of."""
    area, level = np.empty(len(x)), np.empty(len(x))
    kinds: dict[tuple[str, float], list[int]] = {}
    for i, recipe in enumerate(recipes):
        kinds.setdefault((recipe.schedule, recipe.warmup), []).append(i)
    for kind, rows in kinds.items():
        summed, now = profile(*kind)
        spots = np.maximum(0.0, t[rows] * GRID)
        area[rows] = np.maximum(np.interp(spots, np.arange(GRID + 1), summed), 1e-6)
        level[rows] = now[np.minimum(GRID - 1, spots.astype(np.int64))]
    return Points(
        x=np.array(x, dtype=np.float64),
        t=t,
        area=area,
        level=STAYS + (1 - STAYS) * level,
        group=np.array(group, dtype=np.int64),
        run=np.array(run, dtype=np.int64),
    )


def alikeness(keys: Sequence[tuple[Any, ...]]) -> Floats:
    """Correlation between combinations of the other settings, shape (n, n): 1 where they are equal.

    Each setting that differs takes away a part: a number by its distance in decades, a name by half.
    """
    found = np.ones((len(keys), len(keys)))
    for i, one in enumerate(keys):
        for j, two in enumerate(keys[:i]):
            found[i, j] = found[j, i] = _alike(one, two)
    return found


@functools.lru_cache(maxsize=8192)
def _alike(one: tuple[Any, ...], two: tuple[Any, ...]) -> float:
    return math.exp(-sum(_apart(a, b) for a, b in zip(one, two, strict=True)))


def _apart(one: Any, two: Any) -> float:
    if one == two:
        return 0.0
    if isinstance(one, int | float) and isinstance(two, int | float):
        if one > 0 and two > 0:
            return min(0.2, 0.15 * abs(math.log10(one / two)))
        return 0.1
    return 0.2
