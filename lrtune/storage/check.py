"""``lrtune storage check``: what a storage is, whether it is sound, and what it holds; nothing is written."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy
from optuna.distributions import json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from lrtune.errors import StorageError
from lrtune.storage.error_mapping import is_storage_fault, read_sentence
from lrtune.storage.postgresql import ServerDatabase
from lrtune.storage.schema import Found, inspect_file, inspect_server, read_only
from lrtune.storage.url import FileAddress, ServerAddress, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["StorageContents", "check_storage", "damage_in"]

Execute: TypeAlias = "Callable[[str], Iterable[Any]]"
Judge: TypeAlias = "Callable[[int | None, Mapping[str, Any]], str]"

STUDIES = "select study_name, null, key, value_json from study_{kind}_attributes join studies using (study_id)"
TRIALS = (
    "select study_name, number, key, value_json from trial_{kind}_attributes join trials using (trial_id) "
    "join studies using (study_id)"
)
DIRECTIONS = (
    "select study_name, direction from studies left join study_directions "
    "on study_directions.study_id = studies.study_id"
)
STATES = "select study_name, number, state from trials join studies using (study_id)"
PARAMS = (
    "select study_name, number, param_name, distribution_json from trial_params join trials using (trial_id) "
    "join studies using (study_id)"
)
MOST_NAMED = 5
HELD = (
    "select studies.study_name, trials.state, count(trials.trial_id) from studies "
    "left join trials on trials.study_id = studies.study_id group by studies.study_name, trials.state"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageContents:
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


def check_storage(where: str, *, judge: Judge | None = None) -> StorageContents:
    """Check a storage, read-only.

    Parameters
    ----------
    where
        As :func:`~lrtune.storage.open_storage` takes it.
    judge
        What is wrong with the attributes of a trial (by its number) or of a study (None), as a clause; empty where
        nothing is. Not asked where one of them is no JSON.

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
    reading = _reading_file(address) if isinstance(address, FileAddress) else _reading_server(address)
    rows: Iterable[Any] = ()
    with reading as (found, what, execute):
        if found is Found.READY:
            rows = list(execute(HELD))
            damage = _named(_faults(execute, judge))
            if damage:
                msg = f"{address} is damaged: {damage}; restore a copy of it, or choose another name for the study"
                raise StorageError(msg)
    studies: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, state, count in rows:
        studies[str(name)] |= {} if state is None else {str(state): int(count)}
    return StorageContents(shown=str(address), what=what, studies=dict(sorted(studies.items())))


@contextlib.contextmanager
def _reading_file(address: FileAddress) -> Iterator[tuple[Found, str, Execute]]:
    path, shown = address.path, str(address)
    found = inspect_file(path, shown)
    if found is Found.NOTHING:
        msg = f"{shown}: there is nothing yet; search first, or name the storage that is meant"
        raise StorageError(msg)
    try:
        with contextlib.closing(read_only(path)) as connection:
            verdict = str(connection.execute("pragma integrity_check(1)").fetchone()[0])
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict.splitlines()[-1])
            yield found, f"{found.value}, sound", connection.execute
    except sqlite3.Error as error:
        raise StorageError(read_sentence(error, shown)) from None


@contextlib.contextmanager
def _reading_server(address: ServerAddress) -> Iterator[tuple[Found, str, Execute]]:
    database = ServerDatabase(address)
    engine = sqlalchemy.create_engine(address.url, **database.options())
    try:
        found = inspect_server(engine, str(address))
        with engine.connect() as connection:
            yield found, found.value, connection.exec_driver_sql
    except Exception as error:
        if isinstance(error, StorageError) or not is_storage_fault(error):
            raise
        raise StorageError(database.sentence(error, 0.0)) from None
    finally:
        engine.dispose()


def damage_in(engine: sqlalchemy.Engine) -> str:
    """Which values in a database make no sense, as a clause; empty where none is found."""
    with engine.connect() as connection:
        return _named(_faults(connection.exec_driver_sql, None))


def _named(found: Iterable[str]) -> str:
    faults = list(found)
    more = f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
    return "; ".join(faults[:MOST_NAMED]) + more


def _faults(execute: Execute, judge: Judge | None) -> Iterator[str]:
    for name, direction in execute(DIRECTIONS):
        if direction not in StudyDirection.__members__:
            yield f"study {name!r}: its direction is {direction!r}"
    for name, number, state in execute(STATES):
        if state not in TrialState.__members__:
            yield f"study {name!r}: trial {number} is in the state {state!r}"
    for name, number, parameter, text in execute(PARAMS):
        try:
            json_to_distribution(text)
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            yield f"study {name!r}: the range of {parameter!r} of trial {number} ({_brief(error)})"
    for query in (STUDIES, TRIALS):
        for (name, number), rows in itertools.groupby(_attributes(execute, query), lambda row: row[:2]):
            whose = f"study {name!r}" if number is None else f"study {name!r}: trial {number}"
            attributes, faults = _parsed(rows)
            judged = judge(number, attributes) if judge is not None and not faults else ""
            yield from (f"{whose}: {what}" for what in [*faults, *filter(None, [judged])])


def _parsed(rows: Iterable[tuple[Any, Any, str, str]]) -> tuple[dict[str, Any], list[str]]:
    """Attributes by name, and what is wrong with those that are no JSON."""
    attributes: dict[str, Any] = {}
    faults = []
    for _, _, key, text in rows:
        try:
            attributes[key] = json.loads(text)
        except (RecursionError, TypeError, ValueError) as error:
            faults.append(f"the attribute {key} is no JSON ({_brief(error)})")
    return attributes, faults


def _attributes(execute: Execute, query: str) -> list[Any]:
    """User and system attributes of studies, or of trials, sorted by name and number."""
    kinds = [[tuple(row) for row in execute(query.format(kind=kind))] for kind in ("user", "system")]
    return sorted(itertools.chain(*kinds), key=lambda row: (row[0], row[1] or 0))


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
