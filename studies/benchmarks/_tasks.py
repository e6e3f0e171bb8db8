"""Five small trainings of about 2,000 steps each, on real data that every machine has."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from torch import nn

from lrtune.recipe import Recipe
from lrtune.training.estimator import SklearnTrainer
from lrtune.training.network import TorchTrainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrtune.training.base import Trainer

BATCH = 32
STEPS = 2000
CONTEXT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A trainer, what its full training is told besides the learning rate, and where to look for the best."""

    name: str
    make: Callable[[], Trainer]
    schedule: str
    low: float
    high: float
    warmup: float = 0.0

    def recipe(self, lr: float, seed: int, trainer: Trainer) -> Recipe:
        """About 2,000 steps at that learning rate."""
        told = Recipe(lr=lr, seed=seed, batch_size=BATCH, schedule=self.schedule, warmup=self.warmup)
        return Recipe.from_json(told.to_json() | {"epochs": round(STEPS / trainer.steps_per_epoch(told))})


@cache
def digits() -> tuple[np.ndarray, ...]:
    """Pixels 0 to 1 and labels: training rows, held-out rows, training labels, held-out labels."""
    rows, labels = load_digits(return_X_y=True)
    return tuple(train_test_split((rows / 16).astype(np.float32), labels, stratify=labels, random_state=0))


def network(model: Callable[[], nn.Module], optimizer: str, *, copy: bool = False, **options: float) -> TorchTrainer:
    """A model on the digits: their labels, or with `copy` the pixels themselves."""
    x_train, x_valid, y_train, y_valid = map(torch.from_numpy, digits())
    return TorchTrainer(
        model=model,
        train_data=(x_train, x_train if copy else y_train),
        valid_data=(x_valid, x_valid if copy else y_valid),
        loss="mse" if copy else "cross_entropy",
        optimizer=optimizer,
        optimizer_options=options,
        device="cpu",
    )


def digits_sgd() -> Trainer:
    """A linear classifier of scikit-learn's."""
    x_train, x_valid, y_train, y_valid = digits()
    return SklearnTrainer(SGDClassifier(loss="log_loss"), x_train, y_train, valid=(x_valid, y_valid))


def mlp() -> nn.Module:
    """64-96-96-10."""
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10))


def cnn() -> nn.Module:
    """Two convolutions with BatchNorm."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()),
        nn.Linear(256, 10),
    )


def autoencoder() -> nn.Module:
    """64-32-8-32-64."""
    return nn.Sequential(
        *(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)), *(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
    )


class CharacterModel(nn.Module):
    """A small causal transformer over characters."""

    def __init__(self, symbols: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.place = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, symbols))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits, shape (samples, symbols, context)."""
        hidden = self.blocks(self.embed(tokens) + self.place, mask=self.mask, is_causal=True)
        return self.out(hidden).transpose(1, 2)


@cache
def source_text() -> tuple[torch.Tensor, int]:
    """Windows of the standard library's own source, shape (n, context + 1), and the number of symbols."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-m]*.py"))
    text = "".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)[:1_200_000]
    codes = np.frombuffer(text.encode("ascii", "ignore"), dtype=np.uint8)
    symbols, tokens = np.unique(codes, return_inverse=True)
    windows = len(tokens) // (CONTEXT + 1)
    return torch.from_numpy(tokens[: windows * (CONTEXT + 1)].reshape(windows, -1)), len(symbols)


def python_lm() -> Trainer:
    """The character model on source text, AdamW."""
    windows, symbols = source_text()
    cut = len(windows) - 500
    return TorchTrainer(
        model=lambda: CharacterModel(symbols),
        train_data=(windows[:cut, :-1], windows[:cut, 1:]),
        valid_data=(windows[cut:, :-1], windows[cut:, 1:]),
        optimizer="adamw",
        optimizer_options={"weight_decay": 0.01},
        device="cpu",
    )


TASKS = (
    Task(name="digits-sgd", make=digits_sgd, schedule="constant", low=1e-4, high=10.0),
    Task(name="digits-mlp", make=lambda: network(mlp, "sgd", momentum=0.9), schedule="cosine", low=1e-3, high=3.0),
    Task(name="python-lm", make=python_lm, schedule="cosine", low=3e-5, high=0.3, warmup=0.05),
    Task(name="digits-cnn", make=lambda: network(cnn, "adam"), schedule="constant", low=1e-5, high=1.0),
    Task(
        name="digits-autoencoder",
        make=lambda: network(autoencoder, "adam", copy=True),
        schedule="linear",
        low=1e-5,
        high=1.0,
    ),
)
