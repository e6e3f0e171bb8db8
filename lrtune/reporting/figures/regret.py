"""Regret over cost: of one search, and of several strategies, every search thin and the median of each thick."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting.figures import theme
from lrtune.reporting.tables.response import regret as regret_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from lrtune.core.records import StudyRecord

__all__ = ["compared", "regret"]

Floats: TypeAlias = npt.NDArray[np.float64]

# Okabe and Ito, with a darker yellow than theirs, which vanishes on white.
HUES = ("#2f6fd0", "#d55e00", "#1f9e73", "#b0609a", "#8b93a1", "#56a3d9", "#b59b00", "#7a5c3e")
DASHES = ("solid", "dot", "dash")  # one for each round of the hues
THIN = 0.35  # opacity of a single search
SMALLEST = 1e-4  # regret on a log scale ends here: nothing below it is ever real


@own_errstate()
def regret(record: StudyRecord) -> go.Figure:
    """Regret of the best full training so far over the cost in full trainings, to the best one of this study.

    Normalised by the untrained level where it is known.
    """
    table = regret_table(record, best=None if record.best is None else record.best.value)
    figure, column, floor = _blank([table], height=340, xaxis={"rangemode": "tozero"})
    if len(table):
        name = theme.label(record.strategy or "this study", 40)
        style = {"color": HUES[0], "shape": "hv", "width": 2.2}
        figure.add_trace(_line(name, *_steps(table, column, floor), record.cost, name=name, line=style))
    return figure.update_layout(showlegend=False)


@own_errstate()
def compared(searches: Mapping[str, Sequence[StudyRecord]], *, best: float, end: float) -> go.Figure:
    """Regret over cost of several strategies: their studies of the same question, one a seed.

    Regret is the distance to `best`, the best value known. Every line goes up to `end`, in full trainings, where the
    comparison ends: a search that stopped before keeps what it had found.
    """
    tables = {name: [regret_table(record, best=best) for record in records] for name, records in searches.items()}
    every = [table for some in tables.values() for table in some]
    figure, column, floor = _blank(every, height=400, xaxis={"range": [0, 1.02 * end]})
    for place, (name, some) in enumerate(tables.items()):
        steps = [_steps(table, column, floor) for table in some if len(table)]
        label = theme.label(name, 40)
        style = {"color": HUES[place % len(HUES)], "dash": DASHES[place // len(HUES) % len(DASHES)], "shape": "hv"}
        shared: dict[str, Any] = {"name": label, "legendgroup": label}
        for x, y in steps if len(some) > 1 else ():
            thin = {"mode": "lines", "opacity": THIN, "showlegend": False, "line": {**style, "width": 1}}
            figure.add_trace(_line(f"{label}, one search", x, y, end, **shared, **thin))
        x, y = _median(steps, len(some))
        if len(x):
            thick = {"opacity": 1.0, "showlegend": True, "line": {**style, "width": 2.6}}
            figure.add_trace(_line(f"{label}, median", x, y, end, **shared, **thick))
    return figure.update_layout(showlegend=True, legend={"groupclick": "togglegroup"})


def _blank(tables: Sequence[pd.DataFrame], **layout: Any) -> tuple[go.Figure, str, float]:
    """An empty figure, the column of the tables to draw, and the smallest value that is drawn."""
    found = [table for table in tables if len(table)]
    normal = bool(found) and all(table["normalised"].notna().any() for table in found)
    column = "normalised" if normal else "regret"
    figure = theme.blank(
        x="cost in full trainings", y="regret of the best so far" + (" (normalised)" if normal else ""), **layout
    )
    if not normal:
        return figure, column, -math.inf
    top = max(100 * SMALLEST, *(float(table[column].max()) for table in found))
    axis = theme.AxisRange(low=SMALLEST, high=top, log=True).axis()
    axis["ticktext"] = [f"\N{LESS-THAN OR EQUAL TO} {axis['ticktext'][0]}", *axis["ticktext"][1:]]
    return figure.update_yaxes(**axis), column, SMALLEST


def _steps(table: pd.DataFrame, column: str, floor: float) -> tuple[Floats, Floats]:
    """The cost at which a search found something better, and the regret from there on; each of shape (steps,)."""
    rows = table[table[column].diff().fillna(-1.0) < 0]
    x, y = (rows[name].to_numpy(np.float64) for name in ("cost", column))
    return x, np.maximum(y, floor)


def _median(steps: Sequence[tuple[Floats, Floats]], count: int) -> tuple[Floats, Floats]:
    """The median of step functions over `count` searches, from where half of them have found anything."""
    if not steps:
        return np.array([]), np.array([])
    places = np.unique(np.concatenate([x for x, _ in steps]))
    found = np.full((count, len(places)), math.inf)
    for row, (x, y) in enumerate(steps):
        at = np.searchsorted(x, places, side="right") - 1
        found[row] = np.where(at >= 0, y[np.maximum(at, 0)], math.inf)
    middle = np.sort(found, axis=0)[[(count - 1) // 2, count // 2]].mean(axis=0)
    known = np.isfinite(middle)
    return places[known], middle[known]


def _line(what: str, x: Floats, y: Floats, end: float, **style: Any) -> go.Scatter:
    return go.Scatter(
        x=[round(float(v), 4) for v in [*x, max(end, float(x[-1]))]],
        y=[float(f"{v:.4g}") for v in [*y, y[-1]]],
        marker={"size": [*[7] * len(x), 1]},
        hovertemplate=f"{what}<br>cost %{{x:.2f}}<br>regret %{{y:.3g}}<extra></extra>",
        **{"mode": "lines+markers", **style},
    )
