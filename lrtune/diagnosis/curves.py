"""What one curve shows: a verdict with its evidence in numbers and a next step in words.

The rules are asked in a fixed order, the first that holds speaks: what ended the run, then what spoils
its numbers, then how far it got.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.diagnosis import features
from lrtune.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lrtune.curve import Curve, Direction

__all__ = ["Verdict", "VerdictKind", "judge"]

Floats: TypeAlias = npt.NDArray[np.float64]

# Thresholds. A share is one of all that the run learned: from the untrained model down to its best level.
MIN_REPORTS = 6  # fewer leave no second differences to tell noise from trend
FALLING_SHARE = 0.10  # gained in the last third: an exponential with a time constant above T / 2.8 gains more
FLAT_SHARE = 0.01  # gained in the second half: one with a time constant below T / 9 gains less
TREND_P = 0.01  # Kendall's test has to see the trend
NOISE_SHARE = 0.05  # from report to report; at 1/20 of all learned, single values mislead by several percent
UNSTABLE_RATIO = 3.0  # held-out noise over training noise, each as a share
BURST_SHARE = 0.05  # a rise below this is not worth a word
EDGE_BURSTS = 3  # one or two spikes are an accident; three are a regime (Cohen et al. 2021, section 3)
EDGE_ALTERNATION = 0.8  # white noise has 0.5, an oscillation of period two (lr * curvature near 2) has 1
OVERFIT_LOSS = 0.05  # Prechelt (1998), "Early stopping - but when?": generalisation loss GL_5
LOST_SIGMAS = 5.0  # the lowest of many medians of three lies up to 3 sigma below their middle by chance
LEVEL_SIGMAS = 3.0  # of a median's own standard error
NOISE_SIGMAS = 4.0  # how far a level has to move to be no noise: levels are medians of three and more
EXPLODED_SHARE = 0.5  # above the untrained level, in the larger of its magnitude and what was learned
STUCK_SHARE = 0.05  # of the untrained level's magnitude, or of what was learned once
SLOW_SHARE = 0.1  # of the untrained level
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
class _Look:
    """A curve, made ready to be judged: smaller is better, and everything before the first fault."""

    values: Floats  # the metric, finite
    course: Floats  # the same, smoothed
    train: Floats  # the training loss, finite; empty where there is none
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

    def told(self, value: float) -> float:
        """A value in the metric's own sign."""
        return self.sign * value


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
    look = _look(curve, metric, direction, epochs, lr, outcome, untrained, best_lr, edge)
    rules: tuple[Callable[[_Look], Verdict | None], ...] = (
        _non_finite,
        _slow,
        _broken,
        _too_short,
        _overfitting,
        _edge,
        _spiked,
        _noisy,
        _falling,
        _flat,
    )
    for rule in rules:
        verdict = rule(look)
        if verdict is not None:
            return verdict
    return _healthy(look)


def _look(
    curve: Curve,
    metric: str,
    direction: Direction,
    epochs: int | None,
    lr: float | None,
    outcome: Outcome | None,
    untrained: float | None,
    best_lr: float | None,
    edge: float | None,
) -> _Look:
    sign = 1.0 if direction == "minimize" else -1.0
    held = [point for point in curve if metric in point.values]
    values = sign * np.array([point.values[metric] for point in held], dtype=np.float64)
    steps = np.array([point.step for point in held], dtype=np.int64)
    bad = next((p.step for p in curve if not all(math.isfinite(v) for v in p.values.values())), None)
    finite = np.isfinite(values) & (steps < (math.inf if bad is None else bad))
    values, steps = values[finite], steps[finite]
    train_name = next((n for n in curve.names if n.startswith("train") and n != metric and "loss" in n), None)
    train = np.array([]) if train_name is None else curve.of(train_name)[1]
    known = untrained is not None and math.isfinite(untrained)
    start = (
        sign * float(untrained) if known and untrained is not None else float(values[0]) if len(values) else math.nan
    )
    course = features.smooth(values) if len(values) else values
    floor = float(course.min()) if len(values) else math.nan
    return _Look(
        values=values,
        course=course,
        level=features.settled(values) if len(values) else math.nan,
        floor=floor,
        learned=max(start - floor, 1e-9 * max(1.0, abs(start))) if len(values) else math.nan,
        sigma=features.noise(values),
        train=train[np.isfinite(train)],
        steps=steps,
        bad_step=bad,
        start=start,
        known_start=known,
        sign=sign,
        lr=lr,
        best_lr=best_lr,
        edge=edge,
        outcome=outcome,
        part=curve.trained / epochs if epochs else math.nan,
    )


# --- what ended the run


def _non_finite(look: _Look) -> Verdict | None:
    if look.bad_step is None and look.outcome is not Outcome.NON_FINITE:
        return None
    step = look.bad_step if look.bad_step is not None else int(look.steps[-1]) if len(look.steps) else 0
    return Verdict(
        kind=VerdictKind.NON_FINITE,
        evidence={"step": step},
        why=f"a number became NaN or infinite by step {step}",
        advice=_lower(
            look, "if it stays non-finite at any learning rate, look at the data and the loss for log(0) or 0/0"
        ),
    )


def _broken(look: _Look) -> Verdict | None:
    if look.outcome is Outcome.EXPLODED or (look.outcome is not Outcome.STUCK and _has_exploded(look)):
        return _exploded(look)
    if look.outcome is Outcome.STUCK or _is_stuck(look):
        return _stuck(look)
    return None


def _has_exploded(look: _Look) -> bool:
    if len(look.values) < 3:
        return False
    end = features.middle(look.values[-3:])
    scale = max(abs(look.start), look.learned)
    if end > look.start + EXPLODED_SHARE * scale + NOISE_SIGMAS * look.sigma:
        return True
    rising, p_value = features.trend(look.values[len(look.values) // 2 :])
    return rising > 0 and p_value < TREND_P and end > look.start + STUCK_SHARE * scale + NOISE_SIGMAS * look.sigma


def _exploded(look: _Look) -> Verdict:
    above = look.values > look.start
    onset = int(np.argmax(above[::-1] == 0)) if len(above) else 0  # how many reports at the end lie above the start
    onset = len(above) - onset if not above.all() else 0
    step = int(look.steps[min(onset, len(look.steps) - 1)]) if len(look.steps) else 0
    last = float(look.values[-1]) if len(look.values) else math.nan
    return Verdict(
        kind=VerdictKind.EXPLODED,
        evidence={"step": step, "last": look.told(last), "untrained": look.told(look.start)},
        why=f"it left the level of the untrained model ({_num(look.told(look.start))}) for good by step {step} "
        f"and stood at {_num(look.told(last))} at its end",
        advice=_lower(look, "or warm up over 5 % of the steps, or clip the gradient"),
    )


def _is_stuck(look: _Look) -> bool:
    n = len(look.values)
    if n < 4:
        return False
    margin = STUCK_SHARE * max(look.learned, abs(look.start) if look.known_start else 0.0)
    if look.start - look.level <= max(margin, look.sigma) and _lost(look):
        return True
    later = features.middle(look.values[n // 2 :])
    if look.start - later > max(margin, LEVEL_SIGMAS * look.sigma / math.sqrt(n / 2)) or not look.known_start:
        return False
    rose = float(look.course.max()) > look.start + margin  # a run that is only slow never rises above its start
    direction, p_value = features.trend(look.values)
    return not _far_below(look) and (rose or not (direction < 0 and p_value < TREND_P))


def _lost(look: _Look) -> bool:
    """Whether it had learned something, and has it no more."""
    if len(look.values) < 4 or look.learned < STUCK_SHARE * abs(look.start):
        return False
    return look.level - look.floor > max(look.learned / 2, LOST_SIGMAS * look.sigma)


def _stuck(look: _Look) -> Verdict:
    level = look.level if len(look.values) else math.nan
    story = f", after it had been at {_num(look.told(look.floor))}" if _lost(look) else " and never left it"
    low = look.lr is not None and look.best_lr is not None and look.lr < FAR_BELOW * look.best_lr
    return Verdict(
        kind=VerdictKind.STUCK,
        evidence={"level": look.told(level), "untrained": look.told(look.start)},
        why=f"it ended at {_num(look.told(level))}, the level of knowing nothing ({_num(look.told(look.start))}){story}",
        advice=_raise(look)
        if low
        else _lower(look, "units that died at a high learning rate stay dead, so start again"),
    )


def _slow(look: _Look) -> Verdict | None:
    """A learning rate so small that there is nothing to see: its noise is no noise, its level no chance."""
    diverged = look.outcome is not None and look.outcome.diverged
    moved = look.start - look.level
    if diverged or not _far_below(look) or len(look.values) < MIN_REPORTS or moved > SLOW_SHARE * abs(look.start):
        return None
    if _lost(look):
        return None
    return Verdict(
        kind=VerdictKind.STILL_FALLING,
        evidence={"moved": moved},
        why=f"it had hardly moved: from {_num(look.told(look.start))} to {_num(look.told(look.level))}",
        advice=_raise(look),
    )


def _too_short(look: _Look) -> Verdict | None:
    n = len(look.values)
    if n >= MIN_REPORTS:
        return None
    return Verdict(
        kind=VerdictKind.TOO_SHORT,
        evidence={"reports": n},
        why=f"{n} report{'s' if n != 1 else ''} of the metric; a verdict takes {MIN_REPORTS}",
        advice="train it longer, or report more often",
    )


# --- what spoils its numbers


def _overfitting(look: _Look) -> Verdict | None:
    course = look.course
    turn = int(np.argmin(course))
    rise = look.level - float(course[turn])
    positive_loss = look.sign > 0 and bool((look.values > 0).all())
    share = OVERFIT_LOSS * min(look.learned, float(course[turn]) if positive_loss else math.inf)
    if len(look.train) < MIN_REPORTS or rise <= max(share, NOISE_SIGMAS * look.sigma, FLAT_SHARE * look.learned):
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
            "best": look.told(float(course[turn])),
            "last": look.told(look.level),
            "train_fell": fell,
        },
        why=f"the held-out metric was best at step {step} ({_num(look.told(float(course[turn])))}) and ended at "
        f"{_num(look.told(look.level))} while the training loss fell by another {_num(fell)}",
        advice=f'stop near step {step} (value = "best"), add weight decay or data augmentation, or use fewer epochs',
    )


def _edge(look: _Look) -> Verdict | None:
    for values, name in ((look.values, "metric"), (look.train, "training loss")):
        if len(values) < 2 * MIN_REPORTS:
            continue
        sigma = features.noise(values)
        learned = max(
            float(values[0] if name != "metric" else look.start) - float(features.smooth(values).min()), 1e-12
        )
        regular = features.alternation(values)
        swing = features.middle(np.abs(np.diff(values[len(values) // 4 :])))
        found = features.bursts(values, _quiet(values), BURST_SHARE * learned)
        if regular >= EDGE_ALTERNATION and swing > FLAT_SHARE * learned:
            told = f"the {name} goes up and down by {_num(swing)} at every report (regularity {regular:.2f} of 1)"
        elif len(found) >= EDGE_BURSTS and sigma < 10 * NOISE_SHARE * learned:
            told = f"the {name} rose {len(found)} times by up to {_num(max(b.height for b in found))} and came back"
        else:
            continue
        return Verdict(
            kind=VerdictKind.EDGE,
            evidence={"alternation": regular, "swing": swing, "bursts": len(found)},
            why=told,
            advice=_lower(look, "or warm up over 5 % of the steps; a decaying schedule also leads away from the edge"),
        )
    return None


def _quiet(values: Floats) -> float:
    """Noise of the quiet part: bursts that are frequent would raise the usual estimate."""
    steps = np.abs(np.diff(values[len(values) // 6 :]))
    return float(np.quantile(steps, 0.5)) / 0.954 if len(steps) else 0.0  # median |N(0, 2)| = 0.954


def _spiked(look: _Look) -> Verdict | None:
    for values, name in ((look.values, "metric"), (look.train, "training loss")):
        if len(values) < MIN_REPORTS:
            continue
        learned = max(
            float(values[0]) - float(features.smooth(values).min()), look.learned if name == "metric" else 0.0
        )
        found = features.bursts(values, features.noise(values), 2 * BURST_SHARE * max(learned, 1e-12))
        if not found:
            continue
        worst = max(found, key=lambda burst: burst.height)
        step = int(look.steps[min(worst.peak, len(look.steps) - 1)])
        return Verdict(
            kind=VerdictKind.SPIKED,
            evidence={"step": step, "height": worst.height, "reports": worst.end - worst.begin, "spikes": len(found)},
            why=f"the {name} rose by {_num(worst.height)} at step {step} and was back {worst.end - worst.begin} "
            f"report{'s' if worst.end - worst.begin != 1 else ''} later",
            advice="harmless once; if repeats do it too, clip the gradient or warm up over 5 % of the steps",
        )
    return None


def _noisy(look: _Look) -> Verdict | None:
    share = look.sigma / look.learned
    if share < NOISE_SHARE:
        return None
    evidence = {"noise": look.sigma, "share": share}
    if len(look.train) >= MIN_REPORTS:
        span = float(look.train[0]) - float(features.smooth(look.train).min())
        train_share = features.noise(look.train) / span if span > 0 else math.inf
        evidence["train_share"] = train_share
        if share > UNSTABLE_RATIO * train_share:
            return Verdict(
                kind=VerdictKind.UNSTABLE_VALIDATION,
                evidence=evidence,
                why=f"the held-out metric moves by {_num(look.sigma)} from report to report, {_pct(share)} of all that was "
                f"learned, the training loss by {_pct(train_share)}",
                advice="hold out more data or evaluate with averaged weights; with BatchNorm look at its momentum and batch",
            )
    return Verdict(
        kind=VerdictKind.NOISY,
        evidence=evidence,
        why=f"it moves by {_num(look.sigma)} from report to report, {_pct(share)} of all that was learned",
        advice='use a larger batch, a schedule that decays to zero, or the mean of the last reports (value = "tail:3")',
    )


# --- how far it got


def _falling(look: _Look) -> Verdict | None:
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
        why=f"{_pct(share)} of all that it learned came in the last third of its reports"
        + (f", at {_pct(look.part)} of a full training" if early else ""),
        advice="it was stopped on its way; let it train on if it is among the best" if early else _raise(look),
    )


def _flat(look: _Look) -> Verdict | None:
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
        why=f"it has been at its final level ({_num(look.told(look.level))}) since step {step}; the second half of the "
        f"reports brought {_pct(max(share, 0.0))} of all that was learned",
        advice="fewer epochs would do, or a schedule that decays in the time left",
    )


def _healthy(look: _Look) -> Verdict:
    third = max(2, len(look.values) // 3)
    gained = float(look.course[-third]) - look.level
    return Verdict(
        kind=VerdictKind.HEALTHY,
        evidence={"share": gained / look.learned, "noise": look.sigma},
        why=f"it learned steadily, {_pct(gained / look.learned)} of it in the last third, with noise of {_num(look.sigma)}",
        advice="nothing to change",
    )


# --- words


def _far_below(look: _Look) -> bool:
    return look.lr is not None and look.best_lr is not None and look.lr < FAR_BELOW * look.best_lr


def _lower(look: _Look, otherwise: str) -> str:
    if look.lr is None:
        return f"lower the learning rate to a third; {otherwise}"
    target = look.lr / 3.0
    if look.best_lr is not None and look.best_lr < look.lr:
        target = look.best_lr
    elif look.edge is not None and look.edge < look.lr:
        target = look.edge / 2.0
    return f"lower the learning rate to about {_num(target, 1)}; {otherwise}"


def _raise(look: _Look) -> str:
    if look.lr is None:
        return "raise the learning rate threefold, or train longer"
    target = look.best_lr if look.best_lr is not None and look.best_lr > look.lr else 3.0 * look.lr
    if look.edge is not None and look.lr < look.edge:
        target = min(target, look.edge / 2.0)
    if target <= look.lr:
        return "train longer: a higher learning rate comes too close to the edge"
    return f"raise the learning rate to about {_num(target, 1)}, or train longer"


def _num(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}"


def _pct(share: float) -> str:
    return f"{100 * share:.2g} %"
