"""PyTorch models as a trainer: the contract, and what is PyTorch's own."""

from __future__ import annotations

import gc
import math
import random
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from trainer_contract import BowlContract, SavingContract, TrainerContract, train

from lrtune import checkpoints
from lrtune.errors import DataError, InputError, RecipeError
from lrtune.outcome import Outcome
from lrtune.recipe import Recipe
from lrtune.training.network import TorchTrainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrtune.training.base import Report, Trainer

SAMPLES, FEATURES, CLASSES = 70, 6, 3


def blobs(samples: int = SAMPLES, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, FEATURES, generator=generator)
    return x, x[:, :CLASSES].argmax(1)


def mlp(recipe: Recipe | None = None, *, dropout: float = 0.3) -> nn.Module:
    del recipe
    return nn.Sequential(
        nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES)
    )


def plain() -> nn.Module:
    return nn.Linear(FEATURES, CLASSES)


def make(**changes: Any) -> TorchTrainer:
    arguments: dict[str, Any] = {
        "model": mlp,
        "train_data": blobs(),
        "valid_data": blobs(30, seed=1),
        "metrics": ["accuracy"],
        "device": "cpu",
        "batch_size": 16,
    }
    return TorchTrainer(**(arguments | changes))


def last_reports(trainer: Trainer, *recipes: Recipe, piece: int = 10**6) -> list[Report]:
    run = trainer.start(recipes)
    last: dict[int, Report] = {}
    while run.alive:
        last.update({report.member: report for report in run.advance(piece)})
    run.close()
    return [last[member] for member in range(len(recipes))]


def bowl_trainer(**changes: Any) -> tuple[TorchTrainer, float]:
    generator = np.random.default_rng(3)
    features = generator.normal(size=(40, 3)) * [1.0, 2.0, 0.5]
    target = features @ [1.0, -2.0, 0.5]
    curvature = float(np.linalg.eigvalsh(2 * features.T @ features / len(features)).max())

    def model() -> nn.Module:
        return nn.Linear(3, 1, bias=False, dtype=torch.float64)

    data = (torch.from_numpy(features), torch.from_numpy(target))
    arguments = {"model": model, "train_data": data, "valid_data": data, "loss": "mse", "batch_size": 40} | changes
    return TorchTrainer(device="cpu", **arguments), curvature


RECIPES = (
    Recipe(lr=0.1, epochs=3, seed=1, schedule="cosine", warmup=0.2),
    Recipe(lr=0.01, epochs=2, seed=2),
    Recipe(lr=0.003, epochs=3, seed=1, optimizer="adam", batch_size=32),
)


class TestTensors(SavingContract, BowlContract, TrainerContract):
    recipes: ClassVar = RECIPES

    def trainer(self) -> Trainer:
        return make()

    def bowl(self) -> tuple[Trainer, float]:
        return bowl_trainer()


class TestListening(SavingContract, TrainerContract):
    """A schedule that hears the metric, half precision, accumulation, clipping, decay by layer."""

    recipes: ClassVar = (
        Recipe(lr=0.1, epochs=4, seed=1, schedule="plateau(factor=0.5, patience=0, threshold=0.5)", warmup=0.1),
        Recipe(lr=0.05, epochs=2, seed=2, optimizer="nesterov", layer_decay=0.5),
    )

    def trainer(self) -> Trainer:
        return make(precision="bf16", accumulate=2, clip_norm=0.5, layer_decay=0.8)


class Noisy(Dataset[Any]):
    """Samples with augmentations from all three global generators."""

    def __init__(self) -> None:
        self.x, self.y = blobs()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002 -- what users write
        return self.x[index] + 0.1 * noise.float(), self.y[index]


class TestDataset(SavingContract, TrainerContract):
    recipes: ClassVar = RECIPES

    def trainer(self) -> Trainer:
        return make(train_data=Noisy(), valid_data=TensorDataset(*blobs(30, seed=1)))


class TestLoaderFactory(SavingContract, TrainerContract):
    recipes: ClassVar = RECIPES

    def trainer(self) -> Trainer:
        def loader(batch_size: int) -> DataLoader[Any]:
            return DataLoader(Noisy(), batch_size=batch_size, shuffle=True)

        def held_out() -> DataLoader[Any]:
            return DataLoader(Noisy(), batch_size=20)

        return make(train_data=loader, valid_data=held_out)


class TestLoader(SavingContract, TrainerContract):
    """One loader with a generator of its own, shared by all members."""

    recipes: ClassVar = tuple(Recipe(lr=lr, epochs=2, seed=seed) for seed, lr in enumerate((0.1, 0.01)))

    def trainer(self) -> Trainer:
        loader = DataLoader(Noisy(), batch_size=16, shuffle=True, generator=torch.Generator())
        return make(train_data=loader)
