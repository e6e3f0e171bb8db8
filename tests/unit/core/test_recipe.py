from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from drawn import recipes
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.recipe import MAX_SEED, Recipe
from lrtune.errors import RecipeError


@given(recipes)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@given(recipes, st.integers(0, MAX_SEED))
def test_another_seed_changes_nothing_else(recipe: Recipe, seed: int) -> None:
    other = recipe.with_seed(seed)
    assert other.seed == seed
    assert dataclasses.replace(other, seed=recipe.seed) == recipe


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("lr", bad) for bad in (0.0, -1.0, math.nan, math.inf)],
        ("epochs", 0),
        ("batch_size", 0),
        *[("warmup", bad) for bad in (-0.1, math.nan, math.inf)],
        *[(name, bad) for name in ("momentum", "weight_decay", "layer_decay") for bad in (-0.1, math.nan, math.inf)],
        ("seed", -1),
        ("seed", MAX_SEED + 1),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=rf"{name} must be .*got {value!r}"):
        Recipe(**{"lr": 0.1, name: value})


def test_a_recipe_is_frozen_and_keyword_only() -> None:
    recipe = Recipe(lr=0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 0.2  # type: ignore[misc]  # what is refused is tried
    with pytest.raises(TypeError):
        Recipe(0.1)  # type: ignore[misc]  # what is refused is tried
    assert hash(recipe) == hash(Recipe(lr=0.1))


def test_fields_of_a_later_version_are_ignored_and_a_missing_rate_is_said() -> None:
    assert Recipe.from_json({"lr": 0.1, "colour": "red"}) == Recipe(lr=0.1)
    with pytest.raises(RecipeError, match="lr is missing"):
        Recipe.from_json({"epochs": 3})
