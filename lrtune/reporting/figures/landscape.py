"""The answer as a picture: the final value over log lr, with the band, the edge and every trial by its outcome."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting.figures import theme
from lrtune.reporting.tables.trials import baseline_value
from lrtune.reporting.tables.trials import trials as trials_table

if TYPE_CHECKING:
    import pandas as pd

    from lrtune.core.records import StudyRecord

__all__ = ["interval_of", "landscape"]

MOST_POINTS = 3000
BAND_FILL, EDGE_FILL = "rgba(47,111,208,0.13)", "rgba(213,94,0,0.10)"


@own_errstate()
def landscape(record: StudyRecord, table: pd.DataFrame | None = None) -> go.Figure:
    """Final value over log lr, with band and edge.

    A trial that did not reach its end stands where it stopped; one whose value lies outside the range that is shown,
    or that has none, stands on the rim. Above 3,000 trials the best third and an even choice of the rest are drawn.

    Parameters
    ----------
    record
        The study.
    table
        :func:`lrtune.reporting.tables.trials` of it, where that is at hand.
    """
    table = trials_table(record) if table is None else table
    values = table["value"].where(table["value"].notna(), table["last"]).to_numpy(dtype=np.float64)
    lost = table["group"].eq("diverged").to_numpy()
    shown = theme.robust(values[~lost], sign=record.sign, worst=baseline_value(record))
    figure = theme.blank(
        x="learning rate",
        y=record.metric,
        xaxis=theme.log_ticks(*_padded(record, table)),
        yaxis=shown.axis(),
    )
    _areas(figure, record)
    best = np.argsort(record.sign * np.where(np.isfinite(values), values, np.inf))[: MOST_POINTS // 3]
    drawn = theme.thinned(len(table), MOST_POINTS, best.tolist())
    rim = shown.rim(record.sign)
    heights = np.where(lost, rim, shown.clip(values))
    outcomes = table["outcome"].tolist()
    for outcome, look in theme.OUTCOMES.items():
        rows = [i for i in drawn if outcomes[i] == outcome]
        if rows:
            figure.add_trace(_points(table, rows, heights, look, record))
    _best(figure, record)
    figure.update_layout(meta={"note": _note(len(drawn), len(table))}, margin={"t": 30})
    return figure


def interval_of(record: StudyRecord, name: str) -> tuple[float, float] | None:
    """Low and high of the band or the edge; None where they are not known."""
    held = record.result.get(name) or {}
    low, high = held.get("low"), held.get("high")
    return None if low is None or high is None else (float(low), float(high))


def _padded(record: StudyRecord, table: pd.DataFrame) -> tuple[float, float]:
    low, high = record.space.lr_range
    if len(table):
        low, high = min(low, float(table["lr"].min())), max(high, float(table["lr"].max()))
    pad = (high / low) ** 0.02
    return low / pad, high * pad


def _areas(figure: go.Figure, record: StudyRecord) -> None:
    band, edge = interval_of(record, "band"), interval_of(record, "edge")
    at = (record.result.get("edge") or {}).get("lr")
    if band:
        figure.add_vrect(x0=band[0], x1=band[1], fillcolor=BAND_FILL, line_width=0, layer="below")
        _say(figure, math.sqrt(band[0] * band[1]), "band", theme.ACCENT)
    if edge:
        figure.add_vrect(x0=edge[0], x1=edge[1], fillcolor=EDGE_FILL, line_width=0, layer="below")
    if at:
        figure.add_vline(x=float(at), line={"color": "#d55e00", "width": 1.2, "dash": "dot"}, layer="below")
        _say(figure, float(at), "edge", "#d55e00")


def _say(figure: go.Figure, at: float, text: str, colour: str) -> None:
    figure.add_annotation(
        x=math.log10(at),
        y=1,
        yref="paper",
        yanchor="bottom",
        text=text,
        showarrow=False,
        font={"size": 11, "color": colour},
    )


def _points(
    table: pd.DataFrame, rows: list[int], heights: Any, look: theme.OutcomeStyle, record: StudyRecord
) -> go.Scatter:
    part = table.iloc[rows]
    return go.Scatter(
        x=part["lr"].round(12).tolist(),
        y=[float(f"{height:.6g}") for height in heights[rows]],
        mode="markers",
        name=look.name,
        marker={
            "color": look.colour,
            "symbol": look.symbol,
            "size": 8 if len(table) < 500 else 5,  # noqa: PLR2004 -- pixels for a crowd
            "opacity": 0.85,
            "line": {"width": 1.3, "color": look.colour}
            if "thin" in look.symbol or "open" in look.symbol
            else {"width": 0},
        },
        hovertext=[_told(trial, record) for trial in theme.rows(part)],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _told(trial: Any, record: StudyRecord) -> str:
    value = trial.value if math.isfinite(trial.value) else trial.last
    at = "" if math.isfinite(trial.value) else f" after {trial.epochs:g} epochs"
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


def _note(drawn: int, count: int) -> str:
    return "" if drawn == count else f"{drawn:,} of {count:,} trials are drawn: the best ones, and the rest evenly."
