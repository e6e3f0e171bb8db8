"""The figure of a range test: the loss of every sweep over log lr, raw and smoothed, with the interval and the edge."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting.figures import theme
from lrtune.search.lr_range import curve_reading

if TYPE_CHECKING:
    from lrtune.search.lr_range.lr_range import RangeSweep, RangeTest

__all__ = ["sweeps"]

RAW = 0.35  # opacity of single minibatches


@own_errstate()
def sweeps(found: RangeTest) -> go.Figure:
    """Training loss of each minibatch over its learning rate; the interval to search is shaded."""
    lines = [(sweep, curve_reading.smooth(sweep.lrs, sweep.losses)[0]) for sweep in found.sweeps]
    levels = np.concatenate([level for _, level in lines] or [np.empty(0)])
    shown = theme.robust(levels, sign=1.0, worst=_start(found.sweeps))
    figure = theme.blank(
        x="learning rate",
        y="training loss of a minibatch",
        xaxis=theme.log_ticks(*found.swept),
        yaxis=shown.axis(),
    )
    if found.interval is not None:
        low, high = found.interval
        figure.add_vrect(x0=low, x1=high, fillcolor=theme.BAND_FILL, line_width=0, layer="below")
        text = f"search {low:.2g} to {high:.2g}"
        theme.mark(figure, math.sqrt(low * high), text, theme.ACCENT, yanchor="top")
    if found.edge is not None:
        figure.add_vline(x=found.edge, line={"color": theme.EDGE, "width": 1.2, "dash": "dot"}, layer="below")
    colours = theme.colours(np.logspace(0.2, 0.8, max(len(lines), 1))[: len(lines)], (1.0, 10.0))
    for (sweep, level), colour in zip(lines, colours, strict=True):
        _draw(figure, sweep, level, shown, colour)
    return figure.update_layout(meta={"note": f"{found.confidence}: {found.why}"})


def _draw(figure: go.Figure, sweep: RangeSweep, level: theme.Floats, shown: theme.AxisRange, colour: str) -> None:
    name = theme.label(f"seed {sweep.seed}")
    lrs, losses = np.asarray(sweep.lrs), np.asarray(sweep.losses)
    finite = np.isfinite(losses)
    figure.add_trace(
        go.Scatter(
            x=lrs[finite].tolist(),
            y=shown.clip(losses[finite]).tolist(),
            mode="markers",
            marker={"color": colour, "size": 3, "opacity": RAW},
            legendgroup=name,
            showlegend=False,
            hoverinfo="skip",
        )
    )
    smooth = np.isfinite(level)
    figure.add_trace(
        go.Scatter(
            x=lrs[smooth].tolist(),
            y=shown.clip(level[smooth]).tolist(),
            mode="lines",
            name=name,
            legendgroup=name,
            line={"color": colour, "width": 2},
            hovertemplate=theme.hover(f"seed {sweep.seed}", sweep.ended).replace(
                "<extra>", "<br>lr %{x:.3g}, loss %{y:.4g}<extra>"
            ),
        )
    )


def _start(found: tuple[RangeSweep, ...]) -> float | None:
    """Somewhat more than the loss of the first ten minibatches, so that an explosion does not set the scale."""
    firsts = [loss for sweep in found for loss in sweep.losses[:10] if math.isfinite(loss)]
    if not firsts:
        return None
    start, least = float(np.median(firsts)), min(firsts)
    return start + 0.25 * abs(start - least) + 0.05 * abs(start)
