"""Figures of several settings together: contour of lr and batch size, slices, and parallel coordinates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting.figures import theme
from lrtune.reporting.tables.joint import batch_exponent
from lrtune.reporting.tables.trials import score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.records import StudyRecord, TrialRecord

__all__ = ["contour", "label_of", "parallel", "slices"]

Floats: TypeAlias = npt.NDArray[np.float64]

GOOD_TO_BAD = [[0.0, "#4db3a9"], [0.35, "#a9d0c0"], [0.7, "#e2dccd"], [1.0, "#d9a780"]]
MOST_POINTS = 1500
MOST_LINES = 300
HUES = 12  # lines of parallel coordinates share this many colours, one trace each
FEW_LEVELS = 12


@own_errstate()
def contour(record: StudyRecord) -> go.Figure | None:
    """Result over learning rate and batch size, the fitted scaling line and the two rules; None without batch sizes.

    Between trials it is interpolated over log lr and log batch; diverged trials count with the untrained level.
    """
    trials = [
        t for t in record.records if t.params.get("batch_size") is not None and not math.isnan(_height(t, record))
    ]
    heights = np.array([_height(t, record) for t in trials])
    x = np.array([math.log10(t.recipe.lr) for t in trials])
    y = np.array([math.log10(t.params["batch_size"]) for t in trials])
    if len(np.unique(y)) < 2 or len(np.unique(x)) < 3:  # noqa: PLR2004 -- no plane through a line
        return None
    lr_axis = theme.log_ticks(*record.space.lr_range)
    batches = sorted({t.params["batch_size"] for t in trials})
    batch_axis: dict[str, Any] = {"type": "log"}
    if len(batches) <= FEW_LEVELS:
        batch_axis |= {"tickvals": batches, "ticktext": [f"{b:g}" for b in batches]}
    figure = theme.blank(x="learning rate", y="batch size", height=440, xaxis=lr_axis, yaxis=batch_axis)
    shown = theme.robust(heights, sign=record.sign, worst=record.untrained)
    figure.add_trace(_surface(x, y, shown.clip(heights), record, shown))
    figure.add_trace(_dots([trials[i] for i in theme.thinned(len(trials), MOST_POINTS)], record))
    figure.add_traces(_lines(record, y))
    return figure.update_yaxes(range=[y.min() - 0.08 * np.ptp(y), y.max() + 0.08 * np.ptp(y)])


def _height(trial: TrialRecord, record: StudyRecord) -> float:
    """The result in the metric's own sign; the untrained level, where it is known, of what diverged."""
    if trial.outcome is None:
        return math.nan
    if trial.diverged and record.untrained is not None:
        return record.untrained
    return record.sign * score(trial, record)


def _surface(x: Floats, y: Floats, z: Floats, record: StudyRecord, shown: theme.AxisRange) -> go.Contour:
    from scipy.interpolate import griddata  # a third of a report's imports, where most need none of it

    # The lower envelope: the better one of neighbours in a cell, or pruned trials would hide the good ones.
    cells: dict[tuple[int, float], float] = {}
    for log_lr, log_batch, height in zip(x, y, z, strict=True):
        key = (round(log_lr * 6), round(log_batch, 2))
        cells[key] = record.sign * min(record.sign * height, record.sign * cells.get(key, height))
    places = np.array([(lr / 6, batch) for lr, batch in cells])
    heights = np.array(list(cells.values()))
    if shown.log:
        heights = np.log10(heights)
    grid_x, grid_y = np.linspace(x.min(), x.max(), 60), np.linspace(y.min(), y.max(), 30)
    spread = np.array([np.ptp(x), np.ptp(y)])
    mesh = np.stack(np.meshgrid(grid_x, grid_y), axis=-1) / spread
    surface = griddata(places / spread, heights, mesh, method="nearest")
    if len(places) >= 4:  # noqa: PLR2004 -- a triangulation needs as many
        linear = griddata(places / spread, heights, mesh, method="linear", rescale=False)
        surface = np.where(np.isnan(linear), surface, linear)
    ticks = np.linspace(surface.min(), surface.max(), 4)
    return go.Contour(
        x=(10**grid_x).tolist(),
        y=(10**grid_y).tolist(),
        z=np.round(surface, 4).tolist(),
        colorscale=GOOD_TO_BAD,
        reversescale=record.sign < 0,
        ncontours=12,
        contours={"coloring": "fill", "showlines": False},
        hoverinfo="skip",
        colorbar=theme.colorbar(
            theme.label(record.metric, 30),
            ticks.tolist(),
            [theme.number(10**t if shown.log else t, 2) for t in ticks],
        ),
    )


def _dots(trials: Sequence[TrialRecord], record: StudyRecord) -> go.Scatter:
    styles = [theme.OUTCOMES[t.outcome_key] for t in trials]
    return go.Scatter(
        x=[t.recipe.lr for t in trials],
        y=[t.params["batch_size"] for t in trials],
        mode="markers",
        showlegend=False,
        marker={
            "symbol": [style.symbol for style in styles],
            "color": theme.INK,
            "size": 5,
            "opacity": 0.7,
            "line": {"width": 1, "color": theme.INK},
        },
        hovertemplate=[
            theme.hover(
                f"trial {t.number}: lr {t.recipe.lr:.3g}, batch {t.params['batch_size']:g}",
                f"{record.metric} {theme.number(t.value)}",
                style.name,
            )
            for t, style in zip(trials, styles, strict=True)
        ],
    )


def _lines(record: StudyRecord, y: Floats) -> list[go.Scatter]:
    fitted = batch_exponent(record)
    ends = np.array([y.min(), y.max()])
    traces = []
    styles = {
        "fitted": (3.0, "solid", theme.EDGE),
        "linear": (1.5, "dash", theme.INK),
        "square root": (1.5, "dot", theme.INK),
    }
    for rule in theme.rows(fitted):
        width, dash, colour = styles[rule.rule]
        name = (
            f"fitted: lr ~ batch^{rule.p:.2f}  [{rule.low:.2f}, {rule.high:.2f}]"
            if rule.rule == "fitted"
            else rule.rule
        )
        traces.append(
            go.Scatter(
                x=(10 ** (rule.intercept + rule.p * ends)).tolist(),
                y=(10**ends).tolist(),
                mode="lines",
                name=name,
                line={"width": width, "dash": dash, "color": colour},
                hoverinfo="name",
            )
        )
    return traces


@own_errstate()
def slices(record: StudyRecord) -> go.Figure | None:
    """Result over each searched setting but the learning rate, coloured by it; None where there is none."""
    names = [name for name in record.space.names if name != "lr"]
    trials = [t for t in record.records if t.completed]
    if not names or not trials:
        return None
    trials = [trials[i] for i in theme.thinned(len(trials), MOST_POINTS // len(names))]
    values = np.array([t.value for t in trials], dtype=np.float64)
    shown = theme.robust(values, sign=record.sign, worst=record.untrained)
    figure = make_subplots(rows=1, cols=len(names), shared_yaxes=True, horizontal_spacing=0.03)
    base = theme.blank(x="", y=record.metric, height=340)
    figure.update_layout(base.layout)
    hues = theme.colours([t.recipe.lr for t in trials], record.space.lr_range)
    jitter = np.random.default_rng(0).uniform(-0.18, 0.18, size=len(trials))
    for column, name in enumerate(names, start=1):
        places, axis = _axis([t.params.get(name) for t in trials])
        figure.add_trace(
            go.Scatter(
                x=(places + (jitter if "tickvals" in axis else 0)).round(5).tolist(),
                y=[float(f"{v:.5g}") for v in shown.clip(values)],
                mode="markers",
                marker={"color": hues, "size": 7, "opacity": 0.8},
                showlegend=False,
                hovertemplate=[
                    theme.hover(
                        f"trial {t.number}: lr {t.recipe.lr:.3g}",
                        f"{name} {t.params.get(name)}",
                        f"{record.metric} {t.value:.4g}",
                    )
                    for t in trials
                ],
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(theme.AXIS | axis, title_text=label_of(name), row=1, col=column)
    figure.update_yaxes(theme.AXIS | shown.axis())
    figure.update_yaxes(title_text=theme.label(record.metric), row=1, col=1)
    return figure


def label_of(name: str) -> str:
    """A setting's name as people write it."""
    return theme.label({"lr": "learning rate", "batch_size": "batch size"}.get(name, name.replace("_", " ")))


def _axis(values: Sequence[Any]) -> tuple[Floats, dict[str, Any]]:
    """Where values lie on an axis, and the axis: few levels are placed side by side, ranges stay numbers."""
    distinct = sorted({v for v in values if v is not None}, key=lambda v: (isinstance(v, str), v))
    if len(distinct) <= FEW_LEVELS:
        place = {value: float(i) for i, value in enumerate(distinct)}
        texts = [theme.label(f"{v:g}" if isinstance(v, int | float) else v, 24) for v in distinct]
        axis = {"tickvals": list(place.values()), "ticktext": texts, "range": [-0.6, len(distinct) - 0.4]}
        return np.array([place.get(v, math.nan) for v in values]), axis
    numbers = np.array([math.nan if v is None else float(v) for v in values])
    log = bool(np.nanmin(numbers) > 0 and np.nanmax(numbers) / np.nanmin(numbers) > 20)  # noqa: PLR2004 -- said by the expression itself
    return numbers, {"type": "log"} if log else {}


@own_errstate()
def parallel(record: StudyRecord) -> go.Figure | None:
    """Every trial as a line across its settings to its result, coloured by log lr; None with fewer than two settings.

    Drawn as plain lines: plotly's own parallel coordinates need WebGL and the right to evaluate code.
    """
    names = list(record.space.names)
    trials = [t for t in record.records if not math.isnan(_height(t, record))]
    if len(names) < 2 or len(trials) < 2:  # noqa: PLR2004 -- said by the expression itself
        return None
    trials.sort(key=lambda trial: record.sign * _height(trial, record))
    drawn = [trials[i] for i in theme.thinned(len(trials), MOST_LINES, range(MOST_LINES // 3))]
    heights = np.array([_height(t, record) for t in drawn])
    shown = theme.robust(heights, sign=record.sign, worst=record.untrained)
    columns = [_share([t.params.get(name) for t in drawn]) for name in names]
    clipped = shown.clip(heights)
    low, high = (math.log10(shown.low), math.log10(shown.high)) if shown.log else (shown.low, shown.high)
    share = ((np.log10(clipped) if shown.log else clipped) - low) / (high - low)
    marks = [
        (float(v), theme.number(10 ** (low + v * (high - low)) if shown.log else low + v * (high - low), 2))
        for v in (0, 0.5, 1)
    ]
    columns.append((share, marks))
    figure = theme.blank(x="", y="", height=400, xaxis={"range": [-0.25, len(columns) - 0.72], "showgrid": False})
    _draw_lines(figure, drawn, np.stack([places for places, _ in columns]), record)
    for at, (_, ticks) in enumerate(columns):
        figure.add_vline(x=at, line={"color": theme.MUTED, "width": 1})
        for height, text in ticks:
            figure.add_annotation(
                x=at,
                y=height,
                text=text,
                name="tick",
                xanchor="left",
                xshift=4,
                showarrow=False,
                font={"size": 11},
                bgcolor="rgba(255,255,255,0.8)",
                borderpad=1,
            )
    texts = [*("lr" if name == "lr" else label_of(name) for name in names), theme.label(record.metric, 24)]
    figure.update_xaxes(tickvals=list(range(len(texts))), ticktext=texts, side="top", ticks="", showline=False)
    figure.update_yaxes(visible=False, range=[-0.06, 1.06])
    note = theme.note(len(drawn), len(trials), "trials are drawn: the best ones, and the rest evenly.")
    return figure.update_layout(showlegend=False, margin={"l": 24, "t": 40, "b": 16}, meta=note)


def _share(values: Sequence[Any]) -> tuple[Floats, list[tuple[float, str]]]:
    """Where values lie on a unit axis, and its ticks."""
    places, axis = _axis(values)
    if "tickvals" in axis:
        last = max(len(axis["tickvals"]) - 1, 1)
        return places / last, [(t / last, text) for t, text in zip(axis["tickvals"], axis["ticktext"], strict=True)]
    numbers = np.log10(places) if axis.get("type") == "log" else places
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    span = high - low or 1.0
    if axis.get("type") == "log":
        ticks, texts = theme.decades(low, high)
        return (numbers - low) / span, [((t - low) / span, text) for t, text in zip(ticks, texts, strict=True)]
    return (numbers - low) / span, [(s, theme.number(low + s * span, 2)) for s in (0.0, 0.5, 1.0)]


def _draw_lines(figure: go.Figure, drawn: Sequence[TrialRecord], places: Floats, record: StudyRecord) -> None:
    """Lines of shape (columns, trials), slightly spread where settings coincide, a trace for every colour."""
    coincide = np.array([float(len(np.unique(column)) <= FEW_LEVELS) for column in places])  # many trials share a place
    spread = np.random.default_rng(0).uniform(-0.03, 0.03, size=places.shape) * coincide[:, None]
    low, high = (math.log10(end) for end in record.space.lr_range)
    at = np.array([(math.log10(t.recipe.lr) - low) / max(high - low, 1e-9) for t in drawn])
    bins = np.clip((at * HUES).astype(int), 0, HUES - 1)
    hues = theme.colours(10 ** (low + (np.arange(HUES) + 0.5) / HUES * (high - low)), record.space.lr_range)
    for hue in range(HUES):
        rows = np.flatnonzero(bins == hue)
        x = [*range(len(places)), None] * len(rows)
        y: list[float | None] = []
        for row in rows:
            y += [*(None if math.isnan(v) else round(float(v), 4) for v in (places + spread)[:, row]), None]
        if len(rows):
            figure.add_trace(
                go.Scatter(
                    x=x, y=y, mode="lines", line={"color": hues[hue], "width": 1.3}, opacity=0.5, hoverinfo="skip"
                )
            )
    answer = record.best
    winner = next((i for i, t in enumerate(drawn) if t is answer), None)
    if winner is not None:
        y = [round(float(v), 4) for v in places[:, winner]]
        figure.add_trace(
            go.Scatter(
                x=list(range(len(places))),
                y=y,
                mode="lines+markers",
                line={"color": theme.EDGE, "width": 3.5},
                hovertemplate=theme.hover(f"the answer: trial {drawn[winner].number}"),
            )
        )
