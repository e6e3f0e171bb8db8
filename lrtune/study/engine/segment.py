"""The training of one segment: a run advances up to an epoch, is evaluated, and every report is judged."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune.core.divergence import Baseline, judge
from lrtune.core.outcome import Outcome
from lrtune.core.tracebacks import users_own
from lrtune.errors import InputError, UserCodeError
from lrtune.workers.process import DiedError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.recipe import Recipe
    from lrtune.study.engine.run_cache import PausedRun
    from lrtune.study.settings import Settings
    from lrtune.training.base import Report
    from lrtune.workers.process import Death

__all__ = ["SegmentMonitor", "SegmentResult", "failed", "train"]

FIRST_CHUNK = 1
"""Steps that show how fast a run is: a single one may take seconds, and a signal has to be noticed."""

CHUNK_SECONDS = 0.5
"""Seconds of training between two looks for a signal; less where checkpoints are written more often."""

TRACEBACK_CHARACTERS = 4000
"""Characters that are kept of a traceback: its end, which names the cause."""

JUDGED_IN_FULL = 300
"""Points from which on a curve is judged only once in about a 30th to a 60th of its length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentMonitor:
    """What is checked and called while a segment is trained.

    Attributes
    ----------
    baseline, learned_above
        See :func:`lrtune.core.divergence.judge`.
    should_stop, progressed
        Called after every chunk of steps: whether to stop at once; the epochs trained.
    save
        Called every ``settings.checkpoint_every`` seconds.
    seconds
        That the trial's earlier segments took.
    """

    settings: Settings
    steps_per_epoch: int
    baseline: Baseline | None
    learned_above: bool
    should_stop: Callable[[], bool]
    save: Callable[[PausedRun], object]
    progressed: Callable[[float], object]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentResult:
    """How a segment ended.

    Attributes
    ----------
    outcome
        None if the run is paused and can go on.
    why
        One sentence, where there is an outcome other than COMPLETED.
    interrupted
        Whether it was stopped before its end and is to be finished later.
    behind
        Whether nothing was trained because the run's checkpoint is older than the trial's record.
    death
        How the run's process died, if it did.
    error
        What ends the search once the result is written; None for nothing.
    """

    outcome: Outcome | None = None
    why: str = ""
    interrupted: bool = False
    behind: bool = False
    death: Death | None = None
    error: BaseException | None = None


def train(paused: PausedRun, recipe: Recipe, until: float, monitor: SegmentMonitor) -> SegmentResult:
    """Train a run up to an epoch; its curve and step are changed in place.

    It is evaluated at the end of every epoch and of the segment.

    Raises
    ------
    InputError
        If the run never reports the metric.
    Exception
        Whatever the user's own code raises.
    """
    steps_per_epoch = monitor.steps_per_epoch
    total = recipe.epochs * steps_per_epoch
    # rounded up: a segment that ends short of what was asked for would be asked for again and again
    target = total if until >= recipe.epochs else min(math.ceil(until * steps_per_epoch * (1 - 1e-9)), total)
    chunk, started = FIRST_CHUNK, time.monotonic()
    saved_at = started
    patience = min(CHUNK_SECONDS, monitor.settings.checkpoint_every)
    if paused.curve.last is not None and (over := _patience(paused, monitor)) is not None:
        return over  # it was saved complete, and the process died before that was written to the study
    while paused.step < target:
        boundary = min((paused.step // steps_per_epoch + 1) * steps_per_epoch, target)
        steps = max(1, min(chunk, boundary - paused.step))
        evaluate = paused.step + steps == boundary
        began = time.monotonic()
        reports = paused.run.advance(steps, evaluate=evaluate)
        chunk = _next_chunk(chunk, steps, time.monotonic() - began, patience)
        paused.step += steps
        end = _take(paused, reports, monitor, evaluate=evaluate)
        monitor.progressed(paused.step / steps_per_epoch)
        if end is not None:
            return end
        if monitor.should_stop():
            return SegmentResult(interrupted=True)
        limit = monitor.settings.trial_timeout
        if limit is not None and monitor.seconds + time.monotonic() - started > limit:
            why = f"it took longer than the {limit:g} s that a trial may take"
            return SegmentResult(outcome=Outcome.STALLED, why=why)
        if time.monotonic() - saved_at > monitor.settings.checkpoint_every:
            monitor.save(paused)
            saved_at = time.monotonic()
    return SegmentResult(outcome=Outcome.COMPLETED) if paused.step >= total else SegmentResult()


def _next_chunk(chunk: int, steps: int, seconds: float, patience: float) -> int:
    if steps < chunk and seconds < patience:
        return chunk  # an epoch or the segment ended it: no reason to shrink
    return max(1, min(int(steps / max(seconds, 1e-6) * patience), chunk * 8))


def _take(paused: PausedRun, reports: list[Report], monitor: SegmentMonitor, *, evaluate: bool) -> SegmentResult | None:
    """Add reports to the curve and judge it; the result if the run has ended."""
    for report in reports:
        failed = report.outcome not in {None, Outcome.COMPLETED}
        if report.outcome is not None:  # it may have ended within the chunk: steps that were not trained are not paid
            paused.step = min(paused.step, report.point.step)
        last = paused.curve.last
        if (evaluate or failed) and (last is None or report.point.step > last.step):
            paused.curve.append(report.point)
        if failed:
            return SegmentResult(outcome=report.outcome, why=report.why)
        if not evaluate:
            continue
        end = _judge(paused, monitor) or _patience(paused, monitor)
        if end is not None:
            return end
        if report.outcome is Outcome.COMPLETED:
            _demand_metric(paused, monitor)
            return SegmentResult(outcome=Outcome.COMPLETED, why=report.why)
    return None


def _judge(paused: PausedRun, monitor: SegmentMonitor) -> SegmentResult | None:
    curve, settings = paused.curve, monitor.settings
    last = curve.last
    if last is None or not last.values:
        return None
    _demand_metric(paused, monitor)
    count = len(curve)
    seldom = 1 << max(0, count.bit_length() - 6)
    if count > JUDGED_IN_FULL and count % seldom and all(map(math.isfinite, last.values.values())):
        return None
    recipe = paused.run.recipes[0]
    verdict = judge(
        curve,
        settings.metric,
        settings.direction,
        epochs=settings.epochs,
        baseline=monitor.baseline,
        warmup=recipe.warmup if recipe.warmup < 1 else 0.0,
        learned_above=monitor.learned_above,
    )
    return None if verdict is None else SegmentResult(outcome=verdict.outcome, why=verdict.why)


def _demand_metric(paused: PausedRun, monitor: SegmentMonitor) -> None:
    metric, last = monitor.settings.metric, paused.curve.last
    known = last is not None and metric in last.values  # spares a look at every point
    if not known and metric not in paused.curve.names:
        names = ", ".join(paused.curve.names) or "nothing"
        what = "choose one of those, or report it from the first epoch on"
        msg = f"the training does not report the metric {metric!r} (it reports {names}); {what}"
        raise InputError(msg)


def _patience(paused: PausedRun, monitor: SegmentMonitor) -> SegmentResult | None:
    """Ends a run without a better value for as many epochs as the patience."""
    patience = monitor.settings.patience
    if patience is None:
        return None
    epochs, values = paused.curve.of(monitor.settings.metric)
    if not len(values):
        return None
    best = values.argmin() if monitor.settings.direction == "minimize" else values.argmax()
    if epochs[-1] - epochs[int(best)] < patience:
        return None
    return SegmentResult(outcome=Outcome.COMPLETED, why=f"no better value for {patience} epochs")


def failed(error: BaseException, *, first: bool) -> SegmentResult:
    """The result of a segment in which something was raised.

    Parameters
    ----------
    error
        Raised by the training code, by its process's death, or by a signal.
    first
        Whether no trial has reported anything yet: then the training code is broken, and the search ends. Later its
        errors end the trial alone.
    """
    if isinstance(error, KeyboardInterrupt):
        return SegmentResult(interrupted=True, error=error)
    if isinstance(error, DiedError):
        return SegmentResult(death=error.death, why=str(error))
    if isinstance(error, InputError):
        return SegmentResult(outcome=Outcome.FAILED, why=str(error), error=error)
    if isinstance(error, MemoryError):
        why = f"the training code ran out of memory ({error})"
        return SegmentResult(outcome=Outcome.OUT_OF_MEMORY, why=why)
    if isinstance(error, SystemExit):
        return SegmentResult(outcome=Outcome.FAILED, why=f"the training code called sys.exit({error.code!r})")
    # an error of another process brings the traceback that it had there
    text = error.user_traceback if isinstance(error, RemoteError) else users_own(error)
    text = text[-TRACEBACK_CHARACTERS:]
    broken = None
    if first:
        last = text.strip().splitlines()[-1]
        msg = f"the training code failed in its first trial ({last}); mend it and run the same command again"
        broken = UserCodeError(msg, user_traceback=text)
        broken.__cause__ = error  # --debug shows all of it
    return SegmentResult(outcome=Outcome.FAILED, why=text, error=broken)
