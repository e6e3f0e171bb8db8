"""The main figure: the final value of every trial over its learning rate, by outcome, with the band and the edge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting.figures import theme
from lrtune.reporting.tables.trials import trials as trials_table

if TYPE_CHECKING:
    import pandas as pd

    from lrtune.core.records import StudyRecord

__all__ = ["landscape"]

MOST_POINTS = 3000


@own_errstate()
def landscape(record: StudyRecord, table: pd.DataFrame | None = None) -> go.Figure:
    """Final value over log lr, with band and edge.

    A trial that did not reach its end is drawn at its last report; one whose value lies outside the range that is
    shown is drawn at the end of the axis, a diverged one just beyond it. Above 3,000 trials the best third and an even
    choice of the rest are drawn. `table` is :func:`lrtune.reporting.tables.trials` of it, where that is at hand.
    """
    table = trials_table(record) if table is None else table
    values = table["value"].where(table["value"].notna(), table["last"]).to_numpy(dtype=np.float64)
    diverged = table["group"].eq("diverged").to_numpy()
    shown = theme.robust(values[~diverged], sign=record.sign, worst=record.untrained)
    figure = theme.blank(
        x="learning rate",
        y=record.metric,
        xaxis=theme.log_ticks(*_padded(record, table)),
        yaxis=shown.axis(),
    )
    _areas(figure, record)
    best = np.argsort(record.sign * np.where(np.isfinite(values), values, np.inf))[: MOST_POINTS // 3]
    drawn = theme.thinned(len(table), MOST_POINTS, best.tolist())
    heights = np.where(diverged, shown.beyond(record.sign), shown.clip(values))
    outcomes = table["outcome"].tolist()
    for outcome, style in theme.OUTCOMES.items():
        rows = [i for i in drawn if outcomes[i] == outcome]
        if rows:
            figure.add_trace(_points(table, rows, heights, style, record))
    _best(figure, record)
    note = theme.note(len(drawn), len(table), "trials are drawn: the best ones, and the rest evenly.")
    return figure.update_layout(meta=note, margin={"t": 30})


def _padded(record: StudyRecord, table: pd.DataFrame) -> tuple[float, float]:
    low, high = record.space.lr_range
    if len(table):
        low, high = min(low, float(table["lr"].min())), max(high, float(table["lr"].max()))
    pad = (high / low) ** 0.02
    return low / pad, high * pad


def _areas(figure: go.Figure, record: StudyRecord) -> None:
    """Shade the band and the edge's interval, and draw the edge."""
    _, low, high = record.interval("band")
    if low is not None and high is not None:
        figure.add_vrect(x0=low, x1=high, fillcolor=theme.BAND_FILL, line_width=0, layer="below")
        theme.mark(figure, math.sqrt(low * high), "band", theme.ACCENT)
    at, low, high = record.interval("edge")
    if low is not None and high is not None:
        figure.add_vrect(x0=low, x1=high, fillcolor=theme.EDGE_FILL, line_width=0, layer="below")
    if at:
        figure.add_vline(x=at, line={"color": theme.EDGE, "width": 1.2, "dash": "dot"}, layer="below")
        theme.mark(figure, at, "edge", theme.EDGE)


def _points(
    table: pd.DataFrame, rows: list[int], heights: Any, style: theme.OutcomeStyle, record: StudyRecord
) -> go.Scatter:
    part = table.iloc[rows]
    return go.Scatter(
        x=part["lr"].round(12).tolist(),
        y=[float(f"{height:.6g}") for height in heights[rows]],
        mode="markers",
        name=style.name,
        marker={
            "color": style.colour,
            "symbol": style.symbol,
            "size": 8 if len(table) < 500 else 5,  # noqa: PLR2004 -- pixels for a crowd
            "opacity": 0.85,
            "line": {"width": 1.3, "color": style.colour}
            if "thin" in style.symbol or "open" in style.symbol
            else {"width": 0},
        },
        hovertext=[_hover(trial, record) for trial in theme.rows(part)],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _hover(trial: Any, record: StudyRecord) -> str:
    finished = math.isfinite(trial.value)
    value, at = (trial.value, "") if finished else (trial.last, f" after {trial.epochs:g} epochs")
    return (
        f"trial {trial.number}: lr {trial.lr:.3g}<br>{theme.label(record.metric, 30)} {theme.number(value)}{at}"
        f"<br>{theme.label(trial.verdict)}"
    )


def _best(figure: go.Figure, record: StudyRecord) -> None:
    best = record.best
    if best is None or best.value is None:
        return
    figure.add_trace(
        go.Scatter(
            x=[best.recipe.lr],
            y=[best.value],
            mode="markers",
            name="the answer",
            marker={"symbol": "star", "size": 17, "color": "#e3a51a", "line": {"width": 1.2, "color": "#7a5200"}},
            hovertemplate=theme.hover(f"the answer: lr {best.recipe.lr:.3g}", f"{record.metric} {best.value:.4g}"),
        )
    )
