"""Concluding: what nobody else wants any more is told as pruned, and what was found becomes the result."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from lrtune.core.outcome import Ending, Outcome
from lrtune.errors import SearchError
from lrtune.search.freeze_thaw.answer import answer
from lrtune.study.engine.search_state import WIDENED
from lrtune.study.result import Edge, Result
from lrtune.study.trials.study_reader import RESULT

if TYPE_CHECKING:
    from lrtune.core.effect import Alike
    from lrtune.study.engine.loop import Search
    from lrtune.study.engine.notifier import Listener
    from lrtune.study.engine.scheduler import Finished

__all__ = ["concluded"]


def concluded(search: Search, finished: Finished, listen: Listener) -> Result:
    """Tell what is still open as pruned, and say what was found.

    While another command searches the study, what is open is left to it: it may have more to spend. The last
    one out ends it.

    Raises
    ------
    SearchError
        If no trial completed. Its attribute ``result`` holds what can be said all the same.
    """
    result, same = search.with_study_lock(lambda: _conclude(search, finished))
    listen("", search, result)
    if result.best_recipe is None and not finished.interrupted:
        said = f"{finished.why}; {_advice(search, finished.why)}" if same is None else str(same)
        error = SearchError(f"no trial was trained to its end: {said}")
        error.result = result
        raise error
    return result


def _conclude(search: Search, finished: Finished) -> tuple[Result, Alike | None]:
    """Under the study's lock: the answer, and the runs that show that the learning rate changes nothing."""
    search.refresh()
    if not finished.interrupted:
        (_end_open if search.active_searches.alone() else _leave_open)(search)
    same = None if finished.interrupted else search.alike()
    same = same if same is not None and same.sure else None
    result = _result(search, finished, same)
    search.trial_store.describe({RESULT: result.to_json()})
    search.active_searches.leave()
    return result, same


def _end_open(search: Search) -> None:
    for entry in search.entries:
        if entry.record.outcome is None and entry.claim is None:
            record = dataclasses.replace(entry.record, outcome=Outcome.PRUNED, why="the search ended")
            search.trial_store.end(dataclasses.replace(entry, record=record))
            search.run_cache.forget(entry.number)
    search.refresh()


def _leave_open(search: Search) -> None:
    """Let go of the runs that live in this memory, so that another search may train them again."""
    for entry in search.entries:
        if entry.owner is not None and entry.owner.same_holder(search.trial_store.me):
            search.replace(search.trial_store.write(dataclasses.replace(entry, owner=None)))


def _advice(search: Search, said: str) -> str:
    ended = [entry.record.outcome for entry in search.entries if entry.record.outcome is not None]
    outcomes = [outcome for outcome in ended if outcome is not Outcome.PRUNED]  # that the search ended, or others led
    low, high = search.space.lr_range
    if ended and all(outcome.diverged for outcome in ended):
        if search.baseline is not None and search.baseline.undefined:
            metric = search.settings.metric
            return f"{metric} is no finite number before any training: mend the data or the loss; no learning rate can"
        return f"every learning rate diverged: try a range further down, such as {low / 1e3:.0e} to {low:.0e}"
    if outcomes and all(outcome is Outcome.OUT_OF_MEMORY for outcome in outcomes):
        every = "every trial" if len(outcomes) == len(ended) else f"{len(outcomes)} of {len(ended)} trials"
        return f"{every} ran out of memory: take a smaller model or batch size"
    if any(outcome is Outcome.FAILED for outcome in outcomes):
        whys = [entry.record.why.strip() for entry in search.entries if entry.record.outcome is Outcome.FAILED]
        last = next((why.splitlines()[-1] for why in reversed(whys) if why), "no reason was given")
        reason = "" if last in said else f" ({last})"
        return f"mend the training code{reason} and run the same command again"
    if outcomes and all(outcome.diverged for outcome in outcomes):
        lower = f"or try a range further down, such as {low / 1e3:.0e} to {low:.0e}"
        return f"{len(outcomes)} of {len(ended)} trials diverged: raise {_limits(search)}, {lower}"
    return f"raise {_limits(search)}, or narrow the range from {low:g} to {high:g}"


def _limits(search: Search) -> str:
    """What may have been too little, in words."""
    limits = search.settings.limits
    given = {"the budget": limits.budget, "the number of trials": limits.trials, "the time limit": limits.timeout}
    return " or ".join(name for name, limit in given.items() if limit is not None) or "the budget"


def _result(search: Search, finished: Finished, same: Alike | None) -> Result:
    entries, settings = search.entries, search.settings
    found = answer(search.context())
    best = next((e.record for e in entries if found.best is not None and e.number == found.best), None)
    counts = Counter(entry.record.outcome.group for entry in entries if entry.record.outcome is not None)
    said = [*search.warnings, *found.warnings]
    if same is not None:  # then no end of the range is too near
        said = [*(warning for warning in search.warnings if not warning.startswith(WIDENED)), str(same)]
    epochs = settings.spent * settings.epochs + sum(entry.record.trained for entry in entries)
    return Result(
        name=settings.name,
        metric=settings.metric,
        direction=settings.direction,
        best_recipe=None if best is None else best.recipe,
        best_value=None if best is None else best.value,
        band=found.band if same is None else None,
        edge=found.edge if same is None else Edge(),
        cost=epochs / settings.epochs,
        epochs_trained=epochs,
        trials_by_outcome=dict(counts),
        stopped_because=finished.why,
        ending=finished.ending if same is None else Ending.NO_EFFECT,
        warnings=tuple(dict.fromkeys([*search.space.warnings, *search.trainer.notices, *said])),
        study=search.trial_store.study,
    )
