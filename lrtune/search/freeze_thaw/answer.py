"""The answer of any search: the best trial, the band of learning rates as good, the edge from which runs diverge.

Read off the trials of any strategy, with the model of :mod:`lrtune.search.freeze_thaw.beliefs`: few or
many trials, some pruned, some diverged, either direction.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.core.numpy_errors import own_errstate
from lrtune.search.freeze_thaw.beliefs import Beliefs
from lrtune.search.freeze_thaw.config import CONFIG
from lrtune.search.freeze_thaw.observations import similarity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.search.base import SearchContext
    from lrtune.search.freeze_thaw.config import BandRule
    from lrtune.search.freeze_thaw.observations import Observation

__all__ = ["Answer", "Edge", "answer"]

Floats: TypeAlias = npt.NDArray[np.float64]


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
    runner_up
        Number of the best trial with another recipe; None where there is none.
    beyond_noise
        Whether the best differs from the runner-up beyond noise; None where the noise is unknown.
    warnings
        What the user should know, one sentence each.
    """

    best: int | None = None
    value: float | None = None
    band: tuple[float, float] | None = None
    edge: Edge = field(default_factory=Edge)
    runner_up: int | None = None
    beyond_noise: bool | None = None
    warnings: tuple[str, ...] = ()


@own_errstate()
def answer(context: SearchContext) -> Answer:
    """Read the answer off the trials of any strategy."""
    rule = CONFIG.band_lr_only if set(context.space.names) <= {"lr"} else CONFIG.band_joint
    beliefs = Beliefs(context, optimum_sd=rule.width)
    runs = beliefs.observed.runs
    if not beliefs.observed.alive:
        return _nothing_alive(runs)
    edge = _edge(beliefs)
    groups = _groups(beliefs)
    if not groups:
        return Answer(edge=edge, warnings=("no run was trained to its end; give the search a larger budget",))
    best, rest = groups[0], groups[1:]
    compared = len({run.trial.recipe.lr for run in runs}) > 1  # one alone says nothing of any other
    return Answer(
        best=best[0].number,
        value=context.sign * _mean(beliefs, best),
        band=_band(beliefs, best, rule) if compared else None,
        edge=edge,
        runner_up=rest[0][0].number if rest else None,
        beyond_noise=_differ(beliefs, best, rest[0]) if rest else None,
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


def _differ(beliefs: Beliefs, best: Sequence[Observation], other: Sequence[Observation]) -> bool | None:
    """Whether two recipes differ beyond noise."""
    noise = _noise(beliefs, [best, other])
    if noise is None:
        return None
    apart = _mean(beliefs, other) - _mean(beliefs, best)
    return apart > CONFIG.sigmas * noise * math.sqrt(1 / len(best) + 1 / len(other))


# -- the band -----------------------------------------------------------------------------------------------


def _band(beliefs: Beliefs, group: Sequence[Observation], rule: BandRule) -> tuple[float, float]:
    """Learning rates as good as the best within noise, under its other settings."""
    best = group[0]
    if best not in beliefs.learning:  # complete, yet at the level of an untrained model
        return best.trial.recipe.lr, best.trial.recipe.lr
    shift = beliefs.shift(best.key)
    low, high = (math.log10(lr) for lr in beliefs.context.space.lr_range)
    middle, step, reach = best.lr_x, CONFIG.band_step, round(CONFIG.band_reach / CONFIG.band_step)
    steps = np.arange(-reach, reach + 1) * step + middle
    xs = np.unique(np.clip(steps[(steps > low - step) & (steps < high + step)], low, high))
    known = [run for run in beliefs.learning if run.key == best.key]
    candidates = [*known, *(beliefs.unstarted(float(x), best.key) for x in xs)]
    ends, _, _ = beliefs.draws(candidates)
    target = float(beliefs.observed.scaled(_mean(beliefs, group)))
    places = np.array([run.x + shift for run in candidates])
    good = (ends <= target + CONFIG.tolerance).mean(axis=0) >= np.where(places < middle, *rule.chance)
    complete = np.array([run.completed for run in candidates])
    right = middle + max(_flat_to(beliefs, best, known, target), _led_to(beliefs, best))
    good |= ~complete & (places >= middle) & (places <= min(right, beliefs.edge + shift - CONFIG.lead_below_edge))
    return _around(places, good, complete, middle, rule.margin)


def _flat_to(beliefs: Beliefs, best: Observation, known: Sequence[Observation], target: float) -> float:
    """Decades to the right of the best within which the other runs say that nothing differs.

    Where one so far away differs by so little, at its end or at the furthest common fraction, a parabola through both
    leaves the tolerance that much further out. The model needs no such help on the left, where every run begins on the
    same slope; of what lies to the right it sees early losses, which mislead where curves swing.
    """
    flat = 0.0
    for run in known:
        if run.completed:
            apart = beliefs.result(run) - target
        elif run.trained >= CONFIG.late * beliefs.length:
            apart = abs(beliefs.behind(run, best))
        else:
            continue
        if apart < CONFIG.tolerance:
            flat = max(flat, abs(run.x - best.x) * math.sqrt(CONFIG.tolerance / max(apart, CONFIG.tied)))
    return CONFIG.parabola_share * flat


def _led_to(beliefs: Beliefs, best: Observation) -> float:
    """Decades to the right of the best within which a run is ahead of it as far as it came, if that is far enough."""
    leads = [run.x - best.x for run in beliefs.ahead(best) if run.trained >= CONFIG.lead_from * beliefs.length]
    return min(CONFIG.lead_reach, max(leads, default=0.0))


def _around(
    places: Floats,
    good: npt.NDArray[np.bool_],
    complete: npt.NDArray[np.bool_],
    middle: float,
    margins: tuple[float, float],
) -> tuple[float, float]:
    """The unbroken stretch of good places around the middle.

    A complete run that is not good ends it; any other place that is not good ends it unless a good complete run lies
    further out.
    """
    ends = []
    for side, margin in zip((-1, 1), margins, strict=True):
        away = side * (places - middle)
        proven = np.max(away, where=complete & good, initial=-math.inf)
        end = middle
        for i in np.argsort(away, kind="stable"):
            if away[i] <= 0 or (not good[i] and not complete[i] and proven > away[i]):
                continue
            if not good[i]:
                break
            end = float(places[i])
        ends.append(end + side * margin)
    return float(10 ** ends[0]), float(10 ** ends[1])


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
        return Edge(low=float(10 ** (max(_lives_to(beliefs, run) for run in lives) + shift)))
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
