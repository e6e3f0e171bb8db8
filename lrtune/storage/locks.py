"""The lock of a study: whoever holds it decides what to train next, among threads, processes and machines.

A lock file beside a storage file is held by ``flock``, a PostgreSQL lock by ``pg_advisory_lock`` on a connection of
its own, memory by a thread lock. All are freed when their owner dies, however it dies, and may be taken again by the
thread that holds them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages.journal import JournalFileBackend

from lrtune.core.locks import FileLock, ThreadLock, attempts
from lrtune.errors import StorageError
from lrtune.storage.error_mapping import is_missing, is_storage_fault
from lrtune.storage.retry import RetryingStorage
from lrtune.storage.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna.storages import BaseStorage

__all__ = ["ServerLock", "file_of", "lock_path", "spans_machines", "study_lock"]

_file_locks: dict[str, FileLock] = {}  # by path: two storages of one file in a process share a lock
_locks: weakref.WeakKeyDictionary[BaseStorage, dict[str, ThreadLock]] = weakref.WeakKeyDictionary()  # and by study
_guard = threading.Lock()


class ServerLock(ThreadLock):
    """A lock among all who use one PostgreSQL database; the server frees it with the connection.

    While it waits it holds no connection, so that a server with few of them can serve the owner.
    """

    def __init__(
        self, engine: sqlalchemy.Engine, key: str, shown: str, *, retry: Callable[[Callable[[], bool]], bool]
    ) -> None:
        super().__init__(shown)
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._retry = retry
        self._number = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], signed=True)
        self._connection: sqlalchemy.Connection | None = None

    def _take(self, deadline: float, should_stop: Callable[[], bool] | None) -> str | None:
        taken = any(self._retry(self._try) for _ in attempts(deadline, should_stop))
        return None if taken else "another process"

    def _try(self) -> bool:
        connection = self._engine.connect()
        try:
            query = sqlalchemy.text("select pg_try_advisory_lock(:number)")
            if connection.execute(query, {"number": self._number}).scalar():
                self._connection = connection
                return True
        except BaseException:
            _discard(connection)
            raise
        connection.close()
        return False

    def _free(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            query = sqlalchemy.text("select pg_advisory_unlock(:number)")
            connection.execute(query, {"number": self._number})
            connection.close()
        except Exception as error:
            _discard(connection)  # the connection is gone, and the lock with it
            if not is_storage_fault(error):
                raise

    def lost(self) -> bool:
        """Whether the connection that held it is gone, and the lock with it."""
        if self._connection is None:
            return True
        try:
            self._connection.execute(sqlalchemy.text("select 1"))
        except Exception as error:
            if not is_storage_fault(error):
                raise
            return True
        return False


def _discard(connection: sqlalchemy.Connection) -> None:
    for end in (connection.invalidate, connection.close):
        with contextlib.suppress(Exception):  # it is broken already
            end()


def lock_path(path: Path) -> Path:
    """The lock file beside a storage file."""
    return path.with_name(path.name + ".lock")


@contextlib.contextmanager
def study_lock(
    storage: BaseStorage, study_name: str, *, timeout: float = 60.0, fenced: bool = False
) -> Iterator[ThreadLock]:
    """Hold the lock of a study, shared by all its processes; the thread that holds it may take it again.

    It is the same whether the storage was opened by lrtune or made with Optuna; in a file there is one for all studies.
    For other storages (a gRPC proxy, Redis, MySQL) it is a kernel lock among the processes of one user on this
    machine, see :func:`spans_machines`.

    Parameters
    ----------
    storage, study_name
        Whose lock.
    timeout
        Seconds.
    fenced
        Whether this thread may write to the storage only while it holds the lock: for decisions that rest on what
        was read under it.

    Yields
    ------
    ThreadLock
        ``.lost()`` says whether a server restart has taken the lock away in the meantime.

    Raises
    ------
    StorageError
        If someone else still holds it after `timeout` seconds, or the study is gone.
    LockLostError
        Where `fenced`, if a server restart has taken the lock away before something was written.
    """
    try:
        with (
            _lock(storage, study_name).hold(timeout) as held,
            storage.fenced(held) if fenced and isinstance(storage, RetryingStorage) else contextlib.nullcontext(),
        ):
            yield held
    except KeyError as error:
        if not is_missing(error):
            raise
        gone = "was deleted from its storage, or moved aside, during the run"
        msg = f"study {study_name!r} {gone}; run the same again to start it anew"
        raise StorageError(msg) from error


def _lock(storage: BaseStorage, study_name: str) -> ThreadLock:
    with _guard:
        locks = _locks.setdefault(storage, {})
        if study_name not in locks:
            locks[study_name] = _new_lock(storage, study_name)
        return locks[study_name]


def _new_lock(storage: BaseStorage, study_name: str) -> ThreadLock:
    shown = f"the decision lock of study {study_name!r}"
    if isinstance(storage, InMemoryStorage):
        return ThreadLock(shown)
    engine = _engine(storage)
    if engine is not None and engine.dialect.name == "postgresql":
        retry = storage.retry if isinstance(storage, RetryingStorage) else lambda call: call()
        return ServerLock(engine, f"lrtune:{study_name}", shown, retry=retry)
    path, like = _lock_file(storage) or _lock_file_of_user(study_name)
    if str(path) not in _file_locks:
        _file_locks[str(path)] = FileLock(path, f"the decision lock of {like}", like=like)
    return _file_locks[str(path)]


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


def _lock_file_of_user(study_name: str) -> tuple[Path, Path]:
    """The lock file for a study of that name in storages that have no lock of their own, and its folder."""
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
    return folder / f"{hashlib.sha256(study_name.encode('utf-8', 'surrogatepass')).hexdigest()}.lock", folder


def _engine(storage: BaseStorage) -> sqlalchemy.Engine | None:
    """The engine of a database, whoever opened it; None for other storages."""
    if isinstance(storage, RetryingStorage):
        return storage.engine
    if isinstance(storage, _CachedStorage):
        storage = storage._backend  # noqa: SLF001 -- no public way
    return storage.engine if isinstance(storage, RDBStorage) else None


def spans_machines(storage: BaseStorage) -> bool:
    """Whether the study's lock holds off processes of other machines too, where they can reach the storage at all."""
    engine = _engine(storage)
    known = engine is not None and engine.dialect.name == "postgresql"
    return known or isinstance(storage, InMemoryStorage) or _lock_file(storage) is not None


def file_of(storage: BaseStorage) -> Path | None:
    """The SQLite file of a storage that lrtune opened; None for a server, for memory, and for storages of others."""
    database = storage.database if isinstance(storage, RetryingStorage) else None
    return database.path if isinstance(database, SqliteDatabase) else None
