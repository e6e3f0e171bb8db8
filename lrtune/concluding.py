"""Concluding: what nobody else wants any more is told as pruned, and what was found becomes the result."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from lrtune.errors import SearchError
from lrtune.outcome import Outcome
from lrtune.reading import RESULT
from lrtune.result import Edge, Result
from lrtune.search.answer import answer

if TYPE_CHECKING:
    from lrtune.deciding import Finished
    from lrtune.loop import Search
    from lrtune.watching import Listener

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

    def conclude() -> Result:
        search.refresh()
        if not finished.interrupted:
            (_end_open if search.attendance.alone() else _leave_open)(search)
        result = _result(search, finished.why)
        search.ledger.describe({RESULT: result.to_json()})
        search.attendance.leave()
        return result

    result = search.decisively(conclude)
    listen("", search, result)
    if result.best_recipe is None and not finished.interrupted:
        error = SearchError(f"no trial was trained to its end: {finished.why}; {_advice(search, finished.why)}")
        error.result = result
        raise error
    return result


def _end_open(search: Search) -> None:
    for entry in search.entries:
        if entry.record.outcome is None and entry.claim is None:
            record = dataclasses.replace(entry.record, outcome=Outcome.PRUNED, why="the search ended")
            search.ledger.end(dataclasses.replace(entry, record=record))
            search.garage.forget(entry.number)
    search.refresh()


def _leave_open(search: Search) -> None:
    """Let go of the runs that live in this memory, so that another search may train them again."""
    for entry in search.entries:
        if entry.holder is not None and entry.holder.same_holder(search.ledger.me):
            search.replace(search.ledger.write(dataclasses.replace(entry, holder=None)))


def _advice(search: Search, said: str) -> str:
    outcomes = [entry.record.outcome for entry in search.entries if entry.record.outcome is not None]
    low, high = search.space.lr_range
    if outcomes and all(outcome.diverged for outcome in outcomes):
        return f"every learning rate diverged: try a range further down, such as {low / 1e3:.0e} to {low:.0e}"
    if outcomes and all(outcome is Outcome.OUT_OF_MEMORY for outcome in outcomes):
        return "every trial ran out of memory: take a smaller model or batch size"
    if any(outcome is Outcome.FAILED for outcome in outcomes):
        whys = [entry.record.why.strip() for entry in search.entries if entry.record.outcome is Outcome.FAILED]
        last = next((why.splitlines()[-1] for why in reversed(whys) if why), "no reason was given")
        reason = "" if last in said else f" ({last})"
        return f"mend the training code{reason} and run the same command again"
    return f"raise the budget, or narrow the range from {low:g} to {high:g}"


def _result(search: Search, why: str) -> Result:
    entries, settings = search.entries, search.settings
    found = answer(search.situation())
    best = next((e.record for e in entries if found.best is not None and e.number == found.best), None)
    counts = Counter(entry.record.outcome.group for entry in entries if entry.record.outcome is not None)
    epochs = settings.spent * settings.epochs + sum(entry.record.trained for entry in entries)
    return Result(
        name=settings.name,
        metric=settings.metric,
        direction=settings.direction,
        best_recipe=None if best is None else best.recipe,
        best_value=None if best is None else best.value,
        band=found.band,
        edge=Edge(lr=found.edge.lr, low=found.edge.low, high=found.edge.high),
        cost=epochs / settings.epochs,
        epochs_trained=epochs,
        trials_by_outcome=dict(counts),
        stopped_because=why,
        warnings=tuple(
            dict.fromkeys(
                [
                    *search.space.warnings,
                    *search.trainer.notices,
                    *search.warnings,
                    *search.garage.notices,
                    *found.warnings,
                ]
            )
        ),
        study=search.ledger.study,
    )
