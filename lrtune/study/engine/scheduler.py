"""The decision about what this process trains next: a trial to claim, to wait, or the end of the search.

It is made under the study's lock, and no more is claimed than the budget allows. (Not a learning-rate schedule: those
are in :mod:`lrtune.schedules`.)

In this order: a stop from outside, the limits and hopeless searches; interrupted segments; runs that all report the
same numbers; trials that another program enqueued; what the strategy asks for, checked against budget and space.
"""

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
from lrtune.study.engine.notifier import notify
from lrtune.study.trials.study_reader import SPACE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.effect import Alike
    from lrtune.core.recipe import Recipe
    from lrtune.core.space import Space
    from lrtune.study.engine.search_state import SearchState
    from lrtune.study.trials.stored_trial import StoredTrial

__all__ = ["HOPELESS_TRIALS", "Decision", "Finished", "company", "decide"]

IDLE_ROUNDS = 600
"""Decisions in a row to wait while no worker trains (half a minute) that are taken for a bug of the strategy."""

MOST_TOGETHER = 16
"""Runs that are claimed to be trained as one stacked model: it bounds memory, and what a decision takes."""

PRICES = {0.05: 0.03, 0.6: 0.25}
"""What a strategy is told a run costs beside others, by the most that was measured for it; above all, none joins.

A few values, so that the same search decides the same again although no two measurements are equal.
"""

HOPELESS_TRIALS = 10
"""Trials after which any search ends if all of them diverged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """That the search has ended, and why: one sentence, and its kind."""

    why: str
    ending: Ending = Ending.LIMIT

    @property
    def interrupted(self) -> bool:
        """Whether it was stopped from outside and goes on when it is run again."""
        return self.ending is Ending.INTERRUPTED


Decision: TypeAlias = "StoredTrial | Finished | None"
"""A claimed trial to train, the end, or None: nothing to do until another worker reports."""


class _Impossible(Exception):  # noqa: N818 -- a message within this module, not an error
    """What a strategy asked for cannot be done; says why."""


def decide(state: SearchState) -> Decision:
    """Decide on the next segment and claim its trial.

    Raises
    ------
    LrtuneError
        If the strategy asks twice in a row for what cannot be done: it would do so for ever.
    """
    state.refresh()
    if state.should_stop():
        return Finished(why="stopped from outside", ending=Ending.INTERRUPTED)
    ending = _ending(state)
    if ending:
        return None if state.busy else Finished(why=ending)
    resumed = _resumed(state)
    if resumed is not None:
        return resumed
    same = state.alike()
    if same is not None and same.sure:
        return _end_without_effect(state, same)
    further = _further(state) if same is not None and same.runs >= FEWEST else None
    return further or _asked(state)


def company(state: SearchState, first: StoredTrial) -> list[StoredTrial]:
    """The claimed trial, and those that are claimed to be trained beside it as one stacked model.

    The strategy is asked for each, as a second worker would ask it. Only one that reads
    :attr:`~lrtune.search.base.SearchContext.beside` is: what others ask for depends on what the first reports.
    """
    if not getattr(state.strategy, "joins", False) or first.claim is None or first.claim.repaid_epochs:
        return [first]
    measured = state.beside_price(first.record.recipe)
    price = next((level for most, level in PRICES.items() if measured <= most), 1.0)
    return [first] if price >= 1 else state.with_study_lock(lambda: _joined(state, first, price))


def _joined(state: SearchState, first: StoredTrial, price: float) -> list[StoredTrial]:
    state.trials = state.trial_store.trials()  # no refresh: it would give this worker's own claims back
    found, in_step = [first], getattr(state.trainer, "stacks_in_step", False)
    while len(found) < MOST_TOGETHER and not state.should_stop():
        numbers = tuple(trial.number for trial in found)
        context = dataclasses.replace(state.context(), beside=numbers, beside_price=price)
        action = state.strategy.next(context)
        if not isinstance(action, Start | Continue) or (isinstance(action, Start) and state.exhausted):
            break
        if in_step and _trained(state, action) != first.trained_epochs:
            break
        try:
            trial = _claimed(state, action)
        except _Impossible:
            break  # it is asked again when it decides alone
        if trial is None or isinstance(trial, Finished):
            break
        state.replace(trial)
        found.append(trial)
    return found


def _trained(state: SearchState, action: Start | Continue) -> float:
    """Epochs that the run has been trained which an action is about."""
    numbers = {trial.number: trial.trained_epochs for trial in state.trials}
    return numbers.get(action.number, 0.0) if isinstance(action, Continue) else 0.0


def _asked(state: SearchState) -> Decision:
    """What the strategy asks for, once it can be done; enqueued trials come before."""
    refused = False
    while True:
        adopted = _adopted(state)
        if adopted is not None:
            return adopted
        action = state.strategy.next(state.context())
        try:
            if not isinstance(action, Stop):
                return _claimed(state, action)
            _stop(state, action)
            refused = False
        except _Impossible as why:
            if refused:
                msg = (
                    f"a bug of the strategy {state.strategy.name!r}: twice in a row {why}; what was trained is kept, "
                    "so go on with another strategy, and report this one"
                )
                raise LrtuneError(msg) from None
            refused = True


def _ending(state: SearchState) -> str:
    """Why any strategy would end here; empty where it would not."""
    if time.monotonic() >= state.deadline:
        return f"the time limit of {state.settings.limits.timeout:g} s is reached"
    outcomes = {trial.number: trial.record.outcome for trial in state.trials}
    if state.ended_before is None:  # what failed before this call may have been mended
        state.ended_before = frozenset(number for number, outcome in outcomes.items() if outcome is not None)
    ended = [o for number, o in outcomes.items() if o is not None and number not in state.ended_before]
    most = state.settings.failures
    if len(ended) >= most and {Outcome.FAILED, Outcome.STALLED, Outcome.OUT_OF_MEMORY}.issuperset(ended[-most:]):
        reasons = [trial.record.why for trial in state.trials if trial.record.why]
        reason = reasons[-1].strip().splitlines()[-1] if reasons else "no reason was given"
        return f"{most} trials in a row failed: {reason}"
    diverged = [outcome is not None and outcome.diverged for outcome in outcomes.values()]
    if len(diverged) >= HOPELESS_TRIALS and all(diverged):
        low = state.space.lr_range[0]
        return f"all {len(diverged)} trials diverged: lower the range of the learning rate below {low:g}"
    return ""


def _resumed(state: SearchState) -> StoredTrial | None:
    """An interrupted segment, which is finished before anything else: the search goes on as if it had not been."""
    for trial in state.trials:
        view = state.view(trial)
        if trial.resume is None or not view.open:
            continue
        if state.left() >= trial.price(trial.resume, view.repaid_epochs):
            return _claim(state, trial, trial.resume, "cut off before")
        state.replace(state.trial_store.write(dataclasses.replace(trial, resume=None)))
    return None


def _claim(state: SearchState, trial: StoredTrial, until: float, why: str) -> StoredTrial:
    return state.trial_store.claim(trial, until, state.view(trial).repaid_epochs, why)


def _adopted(state: SearchState) -> StoredTrial | None:
    """A trial that was enqueued in the Optuna study, claimed; one that does not fit the space fails."""
    space, settings, store = state.space, state.settings, state.trial_store
    while store.waiting > 0 and not state.exhausted and state.context().left >= 1:
        trial, asked = store.enqueued()
        misfit = space.misfit(asked)
        if misfit:
            store.refuse(trial.number, misfit)
            state.warnings.append(f"trial {trial.number}, enqueued by hand, was not trained: {misfit}")
            continue
        unused = [name for name in asked if name not in space.names and name not in space.fixed]
        if unused:
            names = ", ".join(map(repr, unused))
            state.warnings.append(f"trial {trial.number} was enqueued with {names}, which is no part of this study")
        params = space.plain(space.params(suggest(trial, space)))
        recipe = space.recipe(params, epochs=settings.epochs, seed=settings.seed)
        return store.adopt(trial.number, params, recipe, float(settings.epochs))
    return None


def _stop(state: SearchState, action: Stop) -> None:
    trial = _paused(state, action.number)
    record = dataclasses.replace(trial.record, outcome=action.outcome, why=action.why)
    state.replace(state.trial_store.end(dataclasses.replace(trial, record=record)))
    state.run_cache.forget(action.number)
    notify(state, f"trial {action.number}: {action.why or action.outcome.value}")


def _claimed(state: SearchState, action: Action) -> Decision:
    """The decision that carries out what the strategy asked for."""
    if isinstance(action, Wait):
        elsewhere = any(trial.record.outcome is None and not state.view(trial).open for trial in state.trials)
        state.idle_rounds = 0 if elsewhere else state.idle_rounds + 1
        if state.idle_rounds > IDLE_ROUNDS:
            msg = "it waited where nobody trains anything"
            raise _Impossible(msg)
        return None
    if isinstance(action, Finish):
        return None if state.busy else _finished(state, action)
    if isinstance(action, Start):
        if not state.exhausted:
            return _started(state, action)
        return None if state.busy else Finished(why="the number of trials is reached")
    if isinstance(action, Continue):
        trial = _paused(state, action.number)
        view = state.view(trial)
        until = _until(state, action.until, trial.record.recipe, view.trained, view.repaid_epochs)
        return _claim(state, trial, until, action.why)
    msg = f"it answered {action!r}, which is no action"
    raise _Impossible(msg)


def _finished(state: SearchState, action: Finish) -> Decision:
    """The end, unless something is left to do with a run that lives in the memory of another worker of this command.

    All workers of a command ask the strategy once more, as if every run were their own: so the worker that has the run
    goes on with it, and none waits for one that waits as well. Another command has limits of its own.
    """
    context = state.context()
    own = all(trial.mine or trial.outcome is not None for trial in context.trials)
    left: Action = action
    if not own and state.active_searches.alone():
        trials = [dataclasses.replace(trial, mine=True) for trial in context.trials]
        left = state.strategy.next(dataclasses.replace(context, trials=trials))
    if isinstance(left, Finish):
        return Finished(why=left.why, ending=Ending.SETTLED if left.settled else Ending.LIMIT)
    if isinstance(left, Continue | Stop) and any(t.number == left.number and not t.mine for t in context.trials):
        return None
    if isinstance(left, Stop):
        _stop(state, left)
        return None
    return _claimed(state, left)


def _end_without_effect(state: SearchState, same: Alike) -> Decision:
    """The end where the learning rate changes nothing, once one run was trained in full: any shows what all reach."""
    finished = Finished(why=same.head, ending=Ending.NO_EFFECT)
    pending = [trial for trial in state.trials if trial.record.outcome is None]
    if any(trial.claim for trial in pending):
        return None
    if any(trial.record.outcome is Outcome.COMPLETED for trial in state.trials) or not pending:
        return finished
    trial = max(pending, key=lambda trial: (state.view(trial).trained, -trial.number))
    view = state.view(trial)
    if not view.open:
        return None  # its run is in another worker's memory, which decides the same
    until = state.whole_steps(state.settings.epochs, trial.record.recipe, view.trained - view.repaid_epochs)
    if until < state.settings.epochs:
        return finished
    return _claim(state, trial, until, f"{same.head}: any run shows the rest")


def _further(state: SearchState) -> StoredTrial | None:
    """One more report of one of three runs that agree so far: a few reports show whether they differ."""
    groups: dict[Recipe, list[StoredTrial]] = {}
    for trial in sorted(state.trials, key=lambda trial: (-trial.record.curve.trained, trial.number)):
        if trial.record.outcome in {None, Outcome.COMPLETED}:
            groups.setdefault(dataclasses.replace(trial.record.recipe, lr=1.0), []).append(trial)
    three = max(groups.values(), key=len, default=[])[:FEWEST]
    short = [trial for trial in three if state.view(trial).open and len(trial.record.curve) <= MOVES]
    if len(three) < FEWEST or not short:
        return None
    trial = min(short, key=lambda trial: (trial.record.curve.trained, trial.number))
    view, context = state.view(trial), state.context()
    until = state.whole_steps(view.trained + context.finest, trial.record.recipe, view.trained - view.repaid_epochs)
    if until <= view.trained or not context.leaves_an_end(view.trained, until, view.repaid_epochs):
        return None
    return _claim(state, trial, until, "it equals others at other learning rates so far")


def _paused(state: SearchState, number: int) -> StoredTrial:
    """The trial of that number, which must be paused and open to this worker."""
    trial = next((trial for trial in state.trials if trial.number == number), None)
    if trial is None or not state.view(trial).open:
        msg = f"it asked for trial {number}, which is not paused"
        raise _Impossible(msg)
    return trial


def _until(state: SearchState, asked: float, recipe: Recipe, trained: float = 0.0, repaid_epochs: float = 0.0) -> float:
    """The epoch at which a segment ends: on a whole step, beyond what is trained, within the budget."""
    if not math.isfinite(asked):
        msg = f"it asked to train a trial up to epoch {asked}"
        raise _Impossible(msg)
    until = state.whole_steps(asked, recipe, trained - repaid_epochs)
    if until <= trained < recipe.epochs:
        msg = f"it asked to train a trial from epoch {trained:g} up to {asked:g} with {state.left():g} epochs left"
        raise _Impossible(msg)
    if until - trained + repaid_epochs > state.left():
        msg = f"it asked for {until - trained + repaid_epochs:g} epochs with {state.left():g} left"
        raise _Impossible(msg)
    return until


def _started(state: SearchState, action: Start) -> StoredTrial:
    params = action.params
    space = state.space if params is None else _wide_enough(state.space, params)
    if params is None or not space.contains(params):
        msg = f"it started a trial at {params}, which is no point of the space"
        raise _Impossible(msg)
    recipe = space.recipe(params, epochs=state.settings.epochs, seed=state.settings.seed + action.seed)
    schedules.parse(recipe.schedule)
    until = _until(state, action.until, recipe)
    if space is not state.space:
        state.space = space
        state.trial_store.set_attributes({SPACE: space.to_json()})
    return state.trial_store.start(space, params, recipe, until, action.why)


def _wide_enough(space: Space, params: Mapping[str, Any]) -> Space:
    """The space, or one whose range of learning rates is widened to end exactly at a learning rate beyond it."""
    lr = params.get("lr")
    low, high = space.lr_range
    if not isinstance(lr, float) or low <= lr <= high:
        return space
    try:
        return space.reaching(lr)
    except SpaceError:
        return space
