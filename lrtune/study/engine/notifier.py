"""Snapshots of a search for whoever watches it: from the loop's entries to a Progress."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from lrtune.core.outcome import Outcome
from lrtune.search.freeze_thaw.answer import answer
from lrtune.study.events import EndedTrial, Progress, RunningTrial

if TYPE_CHECKING:
    from lrtune.search.base import SearchContext
    from lrtune.study.events import Observer
    from lrtune.study.result import Result
    from lrtune.study.settings import Settings
    from lrtune.study.trials.stored_trial import StoredTrial
    from lrtune.study.trials.trial_store import TrialStore

__all__ = ["Listener", "Watched", "line", "listener"]


class Watched(Protocol):
    """What of the loop can be watched."""

    settings: Settings
    trial_store: TrialStore
    entries: list[StoredTrial]
    warnings: list[str]
    training: tuple[StoredTrial, float] | None

    def context(self) -> SearchContext:
        """All that is known."""


class Listener(Protocol):
    """What the loop calls at every event, and once more with the answer."""

    def __call__(self, event: str, search: Watched, result: Result | None = None) -> None:
        """Hear of it."""


def listener(observer: Observer | None, started: float) -> Listener:
    """The observer, called with a snapshot; or nothing."""
    best_so_far: dict[str, Any] = {}

    def listen(event: str, search: Watched, result: Result | None = None) -> None:
        if observer is not None:
            observer(_progress(event, search, started, best_so_far, result))

    return listen


def _progress(event: str, search: Watched, started: float, memory: dict[str, Any], result: Result | None) -> Progress:
    settings, entries = search.settings, search.entries
    done = [e.record for e in entries if e.record.outcome is Outcome.COMPLETED and e.record.value is not None]
    sign = 1.0 if settings.direction == "minimize" else -1.0
    best = min(done, key=lambda record: sign * float(record.value or 0.0), default=None)
    if best is not None and memory.get("best") != len(done):
        memory.update(best=len(done), band=answer(search.context()).band)
    told = memory.setdefault("told", set())
    fresh = [e for e in entries if e.closed and e.number not in told]
    told.update(e.number for e in fresh)
    curve: tuple[tuple[float, float], ...] = ()
    if best is not None:
        epochs, values = best.curve.of(settings.metric)
        curve = tuple(zip(epochs.tolist(), values.tolist(), strict=True))
    return Progress(
        event=event,
        name=settings.name,
        metric=settings.metric,
        direction=settings.direction,
        epochs=settings.epochs,
        budget=settings.limits.budget,
        timeout=settings.limits.timeout,
        trials_limit=settings.limits.trials,
        spent=search.trial_store.spent(entries),
        elapsed=time.monotonic() - started,
        counts=dict(Counter("open" if e.record.outcome is None else e.record.outcome.group for e in entries)),
        best=None if best is None else best.recipe,
        best_value=None if best is None else best.value,
        best_curve=curve,
        band=memory.get("band"),
        training=_training(search),
        ended=tuple(_ended(entry) for entry in fresh),
        warnings=tuple(search.warnings),
        result=result,
    )


def _training(search: Watched) -> tuple[RunningTrial, ...]:
    mine = [search.training] if search.training is not None else []
    others = [(e, e.claim.until) for e in search.entries if e.claim and all(e.number != m.number for m, _ in mine)]
    return tuple(
        RunningTrial(number=e.number, recipe=e.record.recipe, trained=e.record.curve.trained, until=until)
        for e, until in [*mine, *others]
    )


def _ended(entry: StoredTrial) -> EndedTrial:
    record = entry.record
    return EndedTrial(
        number=record.number,
        recipe=record.recipe,
        outcome=record.outcome or Outcome.INTERRUPTED,
        value=record.value,
        trained=record.trained,
        started=record.started,
        curve=record.curve,
    )


def line(entry: StoredTrial, settings: Settings) -> str:
    """One plain line about what a trial has just done."""
    record = entry.record
    head = f"trial {record.number}: lr {record.recipe.lr:.3g}"
    if record.outcome is Outcome.COMPLETED:
        return f"{head}, {settings.metric} {record.value:.5g}"
    if record.outcome is not None:
        return f"{head}, {record.outcome.value}"
    values = record.curve.of(settings.metric)[1]
    now = f", {settings.metric} {values[-1]:.5g}" if len(values) else ""
    return f"{head}, at epoch {record.curve.trained:.4g} of {settings.epochs}{now}"
