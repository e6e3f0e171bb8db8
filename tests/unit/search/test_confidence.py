"""How sure an answer is: the features, the weights for them, and the shape of what comes out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_contract import JOINT, LR_ONLY

from lrtune.core.outcome import Outcome
from lrtune.search.base import SearchContext, TrialView
from lrtune.search.freeze_thaw.beliefs import Beliefs
from lrtune.search.freeze_thaw.confidence import FEATURES, features, judging, probabilities
from lrtune.search.freeze_thaw.config import CONFIG

LENGTH = 40


def run(number: int, x: float, trained: int, *, rise: float = 0.0) -> TrialView:
    """A run of a basin at 0.01, which overfits by `rise` in its second half."""
    share = np.arange(1.0, trained + 1) / LENGTH
    values = 0.1 + (1 + 300 * 10 ** (x + 2) * share) ** -0.7 + 0.04 * 10 ** (1.2 * (x + 2))
    values = values + rise * np.maximum(0, share - 0.5)
    outcome = Outcome.COMPLETED if trained == LENGTH else None
    recipe = LR_ONLY.recipe({"lr": 10**x}, epochs=LENGTH)
    return TrialView(number=number, recipe=recipe, epochs=share * LENGTH, values=values, outcome=outcome)


def beliefs(*runs: TrialView) -> Beliefs:
    return Beliefs(SearchContext(space=LR_ONLY, epochs=LENGTH, trials=runs, spent=2.0))


USUAL = (run(0, -2.1, LENGTH), run(1, -2.5, 20), run(2, -1.7, 20), run(3, -3.5, 1), run(4, -0.8, 1))


def test_every_feature_has_a_weight() -> None:
    assert len(FEATURES) == len(CONFIG.confidence)


def test_places_far_from_the_best_are_less_probable_than_the_best() -> None:
    known = beliefs(*USUAL)
    left, best, right = probabilities(known, known.best, np.array([-3.6, -2.1, -0.6]))
    assert 0 < left < best
    assert 0 < right < best < 1


def test_runs_judge_from_a_share_of_the_training_on_and_under_the_same_settings() -> None:
    known = beliefs(*USUAL)
    assert [r.number for r in judging(known, known.best)] == [1, 0, 2]
    other = TrialView(
        number=9,
        recipe=JOINT.recipe({"lr": 0.01, "batch_size": 64, "schedule": "cosine", "warmup": 0.0}, epochs=LENGTH),
        epochs=USUAL[0].epochs,
        values=USUAL[0].values + 0.1,
        outcome=Outcome.COMPLETED,
    )
    mixed = beliefs(*USUAL, other)
    assert 9 not in {r.number for r in judging(mixed, mixed.best)}


@pytest.mark.parametrize(("rise", "flag"), [(0.0, 0.0), (0.3, 1.0)])
def test_what_overfits_is_less_sure(rise: float, flag: float) -> None:
    known = beliefs(run(0, -2.1, LENGTH, rise=rise), *USUAL[1:])
    row = dict(zip(FEATURES, features(known, known.best, np.array([known.best.x]))[0], strict=True))
    assert row["overfit"] == flag
    assert CONFIG.confidence[FEATURES.index("overfit")] < -1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(-4.5, 0.5), st.integers(1, LENGTH)), min_size=1, max_size=9))
def test_whatever_was_trained_it_is_a_probability(rows: list[tuple[float, int]]) -> None:
    known = beliefs(run(0, -2.1, LENGTH), *(run(1 + i, x, n) for i, (x, n) in enumerate(rows)))
    best = min(known.observed.completed, key=lambda r: r.last)
    if best in known.learning:
        found = probabilities(known, best, np.linspace(-4, 0, 9))
        assert found.shape == (9,)
        assert ((found > 0) & (found < 1)).all()
