"""The training of segments: a run advances up to an epoch, is evaluated, and every report is judged."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune.core.divergence import Baseline, judge
from lrtune.core.outcome import Outcome
from lrtune.core.tracebacks import users_own
from lrtune.errors import InputError, UserCodeError
from lrtune.training.base import beside_others
from lrtune.workers.process import DiedError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.study.engine.run_cache import PausedRun
    from lrtune.study.settings import Settings
    from lrtune.training.base import Report, Run
    from lrtune.workers.process import Death

__all__ = ["Lane", "SegmentMonitor", "SegmentResult", "failed", "train"]

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
    """What is checked and called while segments are trained.

    Attributes
    ----------
    baseline
        See :func:`lrtune.core.divergence.judge`.
    should_stop, progressed
        Called after every chunk of steps: whether to stop at once; that training has moved on.
    save
        Called for each trial's number and run every ``settings.checkpoint_every`` seconds.
    """

    settings: Settings
    baseline: Baseline | None
    should_stop: Callable[[], bool]
    save: Callable[[int, PausedRun], object]
    progressed: Callable[[], object]


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
    apart
        Whether nothing counts because something was raised while several trained side by side: each is tried alone.
    death
        How the run's process died, if it did.
    error
        What ends the search once the result is written; None for nothing.
    """

    outcome: Outcome | None = None
    why: str = ""
    interrupted: bool = False
    behind: bool = False
    apart: bool = False
    death: Death | None = None
    error: BaseException | None = None


@dataclass(slots=True, kw_only=True)
class Lane:
    """One trial of those that are trained side by side, usually the only one.

    Attributes
    ----------
    until
        The epoch up to which it is trained.
    learned_above
        See :func:`lrtune.core.divergence.judge`.
    seconds
        That the trial's earlier segments took.
    result
        How its segment ended; None while it is trained.
    saved_steps
        Steps of a run alone whose time was saved because it trained beside others.
    """

    number: int
    paused: PausedRun
    recipe: Recipe
    until: float
    steps_per_epoch: int
    learned_above: bool = False
    seconds: float = 0.0
    result: SegmentResult | None = None
    saved_steps: float = 0.0

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def target(self) -> int:
        """The step at which the segment ends."""
        if self.until >= self.recipe.epochs:
            return self.total
        # rounded up: a segment that ends short of what was asked for would be asked for again and again
        return min(math.ceil(self.until * self.steps_per_epoch * (1 - 1e-9)), self.total)

    @property
    def boundary(self) -> int:
        """The step at which it is evaluated next: the end of the epoch or of the segment."""
        return min((self.paused.step // self.steps_per_epoch + 1) * self.steps_per_epoch, self.target)


def train(run: Run, lanes: Sequence[Lane], monitor: SegmentMonitor, price: float = 1.0) -> None:
    """Train each lane up to its epoch; its run's curve and step are changed in place, and its result is set.

    Each is evaluated at the end of every epoch and of its segment.

    Parameters
    ----------
    run
        Advances all lanes, which are its members: that of the only lane, or :meth:`~.Trainer.together`.
    price
        The time of a further member, as a share of what it takes alone.

    Raises
    ------
    InputError
        If a run never reports the metric.
    Exception
        Whatever the user's own code raises.
    """
    chunk, started = FIRST_CHUNK, time.monotonic()
    saved_at = started
    patience = min(CHUNK_SECONDS, monitor.settings.checkpoint_every)
    for lane in lanes:
        lane.result = _ended_before(lane, monitor)
    while training := [(member, lane) for member, lane in enumerate(lanes) if lane.result is None]:
        steps = min(max(1, min(chunk, lane.boundary - lane.paused.step)) for _, lane in training)
        measured = {member for member, lane in training if lane.paused.step + steps == lane.boundary}
        began = time.monotonic()
        reports = run.advance(steps, evaluate=bool(measured))
        chunk = _next_chunk(chunk, steps, time.monotonic() - began, patience)
        sizes = beside_others(run, [member for member, _ in training])
        for member, lane in training:
            before = lane.paused.step
            lane.paused.step += steps
            own = [report for report in reports if report.member == member]
            lane.result = _take(lane, own, monitor, evaluate=member in measured)
            lane.saved_steps += (lane.paused.step - before) * (1 - price) * (1 - 1 / sizes.get(member, 1))
        monitor.progressed()
        _limit(training, monitor, time.monotonic() - started)
        ended = [member for member, lane in training if lane.result is not None]
        if len(ended) < len(training):
            if ended:
                run.drop(ended)
            if time.monotonic() - saved_at > monitor.settings.checkpoint_every:
                for _, lane in training:
                    if lane.result is None:
                        monitor.save(lane.number, lane.paused)
                saved_at = time.monotonic()


def _ended_before(lane: Lane, monitor: SegmentMonitor) -> SegmentResult | None:
    """How a lane has ended already: it was saved complete, and the process died before that was written."""
    over = None if lane.paused.curve.last is None else _patience(lane.paused, monitor)
    return _at_target(lane) if over is None and lane.paused.step >= lane.target else over


def _at_target(lane: Lane) -> SegmentResult:
    return SegmentResult(outcome=Outcome.COMPLETED) if lane.paused.step >= lane.total else SegmentResult()


def _limit(training: Sequence[tuple[int, Lane]], monitor: SegmentMonitor, seconds: float) -> None:
    """End the lanes that have reached their target or a limit of time."""
    stopped, limit = monitor.should_stop(), monitor.settings.trial_timeout
    for _, lane in training:
        if lane.result is not None:
            continue
        if stopped and lane.paused.step < lane.target:
            lane.result = SegmentResult(interrupted=True)
        elif lane.paused.step >= lane.target:
            lane.result = _at_target(lane)
        elif limit is not None and lane.seconds + seconds > limit:
            why = f"it took longer than the {limit:g} s that a trial may take"
            lane.result = SegmentResult(outcome=Outcome.STALLED, why=why)


def _next_chunk(chunk: int, steps: int, seconds: float, patience: float) -> int:
    if steps < chunk and seconds < patience:
        return chunk  # an epoch or the segment ended it: no reason to shrink
    return max(1, min(int(steps / max(seconds, 1e-6) * patience), chunk * 8))


def _take(lane: Lane, reports: Sequence[Report], monitor: SegmentMonitor, *, evaluate: bool) -> SegmentResult | None:
    """Add reports to the curve and judge it; the result if the run has ended."""
    paused = lane.paused
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
        end = _judge(lane, monitor) or _patience(paused, monitor)
        if end is not None:
            return end
        if report.outcome is Outcome.COMPLETED:
            _demand_metric(paused, monitor)
            return SegmentResult(outcome=Outcome.COMPLETED, why=report.why)
    return None


def _judge(lane: Lane, monitor: SegmentMonitor) -> SegmentResult | None:
    curve, settings = lane.paused.curve, monitor.settings
    last = curve.last
    if last is None or not last.values:
        return None
    _demand_metric(lane.paused, monitor)
    count = len(curve)
    seldom = 1 << max(0, count.bit_length() - 6)
    if count > JUDGED_IN_FULL and count % seldom and all(map(math.isfinite, last.values.values())):
        return None
    recipe = lane.recipe
    verdict = judge(
        curve,
        settings.metric,
        settings.direction,
        epochs=settings.epochs,
        baseline=monitor.baseline,
        warmup=recipe.warmup if recipe.warmup < 1 else 0.0,
        learned_above=lane.learned_above,
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
