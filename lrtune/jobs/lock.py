"""One run of a job at a time: ``flock`` on a file of its own, which the kernel frees however its holder dies."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import time
from typing import TYPE_CHECKING

from lrtune.core.os_errors import cure, reason
from lrtune.core.timestamps import stamp
from lrtune.errors import LockedError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["locked"]

PAUSE = 0.1  # seconds between two tries
LONGEST_NOTE = 1000

_held: set[int] = set()


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    shown: str,
    wait: bool = False,
    should_stop: Callable[[], bool] | None = None,
    at: dt.datetime | None = None,
) -> Iterator[None]:
    """Hold the lock for the block.

    The file stays when the lock is freed: removing it would let two processes hold two files of one name.

    Parameters
    ----------
    path
        The lock file; its folder must exist.
    shown
        What is locked, for the message, e.g. ``"job 'weekly'"``.
    wait
        Whether to wait for whoever holds it.
    should_stop
        Asked while waiting; True gives up.
    at
        The time that is noted in the file as the beginning.

    Raises
    ------
    LockedError
        If somebody else holds it, with who and since when.
    StorageError
        If the file cannot be made or locked.
    """
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        msg = f"{path}: the lock cannot be opened ({reason(error)}); {cure(error)}"
        raise StorageError(msg) from None
    _held.add(descriptor)
    try:
        while not _taken(descriptor, path):
            if not wait or (should_stop is not None and should_stop()):
                msg = f"{shown} is already running since {_holder(descriptor)}; wait for it with --wait"
                raise LockedError(msg)
            time.sleep(PAUSE)
        _sign(descriptor, at or dt.datetime.now(tz=dt.UTC))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where a forked child still has the descriptor
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _taken(descriptor: int, path: Path) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        msg = f"{path} cannot be locked ({error.strerror}); put the job's folder on a file system that has locks"
        raise StorageError(msg) from None
    return True


def _sign(descriptor: int, at: dt.datetime) -> None:
    with contextlib.suppress(OSError):  # who holds it is a courtesy; a full disk must not cost the run
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "since": stamp(at)}).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        told = json.loads(os.pread(descriptor, LONGEST_NOTE, 0))
        return f"{str(told['since'])[:30]} (pid {int(told['pid'])})"
    except (OSError, ValueError, KeyError, TypeError):
        return "a moment ago"


def _forget() -> None:
    """In a forked child: the lock must not outlive its holder through, say, a data loader's worker."""
    for descriptor in list(_held):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
