"""A piece of training: one run goes on up to an epoch, watched at every report."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune.core.divergence import Baseline, judge
from lrtune.core.outcome import Outcome
from lrtune.core.tracebacks import users_own
from lrtune.errors import InputError, UserCodeError
from lrtune.workers.process import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.recipe import Recipe
    from lrtune.study.engine.run_cache import PausedRun
    from lrtune.study.settings import Settings
    from lrtune.training.base import Report

__all__ = ["SegmentMonitor", "SegmentResult", "failed", "train"]

FIRST_CHUNK = 1
"""Steps of the first look at how fast a run is: a single one may take seconds, and a signal has to be heard."""

CHUNK_SECONDS = 0.5
"""A run is asked for about so much work at once, so that a signal is heard in time; less if it is saved more often."""

TRACEBACK_CHARACTERS = 4000
"""Of a traceback, its end: that is where the cause stands."""

JUDGED_IN_FULL = 300
"""Points from which on the curve is judged once in about every 30th to 60th part of its length only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentMonitor:
    """What is looked at while a piece is trained.

    Attributes
    ----------
    settings
        The search's.
    steps_per_epoch
        Of this run.
    baseline
        What knowing nothing is worth.
    learned_above
        Whether a run with a higher learning rate has learned.
    should_stop
        Asked between chunks: whether to stop at once.
    save
        Called every ``settings.checkpoint_every`` seconds with the run as it stands.
    progressed
        Called after every chunk with the epochs reached.
    seconds
        That the trial has taken before this piece.
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
    """How a piece ended.

    Attributes
    ----------
    outcome
        None if the run is paused and can go on.
    why
        One sentence, where there is an outcome other than COMPLETED.
    interrupted
        Whether it was stopped before the piece's end.
    """

    outcome: Outcome | None = None
    why: str = ""
    interrupted: bool = False


def train(paused: PausedRun, recipe: Recipe, until: float, watch: SegmentMonitor) -> SegmentResult:
    """Train a run up to an epoch; its curve grows and it moves on in place.

    It is evaluated at the end of every epoch and at the end of the piece.

    Raises
    ------
    InputError
        If the run never reports the metric.
    Exception
        Whatever the user's own code raises.
    """
    spe = watch.steps_per_epoch
    total = recipe.epochs * spe
    # rounded up: a piece that ended short of what was asked would be asked for for ever
    target = total if until >= recipe.epochs else min(math.ceil(until * spe * (1 - 1e-9)), total)
    chunk, started = FIRST_CHUNK, time.monotonic()
    saved_at = started
    patience = min(CHUNK_SECONDS, watch.settings.checkpoint_every)
    while paused.step < target:
        boundary = min((paused.step // spe + 1) * spe, target)
        steps = max(1, min(chunk, boundary - paused.step))
        evaluate = paused.step + steps == boundary
        began = time.monotonic()
        reports = paused.run.advance(steps, evaluate=evaluate)
        seconds = time.monotonic() - began
        paused.step += steps
        chunk = _next_chunk(chunk, steps, seconds, patience)
        end = _heard(paused, reports, watch, evaluate=evaluate)
        watch.progressed(paused.step / spe)
        if end is not None:
            return end
        if watch.should_stop():
            return SegmentResult(interrupted=True)
        limit = watch.settings.trial_timeout
        if limit is not None and watch.seconds + time.monotonic() - started > limit:
            return SegmentResult(
                outcome=Outcome.STALLED, why=f"it took longer than the {limit:g} s that a trial may take"
            )
        if time.monotonic() - saved_at > watch.settings.checkpoint_every:
            watch.save(paused)
            saved_at = time.monotonic()
    return SegmentResult(outcome=Outcome.COMPLETED) if paused.step >= total else SegmentResult()


def _next_chunk(chunk: int, steps: int, seconds: float, patience: float) -> int:
    if steps < chunk and seconds < patience:
        return chunk  # it was cut by a boundary: no reason to shrink
    rate = steps / max(seconds, 1e-6)
    return max(1, min(int(rate * patience), chunk * 8))


def _heard(paused: PausedRun, reports: list[Report], watch: SegmentMonitor, *, evaluate: bool) -> SegmentResult | None:
    """Add what was reported to the curve, and judge it before anything else is done with it."""
    for report in reports:
        failed = report.outcome not in {None, Outcome.COMPLETED}
        if report.outcome is not None:  # it may have ended before the chunk did: what was not trained is not paid
            paused.step = min(paused.step, report.point.step)
        last = paused.curve.last
        if (evaluate or failed) and (last is None or report.point.step > last.step):
            paused.curve.append(report.point)
        if failed:
            return SegmentResult(outcome=report.outcome, why=report.why)
        if not evaluate:
            continue
        end = _judged(paused, watch) or _patience(paused, watch)
        if end is not None:
            return end
        if report.outcome is Outcome.COMPLETED:
            _demand_metric(paused, watch)
            return SegmentResult(outcome=Outcome.COMPLETED, why=report.why)
    return None


def _judged(paused: PausedRun, watch: SegmentMonitor) -> SegmentResult | None:
    curve, settings = paused.curve, watch.settings
    last = curve.last
    if last is None:
        return None
    if not last.values:
        return None
    _demand_metric(paused, watch)
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
        baseline=watch.baseline,
        warmup=recipe.warmup if recipe.warmup < 1 else 0.0,
        learned_above=watch.learned_above,
    )
    return None if verdict is None else SegmentResult(outcome=verdict.outcome, why=verdict.why)


def _demand_metric(paused: PausedRun, watch: SegmentMonitor) -> None:
    metric, last = watch.settings.metric, paused.curve.last
    known = last is not None and metric in last.values  # spares a look at every point
    if not known and metric not in paused.curve.names:
        names = ", ".join(paused.curve.names) or "nothing"
        what = "choose one of those, or report it from the first epoch on"
        msg = f"the training does not report the metric {metric!r} (it reports {names}); {what}"
        raise InputError(msg)


def _patience(paused: PausedRun, watch: SegmentMonitor) -> SegmentResult | None:
    """Whether the run has gone without a better value for as long as patience allows."""
    patience = watch.settings.patience
    if patience is None:
        return None
    epochs, values = paused.curve.of(watch.settings.metric)
    worse = values if watch.settings.direction == "minimize" else -values
    if epochs[-1] - epochs[int(worse.argmin())] < patience:
        return None
    return SegmentResult(outcome=Outcome.COMPLETED, why=f"no better value for {patience} epochs")


def failed(error: BaseException, *, first: bool) -> tuple[UserCodeError | None, SegmentResult]:
    """What an exception in the user's code means: for the whole search, and for the trial.

    Before any trial has reported anything it is their code that is broken; later it is a trial's fate.
    """
    if isinstance(error, MemoryError):
        why = f"the training code ran out of memory ({error})"
        return None, SegmentResult(outcome=Outcome.OUT_OF_MEMORY, why=why)
    if isinstance(error, SystemExit):
        return None, SegmentResult(outcome=Outcome.FAILED, why=f"the training code called sys.exit({error.code!r})")
    text = _text(error)[-TRACEBACK_CHARACTERS:]
    end = SegmentResult(outcome=Outcome.FAILED, why=text)
    if not first:
        return None, end
    last = text.strip().splitlines()[-1]
    msg = f"the training code failed in its first trial ({last}); mend it and run the same command again"
    told = UserCodeError(msg, user_traceback=text)
    told.__cause__ = error  # --debug shows all of it
    return told, end


def _text(error: BaseException) -> str:
    """Its own traceback; of what came from another process the one that it had there."""
    return error.user_traceback if isinstance(error, RemoteError) else users_own(error)
