"""Which errors of a database may pass, which are final, which concern the call alone; and the sentences for users."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import tempfile
import traceback
from typing import TYPE_CHECKING

import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from lrtune.core.os_errors import os_sentence
from lrtune.core.redaction import redact
from lrtune.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "LOW_BYTE",
    "BrokenError",
    "TransientError",
    "damaged",
    "is_damaged",
    "is_fatal",
    "is_missing",
    "is_storage_fault",
    "is_transient",
    "raised_in",
    "read_sentence",
    "server_sentence",
    "sqlite_sentence",
    "translated",
]

# Classes and codes of PostgreSQL, https://www.postgresql.org/docs/current/errcodes-appendix.html
TRANSIENT_STATES = (
    *("08", "25P03", "25P04", "40001", "40P01", "53300", "55P03", "57014", "57P01", "57P02", "57P03", "57P05"),
)
# Of programming errors in general it is the call that is wrong; of these the tables, or the rights to them.
CHANGED_STATES = ("3F000", "42501", "42703", "42P01")
# What a server that answers says, and what to do there. What has no entry says it in its own words.
ANSWERS = (
    ("25006", "takes no writes from {shown}: {text}; use its primary, or turn default_transaction_read_only off there"),
    ("57014", "cancels what {shown} asks for: {text}; raise statement_timeout there"),
    ("25P0", "ends the sessions of {shown}: {text}; raise that timeout there"),
    ("57P05", "ends the sessions of {shown}: {text}; raise idle_session_timeout there"),
    ("55P03", "keeps a row or a table of {shown} locked: {text}; end the session that holds it"),
    ("40", "breaks off the transactions of {shown}: {text}; end what else writes to it"),
    ("53300", "has no connection left for {shown}: {text}; raise max_connections there, or use fewer workers"),
    ("53100", "has no space left on device: {text}; free some space there"),
    ("53", "has not enough resources for {shown}: {text}; free some there"),
    ("42501", "refused {shown}: {text}; give this user the right"),
    ("42P01", "has lost a table of {shown}: {text}; restore a copy, or choose another storage"),
    ("42703", "has lost a column of {shown}: {text}; restore a copy, or choose another storage"),
    ("3F000", "has lost a schema of {shown}: {text}; restore a copy, or choose another storage"),
    ("57P04", "has dropped the database of {shown}: {text}; restore a copy, or choose another storage"),
    ("XX", "cannot read what it keeps of {shown}: {text}; restore a copy"),
    ("57P03", "is not ready: {text}; wait until it is"),
    ("57P0", "was shut down: {text}; start it"),
    ("08", "cannot be reached: {text}; start it"),
)
# What libpq says where a server gave no code: it never got as far as a session.
_REFUSED = re.compile(
    r"password authentication failed|no password supplied|does not exist|no pg_hba\.conf entry|"
    r"authentication method|permission denied|could not translate host name|Name or service not known|"
    r"invalid (port|connection option|integer)|certificate",
    re.IGNORECASE,
)
_TRANSIENT_SQLITE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
NO_SPACE = re.compile(r"No space left|disk full", re.IGNORECASE)
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
UNWRITTEN = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
LOW_BYTE = 0xFF
PROBE = 64 * 1024  # bytes: what a transaction may need


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
            fatal = {kind.__name__ for kind in type(cause).__mro__} & {"OperationalError", "InternalError"}
            return bool(fatal) or getattr(cause, "sqlstate", None) in CHANGED_STATES
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
    """Whether a storage found no row for a study or a trial that it was asked for."""
    return raised_in(error, "optuna.storages", "lrtune.storage")


def raised_in(error: BaseException, *packages: str) -> bool:
    """Whether the code that raised it belongs to one of these packages, by the name of its module.

    The path of the file would not do: a user's code may lie in a folder called ``optuna``.
    """
    return any(f"{last}.".startswith(f"{package}.") for last in _modules(error)[-1:] for package in packages)


def is_damaged(error: BaseException) -> bool:
    """Whether Optuna could not parse what is stored in its tables: an attribute, a distribution, a state."""
    if isinstance(error, RecursionError | TypeError | ValueError) and raised_in(error, "json"):
        return "optuna" in {module.partition(".")[0] for module in _modules(error)}
    plain = isinstance(error, AttributeError | LookupError | TypeError | ValueError)
    refused = "check_distribution_compatibility" in _functions(error)  # the caller's range differs from the stored one
    return plain and not refused and raised_in(error, "optuna.distributions", "sqlalchemy")


def _modules(error: BaseException) -> list[str]:
    """Names of the modules that the exception passed through; the last one raised it."""
    return [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]


def _functions(error: BaseException) -> list[str]:
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]


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
    refused = _refused(path) if code in UNWRITTEN else None
    if code == sqlite3.SQLITE_FULL or (refused is not None and refused.errno == errno.ENOSPC):
        return f"no space left on device: {shown}{kept}; free some space and run the same command to resume"
    if code == sqlite3.SQLITE_IOERR and _at_size_limit(path):
        return f"no space left: {shown} has reached the file size limit (ulimit -f){kept}; raise it and run again"
    if refused is not None:
        return os_sentence(refused, shown + kept)
    if code in DAMAGED:
        return damaged(shown, fault or error)
    sentence = f"{shown} cannot be used ({redact(fault or error)}){kept}; check the disk and run the same command again"
    if code == sqlite3.SQLITE_ERROR and "no such" in str(fault):
        sentence = f"{shown} has lost a table or a column ({fault}); restore a copy of it, or choose another storage"
    elif code == sqlite3.SQLITE_READONLY:
        sentence = f"not writable: {shown}{kept}; make the file and its folder writable, or choose another storage"
    elif code in _TRANSIENT_SQLITE:
        sentence = f"{shown} stayed locked by another process for too long{kept}; end that process and run again"
    return sentence


def read_sentence(error: sqlite3.Error, shown: str) -> str:
    """One sentence for an SQLite file that is there and was only looked at."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & LOW_BYTE  # a check's own verdict has no code
    if code in _TRANSIENT_SQLITE:
        return f"{shown} is locked by another process; wait for it or end it, or choose another storage"
    if code in DAMAGED:
        return damaged(shown, error)
    return f"{shown} cannot be read ({error}); check the disk and run the same command again"


def damaged(shown: str, why: object) -> str:
    """One sentence for a storage that holds what neither Optuna nor lrtune can have written."""
    check = "lrtune storage check says whether one is sound"
    return f"{shown} is damaged ({redact(why)}); restore a copy of it ({check}), or choose another storage"


def server_sentence(error: BaseException, shown: str, place: str, waited: float) -> str:
    """One sentence for what ended the work on a PostgreSQL server."""
    fault = next((cause for cause in _chain(error) if _is_server_error(cause)), error)
    text = " ".join(redact(fault).split())
    wait = f" (waited {waited:.0f} s)" if waited >= 1 else ""
    if re.search(r"password authentication failed|no password supplied", text):
        return f"the PostgreSQL server at {place} refused the user or the password of {shown}; correct them"
    state = str(getattr(fault, "sqlstate", None) or ("53100" if NO_SPACE.search(text) else ""))
    answer = next((answer for prefix, answer in ANSWERS if state.startswith(prefix)), None)
    if answer is not None:
        again = "run the same command again"
        return f"the PostgreSQL server at {place} {answer.format(shown=shown, text=text)}{wait}, and {again}"
    if _REFUSED.search(text):
        return f"the PostgreSQL server at {place} refused {shown}: {text}"
    if state:
        return f"the PostgreSQL server at {place} failed: {text}; see its log, and run the same command again"
    return f"the PostgreSQL server at {place} cannot be reached{wait}: {text}; start it and run the same command again"


def _refused(path: Path) -> OSError | None:
    """Why the file's folder, or the file itself, takes no more; None where it does."""
    try:
        os.close(os.open(path, os.O_RDWR))
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(PROBE))
            file.flush()
    except OSError as error:
        return error
    return None


def _at_size_limit(path: Path) -> bool:
    """Whether the file, its log or its journal is about as large as this process may make a file."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        parts = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-journal")]
        largest = max((part.stat().st_size for part in parts if part.exists()), default=0)
    except (OSError, ImportError):
        return False
    return limit != resource.RLIM_INFINITY and largest + PROBE > limit
