"""What the range test is measured on: four of the shipped studies, and a convolutional network under Adam.

The best learning rate of each is that of a dense sweep of full trainings, recorded in ``sweep.csv`` beside the
study by ``dense_sweep.py``; that of the network in ``range_test_dense.json`` by ``range_test.py --dense``.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from lrtune.config.study_file import read_study
from lrtune.core.recipe import Recipe
from lrtune.search.lr_range.lr_range import central
from lrtune.training.networks.trainer import TorchTrainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.training.base import Trainer

HERE = Path(__file__).resolve().parent
RECORD = HERE / "range_test_dense.json"
STUDIES = ("digits-mlp", "digits-sgd", "python-lm", "diabetes-sgd-regressor")
CNN = "digits-cnn"
STEPS = 2000
METRIC = "valid_loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A trainer, a recipe but for its learning rate, and the results of the dense sweep.

    `lrs` ascend; `values` are the final held-out losses there, infinite where training diverged; `nothing` is what
    knowing nothing is worth.
    """

    name: str
    trainer: Trainer
    recipe: Recipe
    lrs: np.ndarray
    values: np.ndarray
    nothing: float

    @property
    def best(self) -> float:
        """The learning rate with the least loss."""
        return float(self.lrs[int(self.values.argmin())])

    @property
    def regrets(self) -> np.ndarray:
        """(value - best) / (knowing nothing - best), 1 at most."""
        least = self.values.min()
        return np.minimum((self.values - least) / (self.nothing - least), 1.0)

    def regret(self, lr: float | None) -> float:
        """The regret of training with a suggestion, linear in log lr between the points of the sweep.

        Without a suggestion, and above the sweep, that of not training; below it that of its lowest point.
        """
        return 1.0 if lr is None else float(np.interp(np.log10(lr), np.log10(self.lrs), self.regrets, right=1.0))

    def seeded(self, seed: int) -> Recipe:
        """The recipe under a seed."""
        return replace(self.recipe, seed=seed)


def task(name: str) -> Task:
    """The task of that name."""
    return _network() if name == CNN else _study(name)


def _study(name: str) -> Task:
    """A shipped study with the middle of its other settings."""
    folder = HERE.parent / name
    study = read_study(folder / "study.toml")
    recipe = central(study.space, epochs=study.settings.epochs)
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    nothing = min(float(row["value"]) for row in rows if row["outcome"] in {"untrained", "chance"})
    swept = sorted((float(row["lr"]), float(row["value"])) for row in rows if row["lr"] and _same(row, recipe))
    lrs, values = map(np.array, zip(*swept, strict=True))
    return Task(name=name, trainer=study.make_trainer(), recipe=recipe, lrs=lrs, values=values, nothing=nothing)


def _same(row: dict[str, str], recipe: Recipe) -> bool:
    batch = row["batch_size"] in {"", str(recipe.batch_size)}
    return batch and row["schedule"] == recipe.schedule and float(row["warmup"]) == recipe.warmup


def _network() -> Task:
    trainer = cnn_trainer()
    record: dict[str, Any] = json.loads(RECORD.read_text())[CNN]
    values = [[np.inf if value is None else value for value in row] for row in record["values"]]
    return Task(
        name=CNN,
        trainer=trainer,
        recipe=cnn_recipe(trainer),
        lrs=np.array(record["lr"]),
        values=np.mean(values, axis=1),
        nothing=record["untrained"],
    )


@cache
def digits() -> tuple[np.ndarray, ...]:
    """Pixels 0 to 1 and labels: training rows, held-out rows, training labels, held-out labels."""
    rows, labels = load_digits(return_X_y=True)
    return tuple(train_test_split((rows / 16).astype(np.float32), labels, stratify=labels, random_state=0))


def cnn() -> nn.Module:
    """Two convolutions with BatchNorm."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()),
        nn.Linear(256, 10),
    )


def cnn_trainer() -> TorchTrainer:
    """The network on the digits, under Adam."""
    x_train, x_valid, y_train, y_valid = map(torch.from_numpy, digits())
    return TorchTrainer(
        model=cnn, train_data=(x_train, y_train), valid_data=(x_valid, y_valid), optimizer="adam", device="cpu"
    )


def cnn_recipe(trainer: Trainer) -> Recipe:
    """About 2,000 steps at batch 32 under a constant learning rate."""
    told = Recipe(lr=1e-3, batch_size=32)
    return replace(told, epochs=round(STEPS / trainer.steps_per_epoch(told)))


def cnn_sweep(lrs: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
    """The network's dense sweep, as it is recorded."""
    trainer = cnn_trainer()
    recipe = cnn_recipe(trainer)
    untrained = trainer.baseline(recipe, METRIC).untrained
    values = [[_final(trainer, replace(recipe, lr=lr, seed=seed)) for seed in seeds] for lr in lrs]
    return {"lr": list(lrs), "values": values, "untrained": untrained}


def _final(trainer: Trainer, recipe: Recipe) -> float | None:
    """The held-out loss at the end of a full training; None where it diverged."""
    run = trainer.start([recipe])
    report = run.advance(recipe.epochs * trainer.steps_per_epoch(recipe))[-1]
    run.close()
    diverged = report.outcome is not None and report.outcome.diverged
    return None if diverged else round(report.point.values[METRIC], 6)
