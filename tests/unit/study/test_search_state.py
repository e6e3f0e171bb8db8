"""The state of a search: what it concludes from its trials."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from lrtune.core.curve import Curve, Point
from lrtune.core.divergence import Baseline
from lrtune.core.recipe import Recipe
from lrtune.core.records import TrialRecord
from lrtune.core.space import Space
from lrtune.study.engine.search_state import SearchState
from lrtune.study.trials.stored_trial import StoredTrial


@pytest.mark.parametrize(
    ("changes", "trained", "said"),
    [
        ({"lr": 1.0}, 2.0, True),
        ({"lr": 1.0, "seed": 3}, 2.0, True),
        ({"lr": 1.0}, 0.5, False),
        ({"lr": 0.01}, 2.0, False),
        ({"lr": 1.0, "batch_size": 256}, 2.0, False),
        ({"lr": 1.0, "warmup": 0.1}, 2.0, False),
    ],
    ids=["higher", "another seed", "an early look", "lower", "another batch", "warmed up"],
)
def test_only_what_is_alike_but_for_a_higher_learning_rate_says_that_a_run_is_slow(
    changes: dict[str, Any], trained: float, *, said: bool
) -> None:
    recipe = Recipe(lr=0.1, epochs=10, batch_size=16)
    curve = Curve([Point(step=1, epoch=trained, samples=1, values={"valid_loss": 1.0})])
    trial = StoredTrial(
        record=TrialRecord(number=0, recipe=dataclasses.replace(recipe, **changes), params={}, curve=curve)
    )
    search: Any = SimpleNamespace(
        trials=[trial],
        baseline=Baseline(untrained=2.3),
        settings=SimpleNamespace(epochs=10, metric="valid_loss", direction="minimize"),
    )
    assert SearchState.learned_above(search, recipe) is said


@pytest.mark.parametrize("lr_range", [(1e-4, 1.0), (1e-5, 1.0), (1e-4, 10.0)])
def test_that_the_range_was_widened_is_told_first_and_by_the_range_alone(lr_range: tuple[float, float]) -> None:
    given: Any = dict.fromkeys(("trainer", "settings", "strategy", "trial_store", "run_cache", "place"))
    state = SearchState(
        **given, space=Space(lr=lr_range), lr_range=(1e-4, 1.0), active_searches=given["place"], started=0.0
    )
    state.warnings.append("the best learning rate lay at the end of the range, says a trainer")
    assert state.widened == (lr_range != (1e-4, 1.0))
    *widened, other = state.all_warnings()
    assert other == state.warnings[0]
    low, high = lr_range
    assert [f"widened to {low:g} to {high:g}" in warning for warning in widened] == [True] * state.widened
