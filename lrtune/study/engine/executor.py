"""The execution of one segment: a claimed trial is trained, and the result is written under the study's lock.

A run that is paused is saved first, where it can be (:meth:`.RunCache.suspend`: a file NUMBER-IDENTITY.npz in the
folder of checkpoints, with 12 digits of the study's identity), then its record is written to the database
(:meth:`.TrialStore.report`); its Optuna trial stays RUNNING.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING

from lrtune.core.numpy_errors import users_errstate
from lrtune.core.outcome import Outcome
from lrtune.core.records import Segment
from lrtune.errors import StorageError
from lrtune.study.engine.notifier import line, notify
from lrtune.study.engine.segment import SegmentMonitor, SegmentResult, failed, train
from lrtune.study.trials.recovery import after_worker_death
from lrtune.study.trials.study_reader import BASELINE
from lrtune.training.setups import setup_of
from lrtune.workers.lease import RENEW_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.core.recipe import Recipe
    from lrtune.core.records import TrialRecord
    from lrtune.study.engine.run_cache import PausedRun
    from lrtune.study.engine.search_state import SearchState
    from lrtune.study.trials.stored_trial import StoredTrial

__all__ = ["execute"]


def execute(state: SearchState, trial: StoredTrial) -> SegmentResult:
    """Train a claimed trial up to its claim's epoch and write what came of it; ``error`` is for the caller to raise.

    Raises
    ------
    StorageError
        If the storage gave up: then nothing was written.
    """
    claim = trial.claim
    if claim is None:
        msg = f"trial {trial.number} is not claimed"
        raise ValueError(msg)
    recipe = trial.record.recipe
    at, clock = time.time(), time.monotonic()
    state.training = (trial,)
    notify(state)
    paused: PausedRun | None = None
    begin, steps = 0.0, 1
    try:
        with _training(state):
            _measure_baseline(state, recipe)
            steps = state.trainer.steps_per_epoch(recipe)
            paused = state.run_cache.fetch(trial.number, recipe, trial.record.curve)
            if not (trial.record.setup and paused.step):
                trial = dataclasses.replace(trial, record=dataclasses.replace(trial.record, setup=setup_of(paused.run)))
            begin = min(paused.step / steps, trial.trained_epochs)
            if begin < trial.trained_epochs * (1 - 1e-9) and not claim.repaid_epochs:
                result = SegmentResult(behind=True)
            else:  # epochs that a dead process trained beyond the record are paid here, unless trained again
                result = train(paused, recipe, claim.until, _monitor(state, trial, steps))
    except StorageError:
        raise
    except BaseException as error:  # noqa: BLE001 -- user code may raise anything, SystemExit too
        result = failed(error, first=not any(len(other.record.curve) for other in state.trials))
    segment = Segment(
        at=at,
        seconds=time.monotonic() - clock,
        begin=begin,
        end=begin if paused is None else paused.step / steps,
        worker=state.trial_store.me.worker,
        why=claim.why,
    )
    if result.death is not None:
        trial = after_worker_death(trial, result.death)
        result = dataclasses.replace(result, outcome=trial.record.outcome)
    if result.behind or (result.death is not None and result.outcome is None):
        _write_untrained(state, trial, paused, result)
    else:
        _write_trained(state, trial, paused, result, segment)
    return result


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


def _monitor(state: SearchState, trial: StoredTrial, steps: int) -> SegmentMonitor:
    renewed = time.monotonic()

    def renew() -> None:
        state.active_searches.renew()
        state.trial_store.renew(trial)

    def progressed(_epoch: float) -> None:
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
        steps_per_epoch=steps,
        baseline=state.baseline,
        learned_above=state.learned_above(trial.record.recipe),
        should_stop=lambda: time.monotonic() >= state.deadline or state.should_stop(),
        save=lambda paused: state.run_cache.save(trial.number, paused),
        progressed=progressed,
        seconds=sum(segment.seconds for segment in trial.record.segments),
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
        state.training = ()
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
        state.training = ()
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


def _close(paused: PausedRun | None) -> None:
    if paused is not None:
        with contextlib.suppress(Exception):  # its outcome is known: an error of its clean-up changes nothing
            paused.run.close()
