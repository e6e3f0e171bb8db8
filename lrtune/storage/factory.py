"""A storage is opened: what is there is inspected first, a schema is created under a lock, then Optuna takes over."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import sqlalchemy
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage, get_storage

from lrtune.core.locks import FileLock
from lrtune.core.os_errors import os_sentence
from lrtune.errors import StorageError
from lrtune.storage.locks import ServerLock, lock_path
from lrtune.storage.postgresql import ServerDatabase
from lrtune.storage.retry import RetryingStorage
from lrtune.storage.schema import Found, inspect_file, inspect_server, known_schema
from lrtune.storage.sqlite import SqliteDatabase
from lrtune.storage.url import FileAddress, ServerAddress, parse, resolve_storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.storage.database import Database

__all__ = ["open_again", "open_storage"]

SCHEMA_SECONDS = 60.0  # another process may be creating the schema on a slow disk
START_SECONDS = 4.0  # a server that is down at the start is reported within 10 s
_logger = logging.getLogger("lrtune.storage")


def open_storage(
    where: str | os.PathLike[str] | BaseStorage | None,
    *,
    retry_seconds: float = 30.0,
    warn: Callable[[str], None] = _logger.warning,
) -> BaseStorage:
    """An Optuna storage that survives what storages go through.

    Parameters
    ----------
    where
        None keeps everything in memory. A path or ``sqlite:///PATH`` is an SQLite file, made if missing
        (mode 0600, write-ahead log; a rollback journal on network file systems). ``postgresql://...`` is
        a PostgreSQL database. A storage of Optuna's is returned as it is.
    retry_seconds
        How long an outage is waited for; a locked file twice as long.
    warn
        Called with one line when an outage ended or an empty file was taken as new.

    Raises
    ------
    StorageError
        If it cannot be used; an existing file has not been touched then.
    """
    if isinstance(where, BaseStorage):
        return where
    address = None if where is None else parse(where)
    if address is None:
        return InMemoryStorage()
    if isinstance(address, FileAddress):
        return _open_file(address, retry_seconds, warn)
    return _open_server(address, retry_seconds, warn)


def open_again(shown: str, retry_seconds: float) -> RetryingStorage:
    """The storage of an address without its password, as a pickle holds it.

    The password comes from ``LRTUNE_STORAGE`` (or its file) where that names the same place, else from
    where libpq looks for one: ``PGPASSWORD`` or ``~/.pgpass``.
    """
    bare = shown.replace(":***@", "@")
    given = resolve_storage()
    same = given is not None and str(parse(given) or "") == shown
    storage = open_storage(given if same else bare, retry_seconds=retry_seconds)
    if not isinstance(storage, RetryingStorage):
        msg = f"storage {shown} cannot be opened again in this process; open it by its URL"
        raise StorageError(msg)
    return storage


def _open_file(address: FileAddress, retry_seconds: float, warn: Callable[[str], None]) -> BaseStorage:
    path, shown = address.path, str(address)
    found = inspect_file(path, shown)
    if found is Found.READY:
        return _sqlite(SqliteDatabase(address), retry_seconds, warn, create=False)
    with FileLock(lock_path(path), f"the lock of {shown}", like=path).hold(SCHEMA_SECONDS):
        found = inspect_file(path, shown)  # another process may have been faster
        if found is Found.EMPTY:
            warn(f"{shown} is empty; it is taken as a new storage")
        try:
            if found is Found.NOTHING:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600))
            return _sqlite(SqliteDatabase(address), retry_seconds, warn, create=found is not Found.READY)
        except OSError as error:
            raise StorageError(os_sentence(error, shown)) from None


def _sqlite(
    database: SqliteDatabase, retry_seconds: float, warn: Callable[[str], None], *, create: bool
) -> RetryingStorage:
    def build() -> RDBStorage:
        database.set_journal()
        missing = create and not database.create_schema(known_schema().script)  # what was cut off is left to Optuna
        return RDBStorage(
            "sqlite:///lrtune.db",  # only its dialect counts: the database makes the connections
            engine_kwargs=database.options(),
            skip_compatibility_check=True,  # it has been inspected
            skip_table_creation=not missing,
        )

    storage = _unconnected(database, retry_seconds, warn)
    _connect(storage, storage.retry(build))
    return storage


def _open_server(address: ServerAddress, retry_seconds: float, warn: Callable[[str], None]) -> BaseStorage:
    try:
        import psycopg  # noqa: F401 -- the driver of the URL
    except ImportError:
        msg = f"storage {address}: PostgreSQL needs psycopg; run: pip install 'psycopg[binary]'"
        raise StorageError(msg) from None
    database = ServerDatabase(address)

    def build(*, create: bool) -> RDBStorage:
        return RDBStorage(
            address.url.render_as_string().replace("{", "{{").replace("}", "}}"),
            engine_kwargs=database.options(),
            skip_compatibility_check=True,
            skip_table_creation=not create,
        )

    storage = _unconnected(database, min(retry_seconds, START_SECONDS), warn)
    engine = sqlalchemy.create_engine(address.url, **database.options())
    database.configure_engine(engine)
    try:
        if storage.retry(lambda: inspect_server(engine, str(address))) is not Found.READY:
            lock = ServerLock(engine, "lrtune:schema", f"the lock of {address}", retry=storage.retry)
            with lock.hold(SCHEMA_SECONDS):
                missing = storage.retry(lambda: inspect_server(engine, str(address))) is not Found.READY
                rdb = storage.retry(lambda: build(create=missing))
        else:
            rdb = storage.retry(lambda: build(create=False))
    finally:
        engine.dispose()
    _connect(storage, rdb)
    storage.retry_seconds = retry_seconds
    return storage


def _unconnected(database: Database, retry_seconds: float, warn: Callable[[str], None]) -> RetryingStorage:
    """The storage of a database, as long as it can only retry: nothing is stored yet."""
    return RetryingStorage(  # type: ignore[abstract]  # its other methods are generated
        InMemoryStorage(), database, retry_seconds=retry_seconds, warn=warn, reopen=open_again
    )


def _connect(storage: RetryingStorage, rdb: RDBStorage) -> None:
    rdb.engine.dispose()  # its connections were made before the engine was configured
    storage.database.configure_engine(rdb.engine)
    storage.set_backend(get_storage(rdb), rdb.engine)
