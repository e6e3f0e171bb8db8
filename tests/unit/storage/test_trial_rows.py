"""The rows of a study: one contract over every member, and what others write beside us is seen."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from lrtune.core.optuna_logging import quiet
from lrtune.errors import StorageError
from lrtune.storage import RetryingStorage, TrialChange, open_storage, rows_of, study_lock
from lrtune.storage import sqlite_rows as module
from lrtune.storage.sqlite_rows import FileRows
from lrtune.storage.trial_rows import Rows, constraint_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from lrtune.storage import TrialRow

DISTRIBUTIONS = {
    "lr": FloatDistribution(1e-5, 10.0, log=True),
    "batch_size": CategoricalDistribution([16, 64, None]),
    "layers": IntDistribution(1, 5),
}


def made(storage: BaseStorage, kind: Callable[[BaseStorage, int], Rows] = rows_of) -> Rows:
    return kind(storage, storage.create_new_study([StudyDirection.MINIMIZE], "s"))


def template(**attributes: Any) -> FrozenTrial:
    params = {"lr": 0.1, "batch_size": None, "layers": 2}
    return create_trial(
        state=TrialState.RUNNING, params=params, distributions=dict(DISTRIBUTIONS), user_attrs=attributes
    )


def trials_of(storage: BaseStorage) -> list[FrozenTrial]:
    return optuna.load_study(study_name="s", storage=storage).get_trials()


def storage_of(rows: Rows) -> BaseStorage:
    storage: BaseStorage = rows._storage  # type: ignore[attr-defined]  # it has it, untyped
    return storage


def plain(row: TrialRow) -> Any:
    """The record, parsed where it is text."""
    return json.loads(row.record) if isinstance(row.record, str) else row.record


MEMBERS = {
    "file": lambda folder: made(open_storage(folder / "s.db")),
    "any, on a file": lambda folder: made(open_storage(folder / "s.db"), Rows),
    "any, in memory": lambda folder: made(InMemoryStorage()),  # noqa: ARG005
}


@pytest.fixture(params=MEMBERS)
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rows]:
    rows = MEMBERS[request.param](tmp_path)
    yield rows
    rows.close()


# -- the contract -------------------------------------------------------------------------------------


def test_numbers_count_from_zero(rows: Rows) -> None:
    rows.read("record")
    made = [rows.add(template(record={"n": n})) for n in range(3)]
    assert [number for _, number in made] == [0, 1, 2]
    assert len({trial_id for trial_id, _ in made}) == 3
    _, found = rows.read("record")
    assert [(row.trial_id, row.number) for row in found] == made
    assert [row.state for row in found] == [TrialState.RUNNING] * 3
    assert [plain(row) for row in found] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [row for row in found if row == rows.look(row.trial_id, "record")] == found
    assert [row.record for row in rows.read("another")[1]] == [None] * 3


def test_a_study_that_is_gone_takes_no_trials(rows: Rows) -> None:
    trial_id, _ = rows.add(template())
    storage_of(rows).delete_study(rows._study_id)  # type: ignore[attr-defined]  # it has it, untyped
    with pytest.raises(KeyError):
        rows.read("record")
    with pytest.raises(KeyError):
        rows.add(template())
    with pytest.raises(KeyError):
        rows.change(trial_id, TrialChange(attributes={"a": 1}))
    with pytest.raises(KeyError):
        rows.look(trial_id, "record")


def test_what_has_ended_is_not_changed(rows: Rows) -> None:
    trial_id, _ = rows.add(template(record=0))
    rows.change(trial_id, TrialChange(state=TrialState.COMPLETE, values=[1.0]))
    with pytest.raises(UpdateFinishedTrialError):
        rows.change(trial_id, TrialChange(attributes={"record": 1}))
    row = rows.look(trial_id, "record")
    assert (row.state, plain(row)) == (TrialState.COMPLETE, 0)


def test_a_constraint_stays_what_it_was(rows: Rows) -> None:
    trial_id, _ = rows.add(template())
    for value in (2.0, 1.0):
        rows.change(trial_id, TrialChange(constraints={"diverged": value}))
    assert storage_of(rows).get_trial(trial_id).constraints == {"diverged": 2.0}


def test_a_study_is_described(rows: Rows) -> None:
    rows.describe({"a": 1, "b": [1.5, None, "é\u2028"]})
    rows.describe({"a": {"n": True}})
    assert rows.read("record")[0] == {"a": {"n": True}, "b": [1.5, None, "é\u2028"]}


def test_rows_that_were_closed_are_used_again(rows: Rows) -> None:
    rows.read("record")
    rows.close()
    assert not rows.unchanged()
    rows.add(template())
    assert len(rows.read("record")[1]) == 1


numbers = st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
content = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | texts
named = st.dictionaries(st.sampled_from("abc"), content | st.lists(content, max_size=3), max_size=3)
changes = st.builds(
    TrialChange,
    attributes=named,
    reports=st.dictionaries(st.integers(0, 10**9), st.floats(), max_size=3),
    constraints=st.dictionaries(st.sampled_from(["diverged", "slow"]), numbers, max_size=2),
)
ends = st.sampled_from(
    [
        TrialChange(state=TrialState.COMPLETE, values=[0.25]),
        TrialChange(state=TrialState.COMPLETE, values=[1]),
        TrialChange(state=TrialState.PRUNED, values=[float("inf")]),
        TrialChange(state=TrialState.PRUNED, values=[float("-inf")]),
        TrialChange(state=TrialState.PRUNED),
        TrialChange(state=TrialState.FAIL, attributes={"why": "x" * 3000}),
    ]
)


@settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(st.lists(changes, max_size=3), ends)
def test_a_file_holds_what_optunas_own_calls_leave(
    tmp_path_factory: pytest.TempPathFactory, told: list[TrialChange], end: TrialChange
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    plainly, ours = (optuna.storages.get_storage(InMemoryStorage()), open_storage(folder / "s.db"))
    found = []
    for storage, kind in ((plainly, Rows), (ours, rows_of)):
        rows = made(storage, kind)
        trial_id, _ = rows.add(template(record={"a": 1}))
        for change in (*told, end):
            rows.change(trial_id, change)
        rows.close()
    assert isinstance(ours, RetryingStorage)
    ours.close()
    for storage in (plainly, RDBStorage(f"sqlite:///{folder / 's.db'}")):
        (trial,) = trials_of(storage)
        found.append(trial)
    one, other = found
    for name in ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs"):
        assert getattr(one, name) == getattr(other, name), name
    assert repr(one.intermediate_values) == repr(other.intermediate_values) or (
        {k: repr(v) for k, v in one.intermediate_values.items()}
        == {k: repr(float(v)) for k, v in other.intermediate_values.items()}
    )
    for name in ("datetime_start", "datetime_complete"):
        assert abs((getattr(other, name) - datetime.now()).total_seconds()) < 1800, name  # noqa: DTZ005 -- as Optuna has it


def test_optuna_itself_says_where_a_constraint_is_kept() -> None:
    with quiet():
        study = optuna.create_study()
        trial = study.ask()
        trial.set_constraint("diverged", 1.0)
    assert study.trials[0].system_attrs == {constraint_key("diverged"): 1.0}


def test_the_values_that_optuna_knows_are_known(tmp_path: Path) -> None:
    """The words of the tables, written by Optuna and by us into one file."""
    storage = open_storage(tmp_path / "s.db")
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    change = TrialChange(
        attributes={"a": [1, "é"]},
        reports={1: 0.5, 2: float("nan"), 3: float("inf"), 4: float("-inf")},
        constraints={"diverged": 1.5},
        state=TrialState.PRUNED,
        values=[float("inf")],
    )
    for kind in (Rows, FileRows):
        rows = kind(storage, study_id) if kind is Rows else rows_of(storage, study_id)
        assert isinstance(rows, kind)
        rows.read("record")
        trial_id, _ = rows.add(template(record=1))
        rows.change(trial_id, change)
        rows.close()
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        for table, columns in (
            ("trials", "state, length(datetime_start), length(datetime_complete), typeof(datetime_start)"),
            ("trial_params", "param_name, param_value, distribution_json"),
            ("trial_user_attributes", "key, value_json"),
            ("trial_system_attributes", "key, value_json"),
            ("trial_intermediate_values", "step, intermediate_value, intermediate_value_type"),
            ("trial_values", "objective, value, value_type"),
        ):
            query = f"select {columns} from {table} where trial_id = ? order by 1"  # noqa: S608 -- names from above
            one, other = (connection.execute(query, (trial_id,)).fetchall() for trial_id in (1, 2))
            assert one == other, table
            assert one, table


# -- who else writes ------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[tuple[Path, FileRows]]:
    """Rows that were read, with one running trial."""
    rows = made(open_storage(tmp_path / "s.db"))
    assert isinstance(rows, FileRows)
    rows.read("record")
    rows.add(template(record=0))
    yield tmp_path / "s.db", rows
    rows.close()


def elsewhere(path: Path, code: str) -> None:
    """Run code in another process, on plain Optuna's view of the file."""
    head = f"import optuna\nstudy = optuna.load_study(study_name='s', storage='sqlite:///{path}')\n"
    subprocess.run([sys.executable, "-W", "ignore", "-c", head + code], check=True, timeout=280)


def test_what_is_written_here_needs_no_second_reading(shared: tuple[Path, FileRows]) -> None:
    _, rows = shared
    assert rows.unchanged()
    trial_id, _ = rows.add(template())
    rows.change(trial_id, TrialChange(attributes={"a": 1}, state=TrialState.FAIL))
    rows.describe({"b": 2})
    assert rows.unchanged()


@pytest.mark.parametrize(
    "code",
    [
        "study.enqueue_trial({'lr': 0.5})",
        "study.set_user_attr('a', 1)",
        "study._storage.set_trial_user_attr(1, 'record', 'taken over')",
        "study.tell(0, 1.0)",
        "optuna.delete_study(study_name='s', storage=study._storage)",
        "optuna.create_study(study_name='another', storage=study._storage)",
    ],
)
def test_what_another_process_writes_is_seen(shared: tuple[Path, FileRows], code: str) -> None:
    path, rows = shared
    elsewhere(path, code)
    assert not rows.unchanged()
    assert not rows.unchanged(), "as long as it has not been read"


def test_what_another_thread_or_optuna_itself_writes_is_seen(shared: tuple[Path, FileRows]) -> None:
    path, rows = shared
    rows._storage.set_trial_user_attr(1, "record", 1)
    assert not rows.unchanged()
    rows.read("record")
    neighbour = rows_of(open_storage(path), rows._study_id)
    thread = threading.Thread(target=lambda: neighbour.change(1, TrialChange(attributes={"record": 2})))
    thread.start()
    thread.join()
    assert not rows.unchanged()
    (row,) = rows.read("record")[1]
    assert (plain(row), rows.unchanged()) == (2, True)
    neighbour.close()


def test_what_is_written_while_it_is_read_is_read_again(
    shared: tuple[Path, FileRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rows = shared
    demand = FileRows._demand_study

    def slowly(rows: FileRows, connection: sqlite3.Connection) -> None:
        demand(rows, connection)
        elsewhere(path, "study.enqueue_trial({'lr': 0.5})")

    with monkeypatch.context() as patch:
        patch.setattr(FileRows, "_demand_study", slowly)
        rows.read("record")
    assert not rows.unchanged()
    assert len(rows.read("record")[1]) == 2


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_both_journals_say_that_something_changed(tmp_path: Path, journal: str) -> None:
    storage = open_storage(tmp_path / "s.db")
    assert isinstance(storage, RetryingStorage)
    rows = made(storage)
    rows.close()
    storage.close()
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        assert connection.execute(f"pragma journal_mode = {journal}").fetchone() == (journal,)
        rows.read("record")
        rows.add(template())
        assert rows.unchanged()
        connection.execute("update trials set state = 'FAIL'")
        assert rows.unchanged(), "not yet committed"
        connection.commit()
        assert not rows.unchanged()
    rows.close()


def test_a_change_that_fails_leaves_nothing_and_is_doubted(shared: tuple[Path, FileRows]) -> None:
    path, rows = shared
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create trigger no before update of state on trials begin select raise(fail, 'no'); end")
        connection.commit()
    rows.read("record")
    with pytest.raises((StorageError, sqlite3.Error)):
        rows.change(1, TrialChange(attributes={"record": "half"}, state=TrialState.FAIL))
    assert not rows.unchanged()
    assert plain(rows.look(1, "record")) == 0


def test_a_locked_file_is_waited_for(shared: tuple[Path, FileRows]) -> None:
    path, rows = shared
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("begin immediate")
        timer = threading.Timer(1.5, lambda: connection.execute("commit"))
        timer.start()
        rows.change(1, TrialChange(attributes={"record": "waited"}))
        timer.join()
    assert rows.unchanged()
    assert plain(rows.look(1, "record")) == "waited"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_connection_of_its_own(shared: tuple[Path, FileRows]) -> None:
    _, rows = shared
    parents = rows._connection
    assert parents is not None
    child = os.fork()
    if child == 0:  # pragma: no cover -- in the child
        fine = rows._connection is None and not rows.unchanged()
        rows.change(1, TrialChange(attributes={"record": "child"}))
        os._exit(0 if fine and rows._connection is not parents else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not rows.unchanged(), "the child is somebody else"
    assert plain(rows.look(1, "record")) == "child"


# -- whose rows are written here --------------------------------------------------------------------------


def test_other_revisions_are_left_to_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(tmp_path / "s.db")
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    assert isinstance(rows_of(storage, study_id), FileRows)
    for name, value in (("REVISION", "v9.0.0.a"), ("OPTUNA", "9")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert type(rows_of(storage, study_id)) is Rows
    with quiet():
        plain = RDBStorage(f"sqlite:///{tmp_path / 'plain.db'}")
    assert type(rows_of(plain, 1)) is Rows
    assert type(rows_of(InMemoryStorage(), 1)) is Rows


def test_a_lock_and_a_decision_leave_the_version_as_it_is(shared: tuple[Path, FileRows]) -> None:
    _, rows = shared
    with study_lock(rows._storage, "s"):
        assert rows.unchanged()
