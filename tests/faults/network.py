"""A real PyTorch trainer, small and deterministic, that keeps a book of every step it takes.

With ``OBJ_HOLD``, it takes no step beyond so many: who is about to kill it is never too late.
"""

from __future__ import annotations

import os
import time

import torch
from torch import nn

import lrtune

CLASSES, FEATURES, ROWS = 4, 8, 512


def blobs(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy labels on a random linear map: no learning rate gets everything right."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, FEATURES, generator=generator)
    truth = torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(7))
    return x, (x @ truth + torch.randn(rows, CLASSES, generator=generator)).argmax(1)


def model() -> nn.Module:
    """With what has a random state, and with what has statistics of its own."""
    return nn.Sequential(
        nn.Linear(FEATURES, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, CLASSES)
    )


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy; one byte in the book for each training step, and as slow as asked for."""
    if torch.is_grad_enabled():
        descriptor = os.open(os.environ["OBJ_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, b".")
        taken = os.fstat(descriptor).st_size
        os.close(descriptor)
        while taken >= int(os.environ.get("OBJ_HOLD", "0")) > 0:
            time.sleep(0.1)
        time.sleep(float(os.environ.get("OBJ_SLEEP", "0")))
    return nn.functional.cross_entropy(output, target)


def trainer() -> lrtune.TorchTrainer:
    """The trainer of the study file."""
    return lrtune.TorchTrainer(
        model=model,
        train_data=blobs(ROWS, 0),
        valid_data=blobs(256, 1),
        loss=loss,
        optimizer="sgd",
        optimizer_options={"momentum": 0.9},
        batch_size=32,
        device="cpu",
    )
