"""What trains in place of ``partial_fit``: the same bit for bit, or it gives way."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone, is_classifier
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from sklearn.linear_model import _sgd_fast as sgd_fast
from sklearn.neural_network import MLPClassifier, MLPRegressor

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.training import checkpoint
from lrtune.training.estimators import backpropagation
from lrtune.training.estimators.state import save_fitted
from lrtune.training.estimators.trainer import SklearnTrainer

if TYPE_CHECKING:
    from lrtune.training.base import Report

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(90, 5))
TWO = (TABLE[:, 0] > 0).astype(int)
FOUR = np.digitize(TABLE[:, 0] + 0.3 * RNG.normal(size=90), [-0.6, 0.0, 0.6])
VALUES = TABLE @ RNG.normal(size=5)
WEIGHT = np.where(np.arange(90) % 30 < 9, 0.0, RNG.uniform(size=90))
KINDS = {
    "double": TABLE,
    "single": TABLE.astype(np.float32),
    "sparse": sparse.csr_matrix(np.where(np.abs(TABLE) > 0.5, TABLE, 0.0)),
}
PASSIVE = {"penalty": None, "learning_rate": "pa1"}


def sgd(**options: Any) -> SGDClassifier:
    return SGDClassifier(**{"learning_rate": "constant", "loss": "log_loss", "alpha": 0.01} | options)


def regressor(**options: Any) -> SGDRegressor:
    return SGDRegressor(**{"learning_rate": "constant", "alpha": 0.01} | options)


LINEAR = [
    *(sgd(loss=loss) for loss in sorted(SGDClassifier.loss_functions)),
    *(sgd(penalty=penalty) for penalty in (None, "l1", "elasticnet")),
    *(sgd(average=average, fit_intercept=average == 1) for average in (1, 20)),
    *(regressor(loss=loss, average=average) for loss in sorted(SGDRegressor.loss_functions) for average in (False, 15)),
    *(regressor(penalty=penalty) for penalty in (None, "l1", "elasticnet")),
    sgd(loss="hinge", **PASSIVE),
    regressor(loss="epsilon_insensitive", **PASSIVE),
    Perceptron(),
]
NETWORKS = [
    kind(hidden_layer_sizes=(4, 3), solver=solver, activation=activation)
    for kind in (MLPClassifier, MLPRegressor)
    for solver, activation in (("sgd", "relu"), ("adam", "tanh"), ("adam", "logistic"))
]
MOVING = Recipe(lr=0.05, epochs=3, batch_size=7, schedule="cosine", warmup=0.2, seed=3)
CONSTANT = Recipe(lr=0.05, epochs=3, batch_size=7, seed=3)


def trainer(estimator: Any, kind: str = "double", *, classes: int = 4, weight: Any = None) -> SklearnTrainer:
    y = VALUES if not is_classifier(estimator) else FOUR if classes > 2 else TWO
    return SklearnTrainer(estimator, KINDS[kind], y, sample_weight=weight)


def curve(
    made: SklearnTrainer, recipe: Recipe, steps: int = 1, *, plain: bool = False, evaluate: bool = True
) -> tuple[list[Report], bytes]:
    """All reports, and what was learned in the end."""
    if plain:
        made.task.adapter.inner = made.task.adapter.untouched = None
    else:
        assert made.task.adapter.inner is not None, made.notices
    run = made.start([recipe])
    estimator, reports = run.members[0].estimator, []
    while run.alive:
        reports += run.advance(steps, evaluate=evaluate)
    return reports, checkpoint.encode(save_fitted(estimator))


@pytest.mark.parametrize(
    ("estimator", "kind", "classes"),
    [
        *zip(LINEAR, itertools.cycle(KINDS), itertools.cycle([2, 4])),
        *itertools.product([sgd(), regressor()], KINDS, [2, 4]),
        *zip(NETWORKS, itertools.cycle(KINDS), itertools.cycle([2, 4])),
        (sgd(class_weight={0: 2.0, 1: 0.5}), "double", 2),
        (sgd(class_weight={0: 2.0, 1: 0.5, 2: 1.0, 3: 3.0}), "sparse", 4),
    ],
    ids=lambda value: " ".join(repr(value).split()),
)
def test_minibatches_at_moving_rates_equal_partial_fit(estimator: Any, kind: str, classes: int) -> None:
    ours, theirs = (trainer(estimator, kind, classes=classes) for _ in range(2))
    assert curve(ours, MOVING) == curve(theirs, MOVING, plain=True)


@pytest.mark.parametrize("recipe", [MOVING, CONSTANT])
@pytest.mark.parametrize("estimator", [sgd(), sgd(average=True), regressor(), MLPClassifier((4,))])
def test_weighted_minibatches_equal_partial_fit(estimator: Any, recipe: Recipe) -> None:
    ours, theirs = (trainer(estimator, weight=WEIGHT) for _ in range(2))
    assert curve(ours, recipe) == curve(theirs, recipe, plain=True)


@pytest.mark.parametrize("estimator", [Perceptron(), regressor(penalty=None), sgd(alpha=0.0), sgd(penalty="l1")])
def test_at_one_rate_without_a_shrinking_penalty_they_are_the_same_too(estimator: Any) -> None:
    for kind in ("double", "sparse"):
        (ours, learned), (theirs, plain) = (
            curve(trainer(estimator, kind), CONSTANT, plain=plain) for plain in (False, True)
        )
        assert learned == plain
        for one, other in zip(ours, theirs, strict=True):
            assert one.point.values == pytest.approx(other.point.values, rel=1e-13)


@settings(max_examples=20)
@given(st.integers(1, 40), st.sampled_from([0, 1, 2, 5]), st.floats(1e-4, 0.1), st.sampled_from(sorted(KINDS)))
def test_pieces_at_one_rate_equal_one_partial_fit_of_their_rows(rows: int, choice: int, lr: float, kind: str) -> None:
    estimator = [sgd(), sgd(loss="hinge"), sgd(loss="squared_error"), *[regressor()] * 3][choice]
    made = trainer(estimator, kind)
    recipe = Recipe(lr=lr, epochs=2, batch_size=rows, seed=3)
    run = made.start([recipe])
    ours = run.members[0].estimator
    run.advance(10**6)
    data, theirs = made.task.train, clone(made.task.adapter.template).set_params(eta0=lr)
    rows = made.task.rows_per_step(recipe)
    classes = {"classes": made.task.adapter.classes} if is_classifier(estimator) else {}
    for epoch in range(recipe.epochs):
        order = np.random.default_rng([3, epoch]).permutation(len(data))
        full = len(data) - len(data) % rows  # the last minibatch is a smaller one
        pieces = [*range(0, full, 32 * rows), full, len(data)]
        for begin, end in itertools.pairwise(pieces):
            if begin < end:
                theirs.partial_fit(data.X[order[begin:end]], data.y[order[begin:end]], **classes)
                classes = {}
    np.testing.assert_array_equal(ours.coef_, theirs.coef_)
    np.testing.assert_array_equal(ours.intercept_, theirs.intercept_)
    assert ours.t_ == theirs.t_


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", [sgd(), regressor()])
def test_losses_within_a_piece_are_those_before_each_update(estimator: Any, kind: str) -> None:
    (ours, _), (theirs, _) = (curve(trainer(estimator, kind), CONSTANT, plain=plain) for plain in (False, True))
    for one, other in zip(ours, theirs, strict=True):
        assert one.point.values == pytest.approx(other.point.values, rel=1e-3 if kind == "single" else 1e-12)


def test_a_shrinking_factor_that_becomes_small_is_followed() -> None:
    """The compiled loop multiplies it into the weights below 1e-9, here several times in a piece."""
    (ours, _), (theirs, _) = (
        curve(trainer(regressor(alpha=2.0)), Recipe(lr=0.2, epochs=3, batch_size=9), plain=plain)
        for plain in (False, True)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.point.values == pytest.approx(other.point.values, rel=1e-9)


@pytest.mark.parametrize("recipe", [MOVING, CONSTANT])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", [sgd(), regressor(), Perceptron(), MLPClassifier((4,))], ids=repr)
def test_pauses_change_no_bit(estimator: Any, kind: str, recipe: Recipe) -> None:
    fine, coarse = (curve(trainer(estimator, kind), recipe, steps) for steps in (1, 4))
    assert fine[1] == coarse[1]
    assert [report for report in fine[0] if report.point.step in {r.point.step for r in coarse[0]}] == coarse[0]


def test_a_state_saved_before_pieces_were_still_restores() -> None:
    made = trainer(sgd())
    whole, _ = curve(made, CONSTANT)
    run = made.start([CONSTANT])
    run.advance(5)
    state = run.state()
    assert state is not None
    assert state["members"][0].pop("piece")["first"] == 0
    other = made.start([CONSTANT])
    other.restore(state)
    (report,) = other.advance(10**6)
    assert report.point.step == whole[-1].point.step
    assert report.point.values == pytest.approx(whole[-1].point.values, rel=1e-12)


@pytest.mark.parametrize("kind", ["double", "sparse"])
@pytest.mark.parametrize(("rows", "step"), [(3, 1), (1, 2)])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("estimator", [regressor(), sgd(loss="squared_error")])
def test_an_overflow_ends_a_run_at_the_same_step_for_the_same_reason(
    estimator: Any, rows: int, step: int, schedule: str, kind: str
) -> None:
    recipe = Recipe(lr=1e300, epochs=3, batch_size=rows, schedule=schedule)
    ends = [
        curve(trainer(estimator, kind), recipe, steps, plain=plain, evaluate=False)[0][-1]
        for steps, plain in ((1, False), (3, False), (10**6, False), (1, True))
    ]
    assert ends[0].outcome is Outcome.NON_FINITE
    assert ends[0].point.step == step
    for other in ends[1:]:
        assert (other.outcome, other.why, other.point.step) == (ends[0].outcome, ends[0].why, ends[0].point.step)


# Where they differ, or a part is gone.


def slipped(weights: Any, *rest: Any) -> Any:
    result = sgd_fast_64(weights, *rest)
    np.asarray(weights)[0] += 1e-12
    return result


sgd_fast_64 = sgd_fast._plain_sgd64


def gave_way(estimator: Any, said: str) -> None:
    made = trainer(estimator)
    (notice,) = made.notices
    assert "is trained by partial_fit" in notice
    assert said in notice
    run = made.start([CONSTANT])
    (report,) = run.advance(10**6)
    assert report.outcome is Outcome.COMPLETED


def test_it_gives_way_where_the_compiled_loop_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sgd_fast, "_plain_sgd64")
    gave_way(sgd(), "_plain_sgd64")


def test_it_gives_way_where_the_compiled_loop_trains_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgd_fast, "_plain_sgd64", slipped)
    gave_way(sgd(), "the numbers differ")


def test_it_gives_way_where_backpropagation_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> float:
        msg = "'MLPClassifier' object has no attribute '_backprop'"
        raise AttributeError(msg)

    monkeypatch.setattr(backpropagation, "_step", gone)
    gave_way(MLPClassifier((4,)), "_backprop")


class Counting(SGDClassifier):
    """Has a ``partial_fit`` of its own."""

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Counting:  # noqa: N803
        self.seen_ = getattr(self, "seen_", 0) + len(y)
        super().partial_fit(X, y, classes, sample_weight)
        return self


def test_a_partial_fit_of_the_users_own_is_called() -> None:
    made = trainer(Counting(learning_rate="constant"))
    run = made.start([CONSTANT])
    estimator = run.members[0].estimator
    run.advance(10**6)
    assert estimator.seen_ == CONSTANT.epochs * len(made.task.train)
    assert not any("partial_fit" in notice for notice in made.notices)
