"""Optimizers that train at one point and are to be judged at another: those with ``train()`` and ``eval()``.

Schedule-free optimizers swap the weights in place, by an interpolation there and back that rounds. A curve
must not depend on how often one looked, so the weights are kept aside meanwhile and put back bit for bit.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["at_judged", "begin", "misled", "two_points"]


def two_points(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it has the two modes."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def begin(optimizer: Any) -> None:
    """Set a fresh optimizer to training, where it has the two modes."""
    if two_points(optimizer):
        optimizer.train()


@contextmanager
def at_judged(optimizer: Any) -> Iterator[None]:
    """Within this context the weights are those to be judged; afterwards they are as before, to the bit."""
    if not two_points(optimizer):
        yield
        return
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = [weight.detach().clone() for weight in weights]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)


def misled(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether running averages of the point of training are used at the other one."""
    averaging = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return two_points(optimizer) and any(module.track_running_stats for module in averaging)
