"""Many processes on one storage: fresh files, decisions, kills; real processes and kernel locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.storages import InMemoryStorage

from lrtune.errors import StorageError
from lrtune.storage import exclusive, open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

OPEN = """
import os, sys, optuna
from lrtune.storage import open_storage
import lrtune.storage.inspection
lrtune.storage.inspection.known_schema()
print("ready", flush=True)
sys.stdin.readline()
storage = open_storage(sys.argv[1])
optuna.create_study(storage=storage, study_name="n", load_if_exists=True)
trial = optuna.load_study(storage=storage, study_name="n").ask()
"""
HOLD = """
import sys, time
from lrtune.storage import exclusive, open_storage
storage = open_storage(sys.argv[1])
with exclusive(storage, "n"):
    print("held", flush=True)
    time.sleep(600)
"""
COUNT = """
import sys, optuna
from lrtune.storage import exclusive, open_storage
storage = open_storage(sys.argv[1])
study = optuna.load_study(storage=storage, study_name="n")
for _ in range(int(sys.argv[2])):
    with exclusive(storage, "n"):
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
    with pytest.raises(StorageError, match=r"held by .* for \d+ s"), exclusive(storage, "n", timeout=0.3):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    with exclusive(storage, "n", timeout=280) as held:
        assert not held.lost()


def test_the_refusal_names_the_holder(tmp_path: Path, processes: Processes) -> None:
    holder = processes.start(HOLD, tmp_path / "s.db")
    assert holder.stdout is not None
    holder.stdout.readline()
    with (
        pytest.raises(StorageError, match=f"process {holder.pid} on "),
        exclusive(open_storage(tmp_path / "s.db"), "n", timeout=0),
    ):
        pass


def test_the_same_thread_may_take_it_again_and_another_waits(where: Path | str) -> None:
    storage = open_storage(where)
    order: list[str] = []
    inside = threading.Event()

    def other() -> None:
        inside.wait(250)
        with exclusive(storage, "n"):
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with exclusive(storage, "n"), exclusive(storage, "n"):
        inside.set()
        time.sleep(0.2)
        order.append("first")
    thread.join(250)
    assert order == ["first", "other"]


def test_memory_has_a_lock_for_each_study() -> None:
    storage = InMemoryStorage()
    order: list[str] = []
    with exclusive(storage, "a"):
        thread = threading.Thread(target=lambda: [order.append(n) for n in ["b"] if exclusive(storage, n).__enter__()])
        thread.start()
        thread.join(250)
    assert order == ["b"]
    with exclusive(storage, "a"):
        failures: list[StorageError] = []

        def late() -> None:
            try:
                with exclusive(storage, "a", timeout=0.1):
                    pass
            except StorageError as error:
                failures.append(error)

        thread = threading.Thread(target=late)
        thread.start()
        thread.join(250)
    assert "another thread of this process" in str(failures[0])


def test_an_error_in_the_block_frees_the_lock(where: Path | str) -> None:
    storage = open_storage(where)
    with pytest.raises(KeyError), exclusive(storage, "n"):
        raise KeyError
    done: list[bool] = []

    def other() -> None:
        with exclusive(storage, "n", timeout=280):
            done.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(250)
    assert done == [True]


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path, processes: Processes) -> None:
    program = (
        "import os, sys, time\nfrom lrtune.storage import exclusive, open_storage\n"
        "storage = open_storage(sys.argv[1])\n"
        "with exclusive(storage, 'n'):\n"
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
        with exclusive(open_storage(tmp_path / "s.db"), "n", timeout=280):
            pass
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
