"""Estimators that are not scikit-learn's own: some train as they are, the others are refused with their cure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from lrtune.errors import InputError
from lrtune.training.estimators.trainer import SklearnTrainer


class Network(ClassifierMixin, BaseEstimator):
    """What skorch's networks are like: their own repr and epochs, an optimizer that set_params reaches."""

    def __init__(
        self,
        module: object = None,
        lr: float = 0.1,
        *,
        max_epochs: int = 10,
        verbose: int = 1,
        train_split: object = "a fifth",
        iterator_train: object = None,
        batch_size: int = 128,
    ) -> None:
        self.module, self.lr, self.max_epochs, self.verbose = module, lr, max_epochs, verbose
        self.train_split, self.iterator_train, self.batch_size = train_split, iterator_train, batch_size

    def set_params(self, **params: Any) -> Network:
        for name, value in params.items():
            setattr(self, name, value)
        if "lr" in params:
            self.group_ = {"lr": params["lr"]}
        return self

    def __repr__(self) -> str:
        return "<a network>"

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Network:  # noqa: N803 -- scikit-learn's name
        assert (self.max_epochs, self.train_split, self.batch_size) == (1, None, -1)
        if classes is not None:
            self.classes_ = classes
            self.coef_ = np.zeros((X.shape[1], len(classes)))
        for _ in range(self.max_epochs):
            error = (X @ self.coef_) - np.eye(len(self.classes_))[np.searchsorted(self.classes_, y)]
            self.coef_ = self.coef_ - self.group_["lr"] * X.T @ error / len(X)
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803 -- scikit-learn's name
        return self.classes_[np.argmax(X @ self.coef_, axis=1)]


def test_an_estimator_like_skorchs_trains_one_step_a_minibatch_at_the_rate_of_the_schedule() -> None:
    X, y = load_iris(return_X_y=True)  # noqa: N806 -- scikit-learn's name
    trainer = SklearnTrainer(Network(), X / 10, y, learning_rate_parameter="lr")
    assert "Network" in trainer.fingerprint()["estimator"]
    assert any("max_epochs" in notice for notice in trainer.notices)
    assert not any("changed nothing" in notice for notice in trainer.notices)


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (SGDClassifier, "the class SGDClassifier; call it"),
        (lambda: SGDClassifier(), "the function <lambda>; call it"),  # noqa: PLW0108 -- a function that makes one
        ("SGDClassifier", "got 'SGDClassifier'"),
        (GridSearchCV(SGDClassifier(), {"alpha": [1.0]}), "give SGDClassifier itself"),
        (OneVsRestClassifier(SGDClassifier()), "give SGDClassifier itself"),
        (
            make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), SGDClassifier())),
            "give SGDClassifier itself",
        ),
        (make_pipeline(StandardScaler(), StandardScaler()), "a Pipeline ends in it"),
        (Pipeline([("scale", StandardScaler), ("last", SGDClassifier())]), "the class StandardScaler; call it"),
        (Pipeline([("scale", StandardScaler()), ("last", SGDClassifier)]), "the class SGDClassifier; call it"),
        (Pipeline([]), "the last step of the pipeline"),
        (MiniBatchKMeans(), "a generator function of your own"),
    ],
)
def test_what_is_no_estimator_to_train_gets_its_cure(estimator: Any, said: str) -> None:
    X, y = load_iris(return_X_y=True)  # noqa: N806 -- scikit-learn's name
    with pytest.raises(InputError, match=said):
        SklearnTrainer(estimator, X, y, learning_rate_parameter="estimator__eta0" if "One" in str(estimator) else None)
