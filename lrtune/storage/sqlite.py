"""A study in an SQLite file."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy.exc

from lrtune.errors import StorageError
from lrtune.storage.database import Database
from lrtune.storage.error_mapping import sqlite_sentence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lrtune.storage.url import FileAddress

__all__ = ["SqliteDatabase", "file_system"]


BUSY_SECONDS = 1.0  # one wait inside SQLite, where no signal is heard; the retrying storage adds them up


NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "lustre", "gpfs", "beegfs", "ceph"),
        *("glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.s3fs"),
    }
)


class SqliteDatabase(Database):
    """An SQLite file that was there when it was opened; it is never created again once it is gone."""

    patience: float = 2.0  # other writers are ordinary here: 60 s by default
    quiet_seconds: float = 5.0

    def __init__(self, address: FileAddress) -> None:
        self.address: FileAddress = address
        self.path = address.path
        self._inode = _identity(self.path)
        self._mode = threading.local()

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

    def create_schema(self, script: Iterable[str]) -> bool:
        """Create all tables in one transaction; False, and nothing done, for a file that is no longer empty."""
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

    def configure_engine(self, engine: sqlalchemy.Engine) -> None:
        """Give an engine real transactions: those of the sqlite3 module begin late, so that two writers read alike."""
        super().configure_engine(engine)

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

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file, so that a copy of the file alone holds the study.

        SQLite does so by itself only where the last connection of all processes is closed properly.
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


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def file_system(path: Path) -> str:
    """The type of the file system a path lies on, e.g. ``"ext4"``; empty where the machine does not say."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    target, best, kind = path.resolve(), Path(), ""
    for _, mount, found, *_ in map(str.split, lines):
        folder = Path(mount.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if target.is_relative_to(folder) and len(folder.parts) >= len(best.parts):  # the last mount on a folder counts
            best, kind = folder, found
    return kind
