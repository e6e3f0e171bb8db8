"""What other processes write beside a search is seen at its next decision, though it reads nothing twice."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.trial import TrialState

import lrtune
from lrtune.errors import StorageError
from lrtune.storage.sqlite_rows import FileRows
from lrtune.study.trials.stored_trial import RECORD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrtune.study.result import Result

EPOCHS = 4


def elsewhere(path: Path, code: str) -> None:
    """Run code in another process, on plain Optuna's view of the study: no lock of ours is taken."""
    head = f"import optuna\nstudy = optuna.load_study(study_name='lrtune', storage='sqlite:///{path}')\n"
    subprocess.run([sys.executable, "-W", "ignore", "-c", head + code], check=True, timeout=280)


def searched(path: Path, code: str, *, at: int = 1, trials: int = 4) -> Result:
    """A search that has code run elsewhere in the middle of its trial number `at`."""
    started = []

    def train(recipe: lrtune.Recipe) -> Iterator[dict[str, float]]:
        started.append(recipe.lr)
        for epoch in range(recipe.epochs):
            if len(started) == at + 1 and epoch == 1:
                elsewhere(path, code)
            yield {"valid_loss": abs(recipe.lr - 0.1) + 1.0 / (1 + epoch)}

    space = lrtune.Space(lr=(1e-3, 1.0))
    return lrtune.tune(train, space, epochs=EPOCHS, strategy="random", trials=trials, prune=False, storage=path)


@pytest.fixture(params=["own rows", "any storage"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "any storage":
        monkeypatch.setattr("lrtune.storage.sqlite_rows.REVISION", "another")
    return tmp_path / "s.db"


def test_an_enqueued_trial_comes_next(path: Path) -> None:
    result = searched(path, "study.enqueue_trial({'lr': 0.25})")
    params = [trial.params["lr"] for trial in result.study.trials]
    assert params[2] == 0.25
    assert [trial.state for trial in result.study.trials] == [TrialState.COMPLETE] * 4


def test_a_claim_that_was_taken_over_is_left_alone(path: Path) -> None:
    code = (
        f"record = study.trials[1].user_attrs[{RECORD!r}]; record['claim'] = None\n"
        f"study._storage.set_trial_user_attr(study.trials[1]._trial_id, {RECORD!r}, record)"
    )
    result = searched(path, code, trials=3)
    assert any("taken over" in warning for warning in result.warnings)
    assert [trial.state for trial in result.study.trials] == [TrialState.COMPLETE] * 3, "it is trained another time"


def test_a_trial_that_was_ended_from_outside_stays_ended(path: Path) -> None:
    result = searched(path, "study.tell(1, state=optuna.trial.TrialState.FAIL)")
    states = [trial.state for trial in result.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert any("taken over" in warning for warning in result.warnings)


def test_a_study_that_was_deleted_is_a_sentence(path: Path) -> None:
    with pytest.raises(StorageError, match="was deleted"):
        searched(path, "optuna.delete_study(study_name='lrtune', storage=study._storage)")


def test_what_others_leave_alone_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reading = [], FileRows.read

    def counted(rows: FileRows, name: str) -> object:
        read.append(name)
        return reading(rows, name)

    monkeypatch.setattr(FileRows, "read", counted)
    result = searched(tmp_path / "s.db", "", at=99, trials=8)
    assert len(result.study.trials) == 8
    assert len(read) == 1


def test_both_ways_to_write_leave_the_same_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def left(name: str) -> list[tuple[object, ...]]:
        path = tmp_path / name
        searched(path, "", at=99, trials=3)
        study = optuna.load_study(study_name="lrtune", storage=f"sqlite:///{path}")
        assert study.metric_names == ["valid_loss"]
        return [
            (t.number, t.state, t.params, t.distributions, t.values, t.intermediate_values, t.user_attrs.keys())
            for t in study.trials
        ]

    ours = left("ours.db")
    monkeypatch.setattr("lrtune.storage.sqlite_rows.REVISION", "another")
    assert left("plain.db") == ours
