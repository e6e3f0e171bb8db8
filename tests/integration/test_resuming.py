"""A search that was stopped in the middle of a piece goes on as if it never was."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from networks import make

import lrtune
from lrtune.study.trials.stored_trial import RECORD
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lrtune.core.recipe import Recipe
    from lrtune.study.result import Result

SPACE = lrtune.Space(lr=(1e-4, 10.0), schedule=["constant", "cosine"])


def cutting(every: int) -> Callable[[], bool]:
    """Asks for an end from the time on that it has been asked so often."""
    asked = itertools.count(1)
    return lambda: next(asked) >= every


def known(result: Result) -> list[tuple[Any, ...]]:
    """What a study holds, but for times and cuts."""
    records = [trial.user_attrs[RECORD] for trial in result.study.trials]
    return [
        (trial.params, record["curve"], record["outcome"], record["value"], pytest.approx(record["trained"]))
        for trial, record in zip(result.study.trials, records, strict=True)
    ]


def in_pieces(every: int, *arguments: Any, **options: Any) -> tuple[Result, int]:
    """The same call again and again until it ends by itself; and how often it was stopped."""
    for stopped in range(500):
        result = tune(*arguments, should_stop=cutting(every), **options)
        if result.stopped_because != "stopped from outside":
            return result, stopped
    msg = "it does not end"
    raise AssertionError(msg)


@pytest.mark.parametrize("strategy", ["freeze-thaw", "tpe", "random"])
def test_stopped_in_the_middle_of_pieces_it_ends_as_if_undisturbed(tmp_path: Path, strategy: str) -> None:
    given: dict[str, Any] = {"epochs": 8, "strategy": strategy, "budget": 3.0, "seed": 2, "checkpoint_every": 1e-6}
    whole = tune(make(), SPACE, storage=tmp_path / "whole.db", **given)
    cut, stopped = in_pieces(14, make(), SPACE, storage=tmp_path / "cut.db", **given)
    assert stopped > 3
    assert known(cut) == known(whole)
    assert cut.best_recipe == whole.best_recipe
    assert cut.cost == pytest.approx(whole.cost)


def test_what_was_widened_is_known_when_it_is_resumed(tmp_path: Path) -> None:
    def basin(recipe: Recipe) -> Iterator[float]:
        for epoch in range(recipe.epochs):
            yield 0.3 * (math.log10(recipe.lr) + 1) ** 2 + 0.1 + 2 * math.exp(-epoch / 4)

    space = lrtune.Space(lr=(1e-5, 3e-2))
    given: dict[str, Any] = {"epochs": 9, "strategy": "freeze-thaw", "budget": 5.0}
    whole = tune(basin, space, storage=tmp_path / "whole.db", **given)
    assert any("was widened to" in warning for warning in whole.warnings)
    again = tune(basin, space, storage=tmp_path / "whole.db", **given)
    assert again.warnings == whole.warnings
    assert again.epochs_trained == whole.epochs_trained


def test_a_piece_that_was_cut_off_is_dropped_where_the_budget_no_longer_allows_it(tmp_path: Path) -> None:
    """A generator cannot be saved: what it had trained is lost and paid."""

    def train(recipe: Recipe) -> Iterator[float]:
        for epoch in range(recipe.epochs):
            yield 1 / (recipe.lr + epoch + 1)

    given: dict[str, Any] = {"epochs": 10, "strategy": "random", "budget": 2.0, "storage": tmp_path / "s.db"}
    first = tune(train, SPACE, should_stop=cutting(9), **given)
    assert first.stopped_because == "stopped from outside"
    result, _ = in_pieces(16, train, SPACE, **given)
    assert result.cost <= 2.0 + 1e-9
    assert all(trial.state is not optuna.trial.TrialState.RUNNING for trial in result.study.trials)


def test_another_seed_than_the_study_was_begun_with_is_said(tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 8, "strategy": "random", "storage": tmp_path / "study.db"}
    assert tune(make(), SPACE, budget=3.0, seed=2, **given).warnings == ()
    assert tune(make(), SPACE, budget=4.0, seed=2, **given).warnings == ()
    (said,) = tune(make(), SPACE, budget=4.0, seed=3, **given).warnings
    assert "seed 2" in said
    assert "3" in said
