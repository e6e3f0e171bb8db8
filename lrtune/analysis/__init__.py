"""A study as tables: every number of the report, from Python as a plain pandas frame."""

from __future__ import annotations

from lrtune.analysis.importance import importance
from lrtune.analysis.joint import batch_exponent, worth
from lrtune.analysis.response import regret, sensitivity
from lrtune.analysis.tables import costs, curves, findings, timeline, trials, verdicts

__all__ = [
    "batch_exponent",
    "costs",
    "curves",
    "findings",
    "importance",
    "regret",
    "sensitivity",
    "timeline",
    "trials",
    "verdicts",
    "worth",
]
