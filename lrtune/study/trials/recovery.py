"""What dead processes held is taken over, and ends that they had no time to tell are told.

A trial whose process died within a piece goes on from its last checkpoint, or from its start where there
is none; its record stays what it was, but for the piece that is to be finished first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import uuid
from typing import TYPE_CHECKING

from lrtune.core.outcome import Outcome
from lrtune.workers.lease import Lease, alive

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.study.trials.stored_trial import StoredTrial
    from lrtune.workers.process import Death

__all__ = ["after_worker_death", "at_work", "lives", "recovered"]

MOST_DEATHS = 2
"""Processes that one trial may take with it; a single death may be another's fault (memory is shared)."""

_working: set[str] = set()


@contextlib.contextmanager
def at_work() -> Iterator[Lease]:
    """The lease of one search within this process: while the block lasts, what it holds is held."""
    worker = f"{threading.current_thread().name}-{uuid.uuid4().hex[:8]}"
    _working.add(worker)
    try:
        yield Lease.mine(worker)
    finally:
        _working.discard(worker)


def recovered(entry: StoredTrial, me: Lease, deaths: Sequence[Death]) -> StoredTrial:
    """The open entry, without what a dead process held; the same object where nothing has changed.

    Parameters
    ----------
    entry
        A trial that has not ended.
    me
        The lease of the search that asks; it is between two pieces, so that a claim of its own is one that
        was stored when the storage's answer was lost.
    deaths
        How worker processes died, as far as somebody watched.
    """
    changed = entry
    if entry.claim is not None and (_is(entry.claim.lease, me) or not lives(entry.claim.lease, me)):
        changed = dataclasses.replace(changed, claim=None, resume=entry.claim.until)
        changed = after_worker_death(changed, _death(entry.claim.lease, deaths))
    if changed.record.outcome is None and entry.owner is not None and not lives(entry.owner, me):
        changed = dataclasses.replace(changed, owner=None)
    return changed


def _is(lease: Lease | None, me: Lease) -> bool:
    return lease is not None and lease.same_holder(me)


def lives(lease: Lease | None, me: Lease) -> bool:
    """Whether a holder may still be working; a search of this very process that has ended is not.

    This process itself need not be looked up: whoever asks is alive.
    """
    if lease is None:
        return False
    if dataclasses.replace(me, worker=lease.worker).same_holder(lease):
        return lease.worker in _working
    return alive(lease)


def after_worker_death(entry: StoredTrial, death: Death | None) -> StoredTrial:
    """What the death of the process that trained it means for a trial: an outcome, or another try.

    None where nobody knows how it died.
    """
    if death is None:
        return entry
    entry = dataclasses.replace(entry, deaths=entry.deaths + 1)
    if not (death.stalled or death.exited) and entry.deaths < MOST_DEATHS:
        return entry
    outcome = Outcome.STALLED if death.stalled else Outcome.FAILED
    return dataclasses.replace(entry, record=dataclasses.replace(entry.record, outcome=outcome, why=death.why))


def _death(lease: Lease | None, deaths: Sequence[Death]) -> Death | None:
    """How a holder died, where somebody watched."""
    return next((d for d in deaths if lease and (d.pid, d.started) == (lease.pid, lease.started)), None)
