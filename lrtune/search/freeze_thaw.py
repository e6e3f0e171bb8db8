"""Freeze-thaw: many runs start, each trains a little, those that a model of the landscape believes in go on.

No epoch is trained twice (Swersky, Snoek and Adams, "Freeze-Thaw Bayesian Optimization", 2014,
arXiv:1406.3896). Four phases follow from what has been seen, in this order; see ``docs/freeze-thaw.md``:

1. *look*: single short pieces, a decade apart, until the basin is bracketed;
2. *race*: the leader and those whose chance to be better is worth their price, each at doubled lengths;
3. *finish* the leader;
4. *refine*: whatever the model expects to gain most from, for its price.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from lrtune.search.base import Action, Continue, Finish, Start, Wait
from lrtune.search.freeze_thaw_view import SETTINGS, Arm, Profiles, View, alikeness, points, settings
from lrtune.search.landscape import NOISE, Landscape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.recipe import Recipe
    from lrtune.search.base import Situation

__all__ = ["FreezeThaw"]

Floats: TypeAlias = npt.NDArray[np.float64]

FIRST = 0.01  # of a full training: the shortest first look where a trainer can look so early
SPACING = 1.0  # decades between first looks: half the width of a basin in practice
FINE = 0.05  # decades between the candidates of the model: the loss changes by less than noise within
WIDE = np.array([*np.arange(0, 0.8, FINE), *np.arange(0.8, 2.1, 2 * FINE)])  # steps from the middle, in decades
NEAR = np.array([0.0, 0.1, 0.2, 0.3, 0.45, 0.6])  # where other settings are searched too
FAR = np.array([0.0, 0.25])
MOST_OTHERS = 24  # combinations of other settings that one decision looks at
DRAWS = 256
PRICE = 0.03  # regret (of the way from untrained to best) that one full training must be expected to save
LATE = 0.15  # decades by which the cliff may still move left as a run goes on
DRIFT = 0.25  # decades that the best learning rate moves left while training grows tenfold, p / (p + q) of the law
WAKE = 0.2  # of a full training: how long to wait for the first run to leave a plateau
BASIN = 0.01  # regret at one standard deviation from there
LIKED = 0.005  # regret that one good reason for settings is worth before they are seen
WIDTH = 0.2  # decades: how well the best place is known from runs that are complete
LEARNED, STUCK = 0.8, 0.1  # scaled: the best has learned at all; another has done so by less than this part
FALL = 1.0  # what a run beyond the cliff is worth
LONGEST = 6.0  # full trainings after which a self-stopping search ends


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run that could be trained on, or started: its arm where it exists."""

    x: float
    recipe: Recipe
    key: tuple[Any, ...]
    arm: Arm | None

    @property
    def trained(self) -> float:
        """Epochs that are paid already."""
        return 0.0 if self.arm is None else self.arm.seen.trained


class FreezeThaw:
    """The default strategy: about the price of two trainings."""

    name = "freeze-thaw"

    def next(self, situation: Situation, /) -> Action:
        """The next piece of work; a function of the situation alone."""
        return _Decision(situation).action()


class _Decision:
    """One decision, from one situation."""

    def __init__(self, situation: Situation) -> None:
        self.situation = situation
        self.view = View(situation)
        self.length = float(situation.epochs)
        self.first = self._round(max(situation.finest, FIRST * self.length))
        self.profiles = Profiles(self.length)
        self.combos = _combos(situation)
        self.rng = np.random.default_rng([situation.seed, 1 + sum(len(t.epochs) for t in situation.trials)])
        low, high = situation.space.lr_range
        self.range = math.log10(low), math.log10(high)

    def _round(self, epochs: float) -> float:
        finest = self.situation.finest
        return min(self.length, math.ceil(epochs / finest - 1e-9) * finest)

    # -- phases ------------------------------------------------------------------------------------

    def action(self) -> Action:
        """What comes next."""
        if self.situation.self_stopping and self.situation.spent >= LONGEST:
            return Finish(why=f"{LONGEST:g} full trainings are spent")
        look = self._look()
        if look is not None:
            return look
        if not self.view.alive:
            return self._hopeless()
        plateau = self.view.plateau
        if plateau:
            wake = self._wake(plateau)
            if wake is not None:
                return wake
        return self._race()

    def _hopeless(self) -> Action:
        if any(t.until is not None for t in self.situation.trials):
            return Wait()
        return Finish(why="every run diverged; try a range of lower learning rates")

    def _wake(self, plateau: Sequence[Arm]) -> Action | None:
        """Where nothing has begun to learn: train all on, and the lowest learning rate with them, until one does."""
        low = self.range[0]
        if all(math.log10(a.seen.recipe.lr) > low + 1e-6 for a in self.view.arms):
            return self._start(low, self._home(), self.first, "nothing moves: the lowest")
        spread: list[Arm] = []
        for arm in sorted(plateau, key=lambda a: (-a.seen.trained, a.x)):
            if all(abs(arm.x - other.x) >= 0.4 for other in spread):
                spread.append(arm)
        ready = [a for a in spread if a.seen.open and a.seen.trained < WAKE * self.length]
        if not ready:
            return None
        arm = min(ready, key=lambda a: (a.seen.trained, a.x))
        until = min(self._next(arm.seen.trained), self._round(WAKE * self.length))
        if (until - arm.seen.trained) / self.length + 1 > self.situation.left:
            return None
        return Continue(number=arm.number, until=until, why="nothing moves yet")

    # -- 1. look -----------------------------------------------------------------------------------

    def _spots(self) -> list[float]:
        """First looks: a decade apart, jittered, the ends of the range among them."""
        low, high = self.range
        count = max(2, round((high - low) / SPACING))
        jitter = np.random.default_rng([self.situation.seed, 0]).uniform(-0.25, 0.25)
        inner = low + (high - low) * (np.arange(count) + 0.5 + jitter) / count
        return [low, *(float(v) for v in inner), high] if count < 3 else [float(v) for v in inner]

    def _home(self) -> tuple[Any, ...]:
        """Settings under which the learning rate is bracketed first: liked, but without a warmup to wait for."""
        combos = self.combos
        least = min(_warmup(key) for key in combos)
        return max((key for key in combos if _warmup(key) == least), key=self._liking)

    def _liking(self, key: tuple[Any, ...]) -> float:
        """How many things speak for settings before anything is seen: decay, warmup, more updates an epoch.

        Decay and warmup rarely cost and often gain (Goyal et al. 2017; Kalra and Barkeshli 2024, arXiv:2406.09405);
        over equally many epochs a smaller batch makes more updates (Shallue et al. 2019, section 4).
        """
        recipe = _recipe(self.situation, self.range[0], key)
        _, level = self.profiles.of(recipe, 1.0)
        liking = 1.0 - min(1.0, level) + (0.5 if _warmup(key) > 0 else 0.0)
        sizes = [k[SETTINGS.index("batch_size")] for k in self.combos]
        if len(set(sizes)) > 1:
            liking += 0.5 * math.log10(max(sizes) / key[SETTINGS.index("batch_size")])
        return liking

    def _look(self) -> Action | None:
        home = self._home()
        spots = self._spots()
        taken = {
            self._nearest(spots, math.log10(a.seen.recipe.lr)): a for a in reversed(self.view.arms) if a.key == home
        }
        if len(self.view.arms) >= 3 * len(spots):
            return None
        middle = len(spots) // 2
        if not taken:
            return self._start(spots[middle], home, self.first, "first look")
        scores = {i: self._score(a) for i, a in taken.items()}
        best = min(scores, key=lambda i: (scores[i], i))
        left, right = best - 1, best + 1
        if not math.isfinite(scores[best]):  # nothing lives yet: the cliff lies to the left
            left = min(taken) - 1
            right = -1 if any(not len(a.values) and a.seen.until is not None for a in taken.values()) else -1
        for spot in (right, left):
            if 0 <= spot < len(spots) and spot not in taken:
                return self._start(spots[spot], home, self.first, "first look")
        return self._between(home) if math.isfinite(scores[best]) else None

    def _between(self, home: tuple[Any, ...]) -> Action | None:
        """Half-way to the neighbours of the best first look."""
        arms = sorted((a for a in self.view.arms if a.key == home), key=lambda a: a.seen.recipe.lr)
        xs = [math.log10(a.seen.recipe.lr) for a in arms]
        best = min(range(len(arms)), key=lambda i: self._score(arms[i]))
        for other in (best + 1, best - 1):
            if 0 <= other < len(xs) and abs(xs[other] - xs[best]) > 0.75 * SPACING:
                return self._start((xs[best] + xs[other]) / 2, home, self.first, "first look")
        return None

    @staticmethod
    def _nearest(spots: Sequence[float], x: float) -> int:
        return int(np.argmin([abs(s - x) for s in spots]))

    def _score(self, arm: Arm) -> float:
        if arm.diverged or not len(arm.values):
            return math.inf
        return self.view.at(arm, min(arm.seen.trained, self.first) / self.length)

    # -- 2. to 4.: the model -----------------------------------------------------------------------

    def _candidates(self) -> list[Candidate]:
        edge = self._edge()
        found = [
            Candidate(arm.x, arm.seen.recipe, arm.key, arm)
            for arm in self.view.alive
            if arm.completed or (arm.x < edge and (arm.seen.open or arm.seen.until is not None))
        ]
        best = min(self.view.alive, key=lambda a: self.view.scaled(a.values[-1]))
        taken: dict[tuple[Any, ...], list[float]] = {}
        for arm in self.view.arms:
            taken.setdefault(arm.key, []).append(math.log10(arm.seen.recipe.lr))
        completed = sum(a.completed for a in self.view.arms)
        apart = max(0.03, 0.24 / completed) if completed else 0.12
        for key, middle, steps in self._around(best, edge):
            shift = _shift(self.situation, key)
            for x in self._grid(middle + shift, steps):
                if x - shift < edge and self._free(x, taken.get(key, []), apart):
                    found.append(Candidate(x - shift, _recipe(self.situation, x, key), key, None))
        return found

    def _around(self, best: Arm, edge: float) -> list[tuple[tuple[Any, ...], float, Floats]]:
        """Where runs may be started: for each combination of the other settings, a middle and steps to both sides."""
        combos = self.combos
        if len(combos) == 1:
            return [(best.key, best.x, WIDE)]
        expected, _ = self._expected()
        tops = [a.key for a in sorted(self.view.alive, key=lambda a: (-a.seen.trained, a.values[-1]))]
        if not any(a.completed for a in self.view.alive):  # finish something good before asking what else is
            favourites = sorted(combos, key=self._liking, reverse=True)[:2]
            return [(key, expected, NEAR) for key in dict.fromkeys([*tops[:1], *favourites])]
        near = list(dict.fromkeys(tops))[:2]
        others = [key for key in combos if key not in near]
        if len(others) > MOST_OTHERS:
            others = [others[i] for i in self.rng.choice(len(others), MOST_OTHERS, replace=False)]
        return [(k, best.x, NEAR) for k in near] + [(k, min(expected, edge - 0.3), FAR) for k in others]

    def _free(self, x: float, taken: Sequence[float], apart: float) -> bool:
        """Whether no run stands too close; the ends of the range, which nothing lies beyond, are worth an exact look."""
        least = 1e-6 if x in self.range else apart
        return all(abs(x - other) > least for other in taken)

    def _grid(self, middle: float, steps: Floats) -> list[float]:
        """Learning rates (log10) that may be started: around the middle; the ends of the range where it is searched wide."""
        low, high = self.range
        near = sorted({round(middle + sign * step, 6) for step in steps for sign in (-1, 1)})
        inner = [x for x in near if low + FINE / 2 < x < high - FINE / 2]
        return [low, *inner, high] if len(steps) > len(NEAR) else inner

    def _draws(self, candidates: Sequence[Candidate], until: Floats) -> tuple[Floats, Floats, Floats]:
        """Final values of the candidates, shape (draws, candidates)."""
        keys = list(dict.fromkeys([c.key for c in candidates] + [a.key for a in self.view.arms]))
        index = {key: i for i, key in enumerate(keys)}
        places, y, rough = [], [], []
        for arm in self._believed():
            noise = self.view.roughness(arm)
            for fraction, value in self.view.looks(arm):
                rough.append(noise)
                places.append((arm.x, fraction, arm.seen.recipe, index[arm.key], arm.number))
                y.append(min(value, 1.3))
        values = np.array(y)
        seen = points(places, self.profiles)
        gap = np.array(
            [v - values[(seen.t > t / 1.2) & (seen.t < t * 1.2)].min() for v, t in zip(values, seen.t, strict=True)]
        )
        model = Landscape(seen, values, gap=gap, rough=np.array(rough), alike=alikeness(keys))
        runs = [-1 - j if c.arm is None else c.arm.number for j, c in enumerate(candidates)]
        whens = np.concatenate([np.ones(len(candidates)), until / self.length])
        pairs = zip([*zip(candidates, runs, strict=True)] * 2, whens, strict=True)
        query = points([(c.x, float(t), c.recipe, index[c.key], r) for (c, r), t in pairs], self.profiles)
        both = model.draws(query, DRAWS, self.rng)
        draws, looks = both[:, : len(candidates)], both[:, len(candidates) :]
        looks = looks + NOISE * self.rng.standard_normal(looks.shape)
        for j, c in enumerate(candidates):
            if c.arm is not None and c.arm.completed:
                draws[:, j] = self.view.scaled(self._result(c.arm))
        likings = np.array([self._liking(c.key) for c in candidates])
        unseen = np.array([1 - c.trained / self.length for c in candidates])
        draws = draws + self._basin(candidates) - LIKED * likings * unseen
        return self._with_cliff(draws.copy(), candidates), draws, looks

    def _basin(self, candidates: Sequence[Candidate]) -> Floats:
        """What leaving the place where the best run can be expected costs, shape (candidates,)."""
        expected, spread = self._expected()
        trained = np.array([c.trained for c in candidates]) / self.length
        away = (np.array([c.x for c in candidates]) - expected) / spread
        found: Floats = BASIN * np.minimum(away**2, 9.0) * (1 - trained)
        return found

    def _expected(self) -> tuple[float, float]:
        """Where the best run is expected (x), give or take."""
        champion = self._champion()
        decades = -math.log10(max(1e-3, champion.seen.trained / self.length))
        _, level = self.profiles.of(champion.seen.recipe, 1.0)  # decay takes the noise away that drives the drift
        return champion.x - DRIFT * min(1.0, level) * decades, DRIFT * decades + WIDTH

    def _champion(self) -> Arm:
        """The arm that lost its comparisons by least, each at the furthest common fraction."""
        edge = self._edge()
        most = max((a.seen.trained, -a.values[-1], a.number) for a in self.view.alive if a.x < edge)
        leader = next(a for a in self.view.alive if a.number == most[2])
        arms = [a for a in self.view.alive if a.x < edge and a.key == leader.key]
        lost = []
        for one in arms:
            worst = 0.0
            for two in arms:
                common = min(one.seen.trained, two.seen.trained) / self.length
                worst = max(worst, self.view.at(one, common) - self.view.at(two, common))
            lost.append((worst, -one.seen.trained, one.number))
        number = min(lost)[2]
        return next(a for a in arms if a.number == number)

    def _result(self, arm: Arm) -> float:
        given = getattr(arm.seen, "result", None)
        return float(arm.values[-1]) if given is None else self.situation.sign * given

    def _believed(self) -> list[Arm]:
        """Arms that the smooth model is made for: those beyond the cliff are not, diverged or not."""
        edge = self._edge()
        arms = [a for a in self.view.alive if a.x < edge]
        arms.sort(key=lambda a: (-a.seen.trained, a.values[-1]))
        return arms[:40]

    def _edge(self) -> float:
        """log10 of the lowest learning rate seen not to learn."""
        best = min(self.view.alive, key=lambda a: a.values[-1])
        bad = [a.x for a in self.view.arms if a.diverged and a.x > best.x - 3]
        bad += [a.x for a in self.view.alive if a.x > best.x and self._stuck(a, best)]
        return min(bad, default=math.inf)

    def _stuck(self, arm: Arm, best: Arm) -> bool:
        """Whether it is where it began although the best one, at the same fraction, has learned."""
        fraction = min(arm.seen.trained, best.seen.trained) / self.length
        here, there = self.view.at(arm, fraction), self.view.at(best, fraction)
        return there < LEARNED and here > 1 - STUCK * (1 - there)

    def _with_cliff(self, draws: Floats, candidates: Sequence[Candidate]) -> Floats:
        edge = self._edge()
        if not math.isfinite(edge):
            return draws
        alive = [a for a in self.view.alive if a.x < edge]
        last = max((a.x for a in alive), default=edge - SPACING)
        count = len(draws)
        cliff = last + (edge - last) * self.rng.uniform(size=count)
        late = np.abs(self.rng.standard_normal(count)) * LATE
        for j, c in enumerate(candidates):
            if c.arm is not None and c.arm.completed:
                continue
            left = 1 - c.trained / self.length
            falls = c.x >= np.minimum(cliff, edge) - late * left
            draws[falls, j] = FALL
        return draws

    def _race(self) -> Action:
        candidates = self._candidates()
        trained = np.array([c.trained for c in candidates])
        reach = max(self.first, max((c.trained for c in candidates if c.arm is not None and not c.arm.completed), default=0))
        until = np.array([self._round(min(max(self.first, 2 * t), max(reach, self.first))) for t in trained])
        fallen, draws, looks = self._draws(candidates, until)
        busy = np.array([c.arm is not None and c.arm.seen.until is not None for c in candidates])
        done = np.array([c.arm is not None and c.arm.completed for c in candidates])
        remaining = (self.length - trained) / self.length
        if done.any():
            return self._refine(candidates, fallen, done, busy, remaining)
        leader = int(np.argmin(fallen.mean(axis=0) + 1e-3 * remaining))
        cost = (until - trained) / self.length
        worth = np.where((cost > 1e-9) & ~busy, _gain(fallen, draws, looks, leader) - PRICE * cost, -np.inf)
        return self._challenge(candidates, leader, worth, until, busy)

    def _challenge(self, candidates, leader, worth, until, busy) -> Action:
        """Before anything is finished: let challengers catch up where their chance is worth the price."""
        trained = candidates[leader].trained
        if trained < self.first and not busy[leader]:
            return self._advance(candidates[leader], self.first, "the model's favourite")
        worth[leader] = -np.inf
        pick = int(np.argmax(worth))
        cost = (until[pick] - candidates[pick].trained) / self.length
        if worth[pick] > 0 and self._affordable(cost, candidates[leader]):
            return self._advance(candidates[pick], float(until[pick]), "challenger")
        if busy[leader]:
            return Wait()
        return self._advance(candidates[leader], self._next(trained), "leader")

    def _next(self, trained: float) -> float:
        target = self._round(max(self.first, 2 * trained))
        return self.length if target > 0.6 * self.length else target

    def _affordable(self, cost: float, leader: Candidate) -> bool:
        return cost + (self.length - leader.trained) / self.length <= self.situation.left + 1e-9

    def _refine(self, candidates, draws, done, busy, remaining) -> Action:
        """After the first full training: what gains most for its price."""
        best = draws[0][done].min()
        gain = np.maximum(0, best - draws).mean(axis=0)
        ok = ~done & ~busy & (remaining <= self.situation.left + 1e-9)
        worth = np.where(ok, gain / np.maximum(remaining, 0.05), -np.inf)
        pick = int(np.argmax(worth))
        if not ok.any():
            return Wait() if busy.any() else Finish(why="the budget is spent")
        if self.situation.self_stopping and gain[pick] < PRICE * remaining[pick]:
            return Wait() if busy.any() else Finish(why="what is left to gain is below the noise")
        return self._advance(candidates[pick], self._next(candidates[pick].trained), "refine")

    # -- actions -----------------------------------------------------------------------------------

    def _advance(self, candidate: Candidate, until: float, why: str) -> Action:
        price = (until - candidate.trained) / self.length
        if price > self.situation.left + 1e-9:
            return Finish(why="the budget is spent")
        if candidate.arm is None:
            return Start(params=self.situation.space.params(candidate.recipe), until=until, why=why)
        return Continue(number=candidate.arm.number, until=until, why=why)

    def _start(self, x: float, key: tuple[Any, ...], until: float, why: str) -> Action | None:
        if until / self.length > self.situation.left + 1e-9:
            return None
        recipe = _recipe(self.situation, x, key)
        return Start(params=self.situation.space.params(recipe), until=until, why=why)


def _gain(fallen: Floats, draws: Floats, looks: Floats, leader: int) -> Floats:
    """What a look at each candidate is expected to gain over the leader, shape (candidates,).

    The knowledge gradient of two alternatives (Frazier, Powell and Dayanik 2009, "The Knowledge-Gradient Policy
    for Correlated Normal Beliefs", section 3): the part of the difference that the look resolves.
    """
    ahead = draws[:, [leader]] - draws
    mean = (fallen[:, [leader]] - fallen).mean(axis=0)
    centred = ahead - ahead.mean(axis=0)
    shown = looks - looks.mean(axis=0)
    resolved = np.abs((centred * shown).mean(axis=0)) / np.maximum(shown.std(axis=0), 1e-9)
    z = mean / np.maximum(resolved, 1e-9)
    gain: Floats = resolved * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) + mean * ndtr(z) - np.maximum(mean, 0)
    return gain


def _warmup(key: tuple[Any, ...]) -> float:
    return float(key[SETTINGS.index("warmup")])


def _combos(situation: Situation) -> list[tuple[Any, ...]]:
    """Settings besides the learning rate."""
    names = [n for n in situation.space.names if n != "lr"]
    axes = [list(situation.space.distributions()[n].choices) for n in names]
    found = []
    for values in itertools.product(*axes):
        params = dict(zip(names, values, strict=True))
        found.append(
            settings(situation.space.recipe({"lr": situation.space.lr_range[0], **params}, epochs=situation.epochs))
        )
    return found


def _recipe(situation: Situation, x: float, key: tuple[Any, ...]) -> Recipe:
    values = dict(zip(SETTINGS, key, strict=True))
    low, high = situation.space.lr_range
    params = {n: values[n] for n in situation.space.names if n != "lr"}
    return situation.space.recipe({"lr": float(np.clip(10**x, low, high)), **params}, epochs=situation.epochs)


def _shift(situation: Situation, key: tuple[Any, ...]) -> float:
    """Decades between the learning rate and the batch-scaled one."""
    recipe = _recipe(situation, 0.0, key)
    params = situation.space.params(recipe)
    return math.log10(params["lr"]) - math.log10(situation.space.scaled_lr(params))
