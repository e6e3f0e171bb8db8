"""How a command ends on a signal: cleanly when the training step comes back, else after :data:`GRACE_SECONDS`."""

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

    from lrtune.workers.signals import StopFlag

__all__ = ["GRACE_SECONDS", "stopped", "stops"]

GRACE_SECONDS = 4.0  # a training step that takes longer is abandoned: its trial is recovered at the next start
SHOW_CURSOR = "\x1b[?25h"
RESUME = "run the same command to resume"


@contextlib.contextmanager
def stops() -> Iterator[StopFlag]:
    """A flag that SIGTERM, SIGINT and SIGHUP set; the process ends :data:`GRACE_SECONDS` after one all the same."""
    from lrtune.workers.signals import stopping

    with contextlib.ExitStack() as until_end:

        def end_later(number: int) -> None:
            timer = threading.Timer(GRACE_SECONDS, _end, args=(number,))
            timer.daemon = True
            until_end.callback(timer.cancel)
            timer.start()

        yield until_end.enter_context(stopping(end_later))


def stopped(flag: StopFlag, cost: float, trials: int | None = None) -> InterruptedSearchError:
    """What to raise after a clean end: what was spent, in full trainings, and how many trials have ended."""
    many = "" if trials is None else f"{trials} trial{'' if trials == 1 else 's'} done, "
    msg = f"stopped by {flag.name}: {many}{cost:.2f} full trainings spent; {RESUME}"
    return InterruptedSearchError(msg, exit_code=flag.exit_code or 143)


def _end(number: int) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        note(SHOW_CURSOR)
    note(f"lrtune: error: stopped by {signal.Signals(number).name} in the middle of a step; {RESUME}")
    os._exit(128 + number)
