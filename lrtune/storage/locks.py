"""Locks that the kernel or the server frees when their holder dies, however it dies.

A lock file is held by ``flock``, a PostgreSQL lock by ``pg_advisory_lock`` on a connection of its own,
memory by a thread lock. All three may be taken again by the thread that already holds them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING

from lrtune.core.locks import _forget_all, _Reentrant, _tries
from lrtune.errors import StorageError
from lrtune.storage.error_mapping import is_storage_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy

__all__ = ["ServerLock"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class ServerLock(_Reentrant):
    """A lock among all who use one PostgreSQL database; the server frees it with the connection.

    While it waits it holds no connection, so that a server with few of them can serve the holder.
    """

    def __init__(
        self, engine: sqlalchemy.Engine, key: str, shown: str, *, retry: Callable[[Callable[[], bool]], bool]
    ) -> None:
        super().__init__(shown)
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._retry = retry
        self._number = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], signed=True)
        self._connection: sqlalchemy.Connection | None = None

    def _take(self, deadline: float, timeout: float) -> None:
        for _ in _tries(deadline):
            if self._retry(self._try):
                return
        raise StorageError(self._refusal("another process", timeout))

    def _try(self) -> bool:
        import sqlalchemy

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
        import sqlalchemy

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
        import sqlalchemy

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
    with contextlib.suppress(Exception):  # it is broken already; nothing is left to be told
        connection.invalidate()
    with contextlib.suppress(Exception):
        connection.close()
