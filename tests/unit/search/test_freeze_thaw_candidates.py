"""Where freeze-thaw starts runs once some are complete: in the basin that they show, and elsewhere only at last."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from strategy_contract import JOINT, LR_ONLY, Laboratory

from lrtune.core.outcome import Outcome
from lrtune.search.base import Continue, SearchContext, Start, TrialView
from lrtune.search.freeze_thaw.beliefs import Beliefs
from lrtune.search.freeze_thaw.candidates import Candidates
from lrtune.search.freeze_thaw.strategy import FreezeThaw

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.core.recipe import Recipe
    from lrtune.core.space import Space
    from lrtune.search.freeze_thaw.observations import Observation

LENGTH = 60
BEST = -2.0
OTHERS = {"batch_size": 64, "schedule": "cosine", "warmup": 0.0}


def run(x: float, end: float, trained: int = LENGTH, *, rough: float = 0.0, **params: Any) -> TrialView:
    """A run from 1 towards an end, straight but for its roughness; the number is filled in by the situation."""
    space = JOINT if params else LR_ONLY
    epochs = np.arange(1.0, trained + 1)
    zigzag = rough * np.where(epochs % 2, 1.0, -1.0)
    zigzag[-1] = 0.0
    values = 1 + (end - 1) * np.minimum(1.0, epochs / (LENGTH / 2)) + zigzag
    return TrialView(
        number=0,
        recipe=space.recipe({"lr": 10**x, **params}, epochs=LENGTH),
        epochs=epochs,
        values=values,
        outcome=Outcome.COMPLETED if trained == LENGTH else None,
        result=float(values[-1]) if trained == LENGTH else None,
    )


def context(*runs: TrialView, space: Space = LR_ONLY, **changes: Any) -> SearchContext:
    numbered = [
        TrialView(number=i, recipe=r.recipe, epochs=r.epochs, values=r.values, outcome=r.outcome, result=r.result)
        for i, r in enumerate(runs)
    ]
    given: dict[str, Any] = {"trials": numbered, "spent": 3.0, "budget": 9.0, "untrained": 1.0, **changes}
    return SearchContext(space=space, epochs=LENGTH, **given)


def trainable(shown: SearchContext) -> list[Observation]:
    """What may be trained next."""
    return [c for c in Candidates(Beliefs(shown)).all() if c.trial.open and not c.completed]


def lr_of(shown: SearchContext) -> float:
    """log10 of the learning rate that is trained next."""
    action = FreezeThaw().next(shown)
    if isinstance(action, Continue):
        return math.log10(shown.trials[action.number].recipe.lr)
    assert isinstance(action, Start)
    assert action.params is not None
    return math.log10(action.params["lr"])


WALLS = (run(-3.0, 0.3), run(BEST, 0.1), run(-1.4, 0.2))
OUTSIDE = (run(-4.0, 0.3, 20), run(-0.5, 0.25, 20))


def test_it_stays_between_complete_runs_that_are_worse() -> None:
    places = [c.x for c in trainable(context(*WALLS, *OUTSIDE, run(-2.5, 0.15, 20)))]
    assert -3.0 < min(places) <= -2.5 < BEST < max(places) < -1.4
    assert -2.5 in places  # a paused run inside goes on


def test_a_side_without_a_worse_complete_run_is_open() -> None:
    places = [c.x for c in trainable(context(*WALLS[:2], *OUTSIDE))]
    assert min(places) > -3.0
    assert max(places) > -0.6


@pytest.mark.parametrize(("rough", "walled"), [(0.0, True), (0.1, False)])
def test_losing_by_less_than_the_noise_is_no_wall(rough: float, *, walled: bool) -> None:
    shown = context(run(-3.0, 0.3), run(BEST, 0.1, rough=rough), run(-1.4, 0.15, rough=rough))
    assert (max(c.x for c in trainable(shown)) < -1.4) == walled


def test_a_tie_is_no_wall() -> None:
    shown = context(run(-3.0, 0.3), run(BEST, 0.1), run(-1.4, 0.105))
    assert max(c.x for c in trainable(shown)) > -1.4


def overfitted(x: float, trained: int = LENGTH, *, above: float = 0.0) -> TrialView:
    """A run of a landscape in which only the summed learning rate counts, best at 10**BEST times a full training."""
    epochs = np.arange(1.0, trained + 1)
    summed = np.log10(10**x * epochs / LENGTH)
    values = np.minimum(1.0, 0.1 + above + 0.2 * (summed - BEST) ** 2)
    done = trained == LENGTH
    recipe = LR_ONLY.recipe({"lr": 10**x}, epochs=LENGTH)
    outcome = Outcome.COMPLETED if done else None
    return TrialView(number=0, recipe=recipe, epochs=epochs, values=values, outcome=outcome, result=float(values[-1]))


def test_a_run_that_overfits_says_where_it_should_have_ended() -> None:
    beliefs = Beliefs(context(overfitted(-1.0), overfitted(-3.0, 6), overfitted(-1.5, 6)))
    place, spread = beliefs.expected
    assert abs(place - BEST) < 0.1
    assert spread < 0.5


@pytest.mark.parametrize("make", [lambda: run(-1.0, 0.1), lambda: run(-1.0, 0.1, rough=0.1)], ids=["falls", "is rough"])
def test_a_run_that_only_falls_or_trembles_has_not_turned(make: Callable[[], TrialView]) -> None:
    assert Beliefs(context(make())).overfit_from is None


def test_complete_runs_that_overfit_do_not_wall_off_what_trains_less() -> None:
    shown = context(overfitted(0.0), overfitted(-1.0), overfitted(-1.2, above=0.15))
    assert min(c.x for c in trainable(shown)) < BEST
    assert lr_of(shown) < -1.2


def test_a_search_of_what_overfits_ends_near_the_best() -> None:
    def landscape(recipe: Recipe, share: float) -> float:
        return min(1.0, 0.1 + 0.2 * (math.log10(recipe.lr * share) - BEST) ** 2)

    lab = Laboratory(strategy="freeze-thaw", landscape=landscape, epochs=LENGTH, check_purity=False, budget=None).run()
    best = min(lab.completed, key=lambda seen: float(seen.values[-1]))
    assert abs(math.log10(best.recipe.lr) - BEST) < 0.25


def test_it_goes_closer_before_it_leaves_the_basin() -> None:
    """Runs 0.1 decades apart, where three complete ones ask for 0.08 between all: nothing fits but closer."""
    places = [c.x for c in trainable(context(run(BEST - 0.1, 0.2), run(BEST, 0.1), run(BEST + 0.1, 0.2), *OUTSIDE))]
    assert places == pytest.approx([BEST - 0.05, BEST + 0.05])


NARROW = (run(BEST - 0.03, 0.2), run(BEST, 0.1), run(BEST + 0.03, 0.2))


def test_where_nothing_is_left_inside_it_looks_elsewhere() -> None:
    shown = context(*NARROW, *OUTSIDE)
    places = [c.x for c in trainable(shown)]
    assert {-4.0, -0.5} < set(places)
    assert abs(lr_of(shown) - BEST) > 0.03


def test_with_no_trial_left_to_start_a_run_outside_goes_on_rather_than_none() -> None:
    assert lr_of(context(*NARROW, *OUTSIDE, exhausted=True)) in {-4.0, -0.5}
    assert lr_of(context(*WALLS, *OUTSIDE, run(-2.5, 0.8, 20), exhausted=True)) == pytest.approx(-2.5)


def test_walls_hold_under_their_own_settings_only() -> None:
    """Under some other settings one is complete too, better and elsewhere."""
    walls = [run(x, end, **OTHERS) for x, end in ((-2.3, 0.3), (BEST, 0.1), (-1.9, 0.2))]
    better, paused = run(-1.0, 0.05, **{**OTHERS, "warmup": 0.1}), run(-2.15, 0.2, 20, **OTHERS)
    by_key: dict[Any, list[float]] = {}
    for c in trainable(context(*walls, better, paused, space=JOINT)):
        by_key.setdefault((c.trial.recipe.batch_size, c.trial.recipe.schedule, c.trial.recipe.warmup), []).append(c.x)
    mine = by_key.pop((64, "cosine", 0.0))
    assert mine == [pytest.approx(-2.15)]
    assert by_key
    assert all(-3.5 < x < 0 for xs in by_key.values() for x in xs)
    assert any(not -2.3 < x < -1.9 for xs in by_key.values() for x in xs)


def test_a_budget_is_spent_though_the_basin_is_exhausted() -> None:
    lab = Laboratory(strategy="freeze-thaw", epochs=12, budget=14.0, check_purity=False, widen=0.0).run()
    assert lab.paid / 12 > 13
