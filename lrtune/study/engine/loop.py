"""The one loop: ask, advance, judge, tell.

Under the study's lock a piece of work is decided and claimed; outside of it the run is trained; under
the lock again what came of it is written. Any number of processes may run this loop on one study.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from lrtune.study.engine.executor import perform
from lrtune.study.engine.scheduler import Finished, decide
from lrtune.study.engine.search_state import SearchState

__all__ = ["Search"]

IDLE_SECONDS = 0.05


@dataclass(slots=True, kw_only=True)
class Search(SearchState):
    """One process's part of a search, from where it stands to its end."""

    def run(self) -> Finished:
        """Work until the search has ended.

        Raises
        ------
        UserCodeError
            If the user's training code raises before any trial has reported anything.
        LrtuneError
            Whatever else makes going on useless.
        """
        while True:
            decision = self.with_study_lock(lambda: decide(self))
            if isinstance(decision, Finished):
                return decision
            if decision is None:
                time.sleep(IDLE_SECONDS)
                continue
            self.idle = 0
            perform(self, decision)
