"""Signals to the command: the first one asks for a clean end, the second one ends at once.

The Python API leaves signals alone: only the command line enters :func:`stopping`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["SIGNALS", "StopFlag", "stopping"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))
ECHO_SECONDS = 0.25  # `timeout` and some shells send one and the same signal twice in a row


class StopFlag:
    """Whether an end was asked for, and by what: `number` is the first signal's, None as long as none came."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    @property
    def requested(self) -> bool:
        """Whether an end was asked for."""
        return self.number is not None

    @property
    def name(self) -> str:
        """The name of the signal, e.g. ``"SIGTERM"``; empty as long as none came."""
        return "" if self.number is None else signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """The exit code of a command that a signal ended: 128 + its number; 0 as long as none came."""
        return 0 if self.number is None else 128 + self.number

    def request(self, number: int = signal.SIGTERM) -> None:
        """Ask for an end, as that signal would; safe within a signal handler."""
        if self.number is None:
            self.number = number
            with contextlib.suppress(OSError):
                os.write(self._writer, b"!")

    def wait(self, seconds: float) -> bool:
        """Sleep for so long, or until an end is asked for; returns :attr:`requested`.

        An Event would not do: it takes a lock, and a handler that runs inside its wait would hang.
        """
        if self.number is None:
            select.select([self._reader] if self._reader >= 0 else [], [], [], max(0.0, seconds))
        return self.requested

    def close(self) -> None:
        """Close the pipe; the flag can still be read."""
        for descriptor in (self._reader, self._writer):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._reader = self._writer = -1


@contextlib.contextmanager
def stopping(
    on_stop: Callable[[int], object] = lambda _: None, *, at_once: Callable[[], object] = lambda: None
) -> Iterator[StopFlag]:
    """Turn SIGTERM, SIGINT and SIGHUP into a flag within the block; the handlers before it are restored after it.

    SIGINT is taken even where it was ignored, as it is for children of a non-interactive shell; SIGHUP
    that was ignored stays so, because that is what ``nohup`` asks for. Outside the main thread nothing
    is installed, and the flag is only set by :meth:`StopFlag.request`.

    Parameters
    ----------
    on_stop
        Called with the signal's number at the first one, within the handler: it must be short, and may
        raise to interrupt whatever the main thread does.
    at_once
        Called at the second one, before the process ends with 128 + its number, to end child processes.
    """
    flag = StopFlag()
    process, first = os.getpid(), 0.0
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        del frame
        if os.getpid() != process:  # a forked child, e.g. a data loader's worker: not our command
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not flag.requested:
            first = time.monotonic()
            flag.request(number)
            on_stop(number)
        elif time.monotonic() - first > ECHO_SECONDS:
            try:
                at_once()
                os.write(2, f"\nlrtune: ended at once by a second {signal.Signals(number).name}\n".encode())
            finally:
                os._exit(128 + number)

    try:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                before[number] = signal.signal(number, handle)
        yield flag
    finally:
        for number, previous in before.items():
            # None stands for a handler that was not installed from Python and cannot be put back.
            signal.signal(number, previous or signal.SIG_DFL)
        flag.close()
