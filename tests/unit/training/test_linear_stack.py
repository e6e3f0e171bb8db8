"""Linear models trained together: what each would be alone, within rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.base import is_classifier
from sklearn.datasets import load_digits
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.training.estimators import linear_stack
from lrtune.training.estimators.linear_stack import stackable
from lrtune.training.estimators.trainer import SklearnTrainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.training.base import Report

X, Y = load_digits(return_X_y=True)
X, Y = X[:150] / 16, Y[:150]
VALUES = X @ np.random.default_rng(0).normal(size=64) / 8
CLOSE = {"rel": 1e-9, "abs": 1e-12}


def sgd(loss: str, **options: Any) -> SGDClassifier:
    return SGDClassifier(**{"loss": loss, "learning_rate": "constant", "alpha": 0.01} | options)


def recipes(count: int = 8, *, most: float = 0.03, **options: Any) -> list[Recipe]:
    schedules = ["constant", "cosine", "linear"]
    return [
        Recipe(**{"lr": float(lr), "epochs": 2, "batch_size": 7, "schedule": schedules[n % 3], "seed": 1} | options)
        for n, lr in enumerate(np.geomspace(1e-3, most, count))
    ]


def trainer(estimator: Any, **options: Any) -> SklearnTrainer:
    return SklearnTrainer(estimator, X, Y if is_classifier(estimator) else VALUES, **options)


def reports(made: SklearnTrainer, given: Sequence[Recipe], steps: int = 10) -> list[list[Report]]:
    """Of each member."""
    run = made.start(given)
    found: list[list[Report]] = [[] for _ in given]
    while run.alive:
        for report in run.advance(steps):
            found[report.member].append(report)
    return found


def same(together: Sequence[Report], alone: Sequence[Report], **tolerance: float) -> None:
    for one, other in zip(together, alone, strict=True):
        assert (one.point.step, one.point.samples, one.point.lr) == (
            other.point.step,
            other.point.samples,
            other.point.lr,
        )
        assert (one.outcome, one.why) == (other.outcome, other.why)
        assert one.point.values == pytest.approx(other.point.values, nan_ok=True, **tolerance or CLOSE)


@pytest.fixture
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together, however small they are."""
    monkeypatch.setattr(linear_stack, "speedup", lambda *_: 2.0)


@pytest.mark.usefixtures("_always")
@pytest.mark.parametrize(
    "estimator",
    [
        *(sgd(loss) for loss in sorted(SGDClassifier.loss_functions)),
        *(SGDRegressor(loss=loss, learning_rate="constant") for loss in sorted(SGDRegressor.loss_functions)),
        sgd("log_loss", penalty=None, fit_intercept=False),
        Perceptron(),
    ],
    ids=lambda e: " ".join(repr(e).split()),
)
def test_together_equals_alone(estimator: Any) -> None:
    made = trainer(estimator)
    given = recipes(3) if estimator.penalty is None else [*recipes(3), *recipes(1, weight_decay=0.1)]
    stacked = getattr(estimator, "loss", "") != "modified_huber"
    assert len(stackable(made.start(given).members)) == stacked
    for number, together in enumerate(reports(made, given)):
        same(together, reports(made, [given[number]])[0])


def test_two_classes() -> None:
    made = SklearnTrainer(sgd("log_loss"), X, Y % 2)
    given = recipes(80)
    assert [len(group) for group in stackable(made.start(given).members)] == [80]
    together = reports(made, given, 25)
    for number in (0, 40, 79):
        same(together[number], reports(made, [given[number]], 25)[0])


def test_pauses_change_no_bit() -> None:
    made = trainer(sgd("hinge"))
    fine, coarse = (reports(made, recipes(), steps) for steps in (1, 9))
    for one, other in zip(fine, coarse, strict=True):
        steps = {report.point.step for report in other}
        assert [report for report in one if report.point.step in steps] == other


@pytest.mark.parametrize("most", [1e3, 1e300])
def test_one_that_diverges_ends_as_it_would_alone_and_touches_no_other(most: float) -> None:
    made = trainer(sgd("squared_error", penalty=None))
    given = [*recipes(8), Recipe(lr=most, epochs=2, batch_size=7, seed=1)]
    together = reports(made, given)
    assert together[-1][-1].outcome in {Outcome.EXPLODED, Outcome.NON_FINITE}
    same(together[-1], reports(made, [given[-1]])[0], rel=1e-6)
    for number in (0, 7):
        same(together[number], reports(made, [given[number]])[0])


def test_one_may_leave_for_a_run_of_its_own() -> None:
    made = trainer(sgd("log_loss"))
    given = recipes()
    whole = reports(made, given)
    run = made.start(given)
    run.advance(10)
    state = run.state()
    assert state is not None
    single = made.start([given[3]])
    single.restore({**state, "recipes": [given[3].to_json()], "members": [state["members"][3]]})
    (report,) = single.advance(10)
    assert report.point.values == pytest.approx(whole[3][1].point.values, **CLOSE)
    run.drop([3])
    for report in run.advance(10):
        assert report.point.values == pytest.approx(whole[report.member][1].point.values, **CLOSE)


@pytest.mark.parametrize(
    ("estimator", "given"),
    [
        (sgd("log_loss"), [recipe.with_seed(number) for number, recipe in enumerate(recipes())]),
        (sgd("log_loss"), recipes(2)),  # too few to be worth it
        (sgd("log_loss"), recipes(schedule="plateau(patience=0)")),
        (sgd("log_loss", average=True), recipes()),
        (sgd("log_loss", penalty="l1"), recipes()),
        (sgd("log_loss", alpha=10.0), recipes(most=0.5)),
    ],
)
def test_others_are_trained_in_turn(estimator: Any, given: list[Recipe]) -> None:
    made = trainer(estimator)
    assert stackable(made.start(given).members) == []
    alone = reports(made, [given[-1]])[0]
    assert [report.point for report in reports(made, given)[-1]] == [report.point for report in alone]


def wide(**options: Any) -> SklearnTrainer:
    """One whose models pay together, even two."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 400)) / 20
    return SklearnTrainer(sgd("log_loss"), features, np.arange(120) % 10, **options)


def test_what_it_is_worth_follows_from_shapes() -> None:
    given = Recipe(lr=0.01, epochs=2)
    assert wide().stack_speedup(given, 8) > wide().stack_speedup(given, 2) > 1.1
    assert wide().stack_speedup(given, 1) == 1.0
    assert wide().stack_speedup(Recipe(lr=0.01, epochs=2, schedule="plateau"), 8) == 1.0
    assert trainer(sgd("log_loss")).stack_speedup(given, 8) == 1.0  # two go one by one


def test_runs_are_joined_and_stay_runs_of_their_own() -> None:
    made, given = wide(), recipes(4)
    whole = [reports(made, [recipe], 5)[0] for recipe in given]
    runs = [made.start([recipe]) for recipe in given]
    joint = made.together(runs)
    assert joint is not None
    assert joint.recipes == tuple(given)
    for report in joint.advance(5):
        assert report.point.values == pytest.approx(whole[report.member][0].point.values, **CLOSE)
    joint.drop([1])
    assert (joint.alive, runs[1].alive) == ((0, 2, 3), (0,))
    state = runs[0].state()
    assert [report.member for report in joint.advance(5)] == [0, 2, 3]
    (left,) = runs[1].advance(5)
    assert left.point.values == pytest.approx(whole[1][1].point.values, **CLOSE)
    assert state is not None
    runs[0].restore(state)
    (again,) = runs[0].advance(5)
    assert again.point.values == pytest.approx(whole[0][1].point.values, **CLOSE)
    joint.close()
    assert all(run.alive for run in runs)


def test_what_cannot_be_trained_together_is_not_joined() -> None:
    made, given = wide(), recipes(2)
    ahead, behind = (made.start([recipe]) for recipe in given)
    ahead.advance(1)
    assert made.together([ahead, behind]) is None  # not at the same step
    assert made.together([behind, wide().start([given[0]])]) is None  # another table
    other = made.start([given[0].with_seed(2)])
    assert made.together([behind, other]) is None  # other rows


def test_a_run_that_was_interrupted_beside_others_has_no_state() -> None:
    made = wide(metrics={"broken": broken})
    runs = [made.start([recipe]) for recipe in recipes(3)]
    joint = made.together(runs)
    assert joint is not None
    BROKEN.append(True)
    try:
        with pytest.raises(RuntimeError, match="broken"):
            joint.advance(5)
    finally:
        BROKEN.clear()
    assert [run.state() for run in runs] == [None] * 3
    assert joint.alive == ()


BROKEN: list[bool] = []


def broken(estimator: Any, table: Any, target: Any) -> float:
    """A scorer that fails when it is told to."""
    del estimator, table, target
    if BROKEN:
        msg = "broken"
        raise RuntimeError(msg)
    return 0.0
