"""The range test: an interval to search, not an answer, and it says where it is unreliable."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

import lrtune
from lrtune.reporting.figures import sweeps

pixels, labels = load_digits(return_X_y=True)
data = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
trainer = lrtune.TorchTrainer(
    model=lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    train_data=data,
    optimizer_options={"momentum": 0.9},
)

if __name__ == "__main__":
    found = lrtune.range_test(trainer, recipe=lrtune.Recipe(lr=1.0, epochs=30))
    print(found)
    if found.reliable:
        space = lrtune.Space(lr=found.interval)
        print(space)
    sweeps(found).write_html("range-test.html")
