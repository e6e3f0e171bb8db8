"""Which trials are taken over from dead workers, and when a trial is given up because its workers die.

A trial whose worker died within a segment goes on from its last checkpoint, or from its start where it has none; its
record stays as it was, and the interrupted segment is finished first.
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

__all__ = ["after_worker_death", "lives", "recovered", "worker_lease"]

MOST_DEATHS = 2
"""Processes that may die while they train one trial; a single death may have another cause (memory is shared)."""

_active: set[str] = set()
"""The searches of this process, by the `worker` of their leases."""


@contextlib.contextmanager
def worker_lease() -> Iterator[Lease]:
    """The lease of one search within this process; it counts as alive while the block lasts."""
    worker = f"{threading.current_thread().name}-{uuid.uuid4().hex[:8]}"
    _active.add(worker)
    try:
        yield Lease.mine(worker)
    finally:
        _active.discard(worker)


def recovered(trial: StoredTrial, me: Lease, deaths: Sequence[Death]) -> StoredTrial:
    """A trial without an outcome, freed of dead workers' claims; the same object where nothing changes.

    The asking search, `me`, trains nothing at the moment: a claim of its own was stored although the storage reported
    an error.
    """
    changed, claim = trial, trial.claim
    if claim is not None and ((claim.lease and claim.lease.same_holder(me)) or not lives(claim.lease, me)):
        changed = dataclasses.replace(changed, claim=None, resume=claim.until)
        dead = claim.lease and (claim.lease.pid, claim.lease.started)
        changed = after_worker_death(changed, next((d for d in deaths if (d.pid, d.started) == dead), None))
    if changed.record.outcome is None and trial.owner is not None and not lives(trial.owner, me):
        changed = dataclasses.replace(changed, owner=None)
    return changed


def lives(lease: Lease | None, me: Lease) -> bool:
    """Whether the holder of a lease may still be working; a search of this process that has ended is not."""
    if lease is None:
        return False
    if dataclasses.replace(me, worker=lease.worker).same_holder(lease):  # this process: it is alive, but the search?
        return lease.worker in _active
    return alive(lease)


def after_worker_death(trial: StoredTrial, death: Death | None) -> StoredTrial:
    """The trial after its process died: with an outcome, or to be tried again, as where no `death` is known."""
    if death is None:
        return trial
    trial = dataclasses.replace(trial, deaths=trial.deaths + 1)
    if not (death.stalled or death.exited) and trial.deaths < MOST_DEATHS:
        return trial
    outcome = Outcome.STALLED if death.stalled else Outcome.FAILED
    return dataclasses.replace(trial, record=dataclasses.replace(trial.record, outcome=outcome, why=death.why))
