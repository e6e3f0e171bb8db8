"""What a schedule is read as: the rates are those that are set, and the recipe gives the same ones."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lrtune
from lrtune.errors import InputError
from lrtune.reporting.explain.recognize import EXACT
from lrtune.reporting.explain.remarks import remarks
from lrtune.schedules import for_recipe, multipliers

STEPS = 97
SPECS = [
    "constant",
    "linear",
    "linear(floor=0.2)",
    "cosine",
    "cosine(floor=0.1)",
    "polynomial(power=3, floor=0.05)",
    "step",
    "step(every=0.1, factor=0.7)",
    "multistep(at=[0.25, 0.5, 0.9], factor=0.3)",
    "exponential",
    "inverse_sqrt",
    "wsd",
    "wsd(decay=0.4, floor=0.1, shape=cosine)",
    "wsd(shape=sqrt)",
    "onecycle",
    "onecycle(up=0.45, start=0.2, shape=linear)",
    "cosine_restarts",
    "cosine_restarts(cycles=4, growth=2)",
    "cyclical",
]


def optimizer(lr: float = 0.1, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=lr, **options)


def stepped(scheduler: Any, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def lr_scheduler(name: str, **options: Any) -> Any:
    return getattr(torch.optim.lr_scheduler, name)(optimizer(), **options)


def chained() -> Any:
    warm = torch.optim.lr_scheduler
    made = optimizer()
    parts = [warm.LinearLR(made, 1e-12, 1.0, 10), warm.CosineAnnealingLR(made, STEPS - 10)]
    return warm.SequentialLR(made, parts, [10])


TORCH = {
    "cosine": (lambda: lr_scheduler("CosineAnnealingLR", T_max=STEPS), "cosine", 0.0),
    "polynomial": (lambda: lr_scheduler("PolynomialLR", total_iters=STEPS, power=2.0), "polynomial", 0.0),
    "linear": (
        lambda: lr_scheduler("LinearLR", start_factor=1.0, end_factor=0.25, total_iters=STEPS),
        "linear(floor=0.25)",
        0.0,
    ),
    "multistep": (
        lambda: lr_scheduler("MultiStepLR", milestones=[33, 65]),
        "step",
        0.0,
    ),
    "lambda": (lambda: lr_scheduler("LambdaLR", lr_lambda=lambda t: min(t / 9.7, 1)), "constant", 0.1),
    "sequential": (chained, "cosine", 10.0),
}


@pytest.mark.parametrize("name", TORCH)
def test_a_scheduler_is_read_at_every_update_and_left_alone(name: str) -> None:
    make, spec, warmup = TORCH[name]
    scheduler = make()
    before = copy.deepcopy(scheduler.state_dict()), copy.deepcopy(scheduler.optimizer.state_dict())
    found = lrtune.schedule_of(scheduler, steps=STEPS)
    assert (scheduler.state_dict(), scheduler.optimizer.state_dict()) == before
    assert found.rates.tolist() == stepped(scheduler, STEPS)
    assert found.recipe is not None
    assert (found.recipe.schedule, found.recipe.lr, found.recipe.optimizer) == (spec, 0.1, "sgd")
    assert found.recipe.warmup == pytest.approx(warmup)


def test_the_length_is_what_the_scheduler_says() -> None:
    assert lrtune.schedule_of(lr_scheduler("CosineAnnealingLR", T_max=50)).steps == 50
    assert lrtune.schedule_of(lr_scheduler("OneCycleLR", max_lr=0.1, total_steps=60)).steps == 60
    assert lrtune.schedule_of(chained()).steps == STEPS
    with pytest.raises(InputError, match="how many updates"):
        lrtune.schedule_of(lr_scheduler("ExponentialLR", gamma=0.9))
    with pytest.raises(InputError, match="ends after 61 updates"):
        lrtune.schedule_of(lr_scheduler("OneCycleLR", max_lr=0.1, total_steps=60), steps=63)


def test_the_parameters_are_not_copied() -> None:
    weights = torch.nn.Parameter(torch.zeros(3))
    weights.__deepcopy__ = None  # type: ignore[attr-defined]  # a copy of it would raise
    made = torch.optim.Adam([weights], lr=0.1)
    weights.grad = torch.ones(3)
    made.step()
    scheduler = torch.optim.lr_scheduler.StepLR(made, 10)
    assert lrtune.schedule_of(scheduler, steps=20).rates.tolist() == pytest.approx([0.1] * 10 + [0.01] * 10)
    assert made.state[weights]["step"] == 1


def test_a_scheduler_that_moves_the_momentum_says_so() -> None:
    made = optimizer(momentum=0.9)
    found = lrtune.schedule_of(torch.optim.lr_scheduler.OneCycleLR(made, max_lr=0.1, total_steps=STEPS))
    assert any("moves the momentum too" in remark for remark in found.remarks)
    assert made.param_groups[0]["momentum"] == 0.95
    assert found.nearest.momentum == 0.9
    assert str(found).startswith("torch OneCycleLR, 97 updates\n")


def test_a_plateau_is_read_by_its_options() -> None:
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer(), factor=0.5, patience=3, min_lr=0.001)
    found = lrtune.schedule_of(scheduler, steps=10)
    assert found.recipe is not None
    assert found.recipe.schedule == "plateau(factor=0.5, patience=3, floor=0.01)"


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_what_lightning_is_given_is_read(interval: str) -> None:
    scheduler = lr_scheduler("StepLR", step_size=2)
    given = {"optimizer": scheduler.optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}
    found = lrtune.schedule_of(given, steps=40, every=10)
    assert found.rates.tolist() == pytest.approx([0.1] * 20 + [0.01] * 20)
    assert any("once an epoch" in remark for remark in found.remarks) == (interval == "epoch")


@pytest.mark.parametrize("warmup", [0.0, 0.1, 10])
@pytest.mark.parametrize("spec", SPECS)
def test_a_function_of_the_step_is_recognized(spec: str, warmup: float) -> None:
    """From its rates alone, at 97 updates, of which a tenth is no whole number."""
    schedule = for_recipe(lrtune.Recipe(lr=3e-4, schedule=spec, warmup=warmup), STEPS)
    found = lrtune.schedule_of(lambda step: 3e-4 * schedule(float(step) / STEPS), steps=STEPS)
    assert found.recipe is not None
    assert (found.recipe.schedule, found.recipe.lr) == (spec, pytest.approx(3e-4, rel=1e-5))
    assert found.recipe.warmup == pytest.approx(warmup)
    again = found.recipe.lr * multipliers(for_recipe(found.recipe, STEPS), STEPS)
    np.testing.assert_allclose(again, found.rates, rtol=0, atol=EXACT * 3e-4)


@settings(max_examples=25)
@given(st.lists(st.floats(0, 10, width=32), min_size=2, max_size=60))
def test_any_rates_have_a_nearest_recipe_and_a_true_deviation(rates: list[float]) -> None:
    found = lrtune.schedule_of(lambda step: rates[int(step)], steps=len(rates))
    assert found.rates.tolist() == rates
    near = found.nearest
    again = near.lr * multipliers(for_recipe(near, len(rates)), len(rates))
    assert np.max(np.abs(again - found.rates)) / near.lr == pytest.approx(found.deviation, rel=0.02, abs=EXACT)


def test_what_is_a_recipe_stays_one() -> None:
    recipe = lrtune.Recipe(lr=0.1, schedule="cosine", warmup=0.1, batch_size=64, weight_decay=0.1)
    found = lrtune.schedule_of(recipe, steps=STEPS)
    assert found.recipe == recipe
    assert lrtune.schedule_of({"best": {**recipe.to_json(), "value": 1.0}}, steps=STEPS).recipe == recipe
    assert lrtune.schedule_of("cosine", steps=STEPS, lr=0.2).rates[0] == 0.2


RECORDED: dict[str, tuple[dict[str, Any], list[float]]] = {
    "linear": ({}, [0.0, 3e-05, 0.00015, 0.00027, 0.0003, 0.000168965517, 3.44827586e-06]),
    "cosine": ({}, [0.0, 3e-05, 0.00015, 0.00027, 0.0003, 0.000179595502, 9.77856915e-08]),
    "cosine_with_restarts": ({"num_cycles": 3}, [0.0, 3e-05, 0.00015, 0.00027, 0.0003, 0.00023417806, 8.79306427e-07]),
    "polynomial": ({"power": 2.0}, [0.0, 3e-05, 0.00015, 0.00027, 0.0003, 9.52327652e-05, 1.39622143e-07]),
    "constant": ({}, [0.0003, 0.0003, 0.0003, 0.0003, 0.0003, 0.0003, 0.0003]),
    "constant_with_warmup": ({}, [0.0, 3e-05, 0.00015, 0.00027, 0.0003, 0.0003, 0.0003]),
    "inverse_sqrt": ({}, [0.0, 3e-05, 0.00015, 0.00027, 0.0003, 0.000136930639, 9.68245837e-05]),
    "cosine_with_min_lr": ({"min_lr": 1e-05}, [0.0, 3e-05, 0.00015, 0.00027, 0.0003, 0.000183608986, 1.00945262e-05]),
    "cosine_warmup_with_min_lr": (
        {"min_lr_rate": 0.1},
        [3e-05, 6e-05, 0.00018, 0.0003, 0.000299911993, 0.00018684057, 3e-05],
    ),
    "warmup_stable_decay": (
        {"num_decay_steps": 20, "warmup_type": "cosine", "decay_type": "1-sqrt", "min_lr_ratio": 0.1},
        [3e-05, 3.66073703e-05, 0.000165, 0.00029339263, 0.0003, 0.0003, 3.68365527e-05],
    ),
    "WarmupLR": ({"warmup_num_steps": 10}, [0.0, 0.0, 0.000209691001, 0.000286272753, 0.0003, 0.0003, 0.0003]),
    "WarmupDecayLR": (
        {"total_num_steps": 97, "warmup_max_lr": 0.0003, "warmup_num_steps": 10, "warmup_min_lr": 1e-05},
        [1e-05, 1e-05, 0.000212701301, 0.000286730328, 0.0003, 0.000176666667, 1.66666667e-05],
    ),
    "WarmupCosineLR": (
        {"total_num_steps": 97, "warmup_num_steps": 10, "warmup_type": "linear"},
        [0.0, 0.0, 0.00012, 0.00024, 0.00027, 0.000179607543, 1.27775913e-07],
    ),
    "OneCycle": (
        {
            "cycle_min_lr": 3e-05,
            "cycle_max_lr": 0.0003,
            "cycle_first_step_size": 30,
            "cycle_second_step_size": 40,
            "decay_step_size": 5,
            "decay_lr_rate": 0.5,
        },
        [3e-05, 3.9e-05, 7.5e-05, 0.000111, 0.00012, 0.0001785, 8.33333333e-06],
    ),
    "LRRangeTest": (
        {"lr_range_test_min_lr": 0.0003, "lr_range_test_step_size": 9, "lr_range_test_staircase": True},
        [0.0003, 0.0003, 0.0003, 0.0006, 0.0006, 0.0018, 0.0033],
    ),
}
"""What transformers 5.24.0 and DeepSpeed 0.19.8 set at updates 0, 1, 5, 9, 10, 48 and 96 of 97, of a rate of 3e-4, by
their options; those of transformers with warmup_steps=0.1. Recorded; ``tests/hosts`` compares every update."""


@pytest.mark.parametrize("name", RECORDED)
def test_a_configuration_is_read_without_the_package(name: str) -> None:
    options, rates = RECORDED[name]
    if name[0].isupper():
        used: dict[str, Any] = {"optimizer": {"params": {"lr": 3e-4}}, "scheduler": {"type": name, "params": options}}
    else:
        used = {
            "learning_rate": 3e-4,
            "lr_scheduler_type": name,
            "lr_scheduler_kwargs": options,
            "warmup_steps": 0.1,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 4,
        }
    found = lrtune.schedule_of(used, steps=STEPS)
    assert found.rates[[0, 1, 5, 9, 10, 48, 96]].tolist() == pytest.approx(rates, rel=1e-7, abs=1e-13)
    assert found.nearest.batch_size == (None if name[0].isupper() else 32)


def test_accumulation_that_counts_micro_batches_is_drawn_by_updates() -> None:
    found = lrtune.schedule_of(lambda t: max(1 - float(t) / 100, 0.1), steps=100, accumulate=4)
    assert found.rates[:3].tolist() == pytest.approx([0.97, 0.93, 0.89])
    assert any("because accumulation counts micro-batches, 4 to an update" in remark for remark in found.remarks)
    assert any(remark.startswith("the last 78 % run at the end value, 0.1") for remark in found.remarks)


def test_the_log_of_a_trainer_is_read_of_old_and_new_versions() -> None:
    recipe = lrtune.Recipe(lr=0.1, schedule="linear", warmup=0.1)
    rates = 0.1 * multipliers(for_recipe(recipe, 100), 101)
    for late in (0, 1):  # version 4 logged the rate of the next update
        at = range(5, 96, 5)
        log = [{"step": step, "loss": 1.0, "learning_rate": rates_of(recipe, step - 1 + late)} for step in at]
        found = lrtune.schedule_of({"log_history": log, "max_steps": 100})
        assert found.recipe is not None
        assert (found.recipe.schedule, found.recipe.warmup, len(found.rates)) == ("linear", 0.1, len(at))
    assert len(rates) == 101


def rates_of(recipe: lrtune.Recipe, step: int) -> float:
    return float(recipe.lr * for_recipe(recipe, 100)(step / 100))


ODD = {
    "the first 2 updates are at zero and change no weight": [0, 0, 0.5, 1, 0.5],
    "update 0 is at zero and changes no weight": [0, 1, 0.5],
    "the peak is never reached: at most 90 % of it, at update 1": [0.8, 0.9, 0.7],
    "it rises to 150 % of the learning rate that it was given, at update 1": [1, 1.5, 1],
    "ends at 50 % of the peak": [1, 0.8, 0.6, 0.5],
    "the last 60 % run at the end value, 0.5": [1, 0.75, 0.5, 0.5, 0.5],
    "ends at its peak": [0.2, 0.6, 1],
    "jumps up from 0.1 to 1 at update 3": [1, 0.5, 0.1, 1, 0.5],
    "it never changes": [1, 1, 1],
    "the learning rate is zero at every update: nothing is learned": [0, 0],
    "the rate of update 1 is not finite": [1, float("nan")],
    "1 update is below zero, first update 2": [1, 0.5, -0.1],
    "rises again from update 4 on": [1, 0.5, 0.2, 0.1, 0.15, 0.22, 0.25],
}


@pytest.mark.parametrize("remark", ODD)
def test_what_is_odd_is_said(remark: str) -> None:
    assert remark in remarks(np.array(ODD[remark], dtype=float), peak=1.0)


@pytest.mark.parametrize("spec", ["linear", "cosine", "onecycle", "wsd", "step", "polynomial"])
def test_nothing_odd_is_said_of_a_plain_schedule(spec: str) -> None:
    said = lrtune.schedule_of(spec, steps=1000, lr=1.0).remarks
    assert [remark for remark in said if remark != "ends at 1 % of the peak"] == []
    assert bool(said) == (spec == "step")


@pytest.mark.parametrize(
    ("used", "told"),
    [
        (3, "a schedule is needed"),
        ({"a": 1}, "a configuration with one of"),
        ({"lr_scheduler_type": "cosines"}, "lr_scheduler_type is one of"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "num_decay_steps"),
        ({"lr_scheduler_type": "linear", "learning_rate": "fast"}, "cannot be read"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": "x"}}, "cannot be computed"),
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": "x"}}}, "cannot be computed"),
        ({"scheduler": {"type": "WarmupDecayLR"}}, "needs total_num_steps"),
        ({"scheduler": {"type": "Cosine", "params": {}}}, "DeepSpeed has the schedulers"),
        ({"scheduler": {"type": "WarmupLR", "params": {}}}, "lr of the optimizer is missing"),
        ({"log_history": []}, "holds no learning rate"),
        ({"best": None}, "no best recipe"),
        (lambda _: 1 / 0, "fails as a function of the step"),
    ],
)
def test_what_cannot_be_read_is_refused(used: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        lrtune.schedule_of(used, steps=10)


@pytest.mark.parametrize("name", ["steps", "every", "accumulate"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_counts_are_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} must be a whole number"):
        lrtune.schedule_of("cosine", **{"steps": 10, name: value})
