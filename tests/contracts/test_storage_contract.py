"""Optuna's own public suite for storages, on what wraps them; and plain Optuna on the same file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from optuna.testing.pytest_storages import StorageTestCase
from postgres_server import PASSWORD, PostgresServer

from lrtune.storage import RetryingStorage, open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optuna.storages import BaseStorage


class TestSqlite(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[BaseStorage]:
        storage = open_storage(tmp_path / "s.db")
        assert isinstance(storage, RetryingStorage)
        yield storage
        storage.close()


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
