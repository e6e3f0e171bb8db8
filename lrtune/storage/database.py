"""What SQLite files and PostgreSQL servers have in common: connections, transactions, and what failures are called."""

from __future__ import annotations

import contextlib
import os
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc

from lrtune.storage.error_mapping import translated

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqlalchemy.engine.interfaces import ExceptionContext

    from lrtune.storage.url import Address

__all__ = ["Database"]

_engines: weakref.WeakSet[sqlalchemy.Engine] = weakref.WeakSet()
_inherited: list[object] = []


class Database(ABC):
    """What the retrying storage asks of a database; the defaults are those of a server."""

    patience: float = 1.0  # a transient fault is waited for this many times as long as the user allows
    quiet_seconds: float = 0.0  # shorter waits are ordinary, and not worth a warning
    address: Address

    @property
    def shown(self) -> str:
        """Its place without secrets, as the user gave it."""
        return str(self.address)

    @property
    def address_text(self) -> str:
        """What opens it again in another process, without secrets."""
        return self.shown

    @abstractmethod
    def sentence(self, error: BaseException, waited: float) -> str:
        """What to tell the user when it is given up, after so many seconds."""

    def check(self) -> None:  # noqa: B027 -- a server says so itself
        """Raise :class:`~lrtune.errors.StorageError` if it is no longer the one that was opened."""

    def writing(self) -> AbstractContextManager[None]:
        """A block whose transactions take the write lock from their first statement on, where there is one."""
        return contextlib.nullcontext()

    def checkpoint(self) -> None:  # noqa: B027 -- nobody copies the files of a server
        """Leave it so that a copy of its files holds all that was written; this process has closed its connections."""

    def configure_engine(self, engine: sqlalchemy.Engine) -> None:
        """Let this package's errors surface before Optuna retries on its own."""
        _engines.add(engine)

        @sqlalchemy.event.listens_for(engine, "handle_error")
        def _translate(context: ExceptionContext) -> None:
            error = translated(context.original_exception, disconnected=context.is_disconnect)
            if error is not None:
                raise error from context.original_exception


def _leave_to_parent() -> None:
    # A database connection must not be used on both sides of a fork, nor be closed by the child.
    for engine in list(_engines):
        _inherited.append(engine.pool)
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
