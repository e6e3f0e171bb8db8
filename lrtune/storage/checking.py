"""A storage looked at without changing it: what it is, whether it is sound, and what it holds."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy

from lrtune.errors import StorageError
from lrtune.storage.address import FileAddress, parse
from lrtune.storage.engines import ServerDatabase
from lrtune.storage.faults import is_storage_fault
from lrtune.storage.inspection import Found, inspect_file, inspect_server, read_only

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Checked", "check_storage"]

HELD = (
    "select studies.study_name, trials.state, count(trials.trial_id) from studies "
    "left join trials on trials.study_id = studies.study_id group by studies.study_name, trials.state"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a sound storage holds.

    Attributes
    ----------
    shown
        Its place, without a password.
    what
        What it is, in a few words.
    studies
        By the name of a study: how many of its trials are in which of Optuna's states.
    """

    shown: str
    what: str
    studies: dict[str, dict[str, int]]


def check_storage(where: str) -> Checked:
    """Look at a storage, read-only.

    Raises
    ------
    StorageError
        If there is none, or it is damaged, foreign, of another version or out of reach; nothing of it has
        been touched.
    """
    address = parse(where)
    if address is None:
        msg = f"storage {where!r} is in memory: there is nothing to check; give a file or a postgresql:// URL"
        raise StorageError(msg)
    if isinstance(address, FileAddress):
        return _file(address)
    database = ServerDatabase(address)
    engine = sqlalchemy.create_engine(address.url, **database.options())
    try:
        found = inspect_server(engine, str(address))
        with engine.connect() as connection:
            rows = connection.execute(sqlalchemy.text(HELD)).all() if found is Found.READY else []
    except Exception as error:
        if isinstance(error, StorageError) or not is_storage_fault(error):
            raise
        raise StorageError(database.sentence(error, 0.0)) from None
    finally:
        engine.dispose()
    return Checked(shown=str(address), what=found.value, studies=_counted(rows))


def _file(address: FileAddress) -> Checked:
    path, shown = address.path, str(address)
    found = inspect_file(path, shown)
    if found is Found.NOTHING:
        msg = f"{shown}: there is nothing yet; search first, or name the storage that is meant"
        raise StorageError(msg)
    rows: list[tuple[str, str | None, int]] = []
    try:
        with contextlib.closing(read_only(path)) as connection:
            verdict = str(connection.execute("pragma integrity_check(1)").fetchone()[0])
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict.splitlines()[-1])
            if found is Found.READY:
                rows = connection.execute(HELD).fetchall()
    except sqlite3.Error as error:
        msg = f"{shown} is damaged ({error}); restore a copy of it, or choose another storage"
        raise StorageError(msg) from None
    return Checked(shown=shown, what=f"{found.value}, sound", studies=_counted(rows))


def _counted(rows: Iterable[Iterable[object]]) -> dict[str, dict[str, int]]:
    studies: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, state, count in rows:
        known = studies[str(name)]
        if state is not None:
            known[str(state)] = int(str(count))
    return dict(sorted(studies.items()))
