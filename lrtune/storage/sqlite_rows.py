"""SQL of lrtune's own into Optuna's tables in an SQLite file: a change of a trial is one transaction.

An Optuna storage in a file is a published format: tables with a revision number, which every Optuna of
that revision reads and writes alike. At the one revision that is written here, as Optuna's own statements do, the end
of a trial takes 0.1 to 0.2 ms; through Optuna's calls it takes 20 ms. Any other revision is left to Optuna's calls.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from lrtune.errors import StorageError
from lrtune.storage.error_mapping import damaged
from lrtune.storage.retry import RetryingStorage
from lrtune.storage.sqlite import SqliteDatabase
from lrtune.storage.trial_rows import Rows, TrialChange, TrialRow, constraint_key

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

__all__ = ["FileRows", "rows_of"]

OPTUNA, REVISION = "5", "v3.2.0.a"
"""Optuna's major version and the revision of its tables that are written here."""

T = TypeVar("T")
_every: weakref.WeakSet[FileRows] = weakref.WeakSet()
_inherited: list[sqlite3.Connection] = []


def _upsert(table: str, key: str, columns: str) -> str:
    names = f"{key}, {columns}"
    marks = ", ".join("?" for _ in names.split(", "))
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns.split(", "))
    return f"insert into {table} ({names}) values ({marks}) on conflict ({key}) do update set {changes}"  # noqa: S608 -- names written here


READ_STUDY = "select key, value_json from study_user_attributes where study_id = ?"
_READ = (
    "select trials.trial_id, number, state, value_json from trials left join trial_user_attributes "
    "on trial_user_attributes.trial_id = trials.trial_id and key = ? "
)
READ_TRIALS = _READ + "where study_id = ? order by number"
READ_TRIAL = _READ + "where trials.trial_id = ? and study_id = ?"
ADD = (
    "insert into trials (study_id, number, state, datetime_start) "
    "values (:study, (select count(*) from trials where study_id = :study), :state, :started)"
)
SET_PARAMETER = "insert into trial_params (trial_id, param_name, param_value, distribution_json) values (?, ?, ?, ?)"
SET_ATTRIBUTE = _upsert("trial_user_attributes", "trial_id, key", "value_json")
SET_CONSTRAINT = (
    "insert into trial_system_attributes (trial_id, key, value_json) values (?, ?, ?) "
    "on conflict (trial_id, key) do nothing"
)
SET_REPORT = _upsert("trial_intermediate_values", "trial_id, step", "intermediate_value, intermediate_value_type")
SET_VALUE = _upsert("trial_values", "trial_id, objective", "value, value_type")
SET_END = "update trials set state = ?, datetime_complete = ? where trial_id = ?"
DESCRIBE = _upsert("study_user_attributes", "study_id, key", "value_json")


def rows_of(storage: BaseStorage, study_id: int) -> Rows:
    """The rows of a study: by SQL of lrtune's own in a file of the known revision, else through Optuna's calls."""
    database = storage.database if isinstance(storage, RetryingStorage) else None
    if isinstance(storage, RetryingStorage) and isinstance(database, SqliteDatabase):
        rows = FileRows(storage, database, study_id)
        if optuna.__version__.partition(".")[0] == OPTUNA and rows.revision() == REVISION:
            return rows
        rows.close()
    return Rows(storage, study_id)


class FileRows(Rows):
    """The rows of one study in an SQLite file, by SQL of lrtune's own; a change is one transaction.

    What was read stays true for as long as :meth:`unchanged` says so. SQLite's ``data_version`` changes
    for a connection exactly when *another* connection, of this process or of any other, has committed
    something to the file (https://sqlite.org/pragma.html#pragma_data_version). All that this object writes
    goes through its one connection, and nothing else does: so the version moves for every write but its own.
    The version is taken before the rows are read: what is committed in between is read again, never missed.
    And a change looks at the state of its trial within its own transaction, which holds the write lock from its
    first statement on: nobody can end or delete the trial between the look and the write.
    """

    def __init__(self, storage: RetryingStorage, database: SqliteDatabase, study_id: int) -> None:
        super().__init__(storage, study_id)
        self._retry = storage.retry
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._mark: int | None = None
        self._closing: weakref.finalize[..., Any] | None = None
        _every.add(self)

    def revision(self) -> str:
        """The revision of the tables in the file."""
        query = "select version_num from alembic_version"
        return str(self._retry(lambda: self._connected().execute(query).fetchall())[0][0])

    def unchanged(self) -> bool:
        """See :class:`~lrtune.storage.trial_rows.Rows`."""
        return self._mark is not None and self._mark == self._retry(self._version)

    def read(self, name: str) -> tuple[dict[str, Any], list[TrialRow]]:
        """See :class:`~lrtune.storage.trial_rows.Rows`."""

        def read() -> tuple[int, list[Any], list[TrialRow]]:
            version = self._version()
            connection = self._connected()
            self._demand_study(connection)
            attributes = connection.execute(READ_STUDY, (self._study_id,)).fetchall()
            trials = connection.execute(READ_TRIALS, (name, self._study_id)).fetchall()
            return version, attributes, [self._row(*trial) for trial in trials]

        self._mark, attributes, trials = self._retry(read)
        return {key: self._parsed(key, text) for key, text in attributes}, trials

    def look(self, trial_id: int, name: str) -> TrialRow:
        """See :class:`~lrtune.storage.trial_rows.Rows`."""
        asked = (name, trial_id, self._study_id)
        found = self._retry(lambda: self._connected().execute(READ_TRIAL, asked).fetchall())
        if not found:
            raise KeyError(_GONE)
        return self._row(*found[0])

    def _row(self, trial_id: int, number: int, state: str, record: str | None) -> TrialRow:
        if state not in TrialState.__members__:
            raise StorageError(damaged(self._database.shown, f"trial {number} is in the state {state!r}"))
        return TrialRow(trial_id=trial_id, number=number, state=TrialState[state], record=record)

    def _parsed(self, key: str, text: str) -> Any:
        try:
            return json.loads(text)
        except (RecursionError, TypeError, ValueError) as error:
            what = f"the study's attribute {key} is no JSON: {error}"
            raise StorageError(damaged(self._database.shown, what)) from error

    def add(self, template: FrozenTrial) -> tuple[int, int]:
        """See :class:`~lrtune.storage.trial_rows.Rows`."""

        def add(connection: sqlite3.Connection) -> tuple[int, int]:
            self._demand_study(connection)
            values = {"study": self._study_id, "state": template.state.name, "started": _utc(template.datetime_start)}
            trial_id = connection.execute(ADD, values).lastrowid or 0  # "returning" needs SQLite 3.35
            ((number,),) = connection.execute("select number from trials where trial_id = ?", (trial_id,)).fetchall()
            parameters = [
                (trial_id, name, axis.to_internal_repr(template.params[name]), distribution_to_json(axis))
                for name, axis in template.distributions.items()
            ]
            connection.executemany(SET_PARAMETER, parameters)
            connection.executemany(SET_ATTRIBUTE, _encoded(trial_id, template.user_attrs))
            return trial_id, number

        return self._transaction(add)

    def change(self, trial_id: int, change: TrialChange) -> None:
        """See :class:`~lrtune.storage.trial_rows.Rows`."""

        def write(connection: sqlite3.Connection) -> None:
            query = "select state, number from trials where trial_id = ? and study_id = ?"
            found = connection.execute(query, (trial_id, self._study_id)).fetchall()
            if not found:
                raise KeyError(_GONE)
            if TrialState[found[0][0]].is_finished():
                msg = f"Trial#{found[0][1]} has already finished and can not be updated."
                raise UpdateFinishedTrialError(msg)
            _write(connection, trial_id, change)

        self._transaction(write)

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """See :class:`~lrtune.storage.trial_rows.Rows`."""
        rows = _encoded(self._study_id, attributes)
        self._transaction(lambda connection: connection.executemany(DESCRIBE, rows))

    def close(self) -> None:
        """See :class:`~lrtune.storage.trial_rows.Rows`."""
        self._mark = None
        if self._closing is not None:
            self._closing()
        self._connection = self._closing = None

    def leave(self) -> None:
        """In a forked child: the connection is the parent's, and must be neither used nor closed here."""
        if self._connection is not None and self._closing is not None:
            self._closing.detach()
            _inherited.append(self._connection)
        self._connection = self._closing = self._mark = None

    def _demand_study(self, connection: sqlite3.Connection) -> None:
        if not connection.execute("select 1 from studies where study_id = ?", (self._study_id,)).fetchall():
            raise KeyError(_GONE)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._database.connect()
            self._closing = weakref.finalize(self, self._connection.close)
        return self._connection

    def _version(self) -> int:
        # All rows are fetched: a statement that is not at its end would hold its read of the file open.
        return int(self._connected().execute("pragma data_version").fetchall()[0][0])

    def _transaction(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """Call within a transaction that writes from its first statement on; again while a fault may pass.

        A fault before the commit leaves nothing behind, and one that may pass (the file is locked) can
        only come before it. After any other it is unknown what was written, so that all is read again.
        """

        def once() -> T:
            connection = self._connected()
            connection.execute("begin immediate")
            try:
                result = call(connection)
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise
            return result

        try:
            return self._retry(once)
        except BaseException:
            self._mark = None
            raise


_GONE = "Record does not exist."


def _write(connection: sqlite3.Connection, trial_id: int, change: TrialChange) -> None:
    if change.reports:
        connection.executemany(SET_REPORT, [(trial_id, step, *_stored(v)) for step, v in change.reports.items()])
    if change.attributes:
        connection.executemany(SET_ATTRIBUTE, _encoded(trial_id, change.attributes))
    if change.constraints:
        named = {constraint_key(name): value for name, value in change.constraints.items()}
        connection.executemany(SET_CONSTRAINT, _encoded(trial_id, named))
    if change.values is not None:
        rows = [(trial_id, objective, *_stored(value)) for objective, value in enumerate(change.values)]
        connection.executemany(SET_VALUE, rows)
    if change.state is not None:
        ended = _utc(datetime.now()) if change.state.is_finished() else None  # noqa: DTZ005 -- as Optuna has it
        connection.execute(SET_END, (change.state.name, ended, trial_id))


def _encoded(owner: int, attributes: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    return [(owner, name, json.dumps(content)) for name, content in attributes.items()]


def _stored(value: float) -> tuple[float | None, str]:
    """A number and its kind, as the tables hold them: SQLite has no infinity of its own."""
    if math.isnan(value):
        return None, "NAN"
    if math.isinf(value):
        return None, "INF_POS" if value > 0 else "INF_NEG"
    return float(value), "FINITE"


def _utc(time: datetime | None) -> str | None:
    """Naive UTC with microseconds, as SQLAlchemy writes a time into SQLite."""
    if time is None:
        return None
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _leave_all() -> None:
    for rows in list(_every):
        rows.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)
