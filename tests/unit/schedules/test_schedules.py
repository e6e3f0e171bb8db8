"""Schedules: equal to PyTorch's own for every step, and functions of progress that can be written down and read."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler as torch_schedulers

from lrtune.core.recipe import Recipe
from lrtune.errors import RecipeError
from lrtune.schedules import SCHEDULES, Plateau, Schedule, describe, for_recipe, multipliers, parse, with_warmup

if TYPE_CHECKING:
    from collections.abc import Callable

PEAK = 0.7


def torch_lrs(make: Callable[[torch.optim.Optimizer], Any], steps: int, lr: float = PEAK) -> list[float]:
    """The learning rate that PyTorch's scheduler sets at each step, and after the last one: shape (steps + 1,)."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    lrs = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        lrs.append(optimizer.param_groups[0]["lr"])
    return lrs


def ours(spec: str, steps: int) -> list[float]:
    schedule = parse(spec)
    return [PEAK * schedule(step / steps) for step in range(steps + 1)]


# Equal to PyTorch's own, for every step. T is the number of steps.
SAME: list[tuple[str, Callable[[torch.optim.Optimizer, int], Any]]] = [
    ("constant", lambda o, _: torch_schedulers.ConstantLR(o, factor=1.0)),
    ("step(every=0.25, factor=0.3)", lambda o, t: torch_schedulers.StepLR(o, step_size=t // 4, gamma=0.3)),
    ("step(every=0.05)", lambda o, t: torch_schedulers.StepLR(o, step_size=t // 20, gamma=0.1)),
    (
        "multistep(at=[0.3, 0.7, 0.9], factor=0.5)",
        lambda o, t: torch_schedulers.MultiStepLR(o, [3 * t // 10, 7 * t // 10, 9 * t // 10], gamma=0.5),
    ),
    ("exponential(end=0.05)", lambda o, t: torch_schedulers.ExponentialLR(o, gamma=0.05 ** (1 / t))),
    ("polynomial(power=2.5)", lambda o, t: torch_schedulers.PolynomialLR(o, total_iters=t, power=2.5)),
    ("linear(floor=0.2)", lambda o, t: torch_schedulers.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=t)),
    ("linear", lambda o, t: torch_schedulers.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=t)),
    ("cosine", lambda o, t: torch_schedulers.CosineAnnealingLR(o, T_max=t)),
    ("cosine(floor=0.1)", lambda o, t: torch_schedulers.CosineAnnealingLR(o, T_max=t, eta_min=0.1 * PEAK)),
    (
        "cosine_restarts(cycles=5, floor=0.01)",
        lambda o, t: torch_schedulers.CosineAnnealingWarmRestarts(o, T_0=t // 5, eta_min=0.01 * PEAK),
    ),
    (
        "cosine_restarts(cycles=4, growth=3)",
        lambda o, t: torch_schedulers.CosineAnnealingWarmRestarts(o, T_0=t // 40, T_mult=3),
    ),
    (
        "cyclical(cycles=4, floor=0.2)",
        lambda o, t: torch_schedulers.CyclicLR(o, 0.2 * PEAK, PEAK, step_size_up=t // 8, cycle_momentum=False),
    ),
    (
        "cyclical(mode=triangular2, cycles=5, floor=0.1, up=0.25)",
        lambda o, t: torch_schedulers.CyclicLR(
            o,
            0.1 * PEAK,
            PEAK,
            step_size_up=t // 20,
            step_size_down=3 * t // 20,
            mode="triangular2",
            cycle_momentum=False,
        ),
    ),
    (
        "cyclical(mode=exp_range, cycles=2, end=0.3)",
        lambda o, t: torch_schedulers.CyclicLR(
            o, 0.1 * PEAK, PEAK, step_size_up=t // 4, mode="exp_range", gamma=0.3 ** (1 / t), cycle_momentum=False
        ),
    ),
    # PyTorch counts the last step as the end of the run, lrtune the moment after it: one step more in total.
    (
        "onecycle",
        lambda o, t: torch_schedulers.OneCycleLR(
            o, PEAK, total_steps=t + 1, pct_start=(0.3 * t + 1) / (t + 1), cycle_momentum=False
        ),
    ),
    (
        "onecycle(up=0.2, start=0.1, end=0.001, shape=linear)",
        lambda o, t: torch_schedulers.OneCycleLR(
            o,
            PEAK,
            total_steps=t + 1,
            pct_start=(0.2 * t + 1) / (t + 1),
            anneal_strategy="linear",
            div_factor=10,
            final_div_factor=100,
            cycle_momentum=False,
        ),
    ),
    (
        "sweep(ratio=1000)",
        lambda o, t: torch_schedulers.LambdaLR(o, lambda step: 1000 ** (step / t) / 1000),
    ),
    # PyTorch has none of these: written once more for LambdaLR, in steps.
    (
        "inverse_sqrt(timescale=0.25)",
        lambda o, t: torch_schedulers.LambdaLR(o, lambda step: math.sqrt((t / 4) / (t / 4 + step))),
    ),
    (
        "wsd(decay=0.25, floor=0.2)",
        lambda o, t: torch_schedulers.LambdaLR(
            o, lambda step: 1.0 if step < 3 * t // 4 else 1 - 0.8 * (step - 3 * t // 4) / (t // 4)
        ),
    ),
    (
        "wsd(decay=0.5, shape=cosine)",
        lambda o, t: torch_schedulers.LambdaLR(
            o, lambda step: 1.0 if step < t // 2 else 0.5 + 0.5 * math.cos(math.pi * (step - t // 2) / (t // 2))
        ),
    ),
    (
        "wsd(decay=0.5, shape=sqrt)",
        lambda o, t: torch_schedulers.LambdaLR(
            o, lambda step: 1.0 if step < t // 2 else 1 - math.sqrt((step - t // 2) / (t // 2))
        ),
    ),
]


@pytest.mark.parametrize("steps", [40, 1000])
@pytest.mark.parametrize(("spec", "make"), SAME, ids=[spec for spec, _ in SAME])
def test_it_equals_pytorchs_own_at_every_step(spec: str, make: Callable[..., Any], steps: int) -> None:
    # The chained recurrences of PyTorch gather rounding errors over the steps; compared up to the last step.
    theirs = torch_lrs(lambda optimizer: make(optimizer, steps), steps)[:-1]
    np.testing.assert_allclose(ours(spec, steps)[:-1], theirs, rtol=1e-9, atol=1e-12)


def test_every_schedule_is_compared() -> None:
    compared = {parse(spec).family for spec, _ in SAME}
    assert compared | {"plateau"} == set(SCHEDULES)


def metrics(seed: int) -> list[float]:
    """A loss that falls, stays and jumps about."""
    rng = np.random.default_rng(seed)
    return [float(x) for x in np.exp(-np.arange(120) / 20) + 0.05 * rng.random(120) + 0.2]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.5, "patience": 3},
        {"factor": 0.1, "patience": 0, "cooldown": 4, "threshold": 0.01},
        {"factor": 0.3, "patience": 2, "floor": 0.05, "cooldown": 1, "threshold": 0.0},
    ],
)
def test_plateau_equals_pytorchs_own_at_every_update(options: dict[str, Any], mode: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    named = {"min_lr": PEAK * options.get("floor", 0.0)} | {k: v for k, v in options.items() if k != "floor"}
    theirs = torch_schedulers.ReduceLROnPlateau(optimizer, mode=mode, eps=0.0, **named)  # type: ignore[arg-type]
    plateau = Plateau(mode=mode, **options)
    for metric in metrics(0):
        heard = metric if mode == "min" else 2.0 - metric
        theirs.step(heard)
        assert PEAK * plateau.update(heard) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert plateau.multiplier < 1


# Properties of every one of them.

fractions = st.floats(0.0, 1.0)
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "constant": {},
    "step": {"every": st.floats(0.01, 1.0), "factor": st.floats(0.01, 1.0)},
    "multistep": {
        "at": st.lists(st.floats(0.01, 0.99), min_size=1, max_size=5, unique=True).map(sorted),
        "factor": st.floats(0.01, 1.0),
    },
    "exponential": {"end": st.floats(1e-6, 1.0)},
    "polynomial": {"power": st.floats(0.1, 10.0), "floor": fractions},
    "linear": {"floor": fractions},
    "cosine": {"floor": fractions},
    "cosine_restarts": {"cycles": st.integers(1, 1000), "growth": st.floats(1.0, 10.0), "floor": fractions},
    "cyclical": {
        "mode": st.sampled_from(["triangular", "triangular2", "exp_range"]),
        "cycles": st.integers(1, 1000),
        "floor": fractions,
        "up": st.floats(0.01, 0.99),
        "end": st.floats(0.01, 1.0),
    },
    "onecycle": {
        "up": st.floats(0.01, 0.99),
        "start": st.floats(0.001, 1.0),
        "end": fractions,
        "shape": st.sampled_from(["cosine", "linear"]),
    },
    "inverse_sqrt": {"timescale": st.floats(1e-4, 100.0)},
    "wsd": {"decay": st.floats(0.01, 1.0), "floor": fractions, "shape": st.sampled_from(["linear", "cosine", "sqrt"])},
    "sweep": {"ratio": st.floats(1.001, 1e8), "over": st.floats(0.01, 1.0)},
    "plateau": {
        "factor": st.floats(0.01, 0.99),
        "patience": st.integers(0, 50),
        "threshold": st.floats(0.0, 0.5),
        "cooldown": st.integers(0, 5),
        "floor": fractions,
        "mode": st.sampled_from(["min", "max"]),
    },
}


@st.composite
def schedules(draw: st.DrawFn, *, warmup: bool = True) -> Schedule:
    name = draw(st.sampled_from(list(SCHEDULES)))
    chosen = draw(st.lists(st.sampled_from([*OPTIONS[name], None]), unique=True))
    options = {option: draw(OPTIONS[name][option]) for option in chosen if option is not None}
    schedule = SCHEDULES[name](**options)
    return with_warmup(schedule, draw(st.sampled_from([0.0, 0.25]) | st.floats(1e-6, 0.99))) if warmup else schedule


@given(schedules(), st.lists(fractions, min_size=1, max_size=50))
def test_multipliers_lie_between_zero_and_the_peak(schedule: Schedule, progress: list[float]) -> None:
    values = schedule(np.array([*progress, 0.0, 1.0]))
    assert np.all(values >= 0.0)
    assert np.all(values <= 1.0 + 1e-12)


@given(schedules(), st.lists(fractions, min_size=1, max_size=50))
def test_an_array_gives_what_each_number_gives(schedule: Schedule, progress: list[float]) -> None:
    together = schedule(np.array(progress))
    assert isinstance(schedule(0.5), float)
    assert together.shape == (len(progress),)
    np.testing.assert_allclose(together, [schedule(p) for p in progress], rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(schedule(np.array([progress, progress])), [together, together])


@given(schedules())
def test_what_is_written_reads_as_the_same(schedule: Schedule) -> None:
    again = parse(str(schedule))
    assert again == schedule
    assert str(again) == str(schedule)
    assert again.family == schedule.family
    np.testing.assert_array_equal(multipliers(again, 64), multipliers(schedule, 64))


@given(schedules())
def test_it_travels_between_processes(schedule: Schedule) -> None:
    assert pickle.loads(pickle.dumps(schedule)) == schedule  # noqa: S301 -- our own bytes
    assert copy.deepcopy(schedule) == schedule


@given(schedules())
def test_it_ends_where_it_stands_beyond_the_run(schedule: Schedule) -> None:
    assert schedule(1.5) == schedule(1.0)
    assert schedule(-0.5) == schedule(0.0)


@given(schedules(warmup=False), st.floats(0.01, 0.9), fractions)
def test_warmup_rises_in_a_line_and_then_makes_room(schedule: Schedule, warmup: float, at: float) -> None:
    warm = with_warmup(schedule, warmup)
    assert warm(at * warmup) == pytest.approx(at * schedule(0.0), abs=1e-9)
    assert warm(0.0) == 0.0
    # Only where nothing jumps is the value beyond the warmup safe from rounding.
    if schedule.family in ("linear", "cosine", "exponential", "onecycle", "polynomial") and at < 1:
        assert warm(warmup + at * (1 - warmup)) == pytest.approx(schedule(at), rel=1e-4, abs=1e-4)
    assert warm.family == schedule.family
    assert warm.metric_driven == schedule.metric_driven


@given(schedules(warmup=False))
def test_no_warmup_changes_nothing(schedule: Schedule) -> None:
    assert with_warmup(schedule, 0) is schedule


@given(schedules())
def test_each_is_described_in_one_sentence(schedule: Schedule) -> None:
    text = describe(schedule)
    assert text.startswith("The learning rate ")
    assert text.endswith(".")
    assert "\n" not in text


def test_only_plateau_listens() -> None:
    assert [name for name in SCHEDULES if parse(name).metric_driven] == ["plateau"]


@pytest.mark.parametrize("spec", ["cosine", "warmup(0.1) + step"])
def test_who_does_not_listen_hears_nothing(spec: str) -> None:
    schedule = parse(spec)
    assert schedule.update(math.inf, progress=0.5) == schedule(0.5)
    assert schedule.state() == {}
    schedule.restore({})


# Well known ones, one line each.


def test_berts_is_one_line() -> None:
    total = 100_000
    bert = for_recipe(Recipe(lr=1e-4, schedule="linear", warmup=10_000), total)
    steps = np.arange(total)
    theirs = np.where(steps < 10_000, steps / 10_000, (total - steps) / (total - 10_000))
    np.testing.assert_allclose(multipliers(bert, total), theirs, rtol=1e-12, atol=1e-12)


def test_gpt3s_is_one_line() -> None:
    gpt3 = with_warmup(parse("cosine(floor=0.1)"), 375 / 260_000)
    total, warm = 260_000, 375
    steps = np.arange(total)
    falling = 0.1 + 0.45 * (1 + np.cos(np.pi * (steps - warm) / (total - warm)))
    np.testing.assert_allclose(multipliers(gpt3, total), np.where(steps < warm, steps / warm, falling), atol=1e-12)


def test_the_first_transformers_is_one_line() -> None:
    total, warm = 2000, 400
    steps = np.arange(total)
    noam = np.minimum(steps / warm, np.sqrt(warm / np.maximum(steps, 1)))
    schedule = with_warmup(parse("inverse_sqrt(timescale=0.25)"), warm, total_steps=total)
    np.testing.assert_allclose(multipliers(schedule, total), noam, atol=1e-12)


@pytest.mark.parametrize("spec", ["cosine", "linear(floor=0.1)", "polynomial(power=2)"])
def test_warmup_equals_pytorchs_sequence_of_two(spec: str) -> None:
    total, warm = 200, 50
    left = total - warm
    after = {
        "cosine": lambda o: torch_schedulers.CosineAnnealingLR(o, T_max=left),
        "linear(floor=0.1)": lambda o: torch_schedulers.LinearLR(o, 1.0, 0.1, total_iters=left),
        "polynomial(power=2)": lambda o: torch_schedulers.PolynomialLR(o, total_iters=left, power=2.0),
    }[spec]

    def both(optimizer: torch.optim.Optimizer) -> Any:
        rise = torch_schedulers.LambdaLR(optimizer, lambda step: step / warm)
        return torch_schedulers.SequentialLR(optimizer, [rise, after(optimizer)], milestones=[warm])

    schedule = for_recipe(Recipe(lr=PEAK, schedule=spec, warmup=warm / total), total)
    theirs = torch_lrs(both, total)[:-1]
    np.testing.assert_allclose(PEAK * multipliers(schedule, total), theirs, rtol=1e-9, atol=1e-12)


# Plateau as a state machine.


def test_plateau_goes_on_from_its_state_as_if_never_paused() -> None:
    whole, heard = parse("plateau(patience=3, factor=0.5, cooldown=2)"), metrics(1)
    expected = [whole.update(metric) for metric in heard]
    first = parse(str(whole))
    start = [first.update(metric) for metric in heard[:50]]
    second = parse(str(whole))
    second.restore(json.loads(json.dumps(first.state())))
    assert start + [second.update(metric) for metric in heard[50:]] == expected
    assert len(set(expected)) > 3


def test_two_runs_of_one_specification_do_not_hear_each_other() -> None:
    one, other = parse("plateau(patience=0)"), parse("plateau(patience=0)")
    for _ in range(3):
        one.update(1.0)
    assert one(0.5) < other(0.5) == 1.0


def test_plateau_takes_nan_for_no_improvement_and_keeps_its_best() -> None:
    plateau = Plateau(patience=1)
    plateau.update(math.nan)
    assert plateau.state()["best"] is None
    plateau.update(1.0)
    plateau.update(math.nan)
    assert plateau.update(math.nan) == pytest.approx(0.1)
    assert plateau.state()["best"] == 1.0


def test_a_negative_loss_must_fall_to_improve() -> None:
    plateau = Plateau(patience=0, threshold=0.1)
    plateau.update(-1.0)
    assert plateau.update(-1.05) == pytest.approx(0.1)
    assert plateau.update(-1.2) == pytest.approx(0.1)


def test_plateau_does_not_listen_during_warmup() -> None:
    warm = with_warmup(Plateau(patience=0), 0.5)
    for _ in range(5):
        warm.update(1.0, progress=0.3)
    assert warm(0.75) == 1.0
    warm.update(1.0, progress=0.6)
    assert warm.update(1.0, progress=0.7) == pytest.approx(0.1)
    assert warm(0.25) == pytest.approx(0.05)
    assert warm.state()["multiplier"] == pytest.approx(0.1)
    other = with_warmup(Plateau(patience=0), 0.5)
    other.restore(warm.state())
    assert other(0.8) == pytest.approx(0.1)


# What is refused.


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cosin", "did you mean cosine"),
        ("one-cycle", "did you mean onecycle"),
        ("reduce_on_plateau", "did you mean plateau"),
        ("zzzz", "choose one of them"),
        ("", "the name of a schedule is needed"),
        ("x" * 10_000, "the name of a schedule is needed"),
        (3, "the name of a schedule is needed"),
        (None, "the name of a schedule is needed"),
        ("cosine(", "is none of"),
        ("cosine; linear", "is none of"),
        ("cosine\x00", "is none of"),
        ("(" * 3000, "is none of"),
        ("-" * 3000 + "1", "is none of"),
        ("[cosine]", "is none of"),
        ("cosine(0.1)", "options are given by name"),
        ("cosine(**{'floor': 1})", "options are given by name"),
        ("cosine(flor=0.1)", "did you mean floor"),
        ("constant(floor=0.1)", "takes no options"),
        ("cosine(warmup=0.1)", "give it beside the schedule"),
        ("cosine(floor=2)", r"cosine\(floor\) must be a number in \[0, 1\] \(got 2\)"),
        ("cosine(floor=nan)", "got 'nan'"),
        ("cosine(floor=1e999)", "got inf"),
        ("cosine(floor=True)", "got True"),
        ("cosine(floor='0.1')", "got '0.1'"),
        ("cosine(floor=print())", "a number, a word or a list"),
        ("cosine(floor=1+1)", "a number, a word or a list"),
        ("step(every=0)", r"in \(0, 1\]"),
        ("cosine_restarts(cycles=2.5)", "a whole number"),
        ("multistep(at=0.5)", "a list of numbers"),
        ("multistep(at=[])", "a list of numbers"),
        ("multistep(at=[0.7, 0.5])", "ascending order"),
        ("multistep(at=[0.5, 0.5])", "ascending order"),
        ("multistep(at=[0.5, 1.0])", r"in \(0, 1\)"),
        ("cyclical(mode=triangle)", "did you mean triangular"),
        ("cyclical(mode=7)", "one of triangular"),
        ("warmup(x) + cosine", "warmup takes a fraction"),
        ("warmup(0.1) + cosin", "did you mean cosine"),
        ("warmup(0.1) + warmup(0.1) + cosine", "there is a warmup already"),
        ("warmup(0.1)", "options are given by name"),
        ("warmup(nan) + cosine", "warmup must be a fraction"),
        ("warmup(10) + cosine", "a run of unknown length"),
    ],
)
def test_a_bad_specification_is_refused_with_one_sentence(spec: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        parse(spec)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(RecipeError, match="1000 steps does not fit into a run of 1000 steps"):
        for_recipe(Recipe(lr=0.1, warmup=1000), 1000)


def test_there_is_one_warmup_only() -> None:
    with pytest.raises(RecipeError, match="already"):
        for_recipe(Recipe(lr=0.1, schedule="warmup(0.1) + cosine", warmup=0.1), 1000)


@given(st.text(max_size=40) | st.from_regex(r"[a-z_]{1,12}\([a-z]{1,6}=[^)]{0,8}\)", fullmatch=True))
def test_whatever_is_given_nothing_but_a_recipe_error_comes_out(spec: str) -> None:
    try:
        parse(spec)
    except RecipeError as error:
        assert "\n" not in str(error)  # noqa: PT017 -- not every text is refused


@pytest.mark.parametrize("spec", [" cosine ", "Cosine", "COSINE()", "cosine(floor=0)", "cosine(floor = 0.0)"])
def test_spelling_is_forgiven(spec: str) -> None:
    assert str(parse(spec)) == "cosine"


def test_hyphens_are_forgiven() -> None:
    assert parse("cosine-restarts(cycles=5)") == parse("cosine_restarts(cycles=5)")
    assert parse("inverse-sqrt").family == "inverse_sqrt"
