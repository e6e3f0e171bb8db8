"""A study as plain plotly figures, each drawn from the tables of :mod:`lrtune.analysis`.

Names of trials, metrics and settings are escaped: plotly renders a part of HTML in its labels.
"""

from __future__ import annotations

from lrtune.figures.comparing import compared
from lrtune.figures.joint import contour, parallel, slices
from lrtune.figures.landscape import landscape
from lrtune.figures.spending import costs, importance, regret, timeline, worth
from lrtune.figures.sweeps import sweeps
from lrtune.figures.training import curves, schedule

__all__ = [
    "compared",
    "contour",
    "costs",
    "curves",
    "importance",
    "landscape",
    "parallel",
    "regret",
    "schedule",
    "slices",
    "sweeps",
    "timeline",
    "worth",
]
