"""The end of a search: open trials are pruned, the answer is stored, and a search without one says what to try."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from lrtune.core.outcome import Ending, Outcome
from lrtune.errors import SearchError
from lrtune.search.freeze_thaw.answer import answer
from lrtune.study.engine.notifier import notify
from lrtune.study.result import Edge, Result
from lrtune.study.trials.study_reader import RESULT

if TYPE_CHECKING:
    from lrtune.core.effect import Alike
    from lrtune.study.engine.scheduler import Finished
    from lrtune.study.engine.search_state import SearchState

__all__ = ["finalize"]


def finalize(state: SearchState, finished: Finished) -> Result:
    """End what is open, and give the answer.

    While another command searches the study, open trials are left to it: it may have more to spend.

    Raises
    ------
    SearchError
        If no trial completed. Its attribute ``result`` holds what is known all the same.
    """
    result, same = state.with_study_lock(lambda: _end(state, finished))
    notify(state, "", result)
    if result.best_recipe is None and not finished.interrupted:
        said = f"{finished.why}; {_advice(state, finished.why)}" if same is None else str(same)
        error = SearchError(f"no trial was trained to its end: {said}")
        error.result = result
        raise error
    return result


def _end(state: SearchState, finished: Finished) -> tuple[Result, Alike | None]:
    """Under the study's lock: the answer, and the runs that show that the learning rate changes nothing."""
    state.refresh()
    same = None
    if not finished.interrupted:
        (_prune_open if state.active_searches.alone() else _release_own)(state)
        same = state.alike()
    same = same if same is not None and same.sure else None
    result, best = _result(state, finished, same)
    if not finished.interrupted and best is not None and state.active_searches.alone():
        for number in state.finalists() - {best}:
            state.run_cache.forget(number)
    state.trial_store.set_attributes({RESULT: result.to_json()})
    state.active_searches.leave()
    return result, same


def _prune_open(state: SearchState) -> None:
    for trial in state.trials:
        if trial.record.outcome is None and trial.claim is None:
            record = dataclasses.replace(trial.record, outcome=Outcome.PRUNED, why="the search ended")
            state.trial_store.end(dataclasses.replace(trial, record=record))
            state.run_cache.forget(trial.number)
    state.refresh()


def _release_own(state: SearchState) -> None:
    """Give up the runs in this memory, so that another search may train their trials again."""
    for trial in state.trials:
        if trial.owner is not None and trial.owner.same_holder(state.trial_store.me):
            state.replace(state.trial_store.write(dataclasses.replace(trial, owner=None)))


def _advice(state: SearchState, why: str) -> str:
    """What to try where no trial completed."""
    ended = [trial.record.outcome for trial in state.trials if trial.record.outcome is not None]
    outcomes = [outcome for outcome in ended if outcome is not Outcome.PRUNED]
    low, high = state.space.lr_range
    lower = f"try a range further down, such as {low / 1e3:.0e} to {low:.0e}"
    if ended and all(outcome.diverged for outcome in ended):
        if state.baseline is not None and state.baseline.undefined:
            metric = state.settings.metric
            return f"{metric} is no finite number before any training: mend the data or the loss; no learning rate can"
        return f"every learning rate diverged: {lower}"
    if outcomes and all(outcome is Outcome.OUT_OF_MEMORY for outcome in outcomes):
        every = "every trial" if len(outcomes) == len(ended) else f"{len(outcomes)} of {len(ended)} trials"
        return f"{every} ran out of memory: take a smaller model or batch size"
    if any(outcome is Outcome.FAILED for outcome in outcomes):
        whys = [trial.record.why.strip() for trial in state.trials if trial.record.outcome is Outcome.FAILED]
        last = next((text.splitlines()[-1] for text in reversed(whys) if text), "no reason was given")
        reason = "" if last in why else f" ({last})"
        return f"mend the training code{reason} and run the same command again"
    if outcomes and all(outcome.diverged for outcome in outcomes):
        return f"{len(outcomes)} of {len(ended)} trials diverged: raise {_limits(state)}, or {lower}"
    return f"raise {_limits(state)}, or narrow the range from {low:g} to {high:g}"


def _limits(state: SearchState) -> str:
    limits = state.settings.limits
    given = {
        "the budget": limits.budget,
        "the machine budget": limits.machine_budget,
        "the number of trials": limits.trials,
        "the time limit": limits.timeout,
    }
    return " or ".join(name for name, limit in given.items() if limit is not None) or "the budget"


def _result(state: SearchState, finished: Finished, same: Alike | None) -> tuple[Result, int | None]:
    """The answer, and the number of the trial that it is."""
    trials, settings = state.trials, state.settings
    found = answer(state.context())
    best = next((t.record for t in trials if found.best is not None and t.number == found.best), None)
    # where the learning rate changes nothing, no end of the range is near, and the range was widened for nothing
    warnings = [*state.all_warnings(), *found.warnings] if same is None else [*state.warnings, str(same)]
    epochs = settings.spent * settings.epochs + sum(trial.record.trained for trial in trials)
    result = Result(
        name=settings.name,
        metric=settings.metric,
        direction=settings.direction,
        best_recipe=None if best is None else best.recipe,
        best_value=None if best is None else best.value,
        band=found.band if same is None else None,
        edge=found.edge if same is None else Edge(),
        probability=found.probability if same is None else None,
        noise=found.noise,
        cost=epochs / settings.epochs,
        epochs_trained=epochs,
        machine_time=state.machine_time(),
        trials_by_outcome=dict(Counter(t.record.outcome.group for t in trials if t.record.outcome is not None)),
        stopped_because=finished.why,
        ending=finished.ending if same is None else Ending.NO_EFFECT,
        warnings=tuple(dict.fromkeys([*state.space.warnings, *state.trainer.notices, *warnings])),
        study=state.trial_store.study,
    )
    return result, found.best
