"""Which searches work on a study right now, so that the one that ends leaves to the others what they still want.

A search that has claimed no trial (it decides, or waits) appears nowhere else. The workers of one command count as one
search: they have the same limits, and end together.
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
    """The list of the searches of a study, a user attribute of it, and this search's place in it.

    Every method but :meth:`during` expects its caller to hold the study's lock.

    Attributes
    ----------
    command
        Identifies the command, equal in all its workers; empty for a search without other workers.
    """

    trial_store: TrialStore
    command: str = ""
    _renewed: float = field(default=0.0, init=False)

    @classmethod
    def of(cls, trial_store: TrialStore, place: WorkerContext) -> ActiveSearches:
        """The list as the worker in that place keeps it."""
        me, parent = trial_store.me, os.getppid()
        command = f"{me.host} {me.boot_id} {parent} {process_start(parent)}" if place.count > 1 else ""
        return cls(trial_store=trial_store, command=command)

    @contextlib.contextmanager
    def during(self, with_study_lock: Callable[[Callable[[], None]], object]) -> Iterator[None]:
        """On the list for as long as the block lasts; `with_study_lock` calls a function under the study's lock.

        Raises
        ------
        LockedError
            If another machine searches the study, and the storage has no lock that spans machines.
        """
        with_study_lock(self._enter)
        away = False
        try:
            yield
        except StorageError:
            away = True  # it has been waited for already; others see that this process is gone
            raise
        finally:
            if not away:
                with contextlib.suppress(StorageError):
                    with_study_lock(self.leave)

    def _enter(self) -> None:
        me = self.trial_store.me
        others = [] if spans_machines(self.trial_store.storage) else self._others()
        for lease in (Lease.from_json(other["lease"]) for other in others):
            if lease is not None and (lease.host, lease.boot_id) != (me.host, me.boot_id):
                msg = (
                    f"study {self.trial_store.study.study_name!r} is being searched from another machine or container, "
                    f"{lease.host}, and lrtune has no lock for this kind of storage that reaches beyond one; wait "
                    "until that search has ended, or keep the study in PostgreSQL"
                )
                raise LockedError(msg)
        self.renew()

    def renew(self) -> None:
        """Be on the list with a fresh lease; written once in a while, since other machines know its time alone."""
        if self._renewed and time.monotonic() - self._renewed < RENEW_SECONDS:
            return
        mine = {"lease": self.trial_store.me.renewed().to_json(), "crew": self.command}
        self.trial_store.set_attributes({SEARCHES: [*self._others(), mine]})
        self._renewed = time.monotonic()

    def leave(self) -> None:
        """Be off the list."""
        if self._renewed:
            self.trial_store.set_attributes({SEARCHES: self._others()})
            self._renewed = 0.0

    def alone(self) -> bool:
        """Whether no other command searches the study."""
        return all(self.command and other.get("crew") == self.command for other in self._others())

    def _others(self) -> list[dict[str, Any]]:
        """The other searches that are alive."""
        me, found = self.trial_store.me, []
        for other in self.trial_store.attributes().get(SEARCHES, []):
            lease = Lease.from_json(other.get("lease"))
            if lease is not None and not lease.same_holder(me) and lives(lease, me):
                found.append(other)
        return found
