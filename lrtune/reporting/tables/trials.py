"""What was recorded, as it was recorded: trials, curves, pieces of training and what they cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lrtune.core.effect import alike
from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Ending, Outcome
from lrtune.reporting.diagnosis import Finding, Trial, Verdict, judge, judge_study
from lrtune.reporting.diagnosis.features import noise
from lrtune.reporting.diagnosis.study_findings import repeat_noise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lrtune.core.curve import Curve
    from lrtune.core.effect import Alike
    from lrtune.core.records import StudyRecord, TrialRecord

__all__ = [
    "SETTINGS",
    "baseline_value",
    "costs",
    "curves",
    "edge_of",
    "findings",
    "has_no_effect",
    "outcome_word",
    "timeline",
    "trials",
    "verdicts",
]

FEWEST_FOR_NOISE = 8  # reports
SETTINGS = ("batch_size", "schedule", "warmup", "optimizer", "momentum", "weight_decay", "layer_decay", "seed")


@own_errstate()
def trials(record: StudyRecord, judged: Iterable[Verdict] | None = None) -> pd.DataFrame:
    """One row a trial, in the order of their numbers.

    Parameters
    ----------
    record
        The study.
    judged
        The verdicts on its curves, where they are at hand already; see :func:`verdicts`.

    Returns
    -------
    pandas.DataFrame
        ``number``, ``outcome`` (a word, ``"open"`` while it may go on), ``group``, ``lr``, the settings of the
        recipe that any trial has, ``value``, ``last`` (the metric where it stopped), ``epochs`` (how far), ``cost``
        (full trainings paid), ``seconds``, ``started`` and ``finished`` (UTC), ``verdict``, ``evidence``, ``advice``,
        ``why``.
    """
    judged = list(verdicts(record) if judged is None else judged)
    rows = [
        {
            "number": trial.number,
            "outcome": outcome_word(trial),
            "group": "open" if trial.outcome is None else trial.outcome.group,
            "lr": trial.recipe.lr,
            **{name: getattr(trial.recipe, name) for name in SETTINGS},
            "value": math.nan if trial.value is None else trial.value,
            "last": _last(trial, record.metric),
            "epochs": trial.curve.trained,
            "cost": trial.trained / record.epochs,
            "seconds": sum(piece.seconds for piece in trial.segments),
            "started": trial.started,
            "finished": trial.finished,
            "verdict": verdict.kind.value,
            "evidence": verdict.why,
            "advice": verdict.advice,
            "why": storable(trial.why),
        }
        for trial, verdict in zip(record.records, judged, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=list(rows[0]) if rows else _columns())
    for name in ("started", "finished"):
        frame[name] = pd.to_datetime(pd.to_numeric(frame[name]), unit="s", utc=True)
    return frame.drop(columns=[name for name in SETTINGS if frame[name].isna().all()])


def _columns() -> list[str]:
    return [
        *("number", "outcome", "group", "lr", *SETTINGS, "value", "last", "epochs", "cost", "seconds"),
        *("started", "finished", "verdict", "evidence", "advice", "why"),
    ]


@own_errstate()
def curves(record: StudyRecord, numbers: Iterable[int] | None = None, most: int | None = None) -> pd.DataFrame:
    """One row a report and number measured.

    Parameters
    ----------
    record
        The study.
    numbers
        Only these trials.
    most
        About so many reports of each curve at most: its first, last and extreme ones are kept.

    Returns
    -------
    pandas.DataFrame
        ``number``, ``step``, ``epoch``, ``samples``, ``lr`` (as applied, NaN where unknown), ``name``, ``value``.
    """
    wanted = None if numbers is None else set(numbers)
    parts: list[pd.DataFrame] = []
    for trial in record.records:
        if (wanted is None or trial.number in wanted) and len(trial.curve):
            parts.extend(_series(trial.number, trial.curve if most is None else trial.curve.thinned(most)))
    columns = ["number", "step", "epoch", "samples", "lr", "name", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _series(number: int, curve: Curve) -> Iterator[pd.DataFrame]:
    """One frame for each number that a curve holds."""
    where = {"step": curve.steps, "epoch": curve.epochs, "samples": curve.samples, "lr": curve.lrs}
    for name in curve.names:
        held = np.array([name in point.values for point in curve])  # noqa: PD011 -- a curve, not a frame
        columns = {**where, "value": curve.values(name)}
        yield pd.DataFrame({word: column[held] for word, column in columns.items()}).assign(
            number=number, name=storable(name)
        )


@own_errstate()
def verdicts(record: StudyRecord) -> list[Verdict]:
    """The verdict on every trial's curve, in the order of the trials."""
    best, untrained, edge = record.best, baseline_value(record), edge_of(record)
    return [
        judge(
            trial.curve,
            metric=record.metric,
            direction=record.direction,
            epochs=record.epochs,
            lr=trial.recipe.lr,
            outcome=trial.outcome,
            untrained=untrained,
            best_lr=None if best is None else best.recipe.lr,
            edge=edge,
        )
        for trial in record.records
    ]


@own_errstate()
def findings(record: StudyRecord) -> list[Finding]:
    """What the study shows as a whole, the gravest first."""
    seen = [
        Trial(
            lr=trial.recipe.lr,
            value=trial.value,
            outcome=trial.outcome,
            settings={name: getattr(trial.recipe, name) for name in SETTINGS},
        )
        for trial in record.records
    ]
    return judge_study(
        seen,
        direction=record.direction,
        lr_range=record.space.lr_range,
        edge=edge_of(record),
        edge_low=(record.result.get("edge") or {}).get("low"),
        noise=repeat_noise(seen) or _report_noise(record),
        settled=record.result.get("ending") == Ending.SETTLED.key,
        same=_alike(record) if has_no_effect(record) else None,
    )


def _alike(record: StudyRecord) -> Alike | None:
    runs = [(trial.recipe, trial.curve, trial.outcome is Outcome.COMPLETED) for trial in record.records]
    return alike(runs, record.metric, record.space.lr_range)


def has_no_effect(record: StudyRecord) -> bool:
    """Whether the search ended because all runs reported the same numbers, whatever their learning rate."""
    return record.result.get("ending") == Ending.NO_EFFECT.key


def _report_noise(record: StudyRecord) -> float | None:
    """How far one report lies from the next by chance at the end of training: a lower bound for another seed.

    Only the last third counts: a schedule that decays takes the noise with it.
    """
    held = (t.curve.of(record.metric)[1] for t in record.records if t.outcome is Outcome.COMPLETED)
    found = [noise(values[-max(len(values) // 3, FEWEST_FOR_NOISE) :]) for values in held]
    finite = [value for value in found if math.isfinite(value) and value > 0]
    return float(np.median(finite)) if finite else None


@own_errstate()
def timeline(record: StudyRecord) -> pd.DataFrame:
    """One row a piece of training, in the order of time.

    Returns
    -------
    pandas.DataFrame
        ``number``, ``worker``, ``at`` (UTC), ``second`` (since the first piece), ``seconds``, ``begin``, ``end``,
        ``epochs``, ``cost`` (full trainings), ``again`` (epochs that had been trained before), ``why``, ``outcome``,
        ``lr``.
    """
    rows = []
    for trial in record.records:
        reached = 0.0
        for piece in trial.segments:
            again = max(0.0, min(reached, piece.end) - piece.begin)
            reached = max(reached, piece.end)
            rows.append(
                {
                    "number": trial.number,
                    "worker": storable(piece.worker),
                    "at": piece.at,
                    "seconds": piece.seconds,
                    "begin": piece.begin,
                    "end": piece.end,
                    "epochs": piece.epochs,
                    "cost": piece.epochs / record.epochs,
                    "again": again,
                    "why": storable(piece.why),
                    "outcome": outcome_word(trial),
                    "lr": trial.recipe.lr,
                }
            )
    columns = ["number", "worker", "at", "seconds", "begin", "end", "epochs", "cost", "again", "why", "outcome", "lr"]
    frame = pd.DataFrame(rows, columns=columns).sort_values("at", kind="stable", ignore_index=True)
    frame.insert(3, "second", frame["at"] - (frame["at"].min() if len(frame) else 0.0))
    frame["at"] = pd.to_datetime(pd.to_numeric(frame["at"]), unit="s", utc=True)
    return frame


@own_errstate()
def costs(record: StudyRecord) -> pd.DataFrame:
    """What the budget was spent on: one row an outcome, the dearest first.

    Returns
    -------
    pandas.DataFrame
        ``outcome``, ``trials``, ``epochs``, ``cost`` (full trainings), ``share`` (of all that was spent), ``seconds``.
        Epochs that had to be trained a second time are in the row of their trial's outcome.
    """
    rows = [
        (outcome_word(trial), trial.trained, sum(piece.seconds for piece in trial.segments)) for trial in record.records
    ]
    frame = pd.DataFrame(rows, columns=["outcome", "epochs", "seconds"])
    table = frame.groupby("outcome", as_index=False).agg(
        trials=("epochs", "size"), epochs=("epochs", "sum"), seconds=("seconds", "sum")
    )
    table["cost"] = table["epochs"] / record.epochs
    total = float(table["epochs"].sum())
    table["share"] = table["epochs"] / total if total > 0 else 0.0
    return table.sort_values("epochs", ascending=False, ignore_index=True)


def outcome_word(trial: TrialRecord) -> str:
    """How it ended, as one word; ``"open"`` while it may go on."""
    return "open" if trial.outcome is None else trial.outcome.key


def baseline_value(record: StudyRecord) -> float | None:
    """The metric of a model that knows nothing: the better of the untrained one and of a constant prediction."""
    known = [] if record.baseline is None else [record.baseline.untrained, record.baseline.chance]
    finite = [value for value in known if value is not None and math.isfinite(value)]
    return min(finite, key=lambda value: record.sign * value, default=None)


def edge_of(record: StudyRecord) -> float | None:
    """The learning rate at which runs begin to diverge, as the result has it."""
    edge = (record.result.get("edge") or {}).get("lr")
    return None if edge is None else float(edge)


def storable(text: str) -> str:
    """The text without lone surrogates, which pandas cannot hold; they become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _last(trial: TrialRecord, metric: str) -> float:
    values = trial.curve.of(metric)[1]
    return float(values[-1]) if len(values) else math.nan
