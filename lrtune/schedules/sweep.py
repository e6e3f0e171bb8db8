"""The schedule of a range test: the learning rate rises by the same factor in every step (Smith 2017, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lrtune.schedules.base import Floats, Schedule, number

__all__ = ["Sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Schedule):
    """Rises from 1 / `ratio` of the peak to the peak over the first part `over` of the run, and stays there."""

    name: ClassVar[str] = "sweep"
    ratio: float = number(1e8, 1.0, 1e300, above=True)
    over: float = number(1.0, 0.0, 1.0, above=True)

    def _multiplier(self, p: Floats) -> Floats:
        return np.asarray(self.ratio ** (np.minimum(p / self.over, 1.0) - 1.0))

    def describe(self) -> str:
        """One clause for people."""
        return f"rises {self.ratio:g} times, by the same factor in every step, over {100 * self.over:.3g} % of the run"
