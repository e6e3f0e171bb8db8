"""The contract that every strategy passes: a laboratory that executes what it asks for on synthetic curves.

Nothing is trained and nobody waits, so a whole search takes milliseconds. Every decision is held to the
contract of :mod:`lrtune.search.base` when it is made; what is left to the tests is what a search is worth.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import optuna

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.core.space import Space
from lrtune.search.base import Action, Continue, Finish, SearchContext, Start, Stop, Strategy, TrialView, Wait
from lrtune.search.registry import make

__all__ = ["JOINT", "LR_ONLY", "Laboratory", "basin", "law", "mirrored", "started"]

Landscape: TypeAlias = Callable[[Recipe, float], float]
"""The metric of a recipe at a share of its run; NaN where it has diverged."""

LR_ONLY = Space(lr=(1e-5, 10.0))
JOINT = Space(lr=(1e-4, 10.0), batch_size=[16, 64, 256], schedule=["constant", "cosine"], warmup=[0.0, 0.1])

MOST_DECISIONS = 600


def basin(best: float = -1.5, edge: float = 0.5, noise: float = 0.0) -> Landscape:
    """A basin over log10 lr whose runs fall towards their end; from `edge` decades above the best they diverge."""

    def value(recipe: Recipe, share: float) -> float:
        x = math.log10(recipe.lr)
        if x > best + edge and share > 0.05:
            return math.nan
        wobble = noise * math.sin(1e4 * x + 37 * share + recipe.seed)
        return 0.2 + 0.15 * (x - best) ** 2 * min(1.0, 3 * share) + 2 * math.exp(-6 * share) + wobble

    return value


def law(best: float = -2.0, edge: float = 0.8, plateau: float = 0.0) -> Landscape:
    """Curves whose early leaders lie right of the best full run; beyond the edge runs diverge."""

    def value(recipe: Recipe, share: float) -> float:
        x = math.log10(recipe.lr) - best
        if x > edge and share > 0.03:
            return math.nan
        progress = (1 + 300 * 10**x * max(share - plateau, 1e-9)) ** -0.6
        return 0.1 + progress + 0.02 * 10 ** (1.2 * x)

    return value


def mirrored(landscape: Landscape) -> Landscape:
    """The same, seen through a metric that is maximised."""
    return lambda recipe, share: -landscape(recipe, share)


@dataclass(kw_only=True)
class Laboratory:
    """One search by one strategy, with any number of workers; every decision is checked as it is made."""

    strategy: str
    landscape: Landscape = field(default_factory=basin)
    space: Space = LR_ONLY
    epochs: int = 9
    direction: Any = "minimize"
    budget: float | None = 5.0
    most_trials: int | None = None
    finest: float = 1.0
    seed: int = 0
    workers: int = 1
    stack: int = 1
    beside_price: float = 0.2
    widen: float = 1.0
    forgets: bool = False
    untrained: float | None = None
    points: int | None = None
    worth: float | None = None
    check_purity: bool = True
    every: int = 1
    seen: list[TrialView] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    paid: float = 0.0
    actions: list[Action] = field(default_factory=list)
    working: list[int] = field(default_factory=list)
    spare: float = 0.0
    mind: Strategy = field(init=False)

    def __post_init__(self) -> None:
        self.mind = make(self.strategy, points=self.points)
        low, high = self.space.lr_range
        self.origin = math.log10(low), math.log10(high)

    def context(self) -> SearchContext:
        low, high = (math.log10(end) for end in self.space.lr_range)
        used = (self.origin[0] - low) + (high - self.origin[1])
        return SearchContext(
            space=self.space,
            epochs=self.epochs,
            direction=self.direction,
            trials=list(self.seen),
            spent=self._spent(),
            budget=self.budget,
            self_stopping=(self.budget is None and self.most_trials is None) or self.worth is not None,
            worth=self.worth,
            widen=max(0.0, self.widen - used),
            untrained=self.untrained,
            finest=self.finest,
            seed=self.seed,
            exhausted=self.most_trials is not None and len(self.seen) >= self.most_trials,
            beside=tuple(self.working) if self.stack > 1 else (),
            beside_price=self.beside_price,
        )

    def _spent(self) -> float:
        busy = [seen for seen in self.seen if seen.until is not None]
        claimed = sum(seen.until - seen.trained + seen.repaid_epochs for seen in busy if seen.until is not None)
        return (self.paid + claimed) / self.epochs

    # -- the loop -------------------------------------------------------------------------------------

    def run(self, decisions: int | None = None) -> Laboratory:
        """Search until it ends, or for so many decisions."""
        limit = MOST_DECISIONS if decisions is None else decisions
        for _ in range(limit):
            if len(self.working) >= max(self.workers, self.stack):
                self._train_next()
            action = self.decide()
            if isinstance(action, Finish) and not self.working:
                return self
            if isinstance(action, Wait | Finish):
                assert self.working, f"{action} with nobody at work"
                self._train_next()
        assert decisions is not None, f"{self.strategy} does not end: {self.actions[-5:]}"
        while self.working:
            self._train_next()
        return self

    def _train_next(self) -> None:
        """Train what has been claimed first, or all that was claimed to be trained side by side."""
        self.groups.append(len(self.working) if self.stack > 1 else 1)
        for _ in range(self.groups[-1]):
            self._train(self.working.pop(0))

    def decide(self) -> Action:
        """One decision, checked and carried out."""
        context = self.context()
        action = self.mind.next(context)
        if self.check_purity:
            again = copy.deepcopy(context)
            assert make(self.strategy, points=self.points).next(again) == action, "not a function of the situation"
        self.actions.append(action)
        if context.beside:
            assert isinstance(action, Start | Continue | Wait), f"{action} beside others"
            if isinstance(action, Start):
                assert action.params is not None
                assert context.can_join(self.space.recipe(action.params, epochs=self.epochs)), "cannot be stacked"
            elif isinstance(action, Continue):
                assert context.can_join(self.seen[action.number].recipe), "cannot be stacked"
        if isinstance(action, Start):
            self._start(action, context)
        elif isinstance(action, Continue):
            self._continue(action, context)
        elif isinstance(action, Stop):
            self._open(action.number)
            self._end(action.number, outcome=action.outcome)
        return action

    def _start(self, action: Start, context: SearchContext) -> None:
        assert not context.exhausted, "started a trial beyond the limit on trials"
        assert action.params is not None
        self._affordable(action.until / self.epochs, context)
        assert 0 < action.until <= self.epochs
        lr = action.params["lr"]
        if not self.space.contains(action.params):
            assert self.strategy == "freeze-thaw", f"only freeze-thaw widens the range ({lr}, {self.space.lr_range})"
            wider = self.space.reaching(lr)
            assert any(abs(math.log10(b / a)) > 1e-3 for a, b in zip(self.space.lr_range, wider.lr_range, strict=True))
            self.space = wider
            assert self.context().widen >= context.widen - self.widen, "widened too far"
        assert self.space.contains(action.params), f"{action.params} is no point of {self.space}"
        frozen = optuna.trial.create_trial(
            value=0.0, params=dict(action.params), distributions=dict(self.space.distributions())
        )
        assert frozen.params == action.params, "Optuna keeps another point"
        recipe = self.space.recipe(action.params, epochs=self.epochs, seed=self.seed + action.seed)
        assert all(seen.recipe != recipe for seen in self.seen if seen.outcome is not Outcome.FAILED), "the same twice"
        empty = np.array([])
        self.seen.append(
            TrialView(number=len(self.seen), recipe=recipe, epochs=empty, values=empty, until=float(action.until))
        )
        self.working.append(len(self.seen) - 1)

    def _continue(self, action: Continue, context: SearchContext) -> None:
        seen = self._open(action.number)
        assert seen.trained < action.until <= self.epochs
        self._affordable((action.until - seen.trained + seen.repaid_epochs) / self.epochs, context)
        self.seen[action.number] = dataclasses.replace(seen, until=float(action.until))
        self.working.append(action.number)

    def _open(self, number: int) -> TrialView:
        seen = self.seen[number]
        assert seen.open, f"trial {number} is not open ({seen.outcome}, until {seen.until})"
        return seen

    @staticmethod
    def _affordable(price: float, context: SearchContext) -> None:
        assert price <= context.left * (1 + 1e-9) + 1e-9, f"{price} asked for with {context.left} left"

    # -- training -------------------------------------------------------------------------------------

    def _train(self, number: int) -> None:
        """Train a claimed piece: the metric at the end of every epoch, and at its own end."""
        seen = self.seen[number]
        assert seen.until is not None
        places = [float(e) for e in range(1, self.epochs + 1) if seen.trained < e < seen.until - 1e-9]
        epochs, values = list(seen.epochs), list(seen.values)
        outcome: Outcome | None = None
        reached = seen.trained
        for place in [*places, seen.until]:
            reached = place
            if (math.ceil(place) - 1) % self.every:
                continue
            epochs.append(place)
            values.append(self.landscape(seen.recipe, place / self.epochs))
            if not math.isfinite(values[-1]):
                outcome = Outcome.NON_FINITE
                break
        self.paid += reached - seen.trained + seen.repaid_epochs
        if outcome is None and reached >= self.epochs - 1e-9:
            outcome = Outcome.COMPLETED
        self.seen[number] = dataclasses.replace(
            seen, epochs=np.array(epochs), values=np.array(values), until=None, repaid_epochs=0.0, reached=reached
        )
        if outcome is not None:
            self._end(number, outcome=outcome)
        elif self.forgets:
            self.seen[number] = dataclasses.replace(self.seen[number], repaid_epochs=reached)

    def _end(self, number: int, *, outcome: Outcome) -> None:
        seen = self.seen[number]
        result = float(seen.values[-1]) if outcome is Outcome.COMPLETED else None
        self.seen[number] = dataclasses.replace(seen, outcome=outcome, result=result, repaid_epochs=0.0)

    @property
    def completed(self) -> list[TrialView]:
        """The trials that were trained to their end."""
        return [seen for seen in self.seen if seen.outcome is Outcome.COMPLETED]


def started(laboratory: Laboratory) -> list[Start]:
    """The trials that were started."""
    return [action for action in laboratory.actions if isinstance(action, Start)]
