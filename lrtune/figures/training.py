"""What happened during training: the loss curves by learning rate, and the schedule as it was applied."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from lrtune.analysis.tables import baseline_value, outcome_word
from lrtune.analysis.tables import verdicts as all_verdicts
from lrtune.figures import theme
from lrtune.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.curve import Curve
    from lrtune.diagnosis import Verdict
    from lrtune.records import Record, StudyRecord

__all__ = ["curves", "schedule"]

MOST_CURVES = 120
MOST_REPORTS = 80
AXES = (("epochs", "epoch"), ("samples", "samples seen"), ("steps", "optimizer steps"))


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
    chosen = _chosen(record, held)
    judged = list(all_verdicts(record)) if judged is None else judged
    trials = [record.records[i] for i in chosen]
    shown, answer = _range(record, trials), record.best
    figure = theme.blank(x="epoch", y=record.metric, height=460, yaxis=shown.axis())
    hues = theme.colours([trial.recipe.lr for trial in trials], record.space.lr_range)
    kinds: list[str] = []
    train = _train_name(record)
    thin = [trial.curve.thinned(MOST_REPORTS) for trial in trials]
    for trial, curve, hue, index in zip(trials, thin, hues, chosen, strict=True):
        if record.metric in curve.names:
            figure.add_trace(_line(record, trial, curve, record.metric, hue, judged[index], trial is answer))
            kinds.append("held")
        if train is not None and train in curve.names:
            figure.add_trace(_line(record, trial, curve, train, hue, judged[index], trial is answer))
            kinds.append("train")
    for name, trace in _ends(record, trials, thin, hues, shown):
        figure.add_trace(trace)
        kinds.append(name)
    figure.add_trace(_scale(record.space.lr_range))
    kinds.append("scale")
    _menus(figure, kinds, thin, trials, record, train)
    note = (
        f"{len(chosen)} of {len(held):,} curves are drawn: the best ones, and the rest evenly over the learning rates."
    )
    figure.update_layout(showlegend=False, meta={"note": note if len(chosen) < len(held) else ""})
    return figure


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


def _range(record: StudyRecord, trials: Sequence[Record]) -> theme.Range:
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


def _line(
    record: StudyRecord, trial: Record, curve: Curve, name: str, hue: str, verdict: Verdict, is_best: bool
) -> go.Scatter:
    is_train = name != record.metric
    ending = "paused or running" if trial.outcome is None else trial.outcome.value
    return go.Scatter(
        x=_places(curve, name, "epochs"),
        y=[float(f"{v:.5g}") if math.isfinite(v) else None for v in curve.of(name)[1]],
        mode="lines" if len(curve) > 1 else "markers",
        line={"color": hue, "width": 3 if is_best else 1.4, "dash": "dot" if is_train else "solid"},
        opacity=1.0 if is_best else 0.75,
        visible=not is_train,
        hovertemplate=f"{theme.label(name, 30)} %{{y:.4g}}<br>"
        + theme.hover(
            f"trial {trial.number}{' (the answer)' if is_best else ''}: lr {trial.recipe.lr:.3g}, {_settings(trial)}",
            ending,
            f"{verdict.kind.value}: {verdict.why}"[:160],
        ),
    )


def _settings(trial: Record) -> str:
    shown = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items() if k != "lr"]
    return ", ".join(shown) or "nothing else searched"


def _ends(
    record: StudyRecord, trials: Sequence[Record], thin: Sequence[Curve], hues: Sequence[str], shown: theme.Range
) -> list[tuple[str, go.Scatter]]:
    """Marks where curves ended before their time, one trace an outcome."""
    found = []
    for outcome, look in theme.OUTCOMES.items():
        rows = [
            (t, c.of(record.metric), hue)
            for t, c, hue in zip(trials, thin, hues, strict=True)
            if outcome_word(t) == outcome and t.outcome is not Outcome.COMPLETED and record.metric in c.names
        ]
        if not rows:
            continue
        heights = shown.clip(record.sign * np.array([record.sign * values[-1] for _, (_, values), _ in rows]))
        trace = go.Scatter(
            x=[float(epochs[-1]) for _, (epochs, _), _ in rows],
            y=[float(f"{h:.5g}") for h in heights],
            mode="markers",
            name=look.name,
            marker={
                "symbol": look.symbol,
                "size": 8,
                "color": [h for *_, h in rows],
                "line": {"width": 1.5, "color": [h for *_, h in rows]},
            },
            hovertemplate=[theme.hover(f"trial {t.number}: lr {t.recipe.lr:.3g}", look.name, t.why) for t, *_ in rows],
        )
        found.append((f"end:{outcome}", trace))
    return found


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


def _menus(
    figure: go.Figure,
    kinds: list[str],
    thin: Sequence[Curve],
    trials: Sequence[Record],
    record: StudyRecord,
    train: str | None,
) -> None:
    """Buttons: the horizontal axis, and which of the two series."""
    places = {axis: _all_places(kinds, thin, trials, record, train, axis) for axis, _ in AXES}
    counted = [
        (axis, word) for axis, word in AXES if axis == "epochs" or any(any(x for x in p if x) for p in places[axis])
    ]
    by_axis = [
        {"label": word, "method": "update", "args": [{"x": places[axis]}, {"xaxis.title.text": word}]}
        for axis, word in counted
    ]
    menus = [_menu(by_axis, 0.0)]
    if "train" in kinds:
        views: dict[str, Any] = {"held-out": {"held", "end"}, "train": {"train"}, "both": {"held", "train", "end"}}
        by_series = [
            {
                "label": word,
                "method": "restyle",
                "args": [{"visible": [k.partition(":")[0] in {*on, "scale"} for k in kinds]}],
            }
            for word, on in views.items()
        ]
        menus.append(_menu(by_series, 0.52))
    figure.update_layout(updatemenus=menus, margin={"t": 52})


def _all_places(
    kinds: list[str], thin: Sequence[Curve], trials: Sequence[Record], record: StudyRecord, train: str | None, axis: str
) -> list[list[float] | list[None]]:
    lines: list[list[float] | list[None]] = []
    for curve in thin:
        lines.extend(
            _places(curve, name, axis) for name in (record.metric, train) if name is not None and name in curve.names
        )
    for kind in kinds[len(lines) :]:
        if kind == "scale":
            lines.append([None])
            continue
        outcome = kind.partition(":")[2]
        ended = [
            c for t, c in zip(trials, thin, strict=True) if outcome_word(t) == outcome and record.metric in c.names
        ]
        lines.append([_places(curve, record.metric, axis)[-1] for curve in ended])
    return lines


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
        lrs = [float(f"{lr:.4g}") if math.isfinite(lr) and lr > 0 else None for lr in curve.lrs]
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
        # A schedule that ends at zero would stretch the axis for its last report.
        low = max(min(applied), record.space.lr_range[0] / 100)
        figure.update_yaxes(**theme.Range(low=low, high=max(*applied, 2 * low), log=True).axis())
    note = f"{len(chosen)} of {len(held):,} schedules are drawn." if len(chosen) < len(held) else ""
    figure.update_layout(showlegend=False, meta={"note": note})
    return figure
