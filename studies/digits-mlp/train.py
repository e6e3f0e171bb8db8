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


def tensors() -> list[torch.Tensor]:
    """Pixels from 0 to 1 and labels: to learn from, held out, to learn from, held out."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images / 16).astype(np.float32)
    parts = train_test_split(pixels, labels, test_size=0.25, stratify=labels, random_state=0)
    return [torch.from_numpy(part) for part in parts]


def trainer(precision: str = "float32") -> lrtune.TorchTrainer:
    """On the GPU where there is one; there in half precision too: ``bf16`` or ``fp16``."""
    x_train, x_valid, y_train, y_valid = tensors()
    return lrtune.TorchTrainer(
        model=model,
        train_data=(x_train, y_train),
        valid_data=(x_valid, y_valid),
        loss="cross_entropy",
        optimizer="sgd",
        optimizer_options={"momentum": 0.9},
        metrics=["accuracy"],
        precision=precision,
    )
