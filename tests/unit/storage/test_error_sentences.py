"""What a storage says when it fails names what happened, and its advice fits; each condition is a real one."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import optuna
import pytest

from lrtune.core.os_errors import CURES, cure, os_sentence
from lrtune.errors import StorageError
from lrtune.storage import open_storage
from lrtune.storage.check import check_storage
from lrtune.storage.error_mapping import is_missing, read_sentence

if TYPE_CHECKING:
    from pathlib import Path

    from postgres_server import PostgresServer

optuna.logging.set_verbosity(optuna.logging.ERROR)


def begun(where: str | Path, *, retry_seconds: float = 0.3) -> optuna.Study:
    storage = open_storage(where, retry_seconds=retry_seconds)
    return optuna.create_study(storage=storage, study_name="n", load_if_exists=True)


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("setting", "act", "said"),
    [
        ("statement_timeout = '100ms'", "lock table trials in access exclusive mode", "raise statement_timeout there"),
        ("lock_timeout = '100ms'", "lock table trials in access exclusive mode", "end the session that holds it"),
        ("default_transaction_read_only = on", "select 1", "use its primary, or turn default_transaction_read_only"),
    ],
)
def test_a_server_that_answers_is_not_said_to_be_away(
    postgres: PostgresServer, postgres_url: str, setting: str, act: str, said: str
) -> None:
    import psycopg

    begun(postgres_url).ask()
    database = postgres_url.rpartition("/")[2]
    postgres.sql(f'alter database "{database}" set {setting}')
    study = optuna.load_study(study_name="n", storage=open_storage(postgres_url, retry_seconds=0.3))
    with psycopg.connect(postgres_url) as other:
        other.execute("set transaction read write")
        other.execute(act.encode())
        with pytest.raises(StorageError, match=said) as raised:
            study.ask()
    assert "cannot be reached" not in str(raised.value)
    assert "start it" not in str(raised.value)


@pytest.mark.postgres
def test_a_server_that_ends_idle_sessions_costs_nothing(postgres: PostgresServer, postgres_url: str) -> None:
    begun(postgres_url)
    postgres.sql(f"alter database \"{postgres_url.rpartition('/')[2]}\" set idle_session_timeout = '100ms'")
    study = begun(postgres_url, retry_seconds=5)
    time.sleep(0.4)
    study.tell(study.ask(), 1.0)
    assert study.best_value == 1.0


@pytest.mark.postgres
def test_a_table_that_disappears_from_a_server_is_named_and_not_made_again(
    postgres: PostgresServer, postgres_url: str
) -> None:
    study = begun(postgres_url)
    trial = study.ask()
    postgres.sql("drop table trial_values", postgres_url.rpartition("/")[2])
    with pytest.raises(StorageError, match=r"has lost a table .*trial_values"):
        study.tell(trial, 1.0)
    for look in (open_storage, check_storage):
        with pytest.raises(StorageError, match="has lost the table 'trial_values'"):
            look(postgres_url)


def test_a_table_that_disappears_from_a_file_is_named_and_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    study = begun(path)
    trial = study.ask()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("drop table trial_values")
    with pytest.raises(StorageError, match=r"has lost a table .*no such table: trial_values"):
        study.tell(trial, 1.0)
    for look in (open_storage, check_storage):
        with pytest.raises(StorageError, match="has lost the table 'trial_values'"):
            look(str(path))


def test_a_copy_that_was_vacuumed_is_as_good_as_the_file(tmp_path: Path) -> None:
    path, copy = tmp_path / "s.db", tmp_path / "copy.db"
    study = begun(path)
    study.tell(study.ask(), 1.0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("vacuum into ?", (str(copy),))
    assert check_storage(str(copy)).studies == {"n": {"COMPLETE": 1}}
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("vacuum")
    assert begun(copy).best_value == 1.0


def failing_read(message: str, code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


def test_a_failed_read_is_no_damage() -> None:
    said = read_sentence(failing_read("disk I/O error", sqlite3.SQLITE_IOERR_READ), "s.db")
    assert "check the disk" in said
    assert "damaged" not in said
    assert "damaged" in read_sentence(failing_read("malformed", sqlite3.SQLITE_CORRUPT), "s.db")
    assert "locked" in read_sentence(failing_read("database is locked", sqlite3.SQLITE_BUSY), "s.db")


def test_a_read_that_fails_once_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lrtune.storage import schema

    path = tmp_path / "s.db"
    begun(path)
    real, failures = schema.read_only, [failing_read("disk I/O error", sqlite3.SQLITE_IOERR_READ)]

    def once_failing(*args: object, **options: object) -> sqlite3.Connection:
        if failures:
            raise failures.pop()
        return real(*args, **options)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(schema, "read_only", once_failing)
    assert schema.inspect_file(path, "s.db") is schema.Found.READY


@pytest.mark.parametrize(
    ("number", "said", "unsaid"),
    [
        (errno.EDQUOT, "quota", "free some space"),
        (errno.ENOSPC, "free some space", "quota"),
        (errno.ENOENT, "make the folder again", "free some space"),
        (errno.EISDIR, "a folder is where the file should be", "free some space"),
        (errno.EROFS, "read-only", "free some space"),
        (errno.EIO, "check the disk", "free some space"),
        (errno.EMFILE, "ulimit -n", "free some space"),
    ],
)
def test_advice_about_a_file_fits_its_error(number: int, said: str, unsaid: str) -> None:
    error = OSError(number, os.strerror(number))
    assert said in cure(error)
    assert said in os_sentence(error, "s.db")
    assert unsaid not in os_sentence(error, "s.db")
    assert all(CURES.values())


def test_a_missing_row_is_told_by_the_module_and_not_by_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "optuna" / "storages"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text("def lookup():\n    return {}['nothing']\n")
    scope: dict[str, object] = {"__name__": "mine"}
    exec(compile((folder / "mine.py").read_text(), str(folder / "mine.py"), "exec"), scope)  # noqa: S102 -- a user's code, by its path
    with pytest.raises(KeyError) as users:
        scope["lookup"]()  # type: ignore[operator]  # it is the function above
    with pytest.raises(KeyError) as storages:
        optuna.storages.InMemoryStorage().get_trial(7)
    assert not is_missing(users.value)
    assert is_missing(storages.value)
