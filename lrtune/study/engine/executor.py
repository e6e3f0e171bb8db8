"""Performing: a claimed piece is trained, and under the study's lock what came of it is written."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING

from lrtune.core.numpy_errors import users_errstate
from lrtune.core.outcome import Outcome
from lrtune.core.records import Segment
from lrtune.errors import InputError, StorageError
from lrtune.study.engine.notifier import line
from lrtune.study.engine.segment import SegmentMonitor, SegmentResult, failed, train
from lrtune.study.trials.recovery import after_worker_death
from lrtune.training.setups import setup_of
from lrtune.workers.process import DiedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.core.recipe import Recipe
    from lrtune.study.engine.run_cache import PausedRun
    from lrtune.study.engine.scheduler import NextSegment
    from lrtune.study.engine.search_state import SearchState
    from lrtune.study.trials.stored_trial import StoredTrial

__all__ = ["perform"]

RENEW_SECONDS = 30.0


def perform(search: SearchState, work: NextSegment) -> None:
    """Train a claimed piece and write what came of it."""
    entry = work.entry
    recipe = entry.record.recipe
    began, clock = time.time(), time.monotonic()
    search.training = (entry, work.until)
    search.listen("", search)
    paused: PausedRun | None = None
    begin, spe = 0.0, 1
    raised: BaseException | None = None
    try:
        with _working(search):
            _learn_baseline(search, recipe)
            spe = search.trainer.steps_per_epoch(recipe)
            paused = search.run_cache.fetch(entry.number, recipe, entry.record.curve)
            entry = _set_up(entry, paused)
            work = dataclasses.replace(work, entry=entry)
            # what a process that died had trained beyond the record is paid here, unless it is trained again
            begin = min(paused.step / spe, entry.trained_epochs)
            behind = (
                begin < entry.trained_epochs * (1 - 1e-9) and entry.claim is not None and not entry.claim.repaid_epochs
            )
            end = SegmentResult() if behind else train(paused, recipe, work.until, _watch(search, entry, spe))
        if behind:
            _behind(search, entry, paused)
            return
    except (StorageError, KeyboardInterrupt) as error:
        raised, end = error, SegmentResult(interrupted=True)
    except DiedError as error:
        entry = after_worker_death(entry, error.death)
        if entry.record.outcome is None:
            _lost(search, entry, error)
            return
        work, end = dataclasses.replace(work, entry=entry), SegmentResult(outcome=entry.record.outcome, why=str(error))
    except InputError as error:
        raised, end = error, SegmentResult(outcome=Outcome.FAILED, why=str(error))
    except BaseException as error:  # noqa: BLE001 -- user code may raise anything, SystemExit too
        raised, end = failed(error, first=not any(len(entry.record.curve) for entry in search.entries))
    at = paused.step / spe if paused is not None else begin
    piece = Segment(
        at=began,
        seconds=time.monotonic() - clock,
        begin=begin,
        end=at,
        worker=search.trial_store.me.worker,
        why=work.why,
    )
    if isinstance(raised, StorageError):
        raise raised
    _write(search, work, paused, end, piece)
    if raised is not None:
        raise raised


def _set_up(entry: StoredTrial, paused: PausedRun) -> StoredTrial:
    """The entry, which knows how its run was set up when it took its first step."""
    if entry.record.setup and paused.step:
        return entry
    return dataclasses.replace(entry, record=dataclasses.replace(entry.record, setup=setup_of(paused.run)))


@contextlib.contextmanager
def _working(search: SearchState) -> Iterator[None]:
    """Within the block the training code is at work, and may stall."""
    search.place.working()
    try:
        with users_errstate():
            yield
    finally:
        search.place.idle()


def _lost(search: SearchState, entry: StoredTrial, error: DiedError) -> None:
    """The run is gone with its process, and the trial is to be tried again: from its last checkpoint, if any."""

    def write() -> None:
        search.training = None
        if entry.claim is None or not search.trial_store.holds(entry):
            return
        again = dataclasses.replace(entry, claim=None, owner=None, resume=entry.claim.until)
        search.replace(search.trial_store.write(again))
        search.listen(f"trial {entry.number}: {error}; it is tried once more", search)

    search.with_study_lock(write)


def _behind(search: SearchState, entry: StoredTrial, paused: PausedRun) -> None:
    """The checkpoint is damaged, gone, old, or in another command's folder: what it costs to go on is decided anew."""
    with contextlib.suppress(Exception):
        paused.run.close()

    def write() -> None:
        search.training = None
        if search.trial_store.holds(entry):
            again = dataclasses.replace(entry, claim=None, owner=None, saved=False)
            search.replace(search.trial_store.write(again))

    search.with_study_lock(write)


def _learn_baseline(search: SearchState, recipe: Recipe) -> None:
    if search.baseline is None:
        search.baseline = search.trainer.baseline(recipe, search.settings.metric)
        search.learned(search.baseline)


def _watch(search: SearchState, entry: StoredTrial, spe: int) -> SegmentMonitor:
    renewed = [time.monotonic()]

    def renew() -> None:
        search.active_searches.renew()
        if search.trial_store.holds(entry):
            search.trial_store.renew(entry)

    def progressed(_epoch: float) -> None:
        # neither a storage that is away nor a figure that is drawn for a note is a training that makes no progress
        search.place.idle()
        if time.monotonic() - renewed[0] > RENEW_SECONDS:
            renewed[0] = time.monotonic()
            search.with_study_lock(renew)
        search.listen("", search)
        search.place.working()

    def stop() -> bool:
        late = search.deadline is not None and time.monotonic() >= search.deadline
        return late or search.should_stop()

    return SegmentMonitor(
        settings=search.settings,
        steps_per_epoch=spe,
        baseline=search.baseline,
        learned_above=search.learned_above(entry.record.recipe),
        should_stop=stop,
        save=lambda paused: search.run_cache.save(entry.number, paused),
        progressed=progressed,
        seconds=sum(piece.seconds for piece in entry.record.segments),
    )


def _write(
    search: SearchState, work: NextSegment, paused: PausedRun | None, end: SegmentResult, piece: Segment
) -> None:
    """Write what came of a piece, unless somebody else has taken the trial over."""
    if paused is not None and end.outcome is not None:
        with contextlib.suppress(Exception):  # how it ended is known; what its clean-up says changes nothing
            paused.run.close()
    saved = paused is not None and end.outcome is None and search.run_cache.suspend(work.entry.number, paused)
    entry = _after(search, work.entry, paused, end, piece, saved=saved)

    def write() -> None:
        search.training = None
        stored = None
        if not search.trial_store.holds(work.entry) and (stored := search.trial_store.stored(entry)) is None:
            search.warnings.append(f"trial {work.entry.number} was taken over while this process slept")
            search.run_cache.forget(work.entry.number)
            return
        if entry.record.outcome is None:
            written = search.trial_store.report(entry)
        else:
            written = stored if stored is not None and stored.closed else search.trial_store.end(entry)
            search.run_cache.forget(entry.number)
        search.replace(written)
        search.listen(line(written, search.settings), search)

    search.with_study_lock(write)


def _after(
    search: SearchState,
    entry: StoredTrial,
    paused: PausedRun | None,
    end: SegmentResult,
    piece: Segment,
    *,
    saved: bool,
) -> StoredTrial:
    record = entry.record
    curve = paused.curve if paused is not None else record.curve
    outcome, why, value = end.outcome, end.why, None
    if outcome is Outcome.COMPLETED:
        value = search.settings.value.of(curve.of(search.settings.metric)[1], search.settings.direction)
        if value is None:
            outcome, why = Outcome.FAILED, f"the run ended without a finite value of {search.settings.metric!r}"
    record = dataclasses.replace(
        record,
        curve=curve,
        outcome=outcome,
        why=why,
        value=value,
        trained=record.trained + piece.epochs,
        segments=(*record.segments, piece),
    )
    live = outcome is None and not saved and paused is not None
    return dataclasses.replace(
        entry,
        record=record,
        claim=None,
        saved=saved,
        owner=search.trial_store.me if live else None,
        resume=entry.claim.until if end.interrupted and entry.claim else None,
    )
