"""Deciding: the next piece of work of a search, claimed; its caller holds the study's lock."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lrtune import schedules
from lrtune.outcome import Outcome
from lrtune.search.base import Action, Continue, Finish, Start, Stop, Wait

if TYPE_CHECKING:
    from lrtune.entries import Entry
    from lrtune.standing import Standing

__all__ = ["HOPELESS_TRIALS", "Decision", "Finished", "Work", "decide"]

HOPELESS_TRIALS = 10
"""Trials that all diverged, with none that did not, after which any search gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A piece of training that this process has claimed."""

    entry: Entry
    until: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """That the search has ended.

    Attributes
    ----------
    why
        One sentence.
    interrupted
        Whether it was stopped from outside and goes on when it is run again.
    """

    why: str
    interrupted: bool = False


Decision: TypeAlias = Work | Finished | None


def decide(search: Standing) -> Decision:
    """Decide and claim the next piece of work; None where there is none right now."""
    search.refresh()
    if search.should_stop():
        return Finished(why="stopped from outside", interrupted=True)
    ending = _ending(search)
    if ending:
        busy = any(entry.claim for entry in search.entries)
        return None if busy else Finished(why=ending)
    while True:
        action = _resumed(search) or _adopted(search) or search.strategy.next(search.situation())
        if isinstance(action, Work):
            return action
        if isinstance(action, Stop):
            _stop(search, action)
            continue
        return _claimed(search, action)


def _ending(search: Standing) -> str:
    """Why any strategy would end here, or nothing."""
    if search.deadline is not None and time.monotonic() >= search.deadline:
        return f"the time limit of {search.settings.limits.timeout:g} s is reached"
    outcomes = [entry.record.outcome for entry in search.entries]
    lost = {Outcome.FAILED, Outcome.STALLED, Outcome.OUT_OF_MEMORY}
    now = [entry.record for entry in search.entries if entry.number not in _before(search)]
    ended = [record.outcome for record in now if record.outcome is not None]
    most = search.settings.failures
    if len(ended) >= most and all(outcome in lost for outcome in ended[-most:]):
        return f"{most} trials in a row failed: {_last_why(search)}"
    diverged = [outcome is not None and outcome.diverged for outcome in outcomes]
    if len(diverged) >= HOPELESS_TRIALS and all(diverged):
        low = search.space.lr_range[0]
        return f"all {len(diverged)} trials diverged: lower the range of the learning rate below {low:g}"
    return ""


def _before(search: Standing) -> frozenset[int]:
    """Trials that had ended before this call: what failed then may have been mended."""
    if search.ended_before is None:
        search.ended_before = frozenset(entry.number for entry in search.entries if entry.record.outcome is not None)
    return search.ended_before


def _last_why(search: Standing) -> str:
    reasons = [entry.record.why for entry in search.entries if entry.record.why]
    return reasons[-1].strip().splitlines()[-1] if reasons else "no reason was given"


def _resumed(search: Standing) -> Work | None:
    """A piece that was cut off is finished before anything else: the search goes on as if it never was."""
    for entry in search.entries:
        seen = search.seen(entry)
        if entry.resume is None or not seen.open:
            continue
        if search.left() < entry.price(entry.resume, seen.again):
            search.replace(search.ledger.write(dataclasses.replace(entry, resume=None)))
            continue
        claimed = search.ledger.claim(entry, entry.resume, seen.again)
        return Work(entry=claimed, until=entry.resume, why="cut off before")
    return None


def _adopted(search: Standing) -> Work | None:
    """A trial that somebody enqueued in the Optuna study comes first."""
    if not search.ledger.waiting or search.situation().left < 1:
        return None
    trial = search.ledger.study.ask(dict(search.space.distributions()))
    recipe = search.space.recipe(trial.params, epochs=search.settings.epochs, seed=search.settings.seed)
    until = float(search.settings.epochs)
    return Work(entry=search.ledger.adopt(trial, recipe, until), until=until, why="enqueued by hand")


def _stop(search: Standing, action: Stop) -> None:
    entry = search.entry(action.number)
    record = dataclasses.replace(entry.record, outcome=action.outcome, why=action.why)
    search.replace(search.ledger.end(dataclasses.replace(entry, record=record)))
    search.garage.forget(action.number)
    search.listen(f"trial {action.number}: {action.why or action.outcome.value}", search)


def _claimed(search: Standing, action: Action) -> Decision:
    if isinstance(action, Wait):
        return None
    if isinstance(action, Finish):
        return None if any(entry.claim for entry in search.entries) else Finished(why=action.why)
    if isinstance(action, Start):
        if search.exhausted:  # hold every strategy to the limit
            busy = any(entry.claim for entry in search.entries)
            return None if busy else Finished(why="the number of trials is reached")
        return _started(search, action)
    if isinstance(action, Continue):
        entry = search.entry(action.number)
        again = search.seen(entry).again
        trained = entry.record.curve.trained
        until = search.whole_steps(action.until, entry.record.recipe, trained - again)
        search.afford(until - trained + again)
        return Work(entry=search.ledger.claim(entry, until, again), until=until, why=action.why)
    msg = f"a strategy answered {action!r}, which is no action"
    raise TypeError(msg)


def _started(search: Standing, action: Start) -> Work:
    if action.params is None:
        msg = f"the strategy {search.strategy.name!r} started a trial without a point"
        raise TypeError(msg)
    low, high = search.space.lr_range
    if not low <= action.params["lr"] <= high:
        _widen(search, float(action.params["lr"]))
    seed = search.settings.seed + action.seed
    recipe = search.space.recipe(action.params, epochs=search.settings.epochs, seed=seed)
    schedules.parse(recipe.schedule)
    until = search.whole_steps(action.until, recipe, 0.0)
    search.afford(until)
    entry = search.ledger.start(search.space, action.params, recipe, until, action.why)
    return Work(entry=entry, until=until, why=action.why)


def _widen(search: Standing, lr: float) -> None:
    low, high = search.space.lr_range
    search.space = search.space.widened(
        low_decades=max(0.0, math.log10(low / lr)), high_decades=max(0.0, math.log10(lr / high))
    )
    search.widened(search.space)
