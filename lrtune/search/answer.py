"""The answer: which trial is best, which learning rates are as good, and where divergence begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lrtune.outcome import Outcome

if TYPE_CHECKING:
    from lrtune.search.base import Situation

__all__ = ["Answer", "Edge", "answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Where divergence begins; None where it is open."""

    lr: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a study's trials say.

    Attributes
    ----------
    best
        Number of the trial to use; None where none completed.
    band
        Learning rates as good as the best within noise.
    edge
        Where divergence begins.
    warnings
        What the user should know, one sentence each.
    """

    best: int | None = None
    band: tuple[float, float] | None = None
    edge: Edge = field(default_factory=Edge)
    warnings: tuple[str, ...] = ()


def answer(situation: Situation) -> Answer:
    """Read the answer off the trials of any strategy."""
    done = [seen for seen in situation.trials if seen.outcome is Outcome.COMPLETED and seen.result is not None]
    best = min(done, key=lambda seen: situation.sign * float(seen.result or 0.0), default=None)
    bad = sorted(s.recipe.lr for s in situation.trials if s.outcome is not None and s.outcome.diverged)
    good = sorted(s.recipe.lr for s in done)
    high = next((lr for lr in bad if not good or lr > good[-1]), None)
    low = max((lr for lr in good if high is None or lr < high), default=None)
    edge = Edge() if high is None else Edge(lr=high if low is None else (low * high) ** 0.5, low=low, high=high)
    return Answer(best=None if best is None else best.number, edge=edge)
