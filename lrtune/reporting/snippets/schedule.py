"""A schedule as lines of code: a function of the step, or a class that follows the metric (``plateau``)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lrtune.schedules import Plateau, Schedule
from lrtune.schedules.base import written
from lrtune.schedules.cycles import CosineRestarts, Cyclical, OneCycle
from lrtune.schedules.decays import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    MultiStep,
    Polynomial,
    Step,
    WarmupStableDecay,
)
from lrtune.schedules.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lrtune.core.recipe import Recipe

__all__ = ["FORMULAS", "imports", "multiplier", "plateau_class", "steps"]


def imports(schedule: Schedule) -> list[str]:
    """What :func:`multiplier` needs."""
    if isinstance(schedule, Plateau):
        return []
    formula = FORMULAS.get(type(schedule))
    if formula is None:
        return ["from lrtune.schedules import parse"]
    return ["import math"] if any("math." in line for line in formula(schedule)) else []


def steps(recipe: Recipe, total_steps: int | None, batches: str, setup: Mapping[str, Any]) -> list[str]:
    """The lengths of run and warmup in steps; `batches` is what holds the minibatches of an epoch."""
    comment = f"  # {int(setup['steps'])} in the search" if "steps" in setup else ""
    total = f"{recipe.epochs} * len({batches}){comment}" if total_steps is None else str(total_steps)
    warmup = written(recipe.warmup) if recipe.warmup >= 1 else f"{recipe.warmup!r} * total_steps"
    return [f"total_steps = {total}", *([f"warmup_steps = {warmup}"] if recipe.warmup else [])]


def multiplier(recipe: Recipe, schedule: Schedule) -> list[str]:
    """``def multiplier(step)``: what the peak learning rate is multiplied by, warmup included.

    A schedule without a formula in :data:`FORMULAS` is called, so that the code needs lrtune.
    """
    made: list[str] = []
    if isinstance(schedule, Plateau):
        body, start = ["return plateau.multiplier"], "plateau.multiplier * "
    else:
        formula, first = FORMULAS.get(type(schedule)), schedule(0.0)
        if formula is None:
            made = [f"lr_schedule = parse({str(schedule)!r})", "", ""]
        body = ["return lr_schedule(p)"] if formula is None else formula(schedule)
        start = "" if first == 1 else f"{first!r} * "
    progress = ["p = min(step / total_steps, 1)"]
    if recipe.warmup:
        progress = [
            "if step < warmup_steps:",
            f"    return {start}step / warmup_steps",
            "p = min((step - warmup_steps) / (total_steps - warmup_steps), 1)",
        ]
    used = progress if any(re.search(r"\bp\b", line) for line in body) else progress[:-1]
    return [*made, "def multiplier(step):", *(f"    {line}" for line in [*used, *body])]


def plateau_class(recipe: Recipe, plateau: Plateau, method: str, then: Sequence[str] = ()) -> list[str]:
    """``class Plateau``, whose `method` takes the metric; `then` are lines at the end of that method."""
    sign, beyond = ("<", "-") if plateau.mode == "min" else (">", "+")
    end = repr(recipe.warmup) if recipe.warmup < 1 else "warmup_steps / total_steps"
    early = f"if self.steps / total_steps < {end}:  # what is measured during the warmup does not count"
    body = [
        *([early, "    return"] if recipe.warmup else []),
        f"margin = {plateau.threshold!r} * abs(self.best or 0)  # of the size of the best: losses may be negative",
        f"if metric == metric and (self.best is None or metric {sign} self.best {beyond} margin):  # NaN is no best",
        "    self.best, self.bad = metric, 0",
        "else:",
        "    self.bad += 1",
        "if self.resting > 0:",
        "    self.resting, self.bad = self.resting - 1, 0",
        f"if self.bad > {plateau.patience}:",
        f"    self.multiplier = max(self.multiplier * {plateau.factor!r}, {plateau.floor!r})",
        f"    self.resting, self.bad = {plateau.cooldown}, 0",
        *then,
    ]
    counted = ["steps = 0  # taken so far"] if recipe.warmup else []
    state = ["best, bad, resting, multiplier = None, 0, 0, 1.0", *counted, "", f"def {method}(self, metric):"]
    return ["class Plateau:", *(f"    {line}".rstrip() for line in [*state, *(f"    {line}" for line in body)])]


def _wsd(s: WarmupStableDecay) -> list[str]:
    left = {"linear": "1 - x", "cosine": "(1 + math.cos(math.pi * x)) / 2", "sqrt": "1 - math.sqrt(x)"}[s.shape]
    return [f"x = max((p - {1 - s.decay!r}) / {s.decay!r}, 0)", _from_floor(s.floor, f"({left})")]


def _cosine_restarts(s: CosineRestarts) -> list[str]:
    return [
        f"length = {float(s.starts()[1])!r}  # of the first cycle",
        f"for _ in range({s.cycles - 1}):",
        "    if p < length - 1e-12:",
        "        break",
        f"    p, length = max(p - length, 0), length * {s.growth!r}",
        _from_floor(s.floor, "(1 + math.cos(math.pi * min(p / length, 1))) / 2"),
    ]


def _cyclical(s: Cyclical) -> list[str]:
    height = {"triangular": "", "triangular2": " * 0.5**cycle", "exp_range": f" * {s.end!r} ** p"}[s.mode]
    return [
        f"cycle = min(math.floor(p * {s.cycles} + 1e-9), {s.cycles - 1})",
        f"x = max(p * {s.cycles} - cycle, 0)",
        f"height = x / {s.up!r} if x <= {s.up!r} else (1 - x) / {1 - s.up!r}",
        _from_floor(s.floor, f"height{height}"),
    ]


def _onecycle(s: OneCycle) -> list[str]:
    bent = "(1 - math.cos(math.pi * x)) / 2" if s.shape == "cosine" else "x"
    return [
        f"if p <= {s.up!r}:",
        f"    x = p / {s.up!r}",
        f"    return {s.start!r} + {1 - s.start!r} * {bent}",
        f"x = (p - {s.up!r}) / {1 - s.up!r}",
        f"return 1 - {1 - s.end!r} * {bent}",
    ]


def _from_floor(floor: float, left: str) -> str:
    return f"return {floor!r} + {1 - floor!r} * {left}" if floor else f"return {left}"


FORMULAS: dict[type[Schedule], Callable[[Any], list[str]]] = {
    Constant: lambda _: ["return 1.0"],
    Step: lambda s: [f"return {s.factor!r} ** math.floor(p / {s.every!r} + 1e-9)"],
    MultiStep: lambda s: [f"return {s.factor!r} ** sum(p * (1 + 1e-9) >= at for at in {list(s.at)!r})"],
    Exponential: lambda s: [f"return {s.end!r} ** p"],
    Polynomial: lambda s: [_from_floor(s.floor, f"(1 - p) ** {s.power!r}")],
    Linear: lambda s: [_from_floor(s.floor, "(1 - p)")],
    Cosine: lambda s: [_from_floor(s.floor, "(1 + math.cos(math.pi * p)) / 2")],
    InverseSqrt: lambda s: [f"return 1 / math.sqrt(1 + p / {s.timescale!r})"],
    WarmupStableDecay: _wsd,
    CosineRestarts: _cosine_restarts,
    Cyclical: _cyclical,
    OneCycle: _onecycle,
    Sweep: lambda s: [f"return {s.ratio!r} ** (min(p / {s.over!r}, 1) - 1)"],
}
"""The lines of ``multiplier`` for a schedule, where ``p`` is the progress in [0, 1] after the warmup."""
