"""The course of training: the metric and the loss of each trial by learning rate, and the schedule as applied."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import plotly.graph_objects as go

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Outcome
from lrtune.reporting.diagnosis import verdicts
from lrtune.reporting.figures import theme

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrtune.core.records import StudyRecord, TrialRecord
    from lrtune.reporting.diagnosis import Finding

__all__ = ["curves", "schedule"]

Places: TypeAlias = "list[float] | list[None]"
Trace: TypeAlias = "tuple[str, Callable[[str], Places], go.Scatter]"
"""Its kind (``"held-out"``, ``"train"``, ``"end"`` or ``"scale"``), its abscissas by attribute of a Curve, itself."""

MOST_CURVES = 120
MOST_REPORTS = 80
SMALLEST_SHARE = 1e-3  # of its peak: a schedule that ends at zero would stretch the axis for its last steps
AXES = (("epochs", "epoch"), ("samples", "samples seen"), ("steps", "optimizer steps"))
VIEWS = {"held-out": {"held-out", "end"}, "train": {"train"}, "both": {"held-out", "train", "end"}}


@own_errstate()
def curves(record: StudyRecord, judged: Sequence[Finding] | None = None) -> go.Figure:
    """Loss curves coloured by log lr, by epoch, samples or steps, of the training and the held-out data.

    The value axis ends at the metric of a model that learned nothing, so one exploded trial flattens nothing. The end
    of a paused, pruned or diverged curve carries its mark; the verdict (`judged`, where they are at hand already) shows
    on hover. Above 120 trials the best ones and an even choice over the learning rates are drawn.
    """
    reported = [i for i, trial in enumerate(record.records) if len(trial.curve)]
    chosen = _chosen(record, reported)
    judged = verdicts(record) if judged is None else judged
    drawn = [record.records[i] for i in chosen]
    shown = _range(record, drawn)
    figure = theme.blank(x="epoch", y=record.metric, height=460, yaxis=shown.axis())
    hues = theme.colours([trial.recipe.lr for trial in drawn], record.space.lr_range)
    best = None if record.best is None else record.best.number
    thinned = [dataclasses.replace(trial, curve=trial.curve.thinned(MOST_REPORTS)) for trial in drawn]
    traces: list[Trace] = []
    for trial, hue, index in zip(thinned, hues, chosen, strict=True):
        for name in (record.metric, _train_name(record)):
            if name in trial.curve.names:
                kind = "held-out" if name == record.metric else "train"
                line = _line(trial, name, kind, hue, judged[index], is_best=trial.number == best)
                traces.append((kind, partial(_places, trial, name), line))
    traces += _ends(record.metric, thinned, hues, shown)
    traces.append(("scale", lambda _: [None], _scale(record.space.lr_range)))
    figure.add_traces([trace.update(x=places("epochs")) for _, places, trace in traces])
    note = theme.note(
        len(drawn), len(reported), "curves are drawn: the best, and the rest evenly over the learning rates."
    )
    return figure.update_layout(showlegend=False, meta=note, updatemenus=_menus(traces), margin={"t": 52})


def _chosen(record: StudyRecord, candidates: list[int]) -> list[int]:
    """Indices of the records that are drawn, the best one last so that it lies on top."""
    answer = record.best
    return sorted(theme.chosen(record, candidates, MOST_CURVES), key=lambda i: record.records[i] is answer)


def _range(record: StudyRecord, trials: Sequence[TrialRecord]) -> theme.AxisRange:
    parts = [trial.curve.of(record.metric)[1] for trial in trials if not trial.diverged]
    return theme.robust(np.concatenate([np.array([]), *parts]), sign=record.sign, worst=record.untrained)


def _train_name(record: StudyRecord) -> str | None:
    """The training series of the metric's kind: ``train_loss`` beside a loss, ``train_accuracy`` beside an accuracy."""
    names = dict.fromkeys(name for trial in record.records[:50] for name in trial.curve.names)
    kind = record.metric.rpartition("_")[2]
    return next((n for n in names if n.startswith("train") and n != record.metric and n.endswith(kind)), None)


def _places(trial: TrialRecord, name: str, axis: str) -> list[float]:
    """Where a series was reported: an attribute of the curve (``"epochs"``, ``"samples"`` or ``"steps"``)."""
    reported = np.array([name in point.values for point in trial.curve])
    return [float(f"{value:.6g}") for value in getattr(trial.curve, axis)[reported]]


def _line(trial: TrialRecord, name: str, kind: str, hue: str, verdict: Finding, *, is_best: bool) -> go.Scatter:
    ending = "paused or running" if trial.outcome is None else trial.outcome.value
    shown = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items() if k != "lr"]
    return go.Scatter(
        y=[float(f"{v:.5g}") if math.isfinite(v) else None for v in trial.curve.of(name)[1]],
        mode="lines" if len(trial.curve) > 1 else "markers",
        line={"color": hue, "width": 3 if is_best else 1.4, "dash": "dot" if kind == "train" else "solid"},
        opacity=1.0 if is_best else 0.75,
        visible=kind != "train",
        hovertemplate=f"{theme.label(name, 30)} %{{y:.4g}}<br>"
        + theme.hover(
            f"trial {trial.number}{' (the answer)' if is_best else ''}: "
            f"lr {trial.recipe.lr:.3g}, {', '.join(shown) or 'nothing else searched'}",
            ending,
            f"{verdict.kind.value}: {verdict.why}",
        ),
    )


def _ends(metric: str, drawn: Sequence[TrialRecord], hues: Sequence[str], shown: theme.AxisRange) -> Iterator[Trace]:
    """Marks where curves ended before their time, one trace an outcome."""
    for outcome, style in theme.OUTCOMES.items():
        ended = [
            (trial, hue)
            for trial, hue in zip(drawn, hues, strict=True)
            if trial.outcome_key == outcome != Outcome.COMPLETED.key and metric in trial.curve.names
        ]
        if not ended:
            continue
        trials = [trial for trial, _ in ended]
        own = [hue for _, hue in ended]
        trace = go.Scatter(
            y=[float(f"{y:.5g}") for y in shown.clip(np.array([t.curve.of(metric)[1][-1] for t in trials]))],
            mode="markers",
            name=style.name,
            marker={"symbol": style.symbol, "size": 8, "color": own, "line": {"width": 1.5, "color": own}},
            hovertemplate=[theme.hover(f"trial {t.number}: lr {t.recipe.lr:.3g}", style.name, t.why) for t in trials],
        )
        yield "end", partial(_last_places, trials, metric), trace


def _last_places(trials: Sequence[TrialRecord], metric: str, axis: str) -> list[float]:
    return [_places(trial, metric, axis)[-1] for trial in trials]


def _scale(lr_range: tuple[float, float]) -> go.Scatter:
    """A trace without points, for the colour bar of the learning rates."""
    low, high = (math.log10(end) for end in lr_range)
    bar = {"showscale": True, "colorbar": theme.colorbar("learning rate", *theme.decades(low, high))}
    marker = {"color": [low], "cmin": low, "cmax": high, "colorscale": theme.SCALE, **bar}
    return go.Scatter(y=[None], mode="markers", hoverinfo="skip", marker=marker)


def _menus(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Buttons: the horizontal axis, and which of the two series."""
    by_axis = []
    for axis, word in AXES:
        places = [at(axis) for _, at, _ in traces]
        if axis == "epochs" or any(place for trace in places for place in trace):
            by_axis.append({"label": word, "method": "update", "args": [{"x": places}, {"xaxis.title.text": word}]})
    menus = [_menu(by_axis, 0.0)]
    if any(kind == "train" for kind, _, _ in traces):
        by_series = []
        for word, on in VIEWS.items():
            visible = [kind in {*on, "scale"} for kind, _, _ in traces]
            by_series.append({"label": word, "method": "restyle", "args": [{"visible": visible}]})
        menus.append(_menu(by_series, 0.52))
    return menus


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
    known = [i for i, trial in enumerate(record.records) if np.isfinite(trial.curve.lrs).sum() > 1]
    trials = [record.records[i] for i in _chosen(record, known)]
    figure = theme.blank(x="epoch", y="learning rate as applied", height=340)
    hues = theme.colours([trial.recipe.lr for trial in trials], record.space.lr_range)
    applied: list[float] = []
    answer = record.best
    for trial, hue in zip(trials, hues, strict=True):
        is_best, recipe, curve = trial is answer, trial.recipe, trial.curve.thinned(MOST_REPORTS)
        lrs = [float(f"{lr:.4g}") if lr > SMALLEST_SHARE * recipe.lr else None for lr in curve.lrs]
        applied += [lr for lr in lrs if lr is not None]
        hover = theme.hover(
            f"trial {trial.number}: peak {recipe.lr:.3g}", f"{recipe.schedule}, warmup {recipe.warmup:g}"
        )
        figure.add_trace(
            go.Scatter(
                x=curve.epochs.round(4).tolist(),
                y=lrs,
                mode="lines",
                line={"color": hue, "width": 3.5 if is_best else 1.1},
                opacity=1.0 if is_best else 0.5,
                hovertemplate=f"lr %{{y:.3g}}<br>{hover}",
            )
        )
    if applied:
        figure.update_yaxes(**theme.AxisRange(low=min(applied), high=max(*applied, 2 * min(applied)), log=True).axis())
    note = theme.note(len(trials), len(known), "schedules are drawn.")
    return figure.update_layout(showlegend=False, meta=note)
