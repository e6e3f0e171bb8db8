"""Freeze-thaw on made-up curves: what it must find, and what must not lead it astray.

What every strategy owes is held in ``test_strategies.py``; here is what only this one promises.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from strategy_contract import JOINT, LR_ONLY, Laboratory, law

from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.search.base import Continue, Finish, SearchContext, Start, TrialView, Wait
from lrtune.search.freeze_thaw.config import CONFIG
from lrtune.search.freeze_thaw.strategy import FreezeThaw, Prior

if TYPE_CHECKING:
    from lrtune.core.recipe import Recipe

LENGTH = 60


def regret(lab: Laboratory, recipe: Recipe) -> float:
    """Of a recipe trained to its end, beside the best learning rate on a fine grid, as a share of all there is."""
    grid = [dataclasses.replace(recipe, lr=float(lr)) for lr in 10 ** np.arange(-5, 1, 0.05)]
    ends = [lab.landscape(each, 1.0) for each in grid]
    best = min(end for end in ends if math.isfinite(end))
    return (lab.landscape(recipe, 1.0) - best) / (1.1 - best)


def winner(lab: Laboratory) -> Recipe:
    return min(lab.completed, key=lambda seen: float(seen.values[-1])).recipe


def searched(**changes: object) -> Laboratory:
    given: dict[str, object] = {
        "strategy": "freeze-thaw",
        "landscape": law(),
        "epochs": LENGTH,
        "check_purity": False,
        **changes,
    }
    return Laboratory(**given).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("best", [-3.2, -2.0, -0.9])
def test_it_costs_about_two_trainings(best: float) -> None:
    lab = searched(landscape=law(best), budget=2.0)
    assert regret(lab, winner(lab)) < 0.02
    first = lab.completed[0]
    assert regret(lab, first.recipe) < 0.08


def test_left_to_itself_it_ends_when_there_is_nothing_left_to_gain() -> None:
    lab = searched(budget=None)
    assert lab.paid / LENGTH < 4.5
    assert regret(lab, winner(lab)) < 0.01
    assert isinstance(lab.actions[-1], Finish)
    assert "noise" in lab.actions[-1].why


def test_where_the_leader_is_paused_in_another_process_it_trains_the_next_best() -> None:
    shown = context([(-3.0, 6, None), (-2.0, 12, None), (-1.6, 6, None), (-1.0, 3, None)])
    trials = [dataclasses.replace(t, mine=t.number != 1) for t in shown.trials]
    for _ in range(12):
        action = FreezeThaw().next(dataclasses.replace(shown, trials=trials))
        assert isinstance(action, Start | Continue), action
        if isinstance(action, Continue) and action.until > 12:
            break
        number = action.number if isinstance(action, Continue) else len(trials)
        lr = trials[number].recipe.lr if isinstance(action, Continue) else (action.params or {})["lr"]
        (seen,) = context([(math.log10(lr), round(action.until), None)]).trials
        trials = sorted([*(t for t in trials if t.number != number), dataclasses.replace(seen, number=number)],
                        key=lambda t: t.number)  # fmt: skip
    assert isinstance(action, Continue)
    assert action.number != 1
    assert action.until > 12


def test_it_goes_on_for_what_one_more_training_is_worth() -> None:
    costs = [searched(budget=None, worth=worth).paid / LENGTH for worth in (0.2, 0.01, 0.0005)]
    assert costs == sorted(costs)
    assert costs[0] < 1.6  # one full training and the looks before it
    assert costs[0] < costs[2]


def test_a_budget_holds_whatever_a_training_is_worth() -> None:
    assert searched(budget=1.5, worth=1e-6).paid / LENGTH <= 1.5


@pytest.mark.parametrize("best", [-3.2, -2.0, -0.9])
def test_it_ends_with_runs_on_both_sides_of_the_best_that_can_judge(best: float) -> None:
    lab = searched(landscape=law(best), budget=None)
    at = math.log10(winner(lab).lr)
    beside = [math.log10(s.recipe.lr) - at for s in lab.seen if s.trained >= CONFIG.judging_from * LENGTH or s.outcome]
    assert any(0 < apart <= CONFIG.neighbourhood for apart in beside)
    assert any(0 < -apart <= CONFIG.neighbourhood for apart in beside)


def test_what_did_not_pay_was_given_little() -> None:
    lab = searched(budget=2.5)
    far = [seen.trained for seen in lab.seen if abs(math.log10(seen.recipe.lr) + 2) > 0.8]
    assert far
    assert max(far) <= 0.1 * LENGTH


def test_on_a_plateau_it_waits_for_the_first_to_leave_it() -> None:
    """All runs stay at one value for 8 % of the training; the first looks are at 1 %."""

    def value(recipe: Recipe, share: float) -> float:
        return 1.0 if share < 0.08 else law()(recipe, share)

    lab = searched(landscape=value, budget=4.0)
    assert regret(lab, winner(lab)) < 0.02
    assert any(isinstance(a, Continue) and "nothing learns yet" in a.why for a in lab.actions)


def test_where_the_best_does_not_move_it_looks_at_the_low_end() -> None:
    """Like a model that predicts a constant from the first epoch on, above a learning rate that is tiny."""

    def value(recipe: Recipe, share: float) -> float:
        x = math.log10(recipe.lr)
        if x > -2.2:
            return math.nan if x > -1.5 else 1.7
        if x < -4.7:
            return 0.68 + max(0.0, 0.02 * (1 - share / 0.03)) if share < 0.06 else 0.3 - 0.05 * share
        return 0.68 + max(0.0, 0.01 * (1 - share / 0.05)) * abs(x + 2.7)

    for seed in range(3):
        lab = searched(landscape=value, budget=3.0, seed=seed, widen=0.0)
        assert math.log10(winner(lab).lr) < -4.7


@pytest.mark.parametrize("best", [-5.4, 1.4])
def test_a_best_beyond_the_range_widens_it_once(best: float) -> None:
    lab = searched(landscape=law(best), budget=4.0, widen=1.0)
    low, high = lab.space.lr_range
    assert (low < 0.9e-5) == (best < -5)
    assert (high > 11) == (best > 1)
    assert low >= 0.99e-6
    assert high <= 101
    assert not any(not 0.99e-5 <= seen.recipe.lr <= 10.1 for seen in searched(landscape=law(best), widen=0.0).seen)


def test_where_all_diverge_it_says_how_far_down() -> None:
    lab = searched(landscape=lambda _, __: math.nan, budget=6.0)
    assert isinstance(lab.actions[-1], Finish)
    assert "every run diverged, down to a learning rate of" in lab.actions[-1].why
    assert lab.paid / LENGTH < 0.5
    assert min(seen.recipe.lr for seen in lab.seen) < 1.1e-5


def test_an_earlier_study_saves_looks_and_a_wrong_one_costs_little() -> None:
    def cost(prior: Prior | None) -> tuple[float, float]:
        lab = Laboratory(
            strategy="freeze-thaw", landscape=law(-2.6), epochs=LENGTH, budget=3.0, check_purity=False, widen=0.0
        )
        lab.mind = FreezeThaw(prior)
        lab.run()
        paid, spent = {}, 0.0
        for seen in lab.seen:
            spent += seen.trained
            paid[seen.number] = spent
        good = next(seen for seen in lab.completed if regret(lab, seen.recipe) < 0.02)
        shorter = sum(seen.trained for seen in lab.seen if seen.number <= good.number) / LENGTH
        return shorter, regret(lab, winner(lab))

    without, right, wrong = (
        cost(prior) for prior in (None, Prior(best=2e-3, low=1e-3, high=4e-3), Prior(best=3.0, low=1.0, high=9.0))
    )
    assert right[0] <= 1.5
    assert wrong[0] <= without[0] + 0.5
    assert max(right[1], wrong[1]) < 0.02


def test_joint_search_finishes_something_good_soon() -> None:
    def value(recipe: Recipe, share: float) -> float:
        scaled = dataclasses.replace(recipe, lr=recipe.lr * 64 / float(recipe.batch_size or 64))
        worse = 0.0 if recipe.schedule == "cosine" else 0.03
        return law()(scaled, share) + worse

    lab = searched(landscape=value, space=JOINT, budget=4.0)
    assert winner(lab).schedule == "cosine"
    ends = [lab.landscape(seen.recipe, 1.0) for seen in lab.completed]
    assert min(ends) < 0.1 + 0.12


def test_ranges_of_other_settings_are_searched_too() -> None:
    space = Space(lr=(1e-4, 1.0), momentum=(0.0, 0.99), weight_decay=(1e-5, 1e-2), batch_size=(8, 512))
    lab = searched(space=space, budget=3.0, epochs=20)
    assert len({seen.recipe.momentum for seen in lab.seen}) > 1
    assert all(space.contains(space.params(seen.recipe)) for seen in lab.seen)


def test_the_budget_holds_the_end_of_the_winner() -> None:
    for budget in (1.0, 1.05, 1.3):
        lab = searched(budget=budget)
        assert lab.completed, budget
        assert lab.paid / LENGTH <= budget + 1e-9


def context(runs: list[tuple[float, int, int | None]], **changes: object) -> SearchContext:
    """Runs as (log10 lr, epochs trained, until whom somebody trains it)."""
    seen = []
    for number, (x, trained, until) in enumerate(runs):
        recipe = LR_ONLY.recipe({"lr": 10**x}, epochs=LENGTH)
        values = np.array([law()(recipe, e / LENGTH) for e in range(1, trained + 1)])
        outcome = Outcome.COMPLETED if trained == LENGTH else None
        seen.append(
            TrialView(
                number=number,
                recipe=recipe,
                epochs=np.arange(1.0, trained + 1),
                values=values,
                outcome=outcome,
                result=float(values[-1]) if outcome else None,
                until=until,
            )
        )
    return SearchContext(space=LR_ONLY, epochs=LENGTH, trials=seen, spent=1.0, budget=9.0, **changes)  # type: ignore[arg-type]


LOOKS = [(-3.5, 1, None), (-3.0, 1, None), (-2.5, 1, None), (-2.0, 1, None), (-1.5, 1, None), (-0.5, 1, None)]


def test_a_second_worker_gets_other_work() -> None:
    one = FreezeThaw().next(context(LOOKS))
    assert isinstance(one, Continue | Start)
    runs = list(LOOKS)
    if isinstance(one, Continue):
        runs[one.number] = (runs[one.number][0], runs[one.number][1], int(one.until))
    else:
        assert one.params is not None
        runs.append((math.log10(one.params["lr"]), 0, int(one.until)))
    two = FreezeThaw().next(context(runs))
    assert isinstance(two, Continue | Start)
    assert two != one
    if isinstance(two, Continue):
        assert runs[two.number][2] is None


def test_with_no_trial_left_to_start_it_goes_on_with_those_there_are() -> None:
    action = FreezeThaw().next(context(LOOKS, exhausted=True))
    assert isinstance(action, Continue)


def test_what_another_process_holds_is_left_to_it() -> None:
    shown = context([(-2.0, LENGTH, None), (-2.4, 30, None), (-1.6, 30, None)], exhausted=True)
    held = [dataclasses.replace(seen, mine=seen.number == 0) for seen in shown.trials]
    assert isinstance(FreezeThaw().next(dataclasses.replace(shown, trials=held)), Finish | Wait)


def test_a_hundred_runs_and_many_more_are_decided_on() -> None:
    rng = np.random.default_rng(0)
    runs = [
        (float(x), int(n), None) for x, n in zip(rng.uniform(-5, -1.3, 400), rng.integers(1, LENGTH, 400), strict=True)
    ]
    assert isinstance(FreezeThaw().next(context(runs)), Continue | Start)


def test_values_near_the_end_of_floats_do_no_harm() -> None:
    shown = context([*LOOKS, (-0.2, 2, None)])
    wild = dataclasses.replace(shown.trials[-1], values=np.array([1e300, 1e308]))
    assert isinstance(
        FreezeThaw().next(dataclasses.replace(shown, trials=[*shown.trials[:-1], wild])), Continue | Start
    )
