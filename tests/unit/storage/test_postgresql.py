"""PostgreSQL, real: restarts, cut connections, a server that is away or full, and passwords that stay hidden."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.trial import TrialState
from postgres_server import PASSWORD, PostgresServer, find_programs

from lrtune.errors import LockLostError, StorageError
from lrtune.storage import RetryingStorage, open_storage, study_lock
from lrtune.storage.factory import START_SECONDS
from lrtune.storage.postgresql import CONNECT_SECONDS
from lrtune.storage.url import ServerAddress, parse
from lrtune.study.engine.search_state import SearchState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.postgres

WORK = """
import os, sys, time, optuna
from lrtune.storage import study_lock, open_storage
optuna.logging.disable_default_handler()
told = []
storage = open_storage(sys.argv[1], warn=told.append)
study = optuna.load_study(storage=storage, study_name="n")
for number in range(int(sys.argv[2])):
    with study_lock(storage, "n"):
        trial = study.ask()
    value = trial.suggest_float("lr", 1e-5, 1.0, log=True)
    for step in range(5):
        trial.report(value, step)
        time.sleep(0.05)
        while number >= 6 and not os.path.exists(sys.argv[3]):
            time.sleep(0.01)
    study.tell(trial, value)
    print(trial.number, repr(value), flush=True)
print(len(told), "warnings", flush=True)
"""


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may stop without disturbing the others."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs (initdb, pg_ctl) are not installed")
    server = PostgresServer(programs)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("mode", ["fast", pytest.param("immediate", marks=pytest.mark.slow)])
def test_a_restart_in_the_middle_loses_nothing(own_server: PostgresServer, tmp_path: Path, mode: str) -> None:
    stopped = tmp_path / "stopped"  # none of them comes to its end before
    url = own_server.url()
    study = optuna.create_study(storage=open_storage(url), study_name="n")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, url, "12", stopped], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        while len(study.trials) < 6:
            time.sleep(0.1)
        own_server.stop(mode)
        stopped.touch()
        time.sleep(1.5)
        own_server.start()
        acknowledged: dict[int, float] = {}
        warnings = 0
        for worker in workers:
            out, err = worker.communicate(timeout=280)
            assert worker.returncode == 0, err
            *lines, last = out.splitlines()
            warnings += int(last.split()[0])
            for number, value in map(str.split, lines):
                assert int(number) not in acknowledged
                acknowledged[int(number)] = float(value)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    trials = study.trials
    assert [trial.number for trial in trials] == list(range(36))
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials)
    assert all(trials[number].value == value for number, value in acknowledged.items())
    assert len(acknowledged) == 36
    assert warnings >= 1


def test_a_server_that_stays_away_is_given_up(own_server: PostgresServer) -> None:
    told: list[str] = []
    storage = open_storage(own_server.url(), retry_seconds=1.5, warn=told.append)
    study = optuna.create_study(storage=storage, study_name="n")
    trial = study.ask()
    own_server.stop()
    away = rf"127\.0\.0\.1:{own_server.port} cannot be reached \(waited \d+ s\)"
    with pytest.raises(StorageError, match=away) as error:
        study.tell(trial, 1.0)
    assert PASSWORD not in str(error.value)
    own_server.start()
    study.tell(trial, 1.0)
    assert study.best_value == 1.0
    assert told == []


def test_a_lock_does_not_outlive_a_restart_unnoticed(own_server: PostgresServer) -> None:
    storage = open_storage(own_server.url())
    study = optuna.create_study(storage=storage, study_name="n")
    with study_lock(storage, "n") as held:
        assert not held.lost()
        own_server.restart()
        assert held.lost()
        study.ask()
    with study_lock(storage, "n") as held:
        assert not held.lost()


def test_nothing_is_written_behind_a_fence_once_the_lock_is_lost(own_server: PostgresServer) -> None:
    storage = open_storage(own_server.url())
    study = optuna.create_study(storage=storage, study_name="n")
    trial = study.ask()
    for write in (study.ask, lambda: study.tell(trial, 1.0), lambda: trial.set_user_attr("a", 1)):
        with study_lock(storage, "n", fenced=True):
            trial.set_user_attr("held", "yes")
            own_server.restart()
            assert study.trials, "reading is free"
            with pytest.raises(LockLostError, match="restarted"):
                write()
    (found,) = study.trials
    assert (found.state, found.user_attrs) == (TrialState.RUNNING, {"held": "yes"})
    study.tell(trial, 1.0)
    assert study.best_value == 1.0, "no fence is left behind"


def test_what_was_decided_under_a_lost_lock_is_decided_anew(own_server: PostgresServer) -> None:
    storage = open_storage(own_server.url())
    study = optuna.create_study(storage=storage, study_name="n")
    other = optuna.load_study(storage=open_storage(own_server.url()), study_name="n")
    read: list[int] = []

    def decide() -> int:
        read.append(len(study.trials))
        if len(read) == 1:
            own_server.restart()
            other.ask()  # what another process decides meanwhile
        return study.ask().number

    trial_store = SimpleNamespace(storage=storage, study=study)
    assert SearchState.with_study_lock(SimpleNamespace(trial_store=trial_store), decide) == 1  # type: ignore[arg-type]
    assert read == [0, 1]


def test_an_idle_connection_that_is_cut_is_replaced(postgres: PostgresServer, postgres_url: str) -> None:
    told: list[str] = []
    study = optuna.create_study(storage=open_storage(postgres_url, warn=told.append), study_name="n")
    trial = study.ask()
    database = postgres_url.rpartition("/")[2]
    postgres.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'")  # noqa: S608 -- ours
    study.tell(trial, 1.0)
    assert study.best_value == 1.0


def refused(url: str) -> str:
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    message = str(caught.value)
    assert PASSWORD not in message
    assert "wrong-password" not in message
    assert "\n" not in message
    return message


def test_a_server_that_cannot_be_used_is_named_within_ten_seconds(postgres: PostgresServer) -> None:
    assert START_SECONDS + CONNECT_SECONDS < 10, "the patience, and a last try that begins at its end"
    place = f"127.0.0.1:{postgres.port}"
    assert "refused the user or the password" in refused(postgres.url(password="wrong-password"))  # noqa: S106
    assert place in refused(postgres.url(password="wrong-password"))  # noqa: S106 -- meant to be wrong
    assert "does not exist" in refused(postgres.url("nowhere"))
    down = refused(postgres.url(port=1))
    assert "127.0.0.1:1 cannot be reached" in down
    assert "start it" in down
    query = f"postgresql://127.0.0.1:1/studies?user=tuner&password={PASSWORD}"
    assert "cannot be reached" in refused(query)


def test_no_password_is_kept_where_it_could_be_seen(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(postgres_url)
    study = optuna.create_study(storage=storage, study_name="n")
    assert isinstance(storage, RetryingStorage)
    rdb = storage.backend._backend  # type: ignore[attr-defined]  # it has it, untyped
    for text in (repr(storage), storage.database.shown, rdb.url, repr(rdb.engine), repr(parse(postgres_url))):
        assert PASSWORD not in text
    assert PASSWORD.encode() not in pickle.dumps(study)
    monkeypatch.setenv("LRTUNE_STORAGE", postgres_url)
    again = pickle.loads(pickle.dumps(study))  # noqa: S301 -- our own
    again.tell(again.ask(), 1.0)
    assert study.best_value == 1.0


def test_a_password_in_the_query_works(postgres: PostgresServer, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2]
    url = f"postgres://127.0.0.1:{postgres.port}/{database}?user=tuner&password={PASSWORD}"
    storage = open_storage(url)
    assert storage.get_all_studies() == []
    address = parse(url)
    assert isinstance(address, ServerAddress)
    assert address.place == f"127.0.0.1:{postgres.port}"
    assert "swordfish" not in str(address)


def test_another_applications_database_is_left_alone(postgres: PostgresServer, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2]
    postgres.sql("create table alembic_version (version_num varchar(32))", database)
    postgres.sql("insert into alembic_version values ('e5d9acd')", database)
    assert "another application's tables" in refused(postgres_url)
    assert postgres.sql("select count(*) from information_schema.tables where table_schema = 'public'", database) == [
        (1,)
    ]


def test_another_schema_version_is_refused(postgres: PostgresServer, postgres_url: str) -> None:
    open_storage(postgres_url)
    database = postgres_url.rpartition("/")[2]
    for version, word in (("v2.6.0.a", "optuna storage upgrade"), ("v9.0.0.a", "newer Optuna")):
        postgres.sql(f"update alembic_version set version_num = '{version}'", database)  # noqa: S608 -- ours
        assert word in refused(postgres_url)


@pytest.mark.slow
def test_few_connections_are_waited_for() -> None:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs (initdb, pg_ctl) are not installed")
    server = PostgresServer(programs, options="-c max_connections=8 -c superuser_reserved_connections=0")
    try:
        url = server.url()
        study = optuna.create_study(storage=open_storage(url), study_name="n")
        failures: list[BaseException] = []

        def work() -> None:
            try:
                storage = open_storage(url)
                mine = optuna.load_study(storage=storage, study_name="n")
                mine.tell(mine.ask(), 1.0)
                assert isinstance(storage, RetryingStorage)
                storage.close()
            except BaseException as error:  # noqa: BLE001 -- shown by the assertion below
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert all(isinstance(failure, StorageError) for failure in failures)
        assert len(study.trials) == 12 - len(failures)
    finally:
        server.close()
