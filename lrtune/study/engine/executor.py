"""The execution of segments: claimed trials are trained, and what came of each is written under the study's lock.

A run that is paused is saved first, where it can be (:meth:`.RunCache.suspend`: a file NUMBER-IDENTITY.npz in the
folder of checkpoints, with 12 digits of the study's identity), then its record is written to the database
(:meth:`.TrialStore.report`); its Optuna trial stays RUNNING.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lrtune.core.numpy_errors import users_errstate
from lrtune.core.outcome import Outcome
from lrtune.core.records import Segment
from lrtune.errors import StorageError
from lrtune.study.engine.notifier import line, notify
from lrtune.study.engine.segment import Lane, SegmentMonitor, SegmentResult, failed, train
from lrtune.study.trials.recovery import after_worker_death
from lrtune.study.trials.study_reader import BASELINE
from lrtune.training.base import together
from lrtune.training.setups import setup_of
from lrtune.workers.lease import RENEW_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrtune.core.recipe import Recipe
    from lrtune.core.records import TrialRecord
    from lrtune.study.engine.run_cache import PausedRun
    from lrtune.study.engine.search_state import SearchState
    from lrtune.study.trials.stored_trial import Claim, StoredTrial

__all__ = ["execute"]


def execute(state: SearchState, trials: Sequence[StoredTrial]) -> BaseException | None:
    """Train claimed trials up to their claims' epochs, side by side, and write what came of each.

    Returns
    -------
    BaseException | None
        What is to be raised now that everything is written.

    Raises
    ------
    StorageError
        If the storage gave up: then nothing was written.
    """
    state.training = tuple(trials)
    notify(state)
    jobs = [_Job(trial=trial, claim=_claim_of(trial)) for trial in trials]
    with _training(state):
        for job in jobs:
            _in_turn(state, jobs, job, lambda job=job: _prepare(state, job))  # type: ignore[misc]  # bound at once
        if _error(jobs) is None:
            _train(state, [job for job in jobs if job.lane is not None and job.result is None])
    for job in jobs:
        _write(state, job)
    return _error(jobs)


@dataclass(slots=True, kw_only=True)
class _Job:
    """A claimed trial on its way through :func:`execute`; `lane` once its run is there, `begin` in epochs."""

    trial: StoredTrial
    claim: Claim
    at: float = field(default_factory=time.time)
    clock: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    begin: float = 0.0
    lane: Lane | None = None
    result: SegmentResult | None = None

    @property
    def paused(self) -> PausedRun | None:
        return None if self.lane is None else self.lane.paused


def _claim_of(trial: StoredTrial) -> Claim:
    if trial.claim is None:
        msg = f"trial {trial.number} is not claimed"
        raise ValueError(msg)
    return trial.claim


def _error(jobs: Sequence[_Job]) -> BaseException | None:
    """What ends the search, if anything does."""
    return next((job.result.error for job in jobs if job.result is not None and job.result.error is not None), None)


def _in_turn(state: SearchState, jobs: Sequence[_Job], job: _Job, act: Callable[[], None]) -> None:
    """Do something for one of several jobs, guarded, unless one of them has ended the search."""
    job.clock, job.at = time.monotonic(), time.time()
    if _error(jobs) is None:
        _guarded(state, [job], act)


def _guarded(state: SearchState, jobs: Sequence[_Job], act: Callable[[], None]) -> bool:
    """Do something that runs user code, which may raise anything; whether it went well. Else all have a result."""
    try:
        act()
    except StorageError:
        raise
    except BaseException as error:  # noqa: BLE001 -- user code may raise anything, SystemExit too
        alone = len(jobs) == 1 or isinstance(error, KeyboardInterrupt)
        first = not any(len(other.record.curve) for other in state.trials)
        for job in jobs:
            job.result = failed(error, first=first) if alone else SegmentResult(apart=True)
        state.apart = state.apart or not alone
        return False
    finally:
        for job in jobs:
            job.seconds = time.monotonic() - job.clock
    return True


def _prepare(state: SearchState, job: _Job) -> None:
    """Bring the trial's run back, or start it; a result where it cannot be trained now."""
    trial, recipe = job.trial, job.trial.record.recipe
    _measure_baseline(state, recipe)
    steps = state.trainer.steps_per_epoch(recipe)
    paused = state.run_cache.fetch(trial.number, recipe, trial.record.curve)
    job.lane = Lane(
        number=trial.number,
        paused=paused,
        recipe=recipe,
        until=job.claim.until,
        steps_per_epoch=steps,
        learned_above=state.learned_above(recipe),
        seconds=sum(segment.seconds for segment in trial.record.segments),
    )
    job.begin = min(paused.step / steps, trial.trained_epochs)
    if not (trial.record.setup and paused.step):
        job.trial = dataclasses.replace(trial, record=dataclasses.replace(trial.record, setup=setup_of(paused.run)))
    if job.begin < trial.trained_epochs * (1 - 1e-9) and not job.claim.repaid_epochs:
        job.result = SegmentResult(behind=True)
    # else epochs that a dead process trained beyond the record are paid here, unless trained again


def _train(state: SearchState, jobs: Sequence[_Job]) -> None:
    """Train side by side where the trainer can, else in turn."""
    lanes = [job.lane for job in jobs if job.lane is not None]
    monitor = _monitor(state, [job.trial for job in jobs])
    run = together(state.trainer, [lane.paused.run for lane in lanes]) if len(lanes) > 1 else None
    if run is None:
        for job, lane in zip(jobs, lanes, strict=True):
            _in_turn(state, jobs, job, lambda lane=lane: train(lane.paused.run, [lane], monitor))  # type: ignore[misc]
    else:
        price = state.beside_price(lanes[0].recipe)
        if _guarded(state, jobs, lambda: train(run, lanes, monitor, price)):
            run.close()  # each has storage of its own again: one that is paused for long holds no more than itself
    for job, lane in zip(jobs, lanes, strict=True):
        job.result = job.result or lane.result


def _write(state: SearchState, job: _Job) -> None:
    """Write what came of a trial; one that was not reached, because another ended the search, is put back."""
    trial, result, lane = job.trial, job.result or SegmentResult(apart=True), job.lane
    if result.death is not None:
        trial = after_worker_death(trial, result.death)
        result = job.result = dataclasses.replace(result, outcome=trial.record.outcome)
    if result.behind or result.apart or (result.death is not None and result.outcome is None):
        _write_untrained(state, trial, job.paused, result)
        return
    segment = Segment(
        at=job.at,
        seconds=job.seconds,
        begin=job.begin,
        end=job.begin if lane is None else lane.paused.step / lane.steps_per_epoch,
        worker=state.trial_store.me.worker,
        why=job.claim.why,
    )
    saved = 0.0 if lane is None else lane.saved_steps / lane.steps_per_epoch
    record = dataclasses.replace(trial.record, saved_epochs=trial.record.saved_epochs + saved)
    _write_trained(state, dataclasses.replace(trial, record=record), job.paused, result, segment)


@contextlib.contextmanager
def _training(state: SearchState) -> Iterator[None]:
    """Within the block training code runs, and may stall."""
    state.place.working()
    try:
        with users_errstate():
            yield
    finally:
        state.place.idle()


def _measure_baseline(state: SearchState, recipe: Recipe) -> None:
    if state.baseline is None:
        state.baseline = state.trainer.baseline(recipe, state.settings.metric)
        state.trial_store.set_attributes({BASELINE: dataclasses.asdict(state.baseline)})


def _monitor(state: SearchState, trials: Sequence[StoredTrial]) -> SegmentMonitor:
    renewed = time.monotonic()

    def renew() -> None:
        state.active_searches.renew()
        for trial in trials:
            state.trial_store.renew(trial)

    def progressed() -> None:
        # a storage that is away or an observer that draws is no training that makes no progress
        nonlocal renewed
        state.place.idle()
        if time.monotonic() - renewed > RENEW_SECONDS:
            renewed = time.monotonic()
            state.with_study_lock(renew)
        notify(state)
        state.place.working()

    return SegmentMonitor(
        settings=state.settings,
        baseline=state.baseline,
        should_stop=lambda: time.monotonic() >= state.deadline or state.should_stop(),
        save=state.run_cache.save,
        progressed=progressed,
    )


def _write_untrained(state: SearchState, trial: StoredTrial, paused: PausedRun | None, result: SegmentResult) -> None:
    """Give the claim back; the record stays.

    Either the checkpoint is older than the record (damaged, gone, or in another folder), and it is decided anew what it
    costs to go on; or the run's process died, and the segment is tried once more from the last checkpoint.
    """
    _close(paused)
    if result.behind:
        released = dataclasses.replace(trial, claim=None, owner=None, saved=False)
    else:
        released = dataclasses.replace(trial, claim=None, owner=None, resume=trial.claim.until if trial.claim else None)

    def write() -> None:
        state.training = _others(state, trial)
        if state.trial_store.holds_claim(trial):
            state.replace(state.trial_store.write(released))
            if result.death is not None:
                notify(state, f"trial {trial.number}: {result.why}; it is tried once more")

    state.with_study_lock(write)


def _write_trained(
    state: SearchState, trial: StoredTrial, paused: PausedRun | None, result: SegmentResult, segment: Segment
) -> None:
    """Write the trial with its segment, unless another worker has taken it over."""
    store, cache, number = state.trial_store, state.run_cache, trial.number
    record = _extended(state, trial, paused, result, segment)
    if result.outcome is not None:
        if paused is not None and number in state.finalists(record):
            cache.save_completed(number, paused)
        _close(paused)
    live = paused if result.outcome is None else None
    saved = live is not None and cache.suspend(number, live)
    after = dataclasses.replace(
        trial,
        record=record,
        claim=None,
        saved=saved,
        owner=store.me if live is not None and not saved else None,
        resume=trial.claim.until if result.interrupted and trial.claim else None,
    )

    def write() -> None:
        state.training = _others(state, trial)
        stored = None
        if not store.holds_claim(trial) and (stored := store.already_written(after)) is None:
            state.warnings.append(f"trial {number} was taken over while this process slept")
            state.refresh()
            if number not in state.finalists():  # whose trained model the other worker has saved
                cache.forget(number)
            return
        kept = state.finalists()
        if after.record.outcome is None:
            written = store.report(after)
        else:
            written = stored if stored is not None and stored.closed else store.end(after)
        state.replace(written)
        for ended in ({number, *kept} if after.record.outcome is not None else kept) - state.finalists():
            cache.forget(ended)
        notify(state, line(written, state.settings))

    state.with_study_lock(write)


def _extended(
    state: SearchState, trial: StoredTrial, paused: PausedRun | None, result: SegmentResult, segment: Segment
) -> TrialRecord:
    """The record with what the segment added: the curve, its cost, and the outcome and value of a run that ended."""
    record, settings = trial.record, state.settings
    curve = record.curve if paused is None else paused.curve
    outcome, why, value = result.outcome, result.why, None
    if outcome is Outcome.COMPLETED:
        value = settings.value.of(curve.of(settings.metric)[1], settings.direction)
        if value is None:
            outcome, why = Outcome.FAILED, f"the run ended without a finite value of {settings.metric!r}"
    return dataclasses.replace(
        record,
        curve=curve,
        outcome=outcome,
        why=why,
        value=value,
        trained=record.trained + segment.epochs,
        segments=(*record.segments, segment),
    )


def _others(state: SearchState, trial: StoredTrial) -> tuple[StoredTrial, ...]:
    return tuple(other for other in state.training if other.number != trial.number)


def _close(paused: PausedRun | None) -> None:
    if paused is not None:
        with contextlib.suppress(Exception):  # its outcome is known: an error of its clean-up changes nothing
            paused.run.close()
