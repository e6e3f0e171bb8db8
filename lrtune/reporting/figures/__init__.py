"""A study as plain plotly figures, each drawn from the tables of :mod:`lrtune.reporting.tables`.

Names of trials, metrics and settings are escaped: plotly renders a part of HTML in its labels.
"""

from __future__ import annotations

from lrtune.reporting.figures.joint import contour, parallel, slices
from lrtune.reporting.figures.landscape import landscape
from lrtune.reporting.figures.regret import compared, regret
from lrtune.reporting.figures.spending import costs, importance, timeline, worth
from lrtune.reporting.figures.sweeps import sweeps
from lrtune.reporting.figures.training import curves, schedule

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
