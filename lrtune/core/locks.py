"""Locks that are freed however their owner dies: among threads, and by ``flock`` among processes.

Own code rather than `filelock`: that one polls at a fixed interval, does not say which process holds a lock, and where
a file system has no ``flock`` it turns to marker files, which outlive a process that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from lrtune.core.os_errors import os_sentence, reason
from lrtune.core.timestamps import stamp, utc_now
from lrtune.errors import LrtuneError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["FileLock", "ThreadLock", "attempts", "flock"]

FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.1  # seconds between two tries
LONGEST_NOTE = 1000  # bytes

_file_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


class ThreadLock:
    """A reentrant lock among the threads of this process; the base of locks that other processes respect, too.

    Parameters
    ----------
    shown
        What is locked, for messages.
    """

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._threads = threading.RLock()
        self._depth = 0

    @contextlib.contextmanager
    def hold(self, timeout: float, *, should_stop: Callable[[], bool] | None = None) -> Iterator[ThreadLock]:
        """Hold the lock for the block.

        Parameters
        ----------
        timeout
            Seconds to wait for it; 0 tries once.
        should_stop
            Asked while waiting for another process; True gives up.

        Raises
        ------
        StorageError
            If another thread or process still holds it then.
        """
        timeout = min(max(0.0, timeout), threading.TIMEOUT_MAX)
        deadline = time.monotonic() + timeout
        if not self._threads.acquire(timeout=timeout):
            thread = "another thread of this process"
            raise self._refusal(thread, timeout)
        try:
            if self._depth == 0:
                owner = self._take(deadline, should_stop)
                if owner is not None:
                    raise self._refusal(owner, timeout)
            self._depth += 1
            try:
                yield self
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._free()
        finally:
            self._threads.release()

    def lost(self) -> bool:
        """Whether it was lost while held: never, since the kernel keeps it for as long as this process lives."""
        return False

    def _take(self, deadline: float, should_stop: Callable[[], bool] | None) -> str | None:
        """Take it among processes, too; None once it is ours, else who holds it."""
        del deadline, should_stop
        return None

    def _free(self) -> None:
        """Free it among processes, too."""

    def _refusal(self, owner: str, timeout: float) -> LrtuneError:
        msg = f"{self._shown} has been held by {owner} for {timeout:.0f} s; end that process, or try again later"
        return StorageError(msg)


class FileLock(ThreadLock):
    """A lock among all processes of this machine (and of an NFS mount): ``flock`` on a file of its own.

    The file stays where it is when the lock is freed: removing it would let two processes hold two
    different files of the same name. Whoever holds it writes a note into it, for the messages of others.

    Parameters
    ----------
    path
        The lock file; its folder has to be there.
    shown
        What is locked, for messages.
    like
        The file whose readers and writers may use the lock, too; None for this user alone.
    """

    beside = "the storage"
    """What to move where the file system has no locks."""

    def __init__(self, path: Path, shown: str, *, like: Path | None = None) -> None:
        super().__init__(shown)
        self._path = path
        self._like = like
        self._descriptor = -1
        _file_locks.add(self)

    def _take(self, deadline: float, should_stop: Callable[[], bool] | None) -> str | None:
        try:
            descriptor = _open(self._path, self._like)
        except OSError as error:
            raise self._unopened(error) from None
        try:
            for _ in attempts(deadline, should_stop):
                with contextlib.suppress(BlockingIOError):
                    flock(descriptor, wait=False)
                    self._descriptor = descriptor
                    self._sign()
                    return None
            return self._owner(_note(descriptor))
        except OSError as error:
            msg = f"{self._path} cannot be locked ({reason(error)}); put {self.beside} on a file system that has locks"
            raise StorageError(msg) from None
        finally:
            if self._descriptor != descriptor:
                os.close(descriptor)

    def _free(self) -> None:
        import fcntl

        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where a forked child still has the descriptor
            os.close(descriptor)

    def _sign(self) -> None:
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": stamp(utc_now())}
        with contextlib.suppress(OSError):  # the note is for messages alone; a full disk must not cost the lock
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(note).encode(), 0)

    def _owner(self, note: dict[str, Any]) -> str:
        try:
            owner = f"process {int(note['pid'])} on {str(note['host'])[:200]}"
        except (KeyError, OverflowError, TypeError, ValueError):
            owner = ""
        return owner if owner and owner.isprintable() else "another process"

    def _unopened(self, error: OSError) -> StorageError:
        return StorageError(os_sentence(error, str(self._path)))

    def forget(self) -> None:
        """In a forked child: the parent's lock is not ours, and must not outlive the parent through us."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._threads, self._depth = threading.RLock(), 0


def flock(descriptor: int, *, wait: bool) -> None:
    """Lock an open file until it is closed.

    Raises
    ------
    BlockingIOError
        If another process has it, and `wait` is false.
    OSError
        If there are no locks here.
    """
    try:
        import fcntl
    except ImportError:
        msg = "this system has no flock"
        raise OSError(msg) from None
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def attempts(deadline: float, should_stop: Callable[[], bool] | None = None) -> Iterator[None]:
    """Yield at once, then after pauses that grow, until the deadline (monotonic) or until a stop is asked for."""
    pause = FIRST_PAUSE
    while True:
        yield
        left = deadline - time.monotonic()
        if left <= 0 or (should_stop is not None and should_stop()):
            return
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _open(path: Path, like: Path | None) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, flags)  # without O_CREAT, which a sticky folder refuses for a file of another user
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    if like is not None:
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, like.stat().st_mode & 0o666)
    return descriptor


def _note(descriptor: int) -> dict[str, Any]:
    try:
        note = json.loads(os.pread(descriptor, LONGEST_NOTE, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def _forget_all() -> None:
    for lock in list(_file_locks):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
