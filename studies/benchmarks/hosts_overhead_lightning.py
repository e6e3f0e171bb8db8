"""What LightningTrainer costs beside Lightning's own fit, at a look after each hundredth of the training.

python studies/benchmarks/hosts_overhead_lightning.py [--rounds 3]

The same module, data and steps on both sides, in seconds of CPU, which other programs on the machine do not lengthen.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from _hosts import EPOCHS, RECIPE, compare, table
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import lrtune

TRAIN, VALID = (TensorDataset(*map(torch.as_tensor, part)) for part in (table(), table(400, seed=1)))


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        del batch_idx
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=RECIPE.lr)


def data() -> tuple[Any, Any]:
    return DataLoader(TRAIN, batch_size=RECIPE.batch_size, shuffle=True), DataLoader(VALID, batch_size=512)


def fit(evaluate: bool) -> None:  # noqa: FBT001 -- a way of training
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    train, valid = data()
    trainer = Trainer(max_epochs=EPOCHS, num_sanity_val_steps=0, accelerator="cpu", devices=1, **off)
    trainer.fit(Module(), train, valid if evaluate else None)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    compare("Lightning", fit, lrtune.LightningTrainer(Module, data, accelerator="cpu"))
