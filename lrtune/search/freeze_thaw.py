"""Freeze-thaw: many runs start, each trains a little, those that a model of the landscape believes in go on.

No epoch is trained twice (Swersky, Snoek and Adams, "Freeze-Thaw Bayesian Optimization", 2014,
arXiv:1406.3896). What comes next follows from what has been seen, in this order; see ``docs/freeze-thaw.md``:

1. *look*: single short pieces, a decade apart, until the best lies between worse ones;
2. *wait* on a plateau: where nothing has begun to learn, looks tell nothing, and all train on;
3. *race*: the leader, and those whose look is expected to gain more than it costs, each at doubled lengths;
4. *refine*: once one is finished, whatever is expected to gain most for its price.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from lrtune.search.base import Action, Continue, Finish, Start, Wait
from lrtune.search.freeze_thaw_beliefs import Beliefs, Candidate, Prior, warmup

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrtune.search.base import Situation
    from lrtune.search.freeze_thaw_view import Arm

__all__ = ["FreezeThaw", "Prior"]

Floats: TypeAlias = npt.NDArray[np.float64]
Key: TypeAlias = tuple[Any, ...]

FIRST = 0.01  # of a full training: the shortest first look where a trainer can look so early
PAST_WARMUP = 1.5  # times the warmup, where all settings have one: how far a first look goes
SPACING = 1.0  # decades between first looks: half the width of a basin in practice
APART = 0.12  # decades between runs before one is finished; afterwards 0.24 over the number finished
ROUNDED = 1e-6  # relative: more than the rounding of a stored epoch
FINEST = 0.02  # decades: closer runs differ by less than noise
STEPS = np.array([*np.arange(0, 0.8, 0.05), *np.arange(0.8, 2.1, 0.1)])  # from the middle to where runs may start
NEAR = np.array([0.0, 0.1, 0.2, 0.3, 0.45, 0.6])  # the same, where other settings are searched too
FAR = np.array([0.0, 0.25])  # and under settings that nothing speaks for yet
MOST_ARMS = 50  # complete and paused runs, each, that one decision looks at
MOST_OTHERS = 24  # combinations of other settings that one decision looks at
PRICE = 0.05  # regret (of the way from untrained to best) that one full training of looks must be expected to save
WORTH = 0.005  # the same for finishing another run, below which a search that may stops: the noise of many tasks
ASKED_AFTER = 3  # complete runs, after which every value of every setting gets at least one look
GUESSES = 4.0  # by how much more that is for ten times the combinations of other settings
LEAST = 2.0  # full trainings that a search must have spent on comparing before it may stop
LEAST_CONFIRMED = 1.0  # the same where an earlier study said where the best would be, and it is there
AGAIN = 2.0  # by how much more another run must promise there
WAKE = 0.2  # of a full training: how long to wait for the first run to leave a plateau
LAST_LEG = 0.6  # of a full training: a run that would come so far is trained to its end
LONGEST = 6.0  # full trainings after which a self-stopping search ends
CONFIRM = 0.0005  # expected regret saved by one more training, below which the budget goes to repeats
BASIN = 0.01  # regret by which a complete run must lose for the basin to end before it
SURE = 2.0  # standard deviations of a difference, likewise
REPEATS = 1  # paired seeds beside the first
NEAR_END = 3.0  # full trainings left below which repeats come before more looks around


class FreezeThaw:
    """The default strategy: about the price of two trainings.

    Parameters
    ----------
    prior
        What an earlier study on similar work found; it counts for less the more the runs disagree with it.
    """

    name = "freeze-thaw"

    def __init__(self, prior: Prior | None = None) -> None:
        self.prior = prior

    def next(self, situation: Situation, /) -> Action:
        """The next piece of work; a function of the situation alone."""
        return _Decision(situation, self.prior).action()


class _Decision:
    """One decision, from one situation."""

    def __init__(self, situation: Situation, prior: Prior | None) -> None:
        self.situation = situation
        self.beliefs = Beliefs(situation, prior)
        self.view = self.beliefs.view
        self.length = float(situation.epochs)
        self.first = self._round(max(situation.finest, FIRST * self.length, self._beyond_warmup()))
        low, high = situation.space.lr_range
        self.range = math.log10(low), math.log10(high)
        self.anyone_busy = any(t.until is not None for t in situation.trials)

    def action(self) -> Action:
        """What comes next."""
        if self.situation.self_stopping and self.situation.spent >= LONGEST and self.view.completed:
            return self._end(f"{LONGEST:g} full trainings are spent")
        return self._look() or self._hopeless() or self._wake() or self._race()

    def _end(self, why: str) -> Action:
        return Wait() if self.anyone_busy else Finish(why=why)

    def _hopeless(self) -> Action | None:
        if self.view.alive:
            return None
        lowest = min((t.recipe.lr for t in self.situation.trials), default=None)
        if lowest is None:
            return self._end("the budget leaves no room for a first look")
        return self._end(f"every run diverged, down to a learning rate of {lowest:g}; try a range below it")

    def _beyond_warmup(self) -> float:
        """Epochs from which a look tells something where every setting warms up: until then high peaks flatter."""
        least = min(warmup(key) for key in self.beliefs.combos)
        return PAST_WARMUP * least * self.length if 0 < least < 1 else 0.0

    # -- 1. look -----------------------------------------------------------------------------------

    def _spots(self) -> list[float]:
        """First looks: a decade apart, jittered; around an earlier study's best where there is one."""
        low, high = self.range
        count = max(2, round((high - low) / SPACING))
        step = (high - low) / count
        best = self._earlier()
        if best is not None and low <= best <= high:
            return [best + step * k for k in range(-count, count + 1) if low <= best + step * k <= high]
        jitter = np.random.default_rng([self.situation.seed, 0]).uniform(-0.25, 0.25)
        return [float(v) for v in low + step * (np.arange(count) + 0.5 + jitter)]

    def _earlier(self) -> float | None:
        """Where an earlier study found its best, as log10 of a learning rate under the settings of the first looks."""
        earlier = self.beliefs.earlier
        return None if earlier is None else earlier + self.beliefs.shift(self._home())

    def _home(self) -> Key:
        """Settings under which the learning rate is bracketed first: liked, but without a warmup to wait for."""
        least = min(warmup(key) for key in self.beliefs.combos)
        return max((key for key in self.beliefs.combos if warmup(key) == least), key=self.beliefs.liking)

    def _look(self) -> Action | None:
        home, spots = self._home(), self._spots()
        earlier = self._earlier()
        arms = [a for a in self.view.arms if a.key == home]
        if len(arms) > 2 * len(spots) or self.view.completed:
            return None
        taken = {_nearest(spots, math.log10(a.seen.recipe.lr)): a for a in reversed(arms)}
        scores = {i: self._score(a) for i, a in taken.items() if a.diverged or len(a.values)}
        if not scores:
            middle = len(spots) // 2 if earlier is None else _nearest(spots, earlier)
            order = sorted(set(range(len(spots))) - set(taken), key=lambda i: abs(i - middle))
            return self._first(spots[order[0]], home) if order else self._pause()
        best = min(scores, key=lambda i: (scores[i], i))
        if not math.isfinite(scores[best]):
            return self._descend(spots, taken, arms, home)
        for spot in (best + 1, best - 1):
            if 0 <= spot < len(spots) and spot not in taken:
                return self._first(spots[spot], home)
        return self._between(arms, home)

    def _descend(self, spots: Sequence[float], taken: dict[int, Arm], arms: Sequence[Arm], home: Key) -> Action | None:
        """Nothing lives yet: the cliff lies to the left, at last below the range."""
        left = min(taken) - 1
        if left >= 0:
            return self._first(spots[left], home)
        lowest = min(math.log10(a.seen.recipe.lr) for a in arms)
        for x in (self.range[0], self.range[0] - self.situation.widen):
            if x < lowest - FINEST:
                return self._first(x, home)
        return None

    def _between(self, arms: Sequence[Arm], home: Key) -> Action | None:
        """Half-way from the best first look to its neighbours, or beyond the range."""
        arms = sorted(arms, key=lambda a: a.seen.recipe.lr)
        xs = [math.log10(a.seen.recipe.lr) for a in arms]
        best = min(range(len(arms)), key=lambda i: (self._score(arms[i]), i))
        for other in (best + 1, best - 1):
            if 0 <= other < len(xs) and abs(xs[other] - xs[best]) > 0.75 * SPACING:
                return self._first((xs[best] + xs[other]) / 2, home)
        return None if self.view.plateau else self._beyond(xs, best, home)  # no best among equals

    def _beyond(self, xs: Sequence[float], best: int, home: Key) -> Action | None:
        """The end of the range, and what lies beyond, where no look bounds the best one."""
        low, high = self.range
        if best == len(xs) - 1 and xs[best] < high - APART:
            return self._first(high, home)
        if best == len(xs) - 1 and self.situation.widen > 0 and xs[best] <= high + FINEST:
            return self._first(high + min(SPACING, self.situation.widen), home)
        if best == 0 and self.situation.widen > 0 and low + FINEST < xs[best]:
            return self._first(low, home)
        if best == 0 and self.situation.widen > 0 and xs[best] >= low - FINEST:
            return self._first(low - min(SPACING, self.situation.widen), home)
        return None

    def _score(self, arm: Arm) -> float:
        if arm.diverged or not len(arm.values):
            return math.inf
        return self.view.at(arm, min(arm.seen.trained, self.first) / self.length)

    def _first(self, x: float, key: Key) -> Action | None:
        """A first look, where it may be started and leaves room to finish something."""
        furthest = max((a.seen.trained for a in self.view.alive), default=0.0)
        reserve = (self.length - max(furthest, self.first)) / self.length
        price = self.first / self.length
        # With less than one training to spend nothing can be finished, and looks are all there is.
        if self.situation.exhausted or price > self.situation.left + 1e-9:
            return None
        if price + reserve > self.situation.left + 1e-9 and furthest > 0:
            return None
        recipe = self.beliefs.recipe(x, key)
        return Start(params=self.situation.space.params(recipe), until=self.first, why="first look")

    def _pause(self) -> Action | None:
        return Wait() if self.anyone_busy else None

    # -- 2. wait on a plateau ----------------------------------------------------------------------

    def _wake(self) -> Action | None:
        """Where nothing has begun to learn: train all on, and the lowest learning rate with them, until one does."""
        plateau = self.view.plateau
        low = self.range[0]
        if plateau and all(math.log10(a.seen.recipe.lr) > low + 1e-6 for a in self.view.arms):
            return self._first(low, self._home())
        limit = self._round(WAKE * self.length)
        if not plateau:
            plateau = self.view.left_behind
            limit = min(limit, self.beliefs.best.seen.trained)
        spread: list[Arm] = []
        for arm in sorted(plateau, key=lambda a: (-a.seen.trained, a.x)):
            if all(abs(arm.x - other.x) >= 0.4 * SPACING for other in spread):
                spread.append(arm)
        ready = [a for a in spread if a.seen.open and a.seen.trained < limit]
        if not ready:
            return None
        arm = min(ready, key=lambda a: (a.seen.trained, a.x))
        until = min(self._next(arm.seen.trained), limit)
        if (until - arm.seen.trained + arm.seen.again) / self.length + 1 > self.situation.left:
            return None
        return Continue(number=arm.number, until=until, why="nothing learns yet")

    # -- 3. race, 4. refine --------------------------------------------------------------------------

    def _race(self) -> Action:
        candidates = self._candidates()
        trained = np.array([c.trained for c in candidates])
        reach = max([self.first, *(c.trained for c in candidates if not c.completed)])
        until = np.array([self._round(min(max(self.first, 2 * t), reach)) for t in trained])
        fallen, smooth, looks = self.beliefs.draws(candidates, until, looked=not self.view.completed)
        if self.view.completed:
            return self._refine(candidates, fallen)
        remaining = np.array([self._price(c, self.length) for c in candidates])
        beyond = remaining > self.situation.left + 1e-9
        if beyond.all():
            return self._end("the budget leaves no room for a full training")
        leader = int(np.argmin(np.where(beyond, np.inf, fallen.mean(axis=0) + 1e-3 * remaining)))
        cost = np.array([self._price(c, float(u)) for c, u in zip(candidates, until, strict=True)])
        free = np.array([self._free(c) for c in candidates]) & (until > trained)
        worth = np.where(free, _gain(fallen, smooth, looks, leader) - PRICE * cost, -np.inf)
        worth[leader] = -np.inf
        return self._lead(candidates, leader, worth, until, fallen)

    def _lead(
        self, candidates: Sequence[Candidate], leader: int, worth: Floats, until: Floats, fallen: Floats
    ) -> Action:
        """Train the leader on, after those who may yet overtake it have caught up."""
        first = candidates[leader]
        reserve = self._price(first, self.length)
        if first.trained < self.first and self._free(first) and reserve <= self.situation.left + 1e-9:
            return self._advance(first, self.first, "the model's favourite")
        pick = int(np.argmax(worth))
        cost = self._price(candidates[pick], float(until[pick]))
        if worth[pick] > 0 and cost + reserve <= self.situation.left + 1e-9:
            return self._advance(candidates[pick], float(until[pick]), "challenger")
        if self._free(first):
            return self._advance(first, self._next(first.trained), "leader")
        return self._beside(candidates, leader, fallen)

    def _beside(self, candidates: Sequence[Candidate], leader: int, fallen: Floats) -> Action:
        """The leader is being trained by somebody: the next best, no further than the leader."""
        first = candidates[leader]
        target = self.length if first.arm is None or first.arm.seen.until is None else first.arm.seen.until
        means = fallen.mean(axis=0)
        for j in np.argsort(means, kind="stable"):
            c = candidates[j]
            until = min(self._next(c.trained), target)
            price = self._price(c, until) + max(0.0, 1 - target / self.length)
            if self._free(c) and until > c.trained and price <= self.situation.left + 1e-9:
                return self._advance(c, until, "beside the leader")
        return self._end("the budget ends before another run can be finished")

    def _refine(self, candidates: Sequence[Candidate], fallen: Floats) -> Action:
        """After the first full training: what is expected to gain most for its price."""
        remaining = np.array([self._price(c, self.length) for c in candidates])
        best = min(float(fallen[0, j]) for j, c in enumerate(candidates) if c.completed)
        gain = np.maximum(0, best - fallen).mean(axis=0)
        free = np.array([self._free(c) for c in candidates]) & (remaining <= self.situation.left + 1e-9)
        worth = np.where(free, gain / np.maximum(remaining, 0.05), -np.inf)
        if not free.any():
            return self._end("the budget leaves no room for another full training")
        pick = int(np.argmax(worth))
        # the best of more guesses promises more
        worthwhile, least = WORTH * (1 + GUESSES * math.log10(len(self.beliefs.combos))), LEAST
        if self.beliefs.confirmed:  # the earlier study has looked around already
            worthwhile, least = AGAIN * worthwhile, LEAST_CONFIRMED
        enough = self.situation.spent >= least and gain[pick] < worthwhile * max(float(remaining[pick]), 0.05)
        if self.situation.self_stopping and enough:
            return self._end("what the model still expects to gain is below the noise")
        if not self.situation.self_stopping and self.situation.left < NEAR_END and gain[pick] < CONFIRM:
            repeat = self._repeat()
            if repeat is not None:
                return repeat
        unseen = self._unseen(candidates) & free
        if len(self.view.completed) >= ASKED_AFTER and unseen.any():
            fresh = candidates[int(np.argmax(np.where(unseen, worth, -np.inf)))]
            return self._advance(fresh, self.first, "a setting never looked at")
        return self._advance(candidates[pick], self._next(candidates[pick].trained), "refine")

    def _unseen(self, candidates: Sequence[Candidate]) -> npt.NDArray[np.bool_]:
        """Which would be the first run with some value of a setting, shape (candidates,)."""
        tried = [set(values) for values in zip(*(arm.key for arm in self.view.arms), strict=True)]
        fresh = {
            key: any(value not in known for value, known in zip(key, tried, strict=True))
            for key in {c.key for c in candidates}
        }
        return np.array([c.arm is None and fresh[c.key] for c in candidates])

    def _repeat(self) -> Action | None:
        """The two best once more with the next paired seed, where the budget holds both."""
        base = min(t.recipe.seed for t in self.situation.trials)
        known = {(t.recipe.with_seed(0), t.recipe.seed - base) for t in self.situation.trials}
        tops = sorted((a for a in self.view.completed if a.seen.recipe.seed == base), key=self.beliefs.result)[:2]
        for seed in range(1, REPEATS + 1):
            for arm in tops:
                if (arm.seen.recipe.with_seed(0), seed) in known or self.situation.exhausted:
                    continue
                if self.situation.left + 1e-9 < 1:
                    return None
                params = self.situation.space.params(arm.seen.recipe)
                return Start(params=params, until=self.length, seed=seed, why="paired repeat")
        return None

    # -- where runs may be started -------------------------------------------------------------------

    def _candidates(self) -> list[Candidate]:
        count = len(self.view.completed)
        apart = max(FINEST, 2 * APART / count) if count else APART
        found = self._enclosed(apart, self._within)
        while count and apart > FINEST and not self._room(found):  # closer, before anything else is given up
            apart = max(FINEST, apart / 2)
            found = self._enclosed(apart, self._within)
        return found if self._room(found) or not count else self._enclosed(FINEST, lambda _x, _key: True)

    def _room(self, candidates: Sequence[Candidate]) -> bool:
        """Whether any of them can be trained."""
        return any(self._free(c) and not c.completed for c in candidates)

    def _enclosed(self, apart: float, within: Callable[[float, Key], bool]) -> list[Candidate]:
        beliefs = self.beliefs
        arms = [a for a in self.view.alive if a.completed or (a.x < beliefs.edge and a.seen.outcome is None)]
        done = sorted((a for a in arms if a.completed), key=beliefs.result)[:MOST_ARMS]
        paused = sorted((a for a in arms if not a.completed), key=lambda a: (-a.seen.trained, float(a.values[-1])))
        paused = [a for a in paused if within(a.x, a.key)]
        found = [Candidate(a.x, a.seen.recipe, a.key, a) for a in [*done, *paused[:MOST_ARMS]]]
        if self.situation.exhausted:
            return found
        taken: dict[Key, list[float]] = {}
        for arm in self.view.arms:
            taken.setdefault(arm.key, []).append(math.log10(arm.seen.recipe.lr))
        count = len(self.view.completed)
        for key, middle, steps in self._around():
            shift = beliefs.shift(key)
            bisect = [(max(a.x for a in beliefs.learning) + beliefs.edge) / 2 + shift] if count else []
            for x in [*self._grid(middle + shift, steps), *(x for x in bisect if math.isfinite(x))]:
                least = 1e-6 if x in self.range else apart  # nothing lies beyond the ends: worth an exact look
                if (
                    x - shift < beliefs.edge
                    and within(x - shift, key)
                    and all(abs(x - other) > least for other in taken.get(key, []))
                ):
                    found.append(Candidate(x - shift, beliefs.recipe(x, key), key, None))
        return found

    def _within(self, x: float, key: Key) -> bool:
        """Whether it lies between complete runs that are worse than the best complete one: there is one basin only."""
        low, high = self._basins.get(key, (-math.inf, math.inf))
        return low < x < high

    @functools.cached_property
    def _basins(self) -> dict[Key, tuple[float, float]]:
        """Under each combination of settings, the nearest complete runs (x) left and right that end clearly worse."""
        found = {}
        for key in {arm.key for arm in self.view.completed}:
            done = [(a.x, self.beliefs.result(a), self.view.roughness(a)) for a in self.view.completed if a.key == key]
            best, least, rough = min(done, key=lambda place: place[1])
            worse = [x for x, result, own in done if result > least + BASIN + SURE * math.hypot(rough, own)]
            left, right = [x for x in worse if x < best], [x for x in worse if x > best]
            found[key] = max(left, default=-math.inf), min(right, default=math.inf)
        return found

    def _around(self) -> list[tuple[Key, float, Floats]]:
        """Where runs may be started: combinations of the other settings, a middle (x), steps to both its sides."""
        beliefs = self.beliefs
        if len(beliefs.combos) == 1:
            return [(beliefs.combos[0], beliefs.best.x, STEPS)]
        expected, _ = beliefs.expected
        order = sorted(beliefs.learning, key=lambda a: (-a.seen.trained, float(a.values[-1]), a.number))
        tops = list(dict.fromkeys(a.key for a in order))
        if not self.view.completed:  # finish something good before asking what else is
            favourites = sorted(beliefs.combos, key=beliefs.liking, reverse=True)[:2]
            return [(key, expected, NEAR) for key in dict.fromkeys([*tops[:1], *favourites])]
        others = [key for key in beliefs.combos if key not in tops[:2]]
        if len(others) > MOST_OTHERS:
            others = [others[i] for i in beliefs.rng.choice(len(others), MOST_OTHERS, replace=False)]
        place = min(expected, beliefs.edge - SPACING / 3)
        return [(key, beliefs.best.x, NEAR) for key in tops[:2]] + [(key, place, FAR) for key in others]

    def _grid(self, middle: float, steps: Floats) -> list[float]:
        """Learning rates (log10) around a middle; with the ends of the range, and beyond where the best is there."""
        low, high = self.range
        near = sorted({round(float(middle + sign * step), 6) for step in steps for sign in (-1, 1)})
        inner = [x for x in near if low + FINEST < x < high - FINEST]
        if len(steps) < len(STEPS):
            return inner
        place = self.beliefs.champion.x
        wider = self.situation.widen
        beyond = [x for x in near if low - wider <= x < low - FINEST and place < low + APART]
        beyond += [x for x in near if high + FINEST < x <= high + wider and place > high - APART]
        return [low, *inner, high, *beyond]

    # -- lengths, prices, actions --------------------------------------------------------------------

    def _round(self, epochs: float) -> float:
        """Up to a multiple of the smallest useful piece.

        Where that is no whole epoch the answer lies a hair below it: a stored epoch is rounded, and a run
        that reached 0.09090909 must have reached what was asked, or it would be asked for for ever.
        """
        finest = self.situation.finest
        asked = math.ceil(epochs / finest - ROUNDED) * finest
        if asked >= self.length * (1 - ROUNDED):
            return self.length
        return float(asked if finest.is_integer() else asked * (1 - ROUNDED))

    def _next(self, trained: float) -> float:
        target = self._round(max(self.first, 2 * trained))
        return self.length if target > LAST_LEG * self.length else target

    def _price(self, candidate: Candidate, until: float) -> float:
        """Full trainings that training it up to an epoch costs."""
        again = 0.0 if candidate.arm is None else candidate.arm.seen.again
        return max(0.0, until - candidate.trained + again) / self.length

    def _free(self, candidate: Candidate) -> bool:
        """Whether whoever asks may train it."""
        return candidate.arm is None or candidate.arm.seen.open

    def _advance(self, candidate: Candidate, until: float, why: str) -> Action:
        if self._price(candidate, until) > self.situation.left + 1e-9:
            return self._end("the budget ends before another run can be finished")
        if candidate.arm is None:
            return Start(params=self.situation.space.params(candidate.recipe), until=until, why=why)
        return Continue(number=candidate.arm.number, until=until, why=why)


def _nearest(spots: Sequence[float], x: float) -> int:
    return int(np.argmin([abs(s - x) for s in spots]))


def _gain(fallen: Floats, smooth: Floats, looks: Floats, leader: int) -> Floats:
    """What a look at each candidate is expected to gain over the leader, shape (candidates,).

    The knowledge gradient of two alternatives (Frazier, Powell and Dayanik 2009, "The Knowledge-Gradient Policy
    for Correlated Normal Beliefs", section 3): the part of the difference that the look resolves.
    """
    ahead = smooth[:, [leader]] - smooth
    mean = (fallen[:, [leader]] - fallen).mean(axis=0)
    centred = ahead - ahead.mean(axis=0)
    shown = looks - looks.mean(axis=0)
    resolved = np.abs((centred * shown).mean(axis=0)) / np.maximum(shown.std(axis=0), 1e-9)
    z = np.clip(mean / np.maximum(resolved, 1e-9), -30, 30)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    gain: Floats = resolved * density + mean * ndtr(z) - np.maximum(mean, 0)
    return gain
