"""The two databases: how a connection is made, what makes it safe, and what its failures are called."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Protocol

import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc

from lrtune.storage.error_mapping import translated

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqlalchemy.engine.interfaces import ExceptionContext


__all__ = ["Database"]

_engines: weakref.WeakSet[sqlalchemy.Engine] = weakref.WeakSet()
_inherited: list[object] = []


class Database(Protocol):
    """What the retrying storage asks of a database."""

    @property
    def shown(self) -> str:
        """Its place without secrets."""

    @property
    def address_text(self) -> str:
        """What opens it again in another process, without secrets."""

    def check(self) -> None:
        """Raise :class:`~lrtune.errors.StorageError` if it is no longer the one that was opened."""

    def writing(self) -> AbstractContextManager[None]:
        """A block whose transactions write from their first statement on."""

    def sentence(self, error: BaseException, waited: float) -> str:
        """What to tell the user when it is given up."""

    def patience(self, seconds: float) -> float:
        """How long a transient fault is waited for, where a user allows so many seconds."""

    def quiet(self) -> float:
        """Waits shorter than this are ordinary, and not worth a warning."""

    def settle(self) -> None:
        """Leave it so that a copy made outside the database holds all that was written; this process has let go."""


def _watch(engine: sqlalchemy.Engine) -> None:
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
