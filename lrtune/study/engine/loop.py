"""The loop of a search: decide, execute, until it has ended.

Under the study's lock the next segment is decided and its trial claimed, and others beside it where that costs little
time; without it the runs are trained; under the lock again the results are written.

Any number of processes may run this loop on one study.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lrtune.study.engine.executor import execute
from lrtune.study.engine.scheduler import Finished, company, decide

if TYPE_CHECKING:
    from lrtune.study.engine.search_state import SearchState

__all__ = ["run_search"]

IDLE_SECONDS = 0.05


def run_search(state: SearchState) -> Finished:
    """Train segments until the search has ended.

    Raises
    ------
    UserCodeError
        If the user's training code raises before any trial has reported anything.
    LrtuneError
        Whatever else makes going on useless.
    """
    while True:
        decision = state.with_study_lock(lambda: decide(state))
        if isinstance(decision, Finished):
            return decision
        if decision is None:
            time.sleep(IDLE_SECONDS)
            continue
        state.idle_rounds = 0
        error = execute(state, company(state, decision))
        if error is not None:
            raise error
