"""Whether the learning rate has no effect: runs report the same numbers at every learning rate.

So it is with a generator that never reads ``recipe.lr``, or an optimizer or estimator that ignores it. Curves are
compared as they are stored, to seven digits; two runs that train at all, under learning rates that differ, are never
equal to that many digits at every report.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrtune.core.curve import Curve
    from lrtune.core.recipe import Recipe

__all__ = ["FEWEST", "MOVES", "Alike", "alike"]

FEWEST = 3  # learning rates that must agree: two runs of a coarse metric may by chance
MOVES = 2  # changes along a pair of curves that make their agreement no coincidence
APART = 1.1  # factor between the lowest and the highest of them, below which they need not differ
COVERED = 0.8  # of the range's decades that runs must span before curves that never change say anything of all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Runs under different learning rates, all else equal, that reported the same numbers.

    Attributes
    ----------
    runs
        How many; fewer than two where none can be compared.
    low, high
        Their lowest and highest learning rate.
    moving
        Whether at least three of them changed together, again and again: then the learning rate changes nothing. Else
        they have not changed, for an unknown reason.
    sure
        Whether it is said on enough: on runs that move, or on runs over the whole range that never did until their end.
    """

    runs: int
    low: float
    high: float
    moving: bool
    sure: bool

    @property
    def why(self) -> str:
        """The observation, as the middle of a sentence."""
        runs = f"{self.runs} runs at learning rates from {self.low:.3g} to {self.high:.3g} reported identical numbers"
        return runs if self.moving else f"{runs}, which never changed"

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.moving:
            return "pass recipe.lr on to the optimizer, or choose one that does not ignore it, and begin a new study"
        return "see that the training uses recipe.lr, let a metric decide that can change, and begin a new study"

    @property
    def head(self) -> str:
        """In a few words what it means; of curves that never change it is not known why."""
        return "the learning rate changes nothing" if self.moving else "nothing was learned about the learning rate"

    def __str__(self) -> str:
        return f"{self.head}: {self.why}; {self.advice}"


def alike(runs: Iterable[tuple[Recipe, Curve, bool]], metric: str, lr_range: tuple[float, float]) -> Alike | None:
    """The runs that agree at every report that they share; None where any two differ.

    Parameters
    ----------
    runs
        Recipe and curve of each, and whether it was trained to its end. Those whose recipes differ in more than the
        learning rate are not compared.
    metric
        What counts; whatever has "loss" in its name is compared beside it. Another number may be the time, or the
        learning rate itself.
    lr_range
        The range that is searched.
    """
    groups: dict[Recipe, list[tuple[float, Curve, bool]]] = defaultdict(list)
    for recipe, curve, completed in runs:
        if len(curve):
            groups[dataclasses.replace(recipe, lr=1.0)].append((recipe.lr, curve, completed))
    lrs: set[float] = set()
    moving = ended = 0
    for group in groups.values():
        reference = max(group, key=lambda run: (run[2], len(run[1])))
        for lr, curve, completed in group:
            if lr == reference[0]:
                continue
            moves = _moves(curve, reference[1], metric)
            if moves is None:
                return None
            lrs |= {lr, reference[0]}
            moving += moves >= MOVES
            ended += completed and reference[2]
    low, high = min(lrs, default=lr_range[0]), max(lrs, default=lr_range[0])
    spanned = math.log(high / low) >= COVERED * math.log(lr_range[1] / lr_range[0])
    enough = len(lrs) >= FEWEST and high >= APART * low
    move, stand = moving >= FEWEST - 1, spanned and ended >= FEWEST - 1
    return Alike(runs=len(lrs), low=low, high=high, moving=move, sure=enough and (move or stand))


def _moves(one: Curve, other: Curve, metric: str) -> int | None:
    """How often the numbers change along the reports that two curves share, from 0; None where they differ at any.

    They also differ where a number is not finite: such a run has diverged.
    """
    shared: list[dict[str, float]] = []
    others = {point.step: point for point in other}
    for mine, yours in ((point, others[point.step]) for point in one if point.step in others):
        names = [name for name in mine.values if name in yours.values and (name == metric or "loss" in name)]
        now = {name: mine.values[name] for name in names}
        if any(yours.values[name] != value or not math.isfinite(value) for name, value in now.items()):
            return None
        if now:
            shared.append(now)
    return sum(before != now for before, now in itertools.pairwise(shared))
