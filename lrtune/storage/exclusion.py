"""One decision at a time in a study, whoever takes it: thread, process or machine."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING

from lrtune.errors import StorageError
from lrtune.storage.engines import ServerDatabase, SqliteDatabase
from lrtune.storage.faults import is_missing
from lrtune.storage.locks import FileLock, ServerLock, ThreadLock
from lrtune.storage.opening import lock_path
from lrtune.storage.retrying import RetryingStorage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optuna.storages import BaseStorage

    from lrtune.storage.locks import Held

__all__ = ["exclusive", "file_of"]

_files: dict[str, FileLock] = {}  # by path: two storages of one file in a process share a lock
_others: weakref.WeakKeyDictionary[BaseStorage, dict[str, ThreadLock | ServerLock]] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


@contextlib.contextmanager
def exclusive(storage: BaseStorage, study_name: str, *, timeout: float = 60.0, fenced: bool = False) -> Iterator[Held]:
    """Hold the decision lock of a study, shared by all its processes.

    For a file it is a kernel lock on ``FILE.lock`` beside it (one for all studies of the file), for
    PostgreSQL an advisory lock, for any other storage a lock among this process's threads. It is freed
    when its holder dies. The thread that holds it may take it again.

    Parameters
    ----------
    storage, study_name
        Whose lock.
    timeout
        Seconds.
    fenced
        Whether to write only while the lock is held: for what is decided by what was read under it.

    Yields
    ------
    Held
        ``.lost()`` says whether a server restart has taken the lock away in the meantime.

    Raises
    ------
    StorageError
        If someone else still holds it after `timeout` seconds, or what is done under it finds the study gone.
    LockLostError
        Where `fenced`, if a server restart has taken the lock away before something was written.
    """
    try:
        with _lock(storage, study_name).hold(timeout) as held, _fence(storage, held, fenced=fenced):
            yield held
    except KeyError as error:
        if not is_missing(error):
            raise
        gone = "was deleted from its storage, or moved aside by --fresh, during the run"
        msg = f"study {study_name!r} {gone}; run the same command to start it anew"
        raise StorageError(msg) from error


def _fence(storage: BaseStorage, held: Held, *, fenced: bool) -> contextlib.AbstractContextManager[None]:
    if fenced and isinstance(storage, RetryingStorage) and isinstance(held, ServerLock):  # no other can be lost
        return storage.fenced(held)
    return contextlib.nullcontext()


def _lock(storage: BaseStorage, study_name: str) -> FileLock | ServerLock | ThreadLock:
    database = storage.database if isinstance(storage, RetryingStorage) else None
    with _guard:
        if isinstance(database, SqliteDatabase):
            path = lock_path(database.path)
            if str(path) not in _files:
                _files[str(path)] = FileLock(path, f"the decision lock of {database.shown}", like=database.path)
            return _files[str(path)]
        locks = _others.setdefault(storage, {})
        if study_name not in locks:
            shown = f"the decision lock of study {study_name!r}"
            locks[study_name] = _server_lock(storage, study_name, shown) or ThreadLock(shown)
        return locks[study_name]


def _server_lock(storage: BaseStorage, study_name: str, shown: str) -> ServerLock | None:
    if not isinstance(storage, RetryingStorage) or not isinstance(storage.database, ServerDatabase):
        return None
    if storage.engine is None:
        return None
    return ServerLock(storage.engine, f"lrtune:{study_name}", shown, retry=storage.retry)


def file_of(storage: BaseStorage) -> Path | None:
    """The file that a storage of ours lives in; None for a server, for memory, and for others' storages."""
    database = storage.database if isinstance(storage, RetryingStorage) else None
    return database.path if isinstance(database, SqliteDatabase) else None
