"""What one curve shows: a verdict with its evidence in numbers and a next step in words.

The rules are asked in a fixed order, the first that holds speaks: what ended the run, then what spoils
its numbers, then how far it got.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrtune.reporting.diagnosis.disturbances import edge as at_edge
from lrtune.reporting.diagnosis.disturbances import noisy, overfitting, spiked
from lrtune.reporting.diagnosis.endings import broken, non_finite, slow, too_short
from lrtune.reporting.diagnosis.prepared_curve import PreparedCurve, Verdict, VerdictKind, look_at
from lrtune.reporting.diagnosis.progress import falling, flat, healthy

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.curve import Curve, Direction
    from lrtune.core.outcome import Outcome

__all__ = ["RULES", "Verdict", "VerdictKind", "judge"]

RULES: tuple[Callable[[PreparedCurve], Verdict | None], ...] = (
    non_finite,
    slow,
    broken,
    too_short,
    overfitting,
    at_edge,
    spiked,
    noisy,
    falling,
    flat,
)


def judge(
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
) -> Verdict:
    """The verdict on one curve.

    Parameters
    ----------
    curve
        What the run reported.
    metric, direction
        The number that matters, and whether less of it is better. A series whose name begins with
        ``train`` is taken for the training loss.
    epochs
        Of a full training.
    lr, best_lr, edge
        The run's peak learning rate, the study's best one and the one where runs begin to diverge;
        they make the advice concrete, and only for a curve that did not learn do they change the kind.
    outcome
        How the run ended, where that is known.
    untrained
        The metric of the untrained model, or of a constant prediction.
    """
    look = look_at(
        curve,
        metric=metric,
        direction=direction,
        epochs=epochs,
        untrained=untrained,
        lr=lr,
        best_lr=best_lr,
        edge=edge,
        outcome=outcome,
    )
    for rule in RULES:
        verdict = rule(look)
        if verdict is not None:
            return verdict
    return healthy(look)
