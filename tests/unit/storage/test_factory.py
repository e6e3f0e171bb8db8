"""Opening a storage: what is there is looked at first, and what is not ours is left as it was."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage

from lrtune.errors import StorageError
from lrtune.storage import RetryingStorage, open_storage, resolve_storage, study_lock

NOBODY = 65534
as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody else")


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A storage with one study of three trials, at rest."""
    path = tmp_path / "stored.db"
    storage = open_storage(path)
    study = optuna.create_study(storage=storage, study_name="kept")
    for value in (3.0, 1.0, 2.0):
        trial = study.ask()
        trial.suggest_float("lr", 1e-5, 1.0, log=True)
        study.tell(trial, value)
    storage.close()
    return path


@pytest.mark.parametrize("where", [None, "sqlite://", ":memory:", "sqlite:///:memory:"])
def test_memory_by_choice(where: str | None) -> None:
    assert isinstance(open_storage(where), InMemoryStorage)


def test_a_storage_of_optunas_is_returned_as_it_is() -> None:
    storage = InMemoryStorage()
    assert open_storage(storage) is storage


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}", "sqlite+pysqlite:///{}"])
@pytest.mark.parametrize("name", ["s.db", "a b{x}#%41é'.db"])
def test_a_path_and_a_url_make_a_private_file_in_write_ahead_mode(tmp_path: Path, form: str, name: str) -> None:
    path = tmp_path / name
    storage = open_storage(form.format(path))
    optuna.create_study(storage=storage, study_name="n").enqueue_trial({"x": 1.0})
    assert {file.name for file in tmp_path.iterdir()} >= {name, name + "-wal"}
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    storage.close()


def test_a_closed_storage_is_one_file_even_while_others_have_it_open(tmp_path: Path) -> None:
    path, copied = tmp_path / "s.db", tmp_path / "copied.db"
    storage = open_storage(path)
    other = open_storage(path)
    assert other.get_all_studies() == []
    optuna.create_study(storage=storage, study_name="n").enqueue_trial({"x": 1.0})
    storage.close()
    shutil.copy(path, copied)
    assert len(optuna.load_study(study_name="n", storage=f"sqlite:///{copied}").trials) == 1
    assert len(optuna.load_study(study_name="n", storage=storage).trials) == 1, "it is opened again"
    other.close()
    storage.close()
    assert not (tmp_path / "s.db-wal").exists()


def test_a_file_that_took_the_place_of_a_storage_is_not_touched_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    storage = open_storage(path)
    path.rename(tmp_path / "moved.db")
    path.write_bytes(b"somebody else's")
    storage.close()
    assert path.read_bytes() == b"somebody else's"


def test_all_of_optuna_works_on_it_and_plain_optuna_on_the_file(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "s.db")
    study = optuna.create_study(storage=storage, study_name="n", direction="maximize")
    study.enqueue_trial({"lr": 0.5})
    trial = study.ask()
    assert trial.suggest_float("lr", 0.1, 1.0) == 0.5
    trial.report(0.25, 1)
    study.tell(trial, 0.5)
    study.optimize(lambda trial: trial.suggest_float("lr", 0.1, 1.0), n_trials=3)
    again = optuna.load_study(study_name="n", storage=open_storage(tmp_path / "s.db"))
    plain = optuna.load_study(study_name="n", storage=f"sqlite:///{tmp_path}/s.db")
    assert [t.values for t in plain.trials] == [t.values for t in again.trials] == [t.values for t in study.trials]
    assert plain.trials[0].intermediate_values == {1: 0.25}
    assert optuna.create_study(storage=storage, study_name="n", load_if_exists=True).best_value == study.best_value
    plain._storage._backend.engine.dispose()


def test_an_existing_storage_is_opened_without_a_change(stored: Path) -> None:
    before = sha(stored)
    storage = open_storage(stored)
    assert len(optuna.load_study(study_name="kept", storage=storage).trials) == 3
    storage.close()
    assert sha(stored) == before
    assert {file.name for file in stored.parent.iterdir()} == {"stored.db", "stored.db.lock"}


def test_an_empty_file_is_new_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.touch(mode=0o600)
    told: list[str] = []
    assert open_storage(path, warn=told.append).get_all_studies() == []
    assert told == [f"{path} is empty; it is taken as a new storage"]


def test_a_link_leads_to_the_file_and_its_lock(tmp_path: Path, stored: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(stored)
    storage = open_storage(link)
    assert isinstance(storage, RetryingStorage)
    assert storage.database.path == stored
    assert len(storage.get_all_studies()) == 1


def refused(path: Path | str, *words: str) -> str:
    with pytest.raises(StorageError) as caught:
        open_storage(path)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    return message


def test_what_cannot_become_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "missing" / "s.db", "missing", "does not exist", "create it")
    refused(tmp_path / "folder", "is a folder")
    refused(tmp_path / "pipe", "is a pipe")
    refused(tmp_path / "link", "is a link to", "nowhere")
    refused(tmp_path / "loop", "loop")
    refused(tmp_path / "folder" / "s.db" / "x", "does not exist")
    refused("/dev/null", "not a regular file")
    assert {file.name for file in tmp_path.iterdir()} == {"folder", "pipe", "link", "loop"}


def sqlite_file(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path


def test_what_is_not_ours_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    csv = tmp_path / "table.csv"
    csv.write_text("x,y\n1,2\n")
    tiny = tmp_path / "tiny.db"
    tiny.write_bytes(b"SQLite format 3\0")
    foreign = sqlite_file(tmp_path / "photos.db", "create table photos (name text)", "insert into photos values ('a')")
    shared = sqlite_file(tmp_path / "mlflow.db", "create table runs (x)", "create table alembic_version (version_num)")
    before = {path: sha(path) for path in tmp_path.iterdir()}
    refused(csv, "table.csv is not an SQLite file", "b'x,y")
    refused(tiny, "damaged")
    refused(foreign, "not an Optuna storage", "'photos'")
    refused(shared, "not an Optuna storage", "'runs'")
    assert {path: sha(path) for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("v2.6.0.a", ("older Optuna", "optuna storage upgrade --storage sqlite:///")),
        ("v9.9.9", ("newer Optuna", "pip install")),
    ],
)
def test_another_schema_version_is_refused_with_the_command(stored: Path, version: str, words: tuple[str, ...]) -> None:
    sqlite_file(stored, f"update alembic_version set version_num = '{version}'")  # noqa: S608 -- ours
    before = sha(stored)
    refused(stored, version, *words)
    assert sha(stored) == before


def test_a_schema_from_before_alembic_is_refused(stored: Path) -> None:
    sqlite_file(stored, "drop table alembic_version", "update version_info set schema_version = 1")
    before = sha(stored)
    refused(stored, "older Optuna")
    assert sha(stored) == before
    assert "alembic_version" not in tables(stored)


def test_damage_is_found_and_left_as_it_was(stored: Path) -> None:
    whole = stored.read_bytes()
    page = int.from_bytes(whole[16:18], "big")
    noise = random.Random(0).randbytes(page)
    for number, data in enumerate(
        [
            whole[:20_000],
            whole[: 3 * page] + noise + whole[4 * page :],
            b"\0" * 100 + whole[100:],
        ]
    ):
        path = stored.with_name(f"damaged{number}.db")
        path.write_bytes(data)
        refused(path, f"damaged{number}.db")
        assert path.read_bytes() == data
    assert {file.suffix for file in stored.parent.iterdir()} == {".db", ".lock"}


def test_a_creation_that_was_cut_off_is_finished(tmp_path: Path, stored: Path) -> None:
    whole = tmp_path / "half.db"
    for statements in (
        ["drop table alembic_version"],
        ["delete from alembic_version"],
        ["drop table alembic_version", "delete from version_info"],
        ["delete from studies", "drop table alembic_version", "drop table version_info", "drop table trial_params"],
    ):
        whole.write_bytes(stored.read_bytes())
        sqlite_file(whole, *statements)
        storage = open_storage(whole)
        assert len(storage.get_all_studies()) == (0 if "delete from studies" in statements else 1)
        storage.close()
        plain = optuna.storages.RDBStorage(f"sqlite:///{whole}")
        assert len(plain.get_all_studies()) == (0 if "delete from studies" in statements else 1)
        plain.engine.dispose()
        whole.unlink()


def test_a_journal_left_by_a_crash_is_played_back(tmp_path: Path) -> None:
    program = (
        "import os, sys, optuna\nfrom lrtune.storage import open_storage\n"
        "study = optuna.create_study(storage=open_storage(sys.argv[1]), study_name='n')\n"
        "trial = study.ask(); study.tell(trial, 1.0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "s.db"
    done = subprocess.run([sys.executable, "-c", program, path], check=False, capture_output=True)
    assert done.returncode == -9
    assert (tmp_path / "s.db-wal").stat().st_size > 0
    assert optuna.load_study(study_name="n", storage=open_storage(path)).best_value == 1.0


def test_a_hot_rollback_journal_is_rolled_back(tmp_path: Path, stored: Path) -> None:
    sqlite_file(stored, "pragma journal_mode = delete")
    program = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('pragma cache_size = 1')\n"
        "c.execute('begin'); c.execute(\"update studies set study_name = 'torn'\")\n"
        "c.executemany('insert into studies (study_name) values (?)', [(str(i) * 200,) for i in range(500)])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, stored], check=False)
    assert (tmp_path / "stored.db-journal").exists()
    storage = open_storage(stored)
    assert [study.study_name for study in storage.get_all_studies()] == ["kept"]


def test_a_file_that_is_locked_is_not_called_damaged(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite_file(stored, "pragma journal_mode = delete")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **(k | {"timeout": 0.1})))
    with closing(connect(stored, isolation_level=None)) as connection:
        connection.execute("begin exclusive")
        connection.execute("delete from trials")
        refused(stored, "is locked by another process")
        connection.execute("rollback")
    open_storage(stored)


def test_a_file_that_cannot_be_read_is_a_sentence(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opening(self: Path, *_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(self))

    monkeypatch.setattr(Path, "open", opening)
    with pytest.raises(StorageError, match=r"cannot be read \(Too many open files\); raise the limit"):
        open_storage(stored)


def test_the_lock_belongs_to_all_who_may_use_the_file(stored: Path) -> None:
    stored.with_name("stored.db.lock").unlink()
    stored.chmod(0o660)
    with study_lock(open_storage(stored), "n"):
        assert stored.with_name("stored.db.lock").stat().st_mode & 0o777 == 0o660


@as_root
def test_what_may_not_be_written_is_refused_before_the_first_trial(stored: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    stored.chmod(0o444)
    for path in (stored, tmp_path / "new.db"):
        program = (
            "import os, sys\nfrom lrtune.storage import open_storage\nfrom lrtune.errors import StorageError\n"
            f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
            "try:\n    open_storage(sys.argv[1])\nexcept StorageError as error:\n    print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, text=True)
        assert done.stdout.startswith("not writable: ")
        assert path.name in done.stdout
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:secret77@h/d", ("mysql is not supported", "u:***@h")),
        ("redis://h", ("redis is not supported",)),
        ("journal:///x.log", ("journal is not supported",)),
        ("oracle+cx://u:secret77@h/d", ("oracle+cx is not supported",)),
        ("http://h/x", ("http is not supported",)),
        ("sqlite://relative.db", ("three slashes",)),
        ("sqlite:///x.db?mode=ro", ("not taken",)),
        ("sqlite:///file:x.db", ("three slashes",)),
        ("postgresql://u:secret77@h:port/d", ("not a URL", "u:***@h")),
        ("", ("neither a path nor a URL",)),
        ("a\0b", ("neither a path nor a URL",)),
    ],
)
def test_what_is_not_offered_is_refused(url: str, words: tuple[str, ...]) -> None:
    assert "secret77" not in refused(url, *words)


def test_the_place_comes_from_the_argument_the_environment_or_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("\ufeffpostgresql://u:p@h/d  \nsecond line\n", encoding="utf-8")
    assert resolve_storage(None, environ={}) is None
    assert resolve_storage("x.db", environ={"LRTUNE_STORAGE": "y.db"}) == "x.db"
    assert resolve_storage(Path("x.db"), environ={}) == "x.db"
    assert resolve_storage(None, environ={"LRTUNE_STORAGE": "y.db", "LRTUNE_STORAGE_FILE": "z"}) == "y.db"
    assert resolve_storage(f"@{secret}", environ={}) == "postgresql://u:p@h/d"
    assert resolve_storage(None, environ={"LRTUNE_STORAGE": f"@{secret}"}) == "postgresql://u:p@h/d"
    assert resolve_storage(None, environ={"LRTUNE_STORAGE_FILE": str(secret)}) == "postgresql://u:p@h/d"


def test_a_file_without_a_url_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    latin = tmp_path / "latin"
    latin.write_bytes(b"\xff\xfe\xfd")
    for path, word in ((empty, "first line is empty"), (latin, "cannot be read"), (tmp_path, "no such file")):
        with pytest.raises(StorageError, match=word):
            resolve_storage(f"@{path}", environ={})
