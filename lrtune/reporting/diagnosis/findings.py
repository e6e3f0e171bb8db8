"""What a study can show, and what the rules of :mod:`lrtune.reporting.diagnosis.study_findings` read of a trial."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lrtune.core.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Finding", "FindingKind", "Trial"]


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
    ALL_EQUAL = "all are equal"
    NO_EFFECT = "the learning rate changes nothing"
    NOTHING_LEARNED = "nothing was learned about the learning rate"

    @property
    def key(self) -> str:
        """The kind as one lower-case word."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What the rules need to know of one trial.

    Attributes
    ----------
    lr
        Peak learning rate.
    value
        Its result in the metric's own sign; None where it has none.
    outcome
        None while it is open.
    settings
        The rest of its recipe, e.g. ``{"schedule": "cosine", "warmup": 0.1}``.
    """

    lr: float
    value: float | None = None
    outcome: Outcome | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def completed(self) -> bool:
        """Trained to its end, with a finite result."""
        return self.outcome is Outcome.COMPLETED and self.value is not None and math.isfinite(self.value)

    @property
    def diverged(self) -> bool:
        """Whether the learning rate was too high for it."""
        return self.outcome is not None and self.outcome.diverged


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a study shows: in a few words, its numbers, one sentence of them, and a next step."""

    kind: FindingKind
    evidence: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    advice: str = ""
