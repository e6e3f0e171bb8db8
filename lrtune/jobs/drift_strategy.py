"""The strategy of a job's run: first whether last time's learning rate still stands, and only then a search.

Like any strategy it is a function of the situation: its own runs are known by their learning rates, which
are those of last time times a power of :data:`STEP`, a factor that no grid hits. A run that was killed goes
on where it stood, and the search that follows a failed test is shown what the test has trained.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.jobs.drift import Drift, Look, Profile, Verdict, judge
from lrtune.search.base import Continue, Finish, Start, Wait
from lrtune.search.freeze_thaw.answer import answer
from lrtune.search.freeze_thaw.observations import View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.search.base import Action, Seen, Situation, Strategy

__all__ = ["STEP", "Last", "Recheck"]

STEP = 10**0.48
"""Between a learning rate and its neighbours: about three, and never a step of anybody's grid."""

LOOKS = (0.04, 0.08, 0.16)
"""Fractions of a training at which the three are compared; the next one only where the last one did not tell."""

REFERENCE = 2
"""How many of these looks are taken when a learning rate was found, to compare with later."""

MOST_WARMUP = 1.5  # looks begin so many warmups into the run: before, runs differ by their warmup alone
LONGEST_LOOK = 0.4  # a look beyond that costs as much as a search
SIDES = (0, -1, 1)
LOST = frozenset({Outcome.FAILED, Outcome.INTERRUPTED, Outcome.STALLED, Outcome.OUT_OF_MEMORY})
CLOSE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """What is left of last time: the settings that were published, and how they trained when they were found."""

    params: Mapping[str, Any]
    profile: Profile | None = None


@dataclass(slots=True, kw_only=True)
class Recheck:
    """Tests last time's learning rate, and searches with `inner` where it does not stand.

    Attributes
    ----------
    inner
        The strategy of the search.
    last
        Last time's answer; None for the first run, which only searches.
    confirm
        Whether a learning rate that stands is trained in full.
    said
        What the test said, as of the last decision; None where there was none.
    profile
        The profile of the answer, once there is one.
    """

    inner: Strategy
    last: Last | None = None
    confirm: bool = True
    name: str = "recheck"
    said: Drift | None = field(default=None, init=False)
    profile: Profile | None = field(default=None, init=False)

    def next(self, situation: Situation, /) -> Action:
        """The next piece of work."""
        self.said = None
        if self.last is not None:
            action = self._tested(situation, self.last)
            if action is not None:
                return action
        return self._searched(situation)

    # -- the test ----------------------------------------------------------------------------------

    def _tested(self, situation: Situation, last: Last) -> Action | None:
        """The next piece of the test; None where the search has to go on."""
        spots = _spots(situation, last.params)
        if 0 not in spots:
            self.said = Drift(verdict=Verdict.CANNOT_TELL, why="last time's settings are no longer in the space")
            return None
        untils = _untils(situation, last.params)
        looks: list[Look] = []
        for index, until in enumerate(untils):
            action = _trained(situation, spots, until)
            if action is not None:
                reserve = _remaining(situation, spots[0])
                if _affordable(situation, action, reserve):
                    return action
                self.said = Drift(verdict=Verdict.CANNOT_TELL, why="the limits leave no room for the test")
                return None
            looks.append(_look(situation, spots, until))
            today = Profile(looks=tuple(looks), untrained=_level(situation, last), end=_end(last))
            self.said = judge(today, last.profile, last=index == len(untils) - 1)
            if self.said.verdict is Verdict.MOVED:
                return None
            if self.said.verdict is Verdict.UNCHANGED:
                self.profile = today
                return self._confirmed(situation, spots[0])
        if not untils:
            self.said = Drift(verdict=Verdict.CANNOT_TELL, why="a training is too short for a short look")
        return None

    def _confirmed(self, situation: Situation, params: Mapping[str, Any]) -> Action | None:
        """Train it in full, where that is wanted; None where it diverges on the way."""
        why = f"last time's learning rate still stands: {self.said.why if self.said else ''}"
        if not self.confirm:
            return Finish(why=why)
        action = _advance(situation, params, float(situation.epochs), "confirm")
        if action is not None:
            return action if _affordable(situation, action) else Finish(why=why)
        run = _run(situation, params)
        if run is not None and run.outcome is Outcome.COMPLETED:
            return Finish(why=why)
        diverged = run is not None and run.outcome is not None and run.outcome.diverged
        verdict = Verdict.MOVED if diverged else Verdict.CANNOT_TELL
        how = "diverges later on" if diverged else "could not be trained to its end"
        self.said = Drift(verdict=verdict, why=f"last time's learning rate {how}")
        return None

    # -- the search --------------------------------------------------------------------------------

    def _searched(self, situation: Situation) -> Action:
        """The search, and at its end a look at the answer's neighbours, to compare with next time."""
        visible = dataclasses.replace(situation, trials=self._visible(situation))
        action = self.inner.next(visible)
        best = answer(visible).best if isinstance(action, Finish) else None
        if best is None:
            return action
        seen = next(seen for seen in situation.trials if seen.number == best)
        spots = _spots(situation, situation.space.params(seen.recipe))
        untils = _untils(situation, spots.get(0, {}))[:REFERENCE] if 0 in spots else []
        if not untils:
            return action
        extra = _trained(situation, spots, untils[-1])
        if extra is not None and _affordable(situation, extra):
            return extra
        if extra is None:
            looks = tuple(_look(situation, spots, until) for until in untils)
            end = None if seen.result is None else situation.sign * seen.result
            self.profile = Profile(looks=looks, untrained=_seen_untrained(situation), end=end)
        return action

    def _visible(self, situation: Situation) -> list[Seen]:
        """The trials without those that are only there to compare with: neighbours of a run that was complete."""
        tested = list(_spots(situation, self.last.params).values()) if self.last is not None else []
        done = [seen for seen in situation.trials if seen.outcome is Outcome.COMPLETED]
        reach = max(_untils(situation, {})[:REFERENCE], default=0.0)

        def extra(seen: Seen) -> bool:
            if any(_same(situation, seen, params) for params in tested) or seen.trained > _reach(
                situation, seen, reach
            ):
                return False
            return any(_neighbours(seen, run) for run in done if run.number < seen.number)

        return [seen for seen in situation.trials if not extra(seen)]


# -- runs -------------------------------------------------------------------------------------------------


def _spots(situation: Situation, params: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The settings and their neighbours, as far as they lie in the space: -1 below, 0 itself, 1 above."""
    found = {side: {**params, "lr": float(params["lr"]) * STEP**side} for side in SIDES}
    return {side: spot for side, spot in found.items() if _inside(situation, spot)}


def _inside(situation: Situation, params: Mapping[str, Any]) -> bool:
    try:
        return set(params) == set(situation.space.names) and bool(situation.space.contains(dict(params)))
    except (InputError, KeyError, TypeError, ValueError):
        return False


def _untils(situation: Situation, params: Mapping[str, Any]) -> list[float]:
    """Epochs of the looks, ascending; none where even the shortest is a large part of a training."""
    length, finest = float(situation.epochs), situation.finest
    warmup = 0.0
    if params:
        warmup = situation.space.recipe(dict(params), epochs=situation.epochs).warmup
    least = MOST_WARMUP * warmup * length if warmup < 1 else 0.0
    found = [max(finest, round(max(look * length, least * 2**k) / finest) * finest) for k, look in enumerate(LOOKS)]
    return sorted({until for until in found if until <= LONGEST_LOOK * length})


def _reach(situation: Situation, seen: Seen, usual: float) -> float:
    return max(_untils(situation, situation.space.params(seen.recipe))[:REFERENCE], default=usual)


def _trained(situation: Situation, spots: Mapping[int, Mapping[str, Any]], until: float) -> Action | None:
    """What is still to be trained of a look; None when it can be read."""
    for params in spots.values():
        action = _advance(situation, params, until, "drift test")
        if action is not None:
            return action
        run = _run(situation, params)
        if params is spots[0] and run is not None and run.outcome is not None and run.outcome.diverged:
            return None  # that says it all
    return None


def _advance(situation: Situation, params: Mapping[str, Any], until: float, why: str) -> Action | None:
    run = _run(situation, params)
    if run is None:
        return None if situation.exhausted else Start(params=dict(params), until=until, why=why)
    if run.outcome is not None or run.trained >= until - CLOSE:
        return None
    if run.until is not None or not run.mine:
        return Wait()
    return Continue(number=run.number, until=until, why=why)


def _affordable(situation: Situation, action: Action, reserve: float = 0.0) -> bool:
    """Whether the limits leave room for it, and for `reserve` epochs after it."""
    if isinstance(action, Start):
        price = action.until
    elif isinstance(action, Continue):
        run = next(seen for seen in situation.trials if seen.number == action.number)
        price = action.until - run.trained + run.again
    else:
        return True
    return (price + reserve) / situation.epochs <= situation.left + CLOSE


def _remaining(situation: Situation, params: Mapping[str, Any]) -> float:
    """Epochs that it takes to train these settings to their end."""
    run = _run(situation, params)
    return situation.epochs - (0.0 if run is None else run.trained)


def _run(situation: Situation, params: Mapping[str, Any]) -> Seen | None:
    """The first run of these settings; one that was lost to something else than its learning rate stands last."""
    runs = [seen for seen in situation.trials if _same(situation, seen, params)]
    return min(runs, key=lambda seen: (seen.outcome in LOST, seen.number), default=None)


def _same(situation: Situation, seen: Seen, params: Mapping[str, Any]) -> bool:
    told = situation.space.params(seen.recipe)
    same_lr = math.isclose(told["lr"], params["lr"], rel_tol=CLOSE)
    return same_lr and all(told[name] == params[name] for name in told if name != "lr")


def _neighbours(one: Seen, two: Seen) -> bool:
    apart = math.log(one.recipe.lr / two.recipe.lr) / math.log(STEP)
    others = dataclasses.replace(one.recipe, lr=two.recipe.lr) == two.recipe
    return others and math.isclose(abs(apart), 1.0, rel_tol=CLOSE)


def _look(situation: Situation, spots: Mapping[int, Mapping[str, Any]], until: float) -> Look:
    values = {side: _value(situation, params, until) for side, params in spots.items()}
    return Look(fraction=until / situation.epochs, low=values.get(-1), mid=values.get(0), high=values.get(1))


def _value(situation: Situation, params: Mapping[str, Any], until: float) -> float | None:
    """What a run showed up to there, smaller is better; infinite where it diverged before."""
    run = _run(situation, params)
    if run is None:
        return None
    short = run.trained < until - CLOSE
    if run.outcome is not None and run.outcome.diverged and run.trained <= until + CLOSE:
        return math.inf
    known = [situation.sign * float(v) for e, v in zip(run.epochs, run.values, strict=True) if e <= until + CLOSE]
    if not known or (short and run.outcome is not Outcome.COMPLETED):
        return None
    return known[-1] if math.isfinite(known[-1]) else math.inf


def _untrained(situation: Situation) -> float | None:
    known = situation.untrained
    return situation.sign * known if known is not None and math.isfinite(known) else None


def _seen_untrained(situation: Situation) -> float | None:
    """What the untrained model is worth: where nobody says it, what the slow runs of a search showed first."""
    known = _untrained(situation)
    if known is not None:
        return known
    view = View(situation)
    return view.high if len(view.alive) > len(SIDES) else None


def _level(situation: Situation, last: Last) -> float | None:
    """The same in a test, whose three runs show too little: what it was when the learning rate was found."""
    known = _untrained(situation)
    return known if known is not None or last.profile is None else last.profile.untrained


def _end(last: Last) -> float | None:
    return None if last.profile is None else last.profile.end
