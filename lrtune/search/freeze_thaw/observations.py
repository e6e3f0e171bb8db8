"""The trials' curves as the model sees them: at a common batch size, cut at the first non-finite value, normalised.

Also what curves say without a model: whether a run is on a plateau, has stalled or overfits, and how noisy it is.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.core.outcome import Outcome
from lrtune.schedules import parse, with_warmup
from lrtune.search.freeze_thaw.config import CONFIG
from lrtune.search.freeze_thaw.model import Points

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.search.base import SearchContext, TrialView

__all__ = ["SETTINGS", "Key", "Observation", "Observations", "points", "profile", "settings", "similarity"]

Floats: TypeAlias = npt.NDArray[np.float64]
Key: TypeAlias = tuple[Any, ...]

SETTINGS = ("batch_size", "schedule", "warmup", "optimizer", "momentum", "weight_decay", "layer_decay")


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """A trial in the model's coordinates; also one that could be started, with a negative number and no values.

    Attributes
    ----------
    trial
        The trial itself.
    x
        log10 of its batch-scaled learning rate.
    key
        Its other settings, in the order of :data:`SETTINGS`.
    values
        The metric up to the first non-finite value, shape (n,), negated where it is maximised: smaller is better.
    """

    trial: TrialView
    x: float
    key: Key
    values: Floats

    @property
    def number(self) -> int:
        """The trial's number; negative if it has not been started."""
        return self.trial.number

    @property
    def trained(self) -> float:
        """Epochs trained."""
        return self.trial.trained

    @property
    def lr_x(self) -> float:
        """log10 of its learning rate, not scaled."""
        return math.log10(self.trial.recipe.lr)

    @property
    def last(self) -> float:
        """Its last value."""
        return float(self.values[-1])

    @property
    def completed(self) -> bool:
        """Whether it was trained to its end."""
        return self.trial.outcome is Outcome.COMPLETED and len(self.values) > 0

    @property
    def diverged(self) -> bool:
        """Whether it was judged to have diverged."""
        return self.trial.outcome is not None and self.trial.outcome.diverged


def settings(recipe: Recipe) -> Key:
    """Everything but the learning rate, hashable."""
    return tuple(getattr(recipe, name) for name in SETTINGS)


class Observations:
    """All trials of a search, and the normalised loss in which they are compared.

    Attributes
    ----------
    runs
        All trials, in the order of their numbers.
    alive, completed
        Those with values that have not diverged; those among them that are trained to their end.
    best
        The one with the best last value; None where none is alive.
    low, high
        The values that are 0 and 1 in the normalised loss: the best seen, and that of the untrained model.
    """

    def __init__(self, context: SearchContext) -> None:
        self.context = context
        self.length = float(context.epochs)
        self.runs = [self._observation(trial) for trial in context.trials]
        self.alive = [run for run in self.runs if len(run.values) and not run.diverged]
        self.completed = [run for run in self.alive if run.completed]
        self.best = min(self.alive, key=lambda run: (run.last, run.number), default=None)
        self.low = 0.0 if self.best is None else self.best.last
        given = context.untrained
        high = context.sign * given if given is not None and math.isfinite(given) else self._untrained(self.best)
        self.high = high if high > self.low else self.low + max(abs(self.low), 1e-12)
        self.at = functools.cache(self._at)  # all runs are compared with each other, at few fractions
        self.overfit_from = functools.cache(self._overfit_from)

    def _observation(self, trial: TrialView) -> Observation:
        values = self.context.sign * np.asarray(trial.values, dtype=np.float64)
        finite = np.isfinite(values)
        upto = len(values) if finite.all() else int(np.argmin(finite))
        values = np.clip(values[:upto], -CONFIG.largest_value, CONFIG.largest_value)
        space = self.context.space
        x = math.log10(space.scaled_lr(space.params(trial.recipe)))
        return Observation(trial, x, settings(trial.recipe), values)

    def _untrained(self, best: Observation | None) -> float:
        """About the untrained model's value: the worst first report of runs that are slow or stuck, not exploded."""
        above = sorted(float(run.values[0]) - self.low for run in self.alive if run.values[0] > self.low)
        if best is None or not above:
            return self.low
        slow = max((float(run.values[0]) - self.low for run in self.alive if run.x <= best.x), default=0.0)
        allowed = CONFIG.exploded_factor * (slow if slow > 0 else above[0])
        return self.low + max(rise for rise in above if rise <= max(allowed, above[0]))

    def scaled(self, value: Any) -> Any:
        """A value of the metric (or an array of them) as normalised loss: 0 the best seen, 1 the untrained model."""
        return (value - self.low) / (self.high - self.low)

    def _at(self, run: Observation, fraction: float) -> float:
        """A run's loss at a fraction of the training; infinite where it diverged or was not trained so far."""
        epochs = run.trial.epochs[: len(run.values)]
        if run.diverged or not len(epochs) or run.trained < fraction * self.length - 1e-9:
            return math.inf
        upto = fraction * self.length  # beyond its last report, that one counts
        held = _window(epochs, upto)
        value = _mean(run.values[held]) if held.stop > held.start else np.interp(upto, epochs, run.values)
        return float(self.scaled(value))

    def roughness(self, run: Observation) -> float:
        """Standard deviation (loss) of one report: the median distance to the middle of its neighbours, if normal."""
        if len(run.values) <= CONFIG.fewest:
            return 0.0
        bends = run.values[1:-1] - 0.5 * (run.values[:-2] + run.values[2:])
        late = bends[len(bends) // 3 :]
        spread = float(np.median(np.abs(late))) / 0.6745 / math.sqrt(1.5)
        return min(1.0, spread / (self.high - self.low))

    def _overfit_from(self, run: Observation) -> float | None:
        """The fraction of the training at which a run was best, if it has become clearly worse since; else None."""
        epochs = run.trial.epochs[: len(run.values)]
        if len(epochs) < CONFIG.fewest:
            return None
        means = np.array([_mean(run.values[_window(epochs, float(upto))]) for upto in epochs])
        best = int(np.argmin(means))
        rise = float(means[-1] - means[best]) / (self.high - self.low)
        return float(epochs[best]) / self.length if rise > CONFIG.overfit_rise + 2 * self.roughness(run) else None

    @property
    def nothing_learned(self) -> bool:
        """Whether nothing has learned: the best value is that of the untrained model, but for noise."""
        return self.high - self.low <= CONFIG.flat * max(abs(self.low), abs(self.high))

    @property
    def plateau(self) -> list[Observation]:
        """The best runs where they are equal over a decade: nothing has begun to learn, and nothing can be compared."""
        held = self.level(self.alive)
        return [] if any(run.completed for run in held) else held

    @property
    def stalled(self) -> Observation | None:
        """The best run if it has not improved since its first report: it may have learned all there is, or nothing."""
        best = self.best
        if best is None or self.completed or len(best.values) < CONFIG.fewest:
            return None
        return best if float(best.values[0] - best.values[-1]) <= CONFIG.flat * abs(best.last) else None

    @property
    def left_behind(self) -> list[Observation]:
        """Neighbours of the best run on a plateau that it has left since it was trained as long as they were."""
        best = self.best
        if best is None or self.completed:
            return []
        behind = [run for run in self.alive if run.trained < best.trained]
        if not behind:
            return []
        then = np.interp(max(run.trained for run in behind), best.trial.epochs[: len(best.values)], best.values)
        held = self.level(behind, {best: float(then)})
        near = [run for run in held if run is not best and abs(run.x - best.x) <= CONFIG.plateau_neighbour]
        return near if best in held else []

    def level(self, runs: Iterable[Observation], more: Mapping[Observation, float] | None = None) -> list[Observation]:
        """Those that share the best of the last values, if they are spread so widely that runs that learn would differ.

        `more` holds further runs and their values. Empty where those at the best value are too few or too close.
        """
        values = {run: run.last for run in runs} | dict(more or {})
        if len(values) < CONFIG.fewest:
            return []
        best = min(values.values())
        level = max(abs(v) for v in values.values() if v - best <= CONFIG.flat * abs(v))
        held = [run for run in self.alive if values.get(run, math.inf) - best <= CONFIG.flat * level]
        span = max(run.x for run in held) - min(run.x for run in held)
        return held if len(held) >= CONFIG.fewest and span >= CONFIG.plateau_span else []

    def model_points(self, run: Observation) -> list[tuple[float, float]]:
        """Points of its curve for the model: (fraction of the training, loss), the latest first."""
        epochs = run.trial.epochs[: len(run.values)]
        found: list[tuple[float, float]] = []
        limit = float(epochs[-1])
        for k in range(CONFIG.model_points):
            held = _window(epochs, limit)
            if held.stop <= held.start:
                break
            exact = k == 0 and run.completed
            value = run.values[-1] if exact else _mean(run.values[held])
            when = epochs[-1] if exact else _mean(epochs[held])
            found.append((float(when) / self.length, float(self.scaled(value))))
            earlier = int(np.searchsorted(epochs, limit / 2 + 1e-9, side="right"))
            if not earlier:
                break
            limit = float(epochs[earlier - 1])
        return found


def _window(epochs: Floats, upto: float) -> slice:
    """The reports (of increasing epochs) whose mean stands for the value at an epoch; perhaps none."""
    first, last = np.searchsorted(epochs, (upto / CONFIG.smoothing, upto + 1e-9), side="right").tolist()
    return slice(first, last)


def _mean(values: Floats) -> float:
    """As numpy's, which spends ten times as long on a few numbers."""
    return float(np.add.reduce(values)) / len(values)


@functools.lru_cache(maxsize=1024)
def profile(schedule: str, warmup: float) -> tuple[Floats, Floats]:
    """A schedule's multiplier integrated up to each of n + 1 points of the run, and its level between them.

    Shapes (n + 1,) and (n,) with n = `schedule_grid`; cached, and therefore read-only.
    """
    n = CONFIG.schedule_grid
    multiplier = with_warmup(parse(schedule), warmup, total_steps=n)
    level = np.array(multiplier((np.arange(n) + 0.5) / n), dtype=np.float64)
    area = np.concatenate([[0.0], np.cumsum(level) / n])
    level.flags.writeable = area.flags.writeable = False
    return area, level


def points(runs: Sequence[Observation], t: Floats, groups: Mapping[Key, int]) -> Points:
    """Runs at fractions of the training, each of shape (n,), as the model's arrays; `groups` numbers their settings."""
    n = CONFIG.schedule_grid
    area, level = np.empty(len(runs)), np.empty(len(runs))
    rows_of: dict[tuple[str, float], list[int]] = {}
    for i, run in enumerate(runs):
        rows_of.setdefault((run.trial.recipe.schedule, run.trial.recipe.warmup), []).append(i)
    for kind, rows in rows_of.items():
        summed, now = profile(*kind)
        at = np.maximum(0.0, t[rows] * n)
        area[rows] = np.maximum(np.interp(at, np.arange(n + 1), summed), 1e-6)
        level[rows] = now[np.minimum(n - 1, at.astype(np.int64))]
    return Points(
        x=np.array([run.x for run in runs], dtype=np.float64),
        t=t,
        area=area,
        level=CONFIG.undecayed_noise + (1 - CONFIG.undecayed_noise) * level,
        group=np.array([groups[run.key] for run in runs], dtype=np.int64),
        run=np.array([run.number for run in runs], dtype=np.int64),
    )


def similarity(keys: Sequence[Key]) -> Floats:
    """Correlation between combinations of the other settings, shape (n, n): 1 where they are equal.

    Each setting that differs takes away a part: a number by its distance in decades, a name by 0.2 in the exponent.
    """
    found = np.ones((len(keys), len(keys)))
    for i, one in enumerate(keys):
        for j, two in enumerate(keys[:i]):
            found[i, j] = found[j, i] = _similarity(one, two)
    return found


@functools.lru_cache(maxsize=8192)
def _similarity(one: Key, two: Key) -> float:
    return math.exp(-sum(_distance(a, b) for a, b in zip(one, two, strict=True)))


def _distance(one: Any, two: Any) -> float:
    if one == two:
        return 0.0
    if isinstance(one, int | float) and isinstance(two, int | float):
        return min(0.2, 0.15 * abs(math.log10(one / two))) if one > 0 and two > 0 else 0.1
    return 0.2
