"""Schedules: pure functions from the progress of a run to a multiplier of its peak learning rate."""

from __future__ import annotations

from lrtune.schedules.base import Schedule
from lrtune.schedules.plateau import Plateau
from lrtune.schedules.registry import SCHEDULES, describe, for_recipe, multipliers, parse
from lrtune.schedules.warmup import Warmup, with_warmup

__all__ = [
    "SCHEDULES",
    "Plateau",
    "Schedule",
    "Warmup",
    "describe",
    "for_recipe",
    "multipliers",
    "parse",
    "with_warmup",
]
