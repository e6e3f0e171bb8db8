"""What a freeze-thaw search believes: where the cliff is, where the best run is expected, what each could end at.

The smooth landscape of :mod:`lrtune.search.freeze_thaw.model`, and the three things that it cannot know: that
beyond some learning rate nothing learns, that the best learning rate drifts left by a known amount as
training goes on, and what is known of the other settings before anything is seen.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.search.blas_threads import one_thread
from lrtune.search.freeze_thaw.model import NOISE, Landscape
from lrtune.search.freeze_thaw.observations import (
    SETTINGS,
    Observation,
    Observations,
    alikeness,
    points,
    profile,
    settings,
)
from lrtune.search.freeze_thaw.prior import Earlier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.core.space import Space
    from lrtune.search.base import SearchContext
    from lrtune.search.freeze_thaw.prior import Prior

__all__ = ["Beliefs", "Candidate", "warmup"]

Floats: TypeAlias = npt.NDArray[np.float64]

DRAWS = 256
DRIFT = 0.1  # decades that the best moves left while training grows tenfold: half of p / (p + q), the law says the rest
HASTE = 0.4  # the same under a schedule that decays, up to where the best has settled: first looks flatter high rates,
SETTLED = 0.16  # which have damaged what no decay repairs; at this fraction of the training it no longer moves
WIDTH = 0.2  # decades: how well the best place is known from runs that are complete
TURNED = 0.1  # decades: how well a run that has become worse again tells where it should have ended
AWAY = 0.01  # regret at one standard deviation from the expected place
MOST_AWAY = 3.0  # standard deviations beyond which it costs no more: the expectation may be wrong
LATE = 0.15  # decades by which the cliff may still move left as a run goes on
FALL = 1.0  # what a run beyond the cliff is worth: nothing
LEARNED, STUCK = 0.8, 0.1  # scaled: the best has learned at all; another has done so by less than this part
LIKED = 0.005  # regret that one good reason for settings is worth before they are seen
BELIEVED = 40  # arms that the model is shown: those that came furthest
CEILING = 1.3  # what is worse than untrained is only that
MOST_COMBOS = 64
RANGE_VALUES = 3  # values of a range among the other settings that are tried
CLEARLY = 0.02  # of the way from untrained to best, by which a run beside the best is worse for good
RECOMMENDED = 2.0  # good reasons that the settings of an earlier study's best are worth


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run that could be trained on, or started: its arm where it exists."""

    x: float
    recipe: Recipe
    key: tuple[Any, ...]
    observation: Observation | None

    @property
    def trained(self) -> float:
        """Epochs that are paid already."""
        return 0.0 if self.observation is None else self.observation.seen.trained

    @property
    def completed(self) -> bool:
        """Whether its end is known."""
        return self.observation is not None and self.observation.completed

    @property
    def busy(self) -> bool:
        """Whether somebody trains it."""
        return self.observation is not None and self.observation.seen.until is not None


class Beliefs:
    """All that one decision is based on.

    Attributes
    ----------
    situation, view
        What was seen.
    earlier
        What an earlier study found; None without one.
    combos
        The combinations of the other settings, each a key as in :class:`.Observation`.
    length
        Epochs of a full training.
    width
        Decades: how well the best place is known from runs that are complete.
    """

    def __init__(self, context: SearchContext, prior: Prior | None = None, *, width: float = WIDTH) -> None:
        self.context = context
        self.width = width
        self.earlier = None if prior is None else Earlier(prior, context.space)
        self.view = Observations(context)
        self.length = float(context.epochs)
        self.combos = _combos(context.space, context.seed)
        self._likings: dict[tuple[Any, ...], float] = {}
        self._shifts: dict[tuple[Any, ...], float] = {}
        self.rng = np.random.default_rng([context.seed, 1 + sum(len(t.epochs) for t in context.trials)])

    # -- places ------------------------------------------------------------------------------------

    def recipe(self, x: float, key: tuple[Any, ...]) -> Recipe:
        """The recipe at log10 of a learning rate (as it is trained with) under other settings."""
        values = dict(zip(SETTINGS, key, strict=True))
        params = {n: values[n] for n in self.context.space.names if n != "lr"}
        space = self.context.space
        return space.recipe({"lr": space.lr_at(x), **params}, epochs=self.context.epochs)

    def shift(self, key: tuple[Any, ...]) -> float:
        """Decades between the learning rate and the batch-scaled one."""
        if key not in self._shifts:
            params = self.context.space.params(self.recipe(0.0, key))
            self._shifts[key] = -math.log10(self.context.space.scaled_lr(params))
        return self._shifts[key]

    def liking(self, key: tuple[Any, ...]) -> float:
        """How many things speak for settings before anything is seen: decay, warmup, more updates an epoch.

        Decay and warmup rarely cost and often gain (Goyal et al. 2017, arXiv:1706.02677; Kalra and Barkeshli 2024,
        arXiv:2406.09405); over equally many epochs a smaller batch makes more updates (Shallue et al. 2019,
        arXiv:1811.03600, section 4).
        """
        if len(self.combos) == 1:
            return 0.0
        if key not in self._likings:
            self._likings[key] = self._liking(key)
        return self._likings[key]

    def _liking(self, key: tuple[Any, ...]) -> float:
        _, levels = profile(key[SETTINGS.index("schedule")], warmup(key))
        liking = 1.0 - min(1.0, float(levels[-1])) + (0.5 if warmup(key) > 0 else 0.0)
        if self.earlier is not None and self.earlier.recommends(key):
            liking += RECOMMENDED
        if self._largest is not None:
            liking += 0.5 * math.log10(self._largest / key[SETTINGS.index("batch_size")])
        return liking

    @functools.cached_property
    def shortest_warmup(self) -> float:
        """The warmup that every combination has at least, as a fraction of the run."""
        return min(warmup(key) for key in self.combos)

    @functools.cached_property
    def _largest(self) -> int | None:
        """The largest batch size, where there are several."""
        sizes = {key[SETTINGS.index("batch_size")] for key in self.combos}
        return max(sizes) if len(sizes) > 1 else None

    # -- what the runs say without a model -----------------------------------------------------------

    @functools.cached_property
    def best(self) -> Observation:
        """The arm with the best value so far."""
        if self.view.best is None:
            msg = "no run is alive"
            raise ValueError(msg)
        return self.view.best

    @functools.cached_property
    def edge(self) -> float:
        """X of the lowest learning rate, right of the best one, seen not to learn; infinite where there is none."""
        bad = [a.x for a in self.view.arms if a.x > self.best.x and (a.diverged or self.stuck(a))]
        return min(bad, default=math.inf)

    def stuck(self, observation: Observation) -> bool:
        """Whether it is where it began although the best one, at the same fraction, has learned."""
        if not len(observation.values) or self.view.plateaued:
            return False
        fraction = min(observation.seen.trained, self.best.seen.trained) / self.length
        here, there = self.view.at(observation, fraction), self.view.at(self.best, fraction)
        return there < LEARNED and here > 1 - STUCK * (1 - there)

    @functools.cached_property
    def learning(self) -> list[Observation]:
        """Arms left of the edge; the best one is always among them."""
        return [a for a in self.view.alive if a.x < self.edge]

    @functools.cached_property
    def furthest(self) -> Observation:
        """The arm that came furthest, the best of those that came so far."""
        return min(self.learning, key=lambda a: (-a.seen.trained, float(a.values[-1]), a.number))

    @functools.cached_property
    def champion(self) -> Observation:
        """The arm that lost its comparisons by least, each at the furthest common fraction, under one setting."""
        arms = [a for a in self.learning if a.key == self.furthest.key][:BELIEVED]
        return min(arms, key=lambda one: (self._loss(one, arms), -one.seen.trained, one.number))

    def _loss(self, one: Observation, arms: Sequence[Observation]) -> float:
        worst = 0.0
        for two in arms:
            worst = max(worst, self.behind(one, two))
        return worst

    @functools.cached_property
    def expected(self) -> tuple[float, float]:
        """Where the best run is expected (x), and with which standard deviation, in decades."""
        if self.overfit_from is not None:
            place, spread = self.overfit_from, self.width + TURNED
            return (place, spread) if self.earlier is None else self.earlier.averaged(place, spread, least=self.width)
        champion = self.champion
        trained = max(1e-3, champion.seen.trained / self.length)
        _, levels = profile(champion.seen.recipe.schedule, champion.seen.recipe.warmup)
        last = min(1.0, float(levels[-1]))  # decay takes the noise away that drives the drift
        drift, haste = -DRIFT * math.log10(trained), HASTE * max(0.0, math.log10(SETTLED / trained))
        loose = last if len(self.combos) > 1 else 1.0  # among many settings a guess that strays is chosen by chance
        place, spread = champion.x - last * drift - (1 - last) * haste, loose * drift + self.width
        return (place, spread) if self.earlier is None else self.earlier.averaged(place, spread, least=self.width)

    @functools.cached_property
    def overfit_from(self) -> float | None:
        """X of the full run that ends where the one that came furthest was best, if that has become worse since.

        A run that overfits has had too much of the learning rate summed over it, which is what regularises gradient
        descent (Yao, Rosasco and Caponnetto 2007, "On Early Stopping in Gradient Descent Learning", section 2).
        """
        observation = self.furthest
        best = self.view.overfit_from(observation)
        if best is None:
            return None
        area, _ = profile(observation.seen.recipe.schedule, observation.seen.recipe.warmup)
        then = float(np.interp(best * (len(area) - 1), np.arange(len(area)), area))
        return observation.x - math.log10(max(1e-3, float(area[-1])) / max(1e-3, then))

    @functools.cached_property
    def confirmed(self) -> bool:
        """Whether the best complete run lies where an earlier study said that it would, and not merely was put there.

        An earlier study says where the first runs go: what confirms it is that runs beside the best are clearly worse.
        """
        if self.earlier is None or not self.view.completed:
            return False
        best = min(self.view.completed, key=self.result)
        return self.earlier.confirmed_by(best.x, best.key) and all(self._worse(best, side) for side in (-1, 1))

    def _worse(self, best: Observation, side: int) -> bool:
        """Whether a run on that side of the best one is clearly worse; true where nothing made anybody look there."""
        beside = [observation for observation in self.view.arms if side * (observation.x - best.x) > 0]
        return not beside or any(
            observation.diverged or self.behind(observation, best) > CLEARLY for observation in beside
        )

    def ahead(self, best: Observation) -> list[Observation]:
        """Paused runs right of a complete one that are ahead of it as far as they came, up to the first that is not.

        That refutes the model where it says that they will lose. Under a schedule that decays it says nothing: there
        first looks flatter high rates.
        """
        _, levels = profile(best.seen.recipe.schedule, best.seen.recipe.warmup)
        if levels[-1] < 1:
            return []
        right = sorted((a for a in self.learning if a.key == best.key and a.x > best.x), key=lambda a: (a.x, a.number))
        return list(itertools.takewhile(lambda a: not a.completed and self.behind(a, best) < 0, right))

    def behind(self, observation: Observation, best: Observation) -> float:
        """By how much it is worse at the furthest common fraction."""
        common = min(observation.seen.trained, best.seen.trained) / self.length
        return self.view.at(observation, common) - self.view.at(best, common) if common > 0 else 0.0

    # -- what the model says ---------------------------------------------------------------------------

    @one_thread()
    def draws(self, candidates: Sequence[Candidate], until: Floats | None = None) -> tuple[Floats, Floats, Floats]:
        """Draws of what candidates end at, in the view's measure, each of shape (draws, candidates).

        Without `until`, which most of the work is for, `looks` stays empty; the ends are the same.

        Returns
        -------
        fallen, smooth, looks
            The ends with the cliff and without it, and what each would show at epoch `until`.
        """
        keys = list(dict.fromkeys([c.key for c in candidates] + [a.key for a in self.learning]))
        index = {key: i for i, key in enumerate(keys)}
        model = self._model(index)
        runs = [-1 - j if c.observation is None else c.observation.number for j, c in enumerate(candidates)]
        ends = np.ones(len(candidates))
        whens = np.concatenate([ends, ends if until is None else until / self.length])
        groups = [index[c.key] for c in candidates]
        query = points([c.x for c in candidates] * 2, whens, [c.recipe for c in candidates] * 2, groups * 2, runs * 2)
        both = model.draws(query, DRAWS, self.rng, wanted=len(candidates) if until is None else None)
        smooth, looks = both[:, : len(candidates)], both[:, len(candidates) :]
        noise = self.rng.standard_normal((DRAWS, len(candidates)))  # drawn in any case: what follows is the same
        looks = looks if until is None else looks + NOISE * noise
        for j, c in enumerate(candidates):
            if c.observation is not None and c.completed:
                smooth[:, j] = self.result(c.observation)
        smooth = smooth + self._before(candidates)
        return self._with_cliff(smooth.copy(), candidates), smooth, looks

    def result(self, observation: Observation) -> float:
        """What a completed arm ended at, in the view's measure."""
        given = observation.seen.result
        value = float(observation.values[-1]) if given is None else self.context.sign * given
        return float(self.view.scaled(value))

    def _model(self, index: dict[tuple[Any, ...], int]) -> Landscape:
        arms = sorted(self.learning, key=lambda a: (-a.seen.trained, float(a.values[-1]), a.number))[:BELIEVED]
        looks = [(observation, *look) for observation in arms for look in self.view.looks(observation)]
        mine = [observation for observation, _, _ in looks]
        seen = points(
            [observation.x for observation in mine],
            np.array([t for _, t, _ in looks]),
            [observation.seen.recipe for observation in mine],
            [index[observation.key] for observation in mine],
            [observation.number for observation in mine],
        )
        y = np.array([min(value, CEILING) for _, _, value in looks])
        near = (seen.t[None, :] > seen.t[:, None] / 1.2) & (seen.t[None, :] < seen.t[:, None] * 1.2)
        gap = y - np.where(near, y[None, :], np.inf).min(axis=1)
        rough = {observation.number: self.view.roughness(observation) for observation in arms}
        noise = np.array([rough[observation.number] for observation in mine])
        return Landscape(seen, y, gap=gap, rough=noise, alike=alikeness(list(index)))

    def _before(self, candidates: Sequence[Candidate]) -> Floats:
        """What is believed of candidates before they are trained, shape (candidates,)."""
        place, spread = self.expected
        ahead = np.array([1 - c.trained / self.length for c in candidates])
        away = np.minimum(np.abs(np.array([c.x for c in candidates]) - place) / spread, MOST_AWAY)
        likings = np.array([self.liking(c.key) for c in candidates])
        found: Floats = (AWAY * away**2 - LIKED * likings) * ahead
        return found

    def _with_cliff(self, draws: Floats, candidates: Sequence[Candidate]) -> Floats:
        """Draws in which candidates beyond a cliff, somewhere between what learns and what does not, are lost."""
        if not math.isfinite(self.edge):
            return draws
        last = max(a.x for a in self.learning)
        cliff = last + (self.edge - last) * self.rng.uniform(size=len(draws))
        late = np.abs(self.rng.standard_normal(len(draws))) * LATE
        for j, c in enumerate(candidates):
            if not c.completed:
                draws[c.x >= cliff - late * (1 - c.trained / self.length), j] = FALL
        return draws


def warmup(key: tuple[Any, ...]) -> float:
    """The warmup of a combination of settings."""
    return float(key[SETTINGS.index("warmup")])


@functools.lru_cache(maxsize=16)
def _combos(space: Space, seed: int) -> tuple[tuple[Any, ...], ...]:
    """The combinations of the other settings that a search looks at, at most 64, the same all through a search."""
    names = [n for n in space.names if n != "lr"]
    distributions = space.distributions()
    axes = [_values(distributions[n]) for n in names]
    every = list(itertools.product(*axes))
    if len(every) > MOST_COMBOS:
        picks = np.random.default_rng([seed, 2]).choice(len(every), MOST_COMBOS, replace=False)
        every = [every[i] for i in sorted(picks)]
    lr = space.lr_range[0]
    recipes = [space.recipe({"lr": lr, **dict(zip(names, v, strict=True))}) for v in every]
    return tuple(settings(recipe) for recipe in recipes)


def _values(distribution: Any) -> list[Any]:
    """Values of a setting to combine: all choices; of a range its ends and what lies between."""
    if hasattr(distribution, "choices"):
        return list(distribution.choices)
    low, high = float(distribution.low), float(distribution.high)
    spread = np.geomspace if distribution.log else np.linspace
    values = spread(low, high, RANGE_VALUES)
    values[0], values[-1] = low, high
    if isinstance(distribution.low, int):
        return sorted({round(float(v)) for v in values})
    return sorted({float(v) for v in values.clip(low, high)})
