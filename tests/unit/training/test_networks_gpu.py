"""PyTorch's trainer on a CUDA device: half precision, memory, and the way to the host and back."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from networks import FEATURES, Noisy, blobs, last_reports, make
from torch import nn
from trainer_contract import SavingContract, TrainerContract, train

from lrtune.core.outcome import Outcome
from lrtune.core.recipe import Recipe
from lrtune.training import checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrtune.training.base import Trainer
    from lrtune.training.networks.trainer import TorchTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]

RECIPE = Recipe(lr=0.05, epochs=3, seed=1, schedule="cosine", warmup=0.1, optimizer="adamw")
WIDE = 2**20


@pytest.fixture
def _little_memory() -> Iterator[None]:
    """Half a GiB more than what is in use."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**29) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


class TestOnDevice(SavingContract, TrainerContract):
    recipes: ClassVar = (RECIPE, Recipe(lr=0.1, epochs=2, seed=2), Recipe(lr=0.01, epochs=2, optimizer="nesterov"))

    def trainer(self) -> Trainer:
        return make(device="cuda")


class TestStackedOnDevice(SavingContract, TrainerContract):
    """As one model with a leading dimension; dropout is not stacked there."""

    recipes: ClassVar = (RECIPE, Recipe(lr=0.1, epochs=2, seed=2, optimizer="adamw"), RECIPE.with_seed(3))
    tolerance: ClassVar = 1e-4

    def trainer(self) -> Trainer:
        def model() -> nn.Module:
            return nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 3))

        return make(device="cuda", stack=True, model=model)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_every_precision_learns_and_comes_back(precision: str, tmp_path: Path) -> None:
    trainer = make(device="cuda", precision=precision, train_data=blobs(600), clip_norm=1.0, accumulate=2)
    run = trainer.start([RECIPE])
    whole = train(trainer.start([RECIPE]), steps=20)
    begun = train(run, steps=20, segments=2)
    checkpoint.save(tmp_path / "state.npz", run.state() or {})
    run.close()
    other = trainer.start([RECIPE])
    other.restore(checkpoint.load(tmp_path / "state.npz"))
    rest = train(other, steps=20)
    assert set({**begun[0], **rest[0]}) == set(whole[0])
    (report,) = last_reports(trainer, RECIPE)
    assert report.outcome is Outcome.COMPLETED
    assert report.point.values["accuracy"] > 0.7


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_divergence_is_found_in_half_precision(precision: str) -> None:
    (report,) = last_reports(make(device="cuda", precision=precision), Recipe(lr=1e20, epochs=50, optimizer="sgd"))
    assert report.outcome is not None
    assert report.outcome.diverged


def test_a_dataset_that_is_not_of_tensors() -> None:
    (report,) = last_reports(make(device="cuda", train_data=Noisy()), RECIPE)
    assert report.outcome is Outcome.COMPLETED


class Wide(nn.Module):
    """Takes some 24 MiB for each sample of a batch, and little for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDE))
        self.net = nn.Linear(FEATURES, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spread = torch.tanh(x[:, :1] * self.weight)
        return self.net(x) + torch.sin(spread).mean(1, keepdim=True)


def wide(**changes: Any) -> TorchTrainer:
    return make(model=Wide, device="cuda", batch_size=64, eval_batch_size=64, **changes)


@pytest.mark.usefixtures("_little_memory")
def test_a_real_out_of_memory_is_halved_and_goes_on() -> None:
    recipe = Recipe(lr=0.1, epochs=2)
    run = wide().start([recipe])
    (report,) = run.advance(10)
    live = run.members[0].live
    assert report.outcome is Outcome.COMPLETED
    assert live is None  # it has ended
    assert report.point.samples == 140
    run = wide().start([recipe])
    run.advance(1, evaluate=False)
    live = run.members[0].live
    assert live is not None
    assert live.stepper.micro_batch is not None
    assert live.stepper.micro_batch < 64
    run.close()


@pytest.mark.usefixtures("_little_memory")
def test_where_nothing_fits_that_is_the_outcome() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 2**14), nn.Linear(2**14, 2**14), nn.Linear(2**14, 3))

    (report,) = last_reports(make(model=model, device="cuda"), Recipe(lr=0.1))
    assert report.outcome is Outcome.OUT_OF_MEMORY
    (after,) = last_reports(make(device="cuda"), RECIPE)
    assert after.outcome is Outcome.COMPLETED


def test_twenty_trials_leave_no_more_behind_than_two() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.Linear(2048, 3))

    trainer = make(model=model, device="cuda", precision="bf16")
    used = []
    for seed in range(20):
        run = trainer.start([RECIPE.with_seed(seed)])
        while run.alive:
            run.advance(5)
            run.suspend()
        run.close()
        used.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    for second, last in zip(used[1], used[19], strict=True):
        assert last <= 1.05 * second


def test_a_suspended_run_takes_no_memory_of_the_device() -> None:
    gc.collect()
    trainer = make(device="cuda")
    warm = trainer.start([RECIPE])
    warm.advance(2)  # the libraries' own workspaces
    warm.close()
    before = torch.cuda.memory_allocated()
    run = trainer.start([RECIPE])
    run.advance(2)
    run.suspend()
    assert torch.cuda.memory_allocated() <= before
    run.close()
