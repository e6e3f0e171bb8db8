"""A curve made ready to be judged, what a verdict is, and the words that verdicts share."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.reporting.diagnosis import features

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrtune.core.curve import Curve, Direction
    from lrtune.core.outcome import Outcome

__all__ = [
    "MIN_REPORTS",
    "STUCK_SHARE",
    "TREND_P",
    "PreparedCurve",
    "Verdict",
    "VerdictKind",
    "far_below",
    "higher",
    "look_at",
    "lost",
    "lower",
    "number",
    "percent",
]

Floats: TypeAlias = npt.NDArray[np.float64]

# Thresholds that several rules share. A share is one of all that the run learned: from the untrained model down to
# its best level.
MIN_REPORTS = 6  # fewer leave no second differences to tell noise from trend
TREND_P = 0.01  # Kendall's test has to see the trend
STUCK_SHARE = 0.05  # of the untrained level's magnitude, or of what was learned once
LOST_SIGMAS = 5.0  # the lowest of many medians of three lies up to 3 sigma below their middle by chance
FAR_BELOW = 0.1  # a learning rate below a tenth of the best one: slow, not broken


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

    @property
    def key(self) -> str:
        """The kind as one lower-case word."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a curve shows.

    Attributes
    ----------
    kind
        In a few words.
    evidence
        The numbers that it rests on, by name.
    why
        The evidence as one sentence.
    advice
        What to do next, as one sentence.
    """

    kind: VerdictKind
    evidence: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCurve:
    """A curve, made ready to be judged: smaller is better, and everything before the first fault."""

    values: Floats  # the metric, finite
    course: Floats  # the same, smoothed
    train: Floats  # the training loss, finite; empty where there is none
    train_course: Floats  # the same, smoothed
    steps: npt.NDArray[np.int64]  # of the metric's reports
    bad_step: int | None  # where the first non-finite number was reported
    start: float  # level of the untrained model, else the first report
    known_start: bool
    level: float  # where it stands
    floor: float  # the best level it has held
    learned: float  # from the start to the floor, at least a hair
    sigma: float  # noise from report to report
    sign: float
    lr: float | None
    best_lr: float | None
    edge: float | None
    outcome: Outcome | None
    part: float  # of a full training, NaN where unknown

    def reported(self, value: float) -> float:
        """A value in the metric's own sign."""
        return self.sign * value


def look_at(
    curve: Curve,
    *,
    metric: str,
    direction: Direction,
    epochs: int | None,
    untrained: float | None,
    lr: float | None,
    best_lr: float | None,
    edge: float | None,
    outcome: Outcome | None,
) -> PreparedCurve:
    """A curve, ready to be judged; the parameters are those of :func:`lrtune.reporting.diagnosis.judge`."""
    sign = 1.0 if direction == "minimize" else -1.0
    held = [point for point in curve if metric in point.values]
    values = sign * np.array([point.values[metric] for point in held], dtype=np.float64)
    steps = np.array([point.step for point in held], dtype=np.int64)
    bad = next((p.step for p in curve if not all(math.isfinite(v) for v in p.values.values())), None)
    finite = np.isfinite(values) & (steps < (math.inf if bad is None else bad))
    values, steps = values[finite], steps[finite]
    known = None if untrained is None or not math.isfinite(untrained) else sign * untrained
    first = float(values[0]) if len(values) else math.nan
    start = first if known is None else known
    course = features.smooth(values) if len(values) else values
    floor = float(course.min()) if len(values) else math.nan
    train = _train(curve, metric)
    return PreparedCurve(
        values=values,
        course=course,
        train=train,
        train_course=features.smooth(train) if len(train) else train,
        steps=steps,
        bad_step=bad,
        start=start,
        known_start=known is not None,
        level=features.settled(values) if len(values) else math.nan,
        floor=floor,
        learned=max(start - floor, 1e-9 * max(1.0, abs(start))) if len(values) else math.nan,
        sigma=features.noise(values),
        sign=sign,
        lr=lr,
        best_lr=best_lr,
        edge=edge,
        outcome=outcome,
        part=curve.trained / epochs if epochs else math.nan,
    )


def _train(curve: Curve, metric: str) -> Floats:
    """The training loss where it is finite; empty where there is none."""
    name = next((n for n in curve.names if n.startswith("train") and n != metric and "loss" in n), None)
    values = np.array([]) if name is None else curve.of(name)[1]
    return np.asarray(values[np.isfinite(values)], dtype=np.float64)


def lost(look: PreparedCurve) -> bool:
    """Whether it had learned something, and has it no more."""
    if len(look.values) < features.SHORTEST or look.learned < STUCK_SHARE * abs(look.start):
        return False
    return look.level - look.floor > max(look.learned / 2, LOST_SIGMAS * look.sigma)


def far_below(look: PreparedCurve) -> bool:
    """Whether the learning rate is far below the best one that is known."""
    return look.lr is not None and look.best_lr is not None and look.lr < FAR_BELOW * look.best_lr


def lower(look: PreparedCurve, otherwise: str) -> str:
    """Advice to lower the learning rate, as concrete as the study allows."""
    if look.lr is None:
        return f"lower the learning rate to a third; {otherwise}"
    target = look.lr / 3.0
    if look.best_lr is not None and look.best_lr < look.lr:
        target = look.best_lr
    elif look.edge is not None and look.edge < look.lr:
        target = look.edge / 2.0
    return f"lower the learning rate to about {number(target, 1)}; {otherwise}"


def higher(look: PreparedCurve) -> str:
    """Advice to raise the learning rate, not beyond the edge."""
    if look.lr is None:
        return "raise the learning rate threefold, or train longer"
    target = look.best_lr if look.best_lr is not None and look.best_lr > look.lr else 3.0 * look.lr
    if look.edge is not None and look.lr < look.edge:
        target = min(target, look.edge / 2.0)
    if target <= look.lr:
        return "train longer: a higher learning rate comes too close to the edge"
    return f"raise the learning rate to about {number(target, 1)}, or train longer"


def number(value: float, digits: int = 3) -> str:
    """A number as people write it."""
    return f"{value:.{digits}g}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.2g} %"
