"""Following along in TensorBoard and MLflow: what they hold is read back by their own readers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from lrtune import cli
from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.core.records import TrialRecord
from lrtune.core.space import Space
from lrtune.errors import InputError
from lrtune.integrations import trackers
from lrtune.integrations.mlflow import MLflowTracker, absolute
from lrtune.integrations.tensorboard import TensorBoardTracker
from lrtune.study.events import Progress
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPACE = Space(lr=(1e-4, 10.0), batch_size=[16, 64])
WITHOUT = "mlflow is not installed: the tests that write into it need the extra `mlflow`"


def train(recipe: Recipe) -> Iterator[dict[str, float]]:
    """The best learning rate is 0.1; from 0.7 on the loss is no number after the second epoch."""
    for epoch in range(recipe.epochs):
        lost = recipe.lr > 0.7 and epoch > 1
        yield {"valid_loss": math.nan if lost else 0.3 * (math.log10(recipe.lr) + 1) ** 2 + 0.1 + 2 / (1 + epoch)}


def search(**changes: Any) -> Any:
    options: dict[str, Any] = {"epochs": 4, "strategy": "random", "trials": 4, "seed": 3, "name": "digits/<b>"}
    return tune(train, SPACE, **{**options, **changes})


def event_files(folder: Path) -> dict[str, Any]:
    """What TensorBoard reads, by the name of its run."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for file in folder.rglob("events.out.tfevents.*"):
        assert file.parent.name not in found, "one file a run"
        found[file.parent.name] = accumulators.EventAccumulator(str(file.parent)).Reload()
    return found


def test_tensorboard_holds_every_curve_and_the_answer(tmp_path: Path) -> None:
    result = search(observer=TensorBoardTracker(tmp_path))
    found = event_files(tmp_path)
    answer = found.pop("answer")
    assert answer.Scalars("answer/lr")[0].value == pytest.approx(result.best_recipe.lr)
    assert answer.Scalars("answer/cost")[0].value == pytest.approx(result.cost)
    text = answer.Tensors("answer/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("# Learning rate")
    assert len({file.parent.parent for file in tmp_path.rglob("trial-*/*")}) == 1
    assert all(file.resolve().is_relative_to(tmp_path) for file in tmp_path.rglob("*"))
    assert sorted(name[:9] for name in found) == [f"trial-{number:03d}" for number in range(4)]
    for name, run in found.items():
        trial = result.study.trials[int(name[6:9])]
        events = run.Scalars("valid_loss")
        assert [event.step for event in events] == list(range(1, len(events) + 1))
        assert [event.value for event in run.Scalars("epoch")] == [event.step for event in events]
        reached = run.Scalars("result/valid_loss")[0].value
        if trial.params["lr"] > 0.7:
            assert math.isnan(events[-1].value)
            assert math.isnan(reached)
        else:
            assert reached == pytest.approx(trial.value) == pytest.approx(events[-1].value)
        assert run.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"


def test_a_search_that_goes_on_logs_no_trial_twice(tmp_path: Path) -> None:
    for trials in (2, 4):
        search(trials=trials, storage=tmp_path / "study.db", observer=TensorBoardTracker(tmp_path / "logs"))
    curves = event_files_of_trials(tmp_path / "logs")
    assert len(curves) == 4
    assert all(len(run.Scalars("valid_loss")) <= 4 for run in curves.values())


def event_files_of_trials(folder: Path) -> dict[str, Any]:
    """The same without the answer, which each call writes anew."""
    for file in folder.rglob("answer/*"):
        file.unlink()
    return event_files(folder)


class Recording(trackers.Tracker):
    def __init__(self, *, breaks: bool = False) -> None:
        self.said: list[str] = []
        self.logged: list[int] = []
        self.breaks = breaks
        super().__init__(self.said.append)

    def _trial(self, progress: Progress, ended: TrialRecord) -> None:
        if self.breaks:
            msg = "postgresql://me:secret@host/db does not answer"
            raise ConnectionError(msg)
        assert progress.name == ""
        self.logged.append(ended.number)

    def _answer(self, progress: Progress, result: Any) -> None:
        self.answered = (progress.name, result)


def ended(number: int) -> TrialRecord:
    return TrialRecord(
        number=number, recipe=Recipe(lr=0.1, epochs=3), outcome=Outcome.COMPLETED, value=0.1, trained=3.0
    )


def test_what_ends_under_the_lock_is_logged_after_it() -> None:
    tracker = Recording()
    tracker(Progress(event="trial 0: done", ended=(ended(0),)))
    tracker(Progress(event="trial 1: done", ended=(ended(1),)))
    assert tracker.logged == []
    tracker(Progress())
    tracker(Progress())
    assert tracker.logged == [0, 1]


def test_a_tracker_that_fails_says_so_once_without_a_secret_and_is_silent() -> None:
    tracker = Recording(breaks=True)
    for number in range(3):
        tracker(Progress(ended=(ended(number),)))
    assert len(tracker.said) == 1
    assert "secret" not in tracker.said[0]
    assert "the search goes on without it" in tracker.said[0]


@pytest.mark.parametrize(("option", "name"), [("--tensorboard", "TensorBoard"), ("--mlflow", "MLflow")])
def test_what_is_not_installed_is_one_sentence_before_anything_is_trained(
    option: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    monkeypatch.chdir(tmp_path)
    assert cli.run(("optimize", "study.toml", option, str(tmp_path / "logs"))) == 2
    extra = option.removeprefix("--")
    assert capsys.readouterr().err.strip() == (
        f"lrtune: error: {name} is not installed; install it with: pip install 'lrtune[{extra}]'"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_logs_into_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("optimize", "--estimator", "sklearn.linear_model:SGDClassifier", "--data", "iris", "--lr", "1e-3,1")
    assert cli.run((*command, "--epochs", "3", "--trials", "2", "--quiet", "--tensorboard", "logs")) == 0
    found = event_files(tmp_path / "logs")
    assert len(found) == 3
    assert "answer" in found


def test_without_the_package_a_tracker_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"lrtune\[tensorboard\]"):
        TensorBoardTracker(tmp_path)
    with pytest.raises(InputError, match=r"lrtune\[mlflow\]"):
        MLflowTracker(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.filterwarnings("ignore")  # its own, and its many packages'
def test_mlflow_holds_every_curve_and_the_answer_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason=WITHOUT)
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for trials in (2, 4):
        said: list[str] = []
        result = search(
            trials=trials, storage=tmp_path / "study.db", name="digits", observer=MLflowTracker(uri, warn=said.append)
        )
        assert said == []
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    top = [run for run in runs if "lrtune.search" in run.data.tags]
    below = [run for run in runs if "lrtune.trial" in run.data.tags]
    assert (len(top), len(below)) == (1, 4)
    assert top[0].data.metrics["lr"] == pytest.approx(result.best_recipe.lr)
    assert top[0].data.tags["mlflow.note.content"].startswith("# Learning rate")
    for run in below:
        assert run.data.tags["mlflow.parentRunId"] == top[0].info.run_id
        trial = result.study.trials[int(run.data.tags["lrtune.trial"].partition("@")[0])]
        history = client.get_metric_history(run.info.run_id, "valid_loss")
        assert [metric.step for metric in history] == list(range(1, len(history) + 1))
        assert float(run.data.params["lr"]) == pytest.approx(trial.params["lr"])
        if trial.params["lr"] <= 0.7:
            assert run.data.metrics["result.valid_loss"] == pytest.approx(trial.value)
    assert mlflow.active_run() is None


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("sqlite:///m.db", "sqlite:///{here}/m.db"),
        ("sqlite:////tmp/m.db", "sqlite:////tmp/m.db"),
        ("runs", "{here}/runs"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("databricks", "databricks"),
    ],
)
def test_a_relative_store_is_the_same_wherever_the_training_code_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(uri) == wanted.format(here=tmp_path)
