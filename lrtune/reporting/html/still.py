"""A plotly figure of points as a still picture: plain SVG, for places where no script may run, as a notebook's output.

It draws what :mod:`lrtune.reporting.figures` gives the landscape: markers, shaded intervals, lines and words, over a
logarithmic or linear axis.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import plotly.graph_objects as go

__all__ = ["still"]

WIDTH, HEIGHT = 640, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 22, 40
TICKS = 5
STAR = "M0 -8.5L2.1 -2.9L8.1 -2.6L3.4 1.1L5 6.9L0 3.6L-5 6.9L-3.4 1.1L-8.1 -2.6L-2.1 -2.9Z"
SYMBOLS = {
    "circle": "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
    "diamond": "M0 -5L5 0L0 5L-5 0Z",
    "square": "M-3.6 -3.6H3.6V3.6H-3.6Z",
    "triangle-up": "M0 -4.6L4.4 3.4H-4.4Z",
    "hexagon": "M-2.4 -4.2H2.4L4.8 0L2.4 4.2H-2.4L-4.8 0Z",
    "hourglass": "M-4 -4H4L-4 4H4Z",
    "x": "M-4 -4L4 4M-4 4L4 -4",
    "cross": "M-5 0H5M0 -5V5",
    "line-ew": "M-5 0H5",
    "star": STAR,
}
"""Paths of plotly's symbols around their middle, by the name without ``-open`` or ``-thin``."""


def still(figure: go.Figure) -> dict[str, Any]:
    """Values of the template ``still.svg.jinja``, in pixels.

    ``areas``, ``lines`` and ``words`` from the layout; ``points`` (path, place, colour, whether filled, tooltip); the
    ``legend``; ``x`` and ``y``, each a title and ticks (place and text); and the measures of the picture.
    """
    plain = figure.to_plotly_json()
    layout = plain["layout"]
    across = _scale(layout["xaxis"], LEFT, WIDTH - RIGHT)
    up = _scale(layout["yaxis"], HEIGHT - BOTTOM, TOP)
    shapes, traces = layout.get("shapes", ()), plain["data"]
    lines = [shape for shape in shapes if shape["type"] == "line"]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "frame": (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM),
        "areas": [_area(shape, across) for shape in shapes if shape["type"] == "rect"],
        "lines": [(across(shape["x0"]), shape["line"]["color"]) for shape in lines],
        "words": [(across(10.0 ** w["x"]), w["text"], w["font"]["color"]) for w in layout.get("annotations", ())],
        "points": [point for trace in traces for point in _points(trace, across, up)],
        "legend": [(*_symbol(trace["marker"]), trace["name"]) for trace in traces],
        "x": (layout["xaxis"]["title"]["text"], _ticks(layout["xaxis"], across)),
        "y": (layout["yaxis"]["title"]["text"], _ticks(layout["yaxis"], up)),
    }


def _scale(axis: dict[str, Any], begin: float, end: float) -> Callable[[float], float]:
    """From a value to its place; what lies beyond the axis is drawn at its end."""
    low, high = axis["range"]
    log = axis.get("type") == "log"

    def place(value: float) -> float:
        at = math.log10(value) if log else value
        share = min(max((at - low) / ((high - low) or 1.0), 0.0), 1.0)
        return float(round(begin + share * (end - begin), 1))

    return place


def _ticks(axis: dict[str, Any], place: Callable[[float], float]) -> list[tuple[float, str]]:
    if "tickvals" in axis:
        return [(place(value), text) for value, text in zip(axis["tickvals"], axis["ticktext"], strict=True)]
    low, high = axis["range"]
    step = 10.0 ** math.floor(math.log10((high - low) / TICKS or 1.0))
    step *= next((many for many in (1, 2, 5, 10) if (high - low) / (step * many) <= TICKS), 10)
    values = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    return [(place(value), f"{value:.6g}") for value in values.tolist()]


def _area(shape: dict[str, Any], across: Callable[[float], float]) -> tuple[float, float, str]:
    begin = across(shape["x0"])
    return begin, round(max(across(shape["x1"]) - begin, 2.0), 1), shape["fillcolor"]


def _points(trace: dict[str, Any], across: Callable[[float], float], up: Callable[[float], float]) -> list[Any]:
    path, filled, colour = _symbol(trace["marker"])
    told = trace.get("hovertext") or [""] * len(trace["x"])
    return [
        (path, across(x), up(y), filled, colour, text.replace("<br>", ", "))
        for x, y, text in zip(trace["x"], trace["y"], told, strict=True)
    ]


def _symbol(marker: dict[str, Any]) -> tuple[str, bool, str]:
    """Its path, whether it is filled, and its colour."""
    name = marker["symbol"]
    outline = name.endswith(("-open", "-thin"))
    return SYMBOLS[name.removesuffix("-open").removesuffix("-thin")], not outline, marker["color"]
