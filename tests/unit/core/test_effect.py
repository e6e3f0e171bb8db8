"""Whether the learning rate changes anything: what runs that agree say, and what they do not say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import SGDRegressor

import lrtune
from lrtune.core.curve import Curve, Point
from lrtune.core.effect import alike
from lrtune.core.outcome import Ending
from lrtune.core.recipe import Recipe
from lrtune.errors import SearchError
from lrtune.search.registry import NAMES
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RANGE = (1e-4, 1.0)


def curve(*values: float, steps: Sequence[int] | None = None) -> Curve:
    at = range(1, len(values) + 1) if steps is None else steps
    return Curve(Point(step=s, epoch=float(s), values={"loss": v}) for s, v in zip(at, values, strict=True))


def runs(*curves: Curve, whole: bool = False, ratio: float = 10.0) -> list[tuple[Recipe, Curve, bool]]:
    return [(Recipe(lr=1e-4 * ratio**i, epochs=9), each, whole) for i, each in enumerate(curves)]


def test_three_that_move_alike_say_that_the_learning_rate_changes_nothing() -> None:
    same = alike(runs(curve(3, 2, 1), curve(3, 2, 1), curve(3, 2, 1, 0.5)), "loss", RANGE)
    assert same is not None
    assert (same.sure, same.moving, same.runs) == (True, True, 3)
    assert str(same).startswith("the learning rate changes nothing: 3 runs at learning rates from 0.0001 to 0.01")


@pytest.mark.parametrize(
    "curves",
    [
        (curve(3, 2, 1), curve(3, 2, 1)),  # two may agree by chance
        (curve(3), curve(3), curve(3, 2, 1)),  # all that they share is where they began
        (curve(1, 1, 1), curve(1, 1, 1), curve(1, 1, 1)),  # nothing has moved yet
        (curve(3, 2, 1, steps=[1, 3, 5]), curve(2, 1, steps=[2, 4]), curve(3, 2, 1, steps=[1, 3, 5])),
    ],
)
def test_it_is_not_said_too_soon(curves: tuple[Curve, ...]) -> None:
    same = alike(runs(*curves), "loss", RANGE)
    assert same is None or not same.sure


def test_what_never_changes_is_said_of_whole_runs_over_the_whole_range() -> None:
    flat = curve(1, 1, 1)
    same = alike(runs(flat, flat, flat, whole=True, ratio=100.0), "loss", RANGE)
    assert same is not None
    assert same.sure
    assert not same.moving
    assert str(same).startswith("nothing was learned about the learning rate")
    narrow = alike(runs(flat, flat, flat, whole=True), "loss", (1e-8, 1e4))
    assert narrow is not None
    assert not narrow.sure


def test_other_settings_and_seeds_are_not_compared() -> None:
    moving = curve(3, 2, 1)
    kinds = [Recipe(lr=0.1, epochs=9), Recipe(lr=0.2, epochs=9, seed=1), Recipe(lr=0.3, epochs=9, batch_size=8)]
    same = alike([(recipe, moving, False) for recipe in kinds], "loss", RANGE)
    assert same is not None
    assert same.runs == 0


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8),
    st.integers(0, 7),
    st.integers(0, 3),
    st.sampled_from([math.nan, math.inf, 1e9]),
)
def test_one_difference_settles_that_it_has_an_effect(values: list[float], at: int, which: int, other: float) -> None:
    at %= len(values)
    curves = [curve(*values) for _ in range(4)]
    curves[which] = curve(*values[:at], other, *values[at + 1 :])
    assert alike(runs(*curves), "loss", RANGE) is None


# Searched.


def inert(recipe: Recipe) -> Iterator[float]:
    for epoch in range(recipe.epochs):
        yield 1.0 / (epoch + 1)


def inert_with_a_log(recipe: Recipe) -> Iterator[dict[str, float]]:
    """What is reported beside the metric tells the runs apart, and says nothing of how they train."""
    for epoch, value in enumerate(inert(recipe)):
        yield {"valid_loss": value, "lr": recipe.lr, "seconds": epoch * recipe.lr}


def constant(recipe: Recipe) -> Iterator[float]:
    for _ in range(recipe.epochs):
        yield 1.0


def untrained_first(recipe: Recipe) -> Iterator[float]:
    """Reports the untrained model first: there all learning rates agree."""
    for epoch in range(recipe.epochs):
        yield 10.0 - epoch * min(recipe.lr, 1.0)


@pytest.mark.parametrize("strategy", NAMES)
def test_a_search_ends_early_where_the_learning_rate_changes_nothing(strategy: str) -> None:
    result = tune(inert_with_a_log, lrtune.Space(lr=RANGE), epochs=9, strategy=strategy)
    assert result.ending is Ending.NO_EFFECT
    assert result.cost <= 3.0 + 1e-9
    assert (result.band, result.edge.lr) == (None, None)
    text = result.text()
    assert "the learning rate changes nothing" in text
    assert "none yet" not in text
    assert "clear answer" not in text
    with pytest.raises(SearchError, match="identical numbers") as caught:
        result.demand_effect()
    assert caught.value.exit_code == 3


def test_without_room_for_a_full_training_it_is_an_error() -> None:
    """A limit on time or trials may leave nothing complete; then there is no result to return."""

    def never_ends(recipe: Recipe) -> Iterator[float]:
        for epoch, value in enumerate(inert(recipe)):
            if epoch > 3:
                raise MemoryError
            yield value

    with pytest.raises(SearchError, match="the learning rate changes nothing"):
        tune(never_ends, lrtune.Space(lr=RANGE), epochs=9, trials=4)


@pytest.mark.parametrize("strategy", ["freeze-thaw", "random"])
def test_an_objective_that_is_the_same_everywhere_is_no_clear_answer(strategy: str) -> None:
    said = tune(constant, lrtune.Space(lr=RANGE), epochs=6, strategy=strategy, budget=4.0).text()
    assert "nothing was learned about" in said
    assert "clear answer" not in said


@pytest.mark.parametrize("strategy", [name for name in NAMES if name != "gp"])
def test_that_all_begin_alike_says_nothing(strategy: str) -> None:
    result = tune(untrained_first, lrtune.Space(lr=RANGE), epochs=6, strategy=strategy, budget=4.0)
    assert result.ending is not Ending.NO_EFFECT
    result.demand_effect()


def test_inert_settings_of_an_estimator_are_noticed() -> None:
    """A loss whose gradient vanishes at any learning rate: no residual of these targets leaves the tube."""
    import numpy as np

    features = np.random.default_rng(0).normal(size=(60, 3))
    model = SGDRegressor(loss="epsilon_insensitive", epsilon=1e6, penalty=None)
    trainer = lrtune.SklearnTrainer(model, features, features.sum(axis=1))
    said = tune(trainer, lrtune.Space(lr=(1e-3, 1.0)), epochs=4, strategy="grid", points=4).text()
    assert "nothing was learned about the learning rate" in said


@pytest.mark.parametrize(("function", "budget", "word"), [(inert, None, "no_effect"), (untrained_first, None, "")])
def test_the_ending_is_kept_with_the_study(function: Callable[..., object], budget: float | None, word: str) -> None:
    result = tune(function, lrtune.Space(lr=RANGE), epochs=6, budget=budget)
    stored = result.study.user_attrs["lrtune:result"]["ending"]
    assert stored == result.ending.key
    assert not word or stored == word
