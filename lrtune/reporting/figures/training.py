"""What happened during training: the loss curves by learning rate, and the schedule as it was applied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Outcome
from lrtune.reporting.figures import theme
from lrtune.reporting.tables.trials import baseline_value, outcome_word
from lrtune.reporting.tables.trials import verdicts as all_verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.curve import Curve
    from lrtune.core.records import StudyRecord, TrialRecord
    from lrtune.reporting.diagnosis import Verdict

__all__ = ["curves", "schedule"]

MOST_CURVES = 120
MOST_REPORTS = 80
SMALLEST_SHARE = 1e-3  # of its peak: a schedule that ends at zero would stretch the axis for its last steps
AXES = (("epochs", "epoch"), ("samples", "samples seen"), ("steps", "optimizer steps"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """One run as it is drawn."""

    trial: TrialRecord
    curve: Curve
    hue: str
    verdict: Verdict
    is_best: bool


@own_errstate()
def curves(record: StudyRecord, judged: Sequence[Verdict] | None = None) -> go.Figure:
    """Loss curves coloured by log lr, by epoch, samples seen or steps, train and held-out.

    The value axis ends at the level of knowing nothing, so one exploded trial flattens nothing. The end of a paused,
    pruned or diverged curve carries its mark; the verdict shows on hover. Above 120 trials the best ones and an even
    choice over the learning rates are drawn.

    Parameters
    ----------
    record
        The study.
    judged
        The verdicts on its curves, where they are at hand already.
    """
    held = [i for i, trial in enumerate(record.records) if len(trial.curve)]
    drawn = _drawn(record, _chosen(record, held), list(all_verdicts(record)) if judged is None else judged)
    shown = _range(record, [run.trial for run in drawn])
    figure = theme.blank(x="epoch", y=record.metric, height=460, yaxis=shown.axis())
    series = [name for name in (record.metric, _train_name(record)) if name is not None]
    kinds: list[str] = []
    for run in drawn:
        for name in series:
            if name in run.curve.names:
                figure.add_trace(_line(record, run, name))
                kinds.append("held" if name == record.metric else "train")
    for kind, trace in _ends(record, drawn, shown):
        figure.add_trace(trace)
        kinds.append(kind)
    figure.add_trace(_scale(record.space.lr_range))
    kinds.append("scale")
    _menus(figure, kinds, drawn, series)
    note = f"{len(drawn)} of {len(held):,} curves are drawn: the best, and the rest evenly over the learning rates."
    figure.update_layout(showlegend=False, meta={"note": note if len(drawn) < len(held) else ""})
    return figure


def _drawn(record: StudyRecord, chosen: Sequence[int], judged: Sequence[Verdict]) -> list[_Drawn]:
    trials = [record.records[i] for i in chosen]
    hues = theme.colours([trial.recipe.lr for trial in trials], record.space.lr_range)
    answer = record.best
    return [
        _Drawn(
            trial=trial,
            curve=trial.curve.thinned(MOST_REPORTS),
            hue=hue,
            verdict=judged[index],
            is_best=trial is answer,
        )
        for trial, hue, index in zip(trials, hues, chosen, strict=True)
    ]


def _chosen(record: StudyRecord, held: list[int]) -> list[int]:
    """Indices of the records that are drawn, the best one last so that it lies on top."""
    answer = record.best
    by_lr = sorted(held, key=lambda i: record.records[i].recipe.lr)
    done = [i for i in held if record.records[i].value is not None]
    best = sorted(done, key=lambda i: record.sign * float(record.records[i].value or 0.0))
    place = {index: where for where, index in enumerate(by_lr)}
    kept = theme.thinned(len(by_lr), MOST_CURVES, [place[i] for i in best[: MOST_CURVES // 3]])
    chosen = [by_lr[where] for where in kept]
    winner = next((i for i in chosen if record.records[i] is answer), None)
    return chosen if winner is None else [*(i for i in chosen if i != winner), winner]


def _range(record: StudyRecord, trials: Sequence[TrialRecord]) -> theme.AxisRange:
    parts = [t.curve.of(record.metric)[1] for t in trials if not (t.outcome is not None and t.outcome.diverged)]
    return theme.robust(np.concatenate([np.array([]), *parts]), sign=record.sign, worst=baseline_value(record))


def _train_name(record: StudyRecord) -> str | None:
    """The training series of the metric's kind: ``train_loss`` beside a loss, ``train_accuracy`` beside an accuracy."""
    names = dict.fromkeys(name for trial in record.records[:50] for name in trial.curve.names)
    kind = record.metric.rpartition("_")[2]
    return next((n for n in names if n.startswith("train") and n != record.metric and n.endswith(kind)), None)


def _places(curve: Curve, name: str, axis: str) -> list[float]:
    held = np.array([name in point.values for point in curve])
    return [float(f"{value:.6g}") for value in getattr(curve, axis)[held]]


def _line(record: StudyRecord, run: _Drawn, name: str) -> go.Scatter:
    trial, is_train = run.trial, name != record.metric
    ending = "paused or running" if trial.outcome is None else trial.outcome.value
    return go.Scatter(
        x=_places(run.curve, name, "epochs"),
        y=[float(f"{v:.5g}") if math.isfinite(v) else None for v in run.curve.of(name)[1]],
        mode="lines" if len(run.curve) > 1 else "markers",
        line={"color": run.hue, "width": 3 if run.is_best else 1.4, "dash": "dot" if is_train else "solid"},
        opacity=1.0 if run.is_best else 0.75,
        visible=not is_train,
        hovertemplate=f"{theme.label(name, 30)} %{{y:.4g}}<br>"
        + theme.hover(
            f"trial {trial.number}{' (the answer)' if run.is_best else ''}: "
            f"lr {trial.recipe.lr:.3g}, {_settings(trial)}",
            ending,
            f"{run.verdict.kind.value}: {run.verdict.why}",
        ),
    )


def _settings(trial: TrialRecord) -> str:
    shown = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items() if k != "lr"]
    return ", ".join(shown) or "nothing else searched"


def _ends(record: StudyRecord, drawn: Sequence[_Drawn], shown: theme.AxisRange) -> list[tuple[str, go.Scatter]]:
    """Marks where curves ended before their time, one trace an outcome, named ``end:`` and the outcome's word."""
    found = []
    for outcome, look in theme.OUTCOMES.items():
        runs = _ended(drawn, outcome, record.metric)
        if outcome == Outcome.COMPLETED.key or not runs:
            continue
        heights = shown.clip(np.array([run.curve.of(record.metric)[1][-1] for run in runs]))
        hues = [run.hue for run in runs]
        trace = go.Scatter(
            x=[_places(run.curve, record.metric, "epochs")[-1] for run in runs],
            y=[float(f"{height:.5g}") for height in heights],
            mode="markers",
            name=look.name,
            marker={"symbol": look.symbol, "size": 8, "color": hues, "line": {"width": 1.5, "color": hues}},
            hovertemplate=[
                theme.hover(f"trial {run.trial.number}: lr {run.trial.recipe.lr:.3g}", look.name, run.trial.why)
                for run in runs
            ],
        )
        found.append((f"end:{outcome}", trace))
    return found


def _ended(drawn: Sequence[_Drawn], outcome: str, metric: str) -> list[_Drawn]:
    return [run for run in drawn if outcome_word(run.trial) == outcome and metric in run.curve.names]


def _scale(lr_range: tuple[float, float]) -> go.Scatter:
    low, high = (math.log10(end) for end in lr_range)
    ticks, texts = theme.decades(low, high)
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        hoverinfo="skip",
        marker={
            "color": [low],
            "cmin": low,
            "cmax": high,
            "colorscale": theme.SCALE,
            "showscale": True,
            "colorbar": {
                "title": {"text": "learning rate", "side": "right", "font": {"size": 11}},
                "tickvals": ticks,
                "ticktext": texts,
                "thickness": 10,
                "outlinewidth": 0,
                "len": 0.9,
            },
        },
    )


def _menus(figure: go.Figure, kinds: Sequence[str], drawn: Sequence[_Drawn], series: Sequence[str]) -> None:
    """Buttons: the horizontal axis, and which of the two series."""
    by_axis = []
    for axis, word in AXES:
        places = _all_places(kinds, drawn, series, axis)
        if axis == "epochs" or any(place for trace in places for place in trace):
            by_axis.append({"label": word, "method": "update", "args": [{"x": places}, {"xaxis.title.text": word}]})
    menus = [_menu(by_axis, 0.0)]
    if "train" in kinds:
        views: dict[str, Any] = {"held-out": {"held", "end"}, "train": {"train"}, "both": {"held", "train", "end"}}
        by_series = []
        for word, on in views.items():
            visible = [kind.partition(":")[0] in {*on, "scale"} for kind in kinds]
            by_series.append({"label": word, "method": "restyle", "args": [{"visible": visible}]})
        menus.append(_menu(by_series, 0.52))
    figure.update_layout(updatemenus=menus, margin={"t": 52})


def _all_places(
    kinds: Sequence[str], drawn: Sequence[_Drawn], series: Sequence[str], axis: str
) -> list[list[float] | list[None]]:
    """Where every trace lies on an axis, in the order of the traces."""
    metric = series[0]
    places: list[list[float] | list[None]] = [
        _places(run.curve, name, axis) for run in drawn for name in series if name in run.curve.names
    ]
    for kind in kinds[len(places) :]:
        if kind == "scale":
            places.append([None])
        else:
            ended = _ended(drawn, kind.partition(":")[2], metric)
            places.append([_places(run.curve, metric, axis)[-1] for run in ended])
    return places


def _menu(buttons: list[dict[str, Any]], x: float) -> dict[str, Any]:
    return {
        "type": "buttons",
        "direction": "right",
        "buttons": buttons,
        "x": x,
        "xanchor": "left",
        "y": 1.03,
        "yanchor": "bottom",
        "pad": {"t": 0, "b": 4, "l": 0, "r": 0},
        "font": {"size": 11},
        "bgcolor": "rgba(128,136,150,0.12)",
        "bordercolor": theme.GRID,
        "borderwidth": 1,
        "showactive": True,
    }


@own_errstate()
def schedule(record: StudyRecord) -> go.Figure:
    """The learning rate as it was applied, step by step, coloured by its peak; the answer's drawn thick."""
    held = [i for i, trial in enumerate(record.records) if np.isfinite(trial.curve.lrs).sum() > 1]
    chosen = _chosen(record, held)
    trials = [record.records[i] for i in chosen]
    figure = theme.blank(x="epoch", y="learning rate as applied", height=340)
    hues = theme.colours([trial.recipe.lr for trial in trials], record.space.lr_range)
    applied: list[float] = []
    answer = record.best
    for trial, hue in zip(trials, hues, strict=True):
        curve = trial.curve.thinned(MOST_REPORTS)
        lrs = [float(f"{lr:.4g}") if lr > SMALLEST_SHARE * trial.recipe.lr else None for lr in curve.lrs]
        applied += [lr for lr in lrs if lr is not None]
        figure.add_trace(
            go.Scatter(
                x=curve.epochs.round(4).tolist(),
                y=lrs,
                mode="lines",
                line={"color": hue, "width": 3.5 if trial is answer else 1.1},
                opacity=1.0 if trial is answer else 0.5,
                hovertemplate="lr %{y:.3g}<br>"
                + theme.hover(
                    f"trial {trial.number}: peak {trial.recipe.lr:.3g}",
                    f"{trial.recipe.schedule}, warmup {trial.recipe.warmup:g}",
                ),
            )
        )
    if applied:
        figure.update_yaxes(**theme.AxisRange(low=min(applied), high=max(*applied, 2 * min(applied)), log=True).axis())
    note = f"{len(chosen)} of {len(held):,} schedules are drawn." if len(chosen) < len(held) else ""
    figure.update_layout(showlegend=False, meta={"note": note})
    return figure
