"""What freeze-thaw predicts: where training diverges, where the optimum is expected, and where each run would end.

The curve model (:mod:`lrtune.search.freeze_thaw.model`) is combined with what it cannot know: that beyond some
learning rate, the *edge*, nothing learns; that the optimum moves left as training goes on; and a prior score of the
other settings. A run counts as diverged where :func:`lrtune.core.divergence.judge` ended it so; :meth:`Beliefs.stuck`
says, for predictions only, which of the others have not learned beside the best.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.search.base import TrialView
from lrtune.search.blas_threads import one_thread
from lrtune.search.freeze_thaw.config import CONFIG
from lrtune.search.freeze_thaw.model import CurveModel
from lrtune.search.freeze_thaw.observations import (
    SETTINGS,
    Key,
    Observation,
    Observations,
    points,
    profile,
    settings,
    similarity,
)
from lrtune.search.freeze_thaw.prior import ScaledPrior

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.core.space import Space
    from lrtune.search.base import SearchContext
    from lrtune.search.freeze_thaw.prior import Prior

__all__ = ["Beliefs", "warmup"]

Floats: TypeAlias = npt.NDArray[np.float64]

UNSTARTED = -1


class Beliefs:
    """What one decision is based on; made anew for each.

    Attributes
    ----------
    context, observed
        What the strategy is shown, and its trials as the model sees them.
    prior
        An earlier study's answer; None without one.
    combinations
        The combinations of the other settings that are considered, each as in :attr:`.Observation.key`.
    length
        Epochs of a full training.
    rng
        The decision's random numbers, a function of the seed and of how much was reported.
    """

    def __init__(self, context: SearchContext, prior: Prior | None = None) -> None:
        self.context = context
        self.prior = None if prior is None else ScaledPrior(prior, context.space)
        self.observed = Observations(context)
        self.length = float(context.epochs)
        self.combinations = _combinations(context.space, context.seed)
        self.shift = functools.cache(self._shift)
        self.prior_score = functools.cache(self._prior_score)
        self.rng = np.random.default_rng([context.seed, 1 + sum(len(t.epochs) for t in context.trials)])

    # -- coordinates -------------------------------------------------------------------------------

    def recipe(self, lr_x: float, key: Key) -> Recipe:
        """The recipe at log10 of a learning rate, not scaled, under other settings."""
        values = dict(zip(SETTINGS, key, strict=True))
        space = self.context.space
        params = {name: values[name] for name in space.names if name != "lr"}
        return space.recipe({"lr": space.lr_at(lr_x), **params}, epochs=self.context.epochs)

    def unstarted(self, lr_x: float, key: Key) -> Observation:
        """A trial that could be started there."""
        none: Floats = np.empty(0)
        trial = TrialView(number=UNSTARTED, recipe=self.recipe(lr_x, key), epochs=none, values=none)
        return Observation(trial, lr_x - self.shift(key), key, none)

    def _shift(self, key: Key) -> float:
        """Decades between the learning rate and the batch-scaled one."""
        return -math.log10(self.context.space.scaled_lr(self.context.space.params(self.recipe(0.0, key))))

    def _prior_score(self, key: Key) -> float:
        """Points for other settings before anything is trained: for decay, warmup and more updates an epoch.

        Decay and warmup rarely cost and often gain (Goyal et al. 2017, arXiv:1706.02677; Kalra and Barkeshli 2024,
        arXiv:2406.09405); over equally many epochs a smaller batch makes more updates (Shallue et al. 2019,
        arXiv:1811.03600, section 4).
        """
        if len(self.combinations) == 1:
            return 0.0
        _, levels = profile(key[SETTINGS.index("schedule")], warmup(key))
        score = 1.0 - min(1.0, float(levels[-1])) + (0.5 if warmup(key) > 0 else 0.0)
        if self.prior is not None and self.prior.recommends(key):
            score += CONFIG.prior_score_of_earlier_best
        at = SETTINGS.index("batch_size")
        sizes = {one[at] for one in self.combinations}
        return score + 0.5 * math.log10(max(sizes) / key[at]) if len(sizes) > 1 else score

    @functools.cached_property
    def shortest_warmup(self) -> float:
        """The warmup that every combination has at least, as a fraction of the run."""
        return min(warmup(key) for key in self.combinations)

    # -- read off the curves, without the model ------------------------------------------------------

    @functools.cached_property
    def best(self) -> Observation:
        """The run with the best value so far.

        Raises
        ------
        ValueError
            If none is alive.
        """
        if self.observed.best is None:
            msg = "no run is alive"
            raise ValueError(msg)
        return self.observed.best

    @functools.cached_property
    def edge(self) -> float:
        """X of the lowest run right of the best one that diverged or has not learned; infinite where there is none."""
        bad = [run.x for run in self.observed.runs if run.x > self.best.x and (run.diverged or self.stuck(run))]
        return min(bad, default=math.inf)

    def stuck(self, run: Observation) -> bool:
        """Whether a run is where it began although the best one, at the same fraction, has learned."""
        if not len(run.values) or self.observed.nothing_learned:
            return False
        fraction = min(run.trained, self.best.trained) / self.length
        here, there = self.observed.at(run, fraction), self.observed.at(self.best, fraction)
        return there < CONFIG.best_has_learned and here > 1 - CONFIG.unlearned_share * (1 - there)

    @functools.cached_property
    def learning(self) -> list[Observation]:
        """Runs left of the edge; the best one is always among them."""
        return [run for run in self.observed.alive if run.x < self.edge]

    @functools.cached_property
    def by_progress(self) -> list[Observation]:
        """The same, those trained furthest first, the better ones of equals before."""
        return sorted(self.learning, key=lambda run: (-run.trained, run.last, run.number))

    @functools.cached_property
    def champion(self) -> Observation:
        """The run whose worst comparison is the mildest, each at the furthest common fraction, under one setting."""
        runs = [run for run in self.learning if run.key == self.by_progress[0].key][: CONFIG.model_runs]

        def worst(run: Observation) -> float:
            return max(0.0, *(self.behind(run, other) for other in runs))

        return min(runs, key=lambda run: (worst(run), -run.trained, run.number))

    @functools.cached_property
    def expected(self) -> tuple[float, float]:
        """Where the optimum of a full training is looked for first (x), and its standard deviation, in decades."""
        place, spread = self.champion.x, CONFIG.optimum_sd
        if self.overfit_from is not None:
            place, spread = self.overfit_from, CONFIG.optimum_sd + CONFIG.overfit_sd
        return (place, spread) if self.prior is None else self.prior.averaged(place, spread, least=CONFIG.optimum_sd)

    @functools.cached_property
    def overfit_from(self) -> float | None:
        """X of the full run that ends where the run trained furthest was best, if that one has overfitted since.

        Its summed learning rate, which is what regularises gradient descent, has become too large (Yao, Rosasco and
        Caponnetto 2007, "On Early Stopping in Gradient Descent Learning", section 2).
        """
        run = self.by_progress[0]
        best = self.observed.overfit_from(run)
        if best is None:
            return None
        area, _ = profile(run.trial.recipe.schedule, run.trial.recipe.warmup)
        then = float(np.interp(best * (len(area) - 1), np.arange(len(area)), area))
        return run.x - math.log10(max(1e-3, float(area[-1])) / max(1e-3, then))

    @functools.cached_property
    def confirmed(self) -> bool:
        """Whether the best complete run lies where an earlier study said, and runs on both its sides are clearly worse.

        The earlier study says where the first runs go: without those beside it, the best would lie there by design.
        """
        if self.prior is None or not self.observed.completed:
            return False
        best = min(self.observed.completed, key=self.result)
        return self.prior.confirmed_by(best.x, best.key) and all(self._worse(best, side) for side in (-1, 1))

    def _worse(self, best: Observation, side: int) -> bool:
        """Whether a run on that side of the best one is clearly worse; true where there is none."""
        beside = [run for run in self.observed.runs if side * (run.x - best.x) > 0]
        return not beside or any(run.diverged or self.behind(run, best) > CONFIG.confirmed_margin for run in beside)

    def behind(self, run: Observation, best: Observation) -> float:
        """By how much loss it is worse at the furthest common fraction of the training."""
        common = min(run.trained, best.trained) / self.length
        return self.observed.at(run, common) - self.observed.at(best, common) if common > 0 else 0.0

    def result(self, run: Observation) -> float:
        """The loss that a complete run ended at, under the study's value rule."""
        return float(self.observed.scaled(self.value(run)))

    def value(self, run: Observation) -> float:
        """The same in the metric's unit, smaller is better."""
        given = run.trial.result
        return run.last if given is None else self.context.sign * given

    # -- predicted by the model ------------------------------------------------------------------------

    @one_thread()
    def draws(self, candidates: Sequence[Observation]) -> Floats:
        """Posterior draws of the loss that candidates end at, shape (draws, candidates).

        That of complete runs is known; a run beyond the edge ends as one that diverges.
        """
        groups = {key: i for i, key in enumerate(dict.fromkeys(run.key for run in [*candidates, *self.learning]))}
        query = points(candidates, np.ones(len(candidates)), groups)
        ends = self._model(groups).draws(query, CONFIG.draws, self.rng)
        for j, run in enumerate(candidates):
            if run.completed:
                ends[:, j] = self.result(run)
        return self._with_edge(ends + self._expected_loss(candidates), candidates)

    def _model(self, groups: dict[Key, int]) -> CurveModel:
        runs = self.by_progress[: CONFIG.model_runs]
        known = [(run, *point) for run in runs for point in self.observed.model_points(run)]
        seen = points([run for run, _, _ in known], np.array([t for _, t, _ in known]), groups)
        y = np.array([min(value, CONFIG.loss_cap) for _, _, value in known])
        near = (seen.t[None, :] > seen.t[:, None] / 1.2) & (seen.t[None, :] < seen.t[:, None] * 1.2)
        gap = y - np.where(near, y[None, :], np.inf).min(axis=1)
        rough = {run.number: self.observed.roughness(run) for run in runs}
        noise = np.array([rough[run.number] for run, _, _ in known])
        return CurveModel(seen, y, gap=gap, rough=noise, alike=similarity(list(groups)))

    def _expected_loss(self, candidates: Sequence[Observation]) -> Floats:
        """Loss added for the distance to the expected optimum and the prior score, the less the further trained.

        The optimum is expected by an earlier study, or where the best run overfits. Of shape (candidates,).
        """
        ahead = np.array([1 - run.trained / self.length for run in candidates])
        found: Floats = -CONFIG.prior_score_loss * np.array([self.prior_score(run.key) for run in candidates])
        if self.prior is not None or self.overfit_from is not None:
            place, spread = self.expected
            away = np.abs(np.array([run.x for run in candidates]) - place) / spread
            found += CONFIG.optimum_regret * np.minimum(away, CONFIG.optimum_regret_cap) ** 2
        found *= ahead
        return found

    def _with_edge(self, draws: Floats, candidates: Sequence[Observation]) -> Floats:
        """Draws in which candidates beyond an edge, drawn between what learns and what does not, are diverged."""
        if not math.isfinite(self.edge):
            return draws
        last = max(run.x for run in self.learning)
        edge = last + (self.edge - last) * self.rng.uniform(size=len(draws))
        later = np.abs(self.rng.standard_normal(len(draws))) * CONFIG.edge_sd
        for j, run in enumerate(candidates):
            if not run.completed:
                draws[run.x >= edge - later * (1 - run.trained / self.length), j] = CONFIG.diverged_loss
        return draws


def warmup(key: Key) -> float:
    """The warmup of a combination of settings."""
    return float(key[SETTINGS.index("warmup")])


@functools.lru_cache(maxsize=16)
def _combinations(space: Space, seed: int) -> tuple[Key, ...]:
    """The combinations of the other settings that a search considers, the same all through it."""
    axes = {name: axis.spread(CONFIG.range_values) for name, axis in space.axes.items() if name != "lr"}
    every = list(itertools.product(*axes.values()))
    if len(every) > CONFIG.most_combinations:
        picks = np.random.default_rng([seed, 2]).choice(len(every), CONFIG.most_combinations, replace=False)
        every = [every[i] for i in sorted(picks)]
    lr = space.lr_range[0]
    return tuple(settings(space.recipe({"lr": lr, **dict(zip(axes, values, strict=True))})) for values in every)
