"""Schedules that rise and fall: warm restarts, cyclical, one-cycle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from lrtune.schedules.base import Floats, Schedule, number, percent, word

__all__ = ["CosineRestarts", "Cyclical", "OneCycle"]

ROUNDING = 1e-12  # t / T lands on either side of a restart; as a fraction of the run


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineRestarts(Schedule):
    """Half a cosine to `floor`, `cycles` times, each `growth` times as long as the one before.

    Loshchilov and Hutter 2017 (SGDR, section 3). The last cycle ends with the run.
    """

    name: ClassVar[str] = "cosine_restarts"
    cycles: int = number(3, 1, 1000, whole=True)
    growth: float = number(1.0, 1.0, 10.0)
    floor: float = number(0.0, 0.0, 1.0)

    def starts(self) -> Floats:
        """Where each cycle starts, and the end of the last: shape (cycles + 1,), 0 to 1."""
        # Lengths relative to the last one: growth^cycles would overflow.
        lengths = self.growth ** (np.arange(self.cycles, dtype=np.float64) - self.cycles + 1)
        ends = np.cumsum(lengths) / lengths.sum()
        return np.concatenate(([0.0], ends[:-1], [1.0]))

    def _multiplier(self, p: Floats) -> Floats:
        starts = self.starts()
        cycle, within = _place(p, starts)
        x = within / (starts[cycle + 1] - starts[cycle])
        return np.asarray(self.floor + (1 - self.floor) * (1 + np.cos(np.pi * np.minimum(x, 1.0))) / 2)

    def describe(self) -> str:
        """One clause for people."""
        longer = f", each {self.growth:g} times as long as the one before" if self.growth > 1 else ""
        return f"falls {self.cycles} times along half a cosine to {percent(self.floor)}{longer}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cyclical(Schedule):
    """Rises from `floor` to the peak and falls back, `cycles` times.

    Smith 2017 (arXiv:1506.01186, section 3). `up` is the fraction of a cycle in which it rises. The height above the
    floor stays (``triangular``), is halved from cycle to cycle (``triangular2``), or falls by the same factor in every
    step, to `end` at the end of the run (``exp_range``; the other modes take no `end`).
    """

    name: ClassVar[str] = "cyclical"
    mode: str = word("triangular", "triangular2", "exp_range")
    cycles: int = number(4, 1, 1000, whole=True)
    floor: float = number(0.1, 0.0, 1.0)
    up: float = number(0.5, 0.0, 1.0, above=True, below=True)
    end: float = number(0.1, 0.0, 1.0, above=True)

    def _multiplier(self, p: Floats) -> Floats:
        cycle, within = _place(p, np.arange(self.cycles + 1) / self.cycles)
        x = np.minimum(within * self.cycles, 1.0)
        height = np.where(x <= self.up, x / self.up, (1 - x) / (1 - self.up))
        if self.mode == "triangular2":
            height = height * 0.5 ** cycle.astype(np.float64)
        elif self.mode == "exp_range":
            height = height * self.end**p
        return np.asarray(self.floor + (1 - self.floor) * height)

    def describe(self) -> str:
        """One clause for people."""
        height = {
            "triangular": "",
            "triangular2": ", half as high each time",
            "exp_range": f", with a height that falls to {100 * self.end:.3g} %",
        }[self.mode]
        return f"rises from {100 * self.floor:.3g} % to its peak and falls back, {self.cycles} times{height}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OneCycle(Schedule):
    """Rises from `start` to the peak over the fraction `up` of the run, then falls to `end`.

    Smith and Topin 2018 (arXiv:1708.07120); the defaults are PyTorch's. The learning rate only: momentum is not cycled.
    """

    name: ClassVar[str] = "onecycle"
    up: float = number(0.3, 0.0, 1.0, above=True, below=True)
    start: float = number(0.04, 0.0, 1.0, above=True)
    end: float = number(4e-6, 0.0, 1.0)
    shape: str = word("cosine", "linear")

    def _multiplier(self, p: Floats) -> Floats:
        rise = self._bent(np.minimum(p / self.up, 1.0))
        fall = self._bent(np.maximum((p - self.up) / (1 - self.up), 0.0))
        return np.asarray(np.where(p <= self.up, self.start + (1 - self.start) * rise, 1 - (1 - self.end) * fall))

    def _bent(self, x: Floats) -> Floats:
        return np.asarray((1 - np.cos(np.pi * x)) / 2) if self.shape == "cosine" else x

    def describe(self) -> str:
        """One clause for people."""
        return (
            f"rises from {100 * self.start:.3g} % to its peak over the first {100 * self.up:.3g} % of the run, "
            f"then falls to {100 * self.end:.3g} %"
        )


def _place(p: Floats, starts: Floats) -> tuple[npt.NDArray[np.intp], Floats]:
    """The cycle in which each progress lies, and how far it lies beyond the start of that cycle."""
    cycle = np.clip(np.searchsorted(starts, p + ROUNDING, side="right") - 1, 0, len(starts) - 2)
    return np.asarray(cycle), np.maximum(p - starts[cycle], 0.0)
