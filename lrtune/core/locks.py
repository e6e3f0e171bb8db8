"""Locks that the kernel frees when their owner dies: among threads, and among processes by a file."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Protocol

from lrtune.core.os_errors import os_sentence
from lrtune.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FileLock", "Held", "ThreadLock"]


FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.1  # seconds between two tries


_every_file_lock: weakref.WeakSet[FileLock] = weakref.WeakSet()


class Held(Protocol):
    """A lock that is held."""

    def lost(self) -> bool:
        """Whether it was lost while held, because the server that kept it restarted; asks the server."""


class _Reentrant:
    """One holder among the threads of this process, which may hold it more than once."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._threads = threading.RLock()
        self._depth = 0

    @contextlib.contextmanager
    def hold(self, timeout: float) -> Iterator[Held]:
        """Hold the lock for the block.

        Raises
        ------
        StorageError
            If another thread or process still holds it after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        if not self._threads.acquire(timeout=max(0.0, timeout)):
            raise StorageError(self._refusal("another thread of this process", timeout))
        try:
            if self._depth == 0:
                self._take(deadline, timeout)
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
        """Never: the kernel keeps it for as long as this process lives."""
        return False

    def _take(self, deadline: float, timeout: float) -> None:
        """Nothing beyond the threads."""

    def _free(self) -> None:
        """Nothing beyond the threads."""

    def _refusal(self, holder: str, timeout: float) -> str:
        return f"{self._shown} has been held by {holder} for {timeout:.0f} s; end that process, or try again later"


class ThreadLock(_Reentrant):
    """A lock among the threads of this process."""


class FileLock(_Reentrant):
    """A lock among all processes of this machine (and of an NFS mount): ``flock`` on a file of its own.

    The file stays where it is when the lock is freed: removing it would let two processes hold two
    different files of the same name. It may be used by whoever may use the file `like`.
    """

    def __init__(self, path: Path, shown: str, *, like: Path) -> None:
        super().__init__(shown)
        self._path = path
        self._like = like
        self._descriptor = -1
        _every_file_lock.add(self)

    def _take(self, deadline: float, timeout: float) -> None:
        import fcntl

        try:
            descriptor = _open_lock(self._path, self._like)
        except OSError as error:
            raise StorageError(os_sentence(error, str(self._path))) from None
        try:
            for _ in _tries(deadline):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._descriptor = descriptor
                    _sign(descriptor)
                    return
            raise StorageError(self._refusal(_holder(descriptor), timeout))
        except OSError as error:
            msg = f"{self._path} cannot be locked ({error.strerror}); put the storage on a file system that has locks"
            raise StorageError(msg) from None
        finally:
            if self._descriptor != descriptor:
                os.close(descriptor)

    def _free(self) -> None:
        import fcntl

        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where a forked child still has the descriptor
            os.close(descriptor)

    def forget(self) -> None:
        """In a forked child: the parent's lock is not ours, and must not outlive the parent through us."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        self._threads, self._depth = threading.RLock(), 0


def _open_lock(path: Path, like: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, flags)  # without O_CREAT, which a sticky folder refuses for a file of another user
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, like.stat().st_mode & 0o666)
    return descriptor


def _forget_all() -> None:
    for lock in list(_every_file_lock):
        lock.forget()


def _tries(deadline: float) -> Iterator[int]:
    pause, count = FIRST_PAUSE, 0
    while True:
        yield count
        left = deadline - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause, left))
        pause, count = min(pause * 1.5, LONGEST_PAUSE), count + 1


def _sign(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # who holds it is a courtesy; a full disk must not cost the lock
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        text = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
    except OSError:
        text = ""
    return text if text.isprintable() and text else "another process"
