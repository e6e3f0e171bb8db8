"""The code to paste, run, trains as the run it came from: every kind of estimator, every schedule and option.

Rates are read off the estimators of both, after each minibatch; what they have learned must be equal.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from settings_to_paste import SCHEDULES, WARMUPS
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import (
    PassiveAggressiveClassifier,
    PassiveAggressiveRegressor,
    Perceptron,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lrtune.core.recipe import Recipe
from lrtune.reporting.snippets import snippet
from lrtune.training.estimators.adapters import EstimatorStepper
from lrtune.training.estimators.run import quiet
from lrtune.training.estimators.trainer import SklearnTrainer
from lrtune.training.setups import setup_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROWS, SIZE, EPOCHS = 22, 5, 3  # the last minibatch of an epoch is smaller


class Own(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """An estimator of the user's own, with a learning rate that lrtune cannot know."""

    def __init__(self, eta: float = 0.1, *, random_state: int | None = None, shuffle: bool = True) -> None:
        self.eta, self.random_state, self.shuffle = eta, random_state, shuffle

    def partial_fit(self, X: Any, y: Any) -> Own:  # noqa: N803 -- scikit-learn's name
        if not hasattr(self, "coef_"):
            self.coef_ = np.random.RandomState(self.random_state).randn(X.shape[1])  # type: ignore[attr-defined]  # no stubs for scikit-learn
        self.coef_ = self.coef_ - self.eta * (X.T @ (X @ self.coef_ - y)) / len(y) - 0.01 * float(self.shuffle)
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803 -- scikit-learn's name
        return X @ self.coef_


def table(*, classes: bool) -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(ROWS, 3))
    y = x @ [1.0, -2.0, 0.5]
    return x, np.where(y > 1, "high", np.where(y < -1, "low", "middle")) if classes else y


def tried() -> Iterator[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Every kind of estimator with what a trainer or a recipe can say, as (estimator, trainer, recipe)."""
    yield SGDClassifier(loss="log_loss"), {"metrics": ["accuracy"]}, {"weight_decay": 0.1}
    yield SGDClassifier(learning_rate="constant", class_weight="balanced", average=True), {}, {"optimizer": "sgd"}
    yield SGDClassifier(learning_rate="pa1", eta0=1.0, early_stopping=True), {}, {}
    yield SGDRegressor(learning_rate="adaptive", warm_start=True, shuffle=True), {"metrics": ["r2"]}, {}
    yield SGDRegressor(), {"weighted": True}, {"batch_size": 7}
    yield Perceptron(penalty="l2"), {"metrics": ["accuracy"]}, {}
    yield PassiveAggressiveClassifier(), {}, {}
    yield PassiveAggressiveRegressor(), {}, {}
    yield MLPClassifier([4], solver="sgd", momentum=0.3, learning_rate="invscaling"), {}, {"momentum": 0.8}
    yield MLPClassifier([4], solver="adam", beta_1=0.5, batch_size=9), {"batch_size": None}, {"batch_size": 13}
    yield MLPClassifier([4], solver="adam", early_stopping=True), {}, {"optimizer": "sgd", "weight_decay": 0.1}
    yield MLPRegressor(hidden_layer_sizes=[4], nesterovs_momentum=False), {"metrics": ["r2"]}, {"optimizer": "sgd"}
    yield MLPRegressor(hidden_layer_sizes=[4]), {}, {"optimizer": "adam"}
    yield Own(), {"learning_rate_parameter": "eta"}, {}
    yield make_pipeline(StandardScaler(), SGDRegressor()), {}, {}
    yield make_pipeline(StandardScaler(), MLPClassifier([4])), {}, {}
    yield make_pipeline(SGDClassifier()), {}, {}


def made(estimator: Any, *, weighted: bool = False, **changes: Any) -> tuple[SklearnTrainer, dict[str, Any]]:
    """A trainer, and what is passed to the pasted ``fit``."""
    x, y = table(
        classes=hasattr(estimator, "classes_") or "Classifier" in str(estimator) or "Perceptron" in str(estimator)
    )
    weight = np.linspace(0.1, 2.0, ROWS) if weighted else None
    trainer = SklearnTrainer(
        estimator, x, y, **({"valid": (x, y), "batch_size": SIZE, "sample_weight": weight} | changes)
    )
    return trainer, {"X": x, "y": y, **({} if weight is None else {"sample_weight": weight})}


def rates_of(estimator: Any, rate: str) -> tuple[float, ...]:
    """The learning rate wherever the estimator holds it; zero, which it refuses, may be next to it."""
    kept = getattr(estimator, "_optimizer", None)
    held = [getattr(estimator, rate), *([] if kept is None else [kept.learning_rate_init])]
    return tuple(float(one) if one > 1e-20 else 0.0 for one in held)


def learned(estimator: Any) -> list[Any]:
    if hasattr(estimator, "coefs_"):
        return [*estimator.coefs_, *estimator.intercepts_]
    return [estimator.coef_, getattr(estimator, "intercept_", 0.0)]


def trained(trainer: SklearnTrainer, recipe: Recipe) -> tuple[list[tuple[float, ...]], Any, dict[str, Any]]:
    """The rate of each minibatch of a real run, its estimator at the end, and its setup as a storage gives it back."""
    run = trainer.start([recipe])
    setup = json.loads(json.dumps(setup_of(run)))
    estimator, rates = run.members[0].estimator, []
    while run.alive:
        run.advance(1, evaluate=False)
        rates.append(rates_of(estimator, trainer.task.adapter.rate))
    return rates, estimator, setup


def measured(trainer: SklearnTrainer, what: str) -> Callable[[Any], float]:
    def measure(model: Any) -> float:
        with quiet():
            return trainer.task.evaluate(EstimatorStepper(estimator=model, adapter=trainer.task.adapter, begun=True))[
                what
            ]

    return measure


def check(trainer: SklearnTrainer, model: Any, given: dict[str, Any], recipe: Recipe) -> None:
    """Train a recipe, then paste its code and have it fit the same rows."""
    rates, estimator, setup = trained(trainer, recipe)
    code = snippet(recipe, "sklearn", setup=setup)
    names: dict[str, Any] = {"model": clone(model), "batches": range(0, ROWS, recipe.batch_size or setup["batch_size"])}
    exec(code, names)  # noqa: S102 -- what a person pastes
    learn, got = names["learn"], []

    def watched(*args: Any, **more: Any) -> None:
        learn(*args, **more)
        got.append(rates_of(names["model"], trainer.task.adapter.rate))

    names["learn"] = watched
    more = {"measure": measured(trainer, setup["hears"])} if "plateau" in recipe.schedule else {}
    names["fit"](**given, **more)
    np.testing.assert_allclose(got, rates, rtol=1e-12, err_msg=code)
    for one, other in zip(learned(names["model"]), learned(estimator), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12, err_msg=code)


def run_all(*, one_in: int) -> None:
    """All of it, or one in so many ways for each estimator, in turn: each schedule with each warmup is met."""
    ways = list(itertools.product(SCHEDULES, WARMUPS))
    for number, (estimator, given, told) in enumerate(tried()):
        trainer, passed = made(estimator, **given)
        for schedule, warmup in ways[number % one_in :: one_in]:
            recipe = Recipe(lr=0.0123456789, epochs=EPOCHS, seed=3, schedule=schedule, warmup=warmup, **told)
            try:
                check(trainer, estimator, passed, recipe)
            except Exception as error:
                error.add_note(f"{estimator}: {recipe}")
                raise


@pytest.mark.filterwarnings("ignore")
def test_a_spread_of_estimators_schedules_and_options() -> None:
    run_all(one_in=16)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_estimator_schedule_and_option() -> None:
    run_all(one_in=1)
