"""Deciding: the next piece of work of a search, claimed; its caller holds the study's lock."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from lrtune import schedules
from lrtune.core.effect import FEWEST, MOVES
from lrtune.core.outcome import Ending, Outcome
from lrtune.core.space import suggest
from lrtune.errors import LrtuneError, SpaceError
from lrtune.search.base import Action, Continue, Finish, Start, Stop, Wait

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.effect import Alike
    from lrtune.core.recipe import Recipe
    from lrtune.core.space import Space
    from lrtune.study.engine.search_state import SearchState
    from lrtune.study.trials.stored_trial import StoredTrial

__all__ = ["HOPELESS_TRIALS", "Decision", "Finished", "NextSegment", "decide"]

IDLE_ROUNDS = 600
"""Decisions in a row to wait where nobody trains anything, half a minute of them, until waiting is taken for a bug."""

HOPELESS_TRIALS = 10
"""Trials that all diverged, with none that did not, after which any search gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextSegment:
    """A piece of training that this process has claimed."""

    entry: StoredTrial
    until: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """That the search has ended.

    Attributes
    ----------
    why
        One sentence.
    ending
        The same in one word.
    """

    why: str
    ending: Ending = Ending.LIMIT

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped from outside and goes on when it is run again."""
        return self.ending is Ending.INTERRUPTED


Decision: TypeAlias = NextSegment | Finished | None


class _Impossible(Exception):  # noqa: N818 -- a message within this module, not an error
    """What a strategy asked for cannot be done; says why."""


def decide(search: SearchState) -> Decision:
    """Decide and claim the next piece of work; None where there is none right now.

    Raises
    ------
    LrtuneError
        If the strategy asks twice in a row for what cannot be done: it would do so for ever.
    """
    search.refresh()
    if search.should_stop():
        return Finished(why="stopped from outside", ending=Ending.INTERRUPTED)
    ending = _ending(search)
    if ending:
        busy = any(entry.claim for entry in search.entries)
        return None if busy else Finished(why=ending)
    return _resumed(search) or _next(search)


def _next(search: SearchState) -> Decision:
    """What ends a search in which all runs agree; else what the strategy wants."""
    same = search.alike()
    if same is not None and same.sure:
        return _one_more(search, same)
    return (_further(search) if same is not None and same.runs >= FEWEST else None) or _asked(search)


def _asked(search: SearchState) -> Decision:
    """What the strategy wants, once it can be done; trials that were enqueued by hand come before."""
    refused = False
    while True:
        action = _adopted(search) or search.strategy.next(search.context())
        if isinstance(action, NextSegment):
            return action
        try:
            if not isinstance(action, Stop):
                return _claimed(search, action)
            _stop(search, action)
            refused = False
        except _Impossible as why:
            if refused:
                msg = (
                    f"a bug of the strategy {search.strategy.name!r}: twice in a row {why}; what was trained is kept, "
                    "so go on with another strategy, and report this one"
                )
                raise LrtuneError(msg) from None
            refused = True


def _ending(search: SearchState) -> str:
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


def _before(search: SearchState) -> frozenset[int]:
    """Trials that had ended before this call: what failed then may have been mended."""
    if search.ended_before is None:
        search.ended_before = frozenset(entry.number for entry in search.entries if entry.record.outcome is not None)
    return search.ended_before


def _last_why(search: SearchState) -> str:
    reasons = [entry.record.why for entry in search.entries if entry.record.why]
    return reasons[-1].strip().splitlines()[-1] if reasons else "no reason was given"


def _resumed(search: SearchState) -> NextSegment | None:
    """A piece that was cut off is finished before anything else: the search goes on as if it never was."""
    for entry in search.entries:
        seen = search.seen(entry)
        if entry.resume is None or not seen.open:
            continue
        if search.left() < entry.price(entry.resume, seen.repaid_epochs):
            search.replace(search.trial_store.write(dataclasses.replace(entry, resume=None)))
            continue
        claimed = search.trial_store.claim(entry, entry.resume, seen.repaid_epochs)
        return NextSegment(entry=claimed, until=entry.resume, why="cut off before")
    return None


def _adopted(search: SearchState) -> NextSegment | None:
    """A trial that somebody enqueued in the Optuna study comes first; one that does not fit the space fails."""
    space, settings = search.space, search.settings
    while search.trial_store.waiting > 0 and not search.exhausted and search.context().left >= 1:
        trial, asked = search.trial_store.enqueued()
        misfit = space.misfit(asked)
        if misfit:
            search.trial_store.refuse(trial, misfit)
            search.warnings.append(f"trial {trial.number}, enqueued by hand, was not trained: {misfit}")
            continue
        unused = [name for name in asked if name not in space.names and name not in space.fixed]
        if unused:
            names = ", ".join(map(repr, unused))
            search.warnings.append(f"trial {trial.number} was enqueued with {names}, which is no part of this study")
        params = space.plain(space.params(suggest(trial, space)))
        recipe = space.recipe(params, epochs=settings.epochs, seed=settings.seed)
        until = float(settings.epochs)
        return NextSegment(
            entry=search.trial_store.adopt(trial, params, recipe, until), until=until, why="enqueued by hand"
        )
    return None


def _stop(search: SearchState, action: Stop) -> None:
    entry = _waiting(search, action.number)
    record = dataclasses.replace(entry.record, outcome=action.outcome, why=action.why)
    search.replace(search.trial_store.end(dataclasses.replace(entry, record=record)))
    search.run_cache.forget(action.number)
    search.listen(f"trial {action.number}: {action.why or action.outcome.value}", search)


def _claimed(search: SearchState, action: Action) -> Decision:
    if isinstance(action, Wait):
        elsewhere = any(entry.record.outcome is None and not search.seen(entry).open for entry in search.entries)
        search.idle = 0 if elsewhere else search.idle + 1
        if search.idle > IDLE_ROUNDS:
            msg = "it waited where nobody trains anything"
            raise _Impossible(msg)
        return None
    if isinstance(action, Finish):
        return None if any(entry.claim for entry in search.entries) else _finished(search, action)
    if isinstance(action, Start):
        if search.exhausted:  # hold every strategy to the limit
            busy = any(entry.claim for entry in search.entries)
            return None if busy else Finished(why="the number of trials is reached")
        return _started(search, action)
    if isinstance(action, Continue):
        entry = _waiting(search, action.number)
        seen = search.seen(entry)
        until = _until(
            search, action.until, entry.record.recipe, trained=seen.trained, repaid_epochs=seen.repaid_epochs
        )
        return NextSegment(
            entry=search.trial_store.claim(entry, until, seen.repaid_epochs), until=until, why=action.why
        )
    msg = f"it answered {action!r}, which is no action"
    raise _Impossible(msg)


def _finished(search: SearchState, action: Finish) -> Decision:
    """The end, unless there is something left to do with a run that lives in the memory of another worker of ours.

    All workers of a command ask the same question here, as if every run were their own: so whoever has that run goes
    on with it, and nobody waits for another one that waits as well. Another command has limits of its own.
    """
    context = search.context()
    ours = all(trial.mine or trial.outcome is not None for trial in context.trials)
    if ours or not search.active_searches.alone():
        return _told(action)
    trials = [dataclasses.replace(trial, mine=True) for trial in context.trials]
    left = search.strategy.next(dataclasses.replace(context, trials=trials))
    if isinstance(left, Finish):
        return _told(left)
    if isinstance(left, Continue | Stop) and any(t.number == left.number and not t.mine for t in context.trials):
        return None
    if isinstance(left, Stop):
        _stop(search, left)
        return None
    return _claimed(search, left)


def _told(action: Finish) -> Finished:
    return Finished(why=action.why, ending=Ending.SETTLED if action.settled else Ending.LIMIT)


def _one_more(search: SearchState, same: Alike) -> Decision:
    """The end where the learning rate changes nothing, once one run has shown what any of them reaches."""
    finished = Finished(why=same.head, ending=Ending.NO_EFFECT)
    pending = [entry for entry in search.entries if entry.record.outcome is None]
    if any(entry.record.outcome is Outcome.COMPLETED for entry in search.entries) or not pending:
        return None if any(entry.claim for entry in pending) else finished
    if any(entry.claim for entry in pending):
        return None
    entry = max(pending, key=lambda entry: (search.seen(entry).trained, -entry.number))
    seen = search.seen(entry)
    if not seen.open:
        return None  # it lives in another worker's memory, who comes here as well
    until = search.whole_steps(search.settings.epochs, entry.record.recipe, seen.trained - seen.repaid_epochs)
    if until < search.settings.epochs:
        return finished
    why = f"{same.head}: any run shows the rest"
    return NextSegment(entry=search.trial_store.claim(entry, until, seen.repaid_epochs), until=until, why=why)


def _further(search: SearchState) -> NextSegment | None:
    """One more report of one of three runs that agree so far: a few show whether they ever differ."""
    kinds: dict[Recipe, list[StoredTrial]] = {}
    for entry in sorted(search.entries, key=lambda entry: (-entry.record.curve.trained, entry.number)):
        if entry.record.outcome in {None, Outcome.COMPLETED}:
            kinds.setdefault(dataclasses.replace(entry.record.recipe, lr=1.0), []).append(entry)
    three = max(kinds.values(), key=len, default=[])[:FEWEST]
    short = [e for e in three if search.seen(e).open and len(e.record.curve) <= MOVES]
    if len(three) < FEWEST or not short:
        return None
    entry = min(short, key=lambda entry: (entry.record.curve.trained, entry.number))
    seen, context = search.seen(entry), search.context()
    until = search.whole_steps(seen.trained + context.finest, entry.record.recipe, seen.trained - seen.repaid_epochs)
    if until <= seen.trained or not context.leaves_an_end(seen.trained, until, seen.repaid_epochs):
        return None
    claimed = search.trial_store.claim(entry, until, seen.repaid_epochs)
    return NextSegment(entry=claimed, until=until, why="it equals others at other learning rates so far")


def _waiting(search: SearchState, number: int) -> StoredTrial:
    """The entry of a paused trial, which whoever asks may continue or give up."""
    entry = next((entry for entry in search.entries if entry.number == number), None)
    if entry is None or not search.seen(entry).open:
        msg = f"it asked for trial {number}, which is not paused"
        raise _Impossible(msg)
    return entry


def _until(
    search: SearchState, asked: float, recipe: Recipe, *, trained: float = 0.0, repaid_epochs: float = 0.0
) -> float:
    """Up to which step of the run a piece goes, in epochs: at least one further than it stands, and paid for."""
    if not math.isfinite(asked):
        msg = f"it asked to train a trial up to epoch {asked}"
        raise _Impossible(msg)
    until = search.whole_steps(asked, recipe, trained - repaid_epochs)
    if until <= trained < recipe.epochs:
        msg = f"it asked to train a trial from epoch {trained:g} up to {asked:g} with {search.left():g} epochs left"
        raise _Impossible(msg)
    if until - trained + repaid_epochs > search.left():
        msg = f"it asked for {until - trained + repaid_epochs:g} epochs with {search.left():g} left"
        raise _Impossible(msg)
    return until


def _started(search: SearchState, action: Start) -> NextSegment:
    params = action.params
    space = search.space if params is None else _wide_enough(search.space, params)
    if params is None or not space.contains(params):
        msg = f"it started a trial at {params}, which is no point of the space"
        raise _Impossible(msg)
    seed = search.settings.seed + action.seed
    recipe = space.recipe(params, epochs=search.settings.epochs, seed=seed)
    schedules.parse(recipe.schedule)
    until = _until(search, action.until, recipe)
    if space is not search.space:
        search.space = space
        search.widened(space)
    entry = search.trial_store.start(space, params, recipe, until, action.why)
    return NextSegment(entry=entry, until=until, why=action.why)


def _wide_enough(space: Space, params: Mapping[str, Any]) -> Space:
    """The space itself, or the one that ends at a learning rate beyond its range: exactly there."""
    lr = params.get("lr")
    low, high = space.lr_range
    if not isinstance(lr, float) or low <= lr <= high:
        return space
    try:
        return space.reaching(lr)
    except SpaceError:
        return space
