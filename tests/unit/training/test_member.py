"""The run that all trainers share: what an exception within a step leaves of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from networks import make
from sklearn.linear_model import SGDRegressor
from torch import nn
from trainer_contract import train

from lrtune.core.recipe import Recipe
from lrtune.training.estimators.trainer import SklearnTrainer
from lrtune.training.generator import GeneratorTrainer

if TYPE_CHECKING:
    import torch

    from lrtune.training.base import Trainer

RECIPE = Recipe(lr=0.01, epochs=3, seed=1)
ARMED: list[bool] = []


def interrupt() -> None:
    if ARMED:
        ARMED.clear()
        raise KeyboardInterrupt


class Interrupted(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        interrupt()
        return super().forward(x)


class InterruptedEstimator(SGDRegressor):
    def partial_fit(self, *args: Any, **options: Any) -> Any:
        interrupt()
        return super().partial_fit(*args, **options)


def network() -> Trainer:
    return make(model=lambda: Interrupted(6, 3))


def estimator() -> Trainer:
    rows = [[float(row % 7), float(row % 3)] for row in range(40)]
    return SklearnTrainer(InterruptedEstimator(), rows, [sum(row) for row in rows])


@pytest.mark.parametrize("trainer", [network, estimator])
def test_an_interrupted_run_has_no_state_and_continues_from_an_earlier_one(trainer: Any) -> None:
    made = trainer()
    whole = train(made.start([RECIPE]))
    run = made.start([RECIPE])
    begun = train(run, segments=2)
    state = run.state()
    ARMED.append(True)
    with pytest.raises(KeyboardInterrupt):
        run.advance(1)
    assert not run.alive
    assert run.state() is None
    run.restore(state)
    assert {**begun[0], **train(run)[0]} == whole[0]


def test_an_interrupted_generator_is_closed() -> None:
    closed: list[bool] = []

    def loop(_: Recipe) -> Any:
        try:
            yield 1.0
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    run = GeneratorTrainer(loop).start([RECIPE])
    run.advance(1)
    with pytest.raises(KeyboardInterrupt):
        run.advance(1)
    assert closed == [True]
    assert not run.alive
