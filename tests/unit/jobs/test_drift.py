"""The drift test as a pure function, and the strategy around it: what it trains, and that it goes on when stopped."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import strategy_contract
from hypothesis import given
from hypothesis import strategies as st

from lrtune.errors import SearchError
from lrtune.jobs.drift import CONFIG, Drift, DriftCheck, DriftVerdict, Profile, judge
from lrtune.jobs.drift_strategy import DriftStrategy, LastAnswer
from lrtune.search.base import Finish
from lrtune.search.baselines.grid import Grid
from lrtune.search.registry import make
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lrtune.core.recipe import Recipe
    from lrtune.search.base import Action, SearchContext
    from lrtune.study.result import Result

values = st.one_of(st.none(), st.just(math.inf), st.floats(1e-3, 10))
looks = st.builds(DriftCheck, fraction=st.sampled_from([0.04, 0.08]), low=values, mid=values, high=values)


def profile(*rows: tuple[float | None, float | None, float | None], **known: Any) -> Profile:
    fractions = (0.04, 0.08, 0.16)
    made = (DriftCheck(fraction=f, low=a, mid=b, high=c) for f, (a, b, c) in zip(fractions, rows, strict=False))
    return Profile(looks=tuple(made), **{"untrained": 1.0, "end": 0.1, **known})


THEN = profile((0.8, 0.6, 0.5), (0.7, 0.4, 0.45))


def said(today: Profile, before: Profile | None = THEN, *, last: bool = False) -> DriftVerdict:
    return judge(today, before, last=last).verdict


def test_what_trains_as_it_did_is_unchanged_although_a_neighbour_leads_early_on() -> None:
    assert said(profile((0.8, 0.6, 0.5))) is DriftVerdict.UNCHANGED
    assert said(profile((0.82, 0.61, 0.52))) is DriftVerdict.UNCHANGED


def test_without_a_profile_of_before_the_same_looks_tell_nothing() -> None:
    assert said(profile((0.8, 0.6, 0.5)), None) is DriftVerdict.CANNOT_TELL
    assert said(profile((0.8, 0.4, 0.7)), None) is DriftVerdict.UNCHANGED
    assert said(profile((0.9, 0.8, 0.2)), None) is DriftVerdict.MOVED


def test_a_neighbour_that_has_gained_and_leads_says_moved_at_the_second_look() -> None:
    today = profile((0.9, 0.8, 0.4), (0.8, 0.6, 0.3))
    assert said(dataclasses.replace(today, looks=today.looks[:1])) is DriftVerdict.CANNOT_TELL
    assert said(today) is DriftVerdict.MOVED
    assert "higher learning rate gained" in judge(today, THEN).why


def test_a_learning_rate_that_diverges_has_moved_at_once() -> None:
    assert said(profile((0.5, math.inf, None))) is DriftVerdict.MOVED


def test_an_edge_that_came_closer_is_looked_at_again() -> None:
    assert said(profile((0.8, 0.6, math.inf))) is DriftVerdict.CANNOT_TELL


def test_an_edge_that_was_there_before_says_nothing() -> None:
    then = profile((0.8, 0.5, math.inf))
    assert said(profile((0.8, 0.5, math.inf)), then) is DriftVerdict.UNCHANGED


def test_losses_of_another_scale_are_looked_at_again() -> None:
    small = profile((0.08, 0.06, 0.05), untrained=0.1, end=0.01)
    assert said(small) is DriftVerdict.CANNOT_TELL


def test_nothing_learned_yet_says_nothing() -> None:
    assert said(profile((0.999, 0.998, 0.999))) is DriftVerdict.CANNOT_TELL


def test_without_neighbours_nothing_can_be_told() -> None:
    assert said(profile((None, 0.6, None))) is DriftVerdict.CANNOT_TELL
    assert said(profile((0.8, None, 0.5))) is DriftVerdict.CANNOT_TELL


@given(today=looks, then=looks, untrained=st.one_of(st.none(), st.floats(0.5, 20)), last=st.booleans())
def test_any_looks_have_a_verdict_and_a_sentence(
    today: DriftCheck, then: DriftCheck, untrained: float | None, *, last: bool
) -> None:
    found = judge(Profile(looks=(today,), untrained=untrained), Profile(looks=(then,), untrained=untrained), last=last)
    assert isinstance(found, Drift)
    assert found.why
    if found.verdict is DriftVerdict.UNCHANGED:
        assert today.mid is not None
        assert math.isfinite(today.mid)


@given(look=looks, scale=st.floats(0.5, 2.0), untrained=st.floats(11, 20))
def test_the_same_looks_are_never_moved_in_whatever_units(look: DriftCheck, scale: float, untrained: float) -> None:
    def scaled(value: float | None) -> float | None:
        return None if value is None else scale * value

    today = DriftCheck(fraction=look.fraction, low=scaled(look.low), mid=scaled(look.mid), high=scaled(look.high))
    verdict = judge(
        Profile(looks=(today, today), untrained=scale * untrained), Profile(looks=(look,), untrained=untrained)
    ).verdict
    assert (verdict is DriftVerdict.MOVED) == (look.mid is not None and math.isinf(look.mid))


@given(looks=st.lists(looks, max_size=3), untrained=st.one_of(st.none(), st.floats(-5, 5)))
def test_a_profile_is_json_and_back(looks: list[DriftCheck], untrained: float | None) -> None:
    made = Profile(looks=tuple(looks), untrained=untrained, end=0.5)
    assert Profile.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False))) == made


# -- the strategy --------------------------------------------------------------------------------------------------

SPACE = {"lr": (1e-4, 10.0)}


def bowl(scale: float = 1.0, *, floor: float = 0.01) -> Callable[[Recipe], Iterator[dict[str, float]]]:
    """Two directions, one ten times as steep: diverges above 2 / scale."""

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        slow, steep = 1.0, 1.0
        for _ in range(recipe.epochs):
            slow *= 1 - 0.1 * recipe.lr * scale
            steep *= 1 - recipe.lr * scale
            loss = slow**2 + steep**2 + floor
            yield {"valid_loss": loss if loss < 1e6 else math.nan}

    return train


def searched(strategy: DriftStrategy, scale: float = 1.0, **told: Any) -> Result:
    told = {"space": SPACE, "epochs": 25, **told}
    return tune(bowl(scale), told.pop("space"), strategy=strategy, **told)


@pytest.fixture(scope="module")
def last() -> LastAnswer:
    """What a first run leaves."""
    strategy = DriftStrategy(inner=Grid(points=6))
    result = searched(strategy)
    assert result.best_recipe is not None
    return LastAnswer(params={"lr": result.best_recipe.lr}, profile=strategy.profile)


def test_a_search_ends_with_a_look_at_the_neighbours(last: LastAnswer) -> None:
    assert last.profile is not None
    assert [look.fraction for look in last.profile.looks] == [0.04, 0.08]
    assert all(look.low is not None and look.high is not None for look in last.profile.looks)


def test_where_nobody_says_what_the_untrained_model_is_worth_the_search_has_seen_it(last: LastAnswer) -> None:
    """The three runs of a test show little of what there is to learn; the bowl begins at 2.01."""
    assert last.profile is not None
    assert last.profile.untrained is not None
    assert 1.9 < last.profile.untrained < 6
    noisy = dataclasses.replace(last.profile, end=last.profile.looks[0].mid)
    strategy = DriftStrategy(inner=Grid(points=6), last=LastAnswer(params=last.params, profile=noisy), confirm=False)
    with pytest.raises(SearchError):
        searched(strategy, 1.03)  # another week: a little steeper
    assert strategy.drift is not None
    assert strategy.drift.verdict is DriftVerdict.UNCHANGED
    assert strategy.profile is not None
    assert strategy.profile.untrained == last.profile.untrained


def test_the_neighbours_are_not_shown_to_the_search() -> None:
    seen: list[int] = []

    class Watching(Grid):
        def next(self, context: SearchContext, /) -> Action:
            seen.append(len(context.trials))
            return super().next(context)

    result = searched(DriftStrategy(inner=Watching(points=6)))
    assert max(seen) == 6
    assert sum(result.trials_by_outcome.values()) == 8


def test_what_stands_is_trained_in_full_after_the_test(last: LastAnswer) -> None:
    strategy = DriftStrategy(inner=Grid(points=6), last=last)
    result = searched(strategy)
    assert strategy.drift is not None
    assert strategy.drift.verdict is DriftVerdict.UNCHANGED
    assert result.best_recipe is not None
    assert result.best_recipe.lr == last.params["lr"]
    assert result.cost == pytest.approx(1 + 2 / 25)
    assert "still stands" in result.stopped_because


def test_without_a_confirmation_a_quiet_run_costs_its_looks_alone(last: LastAnswer) -> None:
    strategy = DriftStrategy(inner=Grid(points=6), last=last, confirm=False)
    with pytest.raises(SearchError) as caught:
        searched(strategy)
    assert strategy.drift is not None
    assert strategy.drift.verdict is DriftVerdict.UNCHANGED
    assert caught.value.result.cost == pytest.approx(3 / 25)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_what_moved_is_searched_and_the_test_is_not_repeated(last: LastAnswer, scale: float) -> None:
    strategy = DriftStrategy(inner=Grid(points=6), last=last)
    result = searched(strategy, scale)
    assert strategy.drift is not None
    assert strategy.drift.verdict is not DriftVerdict.UNCHANGED
    trials = result.trials()
    assert (trials.lr == last.params["lr"]).sum() == 1
    assert result.best_recipe is not None
    assert result.best_recipe.lr * scale == pytest.approx(last.params["lr"], rel=2)


def test_a_neighbour_outside_of_the_range_is_left_out(last: LastAnswer) -> None:
    lr = last.params["lr"]
    result = searched(DriftStrategy(inner=Grid(points=6), last=last), space={"lr": (lr / 2, lr * 4)})
    assert lr / CONFIG.step not in set(result.trials().lr)


def test_a_training_too_short_for_a_short_look_is_searched(last: LastAnswer) -> None:
    strategy = DriftStrategy(inner=Grid(points=3), last=last)
    searched(strategy, epochs=2)
    assert strategy.drift is not None
    assert "too short" in strategy.drift.why


def test_a_budget_is_kept_and_the_test_leaves_room_for_a_training(last: LastAnswer) -> None:
    for budget in (1.0, 1.05, 1.2, 2.5):
        result = searched(DriftStrategy(inner=Grid(points=6), last=last), budget=budget)
        assert result.cost <= budget + 1e-9
        assert result.best_recipe is not None


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_stopped_anywhere_it_goes_on_as_if_it_had_not_been(last: LastAnswer, scale: float) -> None:
    import optuna

    def strategy() -> DriftStrategy:
        return DriftStrategy(inner=Grid(points=4), last=last)

    whole = searched(strategy(), scale)
    storage = optuna.storages.InMemoryStorage()
    for most in (3, 9, 30):
        asked: list[int] = []

        def stop(asked: list[int] = asked, most: int = most) -> bool:
            asked.append(1)
            return len(asked) > most

        searched(strategy(), scale, storage=storage, should_stop=stop)
    parts = searched(strategy(), scale, storage=storage)
    assert parts.best_recipe == whole.best_recipe
    assert list(parts.trials().lr) == list(whole.trials().lr)
    assert parts.stopped_because == whole.stopped_because


def test_maximised_metrics_are_read_the_other_way_round() -> None:
    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        for row in bowl()(recipe):
            yield {"score": -row["valid_loss"]}

    told: dict[str, Any] = {"epochs": 25, "metric": "score", "direction": "maximize"}
    first = DriftStrategy(inner=Grid(points=6))
    lr = tune(train, SPACE, strategy=first, **told).best_recipe.lr  # type: ignore[union-attr]  # if it is not there, this fails
    again = DriftStrategy(inner=Grid(points=6), last=LastAnswer(params={"lr": lr}, profile=first.profile))
    tune(train, SPACE, strategy=again, **told)
    assert again.drift is not None
    assert again.drift.verdict is DriftVerdict.UNCHANGED


def test_code_that_fails_in_the_test_is_searched_on_without_a_loop(last: LastAnswer) -> None:
    calls: list[float] = []

    def train(recipe: Recipe) -> Iterator[dict[str, float]]:
        calls.append(recipe.lr)
        if len(calls) == 2:
            msg = "once"
            raise RuntimeError(msg)
        yield from bowl()(recipe)

    strategy = DriftStrategy(inner=Grid(points=6), last=last)
    result = tune(train, SPACE, epochs=25, strategy=strategy)
    assert result.best_recipe is not None
    assert calls.count(calls[1]) == 1


def test_a_strategy_that_ends_at_once_ends(last: LastAnswer) -> None:
    class Nothing:
        name = "nothing"

        def next(self, context: SearchContext, /) -> Finish:
            del context
            return Finish(why="enough")

    with pytest.raises(SearchError, match="enough"):
        tune(bowl(10.0), SPACE, epochs=25, strategy=DriftStrategy(inner=Nothing(), last=last))


@pytest.mark.parametrize("inner", ["grid", "freeze-thaw"])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("lr", [None, 10**-1.5, 10**-3])
def test_it_keeps_the_contract_of_every_strategy(
    monkeypatch: pytest.MonkeyPatch, inner: str, workers: int, lr: float | None
) -> None:
    def made(name: str, *, points: int | None = None) -> DriftStrategy:
        return DriftStrategy(
            inner=make(name, points=points), last=None if lr is None else LastAnswer(params={"lr": lr})
        )

    monkeypatch.setattr(strategy_contract, "make", made)
    lab = strategy_contract.Laboratory(strategy=inner, budget=6.0, workers=workers, check_purity=inner == "grid").run()
    assert lab.completed
    assert lab.paid / lab.epochs <= 6.0 + 1e-9
