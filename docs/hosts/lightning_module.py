"""Lightning: a function that makes the module, and one that makes the data; options of its Trainer by name."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import lrtune

pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        del batch_idx
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def make_data() -> tuple[Any, Any]:
    train, held_out = TensorDataset(x[:1300], y[:1300]), TensorDataset(x[1300:], y[1300:])
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(held_out, batch_size=500)


if __name__ == "__main__":
    trainer = lrtune.LightningTrainer(Module, make_data, accelerator="cpu")
    result = lrtune.tune(trainer, {"lr": (1e-5, 1.0)}, epochs=4, budget=2.5, seed=0, storage="answer.db")
    print(result.best_recipe.lr, result.best_value)
