"""The answer: which trial is best, which learning rates are as good, and where divergence begins.

Read off the trials of any strategy, with the model of :mod:`lrtune.search.freeze_thaw.beliefs`: few or
many trials, some pruned, some diverged, either direction.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.core.numpy_errors import own_errstate
from lrtune.search.freeze_thaw.beliefs import Beliefs, Candidate
from lrtune.search.freeze_thaw.observations import alikeness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.search.base import SearchContext
    from lrtune.search.freeze_thaw.observations import Observation

__all__ = ["Answer", "Edge", "answer"]

Floats: TypeAlias = npt.NDArray[np.float64]

TOLERANCE = 0.01  # of the way from untrained to best: what one run differs from the next by on many tasks
STEP = 0.05  # decades between the learning rates that are asked for
REACH = 1.5  # decades to both sides of the best one within which the band lies
LATER = 0.6  # decades by which the edge may still move left, for a run that has only begun
GRAIN = 0.2  # decades: how sharply an edge can be told at all; neighbours beyond it live and die by chance
FOREIGN = 0.6  # the same where only runs under other settings diverged
SURE = 3  # reports at the level of the untrained model that make a run one that does not learn
LONG = 8  # reports from which a curve shows its noise
SIGMAS = 2.0  # standard deviations of the difference of two runs beyond which they differ
TIED = 0.0005  # of the way from untrained to best: runs that differ by less do not differ
VOUCHED = 2 / 3  # of the distance up to which a parabola says that the basin is flat
LATE = 0.25  # of a full training, from which a run beside the best says how flat the basin is
TOLD, LEAD = 0.08, 0.5  # of a full training, from which a run that leads the best counts, and how many decades away
GAP = 0.3  # decades below the edge up to which they count
END = 0.1  # decades from the end of the range within which the best lies at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a band is read off the model, chosen on recorded tables; pairs are left and right of the best.

    Attributes
    ----------
    width
        Decades around the best one within which nothing but what was seen speaks against a learning rate.
    chance
        A learning rate is in the band if the chance that it is as good is at least this.
    margin
        Decades beyond the last good place.
    """

    width: float
    chance: tuple[float, float]
    margin: tuple[float, float]


# The left of a basin is a slope that the model knows well; right of the best lies the cliff, often close by.
ALONE = Reading(width=0.7, chance=(0.5, 0.3), margin=(0.1, 0.2))
# Where other settings are searched, little was seen under the best of them, on either side.
JOINT = Reading(width=0.2, chance=(0.25, 0.25), margin=(0.13, 0.13))


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
        Whether the best differs from the runner-up beyond noise; None where that cannot be told.
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
    reading = ALONE if set(context.space.names) <= {"lr"} else JOINT
    beliefs = Beliefs(context, width=reading.width)
    if not beliefs.view.alive:
        return Answer(edge=_all_diverged(beliefs), warnings=tuple(_hopeless(beliefs)))
    edge = _edge(beliefs)
    teams = _teams(beliefs)
    if not teams:
        return Answer(edge=edge, warnings=("no run was trained to its end; give the search a larger budget",))
    best, rest = teams[0], teams[1:]
    compared = (
        len({observation.seen.recipe.lr for observation in beliefs.view.arms}) > 1
    )  # one alone says nothing of any other
    return Answer(
        best=best[0].number,
        value=context.sign * _mean(beliefs, best),
        band=_band(beliefs, best, reading) if compared else None,
        edge=edge,
        runner_up=rest[0][0].number if rest else None,
        beyond_noise=_differ(beliefs, best, rest[0]) if rest else None,
        warnings=tuple(_warnings(beliefs, best[0])),
    )


def _teams(beliefs: Beliefs) -> list[list[Observation]]:
    """Completed arms by recipe, repeats under other seeds together, the best first.

    A mean over seeds is not compared with a lucky single run: where anything was repeated, only what
    was repeated can win.
    """
    teams: dict[Any, list[Observation]] = {}
    for observation in beliefs.view.completed:
        teams.setdefault(observation.seen.recipe.with_seed(0), []).append(observation)
    most = min(2, max((len(team) for team in teams.values()), default=0))
    return sorted(teams.values(), key=lambda team: (-min(len(team), most), _mean(beliefs, team), team[0].number))


def _mean(beliefs: Beliefs, team: Sequence[Observation]) -> float:
    """Mean result of a recipe, smaller is better."""
    return statistics.fmean(_value(beliefs, observation) for observation in team)


def _value(beliefs: Beliefs, observation: Observation) -> float:
    given = observation.seen.result
    return float(observation.values[-1]) if given is None else beliefs.context.sign * given


def _noise(beliefs: Beliefs, teams: Sequence[Sequence[Observation]]) -> float | None:
    """Standard deviation of one result, in the metric's unit: from repeats, else from the roughness of the curves."""
    spreads = [statistics.variance([_value(beliefs, a) for a in team]) for team in teams if len(team) > 1]
    if spreads:
        return math.sqrt(statistics.fmean(spreads))
    rough = [beliefs.view.roughness(a) for team in teams for a in team if len(a.values) >= LONG]
    if not rough:
        return None
    return statistics.median(rough) * (beliefs.view.high - beliefs.view.low)


def _differ(beliefs: Beliefs, best: Sequence[Observation], other: Sequence[Observation]) -> bool | None:
    """Whether two recipes differ beyond noise."""
    noise = _noise(beliefs, [best, other])
    if noise is None:
        return None
    apart = _mean(beliefs, other) - _mean(beliefs, best)
    return apart > SIGMAS * noise * math.sqrt(1 / len(best) + 1 / len(other))


def _band(beliefs: Beliefs, best: Sequence[Observation], reading: Reading) -> tuple[float, float]:
    """Learning rates as good as the best within noise, under its other settings."""
    observation = best[0]
    if observation not in beliefs.learning:  # completed, yet at the level of an untrained model
        return observation.seen.recipe.lr, observation.seen.recipe.lr
    shift = beliefs.shift(observation.key)
    low, high = (math.log10(lr) for lr in beliefs.context.space.lr_range)
    middle = math.log10(observation.seen.recipe.lr)
    steps = np.arange(-round(REACH / STEP), round(REACH / STEP) + 1) * STEP + middle
    xs = np.unique(np.clip(steps[(steps > low - STEP) & (steps < high + STEP)], low, high))
    known = [a for a in beliefs.learning if a.key == observation.key]
    candidates = [Candidate(a.x, a.seen.recipe, a.key, a) for a in known]
    candidates += [
        Candidate(float(x) - shift, beliefs.recipe(float(x), observation.key), observation.key, None) for x in xs
    ]
    fallen, _, _ = beliefs.draws(candidates)
    target = float(beliefs.view.scaled(_mean(beliefs, best)))
    places = np.array([c.x + shift for c in candidates])
    good = (fallen <= target + TOLERANCE).mean(axis=0) >= np.where(places < middle, *reading.chance)
    sure = np.array([c.completed for c in candidates])
    right = middle + max(_flat(beliefs, observation, known, target), _led(beliefs, observation))
    good |= ~sure & (places >= middle) & (places <= min(right, beliefs.edge + shift - GAP))
    return _around(places, good, sure, middle, reading.margin)


def _flat(beliefs: Beliefs, best: Observation, known: Sequence[Observation], target: float) -> float:
    """Decades to the right of the best within which the other runs say that nothing differs.

    Where one so far away differs by so little, at its end or at the furthest common fraction, a parabola through both
    leaves the tolerance that much further out. The model needs no such help on the left, where every run begins on the
    same slope; of what lies to the right it sees early losses, which mislead where curves swing.
    """
    vouched = 0.0
    for observation in known:
        if observation.completed:
            apart = beliefs.result(observation) - target
        elif observation.seen.trained >= LATE * beliefs.length:
            apart = abs(beliefs.behind(observation, best))
        else:
            continue
        if apart < TOLERANCE:
            vouched = max(vouched, abs(observation.x - best.x) * math.sqrt(TOLERANCE / max(apart, TIED)))
    return VOUCHED * vouched


def _led(beliefs: Beliefs, best: Observation) -> float:
    """Decades to the right of the best within which a run leads it as far as it came, and came far enough to tell."""
    leads = [
        observation.x - best.x
        for observation in beliefs.ahead(best)
        if observation.seen.trained >= TOLD * beliefs.length
    ]
    return min(LEAD, max(leads, default=0.0))


def _around(
    places: Floats,
    good: npt.NDArray[np.bool_],
    sure: npt.NDArray[np.bool_],
    middle: float,
    margins: tuple[float, float],
) -> tuple[float, float]:
    """The unbroken stretch of good places around the middle; a completed run that is not good ends it."""
    ends = []
    for side, margin in zip((-1, 1), margins, strict=True):
        end = middle
        for i in np.argsort(side * (places - middle), kind="stable"):
            if side * (places[i] - middle) <= 0 or (
                not good[i] and not sure[i] and _closer(places, sure & good, i, middle)
            ):
                continue
            if not good[i]:
                break
            end = float(places[i])
        ends.append(end + side * margin)
    return float(10 ** ends[0]), float(10 ** ends[1])


def _closer(places: Floats, proven: npt.NDArray[np.bool_], i: int, middle: float) -> bool:
    """Whether a proven good place lies further out on the same side."""
    side = 1 if places[i] > middle else -1
    return bool((proven & (side * (places - places[i]) > 0)).any())


def _edge(beliefs: Beliefs) -> Edge:
    """Where divergence begins, under the settings of the best run, and the interval it lies in."""
    observation = min(beliefs.view.completed or [beliefs.best], key=lambda a: (_value(beliefs, a), a.number))
    shift = beliefs.shift(observation.key)
    dead = [a for a in beliefs.view.arms if a.x > observation.x and _dead(beliefs, a)]
    doubtful = _doubtful(beliefs, observation, dead)
    unsure = {a.number for a in doubtful}
    dead = [a for a in dead if a.number not in unsure]
    mine = [a for a in dead if a.key == observation.key]
    lives = [a for a in beliefs.view.alive if not _dead(beliefs, a) and a.number not in unsure]
    dead = mine or _foreign(beliefs, observation, dead, lives)
    lives = [a for a in lives if a.key == observation.key]
    if not dead and not lives:  # the best so far looks stuck itself: nothing is known
        return Edge()
    if not dead:
        return Edge(low=float(10 ** (max(_lives_to(beliefs, a) for a in lives) + shift)))
    grain = GRAIN if mine else FOREIGN  # the edge under other settings says less
    high = min(a.x for a in dead)
    first = min([high, *(a.x for a in doubtful)])
    low = max([observation.x, *(_lives_to(beliefs, a) for a in lives if a.x < first)])
    low = max(observation.x, min(low, first - GRAIN / 2))  # whatever died close by: the best was trained to its end
    ends = (low + shift, (low + first) / 2 + shift, high + grain + shift)
    return Edge(low=float(10 ** ends[0]), lr=float(10 ** ends[1]), high=float(10 ** ends[2]))


def _foreign(
    beliefs: Beliefs, best: Observation, dead: Sequence[Observation], lives: Sequence[Observation]
) -> list[Observation]:
    """The dead under other settings than the best one's, but for those that a run under more similar ones outlives.

    One that lives a little below where they died does: so close, runs live and die by chance.
    """
    keys = list(dict.fromkeys([best.key, *(a.key for a in [*dead, *lives])]))
    alike = dict(zip(keys, alikeness(keys)[0], strict=True))
    to = [(alike[a.key], _lives_to(beliefs, a) + GRAIN / 2) for a in lives]
    return [d for d in dead if not any(near > alike[d.key] and d.x < x for near, x in to)]


def _doubtful(beliefs: Beliefs, best: Observation, dead: Sequence[Observation]) -> list[Observation]:
    """Runs right of the best that share a level worse than its own, and better than that of those right of them.

    They may have learned a constant, or be where they began: only the level of the untrained model could tell.
    """
    if beliefs.context.untrained is not None:
        return []
    right = sorted((a for a in beliefs.view.alive if a.x > best.x and a.key == best.key), key=lambda a: a.x)
    shared = next(filter(None, (_level(beliefs, right[k:]) for k in range(len(right)))), [])
    if not shared or any(a.number == best.number for a in _level(beliefs, [best, *shared])):
        return []
    last = max(a.x for a in shared)
    return shared if any(a.x > last for a in dead) else []


def _level(beliefs: Beliefs, arms: Sequence[Observation]) -> list[Observation]:
    return beliefs.view.level({observation.number: float(observation.values[-1]) for observation in arms})


def _dead(beliefs: Beliefs, observation: Observation) -> bool:
    """Whether a run surely does not learn: one report at the level of the untrained model may be a bad start."""
    return observation.diverged or (
        beliefs.stuck(observation) and (observation.completed or len(observation.values) >= SURE)
    )


def _lives_to(beliefs: Beliefs, observation: Observation) -> float:
    """Up to where runs surely live, if this one does: less than its own place while it may still diverge."""
    return observation.x - LATER * (1 - observation.seen.trained / beliefs.length)


def _all_diverged(beliefs: Beliefs) -> Edge:
    lrs = [a.seen.recipe.lr for a in beliefs.view.arms if a.diverged]
    return Edge(lr=min(lrs), high=min(lrs)) if lrs else Edge()


def _hopeless(beliefs: Beliefs) -> list[str]:
    if not beliefs.view.arms:
        return []
    lowest = min(a.seen.recipe.lr for a in beliefs.view.arms)
    if any(a.diverged for a in beliefs.view.arms):
        return [f"every run diverged, down to a learning rate of {lowest:g}; search a range below it"]
    return ["no run reported anything; look at the outcomes of the trials"]


def _warnings(beliefs: Beliefs, best: Observation) -> list[str]:
    found = []
    low, high = beliefs.context.space.lr_range
    lr = best.seen.recipe.lr
    if math.log10(lr / low) < END and not math.isclose(low, high):
        found.append(f"the best learning rate, {lr:g}, lies at the low end of the range; search below {low:g} too")
    if math.log10(high / lr) < END:
        found.append(f"the best learning rate, {lr:g}, lies at the high end of the range; search above {high:g} too")
    plateau = beliefs.context.untrained
    if plateau is not None and _value(beliefs, best) > beliefs.context.sign * plateau - 1e-3 * abs(plateau):
        found.append(
            "no run became better than the untrained model; train for longer, or look at the data and the model"
        )
    return found
