"""A trial's curve prepared for the rules of ``curve_verdict``: cleaned, smoothed, and with its levels and noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.reporting.diagnosis import features

if TYPE_CHECKING:
    from lrtune.core.curve import Curve, Direction
    from lrtune.core.outcome import Outcome

__all__ = ["LEVEL_SHARE", "PreparedCurve"]

Floats: TypeAlias = npt.NDArray[np.float64]

LEVEL_SHARE = 0.05  # of the untrained level's magnitude, or of the largest improvement so far
LOST_SIGMAS = 5.0  # the lowest of many medians of three lies up to 3 sigma below their middle by chance
FAR_BELOW = 0.1  # a learning rate below a tenth of the best one: slow, not broken


class PreparedCurve:
    """A curve as the rules read it: a smaller metric is better, and everything before the first non-finite number.

    Parameters
    ----------
    curve
        What the trial reported.
    metric, direction
        The metric that is optimized, and whether less of it is better. A series whose name begins with
        ``train`` is taken for the training loss.
    epochs
        Of a full training.
    lr, best_lr, edge
        The trial's peak learning rate, the study's best one and the one where trials begin to diverge;
        they make the advice concrete, and only for a curve that did not improve do they change the kind.
    outcome
        How the trial ended, where that is known.
    untrained
        The metric of the untrained model, or of a constant prediction.

    Attributes
    ----------
    values, smoothed, steps
        The metric, its running median, and the step of each report; shape (n,).
    train, train_smoothed
        The training loss and its running median, shape (m,); empty where there is none.
    bad_step
        Step of the first report that holds a non-finite number, or None.
    start, known_start
        The metric of the untrained model where it is known, else the first report; and whether it is known.
    level, floor
        The metric at the end (median of the last tenth), and the lowest value of the running median.
    improvement
        From `start` to `floor`; positive.
    sigma
        Standard deviation of the metric's noise from report to report.
    part
        Which part of a full training was trained; NaN where `epochs` is unknown.
    """

    def __init__(
        self,
        curve: Curve,
        *,
        metric: str,
        direction: Direction = "minimize",
        epochs: int | None = None,
        lr: float | None = None,
        outcome: Outcome | None = None,
        untrained: float | None = None,
        best_lr: float | None = None,
        edge: float | None = None,
    ) -> None:
        self.lr, self.best_lr, self.edge, self.outcome = lr, best_lr, edge, outcome
        self.sign = 1.0 if direction == "minimize" else -1.0
        self.bad_step = next((p.step for p in curve if not all(map(math.isfinite, p.values.values()))), None)
        reported = [point for point in curve if metric in point.values]
        values = self.sign * np.array([point.values[metric] for point in reported], dtype=np.float64)
        steps = np.array([point.step for point in reported], dtype=np.int64)
        usable = np.isfinite(values) & (steps < (math.inf if self.bad_step is None else self.bad_step))
        self.values, self.steps = values[usable], steps[usable]
        self.smoothed = features.smooth(self.values)
        self.train = _train_loss(curve, metric)
        self.train_smoothed = features.smooth(self.train)
        self.known_start = untrained is not None and math.isfinite(untrained)
        self.start = self.level = self.floor = self.improvement = math.nan
        if len(self.values):
            self.start = float(self.values[0])
            self.level = features.settled(self.values)
            self.floor = float(self.smoothed.min())
        if untrained is not None and self.known_start:
            self.start = self.sign * untrained
        if len(self.values):
            self.improvement = max(self.start - self.floor, 1e-9 * max(1.0, abs(self.start)))
        self.sigma = features.noise(self.values)
        self.part = curve.trained / epochs if epochs else math.nan

    def reported(self, value: float) -> float:
        """A value in the metric's own sign."""
        return self.sign * value

    @property
    def has_relapsed(self) -> bool:
        """Whether it had improved on the untrained model, and lost more than half of that by its end."""
        if len(self.values) < features.SHORTEST or self.improvement < LEVEL_SHARE * abs(self.start):
            return False
        return self.level - self.floor > max(self.improvement / 2, LOST_SIGMAS * self.sigma)

    @property
    def is_far_below_best(self) -> bool:
        """Whether the learning rate is far below the best one that is known."""
        return self.lr is not None and self.best_lr is not None and self.lr < FAR_BELOW * self.best_lr

    def lower(self, otherwise: str) -> str:
        """Advice to lower the learning rate, as concrete as the study allows."""
        if self.lr is None:
            return f"lower the learning rate to a third; {otherwise}"
        target = self.lr / 3.0
        if self.best_lr is not None and self.best_lr < self.lr:
            target = self.best_lr
        elif self.edge is not None and self.edge < self.lr:
            target = self.edge / 2.0
        return f"lower the learning rate to about {target:.1g}; {otherwise}"

    def higher(self) -> str:
        """Advice to raise the learning rate, not beyond the edge."""
        if self.lr is None:
            return "raise the learning rate threefold, or train longer"
        target = self.best_lr if self.best_lr is not None and self.best_lr > self.lr else 3.0 * self.lr
        if self.edge is not None and self.lr < self.edge:
            target = min(target, self.edge / 2.0)
        if target <= self.lr:
            return "train longer: a higher learning rate comes too close to the edge"
        return f"raise the learning rate to about {target:.1g}, or train longer"


def _train_loss(curve: Curve, metric: str) -> Floats:
    """The training loss where it is finite; empty where there is none."""
    name = next((n for n in curve.names if n.startswith("train") and n != metric and "loss" in n), "")
    values = curve.of(name)[1]
    return values[np.isfinite(values)]
