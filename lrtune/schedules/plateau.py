"""The metric-driven schedule: reduce on plateau."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lrtune.schedules.base import Floats, Schedule, number, word

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Plateau"]


@dataclass(slots=True)
class _State:
    best: float | None = None
    bad: int = 0
    resting: int = 0
    multiplier: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau(Schedule):
    """Multiplied by `factor` when the metric has not improved by `threshold` for more than `patience` updates.

    The options are frozen, its state is not: each run needs its own, as :func:`~lrtune.schedules.parse` gives.
    A metric that is NaN counts as no improvement.

    Attributes
    ----------
    factor
        What the multiplier is multiplied by.
    patience
        Updates without improvement that are let pass.
    threshold
        An improvement is by more than this, relative to the best.
    cooldown
        Updates after a reduction in which nothing is counted.
    floor
        The multiplier never falls below it.
    mode
        ``min`` where a smaller metric is better, ``max`` where a larger one is.
    """

    name: ClassVar[str] = "plateau"
    factor: float = number(0.1, 0.0, 1.0, above=True, below=True)
    patience: int = number(10, 0, 10**9, whole=True)
    threshold: float = number(1e-4, 0.0, 1.0, below=True)
    cooldown: int = number(0, 0, 10**9, whole=True)
    floor: float = number(0.0, 0.0, 1.0)
    mode: str = word("min", "max")
    _current: _State = field(default_factory=_State, init=False, repr=False, compare=False)

    @property
    def metric_driven(self) -> bool:
        """It is metric-driven."""
        return True

    @property
    def minimizes(self) -> bool:
        """Whether a smaller metric is the better one."""
        return self.mode == "min"

    @property
    def multiplier(self) -> float:
        """The multiplier from now on."""
        return self._current.multiplier

    def _multiplier(self, p: Floats) -> Floats:
        return np.full_like(p, self._current.multiplier)

    def update(self, metric: float, *, progress: float = 1.0) -> float:
        """Take the metric, usually once an epoch; returns the multiplier from now on."""
        del progress
        state, metric = self._current, float(metric)
        if self._improves(metric):
            state.best, state.bad = metric, 0
        else:
            state.bad += 1
        if state.resting > 0:
            state.resting, state.bad = state.resting - 1, 0
        if state.bad > self.patience:
            state.multiplier = max(state.multiplier * self.factor, self.floor)
            state.resting, state.bad = self.cooldown, 0
        return state.multiplier

    def _improves(self, metric: float) -> bool:
        best = self._current.best
        if best is None:
            return not math.isnan(metric)
        # Relative to the size of the best: PyTorch's best * (1 - threshold) asks a negative loss to become worse.
        margin = self.threshold * abs(best)
        return metric < best - margin if self.mode == "min" else metric > best + margin

    def state(self) -> dict[str, Any]:
        """Its state, as plain JSON."""
        return asdict(self._current)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name, value in state.items():
            setattr(self._current, name, value)

    def describe(self) -> str:
        """One clause for people."""
        return f"is multiplied by {self.factor:g} when the metric has not improved for {self.patience} epochs"
