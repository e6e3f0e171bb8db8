"""What was recorded, as pandas frames: trials, their curves, the segments of training and what they cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Outcome
from lrtune.reporting.diagnosis import Finding, verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrtune.core.records import StudyRecord, TrialRecord

__all__ = ["SETTINGS", "costs", "curves", "score", "timeline", "trials"]

SETTINGS = ("batch_size", "schedule", "warmup", "optimizer", "momentum", "weight_decay", "layer_decay", "seed")
TRIAL_COLUMNS = [
    *("number", "outcome", "group", "lr", *SETTINGS, "value", "last", "epochs", "cost", "seconds"),
    *("started", "finished", "verdict", "evidence", "advice", "why"),
]
CURVE_COLUMNS = ["number", "step", "epoch", "samples", "lr", "name", "value"]
TIMELINE_COLUMNS = [
    *("number", "worker", "at", "seconds", "begin", "end"),
    *("epochs", "cost", "again", "why", "outcome", "lr"),
]


@own_errstate()
def trials(record: StudyRecord, judged: Iterable[Finding] | None = None) -> pd.DataFrame:
    """One row a trial, in the order of their numbers.

    `judged` are :func:`lrtune.reporting.tables.verdicts` of the study, where they are at hand already.

    Returns
    -------
    pandas.DataFrame
        ``number``, ``outcome`` (a word, ``"open"`` while it may go on), ``group``, ``lr``, the settings of the
        recipe that any trial has, ``value``, ``last`` (the last report of the metric), ``epochs`` (trained), ``cost``
        (full trainings paid), ``seconds``, ``started`` and ``finished`` (UTC), ``verdict``, ``evidence``, ``advice``,
        ``why``.
    """
    rows = [
        {
            "number": trial.number,
            "outcome": trial.outcome_key,
            "group": trial.outcome_group,
            "lr": trial.recipe.lr,
            **{name: getattr(trial.recipe, name) for name in SETTINGS},
            "value": math.nan if trial.value is None else trial.value,
            "last": last_report(trial, record),
            "epochs": trial.curve.trained,
            "cost": trial.trained / record.epochs,
            "seconds": sum(segment.seconds for segment in trial.segments),
            "started": trial.started,
            "finished": trial.finished,
            "verdict": verdict.kind.value,
            "evidence": verdict.why,
            "advice": verdict.advice,
            "why": storable(trial.why),
        }
        for trial, verdict in zip(record.records, verdicts(record) if judged is None else judged, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=TRIAL_COLUMNS)
    for name in ("started", "finished"):
        frame[name] = pd.to_datetime(pd.to_numeric(frame[name]), unit="s", utc=True)
    return frame.drop(columns=[name for name in SETTINGS if frame[name].isna().all()])


@own_errstate()
def curves(record: StudyRecord, numbers: Iterable[int] | None = None, most: int | None = None) -> pd.DataFrame:
    """One row a report and number measured, of all trials or of those with these numbers.

    Of each curve about `most` reports are taken at most: its first, last and extreme ones are kept.

    Returns
    -------
    pandas.DataFrame
        ``number``, ``step``, ``epoch``, ``samples``, ``lr`` (as applied, NaN where unknown), ``name``, ``value``.
    """
    wanted = None if numbers is None else set(numbers)
    parts: list[pd.DataFrame] = []
    for trial in record.records:
        if wanted is not None and trial.number not in wanted:
            continue
        curve = trial.curve if most is None else trial.curve.thinned(most)
        columns = {"step": curve.steps, "epoch": curve.epochs, "samples": curve.samples, "lr": curve.lrs}
        for name in curve.names:
            frame = pd.DataFrame(
                {"number": trial.number, **columns, "name": storable(name), "value": curve.values(name)}
            )
            parts.append(frame[[name in point.values for point in curve]])  # noqa: PD011 -- a curve, not a frame
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=CURVE_COLUMNS)


@own_errstate()
def timeline(record: StudyRecord) -> pd.DataFrame:
    """One row a segment of training, in the order of time.

    Returns
    -------
    pandas.DataFrame
        ``number``, ``worker``, ``at`` (UTC), ``second`` (since the first segment), ``seconds``, ``begin``, ``end``,
        ``epochs``, ``cost`` (full trainings), ``again`` (epochs that had been trained before), ``why``, ``outcome``,
        ``lr``.
    """
    rows = []
    for trial in record.records:
        reached = 0.0
        for segment in trial.segments:
            again = max(0.0, min(reached, segment.end) - segment.begin)
            reached = max(reached, segment.end)
            rows.append(
                (trial.number, storable(segment.worker), segment.at, segment.seconds, segment.begin, segment.end,
                 segment.epochs, segment.epochs / record.epochs, again, storable(segment.why), trial.outcome_key,
                 trial.recipe.lr)
            )  # fmt: skip
    frame = pd.DataFrame(rows, columns=TIMELINE_COLUMNS).sort_values("at", kind="stable", ignore_index=True)
    frame.insert(3, "second", frame["at"] - (frame["at"].min() if len(frame) else 0.0))
    frame["at"] = pd.to_datetime(pd.to_numeric(frame["at"]), unit="s", utc=True)
    return frame


@own_errstate()
def costs(record: StudyRecord) -> pd.DataFrame:
    """What the budget was spent on: one row an outcome, the most expensive first.

    Returns
    -------
    pandas.DataFrame
        ``outcome``, ``trials``, ``epochs``, ``cost`` (full trainings), ``share`` (of all that was spent), ``seconds``.
        Epochs that had to be trained a second time are in the row of their trial's outcome.
    """
    rows = [(t.outcome_key, t.trained, sum(segment.seconds for segment in t.segments)) for t in record.records]
    frame = pd.DataFrame(rows, columns=["outcome", "epochs", "seconds"])
    table = frame.groupby("outcome", as_index=False).agg(
        trials=("epochs", "size"), epochs=("epochs", "sum"), seconds=("seconds", "sum")
    )
    table["cost"] = table["epochs"] / record.epochs
    total = float(table["epochs"].sum())
    table["share"] = table["epochs"] / total if total > 0 else 0.0
    return table.sort_values("epochs", ascending=False, ignore_index=True)


def score(trial: TrialRecord, record: StudyRecord) -> float:
    """How good a closed trial was, smaller is better: its result, the last report of a pruned trial.

    Infinite where it diverged; NaN where nothing can be said (failed, interrupted, still open).
    """
    if trial.diverged:
        return math.inf
    if trial.value is not None:
        return record.sign * trial.value
    return record.sign * last_report(trial, record) if trial.outcome is Outcome.PRUNED else math.nan


def last_report(trial: TrialRecord, record: StudyRecord) -> float:
    """The last report of the metric; NaN where there is none."""
    values = trial.curve.of(record.metric)[1]
    return float(values[-1]) if len(values) else math.nan


def storable(text: str) -> str:
    """The text without lone surrogates, which pandas cannot hold; they become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
