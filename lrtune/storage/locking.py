"""One decision at a time in a study, whoever takes it: thread, process or machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages.journal import JournalFileBackend

from lrtune.core.locks import FileLock, ThreadLock
from lrtune.errors import StorageError
from lrtune.storage.error_mapping import is_missing
from lrtune.storage.factory import lock_path
from lrtune.storage.locks import ServerLock
from lrtune.storage.retry import RetryingStorage
from lrtune.storage.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import sqlalchemy
    from optuna.storages import BaseStorage

    from lrtune.core.locks import Held

    Lock: TypeAlias = FileLock | ServerLock | ThreadLock

__all__ = ["file_of", "spans_machines", "study_lock"]

_files: dict[str, FileLock] = {}  # by path: two storages of one file in a process share a lock
_locks: weakref.WeakKeyDictionary[BaseStorage, dict[str, FileLock | ThreadLock | ServerLock]] = (
    weakref.WeakKeyDictionary()
)
_guard = threading.Lock()


@contextlib.contextmanager
def study_lock(storage: BaseStorage, study_name: str, *, timeout: float = 60.0, fenced: bool = False) -> Iterator[Held]:
    """Hold the decision lock of a study, shared by all its processes.

    For a file it is a kernel lock on a file beside it (one for all studies of the file), for PostgreSQL an advisory
    lock, in memory a lock among this process's threads; the same whether the storage was opened by lrtune or made
    with Optuna. For what lrtune knows no lock of (a gRPC proxy, Redis, MySQL) it is a kernel lock among the processes
    of one user on this machine, see :func:`spans_machines`. It is freed when its holder dies. The thread that holds
    it may take it again.

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
        gone = "was deleted from its storage, or moved aside, during the run"
        msg = f"study {study_name!r} {gone}; run the same again to start it anew"
        raise StorageError(msg) from error


def _fence(storage: BaseStorage, held: Held, *, fenced: bool) -> contextlib.AbstractContextManager[None]:
    if fenced and isinstance(storage, RetryingStorage) and isinstance(held, ServerLock):  # no other can be lost
        return storage.fenced(held)
    return contextlib.nullcontext()


def _lock(storage: BaseStorage, study_name: str) -> Lock:
    with _guard:
        locks = _locks.setdefault(storage, {})
        if study_name not in locks:
            locks[study_name] = _found(storage, study_name)
        return locks[study_name]


def _found(storage: BaseStorage, study_name: str) -> Lock:
    shown = f"the decision lock of study {study_name!r}"
    if isinstance(storage, InMemoryStorage):
        return ThreadLock(shown)
    if (beside := _lock_file(storage)) is not None:
        return _file_lock(*beside)
    engine = _engine(storage)
    if engine is not None and engine.dialect.name == "postgresql":
        retry = storage.retry if isinstance(storage, RetryingStorage) else _once
        return ServerLock(engine, f"lrtune:{study_name}", shown, retry=retry)
    folder = _folder()
    return _file_lock(
        folder / f"{hashlib.sha256(study_name.encode('utf-8', 'surrogatepass')).hexdigest()}.lock", folder
    )


def _file_lock(path: Path, like: Path) -> FileLock:
    if str(path) not in _files:
        _files[str(path)] = FileLock(path, f"the decision lock of {like}", like=like)
    return _files[str(path)]


def _lock_file(storage: BaseStorage) -> tuple[Path, Path] | None:
    """The lock file of a storage in a file, and that file; None for others."""
    file = file_of(storage)
    if file is not None:
        return lock_path(file), file
    backend = storage._backend if isinstance(storage, JournalStorage) else None  # noqa: SLF001 -- no public way
    if isinstance(backend, JournalFileBackend):
        file = Path(backend._file_path).resolve()  # noqa: SLF001 -- no public way
        return file.with_name(f"{file.name}.lrtune.lock"), file  # Optuna's own, a link, is FILE.lock
    engine = _engine(storage)
    if engine is not None and engine.dialect.name == "sqlite" and engine.url.database not in (None, "", ":memory:"):
        file = Path(str(engine.url.database).removeprefix("file:")).resolve()
        return lock_path(file), file
    return None


def _engine(storage: BaseStorage) -> sqlalchemy.Engine | None:
    """The engine of a database, whoever opened it; None for what is none."""
    if isinstance(storage, RetryingStorage):
        return storage.engine
    if isinstance(storage, _CachedStorage):
        storage = storage._backend  # noqa: SLF001 -- no public way
    return storage.engine if isinstance(storage, RDBStorage) else None


def _once(call: Callable[[], bool]) -> bool:
    return call()


def _folder() -> Path:
    """A folder of this machine for the locks of one user."""
    folder = Path(tempfile.gettempdir()) / f"lrtune-locks-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        mine = folder.stat(follow_symlinks=False).st_uid == os.getuid() and not folder.is_symlink()
    except OSError as error:
        msg = f"{folder}: no folder for locks can be made there ({error.strerror}); set TMPDIR to one that is writable"
        raise StorageError(msg) from None
    if not mine:
        msg = f"{folder} is not this user's own, so locks in it hold nobody off; remove it, or set TMPDIR"
        raise StorageError(msg)
    return folder


def spans_machines(storage: BaseStorage) -> bool:
    """Whether the decision lock holds off processes of other machines too, where they can reach the storage at all."""
    engine = _engine(storage)
    known = engine is not None and engine.dialect.name == "postgresql"
    return known or isinstance(storage, InMemoryStorage) or _lock_file(storage) is not None


def file_of(storage: BaseStorage) -> Path | None:
    """The file that a storage of ours lives in; None for a server, for memory, and for others' storages."""
    database = storage.database if isinstance(storage, RetryingStorage) else None
    return database.path if isinstance(database, SqliteDatabase) else None
