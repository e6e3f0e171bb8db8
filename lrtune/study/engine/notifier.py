"""Calls the observer of a search at each event, with a snapshot and the event's log line."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from lrtune.core.outcome import Outcome
from lrtune.search.freeze_thaw.answer import answer
from lrtune.study.events import Progress

if TYPE_CHECKING:
    from lrtune.search.base import TrialView
    from lrtune.study.engine.search_state import SearchState
    from lrtune.study.result import Result
    from lrtune.study.settings import Settings
    from lrtune.study.trials.stored_trial import StoredTrial

__all__ = ["line", "notify"]


def notify(state: SearchState, event: str = "", result: Result | None = None) -> None:
    """Call the observer, if there is one, with a snapshot of the search."""
    if state.observer is None:
        return
    settings, trials = state.settings, state.trials
    done = [t.record for t in trials if t.record.outcome is Outcome.COMPLETED and t.record.value is not None]
    sign = 1.0 if settings.direction == "minimize" else -1.0
    best = min(done, key=lambda record: sign * float(record.value or 0.0), default=None)
    curve: tuple[tuple[float, float], ...] = ()
    if best is not None:
        epochs, values = best.curve.of(settings.metric)
        curve = tuple(zip(epochs.tolist(), values.tolist(), strict=True))
        if state.band[1] != len(done):
            state.band = (answer(state.context()).band, len(done))
    ended = tuple(trial.record for trial in trials if trial.closed and trial.number not in state.reported)
    state.reported.update(record.number for record in ended)
    state.observer(
        Progress(
            event=event,
            name=settings.name,
            metric=settings.metric,
            direction=settings.direction,
            epochs=settings.epochs,
            budget=settings.limits.budget,
            timeout=settings.limits.timeout,
            trials_limit=settings.limits.trials,
            machine_budget=settings.limits.machine_budget,
            spent=state.trial_store.spent(trials),
            machine_time=state.machine_time(),
            elapsed=time.monotonic() - state.started,
            counts=dict(Counter("open" if t.record.outcome is None else t.record.outcome.group for t in trials)),
            best=None if best is None else best.recipe,
            best_value=None if best is None else best.value,
            best_curve=curve,
            band=state.band[0],
            training=_training(state),
            ended=ended,
            warnings=tuple(state.all_warnings()),
            result=result,
        )
    )


def _training(state: SearchState) -> tuple[TrialView, ...]:
    """The trials in training, this process's first."""
    own = {trial.number for trial in state.training}
    others = (trial for trial in state.trials if trial.claim and trial.number not in own)
    return tuple(state.trial_store.view(trial) for trial in (*state.training, *others))


def line(trial: StoredTrial, settings: Settings) -> str:
    """One line about what a trial has just done."""
    record = trial.record
    head = f"trial {record.number}: lr {record.recipe.lr:.3g}"
    if record.outcome is Outcome.COMPLETED:
        return f"{head}, {settings.metric} {record.value:.5g}"
    if record.outcome is not None:
        return f"{head}, {record.outcome.value}"
    values = record.curve.of(settings.metric)[1]
    now = f", {settings.metric} {values[-1]:.5g}" if len(values) else ""
    return f"{head}, at epoch {record.curve.trained:.4g} of {settings.epochs}{now}"
