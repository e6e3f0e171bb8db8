"""A study as tables: every number of the report, as plain pandas frames computed from a ``StudyRecord``."""

from __future__ import annotations

from lrtune.reporting.diagnosis import findings, verdicts
from lrtune.reporting.tables.importance import importance
from lrtune.reporting.tables.joint import batch_exponent, worth
from lrtune.reporting.tables.response import regret, sensitivity
from lrtune.reporting.tables.trials import costs, curves, timeline, trials

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
