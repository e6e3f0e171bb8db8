"""scikit-learn estimators: the contract of every trainer over each kind, and what is special to them."""

# ruff: noqa: N806, PD011 -- X is scikit-learn's name, and a report's values are no pandas
from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from estimator_contract import RECIPES, EstimatorContract, PipelineContract
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from trainer_contract import refused, train

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.errors import DataError, InputError
from lrtune.training import checkpoint
from lrtune.training.estimators.arrays import IndexedRows
from lrtune.training.estimators.run import EstimatorTask
from lrtune.training.estimators.trainer import SklearnTrainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.training.base import Report

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(40, 3))
CLASSES = (FEATURES[:, 0] > 0).astype(int)
VALUES = FEATURES @ [1.0, -2.0, 0.5]


class Averager(RegressorMixin, BaseEstimator):
    """A user's own: a constant that moves towards what it sees, with a random state of its own."""

    def __init__(self, pace: float = 0.1) -> None:
        self.pace = pace

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Averager:  # noqa: N803, ARG002
        if not hasattr(self, "rng_"):
            self.rng_ = np.random.default_rng(3)
            self.old_ = np.random.RandomState(3)
            self.history_ = {"steps": (0, [])}
            self.level_ = np.float64(0.0)
        self.level_ += self.pace * (np.mean(y) - self.level_ + 0.01 * self.rng_.normal() + 0.01 * self.old_.normal())
        steps, seen = self.history_["steps"]
        self.history_ = {"steps": (steps + 1, [*seen[-3:], float(self.level_)])}
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803 -- scikit-learn's name
        return np.full(len(X), self.level_)


class TestPipeline(PipelineContract):
    """A scaler before the estimator."""


class TestManyClasses(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        X, y = load_iris(return_X_y=True)
        return SklearnTrainer(SGDClassifier(average=5), X, np.array(["a", "b", "c"])[y])


class TestWeighted(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        X, y = load_diabetes(return_X_y=True)
        X, y, weight = X[:120], (y[:120] - 150) / 80, np.linspace(0.0, 1.0, 120)
        return SklearnTrainer(SGDRegressor(average=True), X, y, sample_weight=weight, metrics=["r2"])


class TestSparse(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        X, y = load_digits(n_class=2, return_X_y=True)
        return SklearnTrainer(SGDClassifier(loss="modified_huber"), sparse.csr_matrix(X[:120] / 16), y[:120])


class TestPerceptronAdam(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        X, y = load_iris(return_X_y=True)
        return SklearnTrainer(MLPClassifier((8,)), X[:120], y[:120])


class TestPerceptronMomentum(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        estimator = MLPRegressor(hidden_layer_sizes=(5,), solver="sgd")
        return SklearnTrainer(estimator, FEATURES, np.column_stack([VALUES, -VALUES]))


class TestUsersOwn(EstimatorContract):
    def trainer(self) -> SklearnTrainer:
        return SklearnTrainer(Averager(), FEATURES, VALUES, learning_rate_parameter="pace")


def trained(trainer: SklearnTrainer, recipe: Recipe) -> Report:
    run = trainer.start([recipe])
    report = None
    while run.alive:
        (report,) = run.advance(trainer.steps_per_epoch(recipe))
    assert report is not None
    return report


def sgd(**options: Any) -> SGDClassifier:
    return SGDClassifier(loss="log_loss", learning_rate="constant", **options)


# What it trains equals what scikit-learn trains.


@pytest.mark.parametrize(
    ("estimator", "targets"),
    [
        (sgd(eta0=0.1, shuffle=False), CLASSES),
        (SGDRegressor(learning_rate="constant", eta0=0.01, shuffle=False), VALUES),
        (MLPClassifier((4,), learning_rate_init=0.1, random_state=7, shuffle=False), CLASSES),
    ],
)
def test_a_run_equals_a_loop_of_partial_fit(estimator: Any, targets: Any) -> None:
    trainer = SklearnTrainer(estimator, FEATURES, targets, valid=(FEATURES, targets))
    rate = getattr(estimator, "eta0", None) or estimator.learning_rate_init
    run = trainer.start([Recipe(lr=rate, epochs=2, batch_size=16, seed=7)])
    ours = run.members[0].estimator
    run.advance(10**6)
    plain = clone(estimator)
    classes = {"classes": np.unique(targets)} if targets is CLASSES else {}
    for epoch in range(2):
        order = np.random.default_rng([7, epoch]).permutation(40)
        for begin in range(0, 40, 16):
            rows = order[begin : begin + 16]
            plain.partial_fit(FEATURES[rows], targets[rows], **classes)
            classes = {}
    np.testing.assert_allclose(ours.predict(FEATURES), plain.predict(FEATURES), rtol=1e-10)
    for left, right in zip(
        getattr(ours, "coefs_", [ours.coef_] if hasattr(ours, "coef_") else []),
        getattr(plain, "coefs_", [plain.coef_] if hasattr(plain, "coef_") else []),
        strict=True,
    ):
        np.testing.assert_allclose(left, right, rtol=1e-10)  # minibatches at one rate are trained in one go


def test_the_schedule_drives_the_learning_rate() -> None:
    trainer = SklearnTrainer(sgd(), FEATURES, CLASSES)
    run = trainer.start([Recipe(lr=0.5, epochs=4, batch_size=10, schedule="linear", warmup=0.25)])
    rates = []
    estimator = run.members[0].estimator
    for _ in range(12):
        (report,) = run.advance(1)
        rates.append((report.point.lr, estimator.eta0))
    assert all(told == used for told, used in rates)
    assert rates[0][0] == 0.0
    assert rates[3][0] == 0.5
    assert [a > b for (a, _), (b, _) in pairwise(rates[3:])] == [True] * 8


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_the_schedule_drives_the_optimizer_of_a_perceptron(solver: str) -> None:
    trainer = SklearnTrainer(MLPClassifier((4,), solver=solver), FEATURES, CLASSES)
    run = trainer.start([Recipe(lr=0.5, epochs=2, batch_size=10, schedule="linear")])
    estimator = run.members[0].estimator
    for _ in range(4):
        (report,) = run.advance(1)
        optimizer = estimator._optimizer
        assert report.point.lr == (optimizer.learning_rate if solver == "sgd" else optimizer.learning_rate_init)


def test_plateau_is_updated_at_the_end_of_each_epoch() -> None:
    trainer = SklearnTrainer(sgd(), FEATURES, CLASSES)
    run = trainer.start([Recipe(lr=1e-9, epochs=6, batch_size=10, schedule="plateau(factor=0.5, patience=0)")])
    rates = [run.advance(3)[0].point.lr for _ in range(6)]
    assert rates == [1e-9, 1e-9, 5e-10, 2.5e-10, 1.25e-10, 6.25e-11]


def test_the_training_loss_is_the_mean_since_the_last_full_epoch() -> None:
    trainer = SklearnTrainer(sgd(), FEATURES, CLASSES)
    recipe = Recipe(lr=0.1, epochs=2, batch_size=10, seed=5)
    run = trainer.start([recipe])
    told = [run.advance(1)[0].point.values["train_loss"] for _ in range(6)]
    assert told[0] == pytest.approx(math.log(2))  # of a model of zeros
    run = trainer.start([recipe])
    run.advance(3)
    before = clone(run.members[0].estimator)
    before.__dict__.update(run.members[0].estimator.__dict__)
    rows = np.random.default_rng([5, 1]).permutation(30)[:10]
    batch = trainer.task.train.take(rows)
    assert told[3] == pytest.approx(log_loss(batch.y, before.predict_proba(batch.X), labels=[0, 1]))


def test_held_out_numbers_are_those_of_scikit_learn() -> None:
    trainer = SklearnTrainer(sgd(), FEATURES, CLASSES, metrics=["neg_log_loss", "accuracy", "valid_loss"])
    report = trained(trainer, Recipe(lr=0.1, epochs=2, batch_size=8))
    values = report.point.values
    assert list(values) == ["train_loss", "valid_loss", "neg_log_loss", "accuracy"]
    assert values["valid_loss"] == pytest.approx(-values["neg_log_loss"])
    assert report.point.samples == 60
    assert report.point.epoch == 2


@pytest.mark.parametrize("estimator", [SGDClassifier(), MLPClassifier((4,))])
def test_a_large_array_is_read_by_the_numbers_of_its_rows(estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = load_iris(return_X_y=True)
    weight = np.linspace(1.0, 2.0, len(y)) if isinstance(estimator, SGDClassifier) else None
    recipe, made = Recipe(lr=0.01, epochs=2), []
    for most, piece in ((10**9, 10**9), (0, 1000)):  # bytes; a row has 32
        monkeypatch.setattr("lrtune.training.estimators.arrays.COPIED_WHOLE", most)
        monkeypatch.setattr("lrtune.training.estimators.arrays.PIECE", piece)
        trainer = SklearnTrainer(estimator, X, y, metrics=["accuracy"], sample_weight=weight)
        run, values = trainer.start([recipe]), []
        while run.alive:
            values += [report.point.values for report in run.advance(3)]
        made.append((trainer, [*values, {"untrained": trainer.baseline(recipe, "train_loss").untrained}]))
    (copied, one), (indexed, other) = made
    rows = indexed.task.train.X
    assert isinstance(rows, IndexedRows)
    assert np.shares_memory(rows._table, X)
    assert np.array_equal(np.asarray(rows), copied.task.train.X)
    assert len(list(indexed.task.valid.pieces())) == 2
    assert len(one) == len(other) == 4
    for before, now in zip(one, other, strict=True):
        assert now == pytest.approx(before, rel=1e-12)


def test_users_estimator_is_never_changed() -> None:
    estimator = make_pipeline(StandardScaler(), SGDClassifier(early_stopping=True))
    before = repr(estimator)
    trained(SklearnTrainer(estimator, FEATURES, CLASSES), Recipe(lr=0.1))
    assert repr(estimator) == before
    assert not hasattr(estimator[-1], "coef_")
    assert not hasattr(estimator[0], "mean_")


def test_earlier_steps_are_fitted_on_the_training_part_alone() -> None:
    X = np.vstack([np.zeros((4, 1)), np.full((4, 1), 2.0)])
    trainer = SklearnTrainer(
        make_pipeline(StandardScaler(), SGDRegressor()), X, X[:, 0], valid=(np.full((2, 1), 1e6), [1.0, 1.0])
    )
    assert trainer.task.train.X.mean() == 0
    assert trainer.task.train.X.std() == 1
    assert trainer.task.valid.X.min() > 1e5


# The split.


def test_the_split_is_stratified_and_its_seed_decides() -> None:
    y = np.array([0] * 90 + [1] * 10)
    X = np.arange(100.0).reshape(-1, 1)
    trainers = [SklearnTrainer(sgd(), X, y, split_seed=seed, valid_fraction=0.2) for seed in (0, 0, 1)]
    assert [trainer.task.valid.y.sum() for trainer in trainers] == [2, 2, 2]
    assert np.array_equal(trainers[0].task.valid.X, trainers[1].task.valid.X)
    assert not np.array_equal(trainers[0].task.valid.X, trainers[2].task.valid.X)
    assert not set(trainers[0].task.valid.X.ravel()) & set(trainers[0].task.train.X.ravel())


def test_a_class_of_one_row_is_a_notice() -> None:
    trainer = SklearnTrainer(sgd(), FEATURES, [2, *CLASSES[1:]])
    assert any("not stratified" in notice for notice in trainer.notices)
    assert trained(trainer, Recipe(lr=0.1)).outcome is Outcome.COMPLETED


# Divergence, at the step.

DIVERGENT = [
    (SGDRegressor(), VALUES, 3.0, Outcome.EXPLODED),
    (SGDRegressor(), VALUES, 1e300, Outcome.NON_FINITE),
    (SGDClassifier(), CLASSES, 1e12, Outcome.EXPLODED),
    (MLPRegressor(hidden_layer_sizes=(4,), solver="sgd"), VALUES, 1e300, Outcome.NON_FINITE),
    (MLPRegressor(hidden_layer_sizes=(4,)), VALUES, 1e200, Outcome.NON_FINITE),
    (MLPClassifier((4,), solver="sgd"), CLASSES, 1e4, Outcome.EXPLODED),
]


@pytest.mark.parametrize(("estimator", "targets", "lr", "outcome"), DIVERGENT)
def test_divergence_ends_a_run_at_the_step(estimator: Any, targets: Any, lr: float, outcome: Outcome) -> None:
    trainer = SklearnTrainer(estimator, FEATURES, targets)
    recipe = Recipe(lr=lr, epochs=20, batch_size=5)
    run = trainer.start([recipe, Recipe(lr=1e-3, epochs=20, batch_size=5)])
    reports: list[Report] = []
    while 0 in run.alive:
        reports += run.advance(1)
    (end,) = [report for report in reports if report.member == 0 and report.outcome is not None]
    assert end.outcome is outcome
    assert f"step {end.point.step}" in end.why
    assert end.point.step < 120
    assert run.alive == (1,)
    assert train(run, steps=1000)[1]
    assert [report.point.step for report in reports if report.member == 0] == list(range(1, end.point.step + 1))


def test_the_step_of_divergence_does_not_depend_on_the_segments() -> None:
    trainer = SklearnTrainer(SGDRegressor(), FEATURES, VALUES)
    ends = []
    for steps in (1, 4, 1000):
        run = trainer.start([Recipe(lr=0.8, epochs=20, batch_size=5)])
        curve = train(run, steps=steps)[0]
        ends.append(curve[max(curve)])
    assert ends[0] == ends[1] == ends[2]


class Greedy(Averager):
    """Runs out of memory in its second minibatch."""

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Greedy:  # noqa: N803 -- scikit-learn's name
        if hasattr(self, "level_") and self.history_["steps"][0] == 2:
            raise MemoryError
        super().partial_fit(X, y, sample_weight)
        return self


def test_running_out_of_memory_is_an_outcome() -> None:
    report = trained(
        SklearnTrainer(Greedy(), FEATURES, VALUES, learning_rate_parameter="pace"), Recipe(lr=0.1, epochs=9)
    )
    assert report.outcome is Outcome.OUT_OF_MEMORY
    assert report.point.step == 3


class Broken(Averager):
    """Fails in a way of its own."""

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Broken:  # noqa: N803 -- scikit-learn's name
        if hasattr(self, "level_") and self.history_["steps"][0] == 2:
            msg = "mine"
            raise ValueError(msg)
        super().partial_fit(X, y, sample_weight)
        return self


def test_other_exceptions_are_the_users_own() -> None:
    trainer = SklearnTrainer(Broken(), FEATURES, VALUES, learning_rate_parameter="pace")
    with pytest.raises(ValueError, match="mine"):
        trained(trainer, Recipe(lr=0.1, epochs=9))


# Settings and recipes.


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (SGDClassifier(), 'learning_rate="optimal" of SGDClassifier ignores eta0'),
        (SGDRegressor(), 'learning_rate="invscaling"'),
        (MLPClassifier(learning_rate="adaptive", solver="sgd"), 'learning_rate="adaptive"'),
        (sgd(early_stopping=True), "early_stopping of SGDClassifier has been turned off"),
        (MLPClassifier(early_stopping=True), "early_stopping of MLPClassifier has been turned off"),
        (sgd(warm_start=True), "warm_start"),
    ],
)
def test_a_setting_that_lrtune_replaces_is_a_notice(estimator: Any, said: str) -> None:
    trainer = SklearnTrainer(estimator, FEATURES, VALUES if isinstance(estimator, SGDRegressor) else CLASSES)
    assert [notice for notice in trainer.notices if said in notice]
    assert trained(trainer, Recipe(lr=0.01)).outcome is Outcome.COMPLETED


def test_no_notice_where_nothing_is_replaced() -> None:
    assert SklearnTrainer(sgd(), FEATURES, CLASSES).notices == ()


def test_a_batch_size_of_a_linear_model_is_a_notice() -> None:
    trainer = SklearnTrainer(sgd(), FEATURES, CLASSES)
    trainer.start([Recipe(lr=0.1)])
    assert trainer.notices == ()
    trainer.start([Recipe(lr=0.1, batch_size=4)])
    trainer.start([Recipe(lr=0.1, batch_size=8)])
    assert len(trainer.notices) == 1
    assert "after each row" in trainer.notices[0]


def test_a_parameter_that_changes_nothing_is_a_notice() -> None:
    class Inert(Averager):
        def __init__(self, pace: float = 0.1, colour: float = 1.0) -> None:
            self.pace, self.colour = pace, colour

    trainer = SklearnTrainer(Inert(), FEATURES, VALUES, learning_rate_parameter="colour")
    assert "colour of Inert changed nothing" in trainer.notices[0]
    assert SklearnTrainer(Inert(), FEATURES, VALUES, learning_rate_parameter="pace").notices == ()


def test_balanced_classes_become_numbers() -> None:
    trainer = SklearnTrainer(sgd(class_weight="balanced"), FEATURES, [0] * 30 + [1] * 10)
    assert trainer.task.adapter.template.class_weight == {0: pytest.approx(40 / 60), 1: 2.0}
    assert trained(trainer, Recipe(lr=0.1)).outcome is Outcome.COMPLETED


def test_class_weights_weigh_the_loss_as_the_estimator_does() -> None:
    weights, classes = {0: 1.0, 1: 5.0}, [0] * 30 + [1] * 10
    by_class, by_row = (
        SklearnTrainer(sgd(**options), FEATURES, classes, sample_weight=rows, valid=(FEATURES, classes))
        for options, rows in (({"class_weight": weights}, None), ({}, [weights[name] for name in classes]))
    )
    ones = np.ones(40)
    found = trained(by_class, Recipe(lr=0.01, epochs=2)).point.values
    stepper = by_class.task.untrained(Recipe(lr=0.01))
    assert stepper is not None
    rows = by_class.task.adapter.criterion.rows(stepper.estimator, by_class.task.valid.X, by_class.task.valid.target)
    weight = np.array([weights[name] for name in classes])
    assert stepper.losses(by_class.task.valid) == pytest.approx(np.average(rows, weights=weight))
    assert found["train_loss"] == pytest.approx(trained(by_row, Recipe(lr=0.01, epochs=2)).point.values["train_loss"])
    constant = by_class.task.adapter.criterion.constant(by_class.task.valid.target, weight)
    assert by_class.baseline(Recipe(lr=0.01), "valid_loss").chance == pytest.approx(constant)
    both = SklearnTrainer(sgd(class_weight=weights), FEATURES, classes, sample_weight=2 * ones)
    assert trained(both, Recipe(lr=0.01)).point.values["train_loss"] > 0
    assert "loss" in by_class.fingerprint()
    assert "loss" not in by_row.fingerprint()


def test_recipes_reach_the_parameters() -> None:
    trainer = SklearnTrainer(MLPClassifier((4,)), FEATURES, CLASSES)
    run = trainer.start([Recipe(lr=0.1, optimizer="sgd", momentum=0.5, weight_decay=0.25, batch_size=300)])
    estimator = run.members[0].estimator
    run.advance(1)
    assert (estimator.solver, estimator.momentum, estimator.alpha) == ("sgd", 0.5, 0.25)
    assert trainer.steps_per_epoch(run.recipes[0]) == 1
    assert len(estimator.loss_curve_) <= 1
    linear = SklearnTrainer(sgd(), FEATURES, CLASSES).start([Recipe(lr=0.1, weight_decay=0.25, optimizer="sgd")])
    assert linear.members[0].estimator.alpha == 0.25


@pytest.mark.parametrize(
    ("estimator", "change", "said"),
    [
        (sgd(), {"momentum": 0.9}, "momentum 0.9: it has none"),
        (sgd(), {"optimizer": "adam"}, "optimizer 'adam'"),
        (sgd(), {"layer_decay": 0.5}, "layer_decay"),
        (sgd(penalty=None), {"weight_decay": 0.5}, "penalty is None"),
        (MLPClassifier(), {"optimizer": "rmsprop"}, 'choose "sgd" or "adam"'),
        (MLPClassifier(), {"momentum": 0.5}, "adam has none"),
        (MLPClassifier(), {"optimizer": "sgd", "momentum": 1.5}, r"\[0, 1\]"),
        (sgd(), {"schedule": "no such"}, "schedule"),
        (sgd(), {"warmup": 10**6}, "warmup"),
    ],
)
def test_a_recipe_that_it_cannot_train_is_refused(estimator: Any, change: dict[str, Any], said: str) -> None:
    refused(SklearnTrainer(estimator, FEATURES, CLASSES), Recipe(lr=0.1, **change), said)


def test_batch_size_falls_back_to_the_estimators_own() -> None:
    def steps(**options: Any) -> int:
        estimator = MLPClassifier((4,), batch_size=options.pop("own", "auto"))
        trainer = SklearnTrainer(estimator, FEATURES, CLASSES, valid=(FEATURES, CLASSES), **options)
        return trainer.steps_per_epoch(Recipe(lr=0.1))

    assert (steps(), steps(own=4), steps(batch_size=20), steps(own=4, batch_size=20)) == (2, 10, 2, 2)


def test_perceptron_and_the_deprecated_passive_aggressive() -> None:
    assert trained(SklearnTrainer(Perceptron(), FEATURES, CLASSES), Recipe(lr=1.0)).outcome is Outcome.COMPLETED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        linear_model = pytest.importorskip("sklearn.linear_model")
        if not hasattr(linear_model, "PassiveAggressiveClassifier"):
            pytest.skip("scikit-learn has none any more")
        estimator = linear_model.PassiveAggressiveClassifier()
    trainer = SklearnTrainer(estimator, FEATURES, CLASSES, learning_rate_parameter="C")
    run = trainer.start([Recipe(lr=1e-4), Recipe(lr=1.0)])
    losses = {report.member: report.point.values["valid_loss"] for report in run.advance(100)}
    assert losses[0] > 1.5 * losses[1]


def test_what_a_learning_rate_that_only_limits_or_scales_changes() -> None:
    """Passive-aggressive steps are those of the margin; a perceptron from zero predicts the same at any rate."""
    bounded = SGDClassifier(loss="hinge", learning_rate="pa1", penalty=None)
    free = Perceptron()
    for estimator, told, metric in ((bounded, "only limits it", "valid_loss"), (free, "only scales", "accuracy")):
        trainer = SklearnTrainer(estimator, FEATURES, CLASSES, metrics=["accuracy"])
        assert [notice for notice in trainer.notices if told in notice] == list(trainer.notices[:1])
        run = trainer.start([Recipe(lr=lr, epochs=2, seed=1) for lr in (64.0, 1024.0)])
        first, second = {report.member: report.point.values for report in run.advance(10**6)}.values()
        assert first[metric] == second[metric]
    assert not SklearnTrainer(Perceptron(penalty="l2"), FEATURES, CLASSES).notices


# What knowing nothing is worth.


def test_baselines() -> None:
    y = np.array([0] * 30 + [1] * 10)
    trainer = SklearnTrainer(sgd(), FEATURES, y, metrics=["accuracy", "neg_log_loss", "roc_auc"])
    recipe = Recipe(lr=0.1)
    share = trainer.task.valid.y.mean()
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert trainer.baseline(recipe, "valid_loss").untrained == pytest.approx(math.log(2))
    assert trainer.baseline(recipe, "valid_loss").chance == pytest.approx(entropy)
    assert trainer.baseline(recipe, "neg_log_loss").chance == pytest.approx(-entropy)
    assert trainer.baseline(recipe, "accuracy").chance == pytest.approx(1 - share)
    assert trainer.baseline(recipe, "roc_auc").chance == 0.5
    assert trainer.baseline(recipe, "train_loss").untrained == pytest.approx(math.log(2))
    assert trainer.baseline(recipe, "unknown").chance is None


def test_the_baseline_of_a_perceptron_is_that_of_its_seed() -> None:
    trainer = SklearnTrainer(MLPRegressor(hidden_layer_sizes=(4,)), FEATURES, VALUES)
    first, again, other = (trainer.baseline(Recipe(lr=0.1, seed=seed), "valid_loss") for seed in (1, 1, 2))
    assert first == again != other
    assert first.chance == pytest.approx(trainer.task.valid.y.var() / 2)


# The fingerprint.


def test_the_fingerprint_tells_data_and_estimator_apart() -> None:
    def told(estimator: Any = None, X: Any = FEATURES, **options: Any) -> dict[str, str]:  # noqa: N803 -- scikit-learn's name
        return dict(SklearnTrainer(estimator or SGDClassifier(), X, CLASSES, **options).fingerprint())

    base = told()
    assert base["data"].startswith("40 x 3, sha256 ")
    assert base["estimator"] == "SGDClassifier()"
    assert told(SGDClassifier(eta0=0.5, random_state=3, learning_rate="constant")) == base
    assert told(SGDClassifier(alpha=0.5))["estimator"] == "SGDClassifier(alpha=0.5)"
    edited = FEATURES.copy()
    edited[3, 1] += 1e-12
    for other in (
        told(X=edited),
        told(sample_weight=np.arange(40.0)),
        told(X=pd.DataFrame(FEATURES, columns=list("abc"))),
    ):
        assert other["data"] != base["data"]
    assert told(split_seed=1)["held out"] != base["held out"]


def test_the_fingerprint_holds_no_address() -> None:
    def part(X: Any) -> Any:  # noqa: N803 -- scikit-learn's name
        return X

    from sklearn.preprocessing import FunctionTransformer

    estimator = make_pipeline(FunctionTransformer(part), SGDClassifier())
    told = SklearnTrainer(estimator, FEATURES, CLASSES).fingerprint()["estimator"]
    assert "part" in told
    assert "0x" not in told


# What is refused before any training.


def replaced(table: Any, where: Any, value: float) -> Any:
    changed = np.array(table, dtype=float)
    changed[where] = value
    return changed


FRAME = pd.DataFrame(FEATURES, columns=["a", "b", "c"])
BAD_TABLES: list[tuple[str, Callable[[], Any], str]] = [
    ("NaN", lambda: (sgd(), replaced(FEATURES, (7, 1), math.nan), CLASSES), "first in row 7"),
    ("inf", lambda: (sgd(), replaced(FEATURES, (7, 1), math.inf), CLASSES), "1 missing or infinite value"),
    ("frame", lambda: (sgd(), FRAME.mask(FRAME > 2), CLASSES), "in column '"),
    ("sparse", lambda: (sgd(), sparse.csr_matrix(replaced(FEATURES, (7, 1), math.nan)), CLASSES), "row 7"),
    ("text", lambda: (sgd(), FEATURES.astype(str), CLASSES), "holds text"),
    ("column of text", lambda: (sgd(), FRAME.assign(colour="red"), CLASSES), "column 'colour' holds text, first 'red'"),
    ("dates", lambda: (sgd(), FRAME.assign(day=pd.Timestamp("2020-01-01")), CLASSES), "no plain numbers"),
    ("missing integer", lambda: (sgd(), FRAME.assign(d=pd.array([1] * 39 + [None], dtype="Int64")), CLASSES), "row 39"),
    ("one dimension", lambda: (sgd(), FEATURES[:, 0], CLASSES), "rows and columns"),
    ("ragged", lambda: (sgd(), [[1.0, 2.0], [3.0]], [0, 1]), "equally long"),
    ("lengths", lambda: (sgd(), FEATURES, CLASSES[:30]), "X has 40 rows and y has 30"),
    ("no rows", lambda: (sgd(), FEATURES[:0], CLASSES[:0]), "no rows"),
    ("no table", lambda: (sgd(), 3, CLASSES), "must be a table"),
    ("two rows", lambda: (SGDRegressor(), FEATURES[:2], VALUES[:2]), "too few to hold out"),
    ("one class", lambda: (sgd(), FEATURES, np.ones(40)), "only the class 1.0"),
    ("NaN in y", lambda: (SGDRegressor(), FEATURES, replaced(VALUES, 3, math.nan)), "y: 1 missing"),
    ("NaN as class", lambda: (sgd(), FEATURES, replaced(CLASSES, 3, math.nan)), "y: 1 missing"),
    ("None as class", lambda: (sgd(), FEATURES, pd.Series(["a", None] * 20)), "y: 20 missing"),
    ("mixed classes", lambda: (sgd(), FEATURES, pd.Series(["a", 1] * 20, dtype=object)), "mixes int and str"),
    ("values as classes", lambda: (sgd(), FEATURES, VALUES), "use a regressor"),
    ("text as values", lambda: (SGDRegressor(), FEATURES, ["a", "b"] * 20), "y holds text"),
    ("two targets", lambda: (SGDRegressor(), FEATURES, FEATURES), "one column"),
    (
        "scaled NaN",
        lambda: (make_pipeline(StandardScaler(), sgd()), replaced(FEATURES, (7, 1), math.nan), CLASSES),
        "after the",
    ),
    (
        "bad step",
        lambda: (make_pipeline(StandardScaler(), sgd()), FEATURES.astype(str).astype(object) + "x", CLASSES),
        "earlier steps",
    ),
]


@pytest.mark.parametrize(
    ("table", "said"), [(make, said) for _, make, said in BAD_TABLES], ids=[b[0] for b in BAD_TABLES]
)
def test_a_bad_table_is_refused_in_a_sentence(table: Callable[[], Any], said: str) -> None:
    estimator, X, y = table()
    with pytest.raises(DataError) as caught:
        SklearnTrainer(estimator, X, y)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sample_weight": -np.ones(40)}, "zero or more"),
        ({"sample_weight": np.zeros(40)}, "not all zero"),
        ({"sample_weight": np.ones(3)}, "each of the 40 rows"),
        ({"sample_weight": np.full(40, math.nan)}, "sample_weight: 40 missing"),
        ({"valid": (FEATURES[:5], CLASSES[:4])}, "held-out X has 5 rows"),
        ({"valid": (FEATURES[:5, :2], CLASSES[:5])}, "3 columns and the held-out X 2"),
        ({"valid": (FEATURES[:2], ["a", "b"])}, "one kind"),
        ({"valid": FEATURES}, "valid must be"),
        ({"valid_fraction": 0}, "valid_fraction"),
        ({"batch_size": 0}, "batch_size"),
        ({"metrics": ["accurracy"]}, "did you mean 'accuracy'"),
        ({"metrics": ["neg_log_loss"]}, "cannot score SGDClassifier"),
        ({"learning_rate_parameter": "alpha"}, "is eta0"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        SklearnTrainer(SGDClassifier(), FEATURES, CLASSES, **options)
    assert said in str(caught.value)


class Unweighted(ClassifierMixin, BaseEstimator):
    def __init__(self, eta: float = 0.1) -> None:
        self.eta = eta

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Unweighted:  # noqa: N803, ARG002
        self.classes_ = getattr(self, "classes_", classes)
        self.common_ = self.classes_[0]
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803 -- scikit-learn's name
        return np.full(len(X), self.common_)


@pytest.mark.parametrize(
    ("estimator", "options", "said"),
    [
        (SVC(), {}, "no partial_fit"),
        (SGDClassifier, {}, "call it"),
        (make_pipeline(StandardScaler(), "passthrough"), {}, "last step"),
        (None, {}, "got NoneType"),
        (MLPClassifier(solver="lbfgs"), {}, "has no learning rate"),
        (SGDClassifier(loss="hing"), {}, "Got 'hing'"),
        (GaussianNB(), {}, "has no learning rate that lrtune knows"),
        (GaussianNB(), {"learning_rate_parameter": "prior"}, "did you mean 'priors'"),
        (Unweighted(), {}, "learning_rate_parameter='eta'"),
        (Unweighted(), {"learning_rate_parameter": "eta", "sample_weight": np.ones(40)}, "takes no sample_weight"),
    ],
)
def test_an_estimator_that_cannot_be_tuned_is_refused(estimator: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        SklearnTrainer(estimator, FEATURES, CLASSES, **options)
    assert said in str(caught.value)


# Tables of every make.

MAKES: list[tuple[str, Callable[[], Any]]] = [
    ("lists", lambda: (FEATURES.tolist(), CLASSES.tolist())),
    ("float32", lambda: (FEATURES.astype(np.float32), CLASSES)),
    ("integers", lambda: ((10 * FEATURES).astype(int), CLASSES)),
    ("fortran", lambda: (np.asfortranarray(FEATURES), CLASSES)),
    ("objects", lambda: (FEATURES.astype(object), CLASSES.astype(object))),
    ("frame", lambda: (FRAME, pd.Series(CLASSES, name="label"))),
    (
        "odd frame",
        lambda: (FRAME.assign(d=pd.array([1] * 40, dtype="Int64"), e=True).set_index("d"), pd.Series(CLASSES)),
    ),
    ("words", lambda: (FRAME, pd.Series(np.where(CLASSES, "yes", "no")))),
    ("categories", lambda: (FRAME, pd.Series(np.where(CLASSES, "yes", "no"), dtype="category"))),
    ("booleans", lambda: (FEATURES, CLASSES.astype(bool))),
    ("coo", lambda: (sparse.coo_matrix(FEATURES), CLASSES)),
    ("csc array", lambda: (sparse.csc_array(FEATURES), CLASSES)),
    ("sparse integers", lambda: (sparse.csr_matrix((10 * FEATURES).astype(int)), CLASSES)),
]


@pytest.mark.parametrize("make", [make for _, make in MAKES], ids=[name for name, _ in MAKES])
@pytest.mark.parametrize("estimator", [SGDClassifier(loss="log_loss"), MLPClassifier((4,))])
def test_tables_of_every_make(make: Callable[[], Any], estimator: Any) -> None:
    X, y = make()
    report = trained(SklearnTrainer(estimator, X, y, metrics=["accuracy"]), Recipe(lr=0.1, epochs=5, batch_size=5))
    assert report.outcome is Outcome.COMPLETED
    assert report.point.values["accuracy"] >= 0.6


def test_a_pipeline_may_take_what_its_end_cannot() -> None:
    frame = FRAME.mask(FRAME > 2).assign(colour=["red", "blue"] * 20)
    estimator = make_pipeline(
        SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"), SGDClassifier()
    )
    assert trained(SklearnTrainer(estimator, frame, CLASSES), Recipe(lr=0.1)).outcome is Outcome.COMPLETED


def test_weights_count() -> None:
    weight = np.where(CLASSES == 1, 1e-6, 1.0)
    trainer = SklearnTrainer(sgd(), FEATURES[:, 1:], CLASSES, sample_weight=weight, metrics=["accuracy"])
    report = trained(trainer, Recipe(lr=0.1, epochs=20, batch_size=4))
    assert report.point.values["accuracy"] == pytest.approx(1.0, abs=1e-3)  # the others weigh nothing
    assert report.point.values["valid_loss"] < 0.2


def test_a_minibatch_without_weight_changes_nothing() -> None:
    weight = np.zeros(40)
    weight[35:] = 1.0
    trainer = SklearnTrainer(sgd(), FEATURES, CLASSES, sample_weight=weight, valid=(FEATURES, CLASSES))
    run = trainer.start([Recipe(lr=0.1, epochs=3, batch_size=1)])
    reports = [run.advance(1)[0] for _ in range(120)]
    assert reports[-1].outcome is Outcome.COMPLETED
    assert all(math.isfinite(report.point.values["valid_loss"]) for report in reports)


# Saving.


class Opaque(Averager):
    """Holds what cannot be written as numbers."""

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Opaque:  # noqa: N803 -- scikit-learn's name
        super().partial_fit(X, y, sample_weight)
        self.lines_ = iter([1, 2, 3])
        return self


def test_an_estimator_that_cannot_be_saved_says_so() -> None:
    trainer = SklearnTrainer(Opaque(), FEATURES, VALUES, learning_rate_parameter="pace")
    assert not trainer.saves
    assert "cannot be saved, because lines_ is a builtins.list_iterator" in trainer.notices[0]
    run = trainer.start([Recipe(lr=0.1)])
    run.advance(1)
    assert run.state() is None


def test_a_state_of_other_data_is_refused() -> None:
    recipe = Recipe(lr=0.1)
    run = SklearnTrainer(sgd(), FEATURES, CLASSES).start([recipe])
    run.advance(1)
    state = run.state()
    assert state is not None
    other = SklearnTrainer(sgd(), 2 * FEATURES, CLASSES).start([recipe])
    with pytest.raises(InputError, match="its work differs"):
        other.restore(state)


def test_a_damaged_state_is_refused() -> None:
    trainer = SklearnTrainer(MLPClassifier((4,)), FEATURES, CLASSES)
    run = trainer.start([Recipe(lr=0.1, epochs=2)])
    run.advance(1)
    text = checkpoint.encode(run.state() or {})
    for break_it in (
        lambda member: member.pop("step"),
        lambda member: member["learned"]["_optimizer"].update({"class": "os.system"}),
        lambda member: member["learned"].update(coefs_={"kind": "nonsense"}),
        lambda member: member["learned"]["_optimizer"].pop("attributes"),
        lambda member: member.update(guard=3),
    ):
        state = checkpoint.decode(text)
        break_it(state["members"][0])
        with pytest.raises(InputError):
            trainer.start([Recipe(lr=0.1)]).restore(state)


class Strict(Averager):
    """Takes no learning rate of zero, as a user's own may."""

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Strict:  # noqa: N803 -- scikit-learn's name
        if not self.pace > 0:
            msg = "pace must be positive"
            raise ValueError(msg)
        super().partial_fit(X, y, sample_weight)
        return self


class TestStrict(EstimatorContract):
    recipes: ClassVar[tuple[Recipe, ...]] = tuple(Recipe(lr=0.1 / (i + 1), epochs=3, batch_size=15) for i in range(2))

    def trainer(self) -> SklearnTrainer:
        return SklearnTrainer(Strict(), FEATURES, VALUES, learning_rate_parameter="pace")

    def test_its_untrained_loss_is_unknown(self) -> None:
        baseline = self.trainer().baseline(self.recipes[0], "valid_loss")
        assert baseline.untrained is None
        assert baseline.chance is not None


class Hopeless(Averager):
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Hopeless:  # noqa: N803, ARG002
        msg = "never"
        raise ValueError(msg)


def test_an_estimator_that_cannot_take_the_table_is_refused() -> None:
    with pytest.raises(InputError, match="Hopeless cannot be trained on this table: never"):
        SklearnTrainer(Hopeless(), FEATURES, VALUES, learning_rate_parameter="pace")


def test_a_closed_or_dropped_member_holds_no_estimator() -> None:
    run = SklearnTrainer(sgd(), FEATURES, CLASSES).start(RECIPES[:2])
    run.advance(1)
    run.drop([0])
    assert run.members[0].estimator is None
    assert run.members[1].estimator is not None
    run.close()
    assert run.members[1].estimator is None


def test_classifiers_that_say_little_have_a_loss_too() -> None:
    trainer = SklearnTrainer(Unweighted(), FEATURES, CLASSES, learning_rate_parameter="eta")
    report = trained(trainer, Recipe(lr=0.1))
    assert report.point.values["valid_loss"] == pytest.approx(trainer.task.valid.y.mean())


def test_memory_that_runs_out_in_scoring_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = SklearnTrainer(sgd(), FEATURES, CLASSES)

    def full(*_: Any) -> dict[str, float]:
        raise MemoryError

    monkeypatch.setattr(EstimatorTask, "evaluate", full)
    report = trained(trainer, Recipe(lr=0.1))
    assert report.outcome is Outcome.OUT_OF_MEMORY
