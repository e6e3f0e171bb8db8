"""What spoils a curve's numbers: overfitting, the edge of stability, spikes, noise."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.reporting.diagnosis import features
from lrtune.reporting.diagnosis.prepared_curve import (
    MIN_REPORTS,
    TREND_P,
    PreparedCurve,
    Verdict,
    VerdictKind,
    lower,
    number,
    percent,
)

__all__ = ["edge", "noisy", "overfitting", "spiked"]

Floats: TypeAlias = npt.NDArray[np.float64]

NOISE_SHARE = 0.05  # from report to report; at 1/20 of all learned, single values mislead by several percent
UNSTABLE_RATIO = 3.0  # held-out noise over training noise, each as a share
BURST_SHARE = 0.05  # a rise below this is not worth a word
SPIKE_SHARE = 0.10  # nor is a single one below this
EDGE_BURSTS = 3  # one or two spikes are an accident; three are a regime (Cohen et al. 2021, section 3)
EDGE_ALTERNATION = 0.8  # white noise has 0.5, an oscillation of period two (lr * curvature near 2) has 1
EDGE_NOISE = 0.5  # where the noise alone is half of what was learned, bursts are noise
OVERFIT_LOSS = 0.05  # Prechelt (1998), "Early stopping - but when?": generalisation loss GL_5
NOISE_SIGMAS = 4.0  # how far a level has to move to be no noise: levels are medians of three and more
VISIBLE_SHARE = 0.01  # less is not seen in a figure
HALF_NORMAL = 0.954  # the median of |N(0, 2)|
TINY = 1e-12


def overfitting(look: PreparedCurve) -> Verdict | None:
    """Whether the held-out metric turned for good while the training loss went on falling."""
    course = look.course
    turn = int(np.argmin(course))
    rise = look.level - float(course[turn])
    positive_loss = look.sign > 0 and bool((look.values > 0).all())
    share = OVERFIT_LOSS * min(look.learned, float(course[turn]) if positive_loss else math.inf)
    if len(look.train) < MIN_REPORTS or rise <= max(share, NOISE_SIGMAS * look.sigma, VISIBLE_SHARE * look.learned):
        return None
    slope, p_value = features.trend(course[turn:])
    at = round(turn / max(len(course) - 1, 1) * (len(look.train) - 1))
    later, spread = look.train[at:], features.noise(look.train)
    fell = features.settled(look.train[: at + 1]) - features.settled(later) if len(later) else 0.0
    if slope <= 0 or p_value >= TREND_P or fell <= spread / 2:
        return None
    step = int(look.steps[turn])
    return Verdict(
        kind=VerdictKind.OVERFITTING,
        evidence={
            "step": step,
            "best": look.reported(float(course[turn])),
            "last": look.reported(look.level),
            "train_fell": fell,
        },
        why=f"the held-out metric was best at step {step} ({number(look.reported(float(course[turn])))}) and ended at "
        f"{number(look.reported(look.level))} while the training loss fell by another {number(fell)}",
        advice=f'stop near step {step} (value = "best"), add weight decay or data augmentation, or use fewer epochs',
    )


def edge(look: PreparedCurve) -> Verdict | None:
    """Whether it oscillates, or bursts again and again: the learning rate is near 2 / curvature (Cohen et al. 2021)."""
    for values, course, name in _series(look):
        if len(values) < 2 * MIN_REPORTS:
            continue
        sigma = features.noise(values)
        learned = max(float(values[0] if name != "metric" else look.start) - float(course.min()), TINY)
        regular = features.alternation(values)
        swing = features.middle(np.abs(np.diff(values[len(values) // 4 :])))
        found = features.bursts(values, _quiet(values), BURST_SHARE * learned)
        if regular >= EDGE_ALTERNATION and swing > VISIBLE_SHARE * learned:
            told = f"the {name} goes up and down by {number(swing)} at every report (regularity {regular:.2f} of 1)"
        elif len(found) >= EDGE_BURSTS and sigma < EDGE_NOISE * learned:
            told = f"the {name} rose {len(found)} times by up to {number(max(b.height for b in found))} and came back"
        else:
            continue
        return Verdict(
            kind=VerdictKind.EDGE,
            evidence={"alternation": regular, "swing": swing, "bursts": len(found)},
            why=told,
            advice=lower(look, "or warm up over 5 % of the steps; a decaying schedule also leads away from the edge"),
        )
    return None


def _series(look: PreparedCurve) -> tuple[tuple[Floats, Floats, str], ...]:
    """What is looked at for disturbances: each series, the same smoothed, and its name."""
    return (look.values, look.course, "metric"), (look.train, look.train_course, "training loss")


def _quiet(values: Floats) -> float:
    """Noise of the quiet part: bursts that are frequent would raise the usual estimate."""
    steps = np.abs(np.diff(values[len(values) // 6 :]))
    return features.middle(steps) / HALF_NORMAL if len(steps) else 0.0


def spiked(look: PreparedCurve) -> Verdict | None:
    """Whether it rose once or twice and came back."""
    for values, course, name in _series(look):
        if len(values) < MIN_REPORTS:
            continue
        learned = max(float(values[0]) - float(course.min()), look.learned if name == "metric" else 0.0)
        found = features.bursts(values, features.noise(values), SPIKE_SHARE * max(learned, TINY))
        if not found:
            continue
        worst = max(found, key=lambda burst: burst.height)
        step = int(look.steps[min(worst.peak, len(look.steps) - 1)])
        return Verdict(
            kind=VerdictKind.SPIKED,
            evidence={"step": step, "height": worst.height, "reports": worst.end - worst.begin, "spikes": len(found)},
            why=f"the {name} rose by {number(worst.height)} at step {step} and was back {worst.end - worst.begin} "
            f"report{'s' if worst.end - worst.begin != 1 else ''} later",
            advice="harmless once; if repeats do it too, clip the gradient or warm up over 5 % of the steps",
        )
    return None


def noisy(look: PreparedCurve) -> Verdict | None:
    """Whether one report says little: on both parts, or on the held-out part alone."""
    share = look.sigma / look.learned
    if share < NOISE_SHARE:
        return None
    evidence = {"noise": look.sigma, "share": share}
    if len(look.train) >= MIN_REPORTS:
        span = float(look.train[0]) - float(look.train_course.min())
        train_share = features.noise(look.train) / span if span > 0 else math.inf
        evidence["train_share"] = train_share
        if share > UNSTABLE_RATIO * train_share:
            return Verdict(
                kind=VerdictKind.UNSTABLE_VALIDATION,
                evidence=evidence,
                why=f"the held-out metric moves by {number(look.sigma)} from report to report, "
                f"{percent(share)} of all that was learned, the training loss by {percent(train_share)}",
                advice="hold out more data or evaluate averaged weights; with BatchNorm look at its momentum and batch",
            )
    return Verdict(
        kind=VerdictKind.NOISY,
        evidence=evidence,
        why=f"it moves by {number(look.sigma)} from report to report, {percent(share)} of all that was learned",
        advice='use a larger batch, a schedule that decays to zero, or the mean of the last reports (value = "tail:3")',
    )
