"""Strategies side by side: the regret of each over what it had spent, every search thin and their median thick."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from lrtune.core.numpy_errors import own_errstate
from lrtune.reporting.figures import theme
from lrtune.reporting.figures.spending import HUES, SMALLEST
from lrtune.reporting.tables.response import regret as regret_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from lrtune.core.records import StudyRecord

__all__ = ["compared"]

Floats: TypeAlias = npt.NDArray[np.float64]

DASHES = ("solid", "dot", "dash")  # one for each round of the hues
THIN = 0.35  # opacity of a single search


@own_errstate()
def compared(searches: Mapping[str, Sequence[StudyRecord]], *, best: float, end: float) -> go.Figure:
    """Regret over cost of several strategies.

    A line ends where the comparison does: what stopped before keeps what it had found.

    Parameters
    ----------
    searches
        Studies of the same question by strategy, one a seed.
    best
        The best value known.
    end
        Full trainings up to which the lines go.
    """
    tables = {name: [regret_table(record, best=best) for record in records] for name, records in searches.items()}
    every = [table for made in tables.values() for table in made if len(table)]
    normal = bool(every) and all(table["normalised"].notna().any() for table in every)
    column = "normalised" if normal else "regret"
    figure = theme.blank(
        x="cost in full trainings",
        y="regret of the best so far" + (" (normalised)" if normal else ""),
        height=400,
        xaxis={"range": [0, 1.02 * end]},
    )
    for place, (name, made) in enumerate(tables.items()):
        steps = [_steps(table, column, SMALLEST if normal else None) for table in made if len(table)]
        look = {"color": HUES[place % len(HUES)], "dash": DASHES[place // len(HUES) % len(DASHES)], "shape": "hv"}
        if len(made) > 1:
            for x, y in steps:
                figure.add_trace(_line(name, x, y, end, {**look, "width": 1}, single=True))
        x, y = _median(steps, len(made))
        if len(x):
            figure.add_trace(_line(name, x, y, end, {**look, "width": 2.6}, single=False))
    if normal:
        figure.update_yaxes(**_axis(max(float(table[column].max()) for table in every)))
    figure.update_layout(showlegend=True, legend={"groupclick": "togglegroup"})
    return figure


def _axis(top: float) -> dict[str, object]:
    axis = theme.AxisRange(low=SMALLEST, high=max(100 * SMALLEST, top), log=True).axis()
    axis["ticktext"] = [f"\N{LESS-THAN OR EQUAL TO} {axis['ticktext'][0]}", *axis["ticktext"][1:]]
    return axis


def _steps(table: pd.DataFrame, column: str, floor: float | None) -> tuple[Floats, Floats]:
    """Where a search got better, and to what, each of shape (steps,)."""
    rows = table[table[column].diff().fillna(-1.0) < 0]
    x, y = (rows[name].to_numpy(np.float64) for name in ("cost", column))
    return x, y if floor is None else np.maximum(y, floor)


def _median(steps: Sequence[tuple[Floats, Floats]], count: int) -> tuple[Floats, Floats]:
    """The median of step functions over `count` searches, from where half of them have found anything."""
    if not steps:
        return np.array([]), np.array([])
    places = np.unique(np.concatenate([x for x, _ in steps]))
    held = np.full((count, len(places)), math.inf)
    for row, (x, y) in enumerate(steps):
        at = np.searchsorted(x, places, side="right") - 1
        held[row] = np.where(at >= 0, y[np.maximum(at, 0)], math.inf)
    middle = np.sort(held, axis=0)[[(count - 1) // 2, count // 2]].mean(axis=0)
    known = np.isfinite(middle)
    return places[known], middle[known]


def _line(name: str, x: Floats, y: Floats, end: float, line: dict[str, object], *, single: bool) -> go.Scatter:
    label = theme.label(name, 40)
    what = "one search" if single else "median"
    return go.Scatter(
        x=[round(float(v), 4) for v in [*x, max(end, float(x[-1]))]],
        y=[float(f"{v:.4g}") for v in [*y, y[-1]]],
        mode="lines" if single else "lines+markers",
        name=label,
        legendgroup=label,
        showlegend=not single,
        opacity=THIN if single else 1.0,
        line=line,
        marker={"size": [*[7] * len(x), 1]},
        hovertemplate=f"{label}, {what}<br>cost %{{x:.2f}}<br>regret %{{y:.3g}}<extra></extra>",
    )
