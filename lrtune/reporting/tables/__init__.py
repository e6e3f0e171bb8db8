"""A study as tables: every number of the report, from Python as a plain pandas frame."""

from __future__ import annotations

from lrtune.reporting.tables.importance import importance
from lrtune.reporting.tables.joint import batch_exponent, worth
from lrtune.reporting.tables.response import regret, sensitivity
from lrtune.reporting.tables.trials import costs, curves, findings, timeline, trials, verdicts

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
