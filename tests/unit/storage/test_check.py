"""``lrtune storage check``: what it says of a storage, and that it changes nothing."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import optuna
import pytest

from lrtune import cli
from lrtune.errors import StorageError
from lrtune.storage import open_storage
from lrtune.storage.check import check_storage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Two studies, one of them with trials, at rest."""
    path = tmp_path / "s.db"
    storage = open_storage(path)
    optuna.create_study(study_name="empty", storage=storage)
    study = optuna.create_study(study_name="bowl", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("lr", 0.1, 1), n_trials=2)
    study.ask()
    storage.close()  # type: ignore[attr-defined]  # it has it, untyped
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = delete")
    return path


def fingerprint(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_sound_file(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = fingerprint(stored.parent)
    assert check_storage(str(stored)).studies == {"bowl": {"COMPLETE": 2, "RUNNING": 1}, "empty": {}}
    assert cli.run(["storage", "check", "--storage", str(stored)]) == 0
    assert fingerprint(stored.parent) == before
    said = capsys.readouterr().out
    assert "sound" in said
    assert "study 'bowl': 3 trials (2 complete, 1 running)" in said
    assert "study 'empty': 0 trials" in said


@pytest.mark.parametrize("what", ["page", "header", "cut", "foreign", "missing", "memory"])
def test_what_cannot_be_used_ends_with_4(stored: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    whole = stored.read_bytes()
    page = len(whole) // 4096 // 2 * 4096
    other = stored.with_name("other.db")
    if what == "foreign":
        with closing(sqlite3.connect(other)) as connection:
            connection.executescript("create table songs (id integer); insert into songs values (1)")
    elif what not in ("missing", "memory"):
        broken = {"page": whole[:page] + b"\xa5" * 4096 + whole[page + 4096 :], "header": b"x" * 100 + whole[100:]}
        other.write_bytes({**broken, "cut": whole[:50_000]}[what])
    before = fingerprint(stored.parent)
    where = ":memory:" if what == "memory" else str(other)
    assert cli.run(["storage", "check", "--storage", where]) == StorageError.exit_code
    assert capsys.readouterr().err.startswith("lrtune: error: ")
    assert fingerprint(stored.parent) == before


@pytest.mark.postgres
def test_a_server(postgres_url: str) -> None:
    fresh = check_storage(postgres_url)
    assert fresh.studies == {}
    with pytest.raises(StorageError, match="does not exist"):
        check_storage(f"{postgres_url}-elsewhere")
    optuna.create_study(study_name="bowl", storage=open_storage(postgres_url)).ask()
    known = check_storage(postgres_url)
    assert known.studies == {"bowl": {"RUNNING": 1}}
    assert "***" in known.shown
