"""``schedule_of`` against the rate that the real package sets at every update."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hosts.driving import ready

import lrtune

if TYPE_CHECKING:
    from collections.abc import Callable

os.environ.setdefault("KERAS_BACKEND", "torch")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LR, STEPS = 3e-4, 97


def optimizer(**options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(torch.nn.Linear(1, 1).parameters(), lr=LR, **options)


def stepped(scheduler: Any, made: torch.optim.Optimizer, steps: int = STEPS) -> list[float]:
    rates = []
    for update in range(steps):
        rates.append(float(made.param_groups[0]["lr"]))
        made.step()
        if hasattr(scheduler, "step_update"):
            scheduler.step_update(update + 1)
        else:
            scheduler.step()
    return rates


def the_same(used: Any, rates: Any, **options: Any) -> lrtune.AppliedSchedule:
    found = lrtune.schedule_of(used, **{"steps": len(rates), **options})
    np.testing.assert_allclose(found.rates, rates, rtol=1e-12, atol=1e-9 * LR)
    return found


TRANSFORMERS: dict[str, dict[str, Any]] = {
    "linear": {},
    "cosine": {},
    "cosine_with_restarts": {"num_cycles": 3},
    "polynomial": {"power": 2.0},
    "constant": {},
    "constant_with_warmup": {},
    "inverse_sqrt": {},
    "cosine_with_min_lr": {"min_lr": 1e-5},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {
        "num_decay_steps": 20,
        "warmup_type": "cosine",
        "decay_type": "1-sqrt",
        "min_lr_ratio": 0.1,
    },
}


@pytest.mark.parametrize("warmup", [0, 0.1, 7])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str, warmup: float) -> None:
    transformers = pytest.importorskip("transformers")
    args = transformers.TrainingArguments(
        learning_rate=LR, lr_scheduler_type=name, lr_scheduler_kwargs=TRANSFORMERS[name], warmup_steps=warmup
    )
    trainer = transformers.Trainer(torch.nn.Linear(1, 1), args)
    trainer.create_optimizer_and_scheduler(STEPS)
    handed_in = lrtune.schedule_of(trainer.lr_scheduler, steps=STEPS)
    rates = stepped(trainer.lr_scheduler, trainer.optimizer)
    np.testing.assert_allclose(handed_in.rates, rates, rtol=0, atol=0)
    the_same(args, rates)
    found = the_same(args.to_dict(), rates, accumulate=4)
    assert any("this host counts updates" in remark for remark in found.remarks)
    assert found.nearest.batch_size == args.per_device_train_batch_size


def test_a_log_of_transformers(tmp_path: Any) -> None:
    """Of a real training; its log holds the rate of the update before."""
    import json

    transformers = pytest.importorskip("transformers")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(1, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            out = self.inner(x)
            return {"loss": (out - labels).square().mean(), "logits": out}

    args = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=LR,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        per_device_train_batch_size=1,
        num_train_epochs=1,
        logging_steps=3,
        save_strategy="steps",
        save_steps=40,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    data = [{"x": torch.zeros(1), "labels": torch.zeros(1)}] * 40
    transformers.Trainer(Model(), args, train_dataset=data).train()
    state = json.loads((tmp_path / "checkpoint-40" / "trainer_state.json").read_text())
    found = lrtune.schedule_of(state)
    assert found.recipe is not None
    assert (found.recipe.schedule, found.recipe.lr, found.recipe.warmup) == ("cosine", LR, 5.0)


DEEPSPEED: dict[str, dict[str, Any]] = {
    "WarmupLR": {"warmup_num_steps": 10},
    "WarmupDecayLR": {"total_num_steps": STEPS, "warmup_max_lr": LR, "warmup_num_steps": 10, "warmup_min_lr": 1e-5},
    "WarmupCosineLR": {"total_num_steps": STEPS, "warmup_num_steps": 10, "warmup_type": "linear"},
    "OneCycle": {
        "cycle_min_lr": LR / 10,
        "cycle_max_lr": LR,
        "cycle_first_step_size": 30,
        "cycle_second_step_size": 40,
        "decay_step_size": 5,
        "decay_lr_rate": 0.5,
    },
    "LRRangeTest": {"lr_range_test_min_lr": LR, "lr_range_test_step_size": 9, "lr_range_test_staircase": True},
}


@pytest.mark.parametrize("name", DEEPSPEED)
def test_deepspeed(name: str) -> None:
    schedules = pytest.importorskip("deepspeed.runtime.lr_schedules")
    made = optimizer()
    rates = stepped(getattr(schedules, name)(made, **DEEPSPEED[name]), made)
    section = {"type": name, "params": DEEPSPEED[name]}
    the_same({"optimizer": {"type": "AdamW", "params": {"lr": LR}}, "scheduler": section}, rates)
    the_same(section, rates, lr=LR)


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("name", ["CosineDecay", "PiecewiseConstantDecay", "PolynomialDecay"])
def test_keras(name: str, accumulate: int) -> None:
    """By its optimizer, at every update of a real training."""
    keras = pytest.importorskip("keras")
    options: dict[str, Any] = {
        "CosineDecay": {"initial_learning_rate": 0.0, "decay_steps": 87, "warmup_target": LR, "warmup_steps": 10},
        "PiecewiseConstantDecay": {"boundaries": [32, 64], "values": [LR, LR / 10, LR / 100]},
        "PolynomialDecay": {"initial_learning_rate": LR, "decay_steps": STEPS, "end_learning_rate": LR / 10},
    }[name]
    schedule = getattr(keras.optimizers.schedules, name)(**options)
    made = keras.optimizers.SGD(schedule, gradient_accumulation_steps=None if accumulate == 1 else accumulate)
    weight = keras.Variable(np.zeros((), "float32"))
    made.build([weight])
    moved, before = [], 0.0
    for _ in range(STEPS * accumulate):
        made.apply([keras.ops.ones(())], [weight])
        now = float(weight)
        moved.append(before - now)
        before = now
    rates = np.array(moved[accumulate - 1 :: accumulate])
    found = lrtune.schedule_of(made, steps=STEPS)
    np.testing.assert_allclose(found.rates, rates, atol=1e-3 * LR)  # read off a weight in float32
    if name == "CosineDecay":
        assert (found.recipe is not None) == (accumulate == 1)
        ended = "the last 75.3 % run at the end value, 0 because accumulation counts micro-batches, 4 to an update"
        assert (ended in found.remarks) == (accumulate == 4)
    np.testing.assert_array_equal(lrtune.schedule_of(schedule, steps=STEPS, accumulate=accumulate).rates, found.rates)


@pytest.mark.parametrize("name", ["cosine", "steps", "join"])
def test_optax(name: str) -> None:
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    schedule = {
        "cosine": lambda: optax.warmup_cosine_decay_schedule(0.0, LR, 10, STEPS, end_value=LR / 10),
        "steps": lambda: optax.piecewise_constant_schedule(LR, {33: 0.1, 65: 0.1}),
        "join": lambda: optax.join_schedules([optax.linear_schedule(0.0, LR, 10), optax.constant_schedule(LR)], [10]),
    }[name]()
    made = optax.sgd(schedule)

    def one(state: Any, _: Any) -> tuple[Any, Any]:
        update, state = made.update(jax.numpy.ones(()), state)
        return state, -update

    rates = jax.lax.scan(one, made.init(jax.numpy.zeros(())), None, length=STEPS)[1]
    found = lrtune.schedule_of(schedule, steps=STEPS)
    np.testing.assert_allclose(found.rates, np.asarray(rates, dtype=float), rtol=2e-6, atol=1e-6 * LR)
    expected = {"cosine": ("cosine(floor=0.1)", 10.0), "steps": ("step", 0.0), "join": ("constant", 10.0)}[name]
    assert found.recipe is not None
    assert (found.recipe.schedule, found.recipe.warmup) == expected


TIMM: dict[str, Callable[[Any, Any], Any]] = {
    "without its prefix": lambda timm, made: timm.CosineLRScheduler(made, STEPS, t_in_epochs=False, warmup_t=10),
    "with its prefix": lambda timm, made: timm.CosineLRScheduler(
        made, STEPS - 10, t_in_epochs=False, warmup_t=10, warmup_prefix=True
    ),
    "steps": lambda timm, made: timm.MultiStepLRScheduler(made, [33, 65], t_in_epochs=False),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    try:
        ready("timm")
    except ImportError as error:
        pytest.skip(f"timm cannot be imported ({error})")
    import timm.scheduler

    made = optimizer()
    scheduler = TIMM[name](timm.scheduler, made)
    found = lrtune.schedule_of(scheduler, steps=STEPS)
    assert found.rates.tolist() == stepped(scheduler, made)
    never = any(remark.startswith("the peak is never reached: at most 97.4 %") for remark in found.remarks)
    assert never == (name == "without its prefix")


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR", "CosineAnnealingWarmRestarts", "ExponentialLR"])
def test_torch(name: str) -> None:
    options: dict[str, Any] = {
        "OneCycleLR": {"max_lr": LR, "total_steps": STEPS},
        "CyclicLR": {"base_lr": LR / 10, "max_lr": LR, "step_size_up": 20, "cycle_momentum": False},
        "CosineAnnealingWarmRestarts": {"T_0": 20, "T_mult": 2},
        "ExponentialLR": {"gamma": 0.97},
    }[name]
    made = optimizer()
    scheduler = getattr(torch.optim.lr_scheduler, name)(made, **options)
    found = lrtune.schedule_of(scheduler, steps=STEPS)
    assert found.rates.tolist() == stepped(scheduler, made)


def test_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate")
    made = optimizer()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(made, STEPS)
    prepared = accelerate.Accelerator().prepare(made, scheduler)[1]
    found = lrtune.schedule_of(prepared)
    assert found.recipe is not None
    assert (found.recipe.schedule, found.steps) == ("cosine", STEPS)
