"""Small models and data for the tests of PyTorch's trainer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from lrtune.core.recipe import Recipe
from lrtune.training.networks.trainer import TorchTrainer

if TYPE_CHECKING:
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
        "stack": False,
    }
    return TorchTrainer(**(arguments | changes))


def last_reports(trainer: Trainer, *recipes: Recipe, piece: int = 10**6) -> list[Report]:
    run = trainer.start(recipes)
    last: dict[int, Report] = {}
    while run.alive:
        last.update({report.member: report for report in run.advance(piece)})
    run.close()
    return [last[member] for member in range(len(recipes))]


class Drawing(nn.Module):
    """A model that draws from all three global generators, in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = plain()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = random.random() + np.random.randn() + torch.rand(()).item()  # noqa: NPY002 -- what users write
        return self.net(x) * (1 + 0.1 * noise)


class Noisy(Dataset[Any]):
    """Samples with augmentations from all three global generators."""

    def __init__(self) -> None:
        self.x, self.y = blobs()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002 -- what users write
        return self.x[index] + 0.1 * noise.float(), self.y[index]


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
