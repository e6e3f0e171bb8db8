"""What a user has told NumPy to do about floating-point errors holds for their code, and not for lrtune's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import SGDClassifier

import lrtune
from lrtune.core.numpy_errors import DEFAULTS, own_errstate, users_errstate
from lrtune.core.recipe import Recipe
from lrtune.schedules import SCHEDULES, for_recipe
from lrtune.search.registry import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPACE = lrtune.Space(lr=(1e-5, 10.0), batch_size=[16, 32], schedule=["constant", "cosine"])


@pytest.fixture(autouse=True)
def raising() -> Iterator[None]:
    with np.errstate(all="raise"):
        yield


@pytest.mark.parametrize("strategy", NAMES)
def test_no_strategy_ends_on_an_underflow_of_its_own(strategy: str, tmp_path: Path) -> None:
    X, y = load_iris(return_X_y=True)  # noqa: N806 -- scikit-learn's name
    trainer = lrtune.SklearnTrainer(SGDClassifier(), X, y)
    result = lrtune.tune(trainer, SPACE, epochs=6, budget=4, strategy=strategy)
    assert result.best_recipe is not None
    assert len(result.trials()) == sum(result.trials_by_outcome.values())
    assert result.text()
    if strategy == "random":
        result.report(tmp_path / "report.html")


def test_a_range_test_ends_on_none() -> None:
    X, y = load_iris(return_X_y=True)  # noqa: N806 -- scikit-learn's name
    found = lrtune.range_test(lrtune.SklearnTrainer(SGDClassifier(), X, y), steps=40)
    assert len(found.rows()) > 40


@pytest.mark.parametrize("name", [*SCHEDULES, "polynomial(power=100)", "exponential(end=1e-12)"])
def test_no_schedule_ends_on_one(name: str) -> None:
    kind = name if "(" in name else SCHEDULES[name].name
    schedule = for_recipe(Recipe(lr=1.0, epochs=1, schedule=kind, warmup=0.0), 10**6)
    assert all(0 <= schedule(p) <= 1 for p in (0.0, 0.5, 1 - 1e-6, 1.0))


def test_the_training_code_has_it_as_the_user_has_it() -> None:
    seen = []

    def train(recipe: Recipe) -> Iterator[float]:
        for _ in range(recipe.epochs):
            seen.append(dict(np.geterr()))
            yield recipe.lr

    mine = dict(np.geterr())
    lrtune.tune(train, lrtune.Space(lr=(1e-3, 1.0)), epochs=2, trials=2, strategy="random")
    assert seen == [mine] * 4
    assert np.geterr() == mine


def test_an_error_that_the_user_asked_for_is_their_codes() -> None:
    def train(recipe: Recipe) -> Iterator[float]:
        yield float(np.exp(np.float64(-1e4))) + recipe.lr

    with pytest.raises(lrtune.UserCodeError, match="FloatingPointError: underflow"):
        lrtune.tune(train, lrtune.Space(lr=(1e-3, 1.0)), epochs=2, trials=2, strategy="random")


def test_what_the_training_code_changes_stays_changed() -> None:
    with own_errstate():
        assert np.geterr() == DEFAULTS
        with users_errstate():
            assert np.geterr()["under"] == "raise"
            np.seterr(under="warn")
            with own_errstate():
                assert np.geterr() == DEFAULTS
        assert np.geterr() == DEFAULTS
        with users_errstate():
            assert np.geterr()["under"] == "warn"
    assert np.geterr()["under"] == "warn"
    with users_errstate():
        assert np.geterr()["under"] == "warn"
