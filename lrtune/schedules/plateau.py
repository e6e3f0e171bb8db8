"""The schedule that listens to the metric: reduce on plateau."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lrtune.schedules.base import Floats, Schedule, number, word

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Plateau"]


@dataclass(slots=True)
class _Heard:
    best: float | None = None
    bad: int = 0
    resting: int = 0
    multiplier: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau(Schedule):
    """Multiplied by `factor` when the metric has not improved by `threshold` for more than `patience` updates.

    The options are frozen, what it has heard is not: each run needs its own, as :func:`~lrtune.schedules.parse` gives.
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
    _heard: _Heard = field(default_factory=_Heard, init=False, repr=False, compare=False)

    @property
    def listens(self) -> bool:
        """It has to be told the metric."""
        return True

    @property
    def hears_losses(self) -> bool:
        """Whether a smaller metric is the better one."""
        return self.mode == "min"

    @property
    def multiplier(self) -> float:
        """The multiplier from now on."""
        return self._heard.multiplier

    def _multiplier(self, p: Floats) -> Floats:
        return np.full_like(p, self._heard.multiplier)

    def update(self, metric: float, *, progress: float = 1.0) -> float:
        """Hear the metric, usually once an epoch; the multiplier from now on."""
        del progress
        heard, metric = self._heard, float(metric)
        if self._improves(metric):
            heard.best, heard.bad = metric, 0
        else:
            heard.bad += 1
        if heard.resting > 0:
            heard.resting, heard.bad = heard.resting - 1, 0
        if heard.bad > self.patience:
            heard.multiplier = max(heard.multiplier * self.factor, self.floor)
            heard.resting, heard.bad = self.cooldown, 0
        return heard.multiplier

    def _improves(self, metric: float) -> bool:
        best = self._heard.best
        if best is None:
            return not math.isnan(metric)
        # Relative to the size of the best: PyTorch's best * (1 - threshold) asks a negative loss to become worse.
        margin = self.threshold * abs(best)
        return metric < best - margin if self.mode == "min" else metric > best + margin

    def state(self) -> dict[str, Any]:
        """What it has heard, as plain JSON."""
        heard = self._heard
        return {"best": heard.best, "bad": heard.bad, "resting": heard.resting, "multiplier": heard.multiplier}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name, value in state.items():
            setattr(self._heard, name, value)

    def describe(self) -> str:
        """One clause for people."""
        return f"is multiplied by {self.factor:g} when the metric has not improved for {self.patience} epochs"
