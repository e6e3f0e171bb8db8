"""Schedule-free optimizers: evaluation at the averaged weights (``optimizer.eval()``), and back bit for bit.

They swap the weights in place, by an interpolation there and back that rounds. A curve must not
depend on how often it is evaluated, so the weights are copied before and put back bit for bit.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["at_averaged_weights", "batchnorm_of_other_weights", "has_averaged_weights", "set_train_mode"]


def has_averaged_weights(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer has ``train()`` and ``eval()``."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def set_train_mode(optimizer: Any) -> None:
    """Call the optimizer's ``train()``, where it has one."""
    if has_averaged_weights(optimizer):
        optimizer.train()


@contextmanager
def at_averaged_weights(optimizer: Any) -> Iterator[None]:
    """Within this context the weights are the averaged ones; afterwards they are as before, bit for bit."""
    if not has_averaged_weights(optimizer):
        yield
        return
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = [weight.detach().clone() for weight in weights]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for weight, value in zip(weights, trained, strict=True):
                weight.copy_(value)


def batchnorm_of_other_weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether BatchNorm's running statistics are of the trained weights and are used with the averaged ones."""
    averaging = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return has_averaged_weights(optimizer) and any(module.track_running_stats for module in averaging)
