"""The rule by which the learning rate goes with the batch size, where only the trainer knows the optimizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from networks import make
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from lrtune.core.space import Space
from lrtune.errors import MismatchError
from lrtune.study.trials.study_reader import SPACE
from lrtune.study.tuning import tune
from lrtune.training.estimators.trainer import SklearnTrainer

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from lrtune.training.base import Trainer

OPEN = Space(lr=(1e-4, 1.0), batch_size=[16, 64])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "AdamW", "rmsprop", "lion"])
def test_an_adam_like_trainer_scales_with_the_root(optimizer: str) -> None:
    space = OPEN.for_optimizer(optimizer)
    assert space.batch_exponent == 0.5
    assert {**space.to_json(), "batch_exponent": None} == {**OPEN.to_json(), "batch_exponent": None}
    assert space.for_optimizer(optimizer) == space


@pytest.mark.parametrize("optimizer", ["sgd", "SGD", "momentum", None])
def test_one_that_scales_with_the_batch_leaves_the_space_as_it_is(optimizer: str | None) -> None:
    assert OPEN.for_optimizer(optimizer).batch_exponent is None


@pytest.mark.parametrize(
    "told",
    [
        {"batch_exponent": 1.0},
        {"batch_exponent": 0.0},
        {"optimizer": "sgd"},
        {"optimizer": ["sgd", "adam"]},
        {"batch_size": 64},
        {"batch_size": None},
    ],
)
def test_what_the_space_says_itself_stands(told: dict[str, Any]) -> None:
    space = Space(**{"lr": (1e-4, 1.0), "batch_size": [16, 64], **told})
    assert space.for_optimizer("adamw") is space


def stored(trainer: Trainer, **changes: Any) -> Space:
    """The space as the study keeps it."""
    told: dict[str, Any] = {"space": OPEN, "epochs": 1, "strategy": "random", "trials": 1, **changes}
    return Space.from_json(tune(trainer, **told).study.user_attrs[SPACE])


def custom(parameters: Any, lr: float) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(parameters, lr=lr)


@pytest.mark.parametrize(("optimizer", "exponent"), [("adamw", 0.5), ("sgd", None), (custom, None)])
def test_a_study_keeps_the_rule_of_its_torch_trainer(optimizer: Any, exponent: float | None) -> None:
    assert stored(make(optimizer=optimizer)).batch_exponent == exponent


@pytest.mark.parametrize(
    ("estimator", "exponent"),
    [(MLPClassifier(solver="adam"), 0.5), (MLPClassifier(solver="sgd"), None), (SGDClassifier(), None)],
)
def test_a_study_keeps_the_rule_of_its_estimator(estimator: Any, exponent: float | None) -> None:
    trainer = SklearnTrainer(estimator, *load_iris(return_X_y=True))
    space = Space(lr=(1e-4, 1e-2), batch_size=[16, 64])
    assert stored(trainer, space=space).batch_exponent == exponent


def test_a_trainer_without_an_optimizer_leaves_the_space_as_it_is() -> None:
    def train(recipe: Any) -> Any:
        yield {"valid_loss": abs(math.log10(recipe.lr) + 2)}

    assert stored(train).batch_exponent is None


def test_the_same_call_again_resumes_and_another_rule_is_refused(tmp_path: Path) -> None:
    keep = {"storage": tmp_path / "study.db"}
    assert stored(make(optimizer="adamw"), **keep).batch_exponent == 0.5
    told: dict[str, Any] = {"space": OPEN, "epochs": 1, "strategy": "random", "trials": 2, **keep}
    assert len(tune(make(optimizer="adamw"), **told).study.trials) == 2
    with pytest.raises(MismatchError, match="batch_exponent"):
        tune(make(optimizer="adamw"), **{**told, "space": Space.from_json({**OPEN.to_json(), "batch_exponent": 0.2})})
