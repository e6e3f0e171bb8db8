"""The strategy of a job's run: the drift test of the last learning rate first, a search only where it fails.

Like any strategy it decides from the trials alone. It knows its own trials by their learning rates: the last answer's
times a power of :attr:`.DriftConfig.step`, a factor that is in no grid. So a run that was killed resumes where it
stopped, and the search after a failed test starts from the trials of the test.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.jobs.drift import CONFIG, Drift, DriftCheck, DriftVerdict, Profile, judge
from lrtune.search.base import Continue, Finish, Start, Wait
from lrtune.search.freeze_thaw.answer import answer
from lrtune.search.freeze_thaw.observations import Observations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.search.base import Action, SearchContext, Strategy, TrialView

__all__ = ["DriftStrategy", "LastAnswer"]

SIDES = (0, -1, 1)
LOST = frozenset({Outcome.FAILED, Outcome.INTERRUPTED, Outcome.STALLED, Outcome.OUT_OF_MEMORY})
CLOSE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class LastAnswer:
    """The last answer: its searched settings, and the profile of the day on which it was found."""

    params: Mapping[str, Any]
    profile: Profile | None = None


@dataclass(slots=True, kw_only=True)
class DriftStrategy:
    """Tests the last learning rate, and searches with `inner` where the test fails.

    Attributes
    ----------
    inner
        The strategy of the search.
    last
        The last answer; None for the first run, which only searches.
    confirm
        Whether an unchanged learning rate is trained in full.
    drift
        The result of the test as of the last decision; None where there was none.
    profile
        The profile of the answer, once there is one.
    """

    inner: Strategy
    last: LastAnswer | None = None
    confirm: bool = True
    name: str = "recheck"
    drift: Drift | None = field(default=None, init=False)
    profile: Profile | None = field(default=None, init=False)

    def next(self, context: SearchContext, /) -> Action:
        """The next action."""
        self.drift = None
        if self.last is not None:
            action = self._tested(context, self.last)
            if action is not None:
                return action
        return self._searched(context)

    # -- the test ----------------------------------------------------------------------------------

    def _tested(self, context: SearchContext, last: LastAnswer) -> Action | None:
        """The next action of the test; None where the search follows."""
        spots = _spots(context, last.params)
        if 0 not in spots:
            self.drift = Drift.undecided("last time's settings are no longer in the space")
            return None
        untils, looks = _untils(context, last.params), list[DriftCheck]()
        # the three runs of a test show too little of the untrained loss: without the trainer's, that of before counts
        known, before = _untrained(context), last.profile or Profile()
        for index, until in enumerate(untils):
            action = _trained(context, spots, until)
            if action is not None:
                run = _run(context, spots[0])
                if _affordable(context, action, context.epochs - (0.0 if run is None else run.trained)):
                    return action
                self.drift = Drift.undecided("the limits leave no room for the test")
                return None
            looks.append(_look(context, spots, until))
            today = Profile(looks=tuple(looks), untrained=before.untrained if known is None else known, end=before.end)
            self.drift = judge(today, last.profile, last=index == len(untils) - 1)
            if self.drift.verdict is DriftVerdict.MOVED:
                return None
            if self.drift.verdict is DriftVerdict.UNCHANGED:
                self.profile = today
                return self._confirmed(context, spots[0])
        if not untils:
            self.drift = Drift.undecided("a training is too short for a short look")
        return None

    def _confirmed(self, context: SearchContext, params: Mapping[str, Any]) -> Action | None:
        """The end, after a full training where `confirm` says so; None where that diverges."""
        why = f"last time's learning rate still stands: {self.drift.why if self.drift else ''}"
        if not self.confirm:
            return Finish(why=why)
        action = _advance(context, params, float(context.epochs), "confirm")
        if action is not None:
            return action if _affordable(context, action) else Finish(why=why)
        run = _run(context, params)
        if run is not None and run.outcome is Outcome.COMPLETED:
            return Finish(why=why)
        diverged = run is not None and run.outcome is not None and run.outcome.diverged
        verdict = DriftVerdict.MOVED if diverged else DriftVerdict.CANNOT_TELL
        how = "diverges later on" if diverged else "could not be trained to its end"
        self.drift = Drift(verdict=verdict, why=f"last time's learning rate {how}")
        return None

    # -- the search --------------------------------------------------------------------------------

    def _searched(self, context: SearchContext) -> Action:
        """The next action of the search, and after it of training the answer's neighbours, for the next drift test."""
        visible = dataclasses.replace(context, trials=self._visible(context))
        action = self.inner.next(visible)
        best = answer(visible).best if isinstance(action, Finish) else None
        if best is None:
            return action
        trial = next(trial for trial in context.trials if trial.number == best)
        spots = _spots(context, context.space.params(trial.recipe))
        untils = _untils(context, spots.get(0, {}))[: CONFIG.reference] if 0 in spots else []
        if not untils:
            return action
        extra = _trained(context, spots, untils[-1])
        if extra is not None and _affordable(context, extra):
            return extra
        if extra is None:
            looks = tuple(_look(context, spots, until) for until in untils)
            end = None if trial.result is None else context.sign * trial.result
            self.profile = Profile(looks=looks, untrained=_seen_untrained(context), end=end)
        return action

    def _visible(self, context: SearchContext) -> list[TrialView]:
        """The trials without those that only serve the next drift test: neighbours of an earlier, completed trial."""
        tested = list(_spots(context, self.last.params).values()) if self.last is not None else []
        done = [trial for trial in context.trials if trial.outcome is Outcome.COMPLETED]
        reach = max(_untils(context, {})[: CONFIG.reference], default=0.0)

        def extra(trial: TrialView) -> bool:
            untils = _untils(context, context.space.params(trial.recipe))[: CONFIG.reference]
            if any(_same(context, trial, params) for params in tested) or trial.trained > max(untils, default=reach):
                return False
            return any(_neighbours(trial, run) for run in done if run.number < trial.number)

        return [trial for trial in context.trials if not extra(trial)]


# -- runs -------------------------------------------------------------------------------------------------


def _spots(context: SearchContext, params: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The settings and their neighbours, as far as they lie in the space: -1 below, 0 itself, 1 above."""
    found = {side: {**params, "lr": float(params["lr"]) * CONFIG.step**side} for side in SIDES}
    return {side: spot for side, spot in found.items() if _inside(context, spot)}


def _inside(context: SearchContext, params: Mapping[str, Any]) -> bool:
    try:
        return set(params) == set(context.space.names) and bool(context.space.contains(dict(params)))
    except (InputError, KeyError, TypeError, ValueError):
        return False


def _untils(context: SearchContext, params: Mapping[str, Any]) -> list[float]:
    """Epochs of the looks, ascending; none where even the shortest is a large part of a training."""
    length, finest = float(context.epochs), context.finest
    warmup = context.space.recipe(dict(params), epochs=context.epochs).warmup if params else 0.0
    least = CONFIG.warmups * warmup * length if warmup < 1 else 0.0
    found = [
        max(finest, round(max(look * length, least * 2**k) / finest) * finest)
        for k, look in enumerate(CONFIG.fractions)
    ]
    return sorted({until for until in found if until <= CONFIG.longest * length})


def _trained(context: SearchContext, spots: Mapping[int, Mapping[str, Any]], until: float) -> Action | None:
    """The next action of a check; None when its three values are known."""
    for params in spots.values():
        action = _advance(context, params, until, "drift test")
        if action is not None:
            return action
        run = _run(context, params)
        if params is spots[0] and run is not None and run.outcome is not None and run.outcome.diverged:
            return None  # its neighbours add nothing
    return None


def _advance(context: SearchContext, params: Mapping[str, Any], until: float, why: str) -> Action | None:
    run = _run(context, params)
    if run is None:
        return None if context.exhausted else Start(params=dict(params), until=until, why=why)
    if run.outcome is not None or run.trained >= until - CLOSE:
        return None
    if run.until is not None or not run.mine:
        return Wait()
    return Continue(number=run.number, until=until, why=why)


def _affordable(context: SearchContext, action: Action, reserve: float = 0.0) -> bool:
    """Whether the limits leave room for it, and for `reserve` epochs after it."""
    if isinstance(action, Start):
        return context.affords((action.until + reserve) / context.epochs)
    if isinstance(action, Continue):
        run = next(trial for trial in context.trials if trial.number == action.number)
        return context.affords(context.price(run, action.until) + reserve / context.epochs)
    return True


def _run(context: SearchContext, params: Mapping[str, Any]) -> TrialView | None:
    """The first trial of these settings; those that failed for another reason than the learning rate come last."""
    runs = [trial for trial in context.trials if _same(context, trial, params)]
    return min(runs, key=lambda trial: (trial.outcome in LOST, trial.number), default=None)


def _same(context: SearchContext, trial: TrialView, params: Mapping[str, Any]) -> bool:
    own = context.space.params(trial.recipe)
    same_lr = math.isclose(own["lr"], params["lr"], rel_tol=CLOSE)
    return same_lr and all(own[name] == params[name] for name in own if name != "lr")


def _neighbours(one: TrialView, two: TrialView) -> bool:
    apart = math.log(one.recipe.lr / two.recipe.lr) / math.log(CONFIG.step)
    others = dataclasses.replace(one.recipe, lr=two.recipe.lr) == two.recipe
    return others and math.isclose(abs(apart), 1.0, rel_tol=CLOSE)


def _look(context: SearchContext, spots: Mapping[int, Mapping[str, Any]], until: float) -> DriftCheck:
    values = {side: _value(context, params, until) for side, params in spots.items()}
    return DriftCheck(fraction=until / context.epochs, low=values.get(-1), mid=values.get(0), high=values.get(1))


def _value(context: SearchContext, params: Mapping[str, Any], until: float) -> float | None:
    """The last value of a run up to there, smaller is better; infinite where it diverged before."""
    run = _run(context, params)
    if run is None:
        return None
    short = run.trained < until - CLOSE
    if run.outcome is not None and run.outcome.diverged and run.trained <= until + CLOSE:
        return math.inf
    known = [context.sign * float(v) for e, v in zip(run.epochs, run.values, strict=True) if e <= until + CLOSE]
    if not known or (short and run.outcome is not Outcome.COMPLETED):
        return None
    return known[-1] if math.isfinite(known[-1]) else math.inf


def _untrained(context: SearchContext) -> float | None:
    known = context.untrained
    return context.sign * known if known is not None and math.isfinite(known) else None


def _seen_untrained(context: SearchContext) -> float | None:
    """The untrained model's value: the trainer's, else that of the search's slowest runs at their beginning."""
    known = _untrained(context)
    if known is not None:
        return known
    view = Observations(context)
    return view.high if len(view.alive) > len(SIDES) else None
