"""What Optuna and its dashboard are told of a trial: plain attributes, reports, a state, a constraint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from lrtune.core.outcome import Outcome
from lrtune.reporting.diagnosis import judge
from lrtune.storage import TrialChange
from lrtune.study.trials.stored_trial import RECORD, encode

if TYPE_CHECKING:
    from lrtune.core.records import TrialRecord
    from lrtune.study.settings import Settings
    from lrtune.study.trials.stored_trial import StoredTrial

__all__ = ["end_of", "record_of", "report_of"]

MOST_REPORTS = 200
"""Values of a trial that are reported to Optuna, at the most."""


def record_of(entry: StoredTrial) -> dict[str, Any]:
    """The user attribute that holds the entry."""
    return {RECORD: encode(entry)}


def report_of(record: TrialRecord, settings: Settings) -> dict[int, float]:
    """The metric where the run stands, by epoch: once for each rung, and only what is finite."""
    epochs, values = record.curve.of(settings.metric)
    if not len(values) or not math.isfinite(values[-1]):
        return {}
    every = max(1, math.ceil(settings.epochs / MOST_REPORTS))
    step = int(epochs[-1])
    rung = step >= 1 and (step % every == 0 or step >= settings.epochs)
    return {step: float(values[-1])} if rung else {}


def end_of(entry: StoredTrial, outcome: Outcome, settings: Settings) -> TrialChange:
    """All that is written when a trial ends, in one change."""
    record = entry.record
    state, values = _state_of(record, settings.metric)
    constraints, reports = {}, {}
    if outcome.diverged:
        constraints["diverged"] = 2.0 - min(record.curve.trained / settings.epochs, 1.0)
    else:
        reports = report_of(record, settings)
    return TrialChange(
        attributes=record_of(entry) | _readable(record, outcome, settings),
        reports=reports,
        constraints=constraints,
        state=state,
        values=values,
    )


def _readable(record: TrialRecord, outcome: Outcome, settings: Settings) -> dict[str, Any]:
    """Attributes for whoever looks at the study in the dashboard."""
    readable: dict[str, Any] = {"outcome": outcome.value, "cost": round(record.trained / settings.epochs, 4)}
    if record.why:
        readable["why"] = record.why[:2000]
    if len(record.curve):
        verdict = judge(
            record.curve,
            metric=settings.metric,
            direction=settings.direction,
            epochs=settings.epochs,
            lr=record.recipe.lr,
            outcome=outcome,
        )
        readable["verdict"] = f"{verdict.kind.value}: {verdict.why}"[:500]
    return readable


def _state_of(record: TrialRecord, metric: str) -> tuple[TrialState, list[float] | None]:
    outcome = record.outcome
    if outcome is Outcome.COMPLETED and record.value is not None:
        return TrialState.COMPLETE, [record.value]
    if outcome is Outcome.PRUNED or (outcome is not None and outcome.diverged):
        values = record.curve.of(metric)[1]
        last = float(values[-1]) if len(values) else math.nan
        kept = outcome is Outcome.PRUNED and math.isfinite(last)
        return TrialState.PRUNED, [last] if kept else None
    return TrialState.FAIL, None
