"""The figure of a scheduled job: the learning rate that each run found over time, its band and its cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from lrtune.reporting.figures.theme import ACCENT, AXIS, MUTED, blank, hover, log_ticks, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["history"]

BAND = "rgba(47,111,208,0.16)"
MARGIN = 3.0  # factor above and below
SYMBOLS = {"unchanged": "circle", "moved": "diamond", "cannot tell": "diamond-open", "searched": "square"}


def history(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """The learning rate of each run over time; its band behind it, its cost below.

    There is a row for each run that found something: ``at`` (a time in UTC), ``study``, ``lr``, ``low`` and ``high``
    (the band, or None), ``value``, ``cost`` (full trainings) and ``verdict`` of the drift test.
    """
    figure = blank(x="", y="learning rate", yaxis={"domain": [0.34, 1.0]})
    if not rows:
        return figure
    at = [row["at"] for row in rows]
    lows = [row["low"] or row["lr"] for row in rows]
    highs = [row["high"] or row["lr"] for row in rows]
    texts = [_hover(row) for row in rows]
    limit = {"mode": "lines", "line": {"width": 0, "shape": "hv"}, "hoverinfo": "skip"}
    figure.add_trace(go.Scatter(x=at, y=highs, showlegend=False, **limit))
    figure.add_trace(go.Scatter(x=at, y=lows, fill="tonexty", fillcolor=BAND, name="as good within noise", **limit))
    figure.add_trace(
        go.Scatter(
            x=at,
            y=[row["lr"] for row in rows],
            name="learning rate",
            mode="lines+markers",
            line={"color": ACCENT, "shape": "hv"},
            marker={"size": 9, "symbol": [SYMBOLS.get(row["verdict"], "circle") for row in rows]},
            hovertemplate=texts,
        )
    )
    bars = {"name": "cost in full trainings", "marker": {"color": MUTED}, "hovertemplate": texts}
    figure.add_trace(go.Bar(x=at, y=[row["cost"] for row in rows], yaxis="y2", **bars))
    return figure.update_layout(
        yaxis=log_ticks(min(lows) / MARGIN, max(highs) * MARGIN),
        yaxis2={**AXIS, "domain": [0.0, 0.22], "anchor": "x", "rangemode": "tozero", "title": {"text": "cost"}},
        xaxis={"type": "date"},
    )


def _hover(row: Mapping[str, Any]) -> str:
    return hover(
        row["study"],
        f"learning rate {number(row['lr'])}",
        f"result {number(row['value'], 4)}",
        f"{row['verdict']}, {number(row['cost'])} full trainings",
    )
