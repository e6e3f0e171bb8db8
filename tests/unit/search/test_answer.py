"""The answer read off trials, of any strategy: best, band, edge, runner-up and what the user should know."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_contract import JOINT, LR_ONLY

from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.search.base import SearchContext, TrialView
from lrtune.search.freeze_thaw.answer import answer

LENGTH = 30


def value(x: float, share: float, best: float = -2.0) -> float:
    return 0.1 + (1 + 300 * 10 ** (x - best) * share) ** -0.7 + 0.04 * 10 ** (1.2 * (x - best))


def seen(
    number: int, x: float, trained: int = LENGTH, *, dead: bool = False, seed: int = 0, **changes: Any
) -> TrialView:
    recipe = LR_ONLY.recipe({"lr": 10**x}, epochs=LENGTH).with_seed(seed)
    values = np.array([value(x, e / LENGTH) for e in range(1, trained + 1)])
    outcome = Outcome.COMPLETED if trained == LENGTH else Outcome.PRUNED
    if dead:
        values = np.append(values, math.nan)
        outcome = Outcome.NON_FINITE
    given: dict[str, Any] = {
        "number": number,
        "recipe": recipe,
        "epochs": np.arange(1.0, len(values) + 1),
        "values": values,
        "outcome": outcome,
        "result": float(values[-1]) if outcome is Outcome.COMPLETED else None,
        **changes,
    }
    return TrialView(**given)


def context(trials: list[TrialView], **changes: Any) -> SearchContext:
    return SearchContext(**{"space": LR_ONLY, "epochs": LENGTH, "trials": trials, "spent": 3.0, **changes})


GRID = np.arange(-5, 1.01, 0.05)
ENDS = np.array([value(x, 1.0) for x in GRID])
TRUE_BEST = GRID[ENDS.argmin()]
USUAL = [
    *[seen(i, x, 1) for i, x in enumerate((-4.4, -3.4, -0.9))],
    *[seen(3 + i, x) for i, x in enumerate((-2.7, -2.4, -2.0))],
    seen(6, -1.6, 10),
    seen(7, -0.4, 1, dead=True),
    seen(8, 0.6, 0, dead=True),
]


def test_the_best_is_the_completed_trial_with_the_best_result() -> None:
    found = answer(context(USUAL))
    assert found.best == min((3, 4, 5), key=lambda n: USUAL[n].values[-1])
    assert found.value == pytest.approx(float(USUAL[found.best].values[-1]))


def test_the_result_under_the_value_rule_counts_not_the_last_value() -> None:
    lucky = dataclasses.replace(USUAL[3], result=0.01)
    assert answer(context([*USUAL[:3], lucky, *USUAL[4:]])).best == 3


def test_the_band_holds_the_true_best_and_nothing_bad() -> None:
    found = answer(context(USUAL))
    assert found.band is not None
    low, high = (math.log10(lr) for lr in found.band)
    assert low <= TRUE_BEST <= high
    assert high - low <= 1.5
    inside = ENDS[(low <= GRID) & (high >= GRID)]
    assert np.mean((inside - ENDS.min()) / (1.1 - ENDS.min()) <= 0.02) >= 0.75


def test_the_band_ends_at_runs_that_were_trained_long_enough_to_judge() -> None:
    """A first look at a higher rate promises nothing, and a rate above all that was tried even less."""
    looks = [seen(3 + i, x, 1) for i, x in enumerate((-1.8, -0.9))]
    found = answer(context([seen(0, -2.4), seen(1, -2.2), seen(2, -2.9, 10), *looks]))
    assert found.band is not None
    assert math.log10(found.band[0]) >= -2.9 - 1e-9
    assert math.log10(found.band[1]) <= -2.2 + 1e-9
    further = answer(context([seen(0, -2.4), seen(1, -2.2), seen(2, -2.9, 10), seen(3, -1.8, 10)]))
    assert further.band is not None
    assert further.band[1] >= found.band[1]


@pytest.mark.parametrize("x", [-1.9, -1.4])
def test_what_sat_at_chance_is_not_in_the_band_nor_is_what_lies_beyond(x: float) -> None:
    chance = np.full(LENGTH, value(-5, 0.0))
    stuck = dataclasses.replace(seen(7, x), values=chance, result=float(chance[-1]))
    found = answer(context([*USUAL[:6], stuck]))
    assert found.band is not None
    assert math.log10(found.band[1]) < x


def test_how_sure_an_answer_is_depends_on_what_was_trained_beside_it() -> None:
    alone = answer(context([seen(0, -2.2), seen(1, -4.4, 1)]))
    between = answer(context([seen(0, -2.2), seen(1, -2.6), seen(2, -1.8), seen(3, -3.4, 10), seen(4, -1.0, 10)]))
    assert alone.probability is not None
    assert between.probability is not None
    assert 0 < alone.probability < between.probability < 1


def test_the_noise_of_a_result_is_that_between_repeats_else_that_of_reports() -> None:
    repeats = [dataclasses.replace(seen(n, -2.4, seed=n), result=r) for n, r in enumerate((0.15, 0.17))]
    assert answer(context([*repeats, seen(2, -3.0)])).noise == pytest.approx(0.02 / math.sqrt(2))
    rng = np.random.default_rng(0)
    rough = [dataclasses.replace(s, values=s.values + 0.003 * rng.standard_normal(len(s.values))) for s in USUAL[3:6]]
    assert answer(context([*USUAL[:3], *rough])).noise == pytest.approx(0.003, rel=0.7)


def test_the_edge_lies_between_what_learned_and_what_diverged() -> None:
    edge = answer(context(USUAL)).edge
    assert edge.lr is not None
    assert edge.low is not None
    assert edge.high is not None
    assert edge.low <= 10**-0.9
    assert edge.low < edge.lr < edge.high
    assert 10**-0.4 <= edge.high <= 10**0.6


def test_the_edge_never_lies_below_the_best_which_was_trained_to_its_end() -> None:
    best = answer(context(USUAL)).best
    assert best is not None
    lr = USUAL[best].recipe.lr
    edge = answer(context([*USUAL[:6], seen(6, math.log10(lr) + 0.02, 9, dead=True)])).edge
    assert edge.lr is not None
    assert edge.low is not None
    assert lr * (1 - 1e-9) <= edge.low <= edge.lr


def test_a_run_that_has_only_begun_says_less_of_the_edge_than_one_at_its_end() -> None:
    begun = answer(context([*USUAL[:6], seen(6, -0.9, 3), seen(7, -0.4, 1, dead=True)])).edge
    ended = answer(context([*USUAL[:6], seen(6, -0.9), seen(7, -0.4, 1, dead=True)])).edge
    assert begun.low is not None
    assert ended.low is not None
    assert begun.low < ended.low


def test_without_divergence_there_is_no_edge_but_a_bound() -> None:
    edge = answer(context(USUAL[:7])).edge
    assert edge.lr is None
    assert edge.high is None
    assert edge.low is not None


def test_a_run_that_sat_at_chance_counts_as_the_edge_without_being_judged() -> None:
    flat = np.full(LENGTH, value(-5, 0.0))
    stuck = dataclasses.replace(seen(7, -0.4), values=flat, result=float(flat[-1]))
    edge = answer(context([*USUAL[:7], stuck])).edge
    assert edge.lr is not None
    assert 10**-1.6 < edge.lr < 10**-0.2


def constants(untrained: float | None = None) -> SearchContext:
    """One run learns, those right of it show the same all the time, and still further right they explode."""
    learned = seen(0, -4.9)
    level = [
        dataclasses.replace(seen(1 + i, x), values=np.full(LENGTH, 0.68), result=0.68)
        for i, x in enumerate((-4.6, -4.0, -3.3, -2.6))
    ]
    values = np.linspace(0.68, 0.25, LENGTH)
    learned = dataclasses.replace(learned, values=values, result=0.25)
    worse = dataclasses.replace(seen(6, -2.1, 1), values=np.array([1.7]))
    return context([learned, *level, worse, seen(7, -1.5, 0, dead=True)], untrained=untrained)


def test_a_level_shared_right_of_the_best_leaves_open_where_learning_ends() -> None:
    """It may be the level of the untrained model, or something that was learned: the interval holds both edges."""
    edge = answer(constants()).edge
    assert edge.lr is not None
    assert edge.low is not None
    assert edge.high is not None
    assert edge.low <= 10**-4.6
    assert edge.lr <= 10**-4.6
    assert edge.high >= 10**-2.0


def test_where_the_untrained_level_is_known_a_shared_level_is_told_from_it() -> None:
    learned, dead = answer(constants(untrained=1.33)).edge, answer(constants(untrained=0.68)).edge
    assert learned.low is not None
    assert dead.high is not None
    assert learned.low >= 10**-2.6
    assert dead.high <= 10**-4.0


def test_what_is_noise_about_one_level_is_not_called_stuck() -> None:
    """Nothing learns, and nothing diverges: there is no edge among runs that differ by a thousandth."""
    flat = [dataclasses.replace(seen(i, x, 10), values=np.full(10, 0.6812)) for i, x in enumerate((-4, -3, -2, -1))]
    done = dataclasses.replace(seen(4, -3.5), values=np.linspace(0.68, 0.679, LENGTH), result=0.679)
    edge = answer(context([*flat, done])).edge
    assert edge.lr is None
    assert edge.high is None


def jointly(
    number: int, lr: float, batch: int, trained: int = LENGTH, *, dead: bool = False, **other: Any
) -> TrialView:
    params = {"lr": lr, "batch_size": batch, "schedule": "constant", "warmup": 0.0, **other}
    recipe = JOINT.recipe(params, epochs=LENGTH)
    return seen(number, math.log10(lr), trained, dead=dead, recipe=recipe)


def test_an_edge_under_other_settings_counts_unless_a_run_under_more_similar_ones_outlives_it() -> None:
    """At batch 256 runs die from 0.3 on; as if it were batch 64 that is 0.075, and at batch 16 0.02."""
    runs = [jointly(0, 0.004, 16), jointly(1, 0.01, 16), jointly(2, 0.3, 256, 4, dead=True)]
    edge = answer(context(runs, space=JOINT)).edge
    assert edge.high is not None
    assert edge.lr is not None
    assert 0.01 < edge.lr < 0.03 < edge.high < 0.1
    for lr in (0.04, 0.0175):  # beyond it, or so close below that it is chance
        outlived = answer(context([*runs, jointly(3, lr, 16, warmup=0.1)], space=JOINT)).edge
        assert outlived.lr is None
        assert outlived.low == pytest.approx(0.01)


def test_a_maximised_metric_gives_the_same_answer() -> None:
    mirrored = [dataclasses.replace(s, values=-s.values, result=None if s.result is None else -s.result) for s in USUAL]
    one, two = answer(context(USUAL)), answer(context(mirrored, direction="maximize"))
    assert one.best == two.best
    assert one.value == pytest.approx(-float(two.value or 0))
    assert one.band == pytest.approx(two.band)
    assert one.edge == two.edge


def test_repeats_are_read_together_and_a_lucky_single_run_does_not_win() -> None:
    good = [dataclasses.replace(seen(n, -2.4, seed=n), result=r) for n, r in enumerate((0.150, 0.152, 0.151))]
    other = [dataclasses.replace(seen(3 + n, -2.0, seed=n), result=r) for n, r in enumerate((0.180, 0.182))]
    lucky = dataclasses.replace(seen(5, -2.2), result=0.149)
    found = answer(context([*good, *other, lucky]))
    assert found.best == 0
    assert found.value == pytest.approx(0.151)


def test_where_all_diverged_it_says_so_and_what_to_try() -> None:
    found = answer(context([seen(n, -1.0 - n, 0, dead=True) for n in range(4)]))
    assert found.best is None
    assert found.band is None
    assert found.edge.high == pytest.approx(1e-4)
    assert "below" in found.warnings[0]


def test_where_nothing_completed_there_is_a_warning_and_an_edge() -> None:
    found = answer(context([seen(0, -2.0, 4), seen(1, -3.0, 4), seen(2, 0.0, 1, dead=True)]))
    assert found.best is None
    assert found.edge.lr is not None
    assert "budget" in found.warnings[0]


def test_a_best_at_the_end_of_the_range_is_pointed_out() -> None:
    space = Space(lr=(10**-3.4, 10**-2.95))
    found = answer(context([seen(0, -3.4), seen(1, -3.2), seen(2, -3.0)], space=space))
    assert any("high end" in warning for warning in found.warnings)
    assert not answer(context(USUAL)).warnings


def test_without_trials_there_is_nothing_to_say() -> None:
    found = answer(context([]))
    assert found.best is None
    assert found.warnings == ()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 1), st.integers(0, LENGTH), st.booleans(), st.floats(-1e12, 1e12)), max_size=12)
)
def test_whatever_was_seen_the_answer_is_consistent(rows: list[tuple[float, int, bool, float]]) -> None:
    trials = []
    for number, (x, trained, dead, offset) in enumerate(rows):
        one = seen(number, x, trained, dead=dead)
        result = None if one.result is None else one.result + offset
        trials.append(dataclasses.replace(one, values=one.values + offset, result=result))
    found = answer(context(trials))
    done = [t for t in trials if t.outcome is Outcome.COMPLETED]
    assert (found.best is None) == (not done)
    if found.best is not None:
        assert found.band is not None
        lr = trials[found.best].recipe.lr
        assert found.band[0] <= lr * 1.0001
        assert found.band[1] >= lr * 0.9999
    if found.edge.lr is not None and found.edge.low is not None and found.edge.high is not None:
        assert found.edge.low <= found.edge.lr <= found.edge.high


def test_one_learning_rate_alone_has_no_band() -> None:
    alone, beside = answer(context([seen(0, -2.0)])), answer(context([seen(0, -2.0), seen(1, -2.5, 10)]))
    assert alone.best == beside.best == 0
    assert alone.band is None, "one says nothing of any other"
    assert beside.band is not None
