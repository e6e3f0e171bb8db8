"""A space: what it holds, what it refuses, and the coordinates in which samplers search it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lrtune.core.recipe import Recipe
from lrtune.core.space import Space, suggest
from lrtune.errors import RecipeError, SpaceError

SCHEDULES = ["constant", "cosine", "cosine(floor=0.1)", "linear", "multistep(at=[0.3, 0.6])", "onecycle"]


@st.composite
def ranges(draw: st.DrawFn, low: float, high: float, *, whole: bool = False) -> tuple[float, float]:
    ends: Any = st.integers(int(low), int(high)) if whole else st.floats(low, high, allow_subnormal=False)
    one, other = sorted(draw(st.lists(ends, min_size=2, max_size=2, unique=True)))
    return one, other


def some(values: st.SearchStrategy[Any], span: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[Any]:
    """Not given, fixed, choices, or a range."""
    kinds = [st.none(), values, st.lists(values, min_size=1, max_size=5, unique=True)]
    return st.one_of(*kinds, *([] if span is None else [span]))


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    fractions = st.floats(0, 0.9, allow_subnormal=False)
    return Space(
        lr=draw(ranges(1e-12, 1e6)),
        batch_size=draw(some(st.integers(1, 4096), ranges(1, 4096, whole=True))),
        schedule=draw(some(st.sampled_from(SCHEDULES))),
        warmup=draw(some(fractions | st.integers(1, 500), ranges(0, 0.9) | ranges(1, 500, whole=True))),
        optimizer=draw(some(st.sampled_from(["sgd", "momentum", "adam", "adamw"]))),
        momentum=draw(some(fractions, ranges(0, 0.99))),
        weight_decay=draw(some(fractions, ranges(0, 0.1))),
        layer_decay=draw(some(st.floats(0.1, 1), ranges(0.1, 1))),
        batch_exponent=draw(st.none() | st.floats(0, 1, allow_subnormal=False)),
    )


@st.composite
def points(draw: st.DrawFn) -> tuple[Space, dict[str, Any]]:
    space = draw(spaces())
    return space, {name: draw(inside(distribution)) for name, distribution in space.distributions().items()}


def inside(distribution: Any) -> st.SearchStrategy[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return st.sampled_from(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return st.integers(distribution.low, distribution.high)
    return st.floats(distribution.low, distribution.high)


# What it holds.


@given(points())
def test_a_point_becomes_a_recipe_and_back(case: tuple[Space, dict[str, Any]]) -> None:
    space, params = case
    recipe = space.recipe(params, epochs=7, seed=3)
    assert space.params(recipe) == params
    assert space.params(Recipe.from_json(json.loads(json.dumps(recipe.to_json())))) == params
    assert (recipe.epochs, recipe.seed) == (7, 3)
    assert all(getattr(recipe, name) == value for name, value in space.fixed.items())
    assert space.contains(params)


@given(spaces())
def test_a_space_survives_json(space: Space) -> None:
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert hash(again) == hash(space)
    assert again.difference(space) == []
    assert repr(again) == repr(space)


@given(spaces())
def test_names_fixed_and_distributions_fit_together(space: Space) -> None:
    assert space.names[0] == "lr"
    assert tuple(space.distributions()) == tuple(space.decoupled()) == space.names
    assert not set(space.names) & set(space.fixed)
    low, high = space.lr_range
    assert space.distributions()["lr"] == FloatDistribution(low, high, log=True)


@given(spaces())
def test_optuna_keeps_the_distributions_as_they_are(space: Space) -> None:
    for distribution in space.distributions().values():
        text = optuna.distributions.distribution_to_json(distribution)
        assert optuna.distributions.json_to_distribution(text) == distribution


def test_tuples_are_ranges_lists_are_choices_and_scalars_are_fixed() -> None:
    space = Space(lr=(1e-4, 1.0), batch_size=(8, 512), warmup=[0.1, 0.0], momentum=0.9, weight_decay=(1e-6, 1e-2))
    assert space.distributions() == {
        "lr": FloatDistribution(1e-4, 1.0, log=True),
        "batch_size": IntDistribution(8, 512, log=True),
        "warmup": CategoricalDistribution((0.0, 0.1)),
        "weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
    }
    assert space.fixed == {"momentum": 0.9}


def test_a_weight_decay_from_zero_is_on_a_linear_scale() -> None:
    space = Space(lr=(1e-4, 1.0), weight_decay=(0.0, 0.1))
    assert space.distributions()["weight_decay"] == FloatDistribution(0.0, 0.1)


def test_warmup_steps_are_whole() -> None:
    space = Space(lr=(1e-4, 1.0), warmup=(10, 1000))
    assert space.distributions()["warmup"] == IntDistribution(10, 1000, log=True)


def test_more_choices_than_any_search_tries_are_refused_at_once() -> None:
    assert len(Space(lr=(1e-4, 1.0), batch_size=list(range(1, 1001))).distributions()["batch_size"].choices) == 1000
    with pytest.raises(SpaceError, match=r"batch_size: at most 1000 choices are searched \(got 100000\)"):
        Space(lr=(1e-4, 1.0), batch_size=list(range(1, 100_001)))


def test_one_choice_is_a_fixed_value() -> None:
    assert Space(lr=(1e-4, 1.0), batch_size=[32]) == Space(lr=(1e-4, 1.0), batch_size=32)


def test_the_order_of_choices_does_not_matter() -> None:
    one = Space(lr=(1e-4, 1.0), batch_size=[64, 16], schedule=["linear", "cosine"])
    assert one == Space(lr=(1e-4, 1.0), batch_size=[16, 64], schedule=["cosine", "linear"])


def test_schedules_are_kept_in_their_plain_form() -> None:
    assert Space(lr=(1e-4, 1.0), schedule=["cosine( floor=0.10 )", "Linear"]).to_json()["schedule"] == [
        "cosine(floor=0.1)",
        "linear",
    ]


def test_numbers_of_numpy_are_numbers() -> None:
    space = Space(lr=(np.float32(0.5), np.int64(2)), batch_size=[np.int64(4), np.int64(8)])
    assert json.loads(json.dumps(space.to_json())) == {"lr": {"low": 0.5, "high": 2.0}, "batch_size": [4, 8]}


def test_a_study_file_says_the_same() -> None:
    table = {"lr": [1e-5, 10.0], "batch_size": [16, 64], "warmup": {"low": 0.0, "high": 0.2}, "optimizer": "adam"}
    assert Space.from_mapping(table) == Space(lr=(1e-5, 10.0), batch_size=[16, 64], warmup=(0.0, 0.2), optimizer="adam")


def test_a_point_must_name_exactly_what_is_searched() -> None:
    space = Space(lr=(1e-4, 1.0), batch_size=[16, 64])
    with pytest.raises(SpaceError, match="a point must name lr, batch_size"):
        space.recipe({"lr": 0.1})
    assert not space.contains({"lr": 0.1})


@pytest.mark.parametrize(
    "point",
    [
        {"lr": 2.0},
        {"lr": True},
        {"lr": "0.1"},
        {"lr": math.nan},
        {"batch_size": 32},
        {"batch_size": True},
        {"extra": 1},
    ],
)
def test_what_lies_outside_is_not_contained(point: dict[str, Any]) -> None:
    space = Space(lr=(1e-4, 1.5), batch_size=[1, 16])
    assert space.contains({"lr": 0.1, "batch_size": 16})
    assert not space.contains({"lr": 0.1, "batch_size": 16} | point)


# Batch size and learning rate.


@given(points())
def test_decoupled_coordinates_lead_back(case: tuple[Space, dict[str, Any]]) -> None:
    space, params = case
    values = space.to_decoupled(params)
    back = space.from_decoupled(values)
    assert back.pop("lr") == pytest.approx(params["lr"], rel=1e-9)
    assert back == {name: value for name, value in params.items() if name != "lr"}


@given(points())
def test_every_point_lies_within_the_decoupled_ranges(case: tuple[Space, dict[str, Any]]) -> None:
    space, params = case
    values = space.to_decoupled(params)
    for name, distribution in space.decoupled().items():
        if isinstance(distribution, CategoricalDistribution):
            assert values[name] in distribution.choices
        else:
            slack = 1e-9 * abs(distribution.high)
            assert distribution.low * (1 - 1e-9) <= values[name] <= distribution.high + slack


@given(spaces(), st.data())
def test_every_decoupled_point_is_in_the_space(space: Space, data: st.DataObject) -> None:
    values = {name: data.draw(inside(distribution)) for name, distribution in space.decoupled().items()}
    assert space.contains(space.from_decoupled(values))


@given(spaces(), st.floats(1e-6, 1e3))
def test_scaling_and_its_inverse(space: Space, lr: float) -> None:
    params = {"lr": lr, "batch_size": 48, "optimizer": "adam"}
    assert space.unscaled_lr(space.scaled_lr(params), params) == pytest.approx(lr, rel=1e-12)


def test_without_a_searched_batch_size_the_scaled_rate_is_the_rate() -> None:
    for space in (Space(lr=(1e-4, 1.0)), Space(lr=(1e-4, 1.0), batch_size=128)):
        assert space.scaled_lr({"lr": 0.3}) == 0.3
        assert space.decoupled()["lr"] == FloatDistribution(1e-4, 1.0, log=True)


@pytest.mark.parametrize(("optimizer", "ratio"), [("sgd", 16.0), ("momentum", 16.0), ("adam", 4.0), ("AdamW", 4.0)])
def test_sgd_scales_with_the_batch_and_adam_with_its_root(optimizer: str, ratio: float) -> None:
    space = Space(lr=(1e-4, 1.0), batch_size=[16, 64, 256], optimizer=optimizer)
    small, middle, large = (space.unscaled_lr(0.1, {"batch_size": batch}) for batch in (16, 64, 256))
    assert middle == pytest.approx(0.1)
    assert large / small == pytest.approx(ratio)


def test_a_given_exponent_wins() -> None:
    space = Space(lr=(1e-4, 1.0), batch_size=(16, 64), optimizer="adam", batch_exponent=0.0)
    assert space.exponent("adam") == space.exponent("sgd") == 0.0
    assert space.scaled_lr({"lr": 0.5, "batch_size": 64}) == pytest.approx(0.5)


def test_a_searched_optimizer_takes_its_own_exponent() -> None:
    space = Space(lr=(1e-2, 1.0), batch_size=[1, 100], optimizer=["sgd", "adam"])
    assert space.unscaled_lr(1.0, {"batch_size": 100, "optimizer": "sgd"}) == pytest.approx(10.0)
    assert space.unscaled_lr(1.0, {"batch_size": 100, "optimizer": "adam"}) == pytest.approx(math.sqrt(10.0))
    lr = space.decoupled()["lr"]
    assert isinstance(lr, FloatDistribution)
    assert (lr.low, lr.high) == pytest.approx((1e-3, 10.0))


# Changing and comparing.


def test_reaching_moves_the_ends_of_the_learning_rate_only() -> None:
    space = Space(lr=(1e-3, 1.0), batch_size=[16, 64], batch_exponent=0.7)
    wider = space.reaching(1e-4).reaching(100.0)
    assert wider.lr_range == (1e-4, 100.0)
    assert {**wider.to_json(), "lr": None} == {**space.to_json(), "lr": None}
    assert space.reaching(0.1) == space


def test_no_range_is_widened_to_where_no_learning_rate_trains() -> None:
    with pytest.raises(SpaceError, match="1e-30 to 1e\\+12"):
        Space(lr=(1e-3, 1.0)).reaching(1e-31)


@given(ranges(1e-30, 1e12), st.floats(-40, 20))
def test_a_point_made_from_a_logarithm_is_a_learning_rate_of_the_range_that_it_widens(
    span: tuple[float, float], x: float
) -> None:
    space = Space(lr=span)
    low, high = space.lr_range
    for end in (low, high):
        assert space.contains({"lr": space.lr_at(math.log10(end))})
    lr = space.lr_at(x)
    wider = space.reaching(lr)
    assert wider.contains({"lr": lr})
    assert wider.lr_range == (min(low, lr), max(high, lr))
    assert low <= lr <= high or not math.log10(low) <= x <= math.log10(high)


def test_the_difference_is_readable() -> None:
    one = Space(lr=(1e-5, 1.0), batch_size=[16, 64], momentum=0.9)
    other = Space(lr=(1e-5, 10.0), batch_size=[16, 64], warmup=[0.0, 0.1], batch_exponent=0.5)
    assert one.difference(other) == [
        "lr: 1e-05 to 1 -> 1e-05 to 10",
        "warmup: not set -> one of 0, 0.1",
        "momentum: 0.9 -> not set",
        "batch_exponent: not set -> 0.5",
    ]
    assert one != other


@given(spaces(), spaces())
def test_no_difference_means_equal(one: Space, other: Space) -> None:
    assert (one.difference(other) == []) == (one == other)


def test_an_unusually_high_learning_rate_is_told() -> None:
    assert Space(lr=(1e-5, 1e3)).warnings == ()
    (warning,) = Space(lr=(1e-5, 1e4)).warnings
    assert "10000" in warning


# What it refuses.

BAD: list[tuple[dict[str, Any], str]] = [
    ({"lr": [1, 0.1]}, r"lr: low must be < high \(got 1 and 0.1\)"),
    ({"lr": [1, 1]}, r"lr: low must be < high \(got 1 and 1\)"),
    ({"lr": [0, 1]}, "got 0"),
    ({"lr": [-1, 1]}, "got -1"),
    ({"lr": math.nan}, "lr must be a range"),
    ({"lr": 0.1}, "lr must be a range"),
    ({"lr": "fast"}, "lr must be a range"),
    ({"lr": [math.nan, 1]}, "got nan"),
    ({"lr": {"low": 0.1, "high": math.inf}}, "got inf"),
    ({"lr": {"low": True, "high": 2}}, "got True"),
    ({"lr": ["1e-5", 1]}, "without quotes"),
    ({"lr": [1, 10**26]}, "got 1000000000"),
    ({"lr": [1, 10**400]}, "got 1000000000"),
    ({"lr": [1, 10**6000]}, "too many digits"),
    ({"lr": [1e-320, 1]}, "got 1e-320"),
    ({"lr": [1e-5, 1e300]}, r"got 1e\+300"),
    ({"lr": [1, 2, 3]}, r"two numbers \(low, high\) \(got 3\)"),
    ({"lr": [[1], 2]}, r"got \[1\]"),
    ({"lr": {"low": 1, "high": 2, "log": True}}, "low and high and nothing else"),
    ({"lr": {"low": 1}}, "low and high and nothing else"),
    ({"lr": None}, "got None"),
    ({"batch_size": []}, "at least one choice"),
    ({"batch_size": [16, 16.0]}, "got 16 twice"),
    ({"batch_size": [0]}, "whole number from 1"),
    ({"batch_size": [1.5]}, "got 1.5"),
    ({"batch_size": True}, "got True"),
    ({"batch_size": [[16, 32]]}, r"got \[16, 32\]"),
    ({"batch_size": 10**10}, "got 10000000000"),
    ({"batch_size": None}, "got None"),
    ({"warmup": [1.5]}, "whole number of steps"),
    ({"warmup": -0.1}, "got -0.1"),
    ({"warmup": {"low": 0.5, "high": 10}}, "of fractions below 1 or of steps"),
    ({"warmup": [0, -0.0]}, "twice"),
    ({"momentum": 1}, r"in \[0, 1\)"),
    ({"weight_decay": 1e-310}, "got 1e-310"),
    ({"layer_decay": 0}, r"in \(0, 1\]"),
    ({"batch_exponent": 3}, "from 0 to 2"),
    ({"batch_exponent": [0.5, 1.0]}, r"got \[0.5, 1.0\]"),
    ({"schedule": ["cosine", "cosin"]}, "did you mean cosine"),
    ({"schedule": ["cosine", "cosine(floor=0.0)"]}, "got cosine twice"),
    ({"schedule": {"low": 1, "high": 2}}, "cannot be a range"),
    ({"schedule": "warmup(0.1) + cosine"}, "setting of its own"),
    ({"schedule": 3}, "the name of a schedule"),
    ({"optimizer": [""]}, "the name of an optimizer"),
    ({"optimizer": ["sgd\n"]}, "the name of an optimizer"),
    ({"lerning_rate": [1, 2]}, "did you mean lr"),
    ({"learning-rate": [1, 2]}, "did you mean lr"),
    ({"batch_sise": [1, 2]}, "did you mean batch_size"),
    ({"wd": 0.1}, "did you mean weight_decay"),
    ({"zzzz": 1}, "known are lr"),
    ({3: 1}, "known are lr"),
]


@pytest.mark.parametrize(("table", "words"), BAD, ids=[f"{n}" for n in range(len(BAD))])
def test_nonsense_is_refused_with_one_sentence_that_names_the_key(table: dict[str, Any], words: str) -> None:
    with pytest.raises(SpaceError, match=words) as caught:
        Space.from_mapping({"lr": [1e-3, 1.0], **table})
    text = str(caught.value)
    assert text.startswith("space: ")
    assert str(next(iter(table))) in text
    assert "\n" not in text
    assert len(text) < 250


def test_a_space_needs_the_learning_rate() -> None:
    with pytest.raises(SpaceError, match="lr is missing"):
        Space.from_mapping({"batch_size": [16, 32]})
    with pytest.raises(SpaceError, match="a table of settings"):
        Space.from_mapping([1, 2])  # type: ignore[arg-type]


def test_an_unknown_argument_is_refused_like_an_unknown_key() -> None:
    with pytest.raises(SpaceError, match="did you mean lr"):
        Space(lr=(1e-3, 1.0), lerning_rate=0.1)  # type: ignore[arg-type]


@given(st.dictionaries(st.sampled_from(["lr", "batch_size", "schedule", "warmup"]) | st.text(), st.from_type(object)))
def test_whatever_is_given_nothing_but_a_space_error_comes_out(table: dict[str, Any]) -> None:
    try:
        Space.from_mapping(table)
    except SpaceError as error:
        assert "\n" not in str(error)  # noqa: PT017 -- not every table is refused


# Inside a plain Optuna objective.


def test_suggest_gives_a_recipe_in_a_plain_study() -> None:
    space = Space(lr=(1e-4, 1.0), batch_size=(8, 64), schedule=["constant", "cosine"], momentum=0.5)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    recipes: list[Recipe] = []

    def objective(trial: optuna.Trial) -> float:
        recipes.append(suggest(trial, space, epochs=5, seed=trial.number))
        return recipes[-1].lr

    study.optimize(objective, n_trials=20)
    assert [space.params(recipe) for recipe in recipes] == [trial.params for trial in study.trials]
    assert [recipe.seed for recipe in recipes] == list(range(20))
    assert all(trial.distributions == space.distributions() for trial in study.trials)
    assert len({recipe.schedule for recipe in recipes}) == 2


def test_a_recipe_of_a_space_is_still_checked() -> None:
    with pytest.raises(RecipeError, match="lr must be"):
        Space(lr=(1e-4, 1.0)).recipe({"lr": math.nan})
