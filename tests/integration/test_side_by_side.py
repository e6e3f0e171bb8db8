"""Searches that train several runs as one stacked model: curves, costs, limits, and what goes wrong there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import SGDClassifier
from torch import nn

import lrtune
from lrtune.study.trials.study_reader import read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lrtune.core.recipe import Recipe
    from lrtune.core.records import StudyRecord, TrialRecord
    from lrtune.training.base import Run

EPOCHS = 8
SPACE = lrtune.Space(lr=(1e-3, 10.0))


class Stacking(lrtune.TorchTrainer):
    """One that stacks whatever it can, and says what that is worth without measuring it: a test has no clock."""

    def stack_speedup(self, recipe: Recipe, members: int, /) -> float:
        del recipe
        return members / (1 + 0.25 * (members - 1))


class Plain(Stacking):
    """One for which that is worth nothing."""

    def stack_speedup(self, recipe: Recipe, members: int, /) -> float:
        del recipe, members
        return 1.0


def trainer(kind: type[lrtune.TorchTrainer] = Stacking, **options: Any) -> lrtune.TorchTrainer:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((160, 6)).astype(np.float32)
    classes = (inputs[:, 0] + 0.5 * inputs[:, 1] > 0).astype(np.int64)
    given: dict[str, Any] = {
        "model": lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)),
        "train_data": (inputs[:128], classes[:128]),
        "valid_data": (inputs[128:], classes[128:]),
        "optimizer_options": {"momentum": 0.9},
        "stack": True,
    }
    return kind(**given | options)


def searched(made: lrtune.TorchTrainer | lrtune.SklearnTrainer, **options: Any) -> tuple[lrtune.Result, StudyRecord]:
    result = lrtune.tune(made, SPACE, epochs=EPOCHS, **options)
    assert result.study is not None
    return result, read(result.study)


def alone(record: TrialRecord) -> dict[int, float]:
    """The held-out loss by step of the same recipe, trained alone."""
    run = trainer().start([record.recipe])
    found, done = {}, 0
    for step in record.curve.steps.tolist():
        (report,) = run.advance(step - done)
        found[step], done = report.point.values["valid_loss"], step
    run.close()
    return found


def test_curves_are_those_of_training_alone_and_the_time_is_less_than_the_cost() -> None:
    result, record = searched(trainer())
    assert result.machine_time is not None
    assert result.machine_time < 0.9 * result.cost
    assert record.machine_time == pytest.approx(result.machine_time)
    assert "in the time of" in result.text()
    stacked = [trial for trial in record.records if trial.saved_epochs]
    assert len(stacked) > 3
    for trial in (trial for trial in stacked if not trial.diverged):
        known = alone(trial)
        for point in trial.curve:
            assert point.values["valid_loss"] == pytest.approx(known[point.step], rel=1e-2, abs=1e-3)


def test_without_a_trainer_that_stacks_the_time_is_the_cost() -> None:
    result, record = searched(trainer(Plain))
    assert result.machine_time == pytest.approx(result.cost)
    assert all(trial.saved_epochs == 0 for trial in record.records)


@pytest.mark.parametrize("limit", [1.0, 1.5])
def test_the_machine_budget_is_kept(limit: float) -> None:
    result, _ = searched(trainer(), machine_budget=limit)
    assert result.machine_time is not None
    assert result.machine_time <= limit + 1e-9
    assert result.best_recipe is not None


def test_a_budget_in_full_trainings_is_kept_too() -> None:
    result, record = searched(trainer(), budget=2.5)
    assert result.cost <= 2.5 + 1e-9
    assert any(trial.saved_epochs for trial in record.records)


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    """Stopped in the middle of a stack: each run is finished by itself."""
    calls = 0

    def after(many: int) -> Callable[[], bool]:
        def stop() -> bool:
            nonlocal calls
            calls += 1
            return calls > many

        return stop

    storage = str(tmp_path / "study.db")
    first = lrtune.tune(trainer(), SPACE, epochs=EPOCHS, storage=storage, should_stop=after(40))
    assert first.ending.key == "interrupted"
    result, record = searched(trainer(), storage=storage)
    whole, _ = searched(trainer())
    assert result.best_recipe is not None
    assert whole.best_recipe is not None
    assert result.best_value == pytest.approx(whole.best_value, rel=0.3)
    assert not any(trial.outcome_key in {"failed", "interrupted"} for trial in record.records)
    assert sum(trial.trained for trial in record.records) / EPOCHS == pytest.approx(result.cost)


class Raising(Stacking):
    """One whose joint runs raise, as where a stack does not fit into memory."""

    raised = 0

    def together(self, runs: Sequence[Run], /) -> Any:
        joint = super().together(runs)
        if joint is not None:

            def advance(steps: int, /, *, evaluate: bool = True) -> Any:
                del steps, evaluate
                type(self).raised += 1
                msg = "CUDA out of memory"
                raise RuntimeError(msg)

            joint.advance = advance  # type: ignore[method-assign]  # a fault from outside
        return joint


def test_what_is_raised_side_by_side_is_tried_alone() -> None:
    result, record = searched(trainer(Raising))
    assert Raising.raised == 1
    assert result.best_recipe is not None
    assert not any(trial.outcome_key in {"failed", "out_of_memory"} for trial in record.records)
    assert result.machine_time == pytest.approx(result.cost)


class Unwilling(Stacking):
    """One that turns out not to train runs side by side: in one way or the other, they are trained in turn."""

    why: Exception | None = None

    def together(self, runs: Sequence[Run], /) -> Any:
        del runs
        if self.why is not None:
            raise self.why


@pytest.mark.parametrize("why", [None, RuntimeError("CUDA out of memory")])
def test_where_it_turns_out_impossible_they_are_trained_in_turn(why: Exception | None) -> None:
    made = trainer(Unwilling)
    made.why = why  # type: ignore[attr-defined]  # of the class above
    result, record = searched(made)
    assert result.machine_time == pytest.approx(result.cost)
    assert not any(trial.outcome_key in {"failed", "out_of_memory"} for trial in record.records)


class Interrupted(nn.Sequential):
    """A model in whose 61st call Ctrl-C is pressed: the first of several that are trained in turn has begun."""

    calls, at = 0, 61

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        type(self).calls += 1
        if type(self).calls == self.at:
            raise KeyboardInterrupt
        output: torch.Tensor = super().forward(inputs)
        return output


def test_ctrl_c_ends_those_that_are_trained_in_turn_too(tmp_path: Path) -> None:
    made, storage = trainer(Unwilling, model=lambda: Interrupted(nn.Linear(6, 2))), str(tmp_path / "study.db")
    with pytest.raises(KeyboardInterrupt):
        searched(made, storage=storage)
    assert Interrupted.calls == Interrupted.at
    result, record = searched(made, storage=storage)
    assert result.best_recipe is not None
    assert all(trial.outcome is not None for trial in record.records)


def test_time_is_saved_only_where_runs_were_stacked() -> None:
    """A smaller last batch must come for all at once: members elsewhere in the epoch are trained one by one."""
    made = trainer(batch_size=10)
    runs = [made.start([lrtune.Recipe(lr=lr, epochs=EPOCHS)]) for lr in (0.01, 0.02, 0.03)]
    runs[0].advance(5)
    joint: Any = made.together(runs)
    joint.advance(2)
    assert joint.sizes == {1: 2, 2: 2}
    joint.close()


def test_a_grid_is_trained_side_by_side() -> None:
    result, record = searched(trainer(), strategy="grid", points=6)
    assert sum(trial.completed for trial in record.records) >= 4
    assert result.machine_time is not None
    assert result.machine_time < 0.7 * result.cost


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
def test_it_works_on_a_gpu() -> None:
    result, _ = searched(trainer(device="cuda"))
    assert result.machine_time is not None
    assert result.machine_time < result.cost
    torch.cuda.synchronize()


def test_linear_models_are_trained_side_by_side_and_decided_by_shapes_alone() -> None:
    rng = np.random.default_rng(0)
    classes = np.arange(160) % 10
    table = rng.standard_normal((160, 400)) / 20 + rng.standard_normal((10, 400))[classes] / 40

    def found() -> tuple[lrtune.Result, StudyRecord]:
        estimator = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=1.0)
        return searched(lrtune.SklearnTrainer(estimator, table, classes))

    (result, record), (again, other) = found(), found()
    assert result.machine_time is not None
    assert result.machine_time < 0.9 * result.cost
    assert (again.best_value, again.machine_time) == (result.best_value, result.machine_time)
    assert [trial.curve for trial in other.records] == [trial.curve for trial in record.records]
