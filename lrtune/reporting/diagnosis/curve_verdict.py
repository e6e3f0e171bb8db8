"""What one trial's curve shows: the rules, asked in a fixed order; the first that applies gives the verdict.

First what ended the run (non-finite numbers, an explosion, the level of a constant prediction), then what spoils its
numbers (overfitting, the edge of stability, spikes, noise), then how far it got. A *share* below is one of the
improvement from the untrained model down to the curve's best level.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Outcome
from lrtune.reporting.diagnosis import features
from lrtune.reporting.diagnosis.findings import Finding, VerdictKind
from lrtune.reporting.diagnosis.prepared_curve import LEVEL_SHARE, PreparedCurve

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.curve import Curve
    from lrtune.core.records import StudyRecord

__all__ = ["judge", "verdicts"]

Floats: TypeAlias = npt.NDArray[np.float64]

MIN_REPORTS = 6  # fewer leave no second differences to tell noise from trend
TREND_P = 0.01  # Kendall's test has to see the trend
NOISE_SIGMAS = 4.0  # how far a level has to move to be no noise: levels are medians of three and more
LEVEL_SIGMAS = 3.0  # of a median's own standard error
EXPLODED_SHARE = 0.5  # above the untrained level, in the larger of its magnitude and the improvement
FEWEST = 3  # reports that make a level
SLOW_SHARE = 0.1  # of the untrained level
NOISE_SHARE = 0.05  # from report to report; at 1/20 of the improvement, single values mislead by several percent
UNSTABLE_RATIO = 3.0  # held-out noise over training noise, each as a share
BURST_SHARE = 0.05  # a rise below this is not worth a word
SPIKE_SHARE = 0.10  # nor is a single one below this
EDGE_BURSTS = 3  # one or two spikes are an accident; three are a regime (Cohen et al. 2021, section 3)
EDGE_ALTERNATION = 0.8  # white noise has 0.5, an oscillation of period two (lr * curvature near 2) has 1
EDGE_NOISE = 0.5  # where the noise alone is half of the improvement, bursts are noise
OVERFIT_LOSS = 0.05  # Prechelt (1998), "Early stopping - but when?": generalisation loss GL_5
VISIBLE_SHARE = 0.01  # less cannot be seen in a figure
FALLING_SHARE = 0.10  # gained in the last third: an exponential with a time constant above T / 2.8 gains more
FLAT_SHARE = 0.01  # gained in the second half: one with a time constant below T / 9 gains less
HALF_NORMAL = 0.954  # the median of |N(0, 2)|
TINY = 1e-12


def judge(curve: Curve, *, metric: str, **known: Any) -> Finding:
    """The verdict on one curve; the parameters are those of :class:`PreparedCurve`."""
    run = PreparedCurve(curve, metric=metric, **known)
    return next(verdict for rule in RULES if (verdict := rule(run)) is not None)


@own_errstate()
def verdicts(record: StudyRecord) -> list[Finding]:
    """The verdict on every trial's curve, in the order of the trials."""
    best, (edge, _, _) = record.best, record.interval("edge")
    return [
        judge(
            trial.curve,
            metric=record.metric,
            direction=record.direction,
            epochs=record.epochs,
            lr=trial.recipe.lr,
            outcome=trial.outcome,
            untrained=record.untrained,
            best_lr=None if best is None else best.recipe.lr,
            edge=edge,
        )
        for trial in record.records
    ]


# What ended it.


def _non_finite(run: PreparedCurve) -> Finding | None:
    """A number became NaN or infinite."""
    if run.bad_step is None and run.outcome is not Outcome.NON_FINITE:
        return None
    step = run.bad_step if run.bad_step is not None else int(run.steps[-1]) if len(run.steps) else 0
    return Finding(
        kind=VerdictKind.NON_FINITE,
        evidence={"step": step},
        why=f"a number became NaN or infinite by step {step}",
        advice=run.lower(
            "if it stays non-finite at any learning rate, look at the data and the loss for log(0) or 0/0"
        ),
    )


def _slow(run: PreparedCurve) -> Finding | None:
    """The learning rate is so small that the metric hardly moved: neither noisy nor stuck."""
    diverged = run.outcome is not None and run.outcome.diverged
    moved = run.start - run.level
    if diverged or not run.is_far_below_best or len(run.values) < MIN_REPORTS or moved > SLOW_SHARE * abs(run.start):
        return None
    if run.has_relapsed:
        return None
    return Finding(
        kind=VerdictKind.STILL_FALLING,
        evidence={"moved": moved},
        why=f"it had hardly moved: from {run.reported(run.start):.3g} to {run.reported(run.level):.3g}",
        advice=run.higher(),
    )


def _exploded(run: PreparedCurve) -> Finding | None:
    """The metric rose far above that of the untrained model, and ended there."""
    if run.outcome is not Outcome.EXPLODED and (run.outcome is Outcome.STUCK or not _has_exploded(run)):
        return None
    below = [i for i, value in enumerate(run.values) if value <= run.start]
    onset = min(below[-1] + 1, len(run.steps) - 1) if below else 0
    step = int(run.steps[onset]) if len(run.steps) else 0
    last = float(run.values[-1]) if len(run.values) else math.nan
    return Finding(
        kind=VerdictKind.EXPLODED,
        evidence={"step": step, "last": run.reported(last), "untrained": run.reported(run.start)},
        why=f"it left the level of the untrained model ({run.reported(run.start):.3g}) for good by step {step} "
        f"and stood at {run.reported(last):.3g} at its end",
        advice=run.lower("or warm up over 5 % of the steps, or clip the gradient"),
    )


def _has_exploded(run: PreparedCurve) -> bool:
    if len(run.values) < FEWEST:
        return False
    end = features.middle(run.values[-3:])
    scale = max(abs(run.start), run.improvement)
    if end > run.start + EXPLODED_SHARE * scale + NOISE_SIGMAS * run.sigma:
        return True
    rising, p_value = features.trend(run.values[len(run.values) // 2 :])
    return rising > 0 and p_value < TREND_P and end > run.start + LEVEL_SHARE * scale + NOISE_SIGMAS * run.sigma


def _stuck(run: PreparedCurve) -> Finding | None:
    """It ended no better than the untrained model or a constant prediction."""
    if run.outcome is not Outcome.STUCK and not _is_stuck(run):
        return None
    before = f", after it had been at {run.reported(run.floor):.3g}" if run.has_relapsed else " and never left it"
    return Finding(
        kind=VerdictKind.STUCK,
        evidence={"level": run.reported(run.level), "untrained": run.reported(run.start)},
        why=f"it ended at {run.reported(run.level):.3g}, "
        f"the level of knowing nothing ({run.reported(run.start):.3g}){before}",
        advice=run.higher()
        if run.is_far_below_best
        else run.lower("units that died at a high learning rate stay dead, so start again"),
    )


def _is_stuck(run: PreparedCurve) -> bool:
    n = len(run.values)
    if n <= FEWEST:
        return False
    margin = LEVEL_SHARE * max(run.improvement, abs(run.start) if run.known_start else 0.0)
    if run.start - run.level <= max(margin, run.sigma) and run.has_relapsed:
        return True
    later = features.middle(run.values[n // 2 :])
    if run.start - later > max(margin, LEVEL_SIGMAS * run.sigma / math.sqrt(n / 2)) or not run.known_start:
        return False
    rose = float(run.smoothed.max()) > run.start + margin  # a run that is only slow never rises above its start
    direction, p_value = features.trend(run.values)
    return not run.is_far_below_best and (rose or not (direction < 0 and p_value < TREND_P))


def _too_short(run: PreparedCurve) -> Finding | None:
    """There are too few reports for anything else."""
    n = len(run.values)
    if n >= MIN_REPORTS:
        return None
    return Finding(
        kind=VerdictKind.TOO_SHORT,
        evidence={"reports": n},
        why=f"{n} report{'s' if n != 1 else ''} of the metric; a verdict takes {MIN_REPORTS}",
        advice="train it longer, or report more often",
    )


# What spoils its numbers.


def _overfitting(run: PreparedCurve) -> Finding | None:
    """The held-out metric got worse for good while the training loss went on falling."""
    turn = int(np.argmin(run.smoothed))
    best = float(run.smoothed[turn])
    rise = run.level - best
    positive_loss = run.sign > 0 and bool((run.values > 0).all())
    least = OVERFIT_LOSS * min(run.improvement, best if positive_loss else math.inf)
    if len(run.train) < MIN_REPORTS or rise <= max(least, NOISE_SIGMAS * run.sigma, VISIBLE_SHARE * run.improvement):
        return None
    slope, p_value = features.trend(run.smoothed[turn:])
    at = round(turn / max(len(run.smoothed) - 1, 1) * (len(run.train) - 1))
    fell = features.settled(run.train[: at + 1]) - features.settled(run.train[at:])
    if slope <= 0 or p_value >= TREND_P or fell <= features.noise(run.train) / 2:
        return None
    step, best, last = int(run.steps[turn]), run.reported(best), run.reported(run.level)
    return Finding(
        kind=VerdictKind.OVERFITTING,
        evidence={"step": step, "best": best, "last": last, "train_fell": fell},
        why=f"the held-out metric was best at step {step} ({best:.3g}) and ended at {last:.3g} "
        f"while the training loss fell by another {fell:.3g}",
        advice=f'stop near step {step} (value = "best"), add weight decay or data augmentation, or use fewer epochs',
    )


def _edge(run: PreparedCurve) -> Finding | None:
    """It oscillates, or rises and recovers again and again: lr is near 2 / curvature (Cohen et al. 2021)."""
    for values, smoothed, name in _series(run):
        if len(values) < 2 * MIN_REPORTS:
            continue
        sigma = features.noise(values)
        improvement = max(float(values[0] if name != "metric" else run.start) - float(smoothed.min()), TINY)
        regular = features.alternation(values)
        swing = features.middle(np.abs(np.diff(values[len(values) // 4 :])))
        # The noise of the quiet steps: frequent bursts would raise the usual estimate.
        quiet = features.middle(np.abs(np.diff(values[len(values) // 6 :]))) / HALF_NORMAL
        found = features.bursts(values, quiet, BURST_SHARE * improvement)
        if regular >= EDGE_ALTERNATION and swing > VISIBLE_SHARE * improvement:
            why = f"the {name} goes up and down by {swing:.3g} at every report (regularity {regular:.2f} of 1)"
        elif len(found) >= EDGE_BURSTS and sigma < EDGE_NOISE * improvement:
            why = f"the {name} rose {len(found)} times by up to {max(b.height for b in found):.3g} and came back"
        else:
            continue
        return Finding(
            kind=VerdictKind.EDGE,
            evidence={"alternation": regular, "swing": swing, "bursts": len(found)},
            why=why,
            advice=run.lower("or warm up over 5 % of the steps; a decaying schedule also leads away from the edge"),
        )
    return None


def _series(run: PreparedCurve) -> tuple[tuple[Floats, Floats, str], ...]:
    """The series that may be disturbed: each with its running median and its name."""
    return (run.values, run.smoothed, "metric"), (run.train, run.train_smoothed, "training loss")


def _spiked(run: PreparedCurve) -> Finding | None:
    """It rose once or twice and came back."""
    for values, smoothed, name in _series(run):
        if len(values) < MIN_REPORTS:
            continue
        improvement = max(float(values[0]) - float(smoothed.min()), run.improvement if name == "metric" else 0.0)
        found = features.bursts(values, features.noise(values), SPIKE_SHARE * max(improvement, TINY))
        if not found:
            continue
        worst = max(found, key=lambda burst: burst.height)
        step, reports = int(run.steps[min(worst.peak, len(run.steps) - 1)]), worst.end - worst.begin
        return Finding(
            kind=VerdictKind.SPIKED,
            evidence={"step": step, "height": worst.height, "reports": reports, "spikes": len(found)},
            why=f"the {name} rose by {worst.height:.3g} at step {step} and was back {reports} "
            f"report{'s' if reports != 1 else ''} later",
            advice="harmless once; if repeats do it too, clip the gradient or warm up over 5 % of the steps",
        )
    return None


def _noisy(run: PreparedCurve) -> Finding | None:
    """A single report says little: in both series, or in the held-out one alone."""
    share = run.sigma / run.improvement
    if share < NOISE_SHARE:
        return None
    evidence = {"noise": run.sigma, "share": share}
    if len(run.train) >= MIN_REPORTS:
        span = float(run.train[0]) - float(run.train_smoothed.min())
        train_share = features.noise(run.train) / span if span > 0 else math.inf
        evidence["train_share"] = train_share
        if share > UNSTABLE_RATIO * train_share:
            return Finding(
                kind=VerdictKind.UNSTABLE_VALIDATION,
                evidence=evidence,
                why=f"the held-out metric moves by {run.sigma:.3g} from report to report, "
                f"{100 * share:.2g} % of all that was learned, the training loss by {100 * train_share:.2g} %",
                advice="hold out more data or evaluate averaged weights; with BatchNorm look at its momentum and batch",
            )
    return Finding(
        kind=VerdictKind.NOISY,
        evidence=evidence,
        why=f"it moves by {run.sigma:.3g} from report to report, {100 * share:.2g} % of all that was learned",
        advice='use a larger batch, a schedule that decays to zero, or the mean of the last reports (value = "tail:3")',
    )


# How far it got.


def _falling(run: PreparedCurve) -> Finding | None:
    """It was still getting better when it ended."""
    third = max(2, len(run.values) // 3)
    begin = max(len(run.smoothed) - third - 1, 0)
    gained = features.middle(run.smoothed[begin : begin + 3]) - run.level
    share = gained / run.improvement
    slope, p_value = features.trend(run.values[-max(2 * third, MIN_REPORTS) :])
    if share < FALLING_SHARE or slope >= 0 or p_value >= TREND_P:
        return None
    early = run.part < 1 - 1e-6
    return Finding(
        kind=VerdictKind.STILL_FALLING,
        evidence={"gained": gained, "share": share, "p": p_value},
        why=f"{100 * share:.2g} % of all that it learned came in the last third of its reports"
        + (f", at {100 * run.part:.2g} % of a full training" if early else ""),
        advice="it was stopped on its way; let it train on if it is among the best" if early else run.higher(),
    )


def _flat(run: PreparedCurve) -> Finding | None:
    """Its second half brought nothing."""
    half = len(run.values) // 2
    gained = features.middle(run.smoothed[half - 1 : half + 2]) - run.level
    share = gained / run.improvement
    if share >= max(FLAT_SHARE, 2 * run.sigma / run.improvement):
        return None
    reached = int(np.argmax(run.smoothed <= run.level + max(FLAT_SHARE * run.improvement, 2 * run.sigma)))
    step = int(run.steps[reached])
    return Finding(
        kind=VerdictKind.PLATEAUED,
        evidence={"gained": gained, "share": share, "step": step},
        why=f"it has been at its final level ({run.reported(run.level):.3g}) since step {step}; "
        f"the second half of the reports brought {100 * max(share, 0.0):.2g} % of all that was learned",
        advice="fewer epochs would do, or a schedule that decays in the time left",
    )


def _healthy(run: PreparedCurve) -> Finding:
    """It improved, and is done."""
    share = (float(run.smoothed[-max(2, len(run.values) // 3)]) - run.level) / run.improvement
    return Finding(
        kind=VerdictKind.HEALTHY,
        evidence={"share": share, "noise": run.sigma},
        why=f"it learned steadily, {100 * share:.2g} % of it in the last third, with noise of {run.sigma:.3g}",
        advice="nothing to change",
    )


RULES: tuple[Callable[[PreparedCurve], Finding | None], ...] = (
    *(_non_finite, _slow, _exploded, _stuck, _too_short),
    *(_overfitting, _edge, _spiked, _noisy),
    *(_falling, _flat, _healthy),
)
