"""A PyTorch trainer that breaks as it is told; ``OBJ`` and ``OBJ_LOG`` are those of objective.py.

Modes, each with the step (from 0) from which it holds: ``infgrad@n`` and ``nangrad@n`` (a gradient, while the
loss stays finite), ``oom@n`` (of CUDA's kind, whatever the batch), ``small@n`` (more than 8 samples do not fit),
``waits@n`` (until a process of the loader has been killed).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import network
import torch
from objective import count, log, told
from torch import nn
from torch.utils.data import DataLoader, Dataset

import lrtune

STATUS = Path("/proc/self/statm")
PAGE = os.sysconf("SC_PAGE_SIZE")
HELD = 64 * 2**20
"""Bytes that are held while memory runs out."""


class Breaking(nn.Module):
    """With a weight that changes nothing, whatever it is: only who looks at it sees that it is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network.model()
        self.idle = nn.Parameter(torch.zeros(()))
        self.idle.register_hook(self.spoiled)
        self.mode, self.at, self.steps = "", 0, -1

    def spoiled(self, gradient: torch.Tensor) -> torch.Tensor | None:
        if self.mode not in {"infgrad", "nangrad"} or self.steps < self.at:
            return None
        return torch.full_like(gradient, torch.inf if self.mode == "infgrad" else torch.nan)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1
            if self.steps == 0:  # models are made for other reasons, too
                self.mode, self.at = told(count("begin"))
                log("begin", os.getpid(), int(STATUS.read_text().split()[1]) * PAGE)
            if self.steps >= self.at:
                self.broken(len(x))
        return self.net(x) + torch.where(torch.ones((), dtype=torch.bool), torch.zeros(()), self.idle)

    def broken(self, samples: int) -> None:
        if self.mode == "oom" or (self.mode == "small" and samples > 8):
            held = torch.ones(HELD // 4)
            log("oom", samples, held.numel())
            msg = "CUDA out of memory. Tried to allocate 20.00 GiB"
            raise torch.cuda.OutOfMemoryError(msg)
        if self.mode == "waits" and self.steps == self.at:
            log("waits", self.steps)
            while not Path("killed").exists():
                time.sleep(0.01)


class Rows(Dataset[Any]):
    """The rows of the network's table, one at a time; each process that hands them out is written down."""

    def __init__(self) -> None:
        self.x, self.y = network.blobs(network.ROWS, 0)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[row], self.y[row]


def hello(_worker: int) -> None:
    log("loader", os.getpid())


def trainer() -> lrtune.TorchTrainer:
    """The data in memory."""
    return made(network.blobs(network.ROWS, 0))


def loading() -> lrtune.TorchTrainer:
    """The data from two processes."""
    return made(lambda: DataLoader(Rows(), batch_size=32, num_workers=2, worker_init_fn=hello))


def made(data: Any) -> lrtune.TorchTrainer:
    return lrtune.TorchTrainer(
        model=Breaking,
        train_data=data,
        valid_data=network.blobs(256, 1),
        loss="cross_entropy",
        optimizer="sgd",
        batch_size=32,
        device="cpu",
        stack=False,  # what breaks is one run
    )
