"""What an existing file or database holds, found out before anything is opened for writing.

Plain Optuna adds its tables to whatever SQLite file it is given, and modifies a too old one before it
refuses it. Here everything is read first, without a lock, a table or a side file left behind.
"""

from __future__ import annotations

import enum
import functools
import os
import sqlite3
import stat
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy

from lrtune.core.os_errors import cure, reason
from lrtune.core.redaction import redact
from lrtune.errors import StorageError
from lrtune.storage.error_mapping import LOW_BYTE, read_sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from optuna.storages import RDBStorage

__all__ = ["Found", "Schema", "inspect_file", "inspect_server", "known_schema", "read_only"]

MAGIC = b"SQLite format 3\0"
CHECKED_BYTES = 64 * 2**20  # a quick check reads all of a file: about 0.3 s for this much
ELSEWHERE = "choose another storage"


class Found(enum.Enum):
    """What there is where the storage should be."""

    NOTHING = "nothing yet"
    EMPTY = "an empty file"
    UNFINISHED = "an Optuna storage whose creation was cut off"
    READY = "an Optuna storage of this version"


def inspect_file(path: Path, shown: str) -> Found:
    """What the file is, read-only.

    Raises
    ------
    StorageError
        If it cannot become or be a storage: missing folder, not a regular file, a dangling link, not
        writable, not an SQLite file, damaged, foreign, or of another schema version; or it cannot be read.
    """
    try:
        if not _exists(path, shown):
            return Found.NOTHING
        size = path.stat().st_size
        if size == 0:
            return Found.EMPTY
        try:
            _check_header(path, shown, size)
        except OSError as error:
            msg = f"{shown} cannot be read ({reason(error)}); {cure(error)}, or {ELSEWHERE}"
            raise StorageError(msg) from None
        return _read_twice(path, shown, size)
    except OSError as error:
        msg = f"{shown} cannot be read ({error.strerror}); check the disk and run the same command again"
        raise StorageError(msg) from None


def _read_twice(path: Path, shown: str, size: int) -> Found:
    before = path.stat().st_mtime_ns, size
    try:
        return _read(path, shown, size, unchanging=_at_rest(path))
    except sqlite3.Error as error:
        damage = error
    changed = not _at_rest(path) or (path.stat().st_mtime_ns, path.stat().st_size) != before
    if changed or getattr(damage, "sqlite_errorcode", 0) & LOW_BYTE == sqlite3.SQLITE_IOERR:
        # A writer came in between; or one that crashed left a journal, which only a writer rolls back; or a read
        # failed, which is no damage, and may have been the only one.
        try:
            return _read(path, shown, size, unchanging=False)
        except sqlite3.Error as error:
            damage = error
    raise StorageError(read_sentence(damage, shown))


def _exists(path: Path, shown: str) -> bool:
    """Whether there is a file; an error where it, or its folder, could not become a storage."""
    folder = path.parent
    if not folder.is_dir():
        msg = f"{shown}: the folder {folder} does not exist; create it, or {ELSEWHERE}"
        raise StorageError(msg)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            msg = f"{shown} is a link to {redact(path.readlink())}, which does not exist; remove the link"
            raise StorageError(msg) from None
        _check_writable(folder, f"{shown}: the folder {folder}")
        return False
    except OSError as error:
        msg = f"{shown} cannot be looked at ({reason(error)}); {cure(error)}, or {ELSEWHERE}"
        raise StorageError(msg) from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "not a regular file"
        msg = f"{shown} is {kind}, where a file is needed; {ELSEWHERE}"
        raise StorageError(msg)
    _check_writable(path, shown)
    _check_writable(folder, f"{shown}: the folder {folder}")
    return True


def _check_writable(path: Path, shown: str) -> None:
    # Asked of the real user's rights: enough, since lrtune is never installed set-uid.
    if not os.access(path, os.R_OK | os.W_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(path).f_flag & os.ST_RDONLY
        mend = "mount its file system for writing" if read_only else "make it readable and writable for this user"
        msg = f"not writable: {shown}; {mend}, or {ELSEWHERE}"
        raise StorageError(msg)


def _check_header(path: Path, shown: str, size: int) -> None:
    with path.open("rb") as stream:
        head = stream.read(100)
    if not head.startswith(MAGIC):
        msg = f"{shown} is not an SQLite file (it begins with {head[:12]!r}); {ELSEWHERE}"
        raise StorageError(msg)
    page = int.from_bytes(head[16:18], "big")
    page = 65_536 if page == 1 else page
    pages = int.from_bytes(head[28:32], "big")
    counted = head[24:28] == head[92:96]  # else the header's page count is not valid (sqlite.org/fileformat)
    if len(head) < 100 or page < 512 or page & (page - 1) or (counted and _at_rest(path) and pages * page > size):  # noqa: PLR2004 -- of the file format
        msg = f"{shown} is damaged (it is cut off: {size} bytes); restore a copy of it, or {ELSEWHERE}"
        raise StorageError(msg)


def _at_rest(path: Path) -> bool:
    return not any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))


def _read(path: Path, shown: str, size: int, *, unchanging: bool) -> Found:
    # An unchanging read leaves no -shm file beside a foreign one. With a journal left by a crash a
    # read-only connection cannot recover, so that one is opened as SQLite means it to be opened.
    with closing(read_only(path, unchanging=unchanging)) as connection:
        tables = {str(name) for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        tables = {name for name in tables if not name.startswith("sqlite_")}
        found = _judge(connection.execute, tables, shown)
        if size <= CHECKED_BYTES and found is not Found.EMPTY:
            verdict = str(connection.execute("pragma quick_check(1)").fetchone()[0])
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict.splitlines()[-1])
    return found


def read_only(path: Path, *, unchanging: bool | None = None) -> sqlite3.Connection:
    """A connection that changes nothing; `unchanging` says that nobody writes, None asks the side files."""
    still = _at_rest(path) if unchanging is None else unchanging
    mode = "mode=ro&immutable=1" if still else "mode=ro" if _at_rest(path) else "mode=rw"
    return sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=10)


def inspect_server(engine: sqlalchemy.Engine, shown: str) -> Found:
    """What a PostgreSQL database holds; only looked at. Raises as :func:`inspect_file` does."""
    with engine.connect() as connection:
        tables = set(sqlalchemy.inspect(connection).get_table_names())
        return _judge(connection.exec_driver_sql, tables, shown, shared=True)


def _judge(execute: Callable[[str], Any], tables: set[str], shown: str, *, shared: bool = False) -> Found:
    """What a database with these tables is; `shared` says that tables of others may stand beside Optuna's.

    Raises
    ------
    StorageError
        If it belongs to something else, is of another schema version, or holds studies and has lost a table.
    """

    def cell(column: str, table: str) -> object:
        row = execute(f"select {column} from {table} limit 1").fetchone() if table in tables else None  # noqa: S608 -- names written here
        return row[0] if row else None

    version, schema = cell("version_num", "alembic_version"), cell("schema_version", "version_info")
    known = known_schema()
    ours = known.tables
    if not tables:
        return Found.EMPTY
    foreign = tables - ours - {"alembic_version"}
    if foreign and not shared and {"studies", "trials", "version_info"} - tables:
        msg = f"{shown} is not an Optuna storage (it holds a table {min(foreign)!r}); {ELSEWHERE}"
        raise StorageError(msg)
    if version is None and schema not in (None, known.number):
        version = "v0.9.0.a"
    if version is not None and str(version) != known.head:
        raise StorageError(_other_version(str(version), shown, tables & ours))
    held, lost = cell("1", "studies"), sorted(ours - tables)
    if version is not None and not lost:
        return Found.READY
    if held and lost:  # created again, the table would silently be empty
        msg = f"{shown} holds studies, but has lost the table {lost[0]!r}; restore a copy of it, or {ELSEWHERE}"
        raise StorageError(msg)
    return Found.UNFINISHED


def _other_version(version: str, shown: str, ours: set[str]) -> str:
    if not ours:
        return f"{shown} holds another application's tables (alembic_version is {version}); {ELSEWHERE}"
    with _scratch() as storage:
        older = version in storage.get_all_versions()
    if older:
        return (
            f"{shown} has the schema {version} of an older Optuna; copy it, then run: "
            f"optuna storage upgrade --storage {shown if '://' in shown else f'sqlite:///{shown}'}"
        )
    return f"{shown} has the schema {version} of a newer Optuna; run: pip install --upgrade optuna"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What the installed Optuna makes of an empty SQLite database."""

    tables: frozenset[str]
    head: str  # its newest revision
    number: int  # its schema number of before revisions
    script: tuple[str, ...]  # SQL that makes an empty storage, in one transaction


@functools.cache
def known_schema() -> Schema:
    """The schema of the installed Optuna, from a scratch storage in memory."""
    from optuna.storages._rdb import models

    with _scratch() as storage, closing(storage.engine.raw_connection()) as connection:
        made = tuple(connection.driver_connection.iterdump())  # type: ignore[union-attr]  # connected by then
        return Schema(
            tables=frozenset(models.BaseModel.metadata.tables),
            head=storage.get_current_version(),  # a new one's is the newest; to be told it takes reading them all
            number=int(models.SCHEMA_VERSION),
            script=tuple(line for line in made if line not in {"BEGIN TRANSACTION;", "COMMIT;"}),
        )


@contextmanager
def _scratch() -> Iterator[RDBStorage]:
    """An empty storage in memory."""
    from optuna.storages import RDBStorage

    storage = RDBStorage("sqlite:///:memory:", skip_compatibility_check=True)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
