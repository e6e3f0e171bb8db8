"""Performing: a claimed piece is trained, and under the study's lock what came of it is written."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING

from lrtune.core.numpy_errors import users_errstate
from lrtune.core.outcome import Outcome
from lrtune.core.records import Piece
from lrtune.errors import InputError, StorageError
from lrtune.study.engine.notifier import line
from lrtune.study.engine.segment import PieceEnd, Watch, failed, train
from lrtune.study.trials.recovery import bereaved
from lrtune.training.setups import setup_of
from lrtune.workers.process import DiedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.core.recipe import Recipe
    from lrtune.study.engine.run_cache import Parked
    from lrtune.study.engine.scheduler import Work
    from lrtune.study.engine.search_state import Standing
    from lrtune.study.trials.stored_trial import Entry

__all__ = ["perform"]

RENEW_SECONDS = 30.0


def perform(search: Standing, work: Work) -> None:
    """Train a claimed piece and write what came of it."""
    entry = work.entry
    recipe = entry.record.recipe
    began, clock = time.time(), time.monotonic()
    search.training = (entry, work.until)
    search.listen("", search)
    parked: Parked | None = None
    begin, spe = 0.0, 1
    raised: BaseException | None = None
    try:
        with _working(search):
            _learn_baseline(search, recipe)
            spe = search.trainer.steps_per_epoch(recipe)
            parked = search.garage.fetch(entry.number, recipe, entry.record.curve)
            entry = _set_up(entry, parked)
            work = dataclasses.replace(work, entry=entry)
            # what a process that died had trained beyond the record is paid here, unless it is trained again
            begin = min(parked.step / spe, entry.stands)
            behind = begin < entry.stands * (1 - 1e-9) and entry.claim is not None and not entry.claim.again
            end = PieceEnd() if behind else train(parked, recipe, work.until, _watch(search, entry, spe))
        if behind:
            _behind(search, entry, parked)
            return
    except (StorageError, KeyboardInterrupt) as error:
        raised, end = error, PieceEnd(interrupted=True)
    except DiedError as error:
        entry = bereaved(entry, error.death)
        if entry.record.outcome is None:
            _lost(search, entry, error)
            return
        work, end = dataclasses.replace(work, entry=entry), PieceEnd(outcome=entry.record.outcome, why=str(error))
    except InputError as error:
        raised, end = error, PieceEnd(outcome=Outcome.FAILED, why=str(error))
    except BaseException as error:  # noqa: BLE001 -- user code may raise anything, SystemExit too
        raised, end = failed(error, first=not any(len(entry.record.curve) for entry in search.entries))
    at = parked.step / spe if parked is not None else begin
    piece = Piece(
        at=began, seconds=time.monotonic() - clock, begin=begin, end=at, worker=search.ledger.me.worker, why=work.why
    )
    if isinstance(raised, StorageError):
        raise raised
    _write(search, work, parked, end, piece)
    if raised is not None:
        raise raised


def _set_up(entry: Entry, parked: Parked) -> Entry:
    """The entry, which knows how its run was set up when it took its first step."""
    if entry.record.setup and parked.step:
        return entry
    return dataclasses.replace(entry, record=dataclasses.replace(entry.record, setup=setup_of(parked.run)))


@contextlib.contextmanager
def _working(search: Standing) -> Iterator[None]:
    """Within the block the training code is at work, and may stall."""
    search.place.working()
    try:
        with users_errstate():
            yield
    finally:
        search.place.idle()


def _lost(search: Standing, entry: Entry, error: DiedError) -> None:
    """The run is gone with its process, and the trial is to be tried again: from its last checkpoint, if any."""

    def write() -> None:
        search.training = None
        if entry.claim is None or not search.ledger.holds(entry):
            return
        again = dataclasses.replace(entry, claim=None, holder=None, resume=entry.claim.until)
        search.replace(search.ledger.write(again))
        search.listen(f"trial {entry.number}: {error}; it is tried once more", search)

    search.decisively(write)


def _behind(search: Standing, entry: Entry, parked: Parked) -> None:
    """The checkpoint is damaged, gone, old, or in another command's folder: what it costs to go on is decided anew."""
    with contextlib.suppress(Exception):
        parked.run.close()

    def write() -> None:
        search.training = None
        if search.ledger.holds(entry):
            again = dataclasses.replace(entry, claim=None, holder=None, saved=False)
            search.replace(search.ledger.write(again))

    search.decisively(write)


def _learn_baseline(search: Standing, recipe: Recipe) -> None:
    if search.baseline is None:
        search.baseline = search.trainer.baseline(recipe, search.settings.metric)
        search.learned(search.baseline)


def _watch(search: Standing, entry: Entry, spe: int) -> Watch:
    renewed = [time.monotonic()]

    def renew() -> None:
        search.attendance.renew()
        if search.ledger.holds(entry):
            search.ledger.renew(entry)

    def progressed(_epoch: float) -> None:
        # neither a storage that is away nor a figure that is drawn for a note is a training that makes no progress
        search.place.idle()
        if time.monotonic() - renewed[0] > RENEW_SECONDS:
            renewed[0] = time.monotonic()
            search.decisively(renew)
        search.listen("", search)
        search.place.working()

    def stop() -> bool:
        late = search.deadline is not None and time.monotonic() >= search.deadline
        return late or search.should_stop()

    return Watch(
        settings=search.settings,
        steps_per_epoch=spe,
        baseline=search.baseline,
        learned_above=search.learned_above(entry.record.recipe),
        should_stop=stop,
        save=lambda parked: search.garage.save(entry.number, parked),
        progressed=progressed,
        seconds=sum(piece.seconds for piece in entry.record.pieces),
    )


def _write(search: Standing, work: Work, parked: Parked | None, end: PieceEnd, piece: Piece) -> None:
    """Write what came of a piece, unless somebody else has taken the trial over."""
    if parked is not None and end.outcome is not None:
        with contextlib.suppress(Exception):  # how it ended is known; what its clean-up says changes nothing
            parked.run.close()
    saved = parked is not None and end.outcome is None and search.garage.park(work.entry.number, parked)
    entry = _after(search, work.entry, parked, end, piece, saved=saved)

    def write() -> None:
        search.training = None
        stored = None
        if not search.ledger.holds(work.entry) and (stored := search.ledger.stored(entry)) is None:
            search.warnings.append(f"trial {work.entry.number} was taken over while this process slept")
            search.garage.forget(work.entry.number)
            return
        if entry.record.outcome is None:
            written = search.ledger.report(entry)
        else:
            written = stored if stored is not None and stored.told else search.ledger.end(entry)
            search.garage.forget(entry.number)
        search.replace(written)
        search.listen(line(written, search.settings), search)

    search.decisively(write)


def _after(search: Standing, entry: Entry, parked: Parked | None, end: PieceEnd, piece: Piece, *, saved: bool) -> Entry:
    record = entry.record
    curve = parked.curve if parked is not None else record.curve
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
        pieces=(*record.pieces, piece),
    )
    live = outcome is None and not saved and parked is not None
    return dataclasses.replace(
        entry,
        record=record,
        claim=None,
        saved=saved,
        holder=search.ledger.me if live else None,
        resume=entry.claim.until if end.interrupted and entry.claim else None,
    )
