"""The answer of any search: the best trial, the band of learning rates as good, the edge from which runs diverge.

Read off the trials of any strategy, with the model of :mod:`lrtune.search.freeze_thaw.beliefs`: few or
many trials, some pruned, some diverged, either direction.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lrtune.core.numpy_errors import own_errstate
from lrtune.search.freeze_thaw.beliefs import Beliefs
from lrtune.search.freeze_thaw.confidence import judging, probabilities
from lrtune.search.freeze_thaw.config import CONFIG
from lrtune.search.freeze_thaw.observations import similarity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.search.base import SearchContext
    from lrtune.search.freeze_thaw.observations import Observation

__all__ = ["Answer", "Edge", "answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Where training begins to diverge.

    Attributes
    ----------
    lr
        The best guess; None where nothing diverged.
    low, high
        The interval it lies in; None where it is open.
    """

    lr: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a study's trials say.

    Attributes
    ----------
    best
        Number of the trial to use; None where none completed.
    value
        Its result, the mean over its repeats, in the metric's own sign; None where none completed.
    band
        Learning rates as good as the best within noise; None where none completed.
    edge
        Where divergence begins.
    probability
        That the best is as good as the best learning rate there is, within 2 % of what there is to gain between the
        untrained model and that; None where nothing was compared.
    noise
        Standard deviation of one result, in the metric's unit: between repeats, else from report to report, which is a
        lower bound; None where neither is known.
    warnings
        What the user should know, one sentence each.
    """

    best: int | None = None
    value: float | None = None
    band: tuple[float, float] | None = None
    edge: Edge = field(default_factory=Edge)
    probability: float | None = None
    noise: float | None = None
    warnings: tuple[str, ...] = ()


@own_errstate()
def answer(context: SearchContext) -> Answer:
    """Read the answer off the trials of any strategy."""
    beliefs = Beliefs(context)
    runs = beliefs.observed.runs
    if not beliefs.observed.alive:
        return _nothing_alive(runs)
    edge = _edge(beliefs)
    groups = _groups(beliefs)
    if not groups:
        return Answer(edge=edge, warnings=("no run was trained to its end; give the search a larger budget",))
    best = groups[0]
    compared = len({run.trial.recipe.lr for run in runs}) > 1  # one alone says nothing of any other
    band, probability = _band(beliefs, best[0]) if compared else (None, None)
    return Answer(
        best=best[0].number,
        value=context.sign * _mean(beliefs, best),
        band=band,
        edge=edge,
        probability=probability,
        noise=_noise(beliefs, groups),
        warnings=tuple(_warnings(beliefs, best[0])),
    )


def _groups(beliefs: Beliefs) -> list[list[Observation]]:
    """Complete runs by recipe, repeats under other seeds together, the best first.

    A mean over seeds is not compared with a lucky single run: where anything was repeated, only what
    was repeated can win.
    """
    groups: dict[Recipe, list[Observation]] = {}
    for run in beliefs.observed.completed:
        groups.setdefault(run.trial.recipe.with_seed(0), []).append(run)
    most = min(2, max((len(group) for group in groups.values()), default=0))
    return sorted(groups.values(), key=lambda group: (-min(len(group), most), _mean(beliefs, group), group[0].number))


def _mean(beliefs: Beliefs, group: Sequence[Observation]) -> float:
    """Mean result of a recipe in the metric's unit, smaller is better."""
    return statistics.fmean(beliefs.value(run) for run in group)


def _noise(beliefs: Beliefs, groups: Sequence[Sequence[Observation]]) -> float | None:
    """Standard deviation of one result, in the metric's unit: from repeats, else from the roughness of the curves."""
    spreads = [statistics.variance([beliefs.value(run) for run in group]) for group in groups if len(group) > 1]
    if spreads:
        return math.sqrt(statistics.fmean(spreads))
    observed = beliefs.observed
    long = [run for group in groups for run in group if len(run.values) >= CONFIG.noise_reports]
    return statistics.median(map(observed.roughness, long)) * (observed.high - observed.low) if long else None


# -- the band -----------------------------------------------------------------------------------------------


def _band(beliefs: Beliefs, best: Observation) -> tuple[tuple[float, float], float]:
    """Learning rates as good as the best one there is, under the best trial's other settings; and how sure that one is.

    As good is what lies within :attr:`.FreezeThawConfig.as_good` of the optimum. The band is the unbroken stretch
    around the best in which the probability of that is high enough, as far as runs were trained long enough to judge.
    """
    alone = best.trial.recipe.lr, best.trial.recipe.lr
    if best not in beliefs.learning:  # complete, yet at the level of an untrained model
        return alone, 0.0
    known = [run.lr_x for run in judging(beliefs, best)]
    ends = max(min(known), best.lr_x - CONFIG.band_reach), min(max(known), best.lr_x + CONFIG.band_reach)
    steps = best.lr_x + np.arange(-100, 101) * CONFIG.band_step
    places = np.unique([*ends, *steps[(steps > ends[0]) & (steps < ends[1])], best.lr_x])
    good = probabilities(beliefs, best, places)
    middle = int(np.argmin(np.abs(places - best.lr_x)))
    bad = good < CONFIG.band_probability
    low = int(np.max(np.flatnonzero(bad[:middle]), initial=-1)) + 1
    high = middle + int(np.min(np.flatnonzero(bad[middle + 1 :]), initial=len(places) - middle - 1))
    return (min(alone[0], float(10 ** places[low])), max(alone[0], float(10 ** places[high]))), float(good[middle])


# -- the edge -----------------------------------------------------------------------------------------------


def _edge(beliefs: Beliefs) -> Edge:
    """Where divergence begins, under the settings of the best run, and the interval it lies in."""
    best = min(beliefs.observed.completed or [beliefs.best], key=lambda run: (beliefs.value(run), run.number))
    shift = beliefs.shift(best.key)
    dead = [run for run in beliefs.observed.runs if run.x > best.x and _dead(beliefs, run)]
    doubtful = _doubtful(beliefs, best, dead)
    dead = [run for run in dead if run not in doubtful]
    lives = [run for run in beliefs.observed.alive if not _dead(beliefs, run) and run not in doubtful]
    same = [run for run in dead if run.key == best.key]
    dead = same or _under_other_settings(beliefs, best, dead, lives)
    lives = [run for run in lives if run.key == best.key]
    if not dead and not lives:  # the best so far looks stuck itself: nothing is known
        return Edge()
    if not dead:
        least = CONFIG.judging_from * beliefs.length
        lived = [run.x for run in lives if run.completed or run.trained >= least]
        return Edge(low=float(10 ** (max(lived) + shift))) if lived else Edge()
    resolution = CONFIG.edge_resolution if same else CONFIG.edge_resolution_other_settings
    high = min(run.x for run in dead)
    first = min([high, *(run.x for run in doubtful)])
    low = max([best.x, *(_lives_to(beliefs, run) for run in lives if run.x < first)])
    low = max(best.x, min(low, first - CONFIG.edge_resolution / 2))  # a run that died so close to it did so by chance
    ends = (low + shift, (low + first) / 2 + shift, high + resolution + shift)
    return Edge(low=float(10 ** ends[0]), lr=float(10 ** ends[1]), high=float(10 ** ends[2]))


def _under_other_settings(
    beliefs: Beliefs, best: Observation, dead: Sequence[Observation], lives: Sequence[Observation]
) -> list[Observation]:
    """Runs that diverged under other settings, but for those that one under settings closer to the best's outlives.

    One that lives a little below where they diverged does: so close, it is chance.
    """
    keys = list(dict.fromkeys([best.key, *(run.key for run in [*dead, *lives])]))
    alike = dict(zip(keys, similarity(keys)[0], strict=True))
    to = [(alike[run.key], _lives_to(beliefs, run) + CONFIG.edge_resolution / 2) for run in lives]
    return [run for run in dead if not any(near > alike[run.key] and run.x < x for near, x in to)]


def _doubtful(beliefs: Beliefs, best: Observation, dead: Sequence[Observation]) -> list[Observation]:
    """Runs right of the best that share a level worse than its own, and better than that of those right of them.

    They may have learned a constant, or be where they began: only the level of the untrained model could tell.
    """
    if beliefs.context.untrained is not None:
        return []
    level = beliefs.observed.level
    right = sorted((run for run in beliefs.observed.alive if run.x > best.x and run.key == best.key), key=lambda r: r.x)
    shared = next(filter(None, (level(right[k:]) for k in range(len(right)))), [])
    if not shared or best in level([best, *shared]):
        return []
    last = max(run.x for run in shared)
    return shared if any(run.x > last for run in dead) else []


def _dead(beliefs: Beliefs, run: Observation) -> bool:
    """Whether a run surely does not learn: one report at the level of the untrained model may be a bad start."""
    return run.diverged or (beliefs.stuck(run) and (run.completed or len(run.values) >= CONFIG.fewest))


def _lives_to(beliefs: Beliefs, run: Observation) -> float:
    """Up to where runs surely live, if this one does: less than its own x while it may still diverge."""
    return run.x - CONFIG.edge_later * (1 - run.trained / beliefs.length)


# -- warnings -----------------------------------------------------------------------------------------------


def _nothing_alive(runs: Sequence[Observation]) -> Answer:
    if lrs := [run.trial.recipe.lr for run in runs if run.diverged]:
        lowest = min(run.trial.recipe.lr for run in runs)
        said = f"every run diverged, down to a learning rate of {lowest:g}; search a range below it"
        return Answer(edge=Edge(lr=min(lrs), high=min(lrs)), warnings=(said,))
    return Answer(warnings=("no run reported anything; look at the outcomes of the trials",) if runs else ())


def _warnings(beliefs: Beliefs, best: Observation) -> list[str]:
    found = []
    low, high = beliefs.context.space.lr_range
    lr = best.trial.recipe.lr
    if math.log10(lr / low) < CONFIG.range_end and not math.isclose(low, high):
        found.append(f"the best learning rate, {lr:g}, lies at the low end of the range; search below {low:g} too")
    if math.log10(high / lr) < CONFIG.range_end:
        found.append(f"the best learning rate, {lr:g}, lies at the high end of the range; search above {high:g} too")
    untrained = beliefs.context.untrained
    if untrained is not None and beliefs.value(best) > beliefs.context.sign * untrained - 1e-3 * abs(untrained):
        found.append(
            "no run became better than the untrained model; train for longer, or look at the data and the model"
        )
    return found
