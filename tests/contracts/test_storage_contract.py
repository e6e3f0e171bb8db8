"""Optuna's own public suite for storages, on what wraps them; and a search that writes with Optuna's calls alone."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.testing.pytest_storages import StorageTestCase
from postgres_server import PASSWORD, PostgresServer

import lrtune
from lrtune.storage import RetryingStorage, open_storage, rows_of, sqlite_rows
from lrtune.storage.sqlite_rows import FileRows
from lrtune.storage.trial_rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from optuna.storages import BaseStorage


class TestSqlite(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[BaseStorage]:
        storage = open_storage(tmp_path / "s.db")
        assert isinstance(storage, RetryingStorage)
        yield storage
        storage.close()


@pytest.fixture
def without_own_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an Optuna whose tables lrtune does not know: nothing writes into them but Optuna."""
    monkeypatch.setattr(sqlite_rows, "OPTUNA", "none")


@pytest.mark.usefixtures("without_own_sql")
class TestSqliteWithoutOwnSql(TestSqlite):
    """The same suite; no test of it may come to depend on the rows that lrtune writes itself."""


class TestMemory(StorageTestCase):
    @pytest.fixture
    def storage(self) -> BaseStorage:
        return open_storage(None)


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.mark.slow
@pytest.mark.postgres
class TestPostgres(StorageTestCase):
    @pytest.fixture
    def storage(self, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BaseStorage]:
        monkeypatch.setenv("PGPASSWORD", PASSWORD)  # a pickle holds none
        storage = open_storage(database)
        assert isinstance(storage, RetryingStorage)
        yield storage
        for study in storage.get_all_studies():
            storage.delete_study(study._study_id)
        storage.close()


# -- a search that writes with Optuna's calls alone ------------------------------------------------------------


def train(recipe: lrtune.Recipe) -> Iterator[dict[str, float]]:
    """The best learning rate is near 0.1; above 3 the loss explodes."""
    for epoch in range(1, recipe.epochs + 1):
        if recipe.lr > 3:
            yield {"valid_loss": 10.0 ** (3 * epoch)}
        else:
            far = abs(math.log10(recipe.lr) + 1)
            yield {"valid_loss": far + (2 + far) / epoch}


def search(path: Path, *, trainer: Callable[..., Any] = train, **options: Any) -> lrtune.Result:
    settings: dict[str, Any] = {"epochs": 9, "strategy": "freeze-thaw", "budget": 4.0, "seed": 3, **options}
    space = lrtune.Space(lr=(1e-5, 10.0), batch_size=[16, 64])
    return lrtune.tune(trainer, space, storage=str(path), name="n", **settings)


def answer(result: lrtune.Result) -> dict[str, Any]:
    """All that the result says, but not where and when the search ran."""
    return {
        "best": (result.best_recipe, result.best_value, result.band, result.edge),
        "cost": (result.cost, result.epochs_trained, result.trials_by_outcome),
        "ending": (result.ending, result.stopped_because, list(result.warnings)),
    }


TIMES = frozenset({"pieces", "started", "finished"})


def left_behind(path: Path) -> list[dict[str, Any]]:
    """What plain Optuna finds of the trials afterwards, but for times and processes."""
    plain = RDBStorage(f"sqlite:///{path}")
    trials = optuna.load_study(study_name="n", storage=plain).get_trials()
    plain.engine.dispose()
    return [
        {
            "state": trial.state,
            "values": trial.values,
            "params": trial.params,
            "reports": trial.intermediate_values,
            "system": trial.system_attrs,
            "user": {key: _timeless(value) for key, value in trial.user_attrs.items() if key not in TIMES},
        }
        for trial in trials
    ]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def kind_of_rows(path: Path) -> type:
    storage = open_storage(path)
    with contextlib.closing(rows_of(storage, storage.get_study_id_from_name("n"))) as rows:
        return type(rows)


@pytest.fixture(scope="module", params=["freeze-thaw", "tpe", "grid"])
def with_own_sql(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    path = tmp_path_factory.mktemp("with") / "s.db"
    result = search(path, strategy=request.param)
    assert kind_of_rows(path) is FileRows
    return request.param, path, answer(result)


@pytest.mark.usefixtures("without_own_sql")
def test_a_search_without_own_sql_has_the_same_answer(with_own_sql: tuple[str, Path, Any], tmp_path: Path) -> None:
    strategy, path, expected = with_own_sql
    assert answer(search(tmp_path / "s.db", strategy=strategy)) == expected
    assert kind_of_rows(tmp_path / "s.db") is Rows
    assert left_behind(tmp_path / "s.db") == left_behind(path)


def stopped_and_resumed(path: Path, ways: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The answer of a search that is stopped after 20 epochs and goes on in another call."""
    trained = 0

    def counted(recipe: lrtune.Recipe) -> Iterator[dict[str, float]]:
        nonlocal trained
        for report in train(recipe):
            trained += 1
            yield report

    for way, should_stop in zip(ways, [lambda: trained >= 20, None], strict=True):
        with monkeypatch.context() as patch:
            if way == "optuna":
                patch.setattr(sqlite_rows, "OPTUNA", "none")
            result = search(path, trainer=counted, should_stop=should_stop)
            assert kind_of_rows(path) is (Rows if way == "optuna" else FileRows)
    return answer(result)


def test_a_search_goes_on_with_the_other_way_of_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = stopped_and_resumed(tmp_path / "own.db", ("own", "own"), monkeypatch)
    for ways in (("own", "optuna"), ("optuna", "own")):
        assert stopped_and_resumed(tmp_path / f"{ways[0]}-{ways[1]}.db", ways, monkeypatch) == expected
