"""What a schedule that somebody uses really does: its rate at every update, read into a recipe, with remarks."""

from __future__ import annotations

from lrtune.reporting.explain.applied import AppliedSchedule, schedule_of

__all__ = ["AppliedSchedule", "schedule_of"]
