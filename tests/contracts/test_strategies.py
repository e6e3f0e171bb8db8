"""One contract over every strategy of the catalogue; see ``strategy_contract.py`` for what each decision is held to."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategy_contract import JOINT, LR_ONLY, Laboratory, basin, mirrored, started

from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.errors import InputError
from lrtune.search.base import Continue, Finish, Start, Stop, Wait
from lrtune.search.registry import NAMES, make

if TYPE_CHECKING:
    from lrtune.core.recipe import Recipe

SLOW = {"gp", "freeze-thaw", "tpe", "optuna"}
"""Those whose every decision fits a model: they are asked twice in one search only."""


def laboratory(name: str, **changes: Any) -> Laboratory:
    if name == "gp":
        changes["budget"] = min(changes.get("budget") or 3.0, 3.0)
    return Laboratory(strategy=name, **{"check_purity": name not in SLOW, **changes})


every = pytest.mark.parametrize("name", NAMES)


@every
def test_it_ends_with_something_good_within_its_budget(name: str) -> None:
    lab = laboratory(name, budget=6.0).run()
    assert lab.completed
    assert lab.paid / lab.epochs <= 6.0 + 1e-9
    best = min(lab.completed, key=lambda seen: float(seen.values[-1]))
    assert abs(math.log10(best.recipe.lr) + 1.5) < 1.5


@every
def test_a_decision_is_a_function_of_the_situation_alone(name: str) -> None:
    """The laboratory asks a second strategy, made anew, about a deep copy of every situation."""
    limits: dict[str, Any] = {"most_trials": 7} if name == "gp" else {}
    lab = Laboratory(strategy=name, budget=None if limits else 5.0, **limits).run()
    assert len(lab.seen) > 5 or name == "grid"  # models are asked from the sixth trial on


@every
def test_what_is_rebuilt_after_a_kill_goes_on_the_same_way(name: str) -> None:
    whole = laboratory(name, budget=4.0, epochs=9).run()
    half = laboratory(name, budget=4.0, epochs=9).run(decisions=len(whole.actions) // 2)
    rebuilt = laboratory(name, budget=4.0, epochs=9, seen=copy.deepcopy(half.seen), paid=half.paid, space=half.space)
    rebuilt.origin = half.origin
    rebuilt.run()
    assert [*half.actions, *rebuilt.actions] == whole.actions


@every
def test_states_that_were_lost_are_paid_again_and_the_budget_holds(name: str) -> None:
    lab = laboratory(name, forgets=True).run()
    assert lab.paid / lab.epochs <= lab.budget + 1e-9


@every
@pytest.mark.parametrize("workers", [2, 5])
def test_workers_never_touch_what_others_train(name: str, workers: int) -> None:
    lab = laboratory(name, workers=workers, budget=6.0).run()
    assert lab.completed
    assert lab.paid / lab.epochs <= 6.0 + 1e-9
    points = [(tuple(a.params.items()), a.seed) for a in started(lab) if a.params is not None]
    assert len(points) == len(set(points))


@every
def test_workers_are_given_work_side_by_side(name: str) -> None:
    lab = laboratory(name, workers=3, budget=6.0)
    most = 0
    for _ in range(12):
        if len(lab.working) >= 3:
            break
        if isinstance(lab.decide(), Wait | Finish):
            break
        most = max(most, len(lab.working))
    assert most >= (1 if name == "optuna" else 2)


JOINING = [name for name in NAMES if getattr(make(name), "joins", False)]


@pytest.mark.parametrize("name", JOINING)
@pytest.mark.parametrize("space", [LR_ONLY, JOINT], ids=["lr", "joint"])
@pytest.mark.parametrize("budget", [None, 5.0])
def test_runs_are_trained_side_by_side(name: str, space: Space, budget: float | None) -> None:
    lab = laboratory(name, stack=6, space=space, budget=budget, most_trials=20 if name == "grid" else None).run()
    assert lab.completed
    assert max(lab.groups) > 1
    assert sum(lab.groups) == sum(isinstance(action, Start | Continue) for action in lab.actions)
    best = min(lab.completed, key=lambda seen: float(seen.values[-1]))
    assert abs(math.log10(best.recipe.lr) + 1.5) < 1.0 or name == "grid"  # of many cells a budget holds the first few


def test_a_budget_is_spent_in_less_time_and_not_exceeded() -> None:
    question: dict[str, Any] = {"budget": 5.0, "epochs": 27}
    alone, together = (laboratory("freeze-thaw", stack=stack, **question).run() for stack in (1, 6))
    assert together.paid / 27 <= 5.0 + 1e-9
    assert len(together.groups) < 0.8 * len(alone.groups)
    assert together.groups[0] == 3, "the first looks that any search takes: the middle and its neighbours"


def test_the_cheaper_a_run_beside_others_the_more_are_trained() -> None:
    cheap, dear = (
        laboratory("freeze-thaw", stack=8, budget=None, epochs=27, beside_price=p).run() for p in (0.02, 0.7)
    )
    assert cheap.paid > dear.paid


@every
def test_what_waits_in_another_process_is_left_to_it(name: str) -> None:
    lab = laboratory(name, budget=6.0).run(decisions=4)
    lab.seen = [dataclasses.replace(seen, mine=False) if seen.outcome is None else seen for seen in lab.seen]
    theirs = {seen.number for seen in lab.seen if not seen.mine}
    for _ in range(6):
        action = lab.decide()
        if isinstance(action, Continue | Stop):
            assert action.number not in theirs
        if isinstance(action, Wait | Finish):
            break
        while lab.working:
            lab._train(lab.working.pop(0))


@every
def test_maximising_is_the_mirror_image(name: str) -> None:
    one = laboratory(name, epochs=9, budget=4.0, landscape=basin(noise=0.01), untrained=2.2).run()
    other = laboratory(
        name,
        epochs=9,
        budget=4.0,
        landscape=mirrored(basin(noise=0.01)),
        direction="maximize",
        untrained=-2.2,
    ).run()
    assert one.actions == other.actions


@every
def test_a_joint_space_is_searched(name: str) -> None:
    def value(recipe: Recipe, share: float) -> float:
        assert recipe.batch_size is not None
        x = math.log10(recipe.lr / recipe.batch_size * 64)
        if x > 0.3:
            return math.nan
        better = 0.1 * (recipe.schedule == "cosine") * share
        return 1.0 + 0.1 * (x + 1) ** 2 - better + math.exp(-5 * share)

    lab = laboratory(name, space=JOINT, landscape=value, epochs=9, budget=14.0 if name == "grid" else 6.0).run()
    assert lab.completed
    assert len({seen.recipe.batch_size for seen in lab.seen}) > 1 or name == "grid"


@every
@pytest.mark.parametrize("trials", [1, 3])
def test_the_limit_on_trials_is_kept_and_they_are_finished(name: str, trials: int) -> None:
    lab = laboratory(name, budget=None, most_trials=trials).run()
    assert len(lab.seen) == trials
    assert lab.completed, [seen.outcome for seen in lab.seen]


@every
@pytest.mark.parametrize("landscape", ["all diverge", "all equal", "never learn"])
def test_a_hopeless_landscape_ends_all_the_same(name: str, landscape: str) -> None:
    values = {"all diverge": math.nan, "all equal": 1.0, "never learn": 2.3}
    untrained = 2.3 if landscape == "never learn" else None
    lab = laboratory(name, landscape=lambda _recipe, _share: values[landscape], untrained=untrained).run()
    assert lab.seen
    if landscape != "all diverge":
        assert lab.completed


@every
@pytest.mark.parametrize(("epochs", "finest"), [(1, 1.0), (1, 0.02), (2, 1.0), (3, 0.06), (5, 1 / 7), (50, 1.0)])
def test_short_runs_and_looks_within_an_epoch(name: str, epochs: int, finest: float) -> None:
    lab = laboratory(name, epochs=epochs, finest=finest).run()
    assert lab.completed
    assert lab.paid / lab.epochs <= lab.budget + 1e-9


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gp"])  # which ends by the same lines as tpe
def test_without_any_limit_it_ends_of_its_own_accord(name: str) -> None:
    lab = laboratory(name, budget=None).run()
    limit = 15.0 if name == "grid" else 7.0
    assert lab.completed
    assert lab.paid / lab.epochs <= limit + 1e-9


@every
def test_a_budget_of_one_training_finishes_one(name: str) -> None:
    lab = laboratory(name, budget=1.0, epochs=27).run()
    assert lab.paid / lab.epochs <= 1.0 + 1e-9
    if name in {"tpe", "gp", "qmc", "random"}:
        assert len(lab.completed) == 1


def test_nan_at_the_end_of_a_curve_is_never_best() -> None:
    """A run that diverges in its last epoch, after the best values of all."""

    def value(recipe: Recipe, share: float) -> float:
        if recipe.lr > 0.05:
            return math.nan if share > 0.9 else 0.01
        return 1.0 + math.exp(-share)

    for name in NAMES:
        lab = laboratory(name, landscape=value, budget=8.0).run()
        assert all(seen.recipe.lr <= 0.05 for seen in lab.completed)


QUICK = [name for name in NAMES if name != "gp"]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    problem=st.fixed_dictionaries(
        {
            "strategy": st.sampled_from(QUICK),
            "epochs": st.integers(1, 30),
            "finest": st.sampled_from([1.0, 0.5, 0.1]),
            "budget": st.one_of(st.none(), st.floats(1.0, 6.0)),
            "most_trials": st.one_of(st.none(), st.integers(1, 12)),
            "workers": st.integers(1, 4),
            "seed": st.integers(0, 1000),
            "forgets": st.booleans(),
        }
    ),
    best=st.floats(-6, 2),
    edge=st.floats(0, 6),
    noise=st.sampled_from([0.0, 0.05, 1.0]),
    low=st.floats(-6, -1),
    decades=st.floats(0.01, 6),
)
def test_whatever_the_problem_the_contract_holds(
    *, problem: dict[str, Any], best: float, edge: float, noise: float, low: float, decades: float
) -> None:
    space = Space(lr=(10**low, 10 ** (low + decades)))
    Laboratory(space=space, landscape=basin(best, edge, noise), check_purity=False, **problem).run()


# -- the catalogue ------------------------------------------------------------------------------------


@every
def test_a_strategy_says_its_name(name: str) -> None:
    assert make(name).name == name


def test_an_unknown_strategy_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"did you mean 'freeze-thaw'") as caught:
        make("freze-thaw")
    assert all(name in str(caught.value) for name in NAMES)


def test_pruning_can_be_switched_off() -> None:
    lab = laboratory("tpe")
    lab.mind = make("tpe", prune=False)
    lab.run()
    assert not any(isinstance(action, Stop | Continue) for action in lab.actions)
    assert all(isinstance(action, Start | Finish) for action in lab.actions)


def test_the_grid_is_exact_and_a_failed_cell_comes_once_more() -> None:
    lab = laboratory("grid", points=5, budget=None, most_trials=100)
    for _ in range(3):
        lab.decide()
        lab._train(lab.working.pop(0))
    lab._end(1, outcome=Outcome.FAILED)
    lab.run()
    cells = [seen.recipe.lr for seen in lab.seen if seen.outcome is not Outcome.FAILED]
    assert len(cells) == len(set(cells)) == 5
    assert len(lab.seen) == 6
    assert isinstance(lab.actions[-1], Finish)
    assert lab.actions[-1].why == "the grid is complete"
    assert LR_ONLY.lr_range == (min(cells), max(cells))
