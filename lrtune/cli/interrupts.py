"""How a command ends when a signal asks for it: cleanly where the training lets it, else after a few seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from lrtune.cli.console import note
from lrtune.errors import InterruptedSearchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.study.result import Result
    from lrtune.workers.signals import StopFlag

__all__ = ["GRACE_SECONDS", "stopped", "stops"]

GRACE_SECONDS = 4.0  # a training step that has not come back by then is left behind: it is recovered at the next start
SHOW_CURSOR = "\x1b[?25h"
RESUME = "run the same command to resume"


@contextlib.contextmanager
def stops() -> Iterator[StopFlag]:
    """A flag that SIGTERM, SIGINT and SIGHUP set; the process ends after :data:`GRACE_SECONDS` all the same."""
    from lrtune.workers.signals import stopping

    timers: list[threading.Timer] = []

    def arm(number: int) -> None:
        timer = threading.Timer(GRACE_SECONDS, _end, args=(number,))
        timer.daemon = True
        timers.append(timer)
        timer.start()

    try:
        with stopping(arm) as flag:
            yield flag
    finally:
        for timer in timers:
            timer.cancel()


def stopped(flag: StopFlag, result: Result) -> InterruptedSearchError:
    """What to raise after a clean end."""
    ended = sum(result.trials_by_outcome.get(group, 0) for group in result.trials_by_outcome if group != "interrupted")
    many = f"{ended} trial{'' if ended == 1 else 's'} done"
    msg = f"stopped by {flag.name}: {many}, {result.cost:.2f} full trainings spent; {RESUME}"
    return InterruptedSearchError(msg, exit_code=flag.exit_code)


def _end(number: int) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        note(SHOW_CURSOR)
    note(f"lrtune: error: stopped by {signal.Signals(number).name} in the middle of a step; {RESUME}")
    os._exit(128 + number)
