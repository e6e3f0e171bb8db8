"""The two databases: how a connection is made, what makes it safe, and what its failures are called."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy
import sqlalchemy.event
import sqlalchemy.exc

from lrtune.errors import StorageError
from lrtune.storage.faults import server_sentence, sqlite_sentence, translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import psycopg
    from sqlalchemy.engine.interfaces import ExceptionContext

    from lrtune.storage.address import FileAddress, ServerAddress

__all__ = ["Database", "ServerDatabase", "SqliteDatabase", "file_system"]

BUSY_SECONDS = 1.0  # one wait inside SQLite, where no signal is heard; the retrying storage adds them up
CONNECT_SECONDS = 4  # libpq's limit for one host; with the patience at the start an answer comes within 10 s
NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "glusterfs",
        "fuse.glusterfs",
        "fuse.sshfs",
        "fuse.s3fs",
    }
)
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


class SqliteDatabase:
    """An SQLite file, opened by this process; never creates the file anew once it is gone."""

    def __init__(self, address: FileAddress) -> None:
        self.address = address
        self.path = address.path
        self._inode = _identity(self.path)
        self._mode = threading.local()

    @property
    def shown(self) -> str:
        """The path as it was given."""
        return str(self.address)

    @property
    def address_text(self) -> str:
        """The absolute path."""
        return str(self.path)

    def options(self) -> dict[str, Any]:
        """The options of its SQLAlchemy engine."""
        return {"creator": self.connect, "pool_size": 8, "max_overflow": -1}

    def connect(self) -> sqlite3.Connection:
        """A connection to the existing file, with autocommit left to the `begin` event."""
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute("pragma synchronous = normal")
        except BaseException:
            connection.close()
            raise
        return connection

    def set_journal(self) -> None:
        """Write-ahead logging, so that readers and a writer do not wait for each other.

        It needs shared memory between all processes, so a network file system gets the rollback journal.
        """
        wanted = "delete" if file_system(self.path) in NETWORK_FILE_SYSTEMS else "wal"
        with contextlib.closing(self.connect()) as connection:
            if str(connection.execute("pragma journal_mode").fetchone()[0]) != wanted:
                # Somebody else may be using the file; it works in its present mode too, only slower.
                with contextlib.suppress(sqlite3.OperationalError):
                    connection.execute(f"pragma journal_mode = {wanted}").fetchone()

    def furnish(self, script: Iterable[str]) -> bool:
        """Make all tables in one transaction; whether it was done, for a file that is no longer empty is left alone."""
        with contextlib.closing(self.connect()) as connection:
            connection.execute("begin immediate")
            try:
                if connection.execute("select 1 from sqlite_master").fetchall():
                    return False
                for statement in script:
                    connection.execute(statement)
                connection.execute("commit")
            finally:
                if connection.in_transaction:
                    connection.execute("rollback")
        return True

    def harden(self, engine: sqlalchemy.Engine) -> None:
        """Give an engine real transactions: pysqlite's own begin late, and let two writers read alike."""
        _watch(engine)

        @sqlalchemy.event.listens_for(engine, "begin")
        def _begin(connection: sqlalchemy.Connection) -> None:
            connection.exec_driver_sql("begin immediate" if getattr(self._mode, "writing", False) else "begin")

    def check(self) -> None:
        """Raise if the file was removed or replaced: SQLite would go on with a file nobody can see."""
        found = _identity(self.path)
        if found is None or found != self._inode:
            what = "removed" if found is None else "replaced by another file"
            msg = f"storage disappeared: {self.shown} was {what} during the run; put it back, or start another study"
            raise StorageError(msg)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Transactions of this thread take the write lock at once, so that none has to be broken off."""
        before = getattr(self._mode, "writing", False)
        self._mode.writing = True
        try:
            yield
        finally:
            self._mode.writing = before

    def sentence(self, error: BaseException, waited: float) -> str:
        """See :class:`Database`."""
        del waited
        return sqlite_sentence(error, self.path, self.shown, self._kept())

    def patience(self, seconds: float) -> float:
        """Twice as long as for a server: other writers are ordinary here, 60 s by default."""
        return 2 * seconds

    def quiet(self) -> float:
        """Five seconds."""
        return 5.0

    def settle(self) -> None:
        """Move the write-ahead log into the file, so that a copy of the file alone holds the study.

        SQLite does it by itself only where the last connection of all processes is closed properly. What others hold
        open meanwhile keeps its place in the log, and is moved when they end.
        """
        if _identity(self.path) != self._inode:
            return
        # Everything is stored already, in two files: a full disk or a reader must not fail a search at its end.
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self.connect()) as connection:
            connection.execute("pragma wal_checkpoint(truncate)").fetchall()

    def _kept(self) -> str:
        query = "select count(*) from trials where state in ('COMPLETE', 'PRUNED', 'FAIL')"
        try:
            with contextlib.closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as connection:
                count = int(connection.execute(query).fetchone()[0])
        except sqlite3.Error:
            return ""
        return f" ({count} trial{'' if count == 1 else 's'} kept)"


class ServerDatabase:
    """A PostgreSQL database."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self._dialect = address.url.get_dialect()()

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return str(self.address)

    @property
    def address_text(self) -> str:
        """The URL without its password."""
        return str(self.address)

    def options(self) -> dict[str, Any]:
        """The options of its SQLAlchemy engine."""
        return {"creator": self.connect, "pool_pre_ping": True, "pool_size": 4, "max_overflow": 12, "pool_timeout": 20}

    def connect(self) -> psycopg.Connection[Any]:
        """A connection; a dead peer is noticed within about half a minute."""
        import psycopg

        _, given = self._dialect.create_connect_args(self.address.url)
        options: dict[str, Any] = {
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            "application_name": "lrtune",
        }
        options.update(given)
        if self.address.password is not None:
            options["password"] = self.address.password
        return psycopg.connect(**options)

    def harden(self, engine: sqlalchemy.Engine) -> None:
        """Let broken connections surface as such before Optuna retries on its own."""
        _watch(engine)

    def check(self) -> None:
        """A server says so itself."""

    def writing(self) -> AbstractContextManager[None]:
        """Nothing to do: rows are locked where it matters."""
        return contextlib.nullcontext()

    def sentence(self, error: BaseException, waited: float) -> str:
        """See :class:`Database`."""
        return server_sentence(error, self.shown, self.address.place, waited)

    def patience(self, seconds: float) -> float:
        """As long as the user allows."""
        return seconds

    def quiet(self) -> float:
        """Every outage is worth a line."""
        return 0.0

    def settle(self) -> None:
        """Nothing to do: nobody copies the files of a server."""


def _watch(engine: sqlalchemy.Engine) -> None:
    _engines.add(engine)

    @sqlalchemy.event.listens_for(engine, "handle_error")
    def _translate(context: ExceptionContext) -> None:
        error = translated(context.original_exception, disconnected=context.is_disconnect)
        if error is not None:
            raise error from context.original_exception


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def file_system(path: Path) -> str:
    """The type of the file system a path lies on, e.g. ``"ext4"``; empty where the machine does not say."""
    best, kind = "", ""
    target = os.path.realpath(path)
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as stream:  # noqa: PTH123 -- not a Path here
            for line in stream:
                _, mount, found, *_ = line.split()
                mount = mount.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
                inside = target == mount or target.startswith(mount.rstrip("/") + "/")
                if inside and len(mount) >= len(best):
                    best, kind = mount, found
    except OSError:
        return ""
    return kind


def _leave_to_parent() -> None:
    # A database connection must not be used on both sides of a fork, nor be closed by the child.
    for engine in list(_engines):
        _inherited.append(engine.pool)
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
