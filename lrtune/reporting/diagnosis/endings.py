"""What ended a run: numbers that are none, an explosion, chance; or that it has hardly begun."""

from __future__ import annotations

import math

from lrtune.core.outcome import Outcome
from lrtune.reporting.diagnosis import features
from lrtune.reporting.diagnosis.prepared_curve import (
    MIN_REPORTS,
    STUCK_SHARE,
    TREND_P,
    PreparedCurve,
    Verdict,
    VerdictKind,
    far_below,
    higher,
    lost,
    lower,
    number,
)

__all__ = ["broken", "non_finite", "slow", "too_short"]

LEVEL_SIGMAS = 3.0  # of a median's own standard error
NOISE_SIGMAS = 4.0  # how far a level has to move to be no noise: levels are medians of three and more
EXPLODED_SHARE = 0.5  # above the untrained level, in the larger of its magnitude and what was learned
FEWEST = 3  # reports that make a level
SLOW_SHARE = 0.1  # of the untrained level


def non_finite(look: PreparedCurve) -> Verdict | None:
    """Whether a number became NaN or infinite."""
    if look.bad_step is None and look.outcome is not Outcome.NON_FINITE:
        return None
    step = look.bad_step if look.bad_step is not None else int(look.steps[-1]) if len(look.steps) else 0
    return Verdict(
        kind=VerdictKind.NON_FINITE,
        evidence={"step": step},
        why=f"a number became NaN or infinite by step {step}",
        advice=lower(
            look, "if it stays non-finite at any learning rate, look at the data and the loss for log(0) or 0/0"
        ),
    )


def broken(look: PreparedCurve) -> Verdict | None:
    """Whether it exploded, or stands at the level of knowing nothing."""
    if look.outcome is Outcome.EXPLODED or (look.outcome is not Outcome.STUCK and _has_exploded(look)):
        return _exploded(look)
    if look.outcome is Outcome.STUCK or _is_stuck(look):
        return _stuck(look)
    return None


def _has_exploded(look: PreparedCurve) -> bool:
    if len(look.values) < FEWEST:
        return False
    end = features.middle(look.values[-3:])
    scale = max(abs(look.start), look.learned)
    if end > look.start + EXPLODED_SHARE * scale + NOISE_SIGMAS * look.sigma:
        return True
    rising, p_value = features.trend(look.values[len(look.values) // 2 :])
    return rising > 0 and p_value < TREND_P and end > look.start + STUCK_SHARE * scale + NOISE_SIGMAS * look.sigma


def _exploded(look: PreparedCurve) -> Verdict:
    below = [i for i, value in enumerate(look.values) if value <= look.start]
    onset = min(below[-1] + 1, len(look.steps) - 1) if below else 0
    step = int(look.steps[onset]) if len(look.steps) else 0
    last = float(look.values[-1]) if len(look.values) else math.nan
    return Verdict(
        kind=VerdictKind.EXPLODED,
        evidence={"step": step, "last": look.reported(last), "untrained": look.reported(look.start)},
        why=f"it left the level of the untrained model ({number(look.reported(look.start))}) for good by step {step} "
        f"and stood at {number(look.reported(last))} at its end",
        advice=lower(look, "or warm up over 5 % of the steps, or clip the gradient"),
    )


def _is_stuck(look: PreparedCurve) -> bool:
    n = len(look.values)
    if n <= FEWEST:
        return False
    margin = STUCK_SHARE * max(look.learned, abs(look.start) if look.known_start else 0.0)
    if look.start - look.level <= max(margin, look.sigma) and lost(look):
        return True
    later = features.middle(look.values[n // 2 :])
    if look.start - later > max(margin, LEVEL_SIGMAS * look.sigma / math.sqrt(n / 2)) or not look.known_start:
        return False
    rose = float(look.course.max()) > look.start + margin  # a run that is only slow never rises above its start
    direction, p_value = features.trend(look.values)
    return not far_below(look) and (rose or not (direction < 0 and p_value < TREND_P))


def _stuck(look: PreparedCurve) -> Verdict:
    level = look.level if len(look.values) else math.nan
    story = f", after it had been at {number(look.reported(look.floor))}" if lost(look) else " and never left it"
    return Verdict(
        kind=VerdictKind.STUCK,
        evidence={"level": look.reported(level), "untrained": look.reported(look.start)},
        why=f"it ended at {number(look.reported(level))}, "
        f"the level of knowing nothing ({number(look.reported(look.start))}){story}",
        advice=higher(look)
        if far_below(look)
        else lower(look, "units that died at a high learning rate stay dead, so start again"),
    )


def slow(look: PreparedCurve) -> Verdict | None:
    """A learning rate so small that there is nothing to see: its noise is no noise, its level no chance."""
    diverged = look.outcome is not None and look.outcome.diverged
    moved = look.start - look.level
    if diverged or not far_below(look) or len(look.values) < MIN_REPORTS or moved > SLOW_SHARE * abs(look.start):
        return None
    if lost(look):
        return None
    return Verdict(
        kind=VerdictKind.STILL_FALLING,
        evidence={"moved": moved},
        why=f"it had hardly moved: from {number(look.reported(look.start))} to {number(look.reported(look.level))}",
        advice=higher(look),
    )


def too_short(look: PreparedCurve) -> Verdict | None:
    """Whether there are too few reports for anything else."""
    n = len(look.values)
    if n >= MIN_REPORTS:
        return None
    return Verdict(
        kind=VerdictKind.TOO_SHORT,
        evidence={"reports": n},
        why=f"{n} report{'s' if n != 1 else ''} of the metric; a verdict takes {MIN_REPORTS}",
        advice="train it longer, or report more often",
    )
