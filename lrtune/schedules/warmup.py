"""Warmup: a linear rise from zero, followed by any schedule over the rest of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lrtune.errors import RecipeError
from lrtune.schedules.base import Floats, Schedule, number, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Warmup", "with_warmup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmup(Schedule):
    """A straight rise from zero over the first `fraction` of the run, then `after` over all that is left of it."""

    name: ClassVar[str] = "warmup"
    fraction: float = number(0.1, 0.0, 1.0, above=True, below=True)
    after: Schedule

    def _multiplier(self, p: Floats) -> Floats:
        rest = np.maximum((p - self.fraction) / (1 - self.fraction), 0.0)
        return np.asarray(np.minimum(p / self.fraction, 1.0) * self.after(rest))

    @property
    def family(self) -> str:
        """The family of the schedule that follows."""
        return self.after.family

    @property
    def metric_driven(self) -> bool:
        """Whether the schedule that follows is metric-driven."""
        return self.after.metric_driven

    @property
    def minimizes(self) -> bool:
        """Whether a smaller metric is the better one to the schedule that follows."""
        return self.after.minimizes

    def update(self, metric: float, *, progress: float = 1.0) -> float:
        """Pass the metric on once the warmup is over; returns the multiplier from now on."""
        if progress >= self.fraction:
            self.after.update(metric, progress=(progress - self.fraction) / (1 - self.fraction))
        return self(progress)

    def state(self) -> dict[str, Any]:
        """The state of the schedule that follows."""
        return self.after.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.after.restore(state)

    def describe(self) -> str:
        """One clause for people."""
        rise = f"rises in a straight line over the first {100 * self.fraction:.3g} % of the run"
        return f"{rise}, then {self.after.describe()}"

    def __str__(self) -> str:
        return f"warmup({self.fraction!r}) + {self.after}"


def with_warmup(schedule: Schedule, warmup: float, *, total_steps: int | None = None) -> Schedule:
    """The schedule after a linear warmup.

    Parameters
    ----------
    schedule
        What follows, over all that is left of the run.
    warmup
        A fraction of the run in [0, 1); or, where it is 1 or more, a number of steps. Zero changes nothing.
    total_steps
        Steps of the run; needed where the warmup is a number of steps.

    Raises
    ------
    RecipeError
        If the warmup is not shorter than the run, or there is one already.
    """
    if isinstance(warmup, bool) or not warmup >= 0:
        msg = f"schedule: warmup must be a fraction in [0, 1) or a number of steps (got {shown(warmup)}); change it"
        raise RecipeError(msg)
    if warmup == 0:
        return schedule
    if isinstance(schedule, Warmup):
        msg = f"schedule: there is a warmup already (got {schedule} and {warmup:g} more); give it once"
        raise RecipeError(msg)
    if warmup >= 1:
        if total_steps is None or warmup >= total_steps:
            have = "a run of unknown length" if total_steps is None else f"a run of {total_steps} steps"
            msg = (
                f"schedule: a warmup of {warmup:g} steps does not fit into {have}; give a fraction of the run, e.g. 0.1"
            )
            raise RecipeError(msg)
        warmup /= total_steps
    return Warmup(fraction=warmup, after=schedule)
