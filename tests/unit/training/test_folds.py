"""All folds of a cross-validation as one training: the trainers' contract, means, unequal folds, one that diverges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDRegressor
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from trainer_contract import SavingContract, TrainerContract

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import InputError
from lrtune.training.estimators.folds import FoldsTrainer
from lrtune.training.estimators.trainer import SklearnTrainer

if TYPE_CHECKING:
    from lrtune.training.base import Trainer

X, Y = load_iris(return_X_y=True)
MODEL = make_pipeline(StandardScaler(), MLPClassifier([4], solver="sgd", batch_size=20))
UNEQUAL = [
    (np.arange(0, 150, 2), np.arange(1, 150, 2)),  # 75 rows: 4 minibatches
    (np.flatnonzero(np.arange(150) % 10), np.arange(0, 150, 10)),  # 135 rows: 7
    (np.arange(1, 150, 4), np.arange(0, 150, 4)),  # 37 rows: 2
]


def make(**more: object) -> FoldsTrainer:
    return FoldsTrainer(MODEL, X, Y, splits=UNEQUAL, metrics=["accuracy"], **more)


class TestFolds(SavingContract, TrainerContract):
    recipes = (
        Recipe(lr=0.1, epochs=3, seed=1),
        Recipe(lr=0.01, epochs=4, seed=2, schedule="cosine", batch_size=16),
        Recipe(lr=0.03, epochs=3, seed=3, schedule="plateau"),
    )

    def trainer(self) -> Trainer:
        return make()


def test_each_fold_is_trained_as_alone_and_the_mean_counts() -> None:
    recipe = Recipe(lr=0.1, epochs=2, seed=4)
    trainer = make()
    run = trainer.start([recipe])
    (first,), (last,) = run.advance(trainer.steps_per_epoch(recipe)), run.advance(10**6)
    assert (first.point.epoch, last.point.epoch) == (1.0, 2.0)
    assert last.outcome is Outcome.COMPLETED
    alone = []
    for train, test in UNEQUAL:
        fold = SklearnTrainer(MODEL, X[train], Y[train], valid=(X[test], Y[test]), metrics=["accuracy"])
        one = fold.start([recipe])
        alone.append([one.advance(fold.steps_per_epoch(recipe))[0], one.advance(10**6)[0]])
    for epoch, together in enumerate([first, last]):
        told = together.point.values
        for name in ("train_loss", "valid_loss", "accuracy"):
            own = [reports[epoch].point.values[name] for reports in alone]
            assert told[name] == pytest.approx(np.mean(own), rel=1e-12)
            if name != "train_loss":
                assert [told[f"split{fold}_{name}"] for fold in range(3)] == own
        assert together.point.samples == sum(reports[epoch].point.samples for reports in alone)


def test_a_fold_that_diverges_ends_them_all() -> None:
    trainer = FoldsTrainer(SGDRegressor(), X, Y.astype(float), splits=KFold(3).split(X))
    recipe = Recipe(lr=10.0, epochs=3)
    run = trainer.start([recipe])
    reports = [report for _ in range(9) for report in run.advance(1)]
    assert reports[-1].outcome is not None
    assert reports[-1].outcome.diverged
    assert reports[-1].why.startswith("in fold 0: ")
    assert run.alive == ()


def test_weights_are_split_with_the_rows() -> None:
    weights = np.linspace(0.1, 2.0, 150)
    trainer = FoldsTrainer(MLPClassifier([4], max_iter=1), X, Y, splits=KFold(3).split(X), sample_weight=weights)
    for fold, (train, test) in zip(trainer.folds, KFold(3).split(X), strict=True):
        assert fold.task.train.weight is not None
        assert fold.task.train.weight.tolist() == weights[train].tolist()
        assert fold.task.valid.weight is not None
        assert fold.task.valid.weight.tolist() == weights[test].tolist()


def test_no_folds() -> None:
    with pytest.raises(InputError, match="makes no folds"):
        FoldsTrainer(MODEL, X, Y, splits=[])
