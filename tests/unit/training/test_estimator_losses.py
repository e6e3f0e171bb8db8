"""Losses: scikit-learn's own numbers, and no constant beats the best constant."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.metrics import log_loss, mean_poisson_deviance
from sklearn.neural_network import MLPClassifier

from lrtune.training.estimators.losses import DecisionLoss, Elementwise, Labels, Probability, mean, named

X = np.random.default_rng(0).normal(size=(30, 4))
CLASSIFIER_LOSSES = sorted(SGDClassifier.loss_functions)
REGRESSOR_LOSSES = sorted(SGDRegressor.loss_functions)
numbers = st.floats(-50, 50, allow_subnormal=False)


def scikit_learns(loss: str, target: float, decision: float, kind: Any) -> float:
    """What scikit-learn's compiled loss says of one row."""
    compiled = kind()._get_loss_function(loss)
    if hasattr(compiled, "py_loss"):
        return float(compiled.py_loss(decision, target))
    target = float(target > 0) if loss == "log_loss" else target  # the binomial loss counts classes from zero
    out = np.empty(1)
    compiled.loss(np.array([target]), np.array([decision]), None, out)
    return float(out[0])


@pytest.mark.parametrize("loss", [loss for loss in CLASSIFIER_LOSSES if loss != "perceptron"])
@given(sign=st.sampled_from([-1.0, 1.0]), decision=numbers)
def test_classifier_losses_are_those_of_scikit_learn(loss: str, sign: float, decision: float) -> None:
    ours = float(named(loss, 0.1)(np.array([sign]), np.array([decision]))[0])
    assert ours == pytest.approx(scikit_learns(loss, sign, decision, SGDClassifier), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loss", REGRESSOR_LOSSES)
@given(target=numbers, decision=numbers)
def test_regressor_losses_are_those_of_scikit_learn(loss: str, target: float, decision: float) -> None:
    ours = float(named(loss, 0.1)(np.array([target]), np.array([decision]))[0])
    assert ours == pytest.approx(scikit_learns(loss, target, decision, SGDRegressor), rel=1e-9, abs=1e-12)


def test_the_perceptrons_own_loss_would_call_a_model_of_zeros_perfect() -> None:
    assert named("perceptron", 0.0)(np.array([1.0]), np.array([0.0]))[0] == 1.0


def test_many_classes_are_the_sum_of_one_against_the_rest() -> None:
    codes = np.arange(30) % 3
    model = SGDClassifier(random_state=0).fit(X, codes)
    criterion = DecisionLoss(loss=named("hinge", 0.0), classes=3)
    decision = model.decision_function(X)
    expected = [
        sum(max(0.0, 1.0 - (1.0 if k == codes[row] else -1.0) * decision[row, k]) for k in range(3))
        for row in range(30)
    ]
    np.testing.assert_allclose(criterion.rows(model, X, codes), expected, rtol=1e-12)


def test_two_classes_have_one_decision() -> None:
    codes = np.arange(30) % 2
    model = SGDClassifier(random_state=0, loss="log_loss").fit(X, codes)
    direct, asked = (DecisionLoss(loss=named("log_loss", 0.0), classes=2, direct=d) for d in (True, False))
    np.testing.assert_allclose(direct.rows(model, X, codes), asked.rows(model, X, codes), rtol=1e-12)
    assert direct.rows(model, X, codes).mean() == pytest.approx(log_loss(codes, model.predict_proba(X)))


@pytest.mark.parametrize("classes", [2, 3])
def test_an_unfitted_linear_model_is_one_of_zeros(classes: int) -> None:
    rows = DecisionLoss(loss=named("log_loss", 0.0), classes=classes).rows(SGDClassifier(), X, np.arange(30) % classes)
    np.testing.assert_allclose(rows, math.log(2) * (classes if classes > 2 else 1))


def test_probabilities_give_the_log_loss() -> None:
    codes = np.arange(30) % 3
    model = MLPClassifier((3,), random_state=0).partial_fit(X, codes, classes=[0, 1, 2])
    assert Probability(classes=3).rows(model, X, codes).mean() == pytest.approx(log_loss(codes, model.predict_proba(X)))


codes = hnp.arrays(np.int64, st.integers(2, 30), elements=st.integers(0, 2)).filter(lambda a: len(set(a.tolist())) == 3)
values = hnp.arrays(np.float64, st.integers(2, 20), elements=numbers)


def constant_model(decision: Any) -> Any:
    """A fitted linear model that says the same of every row."""
    model = SGDRegressor()
    model.coef_ = np.zeros((np.size(decision), 1))
    model.intercept_ = np.atleast_1d(decision).astype(float)
    return model


@given(target=values, loss=st.sampled_from(REGRESSOR_LOSSES), constant=numbers)
def test_no_constant_beats_the_best_constant_value(target: Any, loss: str, constant: float) -> None:
    criterion = DecisionLoss(loss=named(loss, 0.1), classes=0)
    best = criterion.constant(target, None)
    worth = criterion.rows(constant_model(constant), np.zeros((len(target), 1)), target).mean()
    assert best <= worth * (1 + 1e-6) + 1e-6


@given(target=codes, loss=st.sampled_from(CLASSIFIER_LOSSES), constant=hnp.arrays(np.float64, 3, elements=numbers))
def test_no_constant_beats_the_best_constant_decision(target: Any, loss: str, constant: Any) -> None:
    criterion = DecisionLoss(loss=named(loss, 0.1), classes=3)
    best = criterion.constant(target, None)
    worth = criterion.rows(constant_model(constant), np.zeros((len(target), 1)), target).mean()
    assert best <= worth * (1 + 1e-6) + 1e-6


def test_best_constants_in_closed_form() -> None:
    target = np.array([0, 0, 0, 1])
    weight = np.array([1.0, 1.0, 1.0, 3.0])
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    log = DecisionLoss(loss=named("log_loss", 0.0), classes=2)
    assert log.constant(target, None) == pytest.approx(entropy)
    assert log.constant(target, weight) == pytest.approx(math.log(2))
    assert DecisionLoss(loss=named("hinge", 0.0), classes=2).constant(target, None) == pytest.approx(0.5)
    assert Probability(classes=2).constant(target, None) == pytest.approx(entropy)
    assert Labels(names=np.array(["a", "b"])).constant(target, None) == 0.25
    assert Labels(names=np.array(["a", "b"])).constant(target, weight) == 0.5
    assert Elementwise().constant(target, None) == pytest.approx(target.var() / 2)
    assert DecisionLoss(loss=named("squared_error", 0.0), classes=0).constant(target, None) == pytest.approx(
        target.var() / 2
    )
    assert DecisionLoss(loss=named("huber", 0.1), classes=0).constant(np.ones(3), None) == 0.0


def test_poisson_is_half_the_deviance() -> None:
    target, prediction = np.array([0.0, 1.0, 4.0]), np.array([0.5, 2.0, 3.0])
    expected = mean_poisson_deviance(target, prediction) / 2
    assert named("poisson", 0.0)(target, prediction).mean() == pytest.approx(expected)


def test_means_are_weighted_and_undefined_without_weight() -> None:
    losses = np.array([1.0, 3.0])
    assert mean(losses, None) == 2.0
    assert mean(losses, np.array([3.0, 1.0])) == 1.5
    assert math.isnan(mean(losses, np.zeros(2)))
