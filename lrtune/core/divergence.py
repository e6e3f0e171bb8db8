"""Where a run is judged diverged, and what a sampler learns of it.

* :class:`StepGuard` sees the loss of every minibatch and stops a run at the step (a generator has none: its reports
  alone are judged);
* :func:`judge` sees the metric's curve after a report, each one up to 300 and some of those beyond (asked by the engine
  and by :class:`.DivergencePruner`);
* :func:`sampler_feedback` turns a trial's end into what a sampler learns from: a value, or *infeasible*.

Their constants stand at the top of this module. Two trainers also end a run as non-finite by what only they see:
:mod:`lrtune.training.networks.run` (a gradient or a weight) and :mod:`lrtune.training.estimators.run` (weights that
overflow, a metric that is not finite). Patience, time limits and pruning end runs for other reasons, elsewhere. Three
other rules read curves for other ends and stop nothing:
:meth:`.freeze_thaw.beliefs.Beliefs.stuck` predicts, beside the best run of a search, which runs will not learn;
:mod:`lrtune.search.lr_range.curve_reading` reads sweeps, whose learning rate changes at every step;
:mod:`lrtune.reporting.diagnosis` explains a finished curve to people, of studies that were trained by other tools too.

Losses may be negative and metrics maximised, so "far above" is counted in *spreads*: the larger of the untrained
value's magnitude and of what was learned. The untrained value is that of the :class:`Baseline`, else the first report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lrtune.core.numpy_errors import own_errstate
from lrtune.core.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.core.curve import Curve, Direction, Point

__all__ = [
    "STUCK_SHARE",
    "Baseline",
    "Judgement",
    "SamplerFeedback",
    "StepGuard",
    "judge",
    "learned",
    "sampler_feedback",
]

EXPLODED_STEP = 100.0
"""Spreads above the untrained loss at which a step counts as exploded. Large: at the edge of stability
the loss rises by an order of magnitude and comes back (Lewkowycz et al. 2020, the catapult phase)."""

PATIENCE_STEPS = 10
"""Steps in a row that must be exploded: one spike, or one bad batch, recovers."""

HOPELESS = 1e6
"""Spreads above the untrained loss from which no step is waited for."""

EXPLODED_REPORT = 10.0
"""Spreads beyond the untrained metric at which a report counts as exploded; two in a row are needed."""

STUCK_REPORTS = 3
"""Reports in a row at the level of a constant prediction before a run is called stuck."""

STUCK_MARGIN = 0.02
"""How much better than a constant prediction, as a share of it, still counts as no better."""

THROWN = 0.01
"""How far beyond a constant prediction, as a share of it, a stuck run must have been at some report: one whose
learning rate is too high was thrown off, one whose learning rate is too low stays where it began and is only slow.
Of 900 recorded runs of a small MLP that tells all 186 of the former from all 289 of the latter."""

MOVED = 0.05
"""Where the metric is no loss (an accuracy jitters at chance): change of the training loss, as a share of its first
value, that says the same."""

STUCK_SHARE = 0.1
"""Share of the run that must lie behind before it can be called stuck, counted from the warmup's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The metric of models that know nothing, in its own sign; None where the trainer cannot say.

    Attributes
    ----------
    untrained
        The metric of the untrained model on the held-out part.
    chance
        The metric of the best constant prediction on the held-out part.
    undefined
        Whether the metric of the untrained model is no finite number: the data or the loss make it so, and no learning
        rate. ``untrained`` is None then.
    """

    untrained: float | None = None
    chance: float | None = None
    undefined: bool = False

    def worst(self, direction: Direction) -> float | None:
        """The worse of the two that are known."""
        known = [v for v in (self.untrained, self.chance) if v is not None and math.isfinite(v)]
        if not known:
            return None
        return max(known) if direction == "minimize" else min(known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """That a run has diverged, and why, in one sentence with the numbers."""

    outcome: Outcome
    why: str


class StepGuard:
    """Sees every training loss of one run and says at the step when it has diverged.

    Parameters
    ----------
    untrained
        The training loss before the first step; None takes the first finite loss, which is that
        of the untrained model where losses are measured before each update.
    """

    __slots__ = ("_exploded", "_origin", "_seen", "_spread", "why")

    def __init__(self, untrained: float | None = None) -> None:
        self._origin = untrained
        self._spread = 0.0 if untrained is None else abs(untrained)
        self._exploded = 0
        self._seen = 0
        self.why = ""

    def see(self, loss: float) -> Outcome | None:
        """Look at the next training loss; the outcome if the run has diverged, and `why` says more."""
        self._seen += 1
        if not math.isfinite(loss):
            self.why = f"the training loss was {loss} at step {self._seen}"
            return Outcome.NON_FINITE
        if self._origin is None:
            self._origin = loss
        rise = loss - self._origin
        if rise <= 0:  # a fall shows what a large change of the loss is
            self._spread = max(self._spread, -rise, abs(self._origin))
            self._exploded = 0
            return None
        spread = max(self._spread, abs(self._origin)) or 1.0
        self._exploded = self._exploded + 1 if rise > EXPLODED_STEP * spread else 0
        if self._exploded < PATIENCE_STEPS and rise <= HOPELESS * spread:
            return None
        self.why = f"the training loss rose from {self._origin:.4g} to {loss:.4g} by step {self._seen}"
        return Outcome.EXPLODED

    def state(self) -> dict[str, float | int | None]:
        """What :meth:`restore` takes, as plain JSON."""
        return {"origin": self._origin, "spread": self._spread, "exploded": self._exploded, "seen": self._seen}

    def restore(self, state: dict[str, float | int | None]) -> None:
        """Go on from a saved state."""
        self._origin = None if state["origin"] is None else float(state["origin"])
        self._spread = float(state["spread"] or 0.0)
        self._exploded = int(state["exploded"] or 0)
        self._seen = int(state["seen"] or 0)


@own_errstate()
def judge(
    curve: Curve,
    metric: str,
    direction: Direction,
    *,
    epochs: float,
    baseline: Baseline | None = None,
    warmup: float = 0.0,
    learned_above: bool = False,
) -> Judgement | None:
    """Whether the run that reported this curve has diverged; None while it has not.

    Parameters
    ----------
    curve
        All that it reported. The metric, and whatever has "loss" in its name, must be finite.
    metric, direction
        The metric that counts, and its better side.
    epochs
        Epochs of the full run.
    baseline
        The metric of models that know nothing.
    warmup
        Share of the run that is warmup: no run is stuck before its end.
    learned_above
        Whether a run with a higher learning rate, all else equal, has learned: then this one is slow, not stuck.
    """
    last = curve.last
    broken = None if last is None else _non_finite(last, metric)
    first = next((point.values[metric] for point in curve if metric in point.values), None)
    if broken is not None or first is None or last is None:
        return broken
    known = None if baseline is None else baseline.worst(direction)
    untrained = first if known is None else known
    sign = 1.0 if direction == "minimize" else -1.0  # from here on smaller is better
    origin = sign * untrained
    no_better = origin - STUCK_MARGIN * max(abs(origin), 1e-12)
    if sign * last.values.get(metric, untrained) < no_better:
        return None  # so it is at nearly every report of nearly every run: spares the arrays
    reached, values = curve.of(metric)
    worse = sign * values
    spread = max(abs(origin), origin - float(worse.min())) or 1.0
    if _exploded(worse, origin, spread):
        why = f"{metric} went from {untrained:.4g} to {values[-1]:.4g} by step {last.step}"
        return Judgement(outcome=Outcome.EXPLODED, why=why)
    past = reached[-1] - warmup * epochs > STUCK_SHARE * epochs
    if not past or learned_above or known is None or len(worse) < STUCK_REPORTS:
        return None
    latest = worse[-STUCK_REPORTS:]
    spiked = (latest > origin + EXPLODED_REPORT * spread).any()  # and may still recover
    if spiked or (latest < no_better).any() or _falling(curve, worse) or not _moved(curve, metric, worse, origin):
        return None
    why = (
        f"{metric} was still {values[-1]:.4g} at step {last.step}, "
        f"no better than a constant prediction ({known:.4g}), and no longer falling"
    )
    return Judgement(outcome=Outcome.STUCK, why=why)


def _non_finite(point: Point, metric: str) -> Judgement | None:
    """Whether the metric or a loss is; another number may be undefined, such as a score without positives."""
    for name, value in point.values.items():
        if not math.isfinite(value) and (name == metric or "loss" in name):
            return Judgement(outcome=Outcome.NON_FINITE, why=f"{name} was {value} at step {point.step}")
    return None


def _exploded(worse: npt.NDArray[np.float64], origin: float, spread: float) -> bool:
    """Whether the last report lies hopelessly far, or the last two (one may be a spike) lie far, above `origin`."""
    rises = [float(value) - origin for value in worse[-2:]]
    return rises[-1] > HOPELESS * spread or (len(rises) > 1 and all(rise > EXPLODED_REPORT * spread for rise in rises))


def _falling(curve: Curve, worse: npt.NDArray[np.float64]) -> bool:
    """Whether the training loss, else the metric, still falls: as under a far too small learning rate."""
    falling = curve.of("train_loss")[1] if "train_loss" in curve.names else worse
    steps = np.diff(falling[-max(STUCK_REPORTS + 1, len(falling) // 2) :])
    return len(steps) >= 2 and float((steps < 0).mean()) >= 0.8  # noqa: PLR2004 -- a coin shows 0.8 seldom


def _moved(curve: Curve, metric: str, worse: npt.NDArray[np.float64], origin: float) -> bool:
    """Whether the run was ever clearly elsewhere than where it began; a small learning rate never gets there."""
    if "loss" in metric:
        return bool((worse > origin + THROWN * abs(origin)).any())
    train = curve.of("train_loss")[1]
    return not len(train) or bool((np.abs(train - train[0]) > MOVED * abs(float(train[0]))).any())


def learned(values: npt.NDArray[np.float64], baseline: Baseline | None, direction: Direction) -> bool:
    """Whether a metric's values (shape (n,)) end clearly better than the baseline; False where it is unknown."""
    origin = None if baseline is None else baseline.worst(direction)
    if origin is None or not len(values):
        return False
    gain = origin - values[-1] if direction == "minimize" else values[-1] - origin
    return bool(gain > 2 * STUCK_MARGIN * max(abs(origin), 1e-12))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerFeedback:
    """What a sampler learns of a trial.

    Attributes
    ----------
    value
        A finite value in the metric's own sign, or None where there is none.
    violation
        Above 0 if the point is infeasible: the more, the sooner it diverged.
    """

    value: float | None
    violation: float = 0.0


def sampler_feedback(
    outcome: Outcome,
    value: float | None,
    *,
    trained: float,
    known: Sequence[float],
    direction: Direction,
    expected: float | None = None,
) -> SamplerFeedback:
    """What a sampler learns of a trial that ended.

    A diverged trial is never a silent failure: it is infeasible, the more so the sooner it diverged,
    and for samplers that know no constraints it is worth the worst finite value seen. A pruned one is
    worth what it was expected to reach, but no better than the best: it was stopped for looking worse.

    Parameters
    ----------
    outcome
        How it ended.
    value
        Its result where it has one; for a pruned trial its last value.
    trained
        Share of the full run that it trained, 0 to 1.
    known
        Results of the completed trials.
    direction
        Better side of the metric.
    expected
        For a pruned trial, what it would have reached had it gone on like its peers.
    """
    finite = [v for v in known if math.isfinite(v)]
    worst = (max if direction == "minimize" else min)(finite, default=None)
    best = (min if direction == "minimize" else max)(finite, default=None)
    if outcome.diverged or outcome is Outcome.OUT_OF_MEMORY:
        return SamplerFeedback(value=worst, violation=2.0 - min(max(trained, 0.0), 1.0))
    if outcome is Outcome.COMPLETED:
        return SamplerFeedback(value=value)
    if outcome is Outcome.PRUNED and value is not None and math.isfinite(value):
        guess = value if expected is None else expected
        if best is not None:
            guess = max(guess, best) if direction == "minimize" else min(guess, best)
        return SamplerFeedback(value=guess)
    return SamplerFeedback(value=None)
