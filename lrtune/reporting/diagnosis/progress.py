"""How far a run got: still falling, flat, or healthy."""

from __future__ import annotations

import numpy as np

from lrtune.reporting.diagnosis import features
from lrtune.reporting.diagnosis.prepared_curve import (
    MIN_REPORTS,
    TREND_P,
    PreparedCurve,
    Verdict,
    VerdictKind,
    higher,
    number,
    percent,
)

__all__ = ["falling", "flat", "healthy"]

FALLING_SHARE = 0.10  # gained in the last third: an exponential with a time constant above T / 2.8 gains more
FLAT_SHARE = 0.01  # gained in the second half: one with a time constant below T / 9 gains less


def falling(look: PreparedCurve) -> Verdict | None:
    """Whether it was still getting better when it ended."""
    third = max(2, len(look.values) // 3)
    course = look.course
    begin = max(len(course) - third - 1, 0)
    gained = features.middle(course[begin : begin + 3]) - look.level
    share = gained / look.learned
    slope, p_value = features.trend(look.values[-max(2 * third, MIN_REPORTS) :])
    if share < FALLING_SHARE or slope >= 0 or p_value >= TREND_P:
        return None
    early = look.part < 1 - 1e-6
    return Verdict(
        kind=VerdictKind.STILL_FALLING,
        evidence={"gained": gained, "share": share, "p": p_value},
        why=f"{percent(share)} of all that it learned came in the last third of its reports"
        + (f", at {percent(look.part)} of a full training" if early else ""),
        advice="it was stopped on its way; let it train on if it is among the best" if early else higher(look),
    )


def flat(look: PreparedCurve) -> Verdict | None:
    """Whether its second half brought nothing."""
    half = len(look.values) // 2
    course = look.course
    gained = features.middle(course[half - 1 : half + 2]) - look.level
    share = gained / look.learned
    if share >= max(FLAT_SHARE, 2 * look.sigma / look.learned):
        return None
    reached = int(np.argmax(course <= look.level + max(FLAT_SHARE * look.learned, 2 * look.sigma)))
    step = int(look.steps[reached])
    return Verdict(
        kind=VerdictKind.PLATEAUED,
        evidence={"gained": gained, "share": share, "step": step},
        why=f"it has been at its final level ({number(look.reported(look.level))}) since step {step}; "
        f"the second half of the reports brought {percent(max(share, 0.0))} of all that was learned",
        advice="fewer epochs would do, or a schedule that decays in the time left",
    )


def healthy(look: PreparedCurve) -> Verdict:
    """What is left: it learned, and is done."""
    third = max(2, len(look.values) // 3)
    gained = float(look.course[-third]) - look.level
    return Verdict(
        kind=VerdictKind.HEALTHY,
        evidence={"share": gained / look.learned, "noise": look.sigma},
        why=f"it learned steadily, {percent(gained / look.learned)} of it in the last third, "
        f"with noise of {number(look.sigma)}",
        advice="nothing to change",
    )
