"""Schedules that hold or fall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lrtune.schedules.base import Floats, Schedule, number, numbers, percent, word

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseSqrt",
    "Linear",
    "MultiStep",
    "Polynomial",
    "Step",
    "WarmupStableDecay",
]

ROUNDING = 1e-9  # t / T lands on either side of a drop; in units of the distance between drops


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant(Schedule):
    """The peak all the way."""

    name: ClassVar[str] = "constant"

    def _multiplier(self, p: Floats) -> Floats:
        return np.ones_like(p)

    def describe(self) -> str:
        """One clause for people."""
        return "stays at its peak"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Schedule):
    """Falls to `factor` of itself after each fraction `every` of the run."""

    name: ClassVar[str] = "step"
    every: float = number(1 / 3, 0.0, 1.0, above=True)
    factor: float = number(0.1, 0.0, 1.0, above=True)

    def _multiplier(self, p: Floats) -> Floats:
        return np.asarray(self.factor ** np.floor(p / self.every + ROUNDING))

    def describe(self) -> str:
        """One clause for people."""
        return f"is multiplied by {self.factor:g} after every {100 * self.every:.3g} % of the run"


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiStep(Schedule):
    """Falls to `factor` of itself at each of the fractions `at`."""

    name: ClassVar[str] = "multistep"
    at: tuple[float, ...] = numbers((0.5, 0.75), 0.0, 1.0)
    factor: float = number(0.1, 0.0, 1.0, above=True)

    def _multiplier(self, p: Floats) -> Floats:
        passed = np.searchsorted(np.array(self.at), p * (1 + ROUNDING), side="right")
        return np.asarray(self.factor ** passed.astype(np.float64))

    def describe(self) -> str:
        """One clause for people."""
        places = ", ".join(f"{100 * place:.3g}" for place in self.at)
        return f"is multiplied by {self.factor:g} at {places} % of the run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential(Schedule):
    """Falls by the same factor in every step, to `end` at the end."""

    name: ClassVar[str] = "exponential"
    end: float = number(0.01, 0.0, 1.0, above=True)

    def _multiplier(self, p: Floats) -> Floats:
        return np.asarray(self.end**p)

    def describe(self) -> str:
        """One clause for people."""
        return f"falls by the same factor in every step, to {percent(self.end)} at the end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial(Schedule):
    """Falls as a power of what is left of the run, to `floor` at the end."""

    name: ClassVar[str] = "polynomial"
    power: float = number(2.0, 0.0, 100.0, above=True)
    floor: float = number(0.0, 0.0, 1.0)

    def _multiplier(self, p: Floats) -> Floats:
        return np.asarray(self.floor + (1 - self.floor) * (1 - p) ** self.power)

    def describe(self) -> str:
        """One clause for people."""
        return f"falls with the power {self.power:g} of what is left of the run, to {percent(self.floor)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Schedule):
    """Falls in a straight line to `floor` at the end.

    BERT's (Devlin et al. 2019, appendix A.2) is this after 10,000 steps of warmup, in one line::

        for_recipe(Recipe(lr=1e-4, schedule="linear", warmup=10_000), total_steps=1_000_000)
    """

    name: ClassVar[str] = "linear"
    floor: float = number(0.0, 0.0, 1.0)

    def _multiplier(self, p: Floats) -> Floats:
        return np.asarray(1 - (1 - self.floor) * p)

    def describe(self) -> str:
        """One clause for people."""
        return f"falls in a straight line to {percent(self.floor)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosine(Schedule):
    """Falls along half a cosine to `floor` at the end (Loshchilov and Hutter 2017, equation 5, one cycle).

    GPT-3's (Brown et al. 2020, appendix B) is this to 10 %, after a warmup over 375 of 260,000 million tokens, in
    one line::

        with_warmup(parse("cosine(floor=0.1)"), 375 / 260_000)
    """

    name: ClassVar[str] = "cosine"
    floor: float = number(0.0, 0.0, 1.0)

    def _multiplier(self, p: Floats) -> Floats:
        return np.asarray(self.floor + (1 - self.floor) * (1 + np.cos(np.pi * p)) / 2)

    def describe(self) -> str:
        """One clause for people."""
        return f"falls along half a cosine to {percent(self.floor)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InverseSqrt(Schedule):
    """Falls as 1 / sqrt(1 + p / timescale).

    After a warmup over the fraction w of the run and with ``timescale = w / (1 - w)`` this is
    sqrt(warmup steps / step), the schedule of Vaswani et al. 2017 (equation 3).
    """

    name: ClassVar[str] = "inverse_sqrt"
    timescale: float = number(0.1, 0.0, 1000.0, above=True)

    def _multiplier(self, p: Floats) -> Floats:
        return np.asarray(1 / np.sqrt(1 + p / self.timescale))

    def describe(self) -> str:
        """One clause for people."""
        return f"falls as one over the square root of the step, to {percent(float(self(1.0)))} at the end"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupStableDecay(Schedule):
    """Stays at the peak, then falls to `floor` over the last fraction `decay` of the run.

    Hu et al. 2024 (arXiv:2404.06395, section 4); the warmup is the combinator's. The shape ``sqrt`` is the 1 - sqrt of
    Hägele et al. 2024 (arXiv:2405.18392, section 3).
    """

    name: ClassVar[str] = "wsd"
    decay: float = number(0.2, 0.0, 1.0, above=True)
    floor: float = number(0.0, 0.0, 1.0)
    shape: str = word("linear", "cosine", "sqrt")

    def _multiplier(self, p: Floats) -> Floats:
        x = np.clip((p - (1 - self.decay)) / self.decay, 0.0, 1.0)
        fallen = {"linear": x, "cosine": (1 - np.cos(np.pi * x)) / 2, "sqrt": np.sqrt(x)}[self.shape]
        return np.asarray(1 - (1 - self.floor) * fallen)

    def describe(self) -> str:
        """One clause for people."""
        shape = {"linear": "in a straight line", "cosine": "along half a cosine", "sqrt": "as 1 - sqrt"}[self.shape]
        return f"stays at its peak, then falls {shape} to {percent(self.floor)} over the last {100 * self.decay:.3g} %"
