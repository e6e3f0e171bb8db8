"""Who is searching a study right now, so that whoever ends leaves to the others what they still want.

A search that has nothing claimed (it decides, or waits) is seen nowhere else. The workers of one command
count as one: they have the same limits, and end together.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrtune.errors import LockedError, StorageError
from lrtune.storage import spans_machines
from lrtune.study.trials.recovery import lives
from lrtune.study.trials.study_reader import SEARCHES
from lrtune.workers.lease import RENEW_SECONDS, Lease, process_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrtune.study.trials.trial_store import TrialStore
    from lrtune.workers.pool import WorkerContext

__all__ = ["ActiveSearches"]


@dataclass(slots=True, kw_only=True)
class ActiveSearches:
    """One search's place in the list of those that search a study; the list is a user attribute of the study.

    Every method but :meth:`during` expects its caller to hold the study's lock.

    Attributes
    ----------
    ledger
        Where the list is kept.
    crew
        What the workers of one command have in common; empty for a search that is on its own.
    """

    trial_store: TrialStore
    crew: str = ""
    _renewed: float = field(default=0.0, init=False)

    @classmethod
    def of(cls, trial_store: TrialStore, place: WorkerContext) -> ActiveSearches:
        """The attendance of the worker that stands there."""
        parent = os.getppid()
        crew = (
            f"{trial_store.me.host} {trial_store.me.boot_id} {parent} {process_start(parent)}"
            if place.count > 1
            else ""
        )
        return cls(trial_store=trial_store, crew=crew)

    @contextlib.contextmanager
    def during(self, with_study_lock: Callable[[Callable[[], None]], object]) -> Iterator[None]:
        """On the list for as long as the block lasts.

        Parameters
        ----------
        decisively
            Does something under the study's lock.

        Raises
        ------
        LockedError
            If another machine searches the study, and the storage has no lock that holds its processes off.
        """
        with_study_lock(self._enter)
        away = False
        try:
            yield
        except StorageError:
            away = True  # it has been waited for already; that the process is gone tells, too
            raise
        finally:
            if not away:
                with contextlib.suppress(StorageError):
                    with_study_lock(self.leave)

    def _enter(self) -> None:
        """Be on the list for the first time."""
        me = self.trial_store.me
        if not spans_machines(self.trial_store.storage):
            for other in self._others():
                lease = Lease.from_json(other["lease"])
                if lease is not None and (lease.host, lease.boot_id) != (me.host, me.boot_id):
                    msg = (
                        f"study {self.trial_store.study.study_name!r} is being searched from another machine or "
                        "container, "
                        f"{lease.host}, and lrtune has no lock for this kind of storage that reaches beyond one; wait "
                        "until that search has ended, or keep the study in PostgreSQL"
                    )
                    raise LockedError(msg)
        self.renew()

    def renew(self) -> None:
        """Be on the list; written once in a while, since other machines go by the lease's time alone."""
        if self._renewed and time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        mine = {"lease": self.trial_store.me.renewed().to_json(), "crew": self.crew}
        self._write([*self._others(), mine])
        self._renewed = time.monotonic()

    def leave(self) -> None:
        """Be off the list."""
        if self._renewed:
            self._write(self._others())
            self._renewed = 0.0

    def alone(self) -> bool:
        """Whether no other command searches the study."""
        return all(self.crew and other.get("crew") == self.crew for other in self._others())

    def _others(self) -> list[dict[str, Any]]:
        """Those on the list that live."""
        me, found = self.trial_store.me, []
        for other in self.trial_store.attributes().get(SEARCHES, []):
            lease = Lease.from_json(other.get("lease"))
            if lease is not None and not lease.same_holder(me) and lives(lease, me):
                found.append(other)
        return found

    def _write(self, searches: list[dict[str, Any]]) -> None:
        self.trial_store.describe({SEARCHES: searches})
