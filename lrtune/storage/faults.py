"""What a failing storage means: wait and try again, give up with a sentence, or not a matter of storage."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from lrtune.errors import StorageError
from lrtune.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BrokenError",
    "TransientError",
    "is_fatal",
    "is_missing",
    "is_storage_fault",
    "is_transient",
    "os_sentence",
    "server_sentence",
    "sqlite_sentence",
    "translated",
]

# Classes and codes of PostgreSQL, https://www.postgresql.org/docs/current/errcodes-appendix.html
TRANSIENT_STATES = ("08", "40001", "40P01", "53300", "55P03", "57P01", "57P02", "57P03", "57P05")
# What libpq says where a server gave no code: it never got as far as a session.
_REFUSED = re.compile(
    r"password authentication failed|no password supplied|does not exist|no pg_hba\.conf entry|"
    r"authentication method|permission denied|could not translate host name|Name or service not known|"
    r"invalid (port|connection option|integer)|certificate",
    re.IGNORECASE,
)
_TRANSIENT_SQLITE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
LOW_BYTE = 0xFF


class TransientError(Exception):
    """A fault that waiting may cure; never leaves the storage package."""


class BrokenError(Exception):
    """A fault that waiting does not cure; never leaves the storage package."""


def translated(error: BaseException, *, disconnected: bool = False) -> Exception | None:
    """What to raise within Optuna in place of a database's error; None for what is a matter of the call.

    Not an SQLAlchemyError: Optuna retries those inside ``create_new_trial``, where a commit whose answer
    was lost would become a second trial, and reads everything again in a "slower alternative".
    """
    if disconnected or is_transient(error):
        return TransientError(str(error))
    # SQLITE_ERROR is SQL that cannot be carried out, e.g. too many variables: Optuna has its own answer.
    if is_fatal(error) and getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_ERROR:
        return BrokenError(str(error))
    return None


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a little later."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, StorageError):
            return False
        if isinstance(cause, TransientError | sqlalchemy.exc.TimeoutError):
            return True
        if isinstance(cause, sqlite3.Error):
            return getattr(cause, "sqlite_errorcode", 0) & LOW_BYTE in _TRANSIENT_SQLITE
        if _is_server_error(cause):
            return _server_transient(cause)
    return any(isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.connection_invalidated for cause in causes)


def is_fatal(error: BaseException) -> bool:
    """Whether the database itself failed, so that no call will succeed: not a matter of the call's arguments."""
    for cause in _chain(error):
        if isinstance(cause, StorageError):
            return False
        if isinstance(cause, sqlite3.Error):
            return type(cause) in (sqlite3.OperationalError, sqlite3.DatabaseError)
        if _is_server_error(cause):
            return bool({kind.__name__ for kind in type(cause).__mro__} & {"OperationalError", "InternalError"})
    return isinstance(error, TransientError | BrokenError | sqlalchemy.exc.TimeoutError)


def is_storage_fault(error: BaseException) -> bool:
    """Whether the error comes from the database and not from the call's arguments."""
    return any(
        isinstance(
            cause, TransientError | BrokenError | StorageInternalError | sqlalchemy.exc.SQLAlchemyError | sqlite3.Error
        )
        or _is_server_error(cause)
        for cause in _chain(error)
    )


def is_missing(error: KeyError) -> bool:
    """Whether Optuna found no row for a study or a trial that it was asked for."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and "optuna" in Path(frames[-1].filename).parts


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        original = getattr(error, "orig", None)
        error = original if isinstance(original, BaseException) else (error.__cause__ or error.__context__)


def _is_server_error(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "psycopg" and isinstance(error, Exception)


def _server_transient(error: BaseException) -> bool:
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return str(state).startswith(TRANSIENT_STATES)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"OperationalError", "InterfaceError"}) and not _REFUSED.search(str(error))


def sqlite_sentence(error: BaseException, path: Path, shown: str, kept: str) -> str:
    """One sentence for what ended the work on an SQLite file; `kept` is like ``" (12 trials kept)"``."""
    fault = next((cause for cause in _chain(error) if isinstance(cause, sqlite3.Error)), None)
    code = getattr(fault, "sqlite_errorcode", 0) & LOW_BYTE
    unwritten = code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
    cases = (
        (
            code == sqlite3.SQLITE_FULL or (unwritten and _full(path)),
            f"no space left on device: {shown}{kept}; free some space and run the same command to resume",
        ),
        (
            unwritten and _at_size_limit(path),
            f"no space left: {shown} has reached the file size limit (ulimit -f){kept}; raise it and run again",
        ),
        (
            code == sqlite3.SQLITE_READONLY,
            f"not writable: {shown}{kept}; make the file and its folder writable, or choose another storage",
        ),
        (
            code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
            f"{shown} is damaged ({fault}); restore a copy of it, or choose another storage",
        ),
        (
            code in _TRANSIENT_SQLITE,
            f"{shown} stayed locked by another process for too long{kept}; end that process and run again",
        ),
    )
    other = f"{shown} cannot be used ({redact(fault or error)}){kept}; check the disk and run the same command again"
    return next((sentence for holds, sentence in cases if holds), other)


def os_sentence(error: OSError, shown: str) -> str:
    """One sentence for a file that cannot be made or opened."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on device: {shown}; free some space and run the same command again"
    return f"not writable: {shown} ({error.strerror}); make its folder writable, or choose another storage"


def server_sentence(error: BaseException, shown: str, place: str, waited: float) -> str:
    """One sentence for what ended the work on a PostgreSQL server."""
    fault = next((cause for cause in _chain(error) if _is_server_error(cause)), error)
    text = " ".join(redact(fault).split())
    wait = f" (waited {waited:.0f} s)" if waited >= 1 else ""
    if re.search(r"No space left|disk full", text, re.IGNORECASE) or getattr(fault, "sqlstate", None) == "53100":
        return f"no space left on device: the PostgreSQL server at {place}; free some space there and run again"
    if re.search(r"password authentication failed|no password supplied", text):
        return f"the PostgreSQL server at {place} refused the user or the password of {shown}; correct them"
    if _REFUSED.search(text):
        return f"the PostgreSQL server at {place} refused {shown}: {text}"
    return f"the PostgreSQL server at {place} cannot be reached{wait}: {text}; start it and run the same command again"


def _full(path: Path) -> bool:
    try:
        room = os.statvfs(path.parent)
    except (OSError, AttributeError):
        return False
    return room.f_bavail * room.f_frsize < 64 * 1024 or (room.f_files > 0 and room.f_favail == 0)


def _at_size_limit(path: Path) -> bool:
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        parts = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-journal")]
        sizes = [part.stat().st_size for part in parts if part.exists()]
    except (OSError, ImportError):
        return False
    return limit != resource.RLIM_INFINITY and max(sizes, default=0) + 64 * 1024 > limit
