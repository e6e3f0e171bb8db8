"""The trainer contract over scikit-learn estimators."""

# ruff: noqa: N806 -- X is scikit-learn's name
from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from trainer_contract import BowlContract, SavingContract, TrainerContract

from lrtune.core.recipe import Recipe
from lrtune.training.estimators.trainer import SklearnTrainer

__all__ = ["EstimatorContract", "PipelineContract"]


RECIPES = (
    Recipe(lr=0.01, epochs=3, batch_size=30, seed=1),
    Recipe(lr=0.03, epochs=3, batch_size=25, seed=2, schedule="cosine", warmup=0.2),
    Recipe(lr=0.003, epochs=2, batch_size=30, seed=3, schedule="plateau(patience=0)"),
)


class EstimatorContract(SavingContract, TrainerContract):
    recipes: ClassVar[tuple[Recipe, ...]] = RECIPES


class PipelineContract(BowlContract, EstimatorContract):
    bowl_recipe: ClassVar[dict[str, Any]] = {"batch_size": 3}

    def trainer(self) -> SklearnTrainer:
        X, y = load_breast_cancer(return_X_y=True)
        estimator = make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss"))
        return SklearnTrainer(estimator, X[:160], y[:160], metrics=["accuracy"])

    def bowl(self) -> tuple[SklearnTrainer, float]:
        # Rows at right angles: an update for each row is one step of gradient descent on the sum.
        X, y = np.diag([3.0, 1.0, 0.5]), np.array([1.0, -2.0, 0.5])
        estimator = SGDRegressor(penalty=None, fit_intercept=False)
        return SklearnTrainer(estimator, X, y, valid=(X, y)), 9.0
