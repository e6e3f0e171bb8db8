"""Storages that fail in the middle: what passes is waited for, what does not ends with one sentence."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import sqlalchemy.exc
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from lrtune.errors import StorageError
from lrtune.storage import RetryingStorage, open_storage
from lrtune.storage.database import Database
from lrtune.storage.error_mapping import TransientError, is_fatal, is_transient
from lrtune.storage.sqlite import SqliteDatabase, file_system

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MINIMIZE = [StudyDirection.MINIMIZE]
FILL = """
import sys, optuna
from lrtune.storage import open_storage
from lrtune.errors import StorageError
optuna.logging.disable_default_handler()
try:
    storage = open_storage(sys.argv[1], retry_seconds=5)
    study = optuna.create_study(storage=storage, study_name="n", load_if_exists=True)
    for number in range(int(sys.argv[2])):
        trial = study.ask()
        trial.set_user_attr("ballast", "x" * 100_000)
        study.tell(trial, float(number))
except StorageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


class NoDatabase(Database):
    shown = "a storage in a test"

    def sentence(self, error: BaseException, waited: float) -> str:
        return f"given up: {error} after {waited:.0f} s"


def never(where: str, seconds: float) -> RetryingStorage:
    raise LookupError((where, seconds))


class Unreliable(InMemoryStorage):
    """Carries out a call, and loses the answer to the next one of those that are named."""

    def __init__(self) -> None:
        super().__init__()
        self.losing: set[str] = set()
        self.error: Exception = TransientError("the connection was lost")

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name not in super().__getattribute__("losing"):
            return found

        def lossy(*arguments: object, **options: object) -> object:
            found(*arguments, **options)
            self.losing.discard(name)
            raise self.error

        return lossy


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def unreliable(told: list[str]) -> tuple[Unreliable, RetryingStorage]:
    backend = Unreliable()
    return backend, RetryingStorage(backend, NoDatabase(), retry_seconds=5.0, warn=told.append, reopen=never)


def test_a_trial_whose_creation_was_not_answered_is_not_created_twice(
    unreliable: tuple[Unreliable, RetryingStorage], told: list[str]
) -> None:
    backend, storage = unreliable
    study = storage.create_new_study(MINIMIZE, "n")
    waiting = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"lr": 1.0}})
    for template in (None, waiting, waiting, create_trial(value=1.0), None):
        known = {trial._trial_id for trial in storage.get_all_trials(study)}
        backend.losing = {"create_new_trial"}
        number = storage.create_new_trial(study, template)
        assert {trial._trial_id for trial in storage.get_all_trials(study)} == known | {number}
        assert number not in known
    assert len(told) == 5
    assert told[0].startswith("storage back after ")


def test_a_study_whose_creation_was_not_answered_is_found_again(
    unreliable: tuple[Unreliable, RetryingStorage],
) -> None:
    backend, storage = unreliable
    backend.losing = {"create_new_study"}
    study = storage.create_new_study(MINIMIZE, "n")
    assert [found._study_id for found in storage.get_all_studies()] == [study]
    storage.create_new_trial(study)
    backend.losing = {"get_study_id_from_name"}
    with pytest.raises(DuplicatedStudyError):
        storage.create_new_study(MINIMIZE, "n")


def test_an_end_that_was_not_answered_counts_once(unreliable: tuple[Unreliable, RetryingStorage]) -> None:
    backend, storage = unreliable
    trial = storage.create_new_trial(storage.create_new_study(MINIMIZE))
    backend.losing = {"set_trial_state_values"}
    assert storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
    assert storage.get_trial(trial).value == 1.0
    backend.losing = {"get_trial"}
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial, TrialState.COMPLETE, [2.0])


def test_a_claim_that_was_not_answered_is_nobodys(unreliable: tuple[Unreliable, RetryingStorage]) -> None:
    backend, storage = unreliable
    trial = storage.create_new_trial(storage.create_new_study(MINIMIZE), create_trial(state=TrialState.WAITING))
    backend.losing = {"set_trial_state_values"}
    assert not storage.set_trial_state_values(trial, TrialState.RUNNING)


def test_a_deletion_that_was_not_answered_is_done(unreliable: tuple[Unreliable, RetryingStorage]) -> None:
    backend, storage = unreliable
    study = storage.create_new_study(MINIMIZE)
    backend.losing = {"delete_study"}
    storage.delete_study(study)
    assert storage.get_all_studies() == []
    with pytest.raises(KeyError):
        storage.delete_study(study)


def test_an_outage_that_lasts_is_given_up(unreliable: tuple[Unreliable, RetryingStorage], told: list[str]) -> None:
    _, storage = unreliable
    storage.retry_seconds = 0.3

    with pytest.raises(StorageError, match=r"given up: still away after \d+ s"):
        storage.retry(lambda: _raise(TransientError("still away")))
    assert told == []


def test_what_optuna_trips_over_in_an_outage_is_waited_for(told: list[str]) -> None:
    storage = RetryingStorage(InMemoryStorage(), NoDatabase(), retry_seconds=5.0, warn=told.append, reopen=never)
    optunas = optuna.storages.RDBStorage("sqlite://")
    study = optunas.create_new_study(MINIMIZE)

    def stumble() -> object:  # an assertion in Optuna's own code, as an outage makes it fail
        return optunas._get_trials(study, 5, set(), -1)  # type: ignore[arg-type]

    answers = iter([lambda: _raise(TransientError("gone")), stumble, lambda: "back"])
    assert storage.retry(lambda: next(answers)()) == "back"  # noqa: PLW0108 -- another one each time
    with pytest.raises(AssertionError):
        storage.retry(stumble)
    optunas.engine.dispose()
    assert len(told) == 1


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [AssertionError("mine"), UnboundLocalError("mine"), KeyError("x"), ValueError("x")])
def test_other_errors_pass_through_at_once(unreliable: tuple[Unreliable, RetryingStorage], error: Exception) -> None:
    _, storage = unreliable
    with pytest.raises(type(error)) as caught:
        storage.retry(lambda: _raise(error))
    assert caught.value is error


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("in a test")
    error.sqlite_errorcode = code
    return error


def test_what_may_pass_and_what_will_not() -> None:
    for code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_BUSY | 2 << 8):
        assert is_transient(sqlite_error(code))
    for code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT):
        assert not is_transient(sqlite_error(code))
        assert is_fatal(sqlite_error(code))
    wrapped = StorageInternalError("during the commit")
    wrapped.__cause__ = sqlalchemy.exc.OperationalError("insert", {}, sqlite_error(sqlite3.SQLITE_BUSY))
    assert is_transient(wrapped)
    assert is_transient(sqlalchemy.exc.TimeoutError("the pool is empty"))
    assert not is_fatal(sqlite3.IntegrityError("unique"))
    assert not is_fatal(KeyError("x"))
    assert not is_transient(StorageError("said already"))


@pytest.fixture
def study(tmp_path: Path, told: list[str]) -> optuna.Study:
    storage = open_storage(tmp_path / "s.db", retry_seconds=10.0, warn=told.append)
    study = optuna.create_study(storage=storage, study_name="n")
    study.tell(study.ask(), 1.0)
    return study


@contextlib.contextmanager
def locked(path: Path) -> Iterator[threading.Event]:
    """The file is locked until the event is set, at the latest when the block ends."""
    held, free = threading.Event(), threading.Event()

    def work() -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("begin exclusive")
            held.set()
            free.wait(250)
            connection.execute("commit")

    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(250)
    try:
        yield free
    finally:
        free.set()
        thread.join()


def test_a_locked_file_is_waited_for_with_one_warning(
    study: optuna.Study, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteDatabase, "quiet_seconds", 1.5)
    study._storage.retry_seconds = 100.0  # type: ignore[attr-defined]  # it has it, untyped
    check = SqliteDatabase.check
    with locked(tmp_path / "s.db") as free:
        began: list[float] = []

        def looked(database: SqliteDatabase) -> None:  # before each try
            began.append(time.monotonic())
            if began[-1] - began[0] > 2.0:
                free.set()
            check(database)

        monkeypatch.setattr(SqliteDatabase, "check", looked)
        study.tell(study.ask(), 2.0)
    assert [trial.value for trial in study.trials] == [1.0, 2.0]
    assert len(told) == 1
    assert told[0].startswith("storage back after ")
    assert told[0].endswith("s.db")


def test_a_file_that_stays_locked_is_given_up(study: optuna.Study, tmp_path: Path) -> None:
    storage = study._storage
    assert isinstance(storage, RetryingStorage)
    storage.retry_seconds = 0.5
    said = r"s\.db stayed locked by another process for too long \(1 trial kept\)"
    with locked(tmp_path / "s.db"), pytest.raises(StorageError, match=said):
        study.ask()
    storage.retry_seconds = 10.0
    study.tell(study.ask(), 2.0)


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_file_that_disappears_is_noticed(study: optuna.Study, tmp_path: Path, what: str) -> None:
    (tmp_path / "s.db").rename(tmp_path / "elsewhere.db")
    if what == "replaced":
        open_storage(tmp_path / "s.db")
    with pytest.raises(StorageError, match=f"storage disappeared: .*s.db was {what}"):
        study.ask()
    with pytest.raises(StorageError, match="storage disappeared"):
        _ = study.trials
    assert (tmp_path / "s.db").exists() == (what == "replaced")


def fill(path: object, number: int, prefix: str) -> tuple[int, str]:
    line = f'{prefix} exec "$0" "$@"'
    done = subprocess.run(
        ["/bin/bash", "-c", line, sys.executable, "-c", FILL, str(path), str(number)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.strip()


def check_kept(path: Path, sentence: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        (kept,) = connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()
    assert kept > 0
    assert f"({kept} trials kept)" in sentence


def test_a_file_size_limit_keeps_what_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    code, sentence = fill(path, 40, "ulimit -f 900;")
    assert code == 4
    assert "has reached the file size limit" in sentence
    check_kept(path, sentence)
    assert fill(path, 2, "") == (0, "")


@pytest.mark.parametrize(("options", "ballast"), [("size=1500k", 40), ("nr_inodes=4", 1)])
def test_a_full_disk_keeps_what_was_stored(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, options: str, ballast: int
) -> None:
    mount = f"mount -t tmpfs -o {options} none {tmp_path}"
    probe = subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this machine lets nobody mount a file system of their own")
    copy = tmp_path_factory.mktemp("copy")
    inside = f"{mount} || exit 9; touch {tmp_path}/1 {tmp_path}/2;" if "inodes" in options else f"{mount} || exit 9;"
    program = f'{inside} "$0" "$@"; code=$?; cp {tmp_path}/* {copy} 2>/dev/null; exit $code'
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "/bin/bash",
            "-c",
            program,
            sys.executable,
            "-c",
            FILL,
            str(tmp_path / "s.db"),
            str(ballast),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("no space left on device: ")
    if "size" in options:
        check_kept(copy / "s.db", done.stdout)
        assert fill(copy / "s.db", 2, "") == (0, "")


def test_two_writers_in_threads_do_not_disturb_each_other(study: optuna.Study) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                trial = study.ask()
                trial.suggest_float("lr", 0.1, 1.0)
                trial.report(1.0, 1)
                study.tell(trial, 1.0)
        except BaseException as error:  # noqa: BLE001 -- shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(250)
    assert failures == []
    assert [trial.number for trial in study.trials] == list(range(41))


def test_only_one_claims_a_waiting_trial(tmp_path: Path) -> None:
    storages = [open_storage(tmp_path / "s.db") for _ in range(6)]
    study = storages[0].create_new_study(MINIMIZE, "n")
    template = create_trial(state=TrialState.WAITING)
    for trial in [storages[0].create_new_trial(study, template) for _ in range(10)]:
        claims: list[bool] = []
        barrier = threading.Barrier(len(storages))

        def claim(storage: optuna.storages.BaseStorage, trial: int = trial) -> None:
            barrier.wait(250)  # noqa: B023 -- joined below
            claims.append(storage.set_trial_state_values(trial, TrialState.RUNNING))  # noqa: B023 -- joined below

        threads = [threading.Thread(target=claim, args=(storage,)) for storage in storages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(250)
        assert sorted(claims) == [False] * 5 + [True]


def test_the_file_system_of_a_path_is_known(tmp_path: Path) -> None:
    assert file_system(tmp_path) not in ("", "nfs")


def test_a_network_file_system_gets_a_rollback_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrtune.storage.sqlite.file_system", lambda _: "nfs4")
    open_storage(tmp_path / "s.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("delete",)
