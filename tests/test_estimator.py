"""scikit-learn estimators: the contract of every trainer over each kind, and what is special to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from trainer_contract import BowlContract, SavingContract, TrainerContract

from lrtune.recipe import Recipe
from lrtune.training.estimator import SklearnTrainer

RECIPES = (
    Recipe(lr=0.01, epochs=3, batch_size=50, seed=1),
    Recipe(lr=0.03, epochs=3, batch_size=40, seed=2, schedule="cosine", warmup=0.2),
    Recipe(lr=0.003, epochs=2, batch_size=50, seed=3, schedule="plateau(patience=0)"),
)


class EstimatorContract(SavingContract, TrainerContract):
    recipes: ClassVar[tuple[Recipe, ...]] = RECIPES


class TestClassifier(BowlContract, EstimatorContract):
    bowl_recipe: ClassVar[dict[str, Any]] = {"batch_size": 3}

    def trainer(self) -> SklearnTrainer:
        X, y = load_breast_cancer(return_X_y=True)
        estimator = make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss"))
        return SklearnTrainer(estimator, X, y, metrics=["accuracy", "neg_log_loss"])

    def bowl(self) -> tuple[SklearnTrainer, float]:
        X, y = np.diag([3.0, 1.0, 0.5]), np.array([1.0, -2.0, 0.5])
        estimator = SGDRegressor(penalty=None, fit_intercept=False)
        return SklearnTrainer(estimator, X, y, valid=(X, y)), 9.0


class TestManyClasses(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        X, y = load_iris(return_X_y=True)
        return SklearnTrainer(SGDClassifier(average=5), X, np.array(["a", "b", "c"])[y])


class TestRegressor(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        X, y = load_diabetes(return_X_y=True)
        weight = np.linspace(0.1, 1.0, len(y))
        return SklearnTrainer(SGDRegressor(), X, (y - y.mean()) / y.std(), sample_weight=weight, metrics=["r2"])


class TestSparse(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        X, y = load_digits(return_X_y=True)
        return SklearnTrainer(SGDClassifier(loss="modified_huber"), sparse.csr_matrix(X[:300] / 16), y[:300])


class TestPerceptronAdam(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        X, y = load_iris(return_X_y=True)
        return SklearnTrainer(MLPClassifier((8,)), X, y, metrics=["accuracy"])


class TestPerceptronMomentum(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        X, y = load_diabetes(return_X_y=True)
        return SklearnTrainer(MLPRegressor(hidden_layer_sizes=(5,), solver="sgd"), X, (y - y.mean()) / y.std())
