"""What an earlier answer does to the next search: its settings, its learning rate at its batch size, an early end."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from strategy_contract import JOINT, LR_ONLY, Laboratory, law

from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.search.base import Finish, SearchContext, Start, TrialView
from lrtune.search.freeze_thaw.beliefs import Beliefs
from lrtune.search.freeze_thaw.prior import ScaledPrior
from lrtune.search.freeze_thaw.strategy import FreezeThaw, Prior
from lrtune.study.result import Result
from lrtune.study.tuning import tune
from lrtune.study.warm_start import prior_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lrtune.core.recipe import Recipe

LENGTH = 60
UNLIKELY = {"batch_size": 256, "schedule": "constant", "warmup": 0.1}  # what nothing speaks for beforehand


def prior(x: float, **others: Any) -> Prior:
    """An answer that is sure of itself within 0.3 decades to either side."""
    return Prior(best=10**x, low=10 ** (x - 0.3), high=10 ** (x + 0.3), others=others)


def first(given: Prior | None, space: Space = JOINT) -> Mapping[str, Any]:
    action = FreezeThaw(given).next(SearchContext(space=space, epochs=LENGTH, budget=4.0))
    assert isinstance(action, Start)
    assert action.params is not None
    return action.params


# Settings.


def test_the_first_look_is_at_its_answer_under_its_settings() -> None:
    preferred = first(None)
    assert (preferred["batch_size"], preferred["schedule"]) == (16, "cosine")
    settings = {**UNLIKELY, "warmup": 0.0}
    assert first(prior(-1.3, **settings)) == {"lr": pytest.approx(10**-1.3), **settings}


def test_settings_that_it_does_not_know_keep_their_prior_score() -> None:
    params = first(prior(-1.3, schedule="constant"))
    assert (params["batch_size"], params["schedule"]) == (16, "constant")


def test_a_setting_that_is_not_searched_is_not_compared() -> None:
    scaled = ScaledPrior(prior(-1.3, optimizer="adamw", momentum=0.5, schedule="cosine"), JOINT)
    keys = Beliefs(SearchContext(space=JOINT, epochs=LENGTH)).combinations
    assert sum(scaled.shares(key) for key in keys) == len(keys) / 2
    assert not any(ScaledPrior(prior(-1.3, batch_size=32), JOINT).shares(key) for key in keys)


# The learning rate.


@pytest.mark.parametrize(("optimizer", "off"), [("sgd", math.log10(4)), ("adam", math.log10(2))])
def test_its_learning_rate_is_compared_at_the_middle_batch_size(optimizer: str, off: float) -> None:
    space = Space(lr=(1e-5, 10.0), batch_size=[16, 64, 256], optimizer=optimizer)
    assert ScaledPrior(prior(-1.0, batch_size=256), space).x == pytest.approx(-1.0 - off)
    assert ScaledPrior(prior(-1.0, batch_size=16), space).x == pytest.approx(-1.0 + off)
    assert ScaledPrior(prior(-1.0), space).x == -1.0
    assert ScaledPrior(prior(-1.0, batch_size=256), LR_ONLY).x == -1.0


def test_a_first_look_at_another_batch_size_is_scaled() -> None:
    """It knows only the batch size, and a batch size that is not searched here: the best prior score decides."""
    space = Space(lr=(1e-5, 10.0), batch_size=[16, 64, 256])
    assert first(prior(-1.0, batch_size=32), space) == {"lr": pytest.approx(10**-1.0 / 2), "batch_size": 16}


# Confirmed, or not.


def complete(number: int, x: float, end: float, space: Space = LR_ONLY, **others: Any) -> TrialView:
    values = np.linspace(1.0, end, LENGTH)
    return TrialView(
        number=number,
        recipe=space.recipe({"lr": 10**x, **others}, epochs=LENGTH),
        epochs=np.arange(1.0, LENGTH + 1),
        values=values,
        outcome=Outcome.COMPLETED,
        result=end,
    )


def confirmed(given: Prior | None, *trials: TrialView, space: Space = LR_ONLY) -> bool:
    return Beliefs(SearchContext(space=space, epochs=LENGTH, trials=trials), given).confirmed


@pytest.mark.parametrize(("x", "held"), [(-2.0, True), (-2.28, True), (-1.72, True), (-2.4, False), (-1.5, False)])
def test_a_best_complete_run_in_its_band_confirms_it(x: float, *, held: bool) -> None:
    assert confirmed(prior(-2.0), complete(0, x, 0.1), complete(1, -3.0, 0.4)) == held


def test_a_band_narrower_than_noise_is_widened() -> None:
    sure = Prior(best=1e-2, low=0.99e-2, high=1.01e-2)
    assert confirmed(sure, complete(0, -2.15, 0.1))
    assert not confirmed(sure, complete(0, -2.25, 0.1))


@pytest.mark.parametrize(("beside", "held"), [(0.1, False), (0.11, False), (0.2, True)])
def test_what_an_earlier_answer_put_there_does_not_confirm_it_among_equals(beside: float, *, held: bool) -> None:
    assert confirmed(prior(-2.0), complete(0, -2.0, 0.1), complete(1, -1.0, beside)) == held


def test_nothing_is_confirmed_before_anything_is_complete_nor_without_an_answer() -> None:
    half = dataclasses.replace(complete(0, -2.0, 0.1), outcome=None, result=None)
    assert not confirmed(prior(-2.0), half)
    assert not confirmed(prior(-2.0), complete(0, -2.0, 0.3), complete(1, -3.0, 0.1))
    assert not confirmed(None, complete(0, -2.0, 0.1))


def test_only_a_run_under_its_settings_confirms_it() -> None:
    """0.04 at batch 256 is 0.01 at the middle one."""
    given = prior(math.log10(0.04), **UNLIKELY)
    assert confirmed(given, complete(0, math.log10(0.04), 0.1, JOINT, **UNLIKELY), space=JOINT)
    assert not confirmed(given, complete(0, -2.0, 0.1, JOINT, **{**UNLIKELY, "batch_size": 64}), space=JOINT)
    assert not confirmed(given, complete(0, math.log10(0.16), 0.1, JOINT, **UNLIKELY), space=JOINT)


def left_to_itself(given: Prior | None) -> tuple[float, float]:
    """Full trainings spent until a search ended by itself, and where its best lies."""
    lab = Laboratory(strategy="freeze-thaw", landscape=law(), epochs=LENGTH, budget=None, check_purity=False)
    lab.mind = FreezeThaw(given)
    lab.run()
    assert isinstance(lab.actions[-1], Finish)
    assert "noise" in lab.actions[-1].why
    best = min(lab.completed, key=lambda seen: float(seen.values[-1]))
    return lab.paid / LENGTH, math.log10(best.recipe.lr)


def test_confirmed_it_ends_after_one_training_and_contradicted_it_does_not() -> None:
    (alone, there), (right, here), (wrong, anyway) = map(left_to_itself, (None, prior(-2.1), prior(-3.4)))
    assert alone >= 2
    assert 1 <= right < 1.5
    assert wrong >= 2
    assert max(abs(x + 2.1) for x in (there, here, anyway)) < 0.3


# From one search to the next.


def test_an_answer_brings_its_other_settings() -> None:
    best = {"lr": 0.1, "value": 0.3, "batch_size": 64, "schedule": "cosine", "warmup": 0.1, "epochs": 27, "seed": 3}
    found = prior_from({"best": best, "band": {"low": 0.05, "high": 0.2}})
    assert (found.best, found.low, found.high) == (0.1, 0.05, 0.2)
    assert found.others == {"batch_size": 64, "schedule": "cosine", "warmup": 0.1}


def test_the_settings_of_a_result_are_those_of_its_best_recipe() -> None:
    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        for share in np.linspace(1 / recipe.epochs, 1, recipe.epochs):
            yield {"valid_loss": law()(recipe, float(share)) + 0.1 * (recipe.schedule == "constant")}

    space = Space(lr=(1e-3, 1.0), schedule=["constant", "cosine"])
    result = tune(train, space, epochs=9, budget=3.0, seed=0)
    assert isinstance(result, Result)
    assert result.best_recipe is not None
    for found in (prior_from(result), prior_from(result.study), prior_from(result.to_json())):
        assert found.best == result.best_recipe.lr
        assert found.others["schedule"] == result.best_recipe.schedule == "cosine"
    assert first(prior_from(result), space)["schedule"] == "cosine"
