"""Many processes on one storage: fresh files, decisions, kills; real processes and kernel locks."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.storages import GrpcStorageProxy, InMemoryStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from ports import free_port

import lrtune
from lrtune.errors import StorageError
from lrtune.storage import open_storage, study_lock
from lrtune.study.trials.active_searches import SEARCHES
from lrtune.workers.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from optuna.storages import BaseStorage

OPEN = """
import os, sys, optuna
from lrtune.storage import open_storage
import lrtune.storage.schema
lrtune.storage.schema.known_schema()
print("ready", flush=True)
sys.stdin.readline()
storage = open_storage(sys.argv[1])
optuna.create_study(storage=storage, study_name="n", load_if_exists=True)
trial = optuna.load_study(storage=storage, study_name="n").ask()
"""
HOLD = """
import sys, time
from lrtune.storage import study_lock, open_storage
storage = open_storage(sys.argv[1])
with study_lock(storage, "n"):
    print("held", flush=True)
    time.sleep(600)
"""
COUNT = """
import sys, optuna
from lrtune.storage import study_lock, open_storage
storage = open_storage(sys.argv[1])
study = optuna.load_study(storage=storage, study_name="n")
for _ in range(int(sys.argv[2])):
    with study_lock(storage, "n"):
        seen = study.user_attrs["count"]
        study.set_user_attr("count", seen + 1)
"""


class Processes:
    def __init__(self) -> None:
        self.all: list[subprocess.Popen[str]] = []

    def start(self, program: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.all.append(process)
        return process

    def together(self, program: str, where: object, number: int) -> Sequence[str]:
        """Start so many at once; what those that failed said."""
        batch = [self.start(program, where) for _ in range(number)]
        for process in batch:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in batch:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        ended = [(process.communicate(timeout=280)[1], process.returncode) for process in batch]
        return [text for text, code in ended if code]


@pytest.fixture
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    for process in started.all:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("repetition", range(2))
def test_starts_on_a_fresh_file(tmp_path: Path, processes: Processes, repetition: int) -> None:
    del repetition
    assert processes.together(OPEN, tmp_path / "s.db", 2) == []
    study = optuna.load_study(storage=open_storage(tmp_path / "s.db"), study_name="n")
    assert [trial.number for trial in study.trials] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("repetition", range(10))
def test_ten_times_four_starts_on_a_fresh_file(tmp_path: Path, processes: Processes, repetition: int) -> None:
    del repetition
    assert processes.together(OPEN, tmp_path / "s.db", 4) == []


@pytest.mark.postgres
def test_starts_on_a_fresh_server(postgres_url: str, processes: Processes) -> None:
    assert processes.together(OPEN, postgres_url, 8) == []
    study = optuna.load_study(storage=open_storage(postgres_url), study_name="n")
    assert [trial.number for trial in study.trials] == list(range(8))


def test_a_kill_during_the_creation_leaves_nothing_half_done(tmp_path: Path, processes: Processes) -> None:
    for number in range(4):
        path = tmp_path / f"{number}.db"
        process = processes.start(OPEN, path)
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(number * 0.05)
        process.kill()
        process.wait()
        storage = open_storage(path)
        study = optuna.create_study(storage=storage, study_name="n", load_if_exists=True)
        study.ask()
        storage.close()  # type: ignore[attr-defined]  # it has it, untyped
        plain = optuna.storages.RDBStorage(f"sqlite:///{path}")
        assert len(plain.get_all_studies()) == 1
        plain.engine.dispose()


def place(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return tmp_path / "s.db"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    return place(request, tmp_path)


def test_no_decision_is_lost_among_processes(where: Path | str, processes: Processes) -> None:
    study = optuna.create_study(storage=open_storage(where), study_name="n")
    study.set_user_attr("count", 0)
    for process in [processes.start(COUNT, where, 25) for _ in range(3)]:
        _, text = process.communicate(timeout=280)
        assert process.returncode == 0, text
    assert study.user_attrs["count"] == 75


def test_a_killed_holder_frees_the_lock(where: Path | str, processes: Processes) -> None:
    holder = processes.start(HOLD, where)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    storage = open_storage(where)
    with pytest.raises(StorageError, match=r"held by .* for \d+ s"), study_lock(storage, "n", timeout=0.3):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    with study_lock(storage, "n", timeout=280) as held:
        assert not held.lost()


def test_the_refusal_names_the_holder(tmp_path: Path, processes: Processes) -> None:
    holder = processes.start(HOLD, tmp_path / "s.db")
    assert holder.stdout is not None
    holder.stdout.readline()
    with (
        pytest.raises(StorageError, match=f"process {holder.pid} on "),
        study_lock(open_storage(tmp_path / "s.db"), "n", timeout=0),
    ):
        pass


def test_the_same_thread_may_take_it_again_and_another_waits(where: Path | str) -> None:
    storage = open_storage(where)
    order: list[str] = []
    inside = threading.Event()

    def other() -> None:
        inside.wait(250)
        with study_lock(storage, "n"):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with study_lock(storage, "n"), study_lock(storage, "n"):
        inside.set()
        time.sleep(0.2)
        order.append("first")
    thread.join(250)
    assert order == ["first", "other"]


def test_memory_has_a_lock_for_each_study() -> None:
    storage = InMemoryStorage()
    order: list[str] = []
    with study_lock(storage, "a"):
        thread = threading.Thread(target=lambda: [order.append(n) for n in ["b"] if study_lock(storage, n).__enter__()])
        thread.start()
        thread.join(250)
    assert order == ["b"]
    with study_lock(storage, "a"):
        (refusal,) = refusals(storage, "a")
    assert "another thread of this process" in str(refusal)


def test_an_error_in_the_block_frees_the_lock(where: Path | str) -> None:
    storage = open_storage(where)
    with pytest.raises(KeyError), study_lock(storage, "n"):
        raise KeyError
    done: list[bool] = []

    def other() -> None:
        with study_lock(storage, "n", timeout=280):
            done.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(250)
    assert done == [True]


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path, processes: Processes) -> None:
    program = (
        "import os, sys, time\nfrom lrtune.storage import study_lock, open_storage\n"
        "storage = open_storage(sys.argv[1])\n"
        "with study_lock(storage, 'n'):\n"
        "    if os.fork() == 0:\n"
        "        print('forked', flush=True)\n"
        "        time.sleep(600)\n"
        "        os._exit(0)\n"
        "    time.sleep(600)\n"
    )
    parent = processes.start(program, tmp_path / "s.db")
    assert parent.stdout is not None
    assert parent.stdout.readline() == "forked\n"
    os.kill(parent.pid, signal.SIGKILL)
    try:
        with study_lock(open_storage(tmp_path / "s.db"), "n", timeout=280):
            pass
    finally:
        os.killpg(parent.pid, signal.SIGKILL)


# -- storages that the caller made with Optuna -----------------------------------------------------------------------

SEARCH = """
import sys, optuna, lrtune
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

def train(recipe):
    for epoch in range(recipe.epochs):
        yield {"valid_loss": recipe.lr + epoch}

storage = JournalStorage(JournalFileBackend(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
lrtune.tune(train, lrtune.Space(lr=(1e-3, 1.0)), epochs=2, trials=6, strategy="random", storage=storage, name="n")
"""


class InAList(BaseJournalBackend):
    """A journal that lies nowhere: lrtune knows no lock of it."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def test_searches_that_start_together_on_a_journal_of_optunas_share_one_study(
    tmp_path: Path, processes: Processes
) -> None:
    journal = tmp_path / "journal.log"
    assert processes.together(SEARCH, journal, 3) == []
    study = optuna.load_study(study_name="n", storage=JournalStorage(JournalFileBackend(str(journal))))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 6, "within the limits of each, and of all"
    assert len({trial.params["lr"] for trial in study.trials}) == 6


def refusals(storage: BaseStorage, name: str = "n") -> list[StorageError]:
    """What another thread that wants the lock is told; empty where it gets it."""
    found: list[StorageError] = []

    def try_it() -> None:
        try:
            with study_lock(storage, name, timeout=0):
                pass
        except StorageError as error:
            found.append(error)

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join(250)
    return found


@pytest.mark.filterwarnings("ignore:GrpcStorageProxy:optuna.exceptions.ExperimentalWarning")
def test_storages_of_optunas_share_the_lock_of_what_they_store_in(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    file, journal = tmp_path / "s.db", str(tmp_path / "journal.log")
    ours = open_storage(file)
    pairs: list[tuple[BaseStorage, BaseStorage]] = [
        (ours, RDBStorage(f"sqlite:///{file}")),
        (RDBStorage(f"sqlite:///{file}"), get_storage(f"sqlite:///{file}")),
        (JournalStorage(JournalFileBackend(journal)), JournalStorage(JournalFileBackend(journal))),
        (GrpcStorageProxy(port=free_port()), GrpcStorageProxy(port=free_port())),
    ]
    for one, other in pairs:
        with study_lock(one, "n"):
            assert refusals(other)
        assert not refusals(other)
    assert (tmp_path / "journal.log.lrtune.lock").exists()


@pytest.mark.postgres
def test_optunas_own_storage_on_a_server_shares_the_lock(postgres_url: str) -> None:
    ours = open_storage(postgres_url)
    theirs = RDBStorage(postgres_url.replace("postgresql:", "postgresql+psycopg:", 1))
    with study_lock(theirs, "n"):
        assert refusals(ours)
    theirs.engine.dispose()


def test_a_search_of_another_machine_is_refused_where_no_lock_reaches_it() -> None:
    storage = JournalStorage(InAList())

    def train(recipe: lrtune.Recipe) -> Iterator[dict[str, float]]:
        yield {"valid_loss": recipe.lr}

    search: dict[str, Any] = {"epochs": 1, "strategy": "random", "storage": storage, "name": "n"}
    study = lrtune.tune(train, lrtune.Space(lr=(1e-3, 1.0)), trials=2, **search).study
    there = dataclasses.replace(Lease.mine("w"), host="elsewhere", boot_id="other")
    study.set_user_attr(SEARCHES, [{"lease": there.to_json(), "crew": ""}])
    with pytest.raises(lrtune.LockedError, match=r"another machine or container, elsewhere, .* PostgreSQL"):
        lrtune.tune(train, lrtune.Space(lr=(1e-3, 1.0)), trials=3, **search)
    gone = dataclasses.replace(there, until_time=0.0)
    study.set_user_attr(SEARCHES, [{"lease": gone.to_json(), "crew": ""}])
    assert len(lrtune.tune(train, lrtune.Space(lr=(1e-3, 1.0)), trials=3, **search).study.trials) == 3
