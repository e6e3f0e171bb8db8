"""The words of the verdicts (two enums, on curves and on studies), and a finding with its numbers and its advice."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Finding", "FindingKind", "VerdictKind", "percent"]


class VerdictKind(enum.Enum):
    """What a curve shows, as a few words that a user can read."""

    STILL_FALLING = "still improving at its end"
    HEALTHY = "healthy"
    PLATEAUED = "plateaued"
    NOISY = "noisy"
    SPIKED = "spiked and recovered"
    EDGE = "at the edge of stability"
    NON_FINITE = "diverged: non-finite"
    EXPLODED = "diverged: exploded"
    STUCK = "stuck at chance"
    OVERFITTING = "overfitting"
    UNSTABLE_VALIDATION = "unstable validation"
    TOO_SHORT = "too few reports to say"


class FindingKind(enum.Enum):
    """What a study shows, as a few words that a user can read."""

    NOTHING_COMPLETED = "nothing was trained to its end"
    BEST_AT_LOW_END = "the best lies at the low end of the range"
    BEST_AT_HIGH_END = "the best lies at the high end of the range"
    MOSTLY_DIVERGED = "most of the range diverges"
    WITHIN_NOISE = "all within noise"
    TOO_FEW = "too few full trainings to say"
    WINNER_AT_EDGE = "the winner is at the edge of stability"
    WARMUP_WIDENS = "warmup widens the usable range"
    SCHEDULE_IRRELEVANT = "the schedule does not matter"
    CLEAR = "a clear answer"
    LIKELY = "a likely answer"
    UNSURE = "not sure"
    ALL_EQUAL = "all are equal"
    NO_EFFECT = "the learning rate changes nothing"
    NOTHING_LEARNED = "nothing was learned about the learning rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a curve or a study shows.

    Attributes
    ----------
    kind
        What, in a few words.
    evidence
        The numbers that it rests on, by name.
    why
        The evidence as one sentence.
    advice
        What to do next, as one sentence.
    """

    kind: VerdictKind | FindingKind
    evidence: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    advice: str = ""


def percent(probability: float) -> str:
    """A probability as people write it; never certain, and never impossible."""
    return f"{100 * min(max(probability, 0.01), 0.99):.0f} %"
