"""PyTorch: a function that makes a fresh model, tensors, and what is searched besides the learning rate."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

import lrtune

pixels, labels = load_digits(return_X_y=True)
x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)

trainer = lrtune.TorchTrainer(
    model=lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    train_data=(x[:1300], y[:1300]),
    valid_data=(x[1300:], y[1300:]),
    loss="cross_entropy",
    optimizer="adamw",
    metrics=("accuracy",),
)

if __name__ == "__main__":
    space = lrtune.Space(lr=(1e-5, 1.0), batch_size=[32, 128], schedule=["constant", "cosine"], warmup=[0.0, 0.1])
    result = lrtune.tune(trainer, space, epochs=6, budget=3.0, seed=0, storage="digits.db")
    print(result.text())
    result.report("report.html")

    # The same call again goes on from here; and the study is a plain Optuna study.
    again = lrtune.tune(trainer, space, epochs=6, budget=3.0, seed=0, storage="digits.db")
    print("the same answer:", again.best_recipe == result.best_recipe)
    print(len(again.study.trials), "trials in digits.db")
