"""What needs no tuning: how it is compared, with whom it can be, and what is said where it cannot."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from networks import make, plain

import lrtune
from lrtune.core.outcome import Outcome
from lrtune.errors import InputError
from lrtune.search.base import Continue, Finish, SearchContext, Start, TrialView, Wait
from lrtune.search.baselines.tuning_free import WAYS, refusal
from lrtune.study import comparison
from lrtune.training.networks import optimizer_packages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrtune.core.recipe import Recipe

every = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
installed = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("prodigyopt", "schedulefree")),
    reason="prodigyopt or schedulefree is not installed (extra tuning-free)",
)
SPACE = lrtune.Space(
    lr=(1e-3, 1e-1), batch_size=8, schedule=["linear", "step"], warmup=0.3, momentum=0.5, layer_decay=0.7
)


def generator(recipe: Recipe) -> Iterator[dict[str, float]]:
    for _ in range(recipe.epochs):
        yield {"valid_loss": 0.1 + abs(math.log10(recipe.lr) + 2)}


def context(*trials: TrialView, **changes: Any) -> SearchContext:
    way = WAYS["prodigy"]
    given: dict[str, Any] = {"space": way.space(SPACE), "epochs": 4, "trials": trials, "budget": 3.0}
    return SearchContext(**{**given, **changes})


def seen(trained: int, **changes: Any) -> TrialView:
    way = WAYS["prodigy"]
    recipe = way.space(SPACE).recipe({"lr": way.lr}, epochs=4)
    return TrialView(number=0, recipe=recipe, epochs=np.arange(1.0, trained + 1), values=np.ones(trained), **changes)


# -- the strategy --------------------------------------------------------------------------------------------


def test_it_trains_once_and_ends() -> None:
    way = WAYS["prodigy"]
    first = way.next(context())
    assert isinstance(first, Start)
    assert (first.params, first.until) == ({"lr": 1.0}, 4.0)
    assert isinstance(way.next(context(seen(4, outcome=Outcome.COMPLETED), spent=1.0)), Finish)
    assert isinstance(way.next(context(seen(2, outcome=Outcome.NON_FINITE), spent=0.5)), Finish)


def test_what_was_interrupted_goes_on_and_what_somebody_trains_is_waited_for() -> None:
    way = WAYS["prodigy"]
    assert way.next(context(seen(1), spent=0.25)) == Continue(number=0, until=4.0, why="to its end")
    assert isinstance(way.next(context(seen(1, until=4.0), spent=1.0)), Wait)


def test_the_budget_is_never_overspent() -> None:
    way = WAYS["prodigy"]
    assert isinstance(way.next(context(budget=1.0, spent=0.5)), Finish)
    assert isinstance(way.next(context(seen(1, repaid_epochs=1.0), budget=1.0, spent=0.25)), Finish)


@every
def test_the_authors_recommendation_goes_before_the_space(way: Any) -> None:
    recipe = way.space(SPACE).recipe({"lr": way.lr}, epochs=3)
    assert (recipe.lr, recipe.schedule, recipe.warmup) == (way.lr, way.schedule, way.warmup)
    assert (recipe.optimizer, recipe.momentum, recipe.layer_decay) == (way.optimizer, None, 1.0)
    assert recipe.batch_size == 8  # the task's, where it is fixed
    assert way.space(lrtune.Space(lr=(1e-3, 1.0), batch_size=[8, 16])).fixed.get("batch_size") is None


# -- compared ------------------------------------------------------------------------------------------------


@installed
def test_both_cost_one_training_a_seed_and_stand_beside_the_others() -> None:
    trainer = make(model=plain, layer_decay=0.7)
    names = ["random", *WAYS]
    found = lrtune.compare(trainer, SPACE, strategies=names, seeds=2, budget=2.0, epochs=2)
    assert found.strategies == names
    costs = found.runs().groupby("strategy", sort=False)["cost"].apply(list).to_dict()
    assert costs == {"random": [2.0, 2.0], "prodigy": [1.0, 1.0], "schedule-free-adamw": [1.0, 1.0]}
    for name, way in WAYS.items():
        records = [found.records[name, seed] for seed in (0, 1)]
        assert [[r.recipe.lr for r in record.records] for record in records] == [[way.lr], [way.lr]]
        assert len({record.records[0].value for record in records}) == 2  # the seed is the run's, too
        assert all(record.strategy == name for record in records)


@every
def test_asked_for_where_it_cannot_train_it_is_refused_before_anything_is_trained(way: Any) -> None:
    def never(recipe: Recipe) -> Iterator[float]:
        pytest.fail(f"{recipe} was trained")
        yield 0.0

    with pytest.raises(InputError, match=f"{way.name} .* TorchTrainer .*leave it out") as caught:
        lrtune.compare(never, SPACE, strategies=["random", way.name], epochs=2)
    assert caught.value.exit_code == 2


def test_by_default_it_is_left_out_there_and_the_comparison_says_so() -> None:
    space = lrtune.Space(lr=(1e-3, 1e-1))
    found = lrtune.compare(generator, space, seeds=1, budget=2.0, epochs=4)
    assert found.strategies == list(comparison.DEFAULT)
    assert [sentence.split()[0] for sentence in found.left_out] == list(WAYS)
    assert not any("leave it out" in sentence for sentence in found.left_out)  # it is
    asked = lrtune.compare(generator, space, strategies=["random"], seeds=1, budget=2.0, epochs=4)
    assert asked.left_out == ()


@installed
def test_by_default_both_are_compared_where_they_can_train() -> None:
    names, left_out = comparison._chosen(None, make(), SPACE)
    assert names == [*comparison.DEFAULT, *WAYS]
    assert left_out == ()


@installed
def test_groups_with_learning_rates_of_their_own_are_too_much_for_prodigy_alone() -> None:
    def mine(model: Any) -> list[dict[str, Any]]:
        return [{"params": [model.weight], "lr_ratio": 0.1}, {"params": [model.bias]}]

    names, left_out = comparison._chosen(None, make(model=plain, param_groups=mine), SPACE)
    assert names == [*comparison.DEFAULT, "schedule-free-adamw"]
    (sentence,) = left_out
    assert sentence.startswith("prodigy cannot train this study: ")
    assert "one learning rate for all parameter groups" in sentence


@every
def test_without_its_package_the_way_to_it_is_said(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_packages.importlib.util, "find_spec", lambda _: None)
    why = refusal(way, make(), SPACE)
    assert why is not None
    assert "pip install 'lrtune[tuning-free]'" in why


def test_a_misspelled_name_is_set_right() -> None:
    with pytest.raises(InputError, match="did you mean 'prodigy'"):
        lrtune.compare(generator, SPACE, strategies=["prodgy"], epochs=2)
