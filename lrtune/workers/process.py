"""Forked processes: each leads a process group, none outlives its parent, and how one died is known.

What a process leaves behind (a data loader's workers, whatever user code has forked) is in its group and
is killed with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from dataclasses import dataclass

__all__ = ["Death", "DiedError", "RemoteError", "die_with_parent", "died", "end_group", "set_process_group"]

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a process died.

    Attributes
    ----------
    pid, started
        Which process; see :class:`lrtune.workers.lease.Lease`. `started` is empty for one that has no lease.
    why
        A few words, e.g. ``"killed by SIGKILL"``.
    stalled
        Whether it was ended because it made no progress.
    exited
        Whether it left of its own accord, with ``os._exit``.
    """

    pid: int
    started: str = ""
    why: str
    stalled: bool = False
    exited: bool = False


class DiedError(Exception):
    """The process that trained a run is gone, and the run with it."""

    def __init__(self, death: Death) -> None:
        super().__init__(death.why)
        self.death = death


class RemoteError(Exception):
    """What the user's code raised in another process, where its class may not be known: the traceback's last line."""

    def __init__(self, message: str, *, user_traceback: str) -> None:
        super().__init__(message)
        self.user_traceback = user_traceback


def died(pid: int, code: int, *, started: str = "", stalled: float | None = None) -> Death:
    """How a process died, from its exit code (minus the signal's number, where a signal ended it).

    Parameters
    ----------
    stalled
        After how many seconds without progress it was ended; None where it was not.
    """
    if stalled is not None:
        return Death(pid=pid, started=started, why=f"no progress for {stalled:g} s", stalled=True)
    if code >= 0:
        why = f"the training code ended the process (exit code {code})"
        return Death(pid=pid, started=started, why=why, exited=True)
    return Death(pid=pid, started=started, why=f"killed by {_name(-code)}")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time signals have no names
        return f"signal {number}"


def set_process_group(pid: int) -> None:
    """Make a child the leader of a process group, as it does itself: whichever comes first."""
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)


def end_group(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process and to all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def die_with_parent(parent: int) -> None:
    """In a forked child: lead a process group, restore the default signal handlers, and be killed with the parent."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup's stays
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it writes to the terminal from the background
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
