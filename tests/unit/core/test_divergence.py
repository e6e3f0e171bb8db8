"""The one rule for divergence: at the step, at the report, on recorded curves, and what samplers hear of it."""

from __future__ import annotations

import csv
import functools
import gzip
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.core.curve import Curve, Direction, Point
from lrtune.core.divergence import Baseline, StepGuard, judge, learned, sampler_feedback
from lrtune.core.outcome import Outcome
from lrtune.core.space import Space
from lrtune.study.tuning import tune

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lrtune.core.recipe import Recipe

NON_FINITE = [math.nan, math.inf, -math.inf]
LEVELS = [2.3, -5.0, 1e-9, 0.0, -1e6]
"""Losses of untrained models: positive, negative, near zero, zero, large."""


def fed(losses: Sequence[float], untrained: float | None = None) -> tuple[Outcome | None, int]:
    """What a guard said first, and at which loss (from 0)."""
    guard = StepGuard(untrained)
    for step, loss in enumerate(losses):
        outcome = guard.see(loss)
        if outcome is not None:
            return outcome, step
    return None, len(losses)


def drawn(values: Sequence[float], train: Sequence[float] | None = None, name: str = "valid_loss") -> Curve:
    """A curve with one report an epoch."""
    return Curve(
        Point(step=i + 1, epoch=float(i + 1), values={name: v} | ({"train_loss": train[i]} if train else {}))
        for i, v in enumerate(values)
    )


def judged(
    values: Sequence[float],
    *,
    train: Sequence[float] | None = None,
    direction: Direction = "minimize",
    untrained: float | None = None,
    chance: float | None = None,
    epochs: float = 20,
    name: str = "valid_loss",
    warmup: float = 0.0,
    learned_above: bool = False,
) -> Outcome | None:
    """The first verdict over all prefixes of a curve: what a search would have done."""
    for upto in range(1, len(values) + 1):
        verdict = judge(
            drawn(values[:upto], train[:upto] if train else None, name),
            name,
            direction,
            epochs=epochs,
            baseline=Baseline(untrained=untrained, chance=chance),
            warmup=warmup,
            learned_above=learned_above,
        )
        if verdict is not None:
            assert verdict.why
            assert str(upto) in verdict.why
            return verdict.outcome
    return None


# -- at the step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", NON_FINITE)
@pytest.mark.parametrize("at", [0, 1, 7])
def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(bad: float, at: int) -> None:
    assert fed([1.0] * at + [bad, 1.0]) == (Outcome.NON_FINITE, at)


@pytest.mark.parametrize("level", LEVELS)
def test_losses_that_stay_far_above_the_untrained_one_have_exploded(level: float) -> None:
    scale = max(abs(level), 1.0) if level == 0 else abs(level)
    outcome, step = fed([level] + [level + 1e3 * scale] * 30)
    assert outcome is Outcome.EXPLODED
    assert 1 < step < 30
    assert fed([level, level + 1e9 * scale]) == (Outcome.EXPLODED, 1), "from there nothing comes back"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("length", [1, 5])
def test_a_spike_that_recovers_ends_no_run(level: float, length: int) -> None:
    scale = max(abs(level), 1.0) if level == 0 else abs(level)
    calm = [level, level - 0.1 * scale]
    assert fed(calm + [level + 1e4 * scale] * length + calm * 5) == (None, length + 12)


def test_a_rise_by_an_order_of_magnitude_is_left_alone() -> None:
    """The catapult: at the edge of stability the loss rises tenfold and comes back."""
    assert fed([2.3, 10.0, 30.0, 60.0, 40.0, 20.0, 5.0, 1.0])[0] is None


def test_an_early_dip_protects_no_run_from_exploding() -> None:
    assert fed([2.3, 0.1, 0.05] + [2.3e4] * 30)[0] is Outcome.EXPLODED
    assert fed([-1.0, -50.0] + [1e6] * 30)[0] is Outcome.EXPLODED


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.integers(0, 59))
def test_a_guard_that_is_restored_says_what_it_would_have_said(losses: list[float], cut: int) -> None:
    losses = [losses[0], *[loss * 1e3 for loss in losses[1:]]]
    whole, first = StepGuard(), StepGuard()
    said = [whole.see(loss) for loss in losses]
    for loss in losses[:cut]:
        first.see(loss)
    second = StepGuard()
    second.restore(first.state())
    assert [second.see(loss) for loss in losses[cut:]] == said[cut:]


# a unit that is a power of two changes no digit of a loss: one on the very threshold stays there
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=50), st.integers(-10, 10).map(lambda k: 2.0**k))
def test_the_unit_of_the_loss_does_not_matter(losses: list[float], unit: float) -> None:
    assert fed(losses) == fed([loss * unit for loss in losses])


# -- at the report --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", NON_FINITE)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_report_that_is_not_finite_has_diverged_whatever_came_before(
    bad: float, direction: Direction, before: int
) -> None:
    assert judged([0.1] * before + [bad], direction=direction) is Outcome.NON_FINITE


def test_any_name_that_is_not_finite_counts() -> None:
    assert judged([1.0, 1.0], train=[1.0, math.nan]) is Outcome.NON_FINITE


def test_a_number_beside_the_metric_and_the_losses_may_be_undefined() -> None:
    curve = Curve()
    curve.append(Point(step=1, epoch=1.0, samples=1, values={"valid_loss": 0.5, "f1": math.nan}))
    assert judge(curve, "valid_loss", "minimize", epochs=20) is None
    assert judge(curve, "f1", "maximize", epochs=20) is not None


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_reports_far_beyond_the_untrained_one_have_exploded(direction: Direction, level: float, *, known: bool) -> None:
    scale = 1.0 if level == 0 else abs(level)
    sign = 1 if direction == "minimize" else -1
    values = [sign * v for v in (level, level + 50 * scale, level + 60 * scale)]
    untrained = sign * level if known else None
    assert judged(values, direction=direction, untrained=untrained) is Outcome.EXPLODED
    assert judged(values[:2], direction=direction, untrained=untrained) is None, "one report may be a spike"
    assert judged([*values[:2], values[0]], direction=direction, untrained=untrained) is None


def test_a_score_of_minus_1e26_has_exploded_at_once() -> None:
    """SGDRegressor's, with finite weights and no warning."""
    assert judged([-3.9e26], direction="maximize", untrained=-0.05, chance=0.0) is Outcome.EXPLODED


def test_an_early_dip_protects_no_run_at_the_report() -> None:
    assert judged([0.1, 50.0, 60.0], untrained=2.3) is Outcome.EXPLODED
    assert judged([0.9, -40.0, -50.0], direction="maximize", untrained=0.0) is Outcome.EXPLODED


@given(st.lists(st.floats(0.0, 2.2), min_size=1, max_size=20))
def test_what_is_better_than_the_untrained_model_has_never_diverged(values: list[float]) -> None:
    assert judged(values, untrained=2.3) is None
    assert judged([-v for v in values], direction="maximize", untrained=-2.3) is None


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12),
    st.floats(-10, 10),
    st.one_of(st.none(), st.floats(-10, 10)),
)
def test_maximising_is_the_mirror_image(values: list[float], untrained: float, chance: float | None) -> None:
    assert judged(values, untrained=untrained, chance=chance) == judged(
        [-v for v in values], direction="maximize", untrained=-untrained, chance=None if chance is None else -chance
    )


# -- stuck at chance ------------------------------------------------------------------------------------

JITTER = [0.06, -0.01, 0.04, 0.02, -0.02, 0.05, 0.03, -0.01, 0.02, 0.06, 0.0, 0.03]
STUCK = [2.303 + j for j in JITTER]


def test_a_run_thrown_to_the_level_of_a_constant_prediction_is_stuck() -> None:
    assert judged(STUCK, untrained=2.3, chance=2.303) is Outcome.STUCK
    assert judged([-v for v in STUCK], direction="maximize", untrained=-2.3) is Outcome.STUCK


def test_an_early_dip_protects_no_run_from_being_stuck() -> None:
    assert judged([0.4, *STUCK], untrained=2.3) is Outcome.STUCK


def test_a_small_learning_rate_is_slow_and_not_stuck() -> None:
    flat = [2.3036 - 0.0001 * i for i in range(20)]
    noisy = [2.2995 - 0.0002 * i + 0.0008 * (i % 3) for i in range(20)]
    assert judged(flat, train=noisy, untrained=2.2978, chance=2.3026) is None
    assert judged([2.3] * 20, untrained=2.3) is None


def test_a_slow_accuracy_that_jitters_at_chance_is_not_stuck_while_its_loss_has_not_moved() -> None:
    accuracy = [0.10, 0.09, 0.11, 0.08, 0.10, 0.09, 0.11, 0.10, 0.08, 0.10]
    slow = [2.31, 2.309, 2.31, 2.308, 2.309, 2.307, 2.308, 2.306, 2.307, 2.305]
    thrown = [8.0, 2.5, 2.4, 2.5, 2.45, 2.5, 2.4, 2.5, 2.4, 2.5]
    given_: dict[str, object] = {"direction": "maximize", "untrained": 0.1, "chance": 0.105, "name": "accuracy"}
    assert judged(accuracy, train=slow, **given_) is None  # type: ignore[arg-type]
    assert judged(accuracy, train=thrown, **given_) is Outcome.STUCK  # type: ignore[arg-type]


def test_nobody_is_stuck_during_warmup_nor_below_a_rate_that_learns() -> None:
    assert judged(STUCK[:8], untrained=2.3, warmup=0.5) is None
    assert judged(STUCK, untrained=2.3, learned_above=True) is None


def test_a_run_that_comes_back_is_not_stuck() -> None:
    """Thrown above chance, then falling report by report: a catapult."""
    assert judged([6.0, 4.0, 3.0, 2.6, 2.4, 2.3, 2.1, 1.5, 0.9, 0.5], untrained=2.3) is None


def test_without_a_baseline_nobody_is_stuck() -> None:
    assert judged(STUCK) is None


def test_learned_is_clearly_better_than_knowing_nothing() -> None:
    base = Baseline(untrained=2.3, chance=2.303)
    assert learned(np.array([2.0, 1.5]), base, "minimize")
    assert not learned(np.array([1.5, 2.29]), base, "minimize")
    assert learned(np.array([0.3]), Baseline(chance=0.1), "maximize")
    assert not learned(np.array([0.101]), Baseline(chance=0.1), "maximize")
    assert not learned(np.array([0.0]), None, "minimize")
    assert not learned(np.array([]), base, "minimize")
    assert not learned(np.array([math.nan]), base, "minimize")


def test_the_worst_of_a_baseline_is_on_the_worse_side() -> None:
    assert Baseline(untrained=2.3, chance=1.0).worst("minimize") == 2.3
    assert Baseline(untrained=0.05, chance=0.1).worst("maximize") == 0.05
    assert Baseline(untrained=math.nan, chance=1.0).worst("minimize") == 1.0
    assert Baseline().worst("minimize") is None


# -- recorded curves --------------------------------------------------------------------------------------

FOLDER = os.environ.get("LRTUNE_CURVES")
JOINT = Path(FOLDER, "digits_mlp_joint") if FOLDER else None
recorded = pytest.mark.skipif(
    JOINT is None or not JOINT.is_dir(), reason="LRTUNE_CURVES names no folder of recorded curves (digits_mlp_joint)"
)


@functools.cache
def runs() -> list[tuple[dict[str, str], list[float], list[float]]]:
    """Each run: what it was told, train_loss and valid_loss by epoch."""
    assert JOINT is not None
    with (JOINT / "runs.csv").open() as file:
        told_ = {row["run_id"]: (row, [], []) for row in csv.DictReader(file)}  # type: ignore[var-annotated]
    with gzip.open(JOINT / "epochs.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            told_[row["run_id"]][1].append(float(row["train_loss"]))
            told_[row["run_id"]][2].append(float(row["valid_loss"]))
    return list(told_.values())


def verdict_of(run: tuple[dict[str, str], list[float], list[float]]) -> Outcome | None:
    row, train, valid = run
    return judged(valid, train=train, untrained=float(row["untrained_loss"]), epochs=27, warmup=float(row["warmup"]))


@recorded
def test_recorded_runs_that_settle_at_chance_are_found_and_slow_ones_are_not() -> None:
    level = [run for run in runs() if run[2][-1] >= 0.98 * float(run[0]["untrained_loss"])]
    high = [run for run in level if float(run[0]["learning_rate"]) > 0.05]
    low = [run for run in level if float(run[0]["learning_rate"]) <= 0.05]
    assert (len(high), len(low)) == (186, 289)
    assert sum(verdict_of(run) is not None for run in high) >= 180
    assert sum(verdict_of(run) is not None for run in low) <= 3


@recorded
def test_recorded_runs_that_learn_are_never_called_diverged() -> None:
    good = [run for run in runs() if run[2][-1] < 0.5 * float(run[0]["untrained_loss"])]
    assert len(good) > 250
    assert sum(verdict_of(run) is not None for run in good) <= 1


# -- what a sampler is told ---------------------------------------------------------------------------------

DIVERGED = [Outcome.NON_FINITE, Outcome.EXPLODED, Outcome.STUCK]


@pytest.mark.parametrize("outcome", DIVERGED)
@pytest.mark.parametrize(("direction", "worst"), [("minimize", 0.9), ("maximize", 0.1)])
def test_a_diverged_trial_is_infeasible_and_the_worst(outcome: Outcome, direction: Direction, worst: float) -> None:
    early = sampler_feedback(outcome, 0.0, trained=0.1, known=[0.1, 0.9, math.nan], direction=direction)
    late = sampler_feedback(outcome, 0.0, trained=0.9, known=[0.1, 0.9], direction=direction)
    assert early.value == late.value == worst
    assert early.violation > late.violation > 0
    assert sampler_feedback(outcome, None, trained=0.5, known=[], direction=direction).value is None


def test_a_completed_trial_is_worth_its_value() -> None:
    assert sampler_feedback(Outcome.COMPLETED, 0.3, trained=1, known=[0.1], direction="minimize").value == 0.3
    assert sampler_feedback(Outcome.COMPLETED, 0.3, trained=1, known=[0.1], direction="minimize").violation == 0


@given(value=st.floats(-10, 10), best=st.floats(-10, 10), expected=st.one_of(st.none(), st.floats(-10, 10)))
def test_a_pruned_trial_is_never_better_than_the_best(value: float, best: float, expected: float | None) -> None:
    low = sampler_feedback(
        Outcome.PRUNED, value, trained=0.3, known=[best], direction="minimize", expected=expected
    ).value
    high = sampler_feedback(
        Outcome.PRUNED, value, trained=0.3, known=[best], direction="maximize", expected=expected
    ).value
    assert low is not None
    assert high is not None
    assert low >= best >= high


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.INTERRUPTED, Outcome.STALLED])
def test_a_trial_that_was_lost_says_nothing(outcome: Outcome) -> None:
    verdict = sampler_feedback(outcome, 0.3, trained=0.5, known=[0.1], direction="minimize")
    assert (verdict.value, verdict.violation) == (None, 0)


def test_a_pruned_trial_without_a_finite_value_says_nothing() -> None:
    assert sampler_feedback(Outcome.PRUNED, math.nan, trained=0.3, known=[], direction="minimize").value is None
    assert sampler_feedback(Outcome.PRUNED, None, trained=0.3, known=[], direction="minimize").value is None


# -- the cliff --------------------------------------------------------------------------------------------


def cliff(recipe: Recipe) -> Iterator[dict[str, float]]:
    """The best learning rate lies just below a cliff: above it, NaN from the first report on."""
    x = math.log10(recipe.lr)
    for epoch in range(recipe.epochs):
        yield {"valid_loss": math.nan if x > -1 else 0.1 + (x + 1.1) ** 2 + math.exp(-epoch)}


def test_on_the_cliff_few_trials_of_tpe_diverge() -> None:
    """With NaN a silent failure 29.9 of 40 trials of plain TPE diverge."""
    counts = []
    for seed in range(10):
        result = tune(cliff, Space(lr=(1e-5, 10.0)), epochs=3, strategy="tpe", trials=40, seed=seed, widen=0)
        assert sum(result.trials_by_outcome.values()) == 40
        assert result.best_recipe is not None
        assert 0.01 < result.best_recipe.lr < 0.1
        counts.append(result.trials_by_outcome["diverged"])
    assert np.mean(counts) <= 12
    assert max(counts) <= 16
