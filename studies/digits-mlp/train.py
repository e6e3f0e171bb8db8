"""A multilayer perceptron of PyTorch's on scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import lrtune


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def trainer() -> lrtune.TorchTrainer:
    images, labels = load_digits(return_X_y=True)
    pixels = (images / 16).astype(np.float32)
    parts = train_test_split(pixels, labels, test_size=0.25, stratify=labels, random_state=0)
    x_train, x_valid, y_train, y_valid = map(torch.from_numpy, parts)
    return lrtune.TorchTrainer(
        model=model,
        train_data=(x_train, y_train),
        valid_data=(x_valid, y_valid),
        loss="cross_entropy",
        optimizer="sgd",
        optimizer_options={"momentum": 0.9},
        metrics=["accuracy"],
    )
